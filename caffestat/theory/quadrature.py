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
    "common_part",
    "correlation_for",
    "cross_moment",
    "expect",
    "inverse_cdf",
    "quantiles",
    "ranks",
]

Array = NDArray[np.float64]

NODES: Array = np.linspace(-6.0, 6.0, 193)
WEIGHTS: Array = np.exp(-0.5 * NODES**2)
WEIGHTS /= WEIGHTS.sum()

ABS_NORMAL = math.sqrt(2 / math.pi)
"""E|u|: what a mean absolute value is to the standard deviation of a normal variable."""

_STEPS = 24  # bisection steps: 2^-24 is below what the quadrature can tell


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
    if rho <= 0:
        return np.full_like(NODES, expect(values))
    if rho >= 1:
        return values
    points = math.sqrt(rho) * NODES[:, None] + math.sqrt(1 - rho) * NODES
    shared: Array = np.interp(points, NODES, values) @ WEIGHTS
    return shared


def cross_moment(values: Array, rho: float) -> float:
    """E[f(u) f(u')] for normal u, u' of correlation ρ between 0 and 1."""
    return expect(common_part(values, rho) ** 2)


def correlation_for(values: Array, wanted: float) -> float:
    """The ρ between 0 and 1 at which the cross moment of f comes closest to the wanted one."""
    low, high = 0.0, 1.0
    if wanted <= expect(values) ** 2:
        return 0.0
    if wanted >= expect(values**2):
        return 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if cross_moment(values, middle) < wanted else (low, middle)
    return low
