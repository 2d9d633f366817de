"""The maximum of each window of a value: its distribution, what maxima have in common, which element wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from .borders import Pairs, differences_along, middle, window_covariances
from .heuristics.window_spread import LARGEST_WINDOW, spreads
from .lags import Axis, along_axes, lag_map, mixed_maps
from .quadrature import (
    NODES,
    WEIGHTS,
    Array,
    cdf,
    clip_unit,
    correlation_for,
    correlations_for,
    cross_moments,
    expect,
    inverse_cdf,
    quantiles,
)
from .signal import Signal, normalize_profile

__all__ = ["Maximum", "window_pairs"]

_STEPS = 9  # spreads at which the second moment of the maximum is computed, interpolated in between
_DIGITS = 3  # of spreads: places that agree so far are computed together


def window_pairs(matrices: Sequence[Array], near: Array, far: float) -> tuple[Array, Array]:
    """Return, by the lag of two windows, the mean over pairs of different elements, and how many lie in both."""
    different = (lag_map(near.shape, near, far, 0.0), far), (lag_map(near.shape, None, 1.0, 0.0), 1.0)
    total, count, common = mixed_maps(matrices, [*different, (lag_map(near.shape, None, 0.0, 1.0), 0.0)])
    return np.where(count > 0, total / np.maximum(count, 1e-300), near[(0,) * near.ndim]), common


@lru_cache(maxsize=128)  # a third of a MB each
def _given_common(k: float, rho: float) -> tuple[Array, Array]:
    """Return P(max u ≤ v) of k values at the nodes, and the steps of P(max u ≤ v | c), c what they share: [v - 1, c].

    Windows of one size meet the same few correlations in all layers of a net.
    """
    given = cdf((NODES[:, None] - math.sqrt(rho) * NODES) / math.sqrt(1 - rho)) ** k
    return given @ WEIGHTS, np.diff(given, axis=0)


class Maximum:
    """The maximum of k values g(u), the correlation of their u even within a window, or made even."""

    def __init__(self, x: Signal, axes: Sequence[Axis], profile: Array) -> None:
        sizes = [axis.size for axis in axes]
        self.axes, self.matrices, self.profile = axes, [axis.reads for axis in axes], profile
        self.k = math.prod(float(m.sum(axis=1).mean()) for m in self.matrices)
        self.is_rising = bool(np.all(np.diff(x.values) >= 0))
        self.values = x.values if self.is_rising else quantiles(x.values, WEIGHTS)
        near, far, tables = x.correlations(sizes), x.rho_spatial, x.correlations_along(sizes)
        if not self.is_rising:
            near, far = correlations_for(self.values, x.cross_lag(sizes)), correlation_for(self.values, x.cross_spatial)
            tables = tuple(correlations_for(self.values, cross_moments(x.values, table)) for table in tables)
        self.pairs, self.far = Pairs(tables, near, far), far
        self.between, self.common = window_pairs(self.matrices, near, far)
        self.rho_of_pairs = clip_unit(float(self.between.flat[0]))
        self._given: dict[float, tuple[Array, Array]] = {}
        self._wins: dict[float, Array] = {}
        self.rho = 1 - self._spread**2

    @cached_property
    def distribution(self) -> Array:
        """P(max u ≤ v) at the nodes."""
        return _given_common(self.k, self.rho)[0] if self.rho < 1 else cdf(NODES)

    def pooled(self, rho: float | None = None) -> Array:
        """Return the maximum at the nodes of its own u."""
        return self._at(self.rho if rho is None else rho)[0]

    def shared(self, rho: float | None = None) -> Array:
        """E[max | c] at the nodes of c."""
        return self._at(self.rho if rho is None else rho)[1]

    def _at(self, rho: float) -> tuple[Array, Array]:
        """Return `pooled` and `shared` for a correlation; both axes of a square window ask for the same ones."""
        if rho not in self._given:
            self._given[rho] = self._pooled_and_shared(rho) if rho < 1 else (self.values, self.values)
        return self._given[rho]

    def _pooled_and_shared(self, rho: float) -> tuple[Array, Array]:
        distribution, steps = _given_common(self.k, rho)
        pooled = np.interp(np.interp(cdf(NODES), distribution, NODES), NODES, self.values)
        middles = (self.values[1:] + self.values[:-1]) / 2
        return pooled, np.asarray(middles @ steps)

    def wins(self, others: float) -> Array:
        """P(a value is larger than so many others | its u)."""
        if others not in self._wins:
            below = cdf(math.sqrt(1 - self.rho) * NODES[:, None] - math.sqrt(self.rho) * NODES)
            self._wins[others] = np.asarray(below ** max(others, 0.0) @ WEIGHTS)
        return self._wins[others]

    def rank(self) -> Array:
        """Return the maximum's own u when it is the value at each node."""
        return inverse_cdf(self.distribution)

    @cached_property
    def strengths(self) -> Array:
        """Mean second moment of what each window holds, relative to that of all elements."""
        return along_axes(self.matrices, self.profile) / along_axes(self.matrices, np.ones_like(self.profile))

    @cached_property
    def spreads(self) -> Array:
        """√(1 - ρ) of each window, ρ the even correlation that replaces those of its elements."""
        usual = math.sqrt(1 - self.rho_of_pairs)
        if not 1 < math.prod(axis.kernel for axis in self.axes) <= LARGEST_WINDOW:
            return np.full([axis.places for axis in self.axes], usual)
        covariances, inside, which = window_covariances(self.axes, self.pairs, self.profile)
        return spreads(covariances, inside, self.k)[which]

    @cached_property
    def _seconds(self) -> tuple[Array, Array, Array]:
        """Spreads, E[max²] of each, and E[(max - least)²], which rises with the spread whatever the values are."""
        grid = np.linspace(0.0, 1.0, _STEPS)
        pooled = [self.pooled(1 - spread**2) for spread in grid]
        seconds, above = ([expect((y - least) ** 2) for y in pooled] for least in (0.0, self.values.min()))
        return grid, np.array(seconds), np.array(above)

    @cached_property
    def _spread(self) -> float:
        """√(1 - ρ) with which all windows together have the second moment that they have one by one."""
        if np.ptp(self.spreads) < 1e-6:
            return min(float(self.spreads.flat[0]), 1.0)
        grid, _, above = self._seconds
        wanted = (self.strengths * _line(self.spreads, grid, above)).mean() / self.strengths.mean()
        return float(np.interp(wanted, above, grid))

    def spatial_profile(self) -> Array | None:
        """Second moment at each place relative to their mean."""
        if np.ptp(self.spreads) < 1e-6:
            return normalize_profile(self.strengths)
        grid, seconds, _ = self._seconds
        return normalize_profile(self.strengths * np.maximum(_line(self.spreads, grid, seconds), 0.0))

    def correlations_along(self, overlap: Array) -> tuple[Array, ...]:
        """Correlation of the maxima's u by place and lag along each axis.

        overlap  by lag, the correlation of what two windows do not share through all of their elements
        """
        if math.prod(axis.kernel for axis in self.axes) > LARGEST_WINDOW:
            return ()
        return tuple(self._along(number, _first(overlap, number)) for number in range(len(self.axes)))

    def _along(self, number: int, overlap: Array) -> Array:
        differences = differences_along(self.axes, self.pairs, number)
        alike = np.clip(1 - differences, 0.0, 1.0)
        places, lags = np.arange(len(alike)), np.arange(alike.shape[1])
        other = np.minimum(np.add.outer(places, lags), len(alike) - 1)
        within = np.sqrt(alike[:, :1] * alike[other, 0])
        line = middle(self.spreads, number)
        spread = np.round((line[:, None] + line[other]) / 2, _DIGITS)
        found = np.ones_like(alike)
        for value in np.unique(spread):
            rho = max(1 - float(value) ** 2, 0.0)
            pooled, shared = self.pooled(rho), self.shared(rho)
            here = spread == value
            own = np.broadcast_to(overlap, spread.shape)[here] * (expect(pooled**2) - expect(shared**2))
            ratio = np.clip(alike[here] / np.maximum(within[here], 1e-300), 0.0, 1.0)
            found[here] = correlations_for(pooled, cross_moments(shared, ratio) + own)
        found[:, 0] = 1.0
        return found


def _first(near: Array, axis: int) -> Array:
    """Return a lag map along one axis, at lag 0 of the others."""
    return near[tuple(slice(None) if a == axis else 0 for a in range(near.ndim))]


def _line(at: Array, grid: Array, values: Array) -> Array:
    """Interpolate linearly, and extrapolate beyond the end."""
    slope = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
    return np.interp(at, grid, values) + np.maximum(at - grid[-1], 0.0) * slope
