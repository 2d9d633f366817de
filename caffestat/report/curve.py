"""The curve of a training run as data: one value a row in CSV, one event a line in JSON."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from caffestat import logs
from caffestat.escape import csv_cell, json_line
from caffestat.training import events as e

__all__ = ["CSV_HEADER", "CURVE_FORMATS", "csv_lines", "jsonl_lines", "named_outputs"]

CSV_HEADER = "iteration,phase,net,name,value"


def csv_lines(event: e.Event) -> Iterator[str]:
    """Yield the CSV rows of an event: iteration, train or test, number of the test net, name, value."""
    match event:
        case e.Iteration():
            values = [("smoothed_loss", event.smoothed), ("lr", event.rate)]
            yield from _rows(event.iteration, "train", "", event.loss, event.outputs, values)
        case e.EndTest():
            yield from _rows(event.iteration, "test", str(event.number), event.loss, event.outputs)
        case e.FinalLoss():
            yield from _rows(event.iteration, "train", "", event.loss, (), [("smoothed_loss", event.smoothed)])


def _rows(
    iteration: int,
    phase: str,
    net: str,
    loss: float | None,
    outputs: tuple[e.Output, ...],
    more: list[tuple[str, float]] | None = None,
) -> Iterator[str]:
    total = [] if loss is None else [("total_loss", loss)]
    for name, value in [*total, *(more or []), *named_outputs(outputs)]:
        yield f"{iteration},{phase},{net},{_quoted(csv_cell(name))},{value:.9g}"


def _quoted(text: str) -> str:
    """Return a cell with the quotes that a comma or a quote in it asks for."""
    return '"{}"'.format(text.replace('"', '""')) if {*'",'} & {*text} else text


def named_outputs(outputs: Sequence[e.Output | logs.Output]) -> Iterator[tuple[str, float]]:
    """Yield the outputs by name; elements of a blob of several get an index."""
    for name, values in _grouped(outputs).items():
        for index, value in enumerate(values):
            yield (name if len(values) == 1 else f"{name}[{index}]"), value


def _grouped(outputs: Sequence[e.Output | logs.Output]) -> dict[str, list[float]]:
    found: defaultdict[str, list[float]] = defaultdict(list)
    for output in outputs:
        found[output.name].append(output.value)
    return dict(found)


def jsonl_lines(event: e.Event) -> Iterator[str]:
    """Yield an event as one line of JSON; what is not finite is null."""
    fields = _fields(event)
    if fields:
        yield json_line(_finite(fields))


def _fields(event: e.Event) -> dict[str, Any] | None:
    match event:
        case e.Iteration():
            return {
                "event": "iteration",
                "iteration": event.iteration,
                "loss": event.loss,
                "smoothed_loss": event.smoothed,
                "lr": event.rate,
                "gradient_norm": event.clip.norm if event.clip else None,
                "outputs": _grouped(event.outputs),
            }
        case e.EndTest():
            outputs = _grouped(event.outputs)
            fields = {"event": "test", "iteration": event.iteration, "net": event.number, "loss": event.loss}
            return {**fields, "outputs": outputs}
        case e.Saved():
            return {"event": "snapshot", "iteration": event.iteration, "model": event.model, "state": event.state}
        case e.FinalLoss():
            return {"event": "final", "iteration": event.iteration, "loss": event.loss}
        case e.Done():
            return {"event": "done", "iteration": event.iteration, "stopped": event.stopped}
    return None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


CURVE_FORMATS = {"csv": csv_lines, "jsonl": jsonl_lines}
