"""Sums over many elements: of random weights, of places, of samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from .lags import Sharing, pair_weights
from .quadrature import ABS_NORMAL, NODES, WEIGHTS, Array, clip_unit, common_part, cross_moment, expect, variance
from .signal import Gradient, Signal, Source, flatten, normal

__all__ = [
    "batch_and_places",
    "channel_mean_square",
    "evenness_of_sum",
    "pair_sum",
    "reduced",
    "through_weights",
    "weighted_sum",
]

Shape = tuple[int, ...]

_TAILS = 0.1  # the excess kurtosis from which on a sum is told from a normal variable
_LARGEST_EXCESS = 15.0


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
    only elements of one channel are correlated. `taps_at` holds the taps of each place, weighted by the input's relief.
    `sharing` tells how places share their weights; without, none do. Other `groups` have channels of their own.
    """
    per_channel = float(taps_at.mean())
    n = channels * per_channel
    w_var, b_var = variance(w.values), variance(b.values) if b else 0.0
    mean = n * w.mean * x.mean + (b.mean if b else 0.0)
    own = max(x.second - x.mean**2 + (per_channel - 1) * (x.cross_space - x.mean**2), 0.0)
    spread = n * w_var * x.second + n * w.mean**2 * own

    def shared(cross: Any) -> Any:
        return n * w_var * cross + n * per_channel * w.mean**2 * (cross - x.mean**2)

    space, near = 0.0, None
    if sharing:
        space = shared(x.cross_space) * sharing.anywhere + b_var
        near = sharing.of(shared(x.cross_near(sharing.places)), shared(x.cross_space)) + b_var
    relief = (mean**2 + b_var + spread * taps_at / per_channel) if per_channel else None
    y = normal(mean, spread + b_var, space, shared(x.cross_batch) + b_var, relief, near)
    own_share, rho = min(spread / max(y.second, 1e-300), 1.0), x.rho_far if sharing else 1.0
    narrow = _narrowness(x.values**2, rho, channels * groups)
    even = 1 - own_share * (1 - (x.evenness or 1.0) * narrow)
    if sharing and n > 0:
        y = _with_tails(y, own_share**2 * (_kurtosis(x.values) * _kurtosis(w.values) - 3) / n)
    return replace(y, evenness=even)


def _kurtosis(values: Array) -> float:
    """E[x⁴] / E[x²]²."""
    return expect(values**4) / max(expect(values**2) ** 2, 1e-300)


def _with_tails(y: Signal, excess: float) -> Signal:
    """Return y as u + b u³, with the E|y| that a sum of this excess kurtosis has: that of few terms.

    It comes from the weights, so it is between channels.
    """
    if excess < _TAILS:
        return y
    ratio = 1 / (1 + min(excess, _LARGEST_EXCESS) / 24) ** 2  # (E|y| / that of a normal variable)², see _shape_of_sum
    b = max(np.roots([15 * ratio - 4, 6 * ratio - 4, ratio - 1]).real)
    mean, square = expect(y.values), variance(y.values)
    values = mean + math.sqrt(square / (1 + 6 * b + 15 * b**2)) * (NODES + b * NODES**3)
    space, batch = (mean**2 + square * rho for rho in (y.rho_space, y.rho_batch))
    near = None if y.rho_near is None else mean**2 + square * y.rho_near
    return replace(Signal.of_pairs(values, space, batch, y.relief, near), within=y.values)


def _narrowness(squares: Array, rho: float, channels: float, excess: float = 0.0) -> float:
    """Return E[√S] / √E[S] of the mean square S over some channels, given E[x² | u]; to first order 1 - Var(S) / 8
    E[S]².

    Elements of one channel are as alike as `rho`: all the same where a channel is one element. `excess` is what the
    channels' own kurtosis adds.
    """
    shared = _unit(common_part(squares, rho))
    spread = (expect(shared**2) * (1 + excess) - 1) / max(channels, 1.0)
    return math.exp(-min(max(spread, 0.0), 4.0) / 8)


def through_weights(
    dy: Gradient, y: Signal, w: Signal, reach: Array, channels: float, sharing: Sharing | None = None, groups: int = 1
) -> Gradient:
    """Return dx = Σ w·dy over `channels` and the places that read x: E[dx²] = m E[w²] E[dy²].

    `reach` holds, for each place of x, how many places read it, weighted by dy's relief. `sharing` tells how places of
    x share the weights; without, none do. Other `groups` have channels of their own.
    """
    m = channels * float(reach.mean()) * w.second
    space, near, far = 0.0, None, 0.0
    if sharing:
        alike = m * dy.cross_space(y.rho_space)
        space, near = alike * sharing.anywhere, sharing.of(m * dy.cross_near(y, sharing.places), alike)
        far = m * dy.cross_far(y.rho_far) * sharing.anywhere
    batch = m * dy.cross_batch(y.rho_batch)
    shape = _shape_of_sum(dy, w, channels, reach)
    even, patchy = evenness_of_sum(dy, y, channels * groups, sharing is None)
    patchy /= max(float(reach.mean()), 1.0)
    return Gradient.of(Source(m * dy.second, shape, space, batch, flatten(reach), False, even, patchy, near, far))


