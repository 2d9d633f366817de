"""A permutohedral lattice: sums over all pairs of points, weighted by a Gaussian of the distance of their features.

(Adams et al., Fast High-Dimensional Filtering Using the Permutohedral Lattice, 2010; torrvision/caffe-tvg,
src/caffe/util/modified_permutohedral.cpp)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.lazy import np

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["Filter", "Lattice"]

TINY = np.float32(1e-20)


@dataclass(frozen=True)
class Lattice:
    """R points of d features in the lattice, whose vertices are numbered from 1; 0 stands for none.

    places: the d + 1 vertices around each point [d + 1, R]
    shares: its barycentric coordinates [d + 1, R]
    next:   of each vertex the one before and the one behind it along each axis [d + 1, 2, vertices + 1]
    norm:   1 / the filter's answer to ones [R, 1]
    """

    places: np.ndarray
    shares: np.ndarray
    next: np.ndarray
    norm: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Lattice:
        """Return the lattice of features [R, d]. Raises InputError where they spread too wide, or are inf or NaN.

        There is room for as many vertices as a power of two less one: lattices of near size are one graph.
        """
        if not np.isfinite(features).all():
            raise InputError("features of the filter are inf or NaN")
        nearest, rank, shares = _simplex(features.astype(np.float32))
        d = features.shape[1]
        canonical = [[r if i <= d - r else r - (d + 1) for i in range(d + 1)] for r in range(d + 1)]
        keys = nearest[None, :, :d] + np.array(canonical)[:, rank[:, :d]]
        places, neighbours = _numbered(keys.reshape(-1, d))
        count = neighbours.shape[2]
        steps = np.zeros((d + 1, 2, 1 << count.bit_length()), np.int64)
        steps[:, :, 1 : count + 1] = neighbours
        lattice = cls(places.reshape(d + 1, -1), shares, steps, np.ones((len(features), 1), np.float32))
        sums = lattice.filtered(lattice.norm)
        return cls(lattice.places, shares, steps, np.float32(1) / (sums + TINY))

    def filtered(self, values: np.ndarray) -> np.ndarray:
        """Return what the filter, not normalized, makes of values [R, C]."""
        sums = np.zeros((self.next.shape[2], values.shape[1]), np.float32)
        for places, shares in zip(self.places, self.shares, strict=True):
            np.add.at(sums, places, shares[:, None] * values)
        for before, behind in self.next:
            sums = sums + np.float32(0.5) * (sums[before] + sums[behind])
        weighted = sums[self.places] * self.shares[:, :, None]
        return weighted.sum(axis=0) * _scale(len(self.places) - 1)


@dataclass(frozen=True)
class Filter:
    """A lattice as values of a graph, for values of so many channels: emitted once, used by every filter.

    index:   the vertex of each element of the parts that are summed [(d + 1) · R, C]
    weights: of each vertex around each point [d + 1, R, 1]
    steps:   for each axis the vertices before and behind each vertex
    """

    places: str
    index: str
    weights: str
    steps: Sequence[tuple[str, str]]
    norm: str
    room: int

    @classmethod
    def emit(cls, g: Graph, lattice: Sequence[str], channels: int) -> Filter:
        """Emit what all filters of a lattice share. lattice: the values of a `Lattice`'s parts, in order"""
        places, shares, steps, norm = lattice
        axes, count = g.shape(places)
        index = g.emit("Expand", g.reshape(places, axes * count, 1), g.ints(axes * count, channels))
        weights = g.declare(g.emit("Unsqueeze", shares, g.ints(2)), (axes, count, 1))
        pairs = [g.emit("Gather", steps, g.constant(axis, np.int64), axis=0) for axis in range(axes)]
        sides = [[g.emit("Gather", pair, g.constant(side, np.int64), axis=0) for side in (0, 1)] for pair in pairs]
        return cls(places, index, weights, [(side[0], side[1]) for side in sides], norm, g.shape(steps)[2])

    def __call__(self, g: Graph, x: str) -> str:
        """Emit the normalized filter of values [R, C].

        The gradient is the filter's transpose: the norm first, and the axes the other way round.
        """

        def forward(x: str) -> Sequence[str]:
            return [g.emit("Mul", self._sums(g, x, self.steps), self.norm)]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None]
            scaled = g.declare(g.emit("Mul", dys[0], self.norm), g.shape(x))
            return [self._sums(g, scaled, self.steps[::-1])]

        (y,) = g.custom_vjp([x], forward, backward)
        return g.declare(y, g.shape(x))

    def _sums(self, g: Graph, x: str, steps: Sequence[tuple[str, str]]) -> str:
        axes, (count, channels) = len(steps), g.shape(x)
        parts = g.reshape(g.emit("Mul", self.weights, x), axes * count, channels)
        zeros = g.emit("Expand", g.constant(0), g.ints(self.room, channels))
        sums = g.emit("ScatterElements", zeros, self.index, parts, axis=0, reduction="add")
        for sides in steps:
            before, behind = (g.emit("Gather", sums, side, axis=0) for side in sides)
            sums = g.emit("Add", sums, g.emit("Mul", g.emit("Add", before, behind), g.constant(0.5)))
        around = g.emit("Mul", g.emit("Gather", sums, self.places, axis=0), self.weights)
        return g.emit("Mul", g.emit("ReduceSum", around, g.ints(0), keepdims=0), g.constant(_scale(axes - 1)))


