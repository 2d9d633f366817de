"""What a training log says about the health of a net: the first bad blob, trends, dead layers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from caffestat.analysis import Prediction
from caffestat.errors import Place
from caffestat.program import Program

from .clues import Background, signals_of, without_statistics
from .losses import LossWatch, Signature
from .reader import Key, Pass, Unread
from .rules import RULES, Alert, is_signal

Name = TypeVar("Name", bound=Hashable)

__all__ = ["Diagnoser", "Diagnosis", "Event", "Trend", "diagnose", "expected_values"]

GROWTH = 1e3  # a blob that is this many times its first value has exploded
FADED = 1e-6  # of the largest gradient of a param: what is below has vanished
UNLIKE = 3.0  # a first value this many times off its prediction is marked


@dataclass(frozen=True)
class Event:
    """The first time that a number was bad in one way: "nan", "inf", "zero", "explosion" or "vanishing".

    before  its last finite value; of "vanishing", the largest gradient of the same pass
    """

    kind: str
    key: Key
    iteration: int | None
    line: int
    value: float
    before: float | None = None
    place: Place | None = None


@dataclass
class Trend:
    """How one number went over the log: first and last value, the last finite one, the largest, how often it was 0."""

    first: float
    last: float
    finite: float
    largest: float
    zeros: int = 0
    count: int = 1
    expected: float | None = None

    @property
    def factor(self) -> float:
        """Last ÷ first."""
        return self.last / self.first if self.first else math.inf if self.last else 1.0

    @property
    def is_dead(self) -> bool:
        """Whether it was zero in every pass to the end, at least the last one."""
        return self.last == 0 and self.zeros > 0


@dataclass
class Diagnosis:
    """What was found.

    events   the first of each kind, by kind
    outputs  trends of the train net's loss and outputs, by name
    losses   the losses whose value tells what went wrong
    alerts   rules that fired over the passes
    unread   debug_info lines that could not be read
    warnings why the given net could not be used
    trends   of the train net's numbers, in the order of the log
    dead     tops and gradients of params that were zero at the end
    """

    passes: int = 0
    tests: int = 0
    first_iteration: int | None = None
    last_iteration: int | None = None
    events: dict[str, Event] = field(default_factory=dict)
    trends: dict[Key, Trend] = field(default_factory=dict)
    outputs: dict[str, Trend] = field(default_factory=dict)
    losses: list[Signature] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    unread: Unread = field(default_factory=Unread)
    warnings: list[str] = field(default_factory=list)

    @property
    def dead(self) -> list[Key]:
        """The tops and params' gradients that were zero in the last pass."""
        return [key for key, trend in self.trends.items() if trend.is_dead and _can_die(key)]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing bad was found."""
        return not self.events and not self.dead and not self.losses and not self.alerts


def _can_die(key: Key) -> bool:
    """Tell whether zero is a fault: a loss, an accuracy, a label or a bias may be zero."""
    if key.direction == "backward":
        return key.role == "param" and key.blob == "0"
    return key.role == "top" and is_signal(key)


def expected_values(program: Program, prediction: Prediction) -> dict[Key, float]:
    """Return what is predicted at initialisation, by the keys of a log."""
    found: dict[Key, float] = {}
    for row in program.rows:
        for index, name in enumerate(row.tops):
            _put(found, Key("forward", row.name, "top", name), prediction.tops.get((row.index, index)))
        for index, name in enumerate(row.bottoms):
            _put(found, Key("backward", row.name, "bottom", name), prediction.bottom_diffs.get((row.index, index)))
        for index, number in enumerate(row.params):
            key, name = (row.index, index), program.params[number].name
            _put(found, Key("forward", row.name, "param", name), prediction.params.get(key))
            _put(found, Key("backward", row.name, "param", str(index)), prediction.param_diffs.get(key))
    return found


def _put(found: dict[Key, float], key: Key, moments: object) -> None:
    value = getattr(moments, "mean_abs", None)
    if value is not None:
        found[key] = value


def diagnose(
    passes: Iterable[Pass],
    expected: Mapping[Key, float] | None = None,
    places: Mapping[str, Place] | None = None,
    growth: float = GROWTH,
    unread: Unread | None = None,
    background: Background | None = None,
) -> Diagnosis:
    """Read passes to the end and return what they say; memory does not grow with their number.

    expected:         from `expected_values`, when the net is known
    places:           where each layer stands in the net's file
    growth:           how many times its first value a blob must be to count as exploded
    unread:           what `read_log` could not read
    background:       what the net tells of its layers and params, when it is known
    """
    diagnoser = Diagnoser(places, growth, unread, background=background)
    for one in passes:
        diagnoser.add(one)
    return diagnoser.finish(expected)


class Diagnoser:
    """Looks at passes as they come; the options are those of `diagnose`. window: see `LossWatch`."""

    def __init__(
        self,
        places: Mapping[str, Place] | None = None,
        growth: float = GROWTH,
        unread: Unread | None = None,
        window: int | None = None,
        background: Background | None = None,
    ) -> None:
        self.result = Diagnosis(unread=Unread() if unread is None else unread)
        self.losses = LossWatch() if window is None else LossWatch(window)
        self._places, self._growth = places or {}, growth
        self._background = background or Background()
        self._rules = [kind() for kind in RULES.values()]

    def add(self, one: Pass) -> list[Alert]:
        """Look at a pass; return the alerts of the rules that fire."""
        result = self.result
        if one.values and not one.signals:  # a pass of a log, not of a run
            without_statistics(one, self._background)
            one.signals = signals_of(one, self._background)
        if one.test_net is not None:
            result.tests += 1
        else:
            _count(result, one)
            self.losses.add(one)
            _follow_outputs(result.outputs, one)
        _look(result, one, self._places, self._growth)
        alerts = [alert for each in self._rules for alert in each.alerts(one)]
        result.alerts += alerts
        return alerts

    def finish(self, expected: Mapping[Key, float] | None = None) -> Diagnosis:
        """Return what was found."""
        self.result.losses = self.losses.signatures()
        for key, trend in self.result.trends.items():
            trend.expected = (expected or {}).get(key)
        return self.result


def _count(result: Diagnosis, one: Pass) -> None:
    result.passes += 1
    if one.iteration is not None:
        result.last_iteration = one.iteration
        if result.first_iteration is None:
            result.first_iteration = one.iteration


def _look(result: Diagnosis, one: Pass, places: Mapping[str, Place], growth: float) -> None:
    for (key, value), line in zip(one.values.items(), one.lines, strict=True):
        before = result.trends.get(key)
        kind = _kind(key, value, before, growth)
        if kind and kind not in result.events:
            last = before.finite if before else None
            result.events[kind] = Event(kind, key, one.iteration, line, value, last, places.get(key.layer))
        if one.test_net is None:
            _follow(result.trends, key, value)
    if one.test_net is None and "vanishing" not in result.events:
        _look_for_vanishing(result, one, places)


def _kind(key: Key, value: float, before: Trend | None, growth: float) -> str | None:
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf"
    if value == 0 and _can_die(key):
        return "zero"
    is_data = key.role != "param" or key.direction == "forward"
    if before and is_data and before.first > 0 and value > growth * before.first and not _is_output(key):
        return "explosion"
    return None


def _is_output(key: Key) -> bool:
    return "loss" in key.blob.lower()


def _follow_outputs(trends: dict[str, Trend], one: Pass) -> None:
    if one.loss is not None:
        _follow(trends, "loss", one.loss)
    for output in one.outputs:
        _follow(trends, f"output {output.name}", output.value)


def _follow(trends: dict[Name, Trend], key: Name, value: float) -> None:
    trend = trends.get(key)
    if trend is None:
        trends[key] = Trend(value, value, value, value, int(value == 0))
        return
    trend.count += 1
    trend.zeros += value == 0
    trend.last = value
    if math.isfinite(value):
        trend.finite = value
        trend.largest = max(trend.largest, value)


def _look_for_vanishing(result: Diagnosis, one: Pass, places: Mapping[str, Place]) -> None:
    """Compare the gradients of all weights in one pass: the smallest must not be a millionth of the largest."""
    diffs = {k: v for k, v in one.values.items() if k.direction == "backward" and k.role == "param" and k.blob == "0"}
    finite = {key: value for key, value in diffs.items() if math.isfinite(value) and value > 0}
    if len(finite) < 2:
        return
    key = min(finite, key=lambda k: finite[k])
    largest = max(finite.values())
    if finite[key] < FADED * largest:
        place = places.get(key.layer)
        line = one.lines[list(one.values).index(key)]
        result.events["vanishing"] = Event("vanishing", key, one.iteration, line, finite[key], largest, place)
