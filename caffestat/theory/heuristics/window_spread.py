"""The maximum of values that are unevenly correlated: which even correlation gives as large a maximum.

The maximum M of k normal values that share one correlation ρ has E[max(0, M)²] = h(√(1 - ρ)), which rises from 1/2.
Within a window neighbours are more correlated than corners; where padding has cut the windows in front, some elements
are larger than others. E[max(0, M)²] of such values is found over fixed normal points; only its difference from that of
evenly correlated values on the same points is taken from them, so that it is exact where the correlations are even.

Range: windows of up to 64 elements. E[max(0, M)²] within 1 %, E[M] within 8 %.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..quadrature import NODES, WEIGHTS, Array, cdf

__all__ = ["LARGEST_WINDOW", "SPREADS", "spreads", "squares_of_maximum"]

Mask = NDArray[np.bool_]

LARGEST_WINDOW = 64
SPREADS = np.linspace(0.0, 1.0, 33)
_POINTS = 2048
_TOGETHER = 16  # windows at once


@lru_cache(maxsize=256)
def squares_of_maximum(k: float) -> Array:
    """Return E[max(0, M)²] of the maximum M of k N(0, 1) whose √(1 - ρ) is each of `SPREADS`."""
    return np.array([_square_of_maximum(k, float(spread)) for spread in SPREADS])


def _square_of_maximum(k: float, spread: float) -> float:
    if spread == 0:
        return 0.5
    below = cdf((NODES[:, None] - math.sqrt(1 - spread**2) * NODES) / spread) ** k @ WEIGHTS
    middles = np.maximum((NODES[1:] + NODES[:-1]) / 2, 0.0)
    return float(np.diff(below) @ middles**2)


@lru_cache(maxsize=8)
def _points(k: int) -> Array:
    """Return points whose second moments are exactly those of k independent N(0, 1): [k, points]."""
    drawn = np.random.default_rng(0).standard_normal((_POINTS, k))
    return np.ascontiguousarray((drawn @ np.linalg.inv(np.linalg.cholesky(drawn.T @ drawn / _POINTS)).T).T)


def spreads(covariances: Array, inside: Mask, k: float) -> Array:
    """Return √(1 - ρ) of each window: of k evenly correlated values of its mean variance with the same E[max(0, M)²].

    covariances  of the elements: [windows, elements, elements]
    inside       which elements a window holds: [windows, elements]
    """
    held = inside.sum(axis=1)
    mean = np.maximum((np.einsum("wkk->wk", covariances) * inside).sum(axis=1) / np.maximum(held, 1), 1e-300)
    even = np.clip(_mean_difference(covariances, inside) / mean, 0.0, 1.0)
    flat = mean[:, None, None] * (even[:, None, None] * np.eye(inside.shape[1]) + (1 - even)[:, None, None])
    squares = [np.interp(e, SPREADS, squares_of_maximum(float(n))) for e, n in zip(np.sqrt(even), held, strict=True)]
    return _spread_of(np.array(squares) + (_squares(covariances, inside) - _squares(flat, inside)) / mean, k)


def _spread_of(squares: Array, k: float) -> Array:
    """Return √(1 - ρ) at which the maximum of k values has these E[max(0, M)²]; linear beyond independent ones."""
    known = squares_of_maximum(k)
    slope = max((known[-1] - known[-2]) / (SPREADS[-1] - SPREADS[-2]), 1e-300)
    return np.interp(squares, known, SPREADS) + np.maximum(squares - known[-1], 0.0) / slope


def _mean_difference(covariances: Array, inside: Mask) -> Array:
    """Return E[(z - z')²] / 2 of the pairs that each window holds."""
    own, both = np.einsum("wkk->wk", covariances), inside[:, :, None] * inside[:, None, :]
    halves = (own[:, :, None] + own[:, None, :]) / 2 - covariances
    pairs = both.sum(axis=(1, 2)) - inside.sum(axis=1)
    return np.asarray((halves * both).sum(axis=(1, 2)) / np.maximum(pairs, 1))


def _squares(covariances: Array, inside: Mask) -> Array:
    """Return E[max(0, M)²] over the points: [windows]."""
    parts = np.array_split(np.arange(len(inside)), len(inside) // _TOGETHER + 1)
    return np.concatenate([_squares_of(covariances[part], inside[part]) for part in parts])


def _squares_of(covariances: Array, inside: Mask) -> Array:
    """Return them over the points and, so that the mean is 0, their opposites."""
    sizes, vectors = np.linalg.eigh(covariances)
    roots = (vectors * np.sqrt(np.maximum(sizes, 0.0))[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    drawn = (roots * inside[:, :, None]) @ _points(inside.shape[1])
    largest, smallest = drawn.max(axis=1), drawn.min(axis=1)  # along rows: a small last axis is slow
    return ((largest.clip(0.0) ** 2).mean(axis=1) + (smallest.clip(max=0.0) ** 2).mean(axis=1)) / 2