def evenness_of_sum(dy: Gradient, y: Signal, channels: float, alone: bool) -> tuple[float, float]:
    """Return how even dx is over samples and draws, and how patchy over places; `alone`: a channel is one element.

    Narrow layers add to its unevenness. So does the unit that a lumped gradient stands in, when it is off:
    everywhere, or, as far as its places differ, here and there.
    """
    even, patchy = dy.lasting
    lumps = [term for source, term in dy.terms.items() if source.lumped]
    if lumps:
        gate = lumps[0].second
        off = max(expect(gate) / max(expect(lumps[0].absolute) ** 2, 1e-300) - 1, 0.0)
        alike = _correlation(gate, y.rho_space)
        return even / math.sqrt(1 + alike * off), patchy + (1 - alike) * off
    if dy.second <= 0:
        return 1.0, 0.0
    if alone:
        return even * _narrowness(dy.second_at, 1.0, channels, 2.0), patchy
    coherent = clip_unit(min(dy.cross_space(1.0), dy.cross_batch(1.0)) / dy.second)
    return even * _narrowness(dy.second_at, y.rho_far, channels, 2 * coherent**2), patchy


def _correlation(values: Array, rho: float) -> float:
    """Return the correlation of f(u) and f(u'), given that of u and u'; 0 where f is all but constant."""
    spread, square = variance(values), expect(values) ** 2
    return clip_unit((cross_moment(values, rho) - square) / spread) if spread > 1e-12 * square else 0.0


def _shape_of_sum(dy: Gradient, w: Signal, channels: float, reach: Array) -> float:
    """E|Σ w·dy| / √E[(Σ w·dy)²]: that of a normal variable, another one the fewer terms there are.

    To first order 1 / (1 + κ / 24n), κ the excess kurtosis of one term; exact to 1 % for one or two products of
    normals. Of a lumped gradient one term per place counts, and the sum looks like the weights.
    """
    terms = channels * reach
    if dy.second <= 0 or w.second <= 0 or terms.max() <= 0:
        return ABS_NORMAL
    if dy.lumped:
        alone = expect(np.abs(w.values)) / math.sqrt(w.second)
        return ABS_NORMAL + (alone - ABS_NORMAL) / max(float(reach.mean()), 1.0)
    excess = _kurtosis(w.values) * dy.kurtosis - 3
    deviations = np.sqrt(terms)
    return ABS_NORMAL * float((deviations / (1 + excess / 24 / np.maximum(terms, 1e-9))).sum() / deviations.sum())


def reduced(x: Signal | None, dy: Gradient, y: Signal, count: float, shape: Shape, near: Array | None = None) -> Source:
    """Return the gradient of a param: Σ x·dy over `count` places of value `shape`; x None is 1 (a bias).

    E[(Σ x·dy)²] = Σ over pairs E[x x'] E[dy dy'], `near` the product of what either has more at a lag than on
    average. Where samples are alike its size varies from channel to channel with what they share, so E|Σ| is taken
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
        ((x.rho_batch if x else 0.0), y.rho_batch) if samples > 1 else ((x.rho_space if x else 0.0), y.rho_space)
    )
    ratio = _size_ratio(x, rho_x, dy, rho_y, coherent / second)
    return Source(second, min(ABS_NORMAL * ratio, count * abs_x * dy.mean_abs / math.sqrt(second)))


def _size_ratio(x: Signal | None, rho_x: float, dy: Gradient, rho_y: float, coherent: float) -> float:
    """E[√V] / √E[V] of a sum's variance V given what its terms share; `coherent` is the share of pairs in V."""
    ones = np.ones_like(NODES)
    alone_x = common_part(x.values**2, rho_x) if x else ones
    pairs_x = common_part(x.values, rho_x) ** 2 if x else ones
    alone_y, pairs_y = common_part(dy.second_at, rho_y), common_part(dy.mean_at, rho_y) ** 2
    variance = (1 - coherent) * np.outer(_unit(alone_x), _unit(alone_y)) + coherent * np.outer(
        _unit(pairs_x), _unit(pairs_y)
    )
    return float(WEIGHTS @ np.sqrt(np.maximum(variance, 0.0)) @ WEIGHTS)


def _unit(values: Array) -> Array:
    mean = expect(values)
    return values / mean if mean > 0 else np.ones_like(values)
