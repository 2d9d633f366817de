"""Functions of a normal variable, given by their values at fixed nodes.

Everything in this package is a function of u ~ N(0, 1), known at `NODES`. Expectations are sums with `WEIGHTS`: the
trapezoid rule, which for smooth functions is as exact as Gauss-Hermite quadrature and, with a node at 0, keeps four
digits where a function has a kink there, which Gauss-Hermite does not.
"""

from __future__ import annotations

import math
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ABS_NORMAL",
    "NODES",
    "WEIGHTS",
    "Array",
    "CrossMoments",
    "Points",
    "cdf",
    "clip_unit",
    "clip_units",
    "common_part",
    "correlation_for",
    "correlations_for",
    "cross_moment",
    "cross_moments",
    "expect",
    "inverse_cdf",
    "quantiles",
    "quantiles_of",
    "ranks",
    "variance",
]

Array = NDArray[np.float64]

NODES: Array = np.linspace(-6.0, 6.0, 193)
WEIGHTS: Array = np.exp(-0.5 * NODES**2)
WEIGHTS /= WEIGHTS.sum()

ABS_NORMAL = math.sqrt(2 / math.pi)
"""E|u|: what a mean absolute value is to the standard deviation of a normal variable."""

_INTERVALS = 256  # of the grid of correlations
_FEW = 64  # correlations for which no table is made
_ORDERS = 256  # of Hermite polynomials: a kink has 0.01 % of its square beyond them, a step 3 %


@cache
def _cdf_table() -> Array:
    return np.array([0.5 * math.erfc(-u / math.sqrt(2)) for u in _cdf_points()])


@cache
def _cdf_points() -> Array:
    return np.linspace(-8.0, 8.0, 4097)


class Points:
    """Points among evenly spaced ones, at which several functions are interpolated: `np.interp` without its search."""

    def __init__(self, at: Array, first: float, last: float, count: int) -> None:
        position = np.clip((at - first) * ((count - 1) / (last - first)), 0.0, count - 1.0)
        self._left = np.minimum(position.astype(np.intp), count - 2)
        self._share = position - self._left

    @classmethod
    def among_nodes(cls, u: Array) -> Points:
        """Return them for functions that are given at the nodes."""
        return cls(u, float(NODES[0]), float(NODES[-1]), NODES.size)

    def of(self, table: Array) -> Array:
        """Return the values of a function; those of a constant are one number, broadcast."""
        if table[0] == table[-1] and np.ptp(table) == 0:
            return np.broadcast_to(table[0], self._left.shape)
        found = table[self._left]
        found += self._share * np.diff(table)[self._left]
        return np.asarray(found)

    def sums_at_nodes(self, weights: Array, axis: int) -> Array:
        """Return the matrix that makes of a function at the nodes Σ f · weights over the points of each row (axis 0)
        or column (axis 1) of a table of points.
        """
        left, share, weights = (np.moveaxis(table, axis, 0) for table in (self._left, self._share, weights))
        size, further = len(left) * NODES.size, (share * weights).ravel()
        nodes = (np.arange(len(left))[:, None] * NODES.size + left).ravel()
        found = np.bincount(nodes, weights.ravel() - further, size)
        found[1:] += np.bincount(nodes, further, size)[:-1]
        return np.asarray(found, float).reshape(len(left), NODES.size)


def cdf(u: Array) -> Array:
    """Return the normal distribution function."""
    return Points(u, -8.0, 8.0, _cdf_table().size).of(_cdf_table())


def inverse_cdf(p: Array) -> Array:
    """Return the normal quantile function, cut off at ±8."""
    return np.interp(p, _cdf_table(), _cdf_points())


def expect(values: Array) -> float:
    """E[f(u)] for f given at the nodes."""
    return float(values @ WEIGHTS)


def variance(values: Array) -> float:
    """E[(f(u) - E f(u))²], never negative: no difference of two large numbers is taken."""
    return expect((values - expect(values)) ** 2)


def clip_unit(value: float) -> float:
    """Clip a probability or a correlation to 0 to 1, which rounding may have carried it out of; 0 for NaN."""
    return min(max(value, 0.0), 1.0) if value == value else 0.0


def clip_units(values: Array) -> Array:
    """Return the same of many; what was broadcast stays so."""
    distinct = values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in values.strides)]
    return np.broadcast_to(np.fmin(np.fmax(distinct, 0.0), 1.0), values.shape)


def quantiles(values: Array, weights: Array) -> Array:
    """Return the increasing function of u that is distributed like the given values with the given probabilities.

    Its second moment is exactly theirs.
    """
    order = np.argsort(values, axis=None)
    return _quantiles(values.ravel()[order], weights.ravel()[order])


def quantiles_of(sample: Array) -> Array:
    """Return the same of values that are equally probable; two distinct numbers, as of a mask, are counted."""
    ends = np.array([sample.min(), sample.max()])
    counts = np.array([np.count_nonzero(sample == end) for end in ends])
    if counts.sum() == sample.size:
        return _quantiles(ends, counts / sample.size)
    return _quantiles(np.sort(sample, axis=None), np.full(sample.size, 1 / sample.size))


