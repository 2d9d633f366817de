"""A training run as plain data: curves, signals by layer and iteration, events; from logs and from runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from caffestat import logs
from caffestat.logs import Diagnosis, Pass
from caffestat.logs.rules import Alert
from caffestat.logs.show import event_text, loss_text
from caffestat.training.events import EndTest, Event, Iteration, Output, Saved, Statistics
from caffestat.training.statistics import Signal

from .curve import named_outputs
from .model import IssueRow
from .scales import TITLES

__all__ = ["QUANTITIES", "History", "Mark", "Quantity", "alert_rows", "diagnosis_rows"]

_LONGEST = 400  # iterations of a heat map; of longer runs every second one is left out until they fit


@dataclass(frozen=True)
class Quantity:
    """What a heat map shows."""

    key: str
    title: str
    unit: str


QUANTITIES = (
    Quantity("top", TITLES["x"], "mean |x| of the layer's first top"),
    Quantity("bottom_diff", TITLES["dx"], "mean |dx| of the layer's first bottom with a gradient"),
    Quantity("update_ratio", "mean |update| ÷ mean |w|", "of the layer's weights, per iteration"),
    Quantity("zeros", "share of zeros of the ReLUs", "of the layer's outputs"),
    Quantity("saturated", "saturated share of the sigmoids", "of the layer's outputs"),
    Quantity("diff_ratio", "mean |dw| ÷ mean |w|", "of the layer's weights, before the learning rate"),
)


class Mark(NamedTuple):
    """An event: when, of what kind, and in words."""

    iteration: int
    kind: str
    text: str


@dataclass
class Curve:
    """A value over the iterations."""

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, iteration: int, value: float) -> None:
        """Add a point, and drop every second one of a long curve."""
        self.iterations.append(iteration)
        self.values.append(value)
        if len(self.values) > 10 * _LONGEST:
            del self.iterations[1::2], self.values[1::2]


@dataclass
class History:
    """A training run.

    curves   loss, rate and outputs, by name; those of tests begin with "test ", of further test nets "test #1 "
    signals  by iteration: (key of a quantity, layer) -> value; of a run longer than 400 iterations some
    layers   in the order in which they came
    marks    events
    alerts   rules that fired; each is an event too
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    signals: dict[int, dict[tuple[str, str], float]] = field(default_factory=dict)
    layers: dict[str, None] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    _count: int = 0
    _every: int = 1

    def point(self, name: str, iteration: int, value: float | None) -> None:
        """Add a point to a curve; None is left out."""
        if value is not None:
            self.curves.setdefault(name, Curve()).add(iteration, value)

    def _said(
        self, test_net: int | None, iteration: int, loss: float | None, outputs: Sequence[Output | logs.Output]
    ) -> None:
        """Add the loss and the outputs of a pass; an output called loss is the loss, unless none is said."""
        prefix = "" if test_net is None else f"test #{test_net} " if test_net else "test "
        self.point(f"{prefix}loss", iteration, loss)
        for name, value in named_outputs(outputs):
            if name != "loss" or loss is None:
                self.point(f"{prefix}{name}", iteration, value)

    def record(self, iteration: int, values: Mapping[tuple[str, str], float]) -> None:
        """Add the signals of an iteration. Of a long run, every second, fourth, … is kept."""
        if not values:
            return
        if self._count % self._every == 0:
            self.signals[iteration] = dict(values)
            self.layers.update((layer, None) for _, layer in values)
        self._count += 1
        if len(self.signals) > _LONGEST:
            self.signals = dict(list(self.signals.items())[::2])
            self._every *= 2

    def follow_log(self, passes: Iterable[Pass]) -> Iterator[Pass]:
        """Yield the passes of a log as they are, and record them on the way."""
        last = -1
        for one in passes:
            last = one.iteration if one.iteration is not None else last if one.test_net is not None else last + 1
            self._said(one.test_net, last, one.loss, one.outputs)
            if one.test_net is None:
                self.record(last, _signals(one))
            yield one

    def alert(self, alert: Alert) -> None:
        """Add a rule that fired."""
        self.alerts.append(alert)
        words = f"{alert.subject} {alert.message}"
        self.marks.append(Mark(-1 if alert.iteration is None else alert.iteration, alert.rule, words))

    def enter(self, event: Event) -> None:
        """Add an event of a training run."""
        match event:
            case Iteration():
                self._said(None, event.iteration, event.loss, event.outputs)
                self.point("rate", event.iteration, event.rate)
                if event.clip:
                    words = f"gradients clipped: L2 norm {event.clip.norm:.4g} > {event.clip.limit:g}"
                    self.marks.append(Mark(event.iteration, "clip", words))
            case EndTest():
                self._said(event.number, event.iteration, event.loss, event.outputs)
            case Saved():
                self.marks.append(Mark(event.iteration, "snapshot", str(event.model)))
            case Statistics():
                self.record(event.iteration, _first_of_each(event.values))

    def matrix(self, key: str, layers: Sequence[str]) -> list[list[float | None]]:
        """Return a quantity by iteration and layer, None where it was not measured."""
        return [[values.get((key, layer)) for layer in layers] for values in self.signals.values()]


def _signals(one: Pass) -> dict[tuple[str, str], float]:
    """Return the signals of a pass of a log: of each layer the first top, the first bottom's gradient, the weights."""
    found: dict[tuple[str, str], float] = {}
    weights: dict[str, float] = {}
    for key, value in one.values.items():
        if key.role == "param" and key.direction == "forward":
            weights.setdefault(key.layer, value)
        elif key.role == "param":
            if key.blob == "0" and weights.get(key.layer):
                found["diff_ratio", key.layer] = value / weights[key.layer]
        else:
            found.setdefault(("top" if key.direction == "forward" else "bottom_diff", key.layer), value)
    return found


def _first_of_each(values: Mapping[Signal, float]) -> dict[tuple[str, str], float]:
    """Return, of each quantity and layer, the value of the first blob or param."""
    found: dict[tuple[str, str], float] = {}
    for signal, value in values.items():
        found.setdefault((signal.quantity, signal.layer), value)
    return found


def alert_rows(alerts: Iterable[Alert], file: str) -> Iterator[IssueRow]:
    """Yield the rules that fired in the run that a file tells of."""
    for alert in alerts:
        yield IssueRow("", alert.rule, "warning", file, 0, alert.subject, str(alert), "")


def diagnosis_rows(found: Diagnosis, log: str) -> Iterator[IssueRow]:
    """Yield the problems found in a log, in the order of its lines."""
    for event in sorted(found.events.values(), key=lambda event: event.line):
        yield IssueRow("", f"first {event.kind}", "error", log, event.line, event.key.layer, event_text(event), "")
    for one in found.losses:
        yield IssueRow("", one.rule, "error", log, one.line, "", loss_text(one), "")
    yield from alert_rows(found.alerts, log)
    for key in found.dead:
        trend = found.trends[key]
        words = f"{key} is zero at the end ({trend.zeros} of {trend.count} passes)"
        yield IssueRow("", "dead", "warning", log, 0, key.layer, words, "")
