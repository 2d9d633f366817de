"""Functions of a normal variable, given by their values at fixed nodes.

Everything in this package is a function of u ~ N(0, 1), known at `NODES`. Expectations are sums with `WEIGHTS`: the
trapezoid rule, which for smooth functions is as exact as Gauss-Hermite quadrature and, with a node at 0, keeps four
digits where a function has a kink there, which Gauss-Hermite does not.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ABS_NORMAL",
    "NODES",
    "WEIGHTS",
    "Array",
    "cdf",
    "clip_unit",
    "common_part",
    "correlation_for",
    "correlations_for",
    "cross_moment",
    "cross_moments",
    "expect",
    "inverse_cdf",
    "quantiles",
    "ranks",
    "variance",
]

Array = NDArray[np.float64]

NODES: Array = np.linspace(-6.0, 6.0, 193)
WEIGHTS: Array = np.exp(-0.5 * NODES**2)
WEIGHTS /= WEIGHTS.sum()

ABS_NORMAL = math.sqrt(2 / math.pi)
"""E|u|: what a mean absolute value is to the standard deviation of a normal variable."""

_ORDERS = 256  # of Hermite polynomials: a kink has 0.01 % of its square beyond them, a step 3 %


@cache
def _cdf_table() -> tuple[Array, Array]:
    fine = np.linspace(-8.0, 8.0, 4097)
    return fine, np.array([0.5 * math.erfc(-u / math.sqrt(2)) for u in fine])


def cdf(u: Array) -> Array:
    """The normal distribution function."""
    fine, table = _cdf_table()
    return np.interp(u, fine, table)


def inverse_cdf(p: Array) -> Array:
    """The normal quantile function, cut off at ±8."""
    fine, table = _cdf_table()
    return np.interp(p, table, fine)


def expect(values: Array) -> float:
    """E[f(u)] for f given at the nodes."""
    return float(values @ WEIGHTS)


def variance(values: Array) -> float:
    """E[(f(u) - E f(u))²], never negative: no difference of two large numbers is taken."""
    return expect((values - expect(values)) ** 2)


def clip_unit(value: float) -> float:
    """Return a probability or a correlation that rounding may have carried out of 0 to 1; 0 for no number."""
    return min(max(value, 0.0), 1.0) if value == value else 0.0


def quantiles(values: Array, weights: Array) -> Array:
    """The increasing function of u that is distributed like the given values with the given probabilities.

    Its second moment is exactly theirs.
    """
    order = np.argsort(values, axis=None)
    flat, mass = values.ravel()[order], weights.ravel()[order]
    edges = np.cumsum(mass)
    result = flat[np.minimum(np.searchsorted(edges, cdf(NODES) * edges[-1]), flat.size - 1)]
    wanted, found = float((flat**2) @ mass) / edges[-1], expect(result**2)
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
    shared: Array = np.interp(points, NODES, values) @ WEIGHTS
    return shared


@cache
def _hermite() -> Array:
    """The normalized Hermite polynomials hₖ at the nodes, times the weights: [orders, nodes]."""
    rows = [np.ones_like(NODES), NODES]
    for k in range(1, _ORDERS - 1):
        rows.append((NODES * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return np.stack(rows) * WEIGHTS


def _series(values: Array) -> Array:
    """The cₖ of E[f(u) f(u')] = Σ cₖ ρᵏ: squares of f's Hermite coefficients, and what they leave of E[f²]."""
    squares = (_hermite() @ values) ** 2
    return np.append(squares, max(expect(values**2) - float(squares.sum()), 0.0))


def _powers(rho: Array) -> Array:
    """ρᵏ for the k of `_series`; what lies beyond the orders is taken to stand at twice their number."""
    powers = np.ones((*np.shape(rho), _ORDERS + 1))
    powers[..., 1:] = np.asarray(rho)[..., None]
    np.multiply.accumulate(powers, axis=-1, out=powers)
    powers[..., -1] **= 2
    return powers


@cache
def _correlations() -> tuple[Array, Array]:
    """Correlations from 0 to 1, dense near 1, and their powers."""
    rho = 1 - np.linspace(1, 0, 129) ** 3
    return rho, _powers(rho)


def cross_moments(values: Array, rho: Array) -> Array:
    """E[f(u) f(u')] for normal u, u' of each of the correlations ρ between 0 and 1. (Mehler's formula)"""
    return _powers(rho) @ _series(values)


def cross_moment(values: Array, rho: float) -> float:
    """E[f(u) f(u')] for normal u, u' of correlation ρ between 0 and 1."""
    return float(cross_moments(values, np.array(rho)))


def correlations_for(values: Array, wanted: Array) -> Array:
    """For each wanted cross moment of f the ρ between 0 and 1 that comes closest to it."""
    rho, powers = _correlations()
    found = np.interp(wanted, powers @ _series(values), rho)
    return np.where(wanted <= expect(values) ** 2, 0.0, np.where(wanted >= expect(values**2), 1.0, found))


def correlation_for(values: Array, wanted: float) -> float:
    """The ρ between 0 and 1 at which the cross moment of f comes closest to the wanted one."""
    return float(correlations_for(values, np.array(wanted)))
