"""The results of trials, as the rows of one table."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .trial import Trial

if TYPE_CHECKING:
    from caffestat.program import Program
    from caffestat.training.events import Output

__all__ = ["COLUMNS", "KINDS", "Packed", "Row", "columns_of", "outputs_of", "pack", "rows_of", "test_name", "unpack"]

KINDS = ("x", "dx", "w", "dw", "loss", "output", "seconds", "error")

COLUMNS: Mapping[str, str] = {
    "trial": "string",
    "net": "string",
    "seed": "int64",
    "filler": "string",
    "changes": "string",
    "width": "float64",
    "rate": "float64",
    "solver": "string",
    "iterations": "int64",
    "iteration": "int64",
    "depth": "int64",
    "layer": "string",
    "name": "string",
    "kind": "string",
    "value": "float64",
    "text": "string",
}
"""The table's columns and their types. A trial's last row has kind "seconds"; a trial without it is not finished."""


@dataclass(frozen=True, slots=True)
class Row:
    """One number of a trial: mean |x|, |dx|, |w| or |dw| of a layer, a loss, an output, its seconds, or an error.

    iteration  0 for the first pass; of test nets, how many updates the params have had
    depth      the layer's index in the net; -1 for what belongs to no layer
    layer      of losses and outputs: "" for the train net, "test", "test 1", … for test nets
    name       of the blob, or the index of the param
    """

    iteration: int
    depth: int
    layer: str
    name: str
    kind: str
    value: float
    text: str = ""


def test_name(number: int) -> str:
    """Return the value of the layer column for the losses and outputs of a test net, counted from 0."""
    return f"test {number}" if number else "test"


def outputs_of(iteration: int, net: str, loss: float | None, outputs: Sequence[Output]) -> Iterator[Row]:
    """Yield the loss of a net's outputs, then each output that is one number, such as the accuracy.

    An output that is the whole loss is not listed twice.
    """
    if loss is not None:
        yield Row(iteration, -1, net, "", "loss", loss)
    counts = Counter(output.name for output in outputs)
    parts = [output for output in outputs if output.weight]
    for output in outputs:
        if counts[output.name] == 1 and not (parts == [output] and loss is not None):
            yield Row(iteration, -1, net, output.name, "output", output.value)


Packed = list[tuple[Trial, tuple[tuple[int, int, str, str, str, str], ...], bytes]]
"""Results as they are sent: of each trial what its rows are about, one object for equal ones, and the values."""


def pack(results: Iterable[tuple[Trial, Sequence[Row]]]) -> Packed:
    """Return results in a form that is small when it is pickled."""
    known: dict[Any, Any] = {}
    packed = []
    for trial, rows in results:
        about = tuple((row.iteration, row.depth, row.layer, row.name, row.kind, row.text) for row in rows)
        packed.append((trial, known.setdefault(about, about), array("d", (row.value for row in rows)).tobytes()))
    return packed


def unpack(packed: Packed) -> list[tuple[Trial, list[Row]]]:
    """Return the results of `pack`."""
    results = []
    for trial, about, values in packed:
        pairs = zip(about, array("d", values), strict=True)
        rows = [
            Row(step, depth, layer, name, kind, value, text) for (step, depth, layer, name, kind, text), value in pairs
        ]
        results.append((trial, rows))
    return results


def columns_of(results: Iterable[tuple[Trial, Sequence[Row]]]) -> dict[str, list[Any]]:
    """Return the rows of some trials as columns."""
    table: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for trial, rows in results:
        fixed = {
            "trial": trial.id,
            "net": trial.net,
            "seed": trial.seed,
            "filler": trial.filler,
            "changes": json.dumps(dict(trial.changes)),
            "width": trial.width,
            "rate": float("nan") if trial.rate is None else trial.rate,
            "solver": trial.solver,
            "iterations": trial.iterations,
        }
        for row in rows:
            for name, column in table.items():
                column.append(fixed[name] if name in fixed else getattr(row, name))
    return table


def rows_of(
    iteration: int, program: Program, means: Mapping[str, Mapping[tuple[int, int], float]]
) -> Iterator[tuple[tuple[int, int], Row]]:
    """Yield the key and the row of each number; means: by kind, and by the row and which of its blobs or params."""
    for kind, values in means.items():
        for (index, number), value in values.items():
            row = program.rows[index]
            names = {"x": row.tops, "dx": row.bottoms}.get(kind)
            yield (index, number), Row(iteration, index, row.name, names[number] if names else str(number), kind, value)
