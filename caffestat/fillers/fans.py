"""Fan-in and fan-out as Caffe's fillers see them, and the spread that xavier and msra derive from them."""

from __future__ import annotations

import math
from typing import NamedTuple

from caffestat.errors import InputError
from caffestat.float32 import rounded

__all__ = ["VARIANCE_NORMS", "Spread", "caffe_fans", "fan", "msra_std", "of_norm", "xavier_spread"]

VARIANCE_NORMS = ("FAN_IN", "FAN_OUT", "AVERAGE")


class Spread(NamedTuple):
    """A uniform distribution on [-scale, scale], and its standard deviation scale / sqrt(3)."""

    scale: float
    std: float


def caffe_fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (count / shape[0], count / shape[1]); fan_out is the count itself when there is one axis.

    Right for a convolution without groups, not for every layer: InnerProduct with `transpose`, Deconvolution and Embed
    keep their weights in another order. Raises InputError when there is no axis. (filler.hpp)
    """
    if not shape:
        raise InputError("fan-in and fan-out need a blob of at least one axis, found a scalar blob")
    count = math.prod(shape)
    return count // shape[0], count // shape[1] if len(shape) > 1 else count


def of_norm(fans: tuple[float, float], variance_norm: str) -> float:
    """Return the n that a variance norm takes of fan-in and fan-out: either, or their mean.

    Raises InputError for an unknown `variance_norm`.
    """
    found = dict(zip(VARIANCE_NORMS, (*fans, sum(fans) / 2), strict=True))
    if variance_norm not in found:
        raise InputError(f'unknown variance_norm "{variance_norm}"; expected one of {", ".join(VARIANCE_NORMS)}')
    return found[variance_norm]


def fan(shape: tuple[int, ...], variance_norm: str) -> float:
    """Return the n that xavier and msra divide by, in float32; see `of_norm`. (filler.hpp)"""
    return rounded(of_norm(caffe_fans(shape), variance_norm))


def xavier_spread(n: float) -> Spread:
    """Return the uniform one on ±sqrt(3 / n), in float32. (XavierFiller in filler.hpp; Glorot and Bengio 2010)"""
    scale = _root_of_share(3, n)
    return Spread(scale, scale / math.sqrt(3))


def msra_std(n: float) -> float:
    """Return sqrt(2 / n), in float32. (MSRAFiller in filler.hpp; He et al. 2015, eq. 10)"""
    return _root_of_share(2, n)


def _root_of_share(share: int, n: float) -> float:
    """Return sqrt(share / n), infinite for n = 0."""
    return rounded(math.sqrt(rounded(share / n))) if n else math.inf
