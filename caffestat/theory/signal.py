"""What is known of a value and of its gradient before anything is run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np

from .lags import lag_map
from .quadrature import (
    ABS_NORMAL,
    NODES,
    Array,
    clip_unit,
    correlation_for,
    correlations_for,
    cross_moment,
    cross_moments,
    expect,
)

__all__ = ["UNKNOWN", "Gradient", "Moments", "Signal", "Source", "Term", "normal"]


_COUNTS = 0.05  # the share of the whole from which on a part's zeros are looked at


@dataclass(frozen=True)
class Moments:
    """Mean, second moment and mean absolute value over all elements."""

    mean: float
    second: float
    mean_abs: float


@dataclass(frozen=True, eq=False)
class Signal:
    """A value [N, C, places…] as a function of a hidden normal variable u, one for each element.

    values      x at the nodes of u
    rho_space   correlation of u between two places of one channel of one sample
    rho_batch   correlation of u between two samples, same channel
    rho_near    correlation of u by the lag of two places (see lags.py); None when all are like rho_space
    within      x at the nodes in a channel of average size, where channels differ in size; None where they do not
    relief      second moment at each place relative to their mean, where it varies: padding makes borders weaker
    latent      which u: signals computed element by element from one value share it
    evenness    E[√S] / √E[S], S the second moment of one draw of the weights: below 1 in narrow nets, where draws
                differ; None until the walk has found it out
    """

    values: Array
    rho_space: float = 0.0
    rho_batch: float = 0.0
    relief: Array | None = None
    latent: object = field(default_factory=object)
    evenness: float | None = None
    rho_near: Array | None = None
    within: Array | None = None

    def __post_init__(self) -> None:
        """Keep correlations within 0 to 1, from wherever they are computed."""
        _set(self, rho_space=clip_unit(self.rho_space), rho_batch=clip_unit(self.rho_batch))
        if self.rho_near is not None:
            _set(self, rho_near=np.clip(np.nan_to_num(self.rho_near), 0.0, 1.0))
        if self.evenness is not None:
            _set(self, evenness=clip_unit(self.evenness))

    @classmethod
    def of_pairs(
        cls, values: Array, space: float, batch: float, relief: Array | None = None, near: Array | None = None
    ) -> Signal:
        """Return a fresh signal of these values, given E[x x'] at two places, in two samples, and by lag."""
        rhos = correlation_for(values, space), correlation_for(values, batch)
        return cls(values, *rhos, relief, rho_near=None if near is None else correlations_for(values, near))

    @cached_property
    def mean(self) -> float:
        """E[x]."""
        return expect(self.values) * _root(self.relief)

    @cached_property
    def second(self) -> float:
        """E[x²]."""
        return expect(self.values**2)

    @cached_property
    def mean_abs(self) -> float:
        """E|x|, what debug_info prints."""
        return expect(np.abs(self.values)) * _root(self.relief) * (1.0 if self.evenness is None else self.evenness)

    @cached_property
    def cross_space(self) -> float:
        """E[x x'] at two places of one channel of one sample."""
        return cross_moment(self.values, self.rho_space)

    @cached_property
    def cross_batch(self) -> float:
        """E[x x'] in two samples."""
        return cross_moment(self.values, self.rho_batch)

    def correlations(self, places: Sequence[int]) -> Array:
        """Correlation of u by the lag of two of the places."""
        return lag_map(places, self.rho_near, self.rho_space, 1.0)

    def cross_near(self, places: Sequence[int]) -> Array:
        """E[x x'] by the lag of two of the places."""
        return cross_moments(self.values, self.correlations(places))

    @property
    def cross_far(self) -> float:
        """E[x x'] at another place of another sample."""
        return min(self.cross_space, self.cross_batch)

    @property
    def crosses(self) -> tuple[float, float, float]:
        """E[x x'] at another place, in another sample, and both."""
        return self.cross_space, self.cross_batch, self.cross_far

    @property
    def rho_far(self) -> float:
        """Correlation of u between any two elements of a channel."""
        return min(self.rho_space, self.rho_batch)

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
    cross_space: float = 0.0,
    cross_batch: float = 0.0,
    relief: Array | None = None,
    cross_near: Array | None = None,
) -> Signal:
    """Return N(mean, variance), given the covariances between places, between samples, and by lag."""
    inverse = 1 / variance if variance > 0 else 0.0
    space, batch = (clip_unit(cross * inverse) for cross in (cross_space, cross_batch))
    near = None if cross_near is None else cross_near * inverse
    return Signal(mean + math.sqrt(max(variance, 0.0)) * NODES, space, batch, flatten(relief), rho_near=near)


