"""Pooling: order statistics for the maximum, sums of correlated values for the average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, reduce

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..heuristics.lognormal import lognormal
from ..heuristics.maxima import correlation_of_maxima, excess_of_wins
from ..lags import Axis, along_axes, lag_map, mixed, mixed_apart
from ..maximum import Maximum, window_pairs
from ..quadrature import ABS_NORMAL, Array, Points, cross_moments, expect, ranks
from ..signal import Gradient, Signal, Source, Term, normal, normalize_profile
from .linear import known, profile_of, windows
from .shape import mixture

Gradients = Sequence[Gradient | None]


def _coverage(matrices: Sequence[Array]) -> float:
    """Return how many windows an element lies in, on average."""
    return math.prod(float(m.sum()) / m.shape[1] for m in matrices)


@moments("MaxPool", "GlobalMaxPool", windows=True)
def max_pool(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """y = max over the window: P(y ≤ v) = E[P(x ≤ v | c)^k].

    Kinds of channels are pooled one by one: the maximum of correlated values is smaller, and not in proportion.
    """
    x, axes = known(walk.signal(node.inputs[0])), windows(walk, node)
    components = [(share, _largest(component, axes)) for share, component in x.components]
    y = mixture(components, walk.shape(node.outputs[0])[2:]) if components else _largest(x, axes)
    return [y, *[None] * (len(node.outputs) - 1)]


@lru_cache(maxsize=64)  # those of one net: asked for forward and backward
def _maximum(x: Signal, axes: tuple[Axis, ...]) -> Maximum:
    return Maximum(x, axes, profile_of(x.spatial_profile, [axis.size for axis in axes]))


def _largest(x: Signal, axes: tuple[Axis, ...]) -> Signal:
    """Return the maximum of each window."""
    maximum = _maximum(x, axes)
    values, shared = maximum.pooled(), maximum.shared()
    overlap = np.vectorize(correlation_of_maxima, otypes=[float])(maximum.k, np.minimum(maximum.common, maximum.k))
    inverse = 1 / maximum.rho_of_pairs if maximum.rho_of_pairs > 0 else 0.0
    space, batch, near = (
        cross_moments(shared, np.clip(rho * inverse, 0.0, 1.0)) for rho in (maximum.far, x.rho_sample, maximum.between)
    )
    near += overlap * (expect(values**2) - expect(shared**2))
    y = Signal.of_pairs(values, float(space), float(batch), maximum.spatial_profile(), near)
    return replace(y, rho_along=maximum.correlations_along(overlap))


@backward_moments("MaxPool", "GlobalMaxPool")
def max_pool_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Σ dy over the windows whose maximum x is: large values get more of it."""
    dy = dys[0]
    if dy is None:
        return [None]
    x, axes = known(walk.signal(node.inputs[0])), windows(walk, node)
    maximum, places = _maximum(x, axes), walk.shape(node.outputs[0])[2:]
    points, turned, terms = Points.among_nodes(maximum.rank()), [m.T for m in maximum.matrices], {}
    for source, term in dy.terms.items():
        near = lag_map(places, source.cross_lag, source.cross_spatial, source.second)
        reach = along_axes(turned, profile_of(source.spatial_profile, places))
        moved = replace(
            source,
            spatial_profile=normalize_profile(reach),
            cross_lag=_won_apart(turned, near, source.cross_spatial),
            cross_other=_won_far(source, math.prod(places), math.prod(axis.size for axis in axes)),
        )
        here = _won(maximum, term.at(points), near / source.second if source.second else near)
        terms[moved] = here if maximum.is_rising else here.at(Points.among_nodes(ranks(x.values, maximum.values)))
    return [Gradient(terms)]


def _won(maximum: Maximum, term: Term, near: Array) -> Term:
    """Return what an element gets from the windows that hold it, of each of which it is the maximum now and then.

    Windows that it wins together add up, the more the larger the correlation of their gradients, `near` by lag. To
    win both it has to be larger than the others in either. A window of equals (zeros behind a ReLU) goes to the first
    of them, which is the first of one window only.
    """
    covered, above = _coverage(maximum.matrices), maximum.values > maximum.values[0]
    won = covered * maximum.wins(maximum.k - 1)
    second, apart = won * term.second, np.zeros_like(won)
    for lag, pairs in np.ndenumerate(_windows_together(maximum.matrices, near.shape)):
        if any(lag) and pairs > 0:
            both = pairs * above * maximum.wins(2 * maximum.k - float(maximum.common[lag]) - 1)
            second += near[lag] * both * term.mean**2
            apart += (1 - near[lag]) * both
    # where windows leave gaps, the spatial profile holds that nothing arrives there
    several = excess_of_wins(won, apart) * math.sqrt(min(covered, 1.0))
    return Term(won * term.mean, np.maximum(second, 0.0), won * term.absolute / several)


def _won_apart(readers: Sequence[Array], near: Array, far: float) -> Array:
    """Return, by the lag of two elements, E[dy dy'] of the windows that hold them, 0 for those that both hold both.

    One of the elements cannot win one of such windows and the other one the other.
    """
    return mixed_apart(readers, near, far) / np.maximum(mixed(readers, np.ones_like(near), 1.0), 1e-300)


