"""Pairs of places along one axis, at its borders and away from them.

A lag map holds means over all pairs at a lag. Where padding cuts windows, neighbours have fewer taps in common: they
differ by far more than others do, and a mean over both hides it. A table [places, lags] says for one axis how a place
is correlated with the one so much further on, in the middle of the other axes. Entries beyond the end are not used.

Places that differ along several axes are taken to differ by the sum of what each axis adds, times what the lag map says
of that sum: 1 - ρ(p, l) = α(l) Σ (1 - ρₐ(pₐ, lₐ)). That is exact away from borders, because α is computed there.

Range: second moments after the pools of VGG-16 come out within 2.5 % of measured ones (docs/theory.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .lags import Axis, near_lags
from .quadrature import Array

__all__ = [
    "Pairs",
    "correlations_of",
    "differences_along",
    "later",
    "middle",
    "steady",
    "sum_over_common_taps",
    "window_covariances",
]

Index = NDArray[np.int64]

_DIGITS = 4  # of differences: windows that agree so far are one kind


def steady(near: Array, places: Sequence[int]) -> tuple[Array, ...]:
    """Return one table per axis where a lag means the same everywhere: what a lag map says."""
    lines = [near[tuple(slice(None) if a == axis else 0 for a in range(near.ndim))] for axis in range(near.ndim)]
    return tuple(np.broadcast_to(line, (size, line.size)) for line, size in zip(lines, places, strict=True))


def middle(values: Array, axis: int) -> Array:
    """Return the values along an axis, in the middle of the others."""
    return values[tuple(slice(None) if a == axis else size // 2 for a, size in enumerate(values.shape))]


def later(line: Array, lags: int) -> Array:
    """Return a line's values so many places further on: [places, lags], the last one beyond the end."""
    return line[np.minimum(np.add.outer(np.arange(line.size), np.arange(lags)), line.size - 1)]


def correlations_of(products: Array) -> Array:
    """Return a table of correlations, given E[x x'] of the pairs, E[x²] at lag 0."""
    own = products[:, 0]
    return products / np.sqrt(np.maximum(own[:, None] * later(own, products.shape[1]), 1e-300))


def sum_over_common_taps(axis: Axis, products: Array, far: Array) -> Array:
    """Return Σ E[x x'] over the taps that two places have in common: [places, lags].

    products  E[x x'] by place and lag
    far       √ of it at each place for pairs further apart
    """
    elements, inside = np.clip(axis.elements, 0, axis.size - 1), axis.inside
    result = []
    for lag in near_lags([axis.places])[0]:
        other, apart = np.minimum(np.arange(axis.places) + lag, axis.places - 1), int(lag * axis.stride)
        pairs = products[elements, apart] if apart < products.shape[1] else far[elements] * far[elements[other]]
        result.append((pairs * inside * inside[other]).sum(axis=1))
    return np.stack(result, axis=1)


@dataclass(frozen=True)
class Pairs:
    """How much pairs of a value's elements differ, 1 - ρ, wherever they lie.

    tables  one per axis
    near    the lag map
    far     the correlation beyond its lags
    """

    tables: Sequence[Array]
    near: Array
    far: float

    def along(self, axis: int, one: Index, other: Index) -> Array:
        """Return 1 - ρ of elements along an axis, in the middle of the others."""
        table, apart = self.tables[axis], np.abs(one - other)
        found = table[np.minimum(one, other), np.minimum(apart, table.shape[1] - 1)]
        return np.where(apart == 0, 0.0, 1 - np.where(apart < table.shape[1], found, self.far))

    def together(self, lags: Sequence[Index]) -> Array:
        """Return the α by which the sum of the differences along the axes is multiplied, at lags that broadcast."""
        given = np.broadcast_arrays(*lags)
        nothing = np.zeros_like(given[0]) if given else np.zeros((), np.int64)
        alone = sum(
            (self._on_average([lag if b == a else nothing for b in range(len(given))]) for a, lag in enumerate(given)),
            np.zeros(nothing.shape),
        )
        return np.where(alone > 0, self._on_average(given) / np.maximum(alone, 1e-300), 1.0)

    def _on_average(self, lags: Sequence[Index]) -> Array:
        return self._apart[tuple(np.minimum(lag, size) for lag, size in zip(lags, self.near.shape, strict=True))]

    @cached_property
    def _apart(self) -> Array:
        """1 - ρ by lag, behind the last one that of all pairs further apart."""
        return 1 - np.pad(self.near, (0, 1), constant_values=self.far)


def _held(axis: Axis) -> tuple[Index, NDArray[np.bool_]]:
    """Return which element each tap of each window reads, and whether there is one: [windows, taps]."""
    return np.clip(axis.elements, 0, axis.size - 1).astype(np.int64), axis.inside > 0


