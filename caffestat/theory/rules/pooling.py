"""Pooling: order statistics for the maximum, sums of correlated values for the average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..quadrature import (
    ABS_NORMAL,
    NODES,
    WEIGHTS,
    Array,
    cdf,
    correlation_for,
    cross_moment,
    expect,
    inverse_cdf,
    quantiles,
    ranks,
)
from ..signal import Gradient, Signal, Source, Term, flatten, normal
from ..sums import slide, taps
from .linear import known, relief_of

Gradients = Sequence[Gradient | None]

_UNION = 1.5


def _windows(walk: Walk, node: Node) -> list[Array]:
    """Return per spatial axis which elements each window holds."""
    sizes, places = walk.shape(node.inputs[0])[2:], walk.shape(node.outputs[0])[2:]
    ones, pads = [1] * len(sizes), node.get("pads") or [0] * len(sizes)
    strides, dilations = node.get("strides") or ones, node.get("dilations") or ones
    kernel = node.get("kernel_shape") or sizes
    axes = zip(sizes, places, kernel, strides, pads, dilations, strict=False)  # of the pads, those before
    return [taps(*axis) for axis in axes]


def _coverage(matrices: Sequence[Array]) -> float:
    """Return how many windows an element lies in, on average."""
    return math.prod(float(m.sum()) / m.shape[1] for m in matrices)


class _Maximum:
    """The maximum of k values g(u), their u equally correlated."""

    def __init__(self, x: Signal, k: float) -> None:
        self.k = k
        self.is_rising = bool(np.all(np.diff(x.values) >= 0))
        self.values = x.values if self.is_rising else quantiles(x.values, WEIGHTS)
        self.rho = x.rho_space if self.is_rising else correlation_for(self.values, x.cross_space)
        self.distribution = self._given_common() @ WEIGHTS if self.rho < 1 else cdf(NODES)

    def _given_common(self) -> Array:
        """P(max u ≤ v | c): [v, c], c what all k share."""
        return np.asarray(cdf((NODES[:, None] - math.sqrt(self.rho) * NODES) / math.sqrt(1 - self.rho)) ** self.k)

    def pooled(self) -> Array:
        """The maximum at the nodes of its own u."""
        return np.interp(np.interp(cdf(NODES), self.distribution, NODES), NODES, self.values)

    def shared(self) -> Array:
        """E[max | c] at the nodes of c."""
        if self.rho >= 1:
            return self.values
        between = (self.values[1:] + self.values[:-1]) / 2
        return np.asarray(between @ np.diff(self._given_common(), axis=0))

    def wins(self) -> Array:
        """P(a value is the maximum | its u)."""
        rho = min(self.rho, 1.0)
        others = cdf(math.sqrt(1 - rho) * NODES[:, None] - math.sqrt(rho) * NODES) ** max(self.k - 1, 0.0)
        return np.asarray(others @ WEIGHTS)

    def rank(self) -> Array:
        """The maximum's own u when it is the value at each node."""
        return inverse_cdf(self.distribution)


def _maximum(walk: Walk, node: Node) -> tuple[Signal, _Maximum, list[Array]]:
    x, matrices = known(walk.signal(node.inputs[0])), _windows(walk, node)
    k = math.prod(float(m.sum(axis=1).mean()) for m in matrices)
    return x, _Maximum(x, k), matrices


