"""What is known of a value and of its gradient before anything is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .borders import correlations_of, later, middle, steady
from .heuristics.sparse_sums import mean_abs_of_sum
from .lags import lag_map
from .quadrature import (
    ABS_NORMAL,
    NODES,
    Array,
    CrossMoments,
    Points,
    clip_unit,
    clip_units,
    expect,
)

__all__ = ["UNKNOWN", "Gradient", "Moments", "Signal", "Source", "Term", "normal"]


@dataclass(frozen=True)
class Moments:
    """Mean, second moment and mean absolute value over all elements."""

    mean: float
    second: float
    mean_abs: float


@dataclass(frozen=True, eq=False)
class Signal:
    """A value [N, C, places…] as a function of a hidden normal variable u, one for each element.

    values           x at the nodes of u
    rho_spatial      spatial correlation: of u between two places of one channel of one sample
    rho_sample       sample correlation: of u between two samples, same channel
    rho_lag          lag correlation: of u by the lag of two places (see lags.py); None when all equal rho_spatial
    rho_along        the same by place and lag, one table per axis (see borders.py); () where only lags are known
    spatial_profile  second moment at each place relative to their mean, where it varies: padding makes borders weaker
    channel_values   x at the nodes in a channel of average size, where channels differ in size; None where they do not
    components       share and signal of each component of a mixture: the channels of the inputs of a Concat
    latent           which u: signals computed element by element from one value share it
    finite_width     finite-width correction E[√S] / √E[S], S the second moment of one draw of the weights: below 1 in
                     narrow nets, where draws differ; None until the walk has computed it
    """

    values: Array
    rho_spatial: float = 0.0
    rho_sample: float = 0.0
    spatial_profile: Array | None = None
    latent: object = field(default_factory=object)
    finite_width: float | None = None
    rho_lag: Array | None = None
    channel_values: Array | None = None
    components: tuple[tuple[float, Signal], ...] = ()
    rho_along: tuple[Array, ...] = ()

    def __post_init__(self) -> None:
        """Keep correlations within 0 to 1, from wherever they are computed."""
        _set(self, rho_spatial=clip_unit(self.rho_spatial), rho_sample=clip_unit(self.rho_sample))
        if self.rho_lag is not None:
            _set(self, rho_lag=clip_units(self.rho_lag))
        _set(self, rho_along=tuple(map(clip_units, self.rho_along)))
        if self.finite_width is not None:
            _set(self, finite_width=clip_unit(self.finite_width))

    @classmethod
    def of_pairs(
        cls,
        values: Array,
        space: float,
        batch: float,
        spatial_profile: Array | None = None,
        near: Array | None = None,
        along: Sequence[Array] = (),
    ) -> Signal:
        """Return a fresh signal of these values, given E[x x'] at two places, in two samples, by lag and along axes."""
        crossed, second = CrossMoments(values), expect(values**2)
        rho_spatial, rho_sample = map(float, crossed.correlations_for(np.array([space, batch])))
        lags = None if near is None else crossed.correlations_for(near)
        tables = tuple(crossed.correlations_for(second * correlations_of(products)) for products in along)
        return cls(values, rho_spatial, rho_sample, spatial_profile, rho_lag=lags, rho_along=tables)

    @cached_property
    def crossed(self) -> CrossMoments:
        """E[x x'] by the correlation of u."""
        return CrossMoments(self.values)

    @cached_property
    def mean(self) -> float:
        """E[x]."""
        return expect(self.values) * _root(self.spatial_profile)

    @cached_property
    def second(self) -> float:
        """E[x²]."""
        return expect(self.values**2)

    @cached_property
    def mean_abs(self) -> float:
        """E|x|, what debug_info prints."""
        return (
            expect(np.abs(self.values))
            * _root(self.spatial_profile)
            * (1.0 if self.finite_width is None else self.finite_width)
        )

    @cached_property
    def cross_spatial(self) -> float:
        """E[x x'] at two places of one channel of one sample."""
        return self.crossed.at(self.rho_spatial)

    @cached_property
    def cross_sample(self) -> float:
        """E[x x'] in two samples."""
        return self.crossed.at(self.rho_sample)

    def correlations(self, places: Sequence[int]) -> Array:
        """Correlation of u by the lag of two of the places."""
        return lag_map(places, self.rho_lag, self.rho_spatial, 1.0)

    def cross_lag(self, places: Sequence[int]) -> Array:
        """E[x x'] by the lag of two of the places."""
        return self.crossed(self.correlations(places))

    def is_even(self, places: Sequence[int]) -> bool:
        """Tell whether a lag means the same everywhere: nothing is known of single ones of these places."""
        return not self._has_tables(places) and not self._has_profile(places)

    def _has_tables(self, places: Sequence[int]) -> bool:
        return bool(self.rho_along) and [table.shape[0] for table in self.rho_along] == list(places)

    def _has_profile(self, places: Sequence[int]) -> bool:
        return self.spatial_profile is not None and self.spatial_profile.shape == tuple(places)

    def correlations_along(self, places: Sequence[int]) -> tuple[Array, ...]:
        """Correlation of u by place and lag along each axis of these places."""
        return self.rho_along if self._has_tables(places) else steady(self.correlations(places), places)

    def strengths_along(self, axis: int, places: Sequence[int]) -> Array:
        """√ of the second moment at each place along an axis, relative to the mean over all places."""
        profile = self.spatial_profile if self._has_profile(places) else None
        return np.ones(places[axis]) if profile is None else np.sqrt(middle(profile, axis))

    def cross_along(self, places: Sequence[int]) -> list[Array]:
        """E[x x'] by place and lag along each axis, E[x²] at lag 0."""
        found = [self.crossed(table) for table in self.correlations_along(places)]
        if not self._has_profile(places):
            return found
        lines = [self.strengths_along(axis, places) for axis in range(len(found))]
        pairs = zip(lines, found, strict=True)
        return [line[:, None] * later(line, products.shape[1]) * products for line, products in pairs]

    @property
    def cross_other(self) -> float:
        """E[x x'] at another place of another sample."""
        return min(self.cross_spatial, self.cross_sample)

    @property
    def crosses(self) -> tuple[float, float, float]:
        """E[x x'] at another place, in another sample, and both."""
        return self.cross_spatial, self.cross_sample, self.cross_other

    @property
    def rho_other(self) -> float:
        """Correlation of u between any two elements of a channel."""
        return min(self.rho_spatial, self.rho_sample)

    @property
    def moments(self) -> Moments:
        """What is printed."""
        return Moments(self.mean, self.second, self.mean_abs)

    def share_beyond(self, edge: float) -> float:
        """P(|x| > edge)."""
        return expect((np.abs(self.values) > edge).astype(np.float64))

    @property
    def is_constant(self) -> bool:
        """Whether all elements are one number."""
        return bool(np.ptp(self.values) == 0)


def normal(
    mean: float,
    variance: float,
    cross_spatial: float = 0.0,
    cross_sample: float = 0.0,
    spatial_profile: Array | None = None,
    cross_lag: Array | None = None,
) -> Signal:
    """Return N(mean, variance), given the covariances between places, between samples, and by lag."""
    inverse = 1 / variance if variance > 0 else 0.0
    space, batch = (clip_unit(cross * inverse) for cross in (cross_spatial, cross_sample))
    near = None if cross_lag is None else cross_lag * inverse
    return Signal(
        mean + math.sqrt(max(variance, 0.0)) * NODES, space, batch, normalize_profile(spatial_profile), rho_lag=near
    )


def normalize_profile(spatial_profile: Array | None) -> Array | None:
    """Return a spatial_profile whose mean is 1, None when it is flat."""
    if (
        spatial_profile is None
        or spatial_profile.size == 0
        or np.ptp(spatial_profile) <= 1e-9 * np.max(spatial_profile)
    ):
        return None
    return spatial_profile / spatial_profile.mean()


def _set(frozen: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _root(spatial_profile: Array | None) -> float:
    return 1.0 if spatial_profile is None else float(np.sqrt(spatial_profile).mean())


@dataclass(frozen=True, eq=False)
class Source:
    """A zero-mean gradient that is independent of the signals before it: what a sum over random weights gives.

    shape             E|d| / √E[d²]: √(2/π) when normal, less when it is sparse
    one_hot           one element of a sample holds most of it: a softmax's label
    finite_width      E[√S] / √E[S], S its second moment in one sample and one draw of the weights
    spatial_variance  Var(S) / E[S]², S its second moment at one place: what a kernel of several taps averages out
    cross_spatial     E[d d'] at two places of one channel of one sample
    cross_sample      E[d d'] in two samples
    cross_lag         E[d d'] by the lag of two places; None when all equal cross_spatial
    cross_other       E[d d'] at another place of another sample; None for the smaller of cross_spatial, cross_sample
    """

    second: float
    shape: float = ABS_NORMAL
    cross_spatial: float = 0.0
    cross_sample: float = 0.0
    spatial_profile: Array | None = None
    one_hot: bool = False
    finite_width: float = 1.0
    spatial_variance: float = 0.0
    cross_lag: Array | None = None
    cross_other: float | None = None

    def __post_init__(self) -> None:
        """Keep every moment within its range, from wherever it is computed: |E[d d']| is at most E[d²]."""
        second = max(self.second, 0.0)
        _set(self, second=second, shape=clip_unit(self.shape), finite_width=clip_unit(self.finite_width))
        _set(self, spatial_variance=max(self.spatial_variance, 0.0))
        for name in ("cross_spatial", "cross_sample", "cross_other"):
            cross = getattr(self, name)
            if cross is not None:
                _set(self, **{name: min(max(cross, -second), second) if cross == cross else 0.0})
        if self.cross_lag is not None:
            _set(self, cross_lag=np.clip(np.nan_to_num(self.cross_lag), -second, second))

    @property
    def other(self) -> float:
        """E[d d'] at another place of another sample."""
        return min(self.cross_spatial, self.cross_sample) if self.cross_other is None else self.cross_other


@dataclass(frozen=True)
class Term:
    """What a source is multiplied by on its way, given the u of the value whose gradient this is: a(u), mostly random.

    mean, second, absolute: E[a|u], E[a²|u], E[|a| |u] at the nodes.
    """

    mean: Array
    second: Array
    absolute: Array

    @cached_property
    def crossed(self) -> CrossMoments:
        """E[a a'], given both u, by their correlation."""
        return CrossMoments(self.mean)

    def times(self, other: Term) -> Term:
        """Multiply by an independent factor."""
        return Term(self.mean * other.mean, self.second * other.second, self.absolute * other.absolute)

    def plus(self, other: Term) -> Term:
        """Add what reaches the value from the same source by another way."""
        mean = self.mean + other.mean
        second = np.maximum(self.second + other.second + 2 * self.mean * other.mean, mean**2)
        return Term(mean, second, np.clip(self.absolute + other.absolute, np.abs(mean), np.sqrt(second)))

    def at(self, points: Points) -> Term:
        """Return the factor at other points than the nodes."""
        return Term(*map(points.of, (self.mean, self.second, self.absolute)))


def factor(values: Array) -> Term:
    """Return the Term of a factor that u decides."""
    return Term(values, values**2, np.abs(values))


ONE = factor(np.ones_like(NODES))


@dataclass(frozen=True, eq=False)
class Gradient:
    """The gradient of a value: independent sources, each with its factor. Not known where an op without a rule
    lies on the way.
    """

    terms: dict[Source, Term]
    known: bool = True

    @classmethod
    def of(cls, source: Source) -> Gradient:
        """Return the gradient that is the source itself."""
        return cls({source: ONE})

    @classmethod
    def profiled(cls, source: Source, second_at: Array, y: Signal, places: Sequence[int]) -> Gradient:
        """Return the gradient of y with the moments of `source` over all elements, large where `second_at` is."""
        if not expect(second_at) > 0:
            return cls.of(source)
        profile = np.sqrt(np.maximum(second_at, 0.0) / expect(second_at))
        crossed = CrossMoments(profile)
        alone = replace(
            source,
            shape=source.shape / expect(profile),
            cross_spatial=source.cross_spatial / crossed.at(y.rho_spatial),
            cross_sample=source.cross_sample / crossed.at(y.rho_sample),
            cross_other=source.other / crossed.at(y.rho_other),
            cross_lag=lag_map(places, source.cross_lag, source.cross_spatial, source.second)
            / crossed(y.correlations(places)),
        )
        return cls.of(alone).times(factor(profile))

    def times(self, other: Term) -> Gradient:
        """Multiply by a factor."""
        return Gradient({source: term.times(other) for source, term in self.terms.items()}, self.known)

    def plus(self, other: Gradient) -> Gradient:
        """Add the gradient that comes by another way."""
        terms = dict(self.terms)
        for source, term in other.terms.items():
            terms[source] = terms[source].plus(term) if source in terms else term
        return Gradient(terms, self.known and other.known)

    @cached_property
    def second_at(self) -> Array:
        """E[dx² | u] at the nodes."""
        return sum((source.second * term.second for source, term in self.terms.items()), np.zeros_like(NODES))

    @cached_property
    def mean_at(self) -> Array:
        """√ of the part of E[dx² | u] that is certain given u, for a source of second moment 1."""
        total = sum((source.second * term.mean**2 for source, term in self.terms.items()), np.zeros_like(NODES))
        return np.sqrt(total)

    @cached_property
    def second(self) -> float:
        """E[dx²]."""
        return expect(self.second_at)

    @cached_property
    def spatial_profile(self) -> Array | None:
        """Second moment at each place relative to their mean."""
        parts = [(source.second * expect(term.second), source.spatial_profile) for source, term in self.terms.items()]
        maps = [spatial_profile for _, spatial_profile in parts if spatial_profile is not None]
        if not maps or self.second <= 0:
            return None
        flat = np.ones_like(maps[0])
        return normalize_profile(sum((weight * (flat if r is None else r) for weight, r in parts), np.zeros_like(flat)))

    @cached_property
    def shape(self) -> float:
        """E|dx| / √E[dx²] at one place."""
        parts = [(s.second * t.second, s.shape * math.sqrt(s.second) * t.absolute) for s, t in self.terms.items()]
        return expect(mean_abs_of_sum(parts)) / math.sqrt(self.second) if self.second > 0 else ABS_NORMAL

    @cached_property
    def mean_abs(self) -> float:
        """E|dx|, what debug_info prints."""
        return self.shape * math.sqrt(self.second) * _root(self.spatial_profile) * self.finite_width

    @property
    def finite_width(self) -> float:
        """E[√S] / √E[S] over samples and draws of the weights."""
        return self._weighed(
            [source.finite_width / math.sqrt(1 + source.spatial_variance) for source in self.terms], 1.0
        )

    @property
    def width_and_variance(self) -> tuple[float, float]:
        """The finite_width that stays where places are mixed, and the spatial_variance, which does not."""
        width = self._weighed([source.finite_width for source in self.terms], 1.0)
        return width, self._weighed([source.spatial_variance for source in self.terms], 0.0)

    def _weighed(self, values: Sequence[float], default: float) -> float:
        """Return the mean over the sources, by what they contribute."""
        weights = [source.second * expect(term.second) for source, term in self.terms.items()]
        return float(np.dot(weights, values)) / self.second if self.second > 0 else default

    @property
    def one_hot(self) -> bool:
        """Whether one element of a sample holds most of it."""
        return any(source.one_hot for source in self.terms)

    @property
    def kurtosis(self) -> float:
        """E[dx⁴] / E[dx²]², estimated from the mean absolute value; exact for normal values with zeros among them."""
        return 3 * (ABS_NORMAL / max(self.shape, 1e-9)) ** 2

    def cross_spatial(self, rho: float) -> float:
        """E[dx dx'] at two places of one channel of one sample; rho is the correlation of their u."""
        return sum(
            source.cross_spatial * term.crossed.at(rho) for source, term in self.terms.items() if source.cross_spatial
        )

    def cross_sample(self, rho: float) -> float:
        """E[dx dx'] in two samples."""
        return sum(
            source.cross_sample * term.crossed.at(rho) for source, term in self.terms.items() if source.cross_sample
        )

    def cross_other(self, rho: float) -> float:
        """E[dx dx'] at another place of another sample."""
        return sum(source.other * term.crossed.at(rho) for source, term in self.terms.items() if source.other)

    def crosses(self, y: Signal) -> tuple[float, float, float]:
        """E[dx dx'] at another place, in another sample, and both; y is the signal whose gradient this is."""
        return self.cross_spatial(y.rho_spatial), self.cross_sample(y.rho_sample), self.cross_other(y.rho_other)

    def cross_lag(self, y: Signal, places: Sequence[int]) -> Array:
        """E[dx dx'] by the lag of two of the places; y is the signal whose gradient this is."""
        rho = y.correlations(places)
        parts = [
            lag_map(places, source.cross_lag, source.cross_spatial, 0.0) * term.crossed(rho)
            for source, term in self.terms.items()
        ]
        return lag_map(places, sum(parts, np.zeros_like(rho)), 0.0, self.second)

    @property
    def moments(self) -> Moments:
        """What is printed."""
        return Moments(0.0, self.second, self.mean_abs)


UNKNOWN = Gradient({}, known=False)
