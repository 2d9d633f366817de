"""Uniform and Bernoulli samples in float32, word for word and bit for bit as Caffe draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.fillers.stream import BLOCK, Stream
from caffestat.float32 import FLT_MAX, above, rounded
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bernoulli", "check_range", "uniform"]


def uniform(stream: Stream, n: int, low: float, high: float) -> NDArray[np.float32]:
    """`n` float32 values u / 2^32 * (h - low) + low, h the float32 after `high`; those not below h are drawn again.

    Raises InputError unless low <= high. (caffe_rng_uniform in math_functions.cpp, boost::uniform_real)
    """
    start, end = check_range(low, high)
    out = np.empty(n, np.float32)
    done = 0
    while done < n:
        part = out[done : done + BLOCK]
        part[:] = stream.words(part.size)
        part *= np.float32(2.0**-32)
        part *= rounded(end - start)
        part += start
        done += part.size if part.max() < end else _drop_rejected(part, end)
    return out


def check_range(low: float, high: float) -> tuple[float, float]:
    """Return the ends in float32, the upper one exclusive. Raises InputError for a range that holds no numbers."""
    start, last = rounded(low), rounded(high)
    if not start <= last:
        raise InputError(f"a uniform filler needs min <= max, found min {low:g} and max {high:g}")
    end = above(last)
    if not end - start <= FLT_MAX or start == end:
        raise InputError(f"a uniform filler from {low:g} to {high:g} exceeds the range of float32")
    return start, end


def _drop_rejected(part: NDArray[np.float32], end: float) -> int:
    kept = part[part < end]
    part[: kept.size] = kept
    return kept.size


def bernoulli(stream: Stream, n: int, p: float, dtype: type[np.float32 | np.float64]) -> NDArray[np.bool_]:
    """Draw `n` bools, true where dtype(u) <= p * dtype(2^32 - 1); p = 0 consumes no words.

    Caffe uses float32 for the mask of a sparse gaussian filler and float64 for Dropout. Raises InputError unless
    0 <= p <= 1. (caffe_rng_bernoulli in math_functions.cpp, boost::bernoulli_distribution)
    """
    if not 0 <= p <= 1:
        raise InputError(f"a probability lies between 0 and 1, found {p:g}")
    out = np.zeros(n, np.bool_)
    limit = dtype(p) * dtype(2**32 - 1)
    for done in range(0, n if p else 0, BLOCK):
        part = out[done : done + BLOCK]
        np.less_equal(stream.words(part.size).astype(dtype), limit, out=part)
    return out
