"""The rows with weights of a program, and what each does to signal and gradient."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat import theory
from caffestat.program import Dataflow, Key, Program, Row, RowParam
from caffestat.theory import Gain, Step

from .prediction import Prediction

__all__ = ["Gain", "gains"]


def gains(program: Program, prediction: Prediction) -> list[Gain]:
    """Return one Gain per row with weights that is predicted, in order; see `theory.gains`."""
    flow = program.flow
    weighted = {row.index: weight for row, weight in _weighted(program) if _key(weight) in prediction.params}
    return theory.gains([_step(flow, prediction, program.rows[row], weighted) for row in weighted])


def _weighted(program: Program) -> Iterator[tuple[Row, RowParam]]:
    """Yield each row with weights, and the first of them."""
    for row in program.rows:
        weight = program.weight(row)
        if weight:
            yield row, weight


def _key(param: RowParam) -> Key:
    return param.row, param.index


def _step(flow: Dataflow, prediction: Prediction, row: Row, weighted: dict[int, RowParam]) -> Step:
    weight = weighted[row.index]
    reached = list(flow.until(row.index, weighted.__contains__))
    first = next(iter(flow.readers((row.index, 0))), None)
    diffs = prediction.bottom_diffs
    return Step(
        row.index,
        row.name,
        (weight.fan_in, weight.fan_out),
        prediction.params[_key(weight)],
        prediction.tops.get((row.index, 0)),
        prediction.tops.get(flow.source(reached[0])) if reached else None,
        tuple(reader for reader, _ in reached),
        diffs.get(first) if first else None,
        diffs.get(reached[0]) if reached else None,
        any((row.index, bottom) in diffs for bottom in row.diffs) or _key(weight) in prediction.param_diffs,
    )