def _scale(d: int) -> np.float32:
    return np.float32(1 / (1 + 2.0**-d))


def _simplex(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each point [R, d] the nearest vertex of remainder 0 [R, d + 1], the rank of each coordinate in the
    simplex [R, d + 1], and the barycentric coordinates [d + 1, R].
    """
    count, d = features.shape
    elevated = _elevated(features)
    below, above = (edge(elevated * np.float32(1 / (d + 1))) * np.float32(d + 1) for edge in (np.floor, np.ceil))
    nearest = np.where(above - elevated < elevated - below, above, below)
    rank = np.zeros((count, d + 1), np.int64)
    distance = elevated - nearest
    for i in range(d):
        for j in range(i + 1, d + 1):
            is_less = distance[:, i] < distance[:, j]
            rank[:, i] += is_less
            rank[:, j] += ~is_less
    rank += np.rint(nearest.sum(axis=1, keepdims=True) / (d + 1)).astype(np.int64)  # a point off the plane comes back
    turns = (rank < 0).astype(np.int64) - (rank > d)
    rank += turns * (d + 1)
    nearest = nearest.astype(np.int64) + turns * (d + 1)
    return nearest, rank, _barycentric(elevated, nearest, rank)


def _elevated(features: np.ndarray) -> np.ndarray:
    """Return the features in the plane of the lattice [R, d + 1], where the filter's deviation is 1."""
    count, d = features.shape
    elevated = np.zeros((count, d + 1), np.float32)
    total = np.zeros(count, np.float32)
    deviation = math.sqrt(2 / 3) * (d + 1)
    for j in range(d, 0, -1):
        scaled = features[:, j - 1] * np.float32(deviation / math.sqrt((j + 1) * j))
        elevated[:, j] = total - np.float32(j) * scaled
        total = total + scaled
    elevated[:, 0] = total
    return elevated


def _barycentric(elevated: np.ndarray, nearest: np.ndarray, rank: np.ndarray) -> np.ndarray:
    count, axes = elevated.shape
    shares = np.zeros((axes + 1, count), np.float32)
    distance = (elevated - nearest) * np.float32(1 / axes)
    rows = np.arange(count)
    for i in range(axes):
        shares[axes - 1 - rank[:, i], rows] += distance[:, i]
        shares[axes - rank[:, i], rows] -= distance[:, i]
    shares[0] += 1 + shares[axes]
    return shares[:axes].astype(np.float32)


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each key [K, d] among the different ones, from 1, and these as `_neighbours` takes them."""
    d = keys.shape[1]
    low, high = keys.min(axis=0) - d, keys.max(axis=0) + d
    spans = [int(span) for span in high - low + 1]
    if math.prod(spans) >= 1 << 63:
        raise InputError(f"the features of points spread over {spans} steps of a lattice; expected below 2^63 in all")
    radix = np.array([math.prod(spans[:i]) for i in range(d)], np.int64)
    codes, index = np.unique((keys - low) @ radix, return_inverse=True)
    return index.reshape(-1) + 1, _neighbours(codes, radix)


def _neighbours(codes: np.ndarray, radix: np.ndarray) -> np.ndarray:
    """Return the numbers of each vertex's neighbours along each axis [d + 1, 2, M], 0 where there is none.

    codes: the vertices' keys as numbers, in order; radix: what a step along each of the d axes adds to one
    """
    shifts = radix.sum() - (len(radix) + 1) * np.append(radix, 0)  # the last axis has no place in the keys
    found = np.zeros((len(shifts), 2, len(codes)), np.int64)
    for axis, shift in enumerate(shifts.tolist()):
        for side, sign in enumerate((-1, 1)):
            wanted = codes + sign * shift
            at = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
            found[axis, side] = np.where(codes[at] == wanted, at + 1, 0)
    return found
