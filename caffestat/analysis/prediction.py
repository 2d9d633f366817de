"""What a program will do to its signal and its gradient, derived from its fillers or weights without running it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from caffestat.errors import InputError
from caffestat.program import Forward, Key, Program, RowParam
from caffestat.program.feeds import fitting
from caffestat.theory import Gradient, Memo, Moments, Signal, Source, Walk, propagate, propagate_back
from caffestat.theory.sources import of_array, of_data, of_filler

__all__ = ["Prediction", "Predictor", "Stop", "predict", "starting_signals"]

_NAMED = 3  # rows that a note names one by one


@dataclass(frozen=True)
class Stop:
    """A row at which the prediction stops: what it reads is predicted, what it computes is not, and something reads it.

    row     its place in `Program.rows`
    name    of the layer or node
    type    of the layer, or the op
    reason  why
    """

    row: int
    name: str
    type: str
    reason: str


@dataclass
class Prediction:
    """Moments by the keys of a Measurement; an absent key is not predicted.

    tops, params, bottom_diffs, param_diffs  as in Measurement, mean, second moment and mean |x| of each
    signals  the Signal behind each top: its distribution and correlations
    stops    the rows at which it stops, and why
    notes    what the reader should know, in sentences
    """

    tops: dict[Key, Moments] = field(default_factory=dict)
    params: dict[Key, Moments] = field(default_factory=dict)
    bottom_diffs: dict[Key, Moments] = field(default_factory=dict)
    param_diffs: dict[Key, Moments] = field(default_factory=dict)
    signals: dict[Key, Signal] = field(default_factory=dict)
    stops: tuple[Stop, ...] = ()
    notes: tuple[str, ...] = ()


def predict(
    program: Program,
    *,
    values: Sequence[np.ndarray] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    input_std: float = 1.0,
    input_mean: float = 0.0,
) -> Prediction:
    """Return the expected moments of every value, param and gradient at the first iteration.

    values:  given params (trained weights) instead of what the fillers will draw
    inputs:  arrays for data, by name; other data is taken for independent normal values of input_mean and input_std,
             labels for uniform over their classes

    `stops` says where an op ends the prediction. Raises InputError when a given array does not fit, NetError when
    nothing can be computed.
    """
    return Predictor(program, values, inputs or {}, input_mean, input_std).prediction


class Predictor:
    """The prediction of a program, made as far as it is asked for; the arguments are those of `predict`.

    memo: what it shares with the predictions of other programs
    """

    def __init__(
        self,
        program: Program,
        values: Sequence[np.ndarray] | None = None,
        inputs: Mapping[str, np.ndarray] | None = None,
        mean: float = 0.0,
        std: float = 1.0,
        memo: Memo | None = None,
    ) -> None:
        self._program, self._forward, self._memo = program, program.forward(), memo
        self._starts = starting_signals(program, self._forward, values, inputs, mean, std)

    @cached_property
    def _walk(self) -> Walk:
        """What is known of the signals; of gradients nothing."""
        return propagate(self._forward.graph, self._starts, {}, memo=self._memo)

    @cached_property
    def stops(self) -> tuple[Stop, ...]:
        """The rows at which it stops, and why: the walk forward alone says so."""
        return tuple(_stops(self._program, self._forward, self._walk))

    @cached_property
    def prediction(self) -> Prediction:
        """All of it."""
        seeds = {value: _seed(seed) for value, seed in self._forward.seeds.items() if seed}
        propagate_back(self._walk, seeds, self._forward.unwanted)
        found = _collect(self._forward, self._walk)
        found.stops = self.stops
        found.notes = (*self._forward.notes, *_lines(found.stops))
        return found


def starting_signals(
    program: Program,
    forward: Forward,
    values: Sequence[np.ndarray] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    mean: float = 0.0,
    std: float = 1.0,
) -> dict[str, Signal | None]:
    """Return the signals of a graph's params and inputs; the arguments are those of `predict`."""
    signals: dict[str, Signal | None] = {
        name: _signal(program, program.params[number], None if values is None else values[number])
        for number, name in forward.params.items()
    }
    for feed in forward.feeds:
        signals.update(zip(feed.names, feed.signals(mean, std), strict=True))
    given = fitting(forward, inputs or {})
    return signals | {name: of_data(array) for name, array in given.items()}


def _stops(program: Program, forward: Forward, walk: Walk) -> Iterator[Stop]:
    """Yield each row that the prediction does not get past; one whose values nothing reads (Accuracy) is none."""
    rows = forward.value_rows()
    reads = {key for row in program.rows for key in row.reads}
    read = {value for key, value in forward.tops.items() if key in reads} | forward.seeds.keys()
    told = set[int]()
    for gap in walk.gaps:
        index = rows.get(gap.node.outputs[0])
        if index is None or index in told:
            continue
        row = program.rows[index]
        tops = [forward.tops[key] for key in ((index, top) for top in range(len(row.tops))) if key in forward.tops]
        if any(value in read and walk.signal(value) is None for value in tops):
            told.add(index)
            yield Stop(index, row.name, row.type, gap.reason)


def _lines(stops: Sequence[Stop]) -> Iterator[str]:
    """Yield a sentence for the rows of one type that have one reason."""
    groups: dict[tuple[str, str], list[str]] = {}
    for stop in stops:
        groups.setdefault((stop.type, stop.reason), []).append(stop.name)
    for (kind, reason), names in groups.items():
        named, more = ", ".join(map(repr, names[:_NAMED])), len(names) - _NAMED
        where = f"{named} and {more} more" if more > 0 else named
        yield f"the prediction stops at {where} ({kind}): {reason}; what depends on it is not predicted"


def _signal(program: Program, param: RowParam, given: np.ndarray | None) -> Signal | None:
    """Return the distribution of a param: of its values, None where they are not finite, else of its filler."""
    array = param.stored if given is None else given
    if array is not None:
        return of_array(array) if np.isfinite(array).all() else None
    assert param.filler is not None
    try:
        return of_filler(param.filler, param.shape)
    except InputError as error:
        raise program.at(param.row, error) from error


def _seed(seed: float | str) -> Gradient:
    """Return the gradient that a value starts with: a number everywhere or, where it is fed, noise."""
    if isinstance(seed, str):
        return Gradient.of(Source(1.0))
    return Gradient.of(Source(seed**2, 1.0, seed**2, seed**2))


def _collect(forward: Forward, walk: Walk) -> Prediction:
    found = Prediction()
    for key, value in forward.tops.items():
        signal = walk.signal(value)
        if signal is not None:
            found.signals[key], found.tops[key] = signal, signal.moments
    for key, value in forward.uses.items():
        signal = walk.signal(forward.graph.updates.get(value, value))
        if signal is not None:
            found.params[key] = signal.moments
    asked = ((forward.wanted, found.bottom_diffs), (forward.wanted_params, found.param_diffs))
    for wanted, target in asked:
        for key, value in wanted.items():
            moments = walk.gradient_moments(value)
            if moments is not None:
                target[key] = moments
    return found