def _won_far(source: Source, windows: int, elements: int) -> float:
    """Return E[dy dy'] of the windows of two places in two samples: as Σ dx = Σ dy says."""
    if elements < 2:
        return 0.0
    same = source.cross_sample * (1 - windows / elements)
    return (same + (windows - 1) * source.other) * elements / windows / (elements - 1)


def _windows_together(matrices: Sequence[Array], lags: Sequence[int]) -> Array:
    """Return how many pairs of windows at each lag, in either order, hold an element, on average."""
    axes = []
    for matrix, count in zip(matrices, lags, strict=True):
        pairs = matrix @ matrix.T
        sums = [np.trace(pairs, lag) * (2 if lag else 1) for lag in range(count)]
        axes.append(np.array(sums) / matrix.shape[1])
    return np.asarray(reduce(np.multiply.outer, axes, np.array(1.0)))


def _averaging(walk: Walk, node: Node) -> list[Array]:
    """Return per axis the weights of each window: 1 / its size, padding counted in when the op says so."""
    matrices = [axis.reads for axis in windows(walk, node)]
    if node.get("count_include_pad", 0):
        return [m / k for m, k in zip(matrices, node.get("kernel_shape"), strict=True)]
    return [m / np.maximum(m.sum(axis=1, keepdims=True), 1) for m in matrices]


def spread_sum(matrices: Sequence[Array], second: float, cross: float, spatial_profile: Array) -> Array:
    """Return E[(Σ a·x)²] at each place for weights a and x of which pairs have the second moment `cross`."""
    alone = along_axes([m**2 for m in matrices], spatial_profile)
    together = along_axes(matrices, np.sqrt(spatial_profile))
    return np.maximum((second - cross) * alone + cross * together**2, 0.0)


@moments("AveragePool", "GlobalAveragePool", windows=True)
def average_pool(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = mean over the window: the mean stays, the variance falls by how many values there are that differ."""
    x, matrices = known(walk.signal(node.inputs[0])), _averaging(walk, node)
    spatial_profile = profile_of(x.spatial_profile, walk.shape(node.inputs[0])[2:])
    own = x.cross_lag([m.shape[1] for m in matrices])
    at = spread_sum(matrices, x.second, float(window_pairs(matrices, own, x.cross_spatial)[0].flat[0]), spatial_profile)
    together = along_axes(matrices, np.sqrt(spatial_profile))
    second, mean = float(at.mean()), expect(x.values) * float(together.mean())
    flat = normalize_profile(at)
    scale = 1.0 if flat is None else float(np.sqrt(flat).mean())
    values = positive_or_normal(mean / scale, second, bool(np.min(x.values) >= 0))
    kept = float((together**2).mean())
    near = mixed(matrices, own, x.cross_spatial)
    return [Signal.of_pairs(values, kept * x.cross_spatial, kept * x.cross_sample, flat, near)]


def positive_or_normal(mean: float, second: float, positive: bool) -> Array:
    """Return a distribution of these moments: lognormal for sums of what is never negative, else normal."""
    if positive and 0 < mean**2 < math.inf:
        return lognormal(mean, second / mean**2 - 1)
    return normal(mean, second - mean**2).values


@backward_moments("AveragePool", "GlobalAveragePool")
def average_pool_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Σ dy / k over the windows that hold x, which its neighbours share."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    matrices = _averaging(walk, node)
    spatial_profile = profile_of(dy.spatial_profile, walk.shape(node.outputs[0])[2:])
    cross, batch = dy.cross_spatial(y.rho_spatial), dy.cross_sample(y.rho_sample)
    turned, own = [m.T for m in matrices], dy.cross_lag(y, spatial_profile.shape)
    at = spread_sum(turned, dy.second, float(window_pairs(turned, own, cross)[0].flat[0]), spatial_profile)
    second, reach = float(at.mean()), along_axes(turned, np.ones(walk.shape(node.outputs[0])[2:]))
    shape = dy.shape if _coverage([axis.reads for axis in windows(walk, node)]) <= 1.001 else ABS_NORMAL
    same = batch * float(reach.mean()) ** 2
    pairs = _pairs(matrices, dy.second, cross, second, at.size)
    far = _pairs(matrices, batch, dy.cross_other(y.rho_other), same, at.size)
    return [
        Gradient.of(
            Source(
                second,
                shape,
                pairs,
                same,
                normalize_profile(at),
                dy.one_hot,
                dy.finite_width,
                cross_lag=mixed(turned, own, cross),
                cross_other=far,
            )
        )
    ]


def _pairs(matrices: Sequence[Array], dy_second: float, dy_cross: float, second: float, places: int) -> float:
    """Return the mean of E[dx dx'] over pairs of places, from E[(Σ dx)²]: sums survive averaging."""
    if places < 2:
        return 0.0
    weights = [m.sum(axis=1) for m in matrices]
    squares, total = math.prod(float((w**2).sum()) for w in weights), math.prod(float(w.sum()) for w in weights)
    whole = (dy_second - dy_cross) * squares + dy_cross * total**2
    return (whole - places * second) / (places * (places - 1))
