"""Caffe's fillers: what a blob holds before the first iteration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caffestat.errors import InputError
from caffestat.fillers.distributions import bernoulli, uniform
from caffestat.fillers.fans import fan, msra_std, xavier_spread
from caffestat.fillers.gaussian import gaussian
from caffestat.fillers.stream import Stream

__all__ = ["Filler", "Rule", "fill", "filler_types", "register"]


@dataclass(frozen=True)
class Filler:
    """A FillerParameter with Caffe's defaults; `sparse` -1 means dense. A type reads only its own fields."""

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = "FAN_IN"


Shape = tuple[int, ...]
Rule = Callable[[Stream, Filler, Shape], NDArray[np.float32]]

_RULES: dict[str, Rule] = {}


def register(type_name: str) -> Callable[[Rule], Rule]:
    """Make the decorated rule the one for fillers of this type. Raises ValueError when there is one already."""

    def enter(rule: Rule) -> Rule:
        if type_name in _RULES:
            raise ValueError(f'a filler of type "{type_name}" is registered already')
        _RULES[type_name] = rule
        return rule

    return enter


def filler_types() -> tuple[str, ...]:
    """The names of all filler types, sorted."""
    return tuple(sorted(_RULES))


def fill(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """The float32 values that Caffe's `filler` gives a blob of `shape`; () is a scalar blob, of count 1.

    Consumes from `stream` the words that Caffe would; constant and bilinear consume none.
    Raises InputError where Caffe's checks abort. (filler.hpp)
    """
    if filler.type not in _RULES:
        known = ", ".join(filler_types())
        raise InputError(f'unknown filler type "{filler.type}"; Caffe knows {known} (lower case matters)')
    if math.prod(shape) == 0:
        raise InputError(f"a filler needs a blob with elements, found shape {shape}")
    if filler.sparse != -1 and filler.type != "gaussian":
        raise InputError(f'sparse is for gaussian fillers only, found sparse {filler.sparse} in type "{filler.type}"')
    return _RULES[filler.type](stream, filler, shape).reshape(shape)


@register("constant")
def _constant(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    return np.full(shape, filler.value, np.float32)


@register("uniform")
def _uniform(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    return uniform(stream, math.prod(shape), filler.min, filler.max)


@register("gaussian")
def _gaussian(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    keep = _sparse_probability(filler.sparse, shape)
    out = gaussian(stream, math.prod(shape), filler.mean, filler.std)
    if keep is not None:
        # A product, not an assignment: a dropped negative value becomes -0 as in Caffe.
        out *= bernoulli(stream, out.size, float(keep), np.float32)
    return out


def _sparse_probability(sparse: int, shape: Shape) -> np.float32 | None:
    if sparse == -1:
        return None
    if not shape:
        raise InputError("a sparse gaussian filler needs a blob of at least one axis, found a scalar blob")
    if not 0 <= sparse <= shape[0]:
        raise InputError(f"sparse is between 0 and the number of outputs ({shape[0]}), or -1 for dense; found {sparse}")
    return np.float32(sparse) / np.float32(shape[0])


@register("positive_unitball")
def _positive_unitball(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Rows over axis 0 of uniform values, each divided by its sum."""
    if not shape:
        raise InputError("a positive_unitball filler needs a blob of at least one axis, found a scalar blob")
    rows = uniform(stream, math.prod(shape), 0.0, 1.0).reshape(shape[0], -1)
    # Caffe adds one value after the other in float32; sum() would add pairwise.
    rows /= np.cumsum(rows, axis=1, dtype=np.float32)[:, -1:]
    return rows


@register("xavier")
def _xavier(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    scale = xavier_spread(fan(shape, filler.variance_norm)).scale
    return uniform(stream, math.prod(shape), float(-scale), float(scale))


@register("msra")
def _msra(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    return gaussian(stream, math.prod(shape), 0.0, float(msra_std(fan(shape, filler.variance_norm))))


@register("bilinear")
def _bilinear(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """(1 - |x / f - c|) (1 - |y / f - c|) over the last two axes, f = ceil(width / 2), c = (width - 1) / (2 f)."""
    if len(shape) != 4 or shape[2] != shape[3]:
        raise InputError(f"a bilinear filler needs four axes and a square kernel, found shape {shape}")
    half = math.ceil(shape[3] / 2)
    centre = np.float32((shape[3] - 1) / (2 * half))
    tent = np.float32(1) - np.abs(np.arange(shape[3], dtype=np.float32) / np.float32(half) - centre)
    return np.broadcast_to(tent[:, None] * tent, shape).copy()
