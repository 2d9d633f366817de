"""AutoInit: the std of each layer, solved from the predicted moments of what it reads.

G. Bingham, R. Miikkulainen, *AutoInit: Analytic Signal-Preserving Weight Initialization for Neural Networks*, 2021,
propagate mean and variance through every layer type and choose each layer's weights so that its output has mean 0 and
variance 1: for a sum over n inputs, Var(w) = 1 / (n (μ² + ν)), μ and ν mean and variance of what it reads (their
equation for convolutions and dense layers). Here E[x²] = μ² + ν comes from this package's theory, which also knows
padding, pooling, branches that meet and concatenations, so every graph that it can predict is solved, in one walk.

With `fixup`, residual branches start as in `fixup`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from caffestat.analysis.prediction import starting_signals
from caffestat.errors import InputError
from caffestat.graph import Node
from caffestat.program import Forward, Program
from caffestat.theory import Signal, Walk, advance, begin
from caffestat.theory.quadrature import NODES

from .fixup import shares

__all__ = ["Unsolved", "solve"]

_CLOSE = 1e-6
_TRIES = 60

Step = tuple[Node, Node]


class Unsolved(InputError):
    """No std gives a layer the wanted second moment; the message says why."""


def solve(
    program: Program, numbers: Collection[int], target: float | str = 1.0, fixup: bool = False
) -> dict[int, float | Unsolved]:
    """Return the std of each of the params, by number, with which the value behind its row has E[x²] = target.

    numbers  of the weights to solve for; the other params keep their fillers or values
    target   the second moment, or "input" for that of the data in front of the layer
    fixup    start residual branches as Zhang et al. 2019 do: the entries of their last layers are 0

    A weight of mean 0 is assumed. Where a row is not predicted, or its bias alone exceeds the target, the entry is an
    Unsolved. A row with several of the weights is solved for the first of them. Raises InputError for `fixup` in a net
    without residual branches.
    """
    forward = program.forward()
    own = starting_signals(program, forward)
    signals = own | {forward.params[number]: _normal(1.0) for number in numbers if number in forward.params}
    left = shares(program, forward) if fixup else {}
    walk, found = begin(forward.graph, signals), dict[int, float | Unsolved]()
    for row, steps in _by_row(forward, walk):
        weight = _weight(program, row, numbers, found)
        _take(walk, steps)
        if weight is not None:
            wanted = _of_data(program, forward, walk, row) if isinstance(target, str) else target
            again = [*_moves(walk, forward.params[weight]), *steps]
            found[weight] = _fit(walk, again, forward, row, weight, wanted * left.get(row, 1.0))
            if isinstance(found[weight], Unsolved):  # what is behind it reads what its own filler gives
                walk.give(forward.params[weight], own[forward.params[weight]])
                _take(walk, again)
    return found


def _of_data(program: Program, forward: Forward, walk: Walk, row: int) -> float:
    """Return the second moment of the first data in front of a row; 1 where none is predicted."""
    in_front = program.flow.in_front([row])
    tops = (forward.tops.get((data.index, 0)) for data in program.rows if data.is_data and data.index in in_front)
    known = (walk.signal(top) for top in tops if top)
    return next((signal.second for signal in known if signal and signal.second > 0), 1.0)


def _normal(std: float) -> Signal:
    return Signal(std * NODES, 1.0, 1.0)


def _by_row(forward: Forward, walk: Walk) -> Iterator[tuple[int, list[Step]]]:
    """Yield the steps of each row, those that only prepare its params included; -1 for what belongs to none."""
    rows = forward.value_rows()
    pending: list[Step] = []
    row = -1
    for step in walk.steps:
        here = rows.get(step[1].outputs[0], -1)
        if here != row and row >= 0:
            yield row, pending
            pending = []
        row = here
        pending.append(step)
    if pending:
        yield row, pending


def _weight(program: Program, row: int, numbers: Collection[int], found: Collection[int]) -> int | None:
    """Return the first weight of a row that is its own and wanted."""
    params = program.rows[row].params if row >= 0 else ()
    return next((n for n in params if n in numbers and n not in found and program.params[n].owner is None), None)


def _moves(walk: Walk, param: str) -> list[Step]:
    """Return the steps that only move or reshape a param, which belong to other rows of a model."""
    names, steps = {param}, []
    for step in walk.steps:
        if step[0].info.passes_weight and step[0].inputs[0] in names:
            names.update(step[0].outputs)
            steps.append(step)
    return steps


def _take(walk: Walk, steps: list[Step]) -> None:
    for step in steps:
        advance(walk, step)


def _fit(walk: Walk, steps: list[Step], forward: Forward, row: int, number: int, target: float) -> float | Unsolved:
    """Scale a weight until the value behind its row has the target's second moment: E[x²] = a std² + b."""
    top, weight, std = forward.tops.get((row, 0)), forward.params[number], 1.0
    if target == 0:
        walk.give(weight, _normal(0.0))
        _take(walk, steps)
        return 0.0
    for _ in range(_TRIES):
        signal = walk.signal(top) if top else None
        if signal is None:
            return Unsolved("its output is not predicted")
        if signal.second <= 0:
            return Unsolved("its output is all zeros")
        if abs(signal.second / target - 1) < _CLOSE:
            return std
        std *= math.sqrt(target / signal.second)
        walk.give(weight, _normal(std))
        _take(walk, steps)
    return Unsolved(f"its bias alone has a second moment of more than {target:g}")
