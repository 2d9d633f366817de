"""Batches that are read ahead: the same in the same order, errors in their place, and an end."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from caffestat.data import Prefetch


class Counting:
    """Batches that count up; the one of number `fails` cannot be read."""

    shapes = ((2,),)
    batch = 2
    varies = False

    def __init__(self, fails: int = -1) -> None:
        self.layer: Any = SimpleNamespace(name="data")
        self.read = 0
        self._fails = fails

    def next(self) -> list[np.ndarray]:
        self.read += 1
        if self.read - 1 == self._fails:
            raise ValueError("damaged")
        return [np.full(2, self.read - 1)]


def test_the_same_batches_in_the_same_order() -> None:
    reader = Counting()
    ahead = Prefetch(reader)  # type: ignore[arg-type]
    assert [int(ahead.next()[0][0]) for _ in range(20)] == list(range(20))
    assert (ahead.shapes, ahead.batch, ahead.layer) == (reader.shapes, 2, reader.layer)
    assert ahead.waited >= 0
    ahead.close()
    assert 20 < reader.read <= 25  # as many as fit, one in the thread's hand


def test_no_more_than_a_few_are_read_and_the_thread_ends() -> None:
    reader = Counting()
    before = threading.active_count()
    ahead = Prefetch(reader)  # type: ignore[arg-type]
    time.sleep(0.3)
    assert reader.read == 4
    ahead.close()
    assert threading.active_count() == before


def test_an_error_comes_when_its_batch_is_due() -> None:
    ahead = Prefetch(Counting(fails=2))  # type: ignore[arg-type]
    assert [int(ahead.next()[0][0]) for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="damaged"):
        ahead.next()
    ahead.close()