def _quantiles(rising: Array, mass: Array) -> Array:
    edges = np.cumsum(mass)
    result = rising[np.minimum(np.searchsorted(edges, cdf(NODES) * edges[-1]), rising.size - 1)]
    wanted, found = float((rising**2) @ mass) / edges[-1], expect(result**2)
    return result * math.sqrt(wanted / found) if found > 0 else result


def ranks(values: Array, among: Array) -> Array:
    """For each value the u at which an increasing function of the same distribution as `among` takes it.

    `among` is given at the nodes. Equal values share the middle of their ranks.
    """
    order = np.argsort(among)
    ordered = among[order]
    edges = np.concatenate(([0.0], np.cumsum(WEIGHTS[order])))
    low, high = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return inverse_cdf((edges[low] + edges[high]) / 2)


def common_part(values: Array, rho: float) -> Array:
    """E[f(√ρ c + √(1-ρ) e) | c] at the nodes of c: what two variables of correlation ρ share."""
    if not rho > 0:
        return np.full_like(NODES, expect(values))
    if rho >= 1:
        return values
    points = math.sqrt(rho) * NODES[:, None] + math.sqrt(1 - rho) * NODES
    shared: Array = Points.among_nodes(points).of(values) @ WEIGHTS
    return shared


@cache
def _hermite() -> Array:
    """The normalized Hermite polynomials hₖ at the nodes, times the weights: [orders, nodes]."""
    rows = [np.ones_like(NODES), NODES]
    for k in range(1, _ORDERS - 1):
        rows.append((NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * WEIGHTS


def _powers(rho: Array) -> Array:
    """ρᵏ for the k of a `CrossMoments`; what lies beyond the orders is taken to stand at twice their number."""
    powers = np.ones((*np.shape(rho), _ORDERS + 1))
    powers[..., 1:] = np.asarray(rho)[..., None]
    np.multiply.accumulate(powers, axis=-1, out=powers)
    powers[..., -1] **= 2
    return powers


@cache
def _grid() -> tuple[Array, Array]:
    """Correlations from 1 to 0, dense near 1: 1 - (i / _INTERVALS)³; and their powers."""
    rho = 1 - np.linspace(0.0, 1.0, _INTERVALS + 1) ** 3
    return rho, _powers(rho)


class CrossMoments:
    """E[f(u) f(u')] for normal u, u', as a function of their correlation ρ between 0 and 1. (Mehler's formula)"""

    def __init__(self, values: Array) -> None:
        squares = (_hermite() @ values) ** 2
        self._values = values
        self._terms = np.append(squares, max(expect(values**2) - float(squares.sum()), 0.0))

    @cached_property
    def _table(self) -> Array:
        """The function on the grid."""
        return np.asarray(_grid()[1] @ self._terms)

    def __call__(self, rho: Array) -> Array:
        """Return it at each of the correlations; what was broadcast is computed once."""
        distinct = rho[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in rho.strides)]
        found = _powers(distinct) @ self._terms if distinct.size <= _FEW else self._interpolated(distinct)
        return np.broadcast_to(found, rho.shape) if rho.size > distinct.size else np.asarray(found)

    def at(self, rho: float) -> float:
        """Return it at one correlation."""
        return float(self(np.array(rho)))

    def _interpolated(self, rho: Array) -> Array:
        """Return the cubic through the four nearest points of the grid: off by 1e-8 of E[f²]."""
        position = np.cbrt(1 - rho) * _INTERVALS
        left = np.clip(position.astype(np.intp), 1, _INTERVALS - 2)
        x, table = position - left, self._table
        before, beyond = x * (x - 1), (x + 1) * (x - 2)
        inner = before * (table[left + 2] * (x + 1) - table[left - 1] * (x - 2)) / 6
        return np.asarray(inner + beyond * (table[left] * (x - 1) - table[left + 1] * x) / 2)

    def correlations_for(self, wanted: Array) -> Array:
        """Return for each wanted moment the ρ that comes closest to it."""
        found = np.interp(wanted, self._table[::-2], _grid()[0][::-2])
        least, most = expect(self._values) ** 2, expect(self._values**2)
        return np.where(wanted <= least, 0.0, np.where(wanted >= most, 1.0, found))


def cross_moments(values: Array, rho: Array) -> Array:
    """E[f(u) f(u')] for normal u, u' of each of the correlations ρ between 0 and 1."""
    return CrossMoments(values)(rho)


def cross_moment(values: Array, rho: float) -> float:
    """E[f(u) f(u')] for normal u, u' of correlation ρ between 0 and 1."""
    return CrossMoments(values).at(rho)


def correlations_for(values: Array, wanted: Array) -> Array:
    """For each wanted cross moment of f the ρ between 0 and 1 that comes closest to it."""
    return CrossMoments(values).correlations_for(wanted)


def correlation_for(values: Array, wanted: float) -> float:
    """Return the ρ between 0 and 1 at which the cross moment of f comes closest to the wanted one."""
    return float(correlations_for(values, np.array(wanted)))
