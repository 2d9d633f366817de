"""The C library's rand() with its default seed, and C++'s shuffling by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TypeVar

__all__ = ["CRandom"]

T = TypeVar("T")
_WARM_UP = 310  # numbers that glibc draws and drops after seeding


class CRandom:
    """The rand() of glibc from seed 1, where a program that calls no srand begins.

    r(i) = r(i - 31) + r(i - 3) mod 2^32, halved. Other C libraries have other sequences.
    Source: glibc stdlib/random_r.c, TYPE_3.
    """

    def __init__(self) -> None:
        state = [1]
        while len(state) < 31:
            state.append(state[-1] * 16807 % 0x7FFFFFFF)
        self._last = deque(state[3:] + state[:3], maxlen=31)
        for _ in range(_WARM_UP):
            self._step()

    def _step(self) -> int:
        self._last.append((self._last[0] + self._last[-3]) & 0xFFFFFFFF)
        return self._last[-1]

    def rand(self) -> int:
        """Return the next number, 0 to 2^31 - 1."""
        return self._step() >> 1

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items as libstdc++'s std::random_shuffle leaves them: each swapped with one at or before it."""
        result = list(items)
        for index in range(1, len(result)):
            other = self.rand() % (index + 1)
            result[index], result[other] = result[other], result[index]
        return result
