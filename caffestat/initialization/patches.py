"""Patches that the first layer reads, and filters from them: principal components and cluster centres.

P. Krähenbühl, C. Doersch, J. Donahue, T. Darrell, *Data-dependent Initializations of Convolutional Neural Networks*,
2016, section 3: PCA, and k-means on whitened patches (A. Coates, A. Ng, *Learning Feature Representations with
K-means*, 2012). Source: philkr/magic_init, magic_init.py, initializeWeight, with relative bounds where it has absolute
ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffestat.graph import Graph
from caffestat.ops import Window

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
    if info.upsamples or (info.window is None and (linear.layout.position == 0 or node.get("transA", 0))):
        return None
    if info.window is None:
        rows = x.reshape(-1, x.shape[-1])
        return rows[None, _chosen(len(rows), random)]
    window, groups = info.window(graph.call(node)), node.get("group", 1)
    sample, *places = np.unravel_index(_chosen(x.shape[0] * math.prod(window.out), random), (x.shape[0], *window.out))
    found = _windows(x, window, sample, places)
    return found.reshape(len(sample), groups, -1).swapaxes(0, 1)


def _chosen(count: int, random: np.random.Generator) -> np.ndarray:
    return np.sort(random.permutation(count)[:_MOST])


def _windows(x: np.ndarray, window: Window, sample: np.ndarray, places: Sequence[np.ndarray]) -> np.ndarray:
    """Return what windows at some places hold: [windows, channels, taps…], 0 beyond the border."""
    space = len(window.kernel)
    reach = [kernel * step for kernel, step in zip(window.kernel, window.dilations, strict=True)]
    pads = [(begin, end) for begin, end in zip(window.begins, reach, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    taps = []
    for axis, kernel in enumerate(window.kernel):
        at = places[axis][:, None] * window.strides[axis] + window.dilations[axis] * np.arange(kernel)
        taps.append(at.reshape(-1, *(kernel if other == axis else 1 for other in range(space))))
    at_all: tuple[Any, ...] = (sample.reshape(-1, *[1] * space), slice(None), *taps)
    found = padded[at_all]  # [windows, taps…, channels]
    return np.ascontiguousarray(np.moveaxis(found, -1, 1))


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
