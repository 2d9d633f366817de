"""Fixup: residual nets without normalization whose function changes by Θ(learning rate) per step at any depth.

H. Zhang, Y. Dauphin, T. Ma, *Fixup Initialization: Residual Learning Without Normalization*, 2019, section 3:
1. the last layer of each residual branch, and the classification layer, start at 0;
2. the other layers of a branch are multiplied by L^(-1 / (2m - 2)), L branches of m layers.

Its third rule, scalar biases and multipliers, changes the net and is left to who writes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from caffestat.errors import InputError
from caffestat.ops import Combines
from caffestat.program import Forward, Program, Row

__all__ = ["residual_branches", "shares"]


def residual_branches(program: Program, forward: Forward) -> list[list[int]]:
    """Return the rows with weights of each residual branch, in order.

    A branch is what a sum adds to a way that has fewer layers with weights, both from one fork; one that normalises its
    signal is left out.
    """
    return [branch for row in program.rows if _adds(forward, row) for branch in _branches(program, forward, row)]


def _adds(forward: Forward, row: Row) -> bool:
    """Tell whether a row is a sum of several values."""
    first, last = forward.spans.get(row.index, (0, 0))
    known = {*forward.graph.constants, *forward.graph.params}
    sums = (
        node.info.combines is Combines.SUM and len(node.inputs) > 1 and known.isdisjoint(node.inputs)
        for node in forward.graph.nodes[first:last]
    )
    return len(row.reads) > 1 and not row.params and any(sums)


def _branches(program: Program, forward: Forward, row: Row) -> Iterator[list[int]]:
    ways = [{source, *program.flow.in_front([source])} for source, _ in row.reads]
    fork = set.intersection(*ways)
    if not fork:
        return
    own = [sorted(way - fork) for way in ways]
    weighted = [[index for index in rows if program.weight(program.rows[index])] for rows in own]
    fewest = min(map(len, weighted))
    for rows, layers in zip(own, weighted, strict=True):
        if len(layers) > fewest and not any(_normalizes(forward, index) for index in rows):
            yield layers


def _normalizes(forward: Forward, row: int) -> bool:
    first, last = forward.spans.get(row, (0, 0))
    return any(node.info.normalizes for node in forward.graph.nodes[first:last])


def shares(program: Program, forward: Forward) -> dict[int, float]:
    """Return, by row, the share of the second moment that is left behind it; 0 for layers that start at 0.

    Layer j of m is multiplied by L^(-1 / (2m - 2)), and so are those in front of it in the branch: L^(-j / (m - 1)).
    Raises InputError for a net without residual branches.
    """
    branches = residual_branches(program, forward)
    if not branches:
        raise InputError("autoinit:fixup=1: the net has no residual branch without normalization")
    found = {}
    for branch in branches:
        for number, row in enumerate(branch, 1):
            found[row] = len(branches) ** (-number / (len(branch) - 1)) if number < len(branch) else 0.0
    weighted = [row.index for row in program.rows if program.weight(row)]
    in_front = program.flow.in_front(weighted)
    return found | dict.fromkeys((row for row in weighted if row not in in_front), 0.0)
