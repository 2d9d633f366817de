"""Watches a training run as it goes: the same rules that `diagnose` applies to a finished log."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat.training import events as e
from caffestat.training.statistics import Signal

from .diagnose import Diagnoser
from .diagnose import Event as First
from .losses import Signature
from .reader import Key, Output, Pass
from .rules import Alert
from .show import outcome, verdict

__all__ = ["Watch", "passes_of"]

_KEYS = {
    "top": ("forward", "top"),
    "param": ("forward", "param"),
    "bottom_diff": ("backward", "bottom"),
    "param_diff": ("backward", "param"),
}
_SIGNALS = {"update_ratio": "param", "zeros": "top", "saturated": "top"}
_WINDOW = 100  # iterations that a loss must stand still for


def passes_of(event: e.Event) -> Iterator[Pass]:
    """Yield an event as the pass of a log, if it has anything that a rule looks at."""
    match event:
        case e.Iteration():
            yield Pass(0, None, event.iteration, event.loss, _outputs(event.outputs))
        case e.EndTest():
            yield Pass(0, event.number, event.iteration, event.loss, _outputs(event.outputs))
        case e.Statistics():
            values = {Key(*_placed(s)): value for s, value in event.values.items() if s.quantity in _KEYS}
            signals = {
                Key(s.quantity, s.layer, _SIGNALS[s.quantity], s.name): value
                for s, value in event.values.items()
                if s.quantity in _SIGNALS
            }
            yield Pass(0, None, event.iteration, values=values, lines=[0] * len(values), signals=signals)


def _outputs(outputs: tuple[e.Output, ...]) -> list[Output]:
    return [Output(output.name, output.value, output.weight) for output in outputs]


def _placed(signal: Signal) -> tuple[str, str, str, str]:
    direction, role = _KEYS[signal.quantity]
    return direction, signal.layer, role, signal.name


class Watch:
    """Applies all rules to the events of a training run."""

    def __init__(self) -> None:
        self._diagnoser = Diagnoser(window=_WINDOW)
        self._told: set[object] = set()

    def see(self, event: e.Event) -> list[Alert]:
        """Return the alerts that this event gives rise to; each comes once."""
        found: list[Alert] = []
        for one in passes_of(event):
            found += self._diagnoser.add(one)
            found += map(_first, self._new(self._diagnoser.result.events))
            found += map(_loss, self._new(self._diagnoser.losses.found))
        return found

    def _new(self, found: dict) -> Iterator:  # type: ignore[type-arg]
        for key, value in found.items():
            if key not in self._told:
                self._told.add(key)
                yield value


def _first(event: First) -> Alert:
    return Alert(event.kind, event.iteration, str(event.key), outcome(event))


def _loss(one: Signature) -> Alert:
    return Alert(one.rule, one.iteration, one.name, verdict(one))
