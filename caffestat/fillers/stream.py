"""The one source of random words: a 32-bit Mersenne Twister, read in order."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from caffestat.fillers.c_random import CRandom
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLOCK", "Stream"]

BLOCK = 1 << 16  # words made at a time: a block and its float32 temporaries stay in a core's L2 cache


class Stream:
    """Words of mt19937 seeded with `seed` modulo 2^32, which is what Caffe's conversion to unsigned does.

    The words equal those of `numpy.random.RandomState(seed)` and of C++'s `std::mt19937(seed)`. Caffe takes a
    `random_seed` of -1 to mean "seed from the system"; that choice is the caller's. (common.cpp)
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.RandomState(seed & 0xFFFFFFFF)
        self._buffer = np.empty(0, np.uint32)
        self._next = 0

    @cached_property
    def c_random(self) -> CRandom:
        """The C library's generator of the same run, which no seed of Caffe's reaches."""
        return CRandom()

    def peek(self, n: int) -> NDArray[np.uint32]:
        """Return the next `n` words, read-only and not consumed."""
        missing = self._next + n - self._buffer.size
        if missing > 0:
            self._refill(missing)
        return self._buffer[self._next : self._next + n]

    def advance(self, n: int) -> None:
        """Consume `n` words that were peeked at."""
        self._next += n

    def words(self, n: int) -> NDArray[np.uint32]:
        """Consume the next `n` words; the array is read-only."""
        words = self.peek(n)
        self.advance(n)
        return words

    def word(self) -> int:
        """Consume one word."""
        return int(self.words(1)[0])

    def _refill(self, missing: int) -> None:
        # Full-range uint32 randint hands out the generator's words one for one: nothing is dropped or cached.
        fresh = self._generator.randint(0, 1 << 32, size=max(missing, BLOCK), dtype=np.uint32)
        self._buffer = np.concatenate([self._buffer[self._next :], fresh])
        self._buffer.flags.writeable = False
        self._next = 0
