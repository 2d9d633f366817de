"""Caffe's seven fillers. (filler.hpp)"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.fillers.densities import Constant, Density, Normal, Sample, Uniform
from caffestat.fillers.distributions import bernoulli, check_range, uniform
from caffestat.fillers.fans import fan, msra_std, xavier_spread
from caffestat.fillers.fillers import Filler, FillerType, register
from caffestat.fillers.gaussian import check_std, gaussian
from caffestat.fillers.stream import Stream
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

__all__ = ["stated"]

Shape = tuple[int, ...]

# ---- constant ----


def _draw_constant(stream: Stream, filler: Filler, shape: Shape) -> Values:
    return np.full(shape, filler.value, np.float32)


register(
    FillerType(
        "constant",
        _draw_constant,
        lambda filler, shape: Constant(filler.value),
        reads=("value",),
        required=("value",),
        is_random=False,
    )
)

# ---- uniform ----


def _draw_uniform(stream: Stream, filler: Filler, shape: Shape) -> Values:
    return uniform(stream, math.prod(shape), filler.min, filler.max)


def _uniform_density(filler: Filler, shape: Shape) -> Density:
    check_range(filler.min, filler.max)
    return Uniform(filler.min, filler.max)


def _uniform_of_std(std: float) -> Uniform:
    return Uniform(-math.sqrt(3) * std, math.sqrt(3) * std)


register(
    FillerType(
        "uniform",
        _draw_uniform,
        _uniform_density,
        reads=("min", "max"),
        required=("min", "max"),
        of_std=_uniform_of_std,
    )
)

# ---- gaussian ----


def _draw_gaussian(stream: Stream, filler: Filler, shape: Shape) -> Values:
    keep = _sparse_probability(filler.sparse, shape)
    out = gaussian(stream, math.prod(shape), filler.mean, filler.std)
    if keep is not None:
        # A product, not an assignment: a dropped negative value becomes -0 as in Caffe.
        out *= bernoulli(stream, out.size, float(keep), np.float32)
    return out


def _gaussian_density(filler: Filler, shape: Shape) -> Density:
    check_std(filler.std)
    keep = _sparse_probability(filler.sparse, shape)
    return Normal(filler.mean, filler.std) if keep is None else Normal(filler.mean, filler.std, float(keep))


def _sparse_probability(sparse: int, shape: Shape) -> np.float32 | None:
    if sparse == -1:
        return None
    if not shape:
        raise InputError("a sparse gaussian filler needs a blob of at least one axis, found a scalar blob")
    if not 0 <= sparse <= shape[0]:
        raise InputError(f"sparse is between 0 and the number of outputs ({shape[0]}), or -1 for dense; found {sparse}")
    return np.float32(sparse) / np.float32(shape[0])


register(
    FillerType(
        "gaussian",
        _draw_gaussian,
        _gaussian_density,
        reads=("mean", "std", "sparse"),
        required=("std",),
        of_std=lambda std: Normal(0.0, std),
    )
)

# ---- positive_unitball ----


def _draw_unitball(stream: Stream, filler: Filler, shape: Shape) -> Values:
    """Draw rows over axis 0 of uniform values, each divided by its sum."""
    _check_rows(shape)
    rows = uniform(stream, math.prod(shape), 0.0, 1.0).reshape(shape[0], -1)
    # Caffe adds one value after the other in float32; sum() would add pairwise.
    rows /= np.cumsum(rows, axis=1, dtype=np.float32)[:, -1:]
    return rows


def _unitball_density(filler: Filler, shape: Shape) -> Density:
    """The sum of a long row hardly varies: about size / 2."""
    _check_rows(shape)
    size = math.prod(shape[1:])
    return Uniform(0.0, 2 / size, is_exact=False) if size > 1 else Constant(1.0)


def _check_rows(shape: Shape) -> None:
    if not shape:
        raise InputError("a positive_unitball filler needs a blob of at least one axis, found a scalar blob")


register(FillerType("positive_unitball", _draw_unitball, _unitball_density))

# ---- xavier, msra ----


def _xavier_by_fan(n: float) -> Uniform:
    scale = xavier_spread(n).scale
    return Uniform(-scale, scale)


def _xavier_density(filler: Filler, shape: Shape) -> Uniform:
    return _xavier_by_fan(fan(shape, filler.variance_norm))


def _draw_xavier(stream: Stream, filler: Filler, shape: Shape) -> Values:
    found = _xavier_density(filler, shape)
    return uniform(stream, math.prod(shape), found.low, found.high)


def _msra_by_fan(n: float) -> Normal:
    return Normal(0.0, msra_std(n))


def _msra_density(filler: Filler, shape: Shape) -> Normal:
    """With the slope `alpha` of a fork the variance is 2 / (n (1 + alpha²)). (happynear/caffe-windows, filler.hpp)"""
    n = fan(shape, filler.variance_norm)
    if not filler.own:
        return _msra_by_fan(n)
    alpha = np.float32(filler.own[-1])
    return Normal(0.0, float(np.sqrt(np.float32(2) / n / (1 + alpha * alpha))))


def _draw_msra(stream: Stream, filler: Filler, shape: Shape) -> Values:
    return gaussian(stream, math.prod(shape), 0.0, _msra_density(filler, shape).std)


register(FillerType("xavier", _draw_xavier, _xavier_density, reads=("variance_norm",), by_fan=_xavier_by_fan))
register(
    FillerType("msra", _draw_msra, _msra_density, reads=("variance_norm",), by_fan=_msra_by_fan, own_field="alpha")
)

# ---- bilinear ----


def _draw_bilinear(stream: Stream, filler: Filler, shape: Shape) -> Values:
    """(1 - |x / f - c|) (1 - |y / f - c|) over the last two axes, f = ceil(width / 2), c = (width - 1) / (2 f)."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(f"a bilinear filler needs four axes and a square kernel, found shape {shape}")
    half = math.ceil(shape[3] / 2)
    centre = np.float32((shape[3] - 1) / (2 * half))
    tent = np.float32(1) - np.abs(np.arange(shape[3], dtype=np.float32) / np.float32(half) - centre)
    return np.broadcast_to(tent[:, None] * tent, shape).copy()


def _bilinear_density(filler: Filler, shape: Shape) -> Density:
    plane = tuple(min(size, 1) for size in shape[:2]) + shape[2:]  # all planes are alike
    return Sample(_draw_bilinear(Stream(0), filler, plane).ravel())


register(FillerType("bilinear", _draw_bilinear, _bilinear_density, is_random=False, upsamples=True))


def stated(density: Density) -> tuple[str, dict[str, float]]:
    """Return the type and the fields of a Caffe filler that draws from a density. Raises InputError where none does."""
    if isinstance(density, Normal) and density.kept == 1:
        return "gaussian", {"mean": density.center, "std": density.std} if density.center else {"std": density.std}
    if isinstance(density, Uniform):
        return "uniform", {"min": density.low, "max": density.high}
    if isinstance(density, Constant):
        return "constant", {"value": density.mean}
    raise InputError(f"no filler of Caffe draws from {density}: expected a constant, uniform or normal one")
