"""A Diagnosis and a comparison in words."""

from __future__ import annotations

from collections.abc import Iterator

from .diagnose import UNLIKE, Diagnosis, Event, Trend
from .losses import Signature
from .reader import Key

__all__ = ["diagnosis_lines", "event_text", "loss_text", "outcome", "verdict"]

_TELL = {
    "nan": "is not a number",
    "inf": "is infinite",
    "zero": "is zero",
    "explosion": "has exploded",
    "vanishing": "has vanished",
}
_COLUMNS = f"{'':<44}{'first':>12}{'predicted':>12}{'last':>12}{'last/first':>12}"


def diagnosis_lines(found: Diagnosis, all_trends: bool = False) -> Iterator[str]:
    """Yield the lines of a report: what is bad first, then how every blob went (with `all_trends`, params too)."""
    span = "" if found.first_iteration is None else f", iterations {found.first_iteration} to {found.last_iteration}"
    passes = "1 pass" if found.passes == 1 else f"{found.passes} passes"
    yield f"{passes} of the train net{span}; {found.tests} of test nets"
    for event in sorted(found.events.values(), key=lambda event: event.line):
        yield event_text(event)
    for one in found.losses:
        yield loss_text(one)
    for alert in found.alerts:
        yield str(alert)
    for key in found.dead:
        yield f"dead: {key} is zero at the end ({found.trends[key].zeros} of {found.trends[key].count} passes)"
    if found.is_healthy:
        yield "no problems found"
    if found.unread.count:
        yield f"line {found.unread.line}: {found.unread}"
    if found.unread.others:
        others = f"{found.unread.others} lines of other processes are left out"
        yield f"only the lines of process {found.unread.process} are read; {others}"
    shown = {key: trend for key, trend in found.trends.items() if all_trends or key.role != "param"}
    if shown or found.outputs:
        yield _COLUMNS
        yield from (_trend(name, trend) for name, trend in found.outputs.items())
        yield from (_trend(_name(key), trend) for key, trend in shown.items())


def event_text(event: Event) -> str:
    """Return an event in words: when, which number, and its value."""
    when = "" if event.iteration is None else f" at iteration {event.iteration}"
    where = f" ({event.place})" if event.place else ""
    return f"first {event.kind}{when}, line {event.line}: {event.key}{where} {outcome(event)}"


def outcome(event: Event) -> str:
    """Return in words what became of the number, its value, and the one to compare it with."""
    other = "the largest is" if event.kind == "vanishing" else "before"
    before = "" if event.before is None else f", {other} {event.before:g}"
    return f"{_TELL[event.kind]}: {event.value:g}{before}"


def loss_text(one: Signature) -> str:
    """Return a loss in words: when, which one, and what its value implies."""
    when = "" if one.iteration is None else f" at iteration {one.iteration}"
    return f"loss{when}, line {one.line}: {one.name} {verdict(one)}"


def verdict(one: Signature) -> str:
    """Return in words the value of a loss and what it implies."""
    verb = "stays at" if one.rule == "loss-constant" else "is"
    return f"{verb} {one.value:g}: {one.meaning}"


def _name(key: Key) -> str:
    return f"{'↑' if key.direction == 'forward' else '↓'} {key.layer}/{key.blob}"


def _trend(name: str, trend: Trend) -> str:
    name = name if len(name) <= 43 else f"{name[:21]}…{name[-21:]}"
    expected = "" if trend.expected is None else f"{trend.expected:.4g}{_mark(trend)}"
    return f"{name:<44}{trend.first:>12.4g}{expected:>12}{trend.last:>12.4g}{trend.factor:>12.3g}"


def _mark(trend: Trend) -> str:
    """Mark what is far from its prediction."""
    if not trend.expected or not trend.first:
        return ""
    ratio = trend.first / trend.expected
    return "" if 1 / UNLIKE < ratio < UNLIKE else "!"