@moments("MaxPool", "GlobalMaxPool")
def max_pool(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """y = max over the window: P(y ≤ v) = E[P(x ≤ v | c)^k]."""
    x, maximum, matrices = _maximum(walk, node)
    values, shared = maximum.pooled(), maximum.shared()
    between = min(x.rho_batch / maximum.rho, 1.0) if maximum.rho > 0 else 0.0
    relief = slide(matrices, relief_of(x.relief, walk.shape(node.inputs[0])[2:]))
    relief = relief / slide(matrices, np.ones(walk.shape(node.inputs[0])[2:]))
    y = Signal.of_pairs(values, cross_moment(shared, 1.0), cross_moment(shared, between), flatten(relief))
    return [y, *[None] * (len(node.outputs) - 1)]


@backward_moments("MaxPool", "GlobalMaxPool")
def max_pool_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Σ dy over the windows whose maximum x is: large values get more of it."""
    dy = dys[0]
    if dy is None:
        return [None]
    x, maximum, matrices = _maximum(walk, node)
    covered, wins, u = _coverage(matrices), maximum.wins(), maximum.rank()
    terms = {}
    for source, term in dy.terms.items():
        reach = slide([m.T for m in matrices], relief_of(source.relief, walk.shape(node.outputs[0])[2:]))
        moved = replace(source, relief=flatten(reach))
        here = _won(term.at(u), wins, covered, source.cross_space / source.second if source.second else 0.0)
        terms[moved] = here if maximum.is_rising else here.at(ranks(x.values, maximum.values))
    return [Gradient(terms)]


def _won(term: Term, wins: Array, covered: float, alike: float) -> Term:
    """Return what an element gets that lies in `covered` windows, the maximum of each with probability `wins`.

    Windows that it wins together add up, all the more the more `alike` their gradients are. Two windows hold about half
    as much again as one, hence the exponent.
    """
    both = max(covered * (covered - 1), 0.0) * wins**_UNION
    second = covered * wins * term.second + both * alike * term.mean**2
    several = np.sqrt(1 + max(covered - 1, 0.0) * (1 - alike) * wins)
    # where windows leave gaps, the relief says that nothing arrives there
    reached = max(covered, math.sqrt(covered))
    return Term(covered * wins * term.mean, second, reached * wins * term.absolute / several)


def _averaging(walk: Walk, node: Node) -> list[Array]:
    """Return per axis the weights of each window: 1 / its size, padding counted in when the op says so."""
    matrices = _windows(walk, node)
    if node.get("count_include_pad", 0):
        return [m / k for m, k in zip(matrices, node.get("kernel_shape"), strict=True)]
    return [m / np.maximum(m.sum(axis=1, keepdims=True), 1) for m in matrices]


def spread_sum(matrices: Sequence[Array], second: float, cross: float, relief: Array) -> Array:
    """Return E[(Σ a·x)²] at each place for weights a and x of which pairs have the second moment `cross`."""
    alone, together = slide([m**2 for m in matrices], relief), slide(matrices, np.sqrt(relief))
    return (second - cross) * alone + cross * together**2


@moments("AveragePool", "GlobalAveragePool")
def average_pool(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = mean over the window: the mean stays, the variance falls by how many values there are that differ."""
    x, matrices = known(walk.signal(node.inputs[0])), _averaging(walk, node)
    relief = relief_of(x.relief, walk.shape(node.inputs[0])[2:])
    at = spread_sum(matrices, x.second, x.cross_space, relief)
    together = slide(matrices, np.sqrt(relief))
    second, mean = float(at.mean()), expect(x.values) * float(together.mean())
    flat = flatten(at)
    scale = 1.0 if flat is None else float(np.sqrt(flat).mean())
    values = positive_or_normal(mean / scale, second, bool(np.min(x.values) >= 0))
    kept = float((together**2).mean())
    return [Signal.of_pairs(values, kept * x.cross_space, kept * x.cross_batch, flat)]


def positive_or_normal(mean: float, second: float, positive: bool) -> Array:
    """Return a distribution of these moments: lognormal for sums of what is never negative, else normal."""
    if positive and mean > 0:
        spread = math.sqrt(max(math.log(second / mean**2), 0.0))
        return np.asarray(mean * np.exp(spread * NODES - spread**2 / 2))
    return normal(mean, second - mean**2).values


@backward_moments("AveragePool", "GlobalAveragePool")
def average_pool_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Σ dy / k over the windows that hold x, which its neighbours share."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    matrices = _averaging(walk, node)
    relief = relief_of(dy.relief, walk.shape(node.outputs[0])[2:])
    cross, batch = dy.cross_space(y.rho_space), dy.cross_batch(y.rho_batch)
    turned = [m.T for m in matrices]
    at = spread_sum(turned, dy.second, cross, relief)
    second, reach = float(at.mean()), slide(turned, np.ones(walk.shape(node.outputs[0])[2:]))
    shape = dy.shape if _coverage(_windows(walk, node)) <= 1.001 else ABS_NORMAL
    pairs = _pairs(matrices, dy.second, cross, second, at.size)
    return [
        Gradient.of(Source(second, shape, pairs, batch * float(reach.mean()) ** 2, flatten(at), dy.lumped, dy.evenness))
    ]


def _pairs(matrices: Sequence[Array], dy_second: float, dy_cross: float, second: float, places: int) -> float:
    """Return the mean of E[dx dx'] over pairs of places, from E[(Σ dx)²]: sums survive averaging."""
    if places < 2:
        return 0.0
    weights = [m.sum(axis=1) for m in matrices]
    squares, total = math.prod(float((w**2).sum()) for w in weights), math.prod(float(w.sum()) for w in weights)
    whole = (dy_second - dy_cross) * squares + dy_cross * total**2
    return max((whole - places * second) / (places * (places - 1)), 0.0)
