"""What the first layer reads, and filters that are made of it: principal components and cluster centres.

P. Krähenbühl, C. Doersch, J. Donahue, T. Darrell, *Data-dependent Initializations of Convolutional Neural Networks*,
2016, section 3: PCA, and k-means on whitened patches (A. Coates, A. Ng, *Learning Feature Representations with
K-means*, 2012). Source: philkr/magic_init, magic_init.py, initializeWeight, with relative bounds where it has absolute
ones.
"""

from __future__ import annotations

import numpy as np

from caffestat.graph import Graph

from .linear import Linear

__all__ = ["kmeans_filters", "patches_of", "pca_filters"]

_MOST = 10_000  # patches
_FLAT = 1e-6  # of the largest variance: components below it are left out
_ROUNDS = 20


def patches_of(graph: Graph, linear: Linear, x: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """Return some of what the outputs of a row sum over: [groups, patches, inputs]; None where no window is known.

    x: what the row's node reads as its data
    """
    node, info = linear.layout.node, linear.layout.node.info
    if info.upsamples:
        return None
    if info.window is None:
        if linear.layout.position == 0 or node.get("transA", 0):
            return None
        return _some(x.reshape(1, -1, x.shape[-1]), random)
    window, groups = info.window(graph.call(node)), node.get("group", 1)
    ends = [
        max(0, (out - 1) * stride + (kernel - 1) * step + 1 - size - begin)
        for size, out, kernel, stride, begin, step in zip(
            window.size, window.out, window.kernel, window.strides, window.begins, window.dilations, strict=True
        )
    ]
    padded = np.pad(x, [(0, 0), (0, 0), *zip(map(int, window.begins), map(int, ends), strict=True)])
    reach = [(kernel - 1) * step + 1 for kernel, step in zip(window.kernel, window.dilations, strict=True)]
    axes = tuple(range(2, x.ndim))
    views = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)
    steps = [slice(None, (out - 1) * stride + 1, stride) for out, stride in zip(window.out, window.strides, strict=True)]
    taps = [slice(None, None, step) for step in window.dilations]
    views = views[(slice(None), slice(None), *steps, *taps)]  # [N, C, places…, taps…]
    places = len(axes)
    order = (1, 0, *range(2, 2 + places), *range(2 + places, 2 + 2 * places))
    channels = views.transpose(order).reshape(x.shape[1], -1, int(np.prod(views.shape[2 + places :])))
    split = channels.reshape(groups, x.shape[1] // groups, *channels.shape[1:])
    chosen = _places(split.shape[2], random)
    return np.ascontiguousarray(split[:, :, chosen].swapaxes(1, 2)).reshape(groups, len(chosen), -1)


def _places(count: int, random: np.random.Generator) -> np.ndarray:
    return np.sort(random.permutation(count)[:_MOST])


def _some(patches: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return patches[:, _places(patches.shape[1], random)]


def pca_filters(patches: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray | None:
    """Return filters [count, inputs] whose outputs are the whitened principal components of patches [n, inputs].

    Filters beyond the number of components are random mixtures of them. None where there are too few patches.
    """
    whitening = _whitening(patches, count)
    if whitening is None:
        return None
    more = random.standard_normal((max(count - len(whitening), 0), len(whitening)))
    more /= np.linalg.norm(more, axis=1, keepdims=True)
    return np.concatenate([whitening, more @ whitening])


def kmeans_filters(patches: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray | None:
    """Return filters [count, inputs] that match the centres of clusters of whitened patches of length 1.

    None where there are fewer patches than filters.
    """
    whitening = _whitening(patches, count)
    if whitening is None:
        return None
    white = (patches - patches.mean(axis=0)) @ whitening.T
    white /= np.maximum(np.linalg.norm(white, axis=1, keepdims=True), 1e-12)
    return np.asarray(_centres(white, count, random) @ whitening)


def _whitening(patches: np.ndarray, count: int) -> np.ndarray | None:
    """Return [components, inputs]: at most `count` of the largest, each of variance 1 on the patches."""
    if len(patches) < count:
        return None
    centred = patches.astype(np.float64) - patches.mean(axis=0)
    variances, components = np.linalg.eigh(centred.T @ centred / len(centred))
    kept = np.flatnonzero(variances > _FLAT * max(variances[-1], 0.0))[::-1][:count]
    return (components[:, kept] / np.sqrt(variances[kept])).T if len(kept) else None


def _centres(points: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return the centres of Lloyd's clusters; an empty one begins again at a point."""
    centres = points[random.permutation(len(points))[:count]]
    for _ in range(_ROUNDS):
        nearest = np.argmax(points @ centres.T - np.square(centres).sum(axis=1) / 2, axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        counts = np.bincount(nearest, minlength=count)
        fresh = points[random.integers(len(points), size=count)]
        moved = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], fresh)
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres
