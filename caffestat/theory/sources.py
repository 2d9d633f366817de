"""Signals to start from: what arrays hold, and common distributions."""

from __future__ import annotations

import math

import numpy as np

from caffestat.fillers import Filler, Normal, Sample, Uniform, density

from .quadrature import NODES, WEIGHTS, cdf, quantiles, quantiles_of
from .signal import Signal

__all__ = ["constant", "data", "of_array", "of_data", "of_filler", "uniform", "uniform_integers"]

_LOOKED_AT = 1_000_000  # elements of a large array


def of_array(array: np.ndarray) -> Signal:
    """Return the distribution of given params, the same at every place and in every sample.

    Of a large array a million elements are sampled.
    """
    flat = np.asarray(array).ravel()
    if flat.size > _LOOKED_AT:
        flat = flat[np.random.default_rng(0).integers(0, flat.size, _LOOKED_AT)]
    flat = flat.astype(np.float64)
    if flat.size == 0 or np.ptp(flat) == 0:
        return constant(float(flat[0]) if flat.size else 0.0)
    return Signal(quantiles_of(flat), 1.0, 1.0)


def of_data(array: np.ndarray) -> Signal | None:
    """Return the distribution of [N, C, places…], and the correlation of two places of a channel, and of two samples.

    None where it holds text, NaN or infinity, of which nothing can be said.
    """
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        return None
    if not array.size:
        return of_array(array)
    blob = np.asarray(array, np.float64)
    blob = blob.reshape(*blob.shape[:2], -1) if blob.ndim > 1 else blob.reshape(-1, 1, 1)
    return Signal.of_pairs(of_array(array).values, _pairs(blob, 2), _pairs(blob, 0))


def _pairs(blob: np.ndarray, axis: int) -> float:
    """Return E[x x'] over the pairs of elements that differ along an axis; 0 where there is but one."""
    count = blob.shape[axis]
    squares = float((blob.sum(axis=axis) ** 2).sum() - (blob**2).sum())
    return squares / (blob.size * (count - 1)) if count > 1 and blob.size else 0.0


def data(mean: float, std: float) -> Signal:
    """Return independent normal values."""
    return Signal(mean + std * NODES)


def constant(value: float) -> Signal:
    """Return the same number everywhere."""
    return Signal(np.full_like(NODES, value), 1.0, 1.0)


def uniform(low: float, high: float) -> Signal:
    """Return params of U(low, high), the second moment exact at the nodes."""
    middle, half = (low + high) / 2, (high - low) / 2
    shape = 2 * cdf(NODES) - 1
    shape /= math.sqrt(3 * float(shape**2 @ WEIGHTS))
    return Signal(middle + half * shape, 1.0, 1.0)


def uniform_integers(count: int) -> Signal:
    """Return independent integers, each of 0 to count - 1 equally likely: labels, rows of a table."""
    return Signal(np.floor(cdf(NODES) * count).clip(0, count - 1))


def of_filler(filler: Filler, shape: tuple[int, ...]) -> Signal | None:
    """Return the distribution that a filler gives a blob of `shape`, the same at every place and in every sample.

    None where it is not finite. Raises InputError for a filler that Caffe refuses, one of an unknown type among them.
    """
    found = density(filler, shape)
    if not (math.isfinite(found.mean) and math.isfinite(found.variance)):
        return None
    if isinstance(found, Uniform):
        return uniform(found.low, found.high)
    if isinstance(found, Normal):
        return _normal(found)
    return of_array(found.values) if isinstance(found, Sample) else constant(found.mean)


def _normal(found: Normal) -> Signal:
    values = found.center + found.std * NODES
    if found.kept == 1:
        return Signal(values, 1.0, 1.0)
    mixed = quantiles(np.stack([values, 0 * values]), np.outer([found.kept, 1 - found.kept], WEIGHTS))
    return Signal(mixed, 1.0, 1.0)