def window_covariances(
    axes: Sequence[Axis], pairs: Pairs, profile: Array
) -> tuple[Array, NDArray[np.bool_], NDArray[np.intp]]:
    """Return what is held by the kinds of windows, and of which kind each window is.

    The covariances [kinds, taps, taps] of the elements' u, √ of their second moments multiplied in, which taps are
    inside of the image [kinds, taps], and the number of the kind of each window [windows…].
    """
    lines = [_kinds(axis, pairs, profile, number) for number, axis in enumerate(axes)]
    taps = np.array(list(product(*(range(axis.kernel) for axis in axes)))).T
    lags = [np.abs(np.subtract.outer(tap, tap)) * axis.dilation for tap, axis in zip(taps, axes, strict=True)]
    together, counts = pairs.together(lags), [len(line.apart) for line in lines]
    covariances, inside = [], []
    for chosen in np.ndindex(*counts):
        parts = list(zip(lines, chosen, taps, strict=True))
        apart = together * sum(line.apart[kind][np.ix_(tap, tap)] for line, kind, tap in parts)
        strengths = math.prod(line.strengths[kind][tap] for line, kind, tap in parts)
        covariances.append((1 - np.clip(apart, 0.0, 1.0)) * np.outer(strengths, strengths))
        inside.append(np.logical_and.reduce([line.inside[kind][tap] for line, kind, tap in parts]))
    kinds = np.arange(math.prod(counts)).reshape(counts)
    return np.array(covariances), np.array(inside), kinds[np.ix_(*(line.which for line in lines))]


@dataclass(frozen=True)
class _Kinds:
    """The kinds of windows along an axis: 1 - ρ of their taps, √ of their second moments, which are inside."""

    apart: Array
    strengths: Array
    inside: NDArray[np.bool_]
    which: NDArray[np.intp]


def _kinds(axis: Axis, pairs: Pairs, profile: Array, number: int) -> _Kinds:
    elements, inside = _held(axis)
    apart = pairs.along(number, elements[:, :, None], elements[:, None, :])
    strengths = np.sqrt(middle(profile, number)[elements])
    strengths /= np.maximum(strengths.max(axis=1, keepdims=True), 1e-300)
    seen = np.hstack(
        [np.round(apart.reshape(len(apart), -1), _DIGITS), np.round(strengths, _DIGITS // 2), 1.0 * inside]
    )
    _, first, which = np.unique(seen, axis=0, return_index=True, return_inverse=True)
    return _Kinds(apart[first], strengths[first], inside[first], which.ravel())


def differences_along(axes: Sequence[Axis], pairs: Pairs, number: int) -> Array:
    """Return the mean of 1 - ρ over pairs of different elements in two windows along an axis: [windows, lags]."""
    axis, rest = axes[number], [n for n in range(len(axes)) if n != number]
    others = [_in_the_middle(axes[n], pairs, n) for n in rest]
    elements, inside = _held(axis)
    found = []
    for lag in near_lags([axis.places])[0]:
        other = np.minimum(np.arange(axis.places) + lag, axis.places - 1)
        one, two = elements[:, :, None], elements[other][:, None, :]
        held = (inside[:, :, None] & inside[other][:, None, :]).astype(np.float64)
        here, apart, total, count = pairs.along(number, one, two), np.abs(one - two), 0.0, 0.0
        for chosen in product(*others):
            lags = dict(zip(rest, (np.array(pair.lag) for pair in chosen), strict=True)) | {number: apart}
            weight = held * math.prod(pair.count for pair in chosen)
            differences = pairs.together([lags[n] for n in range(len(axes))]) * (here + sum(p.apart for p in chosen))
            total = total + (weight * differences).sum(axis=(1, 2))
            count = count + (weight * ((apart > 0) | any(pair.lag for pair in chosen))).sum(axis=(1, 2))
        found.append(total / np.maximum(count, 1e-300))
    return np.stack(found, axis=1)


@dataclass(frozen=True)
class _Lagged:
    """Pairs of elements in a window at one lag along an axis: how many there are, and their 1 - ρ."""

    lag: int
    count: int
    apart: float


def _in_the_middle(axis: Axis, pairs: Pairs, number: int) -> list[_Lagged]:
    elements, inside = _held(axis)
    held = elements[axis.places // 2][inside[axis.places // 2]]
    one, two = np.meshgrid(held, held)
    lags, apart = np.abs(one - two), pairs.along(number, one, two)
    return [_Lagged(int(lag), int((lags == lag).sum()), float(apart[lags == lag].mean())) for lag in np.unique(lags)]
