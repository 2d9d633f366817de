"""Sums over many elements: of random weights, of places, of samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .borders import correlations_of, sum_over_common_taps
from .heuristics import few_terms, finite_width, one_hot, param_size
from .lags import Sharing, pair_weights
from .quadrature import ABS_NORMAL, NODES, Array, clip_unit, common_part, expect, variance
from .signal import Gradient, Signal, Source, normal, normalize_profile

__all__ = [
    "batch_and_places",
    "channel_mean_square",
    "finite_width_of_sum",
    "pair_sum",
    "reduced",
    "through_weights",
    "weighted_sum",
]

Shape = tuple[int, ...]


def batch_and_places(shape: Shape) -> tuple[int, int]:
    """Return how many samples a value has, and places per channel."""
    return (shape[0] if shape else 1), math.prod(shape[2:])


def pair_sum(space: float, batch: float, far: float, samples: float, places: float) -> float:
    """Return Σ E[x x'] over the others of an element's channel, given it for another place, another sample, both."""
    return (places - 1) * space + (samples - 1) * (batch + (places - 1) * far)


def channel_mean_square(second: float, space: float, batch: float, far: float, shape: Shape) -> float:
    """Return E[m²] of the mean m of a channel over all samples and places, from the moments of pairs."""
    samples, places = batch_and_places(shape)
    return max(second + pair_sum(space, batch, far, samples, places), 0.0) / max(samples * places, 1)


def weighted_sum(
    x: Signal,
    w: Signal,
    b: Signal | None,
    taps_at: Array,
    channels: float,
    sharing: Sharing | None = None,
    groups: int = 1,
) -> Signal:
    """Return y = Σ w·x + b over `channels` and the taps of each place.

    With weights independent of x: E[y] = n E[w] E[x] + E[b]; Var y = n Var(w) E[x²] + E[w]² Var(Σx) + Var(b), where
    only elements of one channel are correlated.

    taps_at  the taps of each place, weighted by the input's spatial profile
    sharing  how places share their weights; without, none do
    groups   others have channels of their own
    """
    per_channel = float(taps_at.mean())
    n = channels * per_channel
    w_var, b_var = variance(w.values), variance(b.values) if b else 0.0
    mean = n * w.mean * x.mean + (b.mean if b else 0.0)
    own = max(x.second - x.mean**2 + (per_channel - 1) * (x.cross_spatial - x.mean**2), 0.0)
    spread = n * w_var * x.second + n * w.mean**2 * own

    def shared(cross: Any) -> Any:
        return n * w_var * cross + n * per_channel * w.mean**2 * (cross - x.mean**2)

    space, near = 0.0, None
    if sharing:
        space = shared(x.cross_spatial) * sharing.anywhere + b_var
        near = sharing.of(shared(x.cross_lag(sharing.places)), shared(x.cross_spatial)) + b_var
    spatial_profile = (mean**2 + b_var + spread * taps_at / per_channel) if per_channel else None
    y = normal(mean, spread + b_var, space, shared(x.cross_sample) + b_var, spatial_profile, near)
    if sharing and per_channel:
        tables = [correlations_of(shared(terms / per_channel) + b_var) for terms in _terms_along(x, sharing)]
        y = replace(y, rho_along=tuple(tables))
    own_share = min(spread / max(y.second, 1e-300), 1.0)
    if sharing and n > 0:
        y = _with_tails(y, own_share**2 * (few_terms.kurtosis(x.values) * few_terms.kurtosis(w.values) - 3) / n)
    return replace(y, finite_width=_finite_width(x, own_share, x.rho_other if sharing else 1.0, channels * groups))


def _finite_width(x: Signal, own_share: float, rho: float, channels: float) -> float:
    """Return the finite-width correction of a sum; own_share: the part of its second moment that is not the bias's."""
    correction = finite_width.correction(x.values**2, rho, channels)
    return 1 - own_share * (1 - (x.finite_width or 1.0) * correction)


def _terms_along(x: Signal, sharing: Sharing) -> Iterator[Array]:
    """Yield for each axis Σ E[x x'] over the taps that places along it have in common."""
    taps = [axis.inside[axis.places // 2].sum() for axis in sharing.axes]
    for number, (axis, products) in enumerate(zip(sharing.axes, x.cross_along(sharing.places), strict=False)):
        far = math.sqrt(max(x.cross_spatial, 0.0)) * x.strengths_along(number, sharing.places)
        others = math.prod(taps[:number] + taps[number + 1 :])
        yield sum_over_common_taps(axis, products, far) * others


def _with_tails(y: Signal, excess: float) -> Signal:
    """Return y with the E|y| of a sum of this excess kurtosis; it comes from the weights, so it is between channels."""
    if excess < few_terms.TAILS:
        return y
    mean, square = expect(y.values), variance(y.values)
    space, batch = (mean**2 + square * rho for rho in (y.rho_spatial, y.rho_sample))
    lags = None if y.rho_lag is None else mean**2 + square * y.rho_lag
    along = [mean**2 + square * table for table in y.rho_along]
    tailed = Signal.of_pairs(few_terms.with_excess(y.values, excess), space, batch, y.spatial_profile, lags, along)
    return replace(tailed, channel_values=y.values)


def through_weights(
    dy: Gradient, y: Signal, w: Signal, reach: Array, channels: float, sharing: Sharing | None = None, groups: int = 1
) -> Gradient:
    """Return dx = Σ w·dy over `channels` and the places that read x: E[dx²] = m E[w²] E[dy²].

    reach    for each place of x, how many places read it, weighted by dy's spatial profile
    sharing  how places of x share the weights; without, none do
    groups   others have channels of their own
    """
    m = channels * float(reach.mean()) * w.second
    space, lags, other = 0.0, None, 0.0
    if sharing:
        cross = m * dy.cross_spatial(y.rho_spatial)
        space, lags = cross * sharing.anywhere, sharing.of(m * dy.cross_lag(y, sharing.places), cross)
        other = m * dy.cross_other(y.rho_other) * sharing.anywhere
    width, spread = finite_width_of_sum(dy, y, channels * groups, sharing is None)
    source = Source(
        m * dy.second,
        _shape_of_sum(dy, w, channels, reach),
        space,
        m * dy.cross_sample(y.rho_sample),
        normalize_profile(reach),
        finite_width=width,
        spatial_variance=spread / max(float(reach.mean()), 1.0),
        cross_lag=lags,
        cross_other=other,
    )
    return Gradient.of(source)


def finite_width_of_sum(dy: Gradient, y: Signal, channels: float, alone: bool) -> tuple[float, float]:
    """Return the finite-width correction and the spatial variance of dx = Σ w·dy over so many channels.

    alone: a channel is one element
    """
    width, spread = dy.width_and_variance
    gates = [term for source, term in dy.terms.items() if source.one_hot]
    if gates:
        factor, added = one_hot.behind_gate(gates[0].second, gates[0].absolute, y.rho_spatial)
        return width * factor, spread + added
    if dy.second <= 0:
        return 1.0, 0.0
    if alone:
        return width * finite_width.correction(dy.second_at, 1.0, channels, 2.0), spread
    coherent = clip_unit(min(dy.cross_spatial(1.0), dy.cross_sample(1.0)) / dy.second)
    return width * finite_width.correction(dy.second_at, y.rho_other, channels, 2 * coherent**2), spread


def _shape_of_sum(dy: Gradient, w: Signal, channels: float, reach: Array) -> float:
    """Return E|Σ w·dy| / √E[(Σ w·dy)²]: that of a normal variable, less the fewer terms there are.

    Of a one-hot gradient one term per place counts, and the sum is distributed like the weights.
    """
    terms = channels * reach
    if dy.second <= 0 or w.second <= 0 or terms.max() <= 0:
        return ABS_NORMAL
    if dy.one_hot:
        alone = expect(np.abs(w.values)) / math.sqrt(w.second)
        return ABS_NORMAL + (alone - ABS_NORMAL) / max(float(reach.mean()), 1.0)
    excess = few_terms.kurtosis(w.values) * dy.kurtosis - 3
    ratios, deviations = few_terms.abs_ratio(excess / np.maximum(terms, 1e-9)), np.sqrt(terms)
    return ABS_NORMAL * float((deviations * ratios).sum() / deviations.sum())


def reduced(x: Signal | None, dy: Gradient, y: Signal, count: float, shape: Shape, near: Array | None = None) -> Source:
    """Return the gradient of a param: Σ x·dy over `count` places of value `shape`; x None is 1 (a bias).

    E[(Σ x·dy)²] = Σ over pairs E[x x'] E[dy dy'], `near` the product of what either has more at a lag than on
    average. Where samples are correlated its size varies from channel to channel, so E|Σ| is taken
    given the shared part of both. It never exceeds count·E|x|·E|dy|.
    """
    samples, places = batch_and_places(shape)
    second_x, abs_x = (x.second, x.mean_abs) if x else (1.0, 1.0)
    of_x = x.crosses if x else (1.0, 1.0, 1.0)
    space, batch, far = (a * b for a, b in zip(of_x, dy.crosses(y), strict=True))
    others = pair_sum(space, batch, far, samples, places)
    if near is not None:
        others += float((pair_weights(shape[2:]) * near).sum())
    alone, coherent = count * second_x * dy.second, count * others * count / max(samples * places, 1)
    second = max(alone + coherent, 0.0)
    if second == 0:
        return Source(0.0)
    rho_x, rho_y = (
        ((x.rho_sample if x else 0.0), y.rho_sample) if samples > 1 else ((x.rho_spatial if x else 0.0), y.rho_spatial)
    )
    of_dy = common_part(dy.second_at, rho_y), common_part(dy.mean_at, rho_y) ** 2
    ratio = param_size.size_ratio(_shared(x, rho_x), of_dy, coherent / second)
    return Source(second, min(ABS_NORMAL * ratio, count * abs_x * dy.mean_abs / math.sqrt(second)))


def _shared(x: Signal | None, rho: float) -> param_size.Shared:
    """Return E[x² | shared] and E[x | shared]²; x None is 1."""
    if x is None:
        return np.ones_like(NODES), np.ones_like(NODES)
    return common_part(x.values**2, rho), common_part(x.values, rho) ** 2
