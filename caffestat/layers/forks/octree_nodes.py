"""The octree of a sphere, which stands for those of the data: its nodes at each depth, and which are neighbours.

Nodes are sorted by key: three bits per depth, of x, y and z. Down to `FULL` all nodes are there, below it the children
of those that the surface crosses. (microsoft/O-CNN, octree.cpp)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

from caffestat.lazy import np

__all__ = ["children", "crossed", "inverse", "neighbors", "node_count", "of_batch", "voxels"]

FULL = 2  # full_layer of the reference's converter
RADIUS = 3 / 8  # of the cube's edge
_TAPS = {1: (0,), 2: (0, 1), 3: (-1, 0, 1)}


def node_count(depth: int) -> int:
    """Return how many nodes there are at a depth."""
    return len(_keys(depth))


@cache
def _keys(depth: int) -> np.ndarray:
    if depth <= FULL:
        return np.arange(8**depth)
    parents = _keys(depth - 1)[crossed(depth - 1)]
    return (parents[:, None] * 8 + np.arange(8)).ravel()


@cache
def crossed(depth: int) -> np.ndarray:
    """Tell which nodes have children: those that the surface crosses, above the full depth all."""
    keys, radius = _keys(depth), RADIUS * (1 << depth)
    if depth < FULL:
        return np.ones(len(keys), bool)
    low = _places(keys, depth) - (1 << depth) / 2
    nearest = np.maximum(np.maximum(low, -low - 1), 0)
    farthest = np.maximum(np.abs(low), np.abs(low + 1))
    near, far = ((one**2).sum(1) <= radius**2 for one in (nearest, farthest))
    return near & ~far


def _places(keys: np.ndarray, depth: int) -> np.ndarray:
    """Return x, y and z of nodes, [nodes, 3]."""
    axes = (sum(((keys >> (3 * bit + 2 - axis)) & 1) << bit for bit in range(depth)) + 0 * keys for axis in range(3))
    return np.stack(list(axes), axis=-1)


def _keys_of(places: np.ndarray, depth: int) -> np.ndarray:
    bits = (((places[..., axis] >> bit) & 1) << (3 * bit + 2 - axis) for bit in range(depth) for axis in range(3))
    return sum(bits, np.zeros(places.shape[:-1], np.int64))


def children(depth: int) -> np.ndarray:
    """Return for each node which group of eight children it has, -1 for none."""
    has = crossed(depth)
    return np.where(has, np.cumsum(has) - 1, -1)


def neighbors(depth: int, kernel: Sequence[int], stride: int) -> np.ndarray:
    """Return the nodes under each tap of a kernel, [places, taps], -1 where there is none.

    Places are the nodes, or with a stride of 2 the first of each eight; taps lie around them, of even kernels behind.
    """
    keys = _keys(depth)
    taps = np.array(list(product(*(_TAPS[size] for size in kernel))))
    places = _places(keys[:: 8 if stride == 2 else 1], depth)[:, None] + taps
    inside = ((places >= 0) & (places < 1 << depth)).all(-1)
    wanted = _keys_of(np.where(inside[..., None], places, 0), depth)
    found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(inside & (keys[found] == wanted), found, -1)


def inverse(table: np.ndarray, count: int) -> np.ndarray:
    """Return for each of `count` nodes where it stands in a table, [nodes, most], as flat indices filled with -1."""
    flat = table.ravel()
    order = np.argsort(flat, kind="stable")[np.sum(flat < 0) :]
    nodes = flat[order]
    starts = np.searchsorted(nodes, np.arange(count))
    rank = np.arange(len(nodes)) - starts[nodes]
    found = np.full((count, int(rank.max(initial=0)) + 1), -1)
    found[nodes, rank] = order
    return found


def of_batch(table: np.ndarray, batch: int, count: int) -> np.ndarray:
    """Return a table of indices for several octrees one behind the other, each of `count` of what it points to."""
    shifts = count * np.arange(batch).reshape(-1, *(1,) * table.ndim)
    return np.where(table < 0, -1, table + shifts).reshape(batch * len(table), *table.shape[1:])


def voxels(depth: int) -> np.ndarray:
    """Return the node of each voxel in the order of x, y and z, where all nodes are there."""
    return _keys_of(np.stack(np.meshgrid(*[np.arange(1 << depth)] * 3, indexing="ij"), -1), depth).ravel()
