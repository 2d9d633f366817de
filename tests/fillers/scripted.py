"""Streams whose words are written by a test, to meet cases that are rare in a real one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from caffestat.fillers import Stream


class Script:
    """Hands out given words in the way numpy's generator is asked for them, then zeros."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = words

    def randint(self, low: int, high: int, size: int, dtype: type) -> NDArray[np.uint32]:
        given, self._words = self._words[:size], self._words[size:]
        return np.concatenate([given, np.zeros(size - given.size, np.uint32)])


def scripted_stream(words: NDArray[np.uint32]) -> Stream:
    stream = Stream(0)
    stream._generator = Script(words)  # type: ignore[assignment]
    return stream


def reader(words: NDArray[np.uint32]) -> Callable[[], int]:
    """A function that returns the next word at each call."""
    return iter(words.tolist()).__next__


def bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The bit patterns, so that comparisons tell -0 from 0."""
    assert values.dtype == np.float32
    return values.view(np.uint32)