def flatten(relief: Array | None) -> Array | None:
    """Return a relief whose mean is 1, None when it is flat."""
    if relief is None or relief.size == 0 or np.ptp(relief) <= 1e-9 * np.max(relief):
        return None
    return relief / relief.mean()


def _set(frozen: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _root(relief: Array | None) -> float:
    return 1.0 if relief is None else float(np.sqrt(relief).mean())


@dataclass(frozen=True, eq=False)
class Source:
    """A zero-mean gradient that is independent of the signals before it: what a sum over random weights gives.

    shape   E|d| / √E[d²]: √(2/π) when normal, less when it is sparse
    lumped  of the elements of a sample one holds most of it: a softmax's label
    evenness  E[√S] / √E[S], S its second moment in one sample and one draw of the weights
    patchiness  Var(S) / E[S]², S its second moment at one place: what a kernel of several taps averages out
    cross_near  E[d d'] by the lag of two places; None when all are like cross_space
    cross_far   E[d d'] at another place of another sample; None for the smaller of cross_space and cross_batch
    """

    second: float
    shape: float = ABS_NORMAL
    cross_space: float = 0.0
    cross_batch: float = 0.0
    relief: Array | None = None
    lumped: bool = False
    evenness: float = 1.0
    patchiness: float = 0.0
    cross_near: Array | None = None
    cross_far: float | None = None

    def __post_init__(self) -> None:
        """Keep every moment within its range, from wherever it is computed: |E[d d']| is at most E[d²]."""
        second = max(self.second, 0.0)
        _set(self, second=second, shape=clip_unit(self.shape), evenness=clip_unit(self.evenness))
        _set(self, patchiness=max(self.patchiness, 0.0))
        for name in ("cross_space", "cross_batch", "cross_far"):
            cross = getattr(self, name)
            if cross is not None:
                _set(self, **{name: min(max(cross, -second), second) if cross == cross else 0.0})
        if self.cross_near is not None:
            _set(self, cross_near=np.clip(np.nan_to_num(self.cross_near), -second, second))

    @property
    def far(self) -> float:
        """E[d d'] at another place of another sample."""
        return min(self.cross_space, self.cross_batch) if self.cross_far is None else self.cross_far


@dataclass(frozen=True)
class Term:
    """What a source is multiplied by on its way, given the u of the value whose gradient this is: a(u), mostly random.

    mean, second, absolute: E[a|u], E[a²|u], E[|a| |u] at the nodes.
    """

    mean: Array
    second: Array
    absolute: Array

    def times(self, other: Term) -> Term:
        """Multiply by an independent factor."""
        return Term(self.mean * other.mean, self.second * other.second, self.absolute * other.absolute)

    def plus(self, other: Term) -> Term:
        """Add what reaches the value from the same source by another way."""
        mean = self.mean + other.mean
        second = np.maximum(self.second + other.second + 2 * self.mean * other.mean, mean**2)
        return Term(mean, second, np.clip(self.absolute + other.absolute, np.abs(mean), np.sqrt(second)))

    def at(self, u: Array) -> Term:
        """Return the factor at other points than the nodes."""
        return Term(*(np.interp(u, NODES, part) for part in (self.mean, self.second, self.absolute)))


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
        space, batch = (cross_moment(profile, rho) for rho in (y.rho_space, y.rho_batch))
        alone = replace(
            source,
            shape=source.shape / expect(profile),
            cross_space=source.cross_space / space,
            cross_batch=source.cross_batch / batch,
            cross_far=source.far / cross_moment(profile, y.rho_far),
            cross_near=lag_map(places, source.cross_near, source.cross_space, source.second)
            / cross_moments(profile, y.correlations(places)),
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
    def relief(self) -> Array | None:
        """Second moment at each place relative to their mean."""
        parts = [(source.second * expect(term.second), source.relief) for source, term in self.terms.items()]
        maps = [relief for _, relief in parts if relief is not None]
        if not maps or self.second <= 0:
            return None
        flat = np.ones_like(maps[0])
        return flatten(sum((weight * (flat if r is None else r) for weight, r in parts), np.zeros_like(flat)))

    @cached_property
    def shape(self) -> float:
        """E|dx| / √E[dx²] at one place."""
        parts = [(s.second * t.second, s.shape * math.sqrt(s.second) * t.absolute) for s, t in self.terms.items()]
        return expect(_mean_abs(parts)) / math.sqrt(self.second) if self.second > 0 else ABS_NORMAL

    @cached_property
    def mean_abs(self) -> float:
        """E|dx|, what debug_info prints."""
        return self.shape * math.sqrt(self.second) * _root(self.relief) * self.evenness

    @property
    def evenness(self) -> float:
        """E[√S] / √E[S] over samples and draws of the weights."""
        return self._weighed([source.evenness / math.sqrt(1 + source.patchiness) for source in self.terms], 1.0)

    @property
    def lasting(self) -> tuple[float, float]:
        """The evenness that stays where places are mixed, and the patchiness, which does not."""
        even = self._weighed([source.evenness for source in self.terms], 1.0)
        return even, self._weighed([source.patchiness for source in self.terms], 0.0)

    def _weighed(self, values: Sequence[float], default: float) -> float:
        """Return the mean over the sources, by what they contribute."""
        weights = [source.second * expect(term.second) for source, term in self.terms.items()]
        return float(np.dot(weights, values)) / self.second if self.second > 0 else default

    @property
    def lumped(self) -> bool:
        """Whether one element of a sample holds most of it."""
        return any(source.lumped for source in self.terms)

    @property
    def kurtosis(self) -> float:
        """E[dx⁴] / E[dx²]², told from the mean absolute value: for normal values of which some are 0."""
        return 3 * (ABS_NORMAL / max(self.shape, 1e-9)) ** 2

    def cross_space(self, rho: float) -> float:
        """E[dx dx'] at two places of one channel of one sample; rho is the correlation of their u."""
        return sum(
            source.cross_space * cross_moment(term.mean, rho)
            for source, term in self.terms.items()
            if source.cross_space
        )

    def cross_batch(self, rho: float) -> float:
        """E[dx dx'] in two samples."""
        return sum(
            source.cross_batch * cross_moment(term.mean, rho)
            for source, term in self.terms.items()
            if source.cross_batch
        )

    def cross_far(self, rho: float) -> float:
        """E[dx dx'] at another place of another sample."""
        return sum(source.far * cross_moment(term.mean, rho) for source, term in self.terms.items() if source.far)

    def crosses(self, y: Signal) -> tuple[float, float, float]:
        """E[dx dx'] at another place, in another sample, and both; y is the signal whose gradient this is."""
        return self.cross_space(y.rho_space), self.cross_batch(y.rho_batch), self.cross_far(y.rho_far)

    def cross_near(self, y: Signal, places: Sequence[int]) -> Array:
        """E[dx dx'] by the lag of two of the places; y is the signal whose gradient this is."""
        rho = y.correlations(places)
        parts = [
            lag_map(places, source.cross_near, source.cross_space, 0.0) * cross_moments(term.mean, rho)
            for source, term in self.terms.items()
        ]
        return lag_map(places, sum(parts, np.zeros_like(rho)), 0.0, self.second)

    @property
    def moments(self) -> Moments:
        """What is printed."""
        return Moments(0.0, self.second, self.mean_abs)


def _mean_abs(parts: Sequence[tuple[Array, Array]]) -> Array:
    """E|Σ dᵢ| of dᵢ given as (second moment, mean absolute value).

    Each is taken for normal with zeros among it: the zeros that all have stay, for they come from one mask; the others
    are independent.
    """
    seconds, absolutes = (np.array(list(column)) for column in zip(*parts, strict=True))
    with np.errstate(all="ignore"):
        filled = np.nan_to_num((absolutes / ABS_NORMAL) ** 2 / seconds)
        common = np.where(seconds > _COUNTS * seconds.sum(axis=0), filled, 0.0).max(axis=0)
        within = np.nan_to_num(np.minimum(filled / common, 1.0))
        total = reduce(_both, zip(np.nan_to_num(seconds / common), within, strict=True))
    return np.asarray(common * ABS_NORMAL * np.sqrt(total[0] * total[1]))


def _both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """The sum of two independent variables, each (second moment, share that is not 0) and normal where it is not 0."""
    (of_a, p), (of_b, q) = a, b
    large_a, large_b = np.nan_to_num(of_a / p), np.nan_to_num(of_b / q)
    mean = p * q * np.sqrt(large_a + large_b) + p * (1 - q) * np.sqrt(large_a) + q * (1 - p) * np.sqrt(large_b)
    return of_a + of_b, np.nan_to_num(mean**2 / (of_a + of_b))


UNKNOWN = Gradient({}, known=False)
