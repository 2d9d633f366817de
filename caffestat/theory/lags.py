"""Pairs of places by how far they lie apart.

A lag map holds what is known of two places of one channel by their lag (i, j, …), each below `NEAR` or the size of its
axis; at lag 0 it holds the place itself. One number, `far`, is for pairs further apart. Neighbours are more correlated
than others behind overlapping pooling windows, and behind padding, where border and middle see different taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, reduce

import numpy as np
from numpy.typing import NDArray

from caffestat.ops import Window

from .quadrature import Array

__all__ = [
    "NEAR",
    "Axis",
    "Sharing",
    "along_axes",
    "at_lags",
    "lag_map",
    "mixed",
    "mixed_apart",
    "mixed_maps",
    "near_lags",
    "pair_weights",
]

NEAR = 8

_LONG = 8  # times what is not 0 in a row: as long as that a row is not multiplied whole

Lags = NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """A window that slides along one axis: each of `places` reads up to `kernel` of `size` elements."""

    size: int
    places: int
    kernel: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    @classmethod
    def of(cls, window: Window) -> tuple[Axis, ...]:
        """Return the axes of a window."""
        fields = (window.size, window.out, window.kernel, window.strides, window.begins, window.dilations)
        return tuple(_axis(*axis) for axis in zip(*fields, strict=True))

    @cached_property
    def elements(self) -> Lags:
        """Which element each tap of each place reads: [places, kernel], outside of the image too."""
        found = np.arange(self.places)[:, None] * self.stride - self.pad + np.arange(self.kernel) * self.dilation
        found.flags.writeable = False
        return found

    @cached_property
    def inside(self) -> Array:
        """Which taps of each place lie inside the image: [places, kernel], 0 or 1."""
        found = ((self.elements >= 0) & (self.elements < self.size)).astype(np.float64)
        found.flags.writeable = False
        return found

    @property
    def reads(self) -> Array:
        """Which elements each place reads: [places, size], 0 or 1."""
        places, taps = np.nonzero(self.inside)
        found = np.zeros((self.places, self.size))
        found[places, self.elements[places, taps]] = 1.0
        return found

    @property
    def readers(self) -> Array:
        """Which taps read each element: [size, kernel], 0 or 1."""
        places, taps = np.nonzero(self.inside)
        found = np.zeros((self.size, self.kernel))
        found[self.elements[places, taps], taps] = 1.0
        return found


_axis = lru_cache(maxsize=512)(Axis)  # layers of one geometry share their tables


def along_axes(matrices: Sequence[Array], values: Array) -> Array:
    """Apply one matrix per axis."""
    return reduce(lambda x, axis: _along(matrices[axis], x, axis), range(len(matrices)), values)


def _along(matrix: Array, values: Array, axis: int) -> Array:
    """Apply a matrix along an axis; of long rows only what is not 0 is read."""
    columns, held = _band(matrix)
    if columns.shape[1] * _LONG > matrix.shape[1]:
        return np.moveaxis(np.tensordot(matrix, values, (1, axis)), 0, axis)
    x, found = np.moveaxis(values, axis, -1), np.zeros(())
    for tap in range(columns.shape[1]):
        found = found + x[..., columns[:, tap]] * held[:, tap]
    return np.moveaxis(found, -1, axis)


def _band(matrix: Array) -> tuple[Lags, Array]:
    """Return the columns from the first to the last number of each row that is not 0, and what is there: [rows, band].

    Rows whose numbers lie closer together end in zeros.
    """
    used = matrix != 0
    first = used.argmax(axis=1)
    lengths = np.where(used.any(axis=1), matrix.shape[1] - used[:, ::-1].argmax(axis=1) - first, 0)
    steps = np.arange(max(int(lengths.max(initial=0)), 1))
    columns = np.minimum(first[:, None] + steps, matrix.shape[1] - 1)
    return columns, np.where(steps < lengths[:, None], np.take_along_axis(matrix, columns, 1), 0.0)


def near_lags(places: Sequence[int]) -> list[Lags]:
    """Return per axis the lags that a map of these places holds."""
    return [np.arange(min(size, NEAR)) for size in places]


def lag_map(places: Sequence[int], near: Array | None, far: float, own: float) -> Array:
    """Return the map of these places: the given one where it fits, else `far` everywhere; `own` at lag 0."""
    shape = tuple(map(len, near_lags(places)))
    found = np.array(near) if near is not None and near.shape == shape else np.full(shape, far)
    found[(0,) * len(shape)] = own
    return found


def at_lags(near: Array, far: float, lags: Sequence[Lags]) -> Array:
    """Return the map at other lags, `far` where it does not reach."""
    padded = np.pad(near, (0, 1), constant_values=far)
    return padded[np.ix_(*(np.minimum(lag, size) for lag, size in zip(lags, near.shape, strict=True)))]


def pair_weights(places: Sequence[int]) -> Array:
    """Return how many other places lie at each lag of a map, on average over the places; 0 at lag 0."""
    axes = [
        np.where(lag > 0, 2.0, 1.0) * (size - lag) / size for lag, size in zip(near_lags(places), places, strict=True)
    ]
    weights = _outer(axes)
    weights[(0,) * len(axes)] = 0.0
    return weights


def mixed(matrices: Sequence[Array], near: Array, far: float) -> Array:
    """Return the map of y = M x, one matrix per axis, from that of x: Σ M M' E[x x'] over two windows."""
    return mixed_maps(matrices, [(near, far)])[0]


def mixed_maps(matrices: Sequence[Array], maps: Sequence[tuple[Array, float]]) -> list[Array]:
    """Return the same of several maps, each with what it is beyond its lags."""
    lags, weights = [np.arange(m.shape[1]) for m in matrices], [_autocorrelation(m) for m in matrices]
    return [along_axes(weights, at_lags(near, far, lags)) for near, far in maps]


def mixed_apart(matrices: Sequence[Array], near: Array, far: float) -> Array:
    """Return the same for 0 and 1 in M, without the pairs of elements that both windows hold both."""
    whole = at_lags(near, far, [np.arange(m.shape[1]) for m in matrices])
    return mixed(matrices, near, far) - along_axes([_autocorrelation(m, common=True) for m in matrices], whole)


def _autocorrelation(matrix: Array, common: bool = False) -> Array:
    """Return Σ M[p, a] M[p + lag, b] by lag of the places and |a - b|, a mean over the places p: [lags, size].

    With `common`, over the elements a and b that both windows hold.
    """
    places, size = matrix.shape
    columns, held = _band(matrix)
    found = []
    for lag in near_lags([places])[0]:
        one, other = (columns[: places - lag], held[: places - lag]), (columns[lag:], held[lag:])
        if common:
            one = other = _band(matrix[: places - lag] * matrix[lag:])
        found.append(_products_by_distance(one, other, size) / (places - lag))
    return np.stack(found)


def _products_by_distance(one: tuple[Lags, Array], other: tuple[Lags, Array], size: int) -> Array:
    """Return Σ one[i, a] · other[i, b] by |a - b|, from the bands of both."""
    found = np.zeros(size)
    for columns, held in zip(other[0].T, other[1].T, strict=True):
        distances = np.abs(one[0] - columns[:, None])
        found += np.bincount(distances.ravel(), (one[1] * held[:, None]).ravel(), size)
    return found


@dataclass(frozen=True)
class Sharing:
    """How two places of a sum over random weights share these: through the taps that both have.

    anywhere  the share of common taps, over all pairs of places
    near      the same by lag
    lags      per axis, how far apart the terms behind two places lie, by the lag of the places
    places    of the terms
    axes      how windows slide over the terms; () where it is not known
    """

    anywhere: float
    near: Array
    lags: Sequence[Lags]
    places: Sequence[int]
    axes: Sequence[Axis] = ()

    @classmethod
    def forward(cls, axes: Sequence[Axis]) -> Sharing:
        """Of windows that slide over x."""
        return cls._forward(tuple(axes))

    @classmethod
    def backward(cls, axes: Sequence[Axis]) -> Sharing:
        """Of the elements that such windows read: those of another phase of the stride share nothing."""
        return cls._backward(tuple(axes))

    @classmethod
    @lru_cache(maxsize=128)
    def _forward(cls, axes: tuple[Axis, ...]) -> Sharing:
        lags = [lag * axis.stride for lag, axis in zip(near_lags([a.places for a in axes]), axes, strict=True)]
        return replace(cls._of([axis.inside for axis in axes], lags, [axis.size for axis in axes]), axes=axes)

    @classmethod
    @lru_cache(maxsize=128)
    def _backward(cls, axes: tuple[Axis, ...]) -> Sharing:
        lags = [lag // axis.stride for lag, axis in zip(near_lags([a.size for a in axes]), axes, strict=True)]
        taps = [axis.readers for axis in axes]
        places = math.prod(len(t) for t in taps)
        mean = math.prod(float(t.sum(axis=1).mean()) for t in taps)
        # places that no window reads, between the steps of a stride, count as well
        anywhere = _different_pairs(taps) / (places * (places - 1) * mean) if places > 1 and mean > 0 else 1.0
        return replace(cls._of(taps, lags, [axis.places for axis in axes]), anywhere=anywhere)

    @classmethod
    def _of(cls, taps: Sequence[Array], lags: Sequence[Lags], places: Sequence[int]) -> Sharing:
        even = [np.sqrt(t.sum(axis=1, keepdims=True)) for t in taps]
        pairs, evens = _different_pairs(taps), _different_pairs(even)
        near = [
            _by_lag(t, len(lag)) / np.maximum(_by_lag(e, len(lag)), 1e-300)
            for t, e, lag in zip(taps, even, lags, strict=True)
        ]
        return cls(pairs / evens if evens > 0 else 1.0, _outer(near), lags, places)

    def of(self, near: Array, far: float) -> Array:
        """Return what the sums have in common by lag, given it for their terms."""
        return self.near * at_lags(near, far, self.lags)


def _different_pairs(axes: Sequence[Array]) -> float:
    """Return the sum over pairs of different places of the products over the axes of what their rows share."""
    every = math.prod(float((rows.sum(axis=0) ** 2).sum()) for rows in axes)
    return every - math.prod(float((rows**2).sum()) for rows in axes)


def _by_lag(rows: Array, lags: int) -> Array:
    """Return the sum of the products of rows so far apart."""
    return np.array([(rows[: len(rows) - lag] * rows[lag:]).sum() for lag in range(lags)])


def _outer(axes: Sequence[Array]) -> Array:
    return np.asarray(reduce(np.multiply.outer, axes, np.array(1.0)))
