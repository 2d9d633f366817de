"""The backward half of a program's graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from caffestat.autodiff import Stop, backward, rounding
from caffestat.graph import Node

from .losses import seed_values
from .program import Forward, Inner, Key, Program

__all__ = ["Gradients", "differentiate"]


@dataclass(frozen=True)
class Gradients:
    """Values of the gradients by (row, bottom) and (row, param); None is zero, an absent key is unknown.

    A shared param's is the sum so far in the backward pass.

    owners  the whole gradients, by number in `Program.params`
    stops   the nodes of a model that no gradient passes, for want of a rule
    rounds  those behind which it is zero, because they round to integers
    inner   the gradients inside of recurrent layers whose lines Caffe prints, by row
    """

    bottoms: dict[Key, str | None]
    params: dict[Key, str | None]
    owners: dict[int, str | None]
    stops: tuple[Stop, ...] = ()
    rounds: tuple[Node, ...] = ()
    inner: dict[int, Gradients] = field(default_factory=dict)


def differentiate(program: Program, forward: Forward) -> Gradients:
    """Append the backward half to the forward graph and return the gradients that are wanted.

    Raises GradientError for an op of a Caffe net without a rule.
    """
    graph = forward.graph
    seeds = seed_values(graph, forward.seeds)
    inner = {row: part for row, part in forward.inner.items() if part.forward.wanted or part.forward.wanted_params}
    parts = [forward, *(part.forward for part in inner.values())]
    asked = [value for part in parts for value in (*part.wanted.values(), *part.wanted_params.values())]
    stops: list[Stop] | None = None if program.is_caffe else []
    rounds = () if program.is_caffe else rounding(graph, asked, seeds)
    found = backward(graph, seeds, asked, stops, forward.stored)
    result = _gathered(program, forward, found)
    for row, part in inner.items():
        before = dict(zip(part.owners, _gathered_before(program, result, row), strict=True))
        result.inner[row] = _gathered(part.program, part.forward, found, before, _same_memory(program, row, part))
    return replace(result, stops=tuple(stops or ()), rounds=tuple(rounds))


def _gathered_before(program: Program, gradients: Gradients, row: int) -> list[str | None]:
    """Return what stands in the gradient of each param of a row when its backward pass begins."""
    found = []
    for owner in map(program.owner, program.rows[row].params):
        later = [k for k in gradients.params if k[0] > row and program.owner(program.rows[k[0]].params[k[1]]) == owner]
        found.append(gradients.params[min(later)] if later else None)
    return found


def _same_memory(program: Program, row: int, part: Inner) -> dict[int, int]:
    """Return, for each owner inside of a row that shares params with itself, the first of the same memory."""
    owners = [program.owner(number) for number in program.rows[row].params]
    first = dict(zip(reversed(owners), reversed(part.owners), strict=True))
    return {inner: first[outer] for inner, outer in zip(part.owners, owners, strict=True)}


def _gathered(
    program: Program,
    forward: Forward,
    found: Mapping[str, str | None],
    before: Mapping[int, str | None] | None = None,
    memory: Mapping[int, int] | None = None,
) -> Gradients:
    """Add up the gradients of shared params in the order of the backward pass, but for those that are written over.

    A row's params show what all of them have left.

    before: what they start with, by owner
    memory: the owner in whose memory another one's gradient lies; default: its own
    """
    graph = forward.graph
    bottoms = {key: found[value] for key, value in forward.wanted.items() if value in found}
    params = {key: found[value] for key, value in forward.wanted_params.items() if value in found}
    for key, grad in bottoms.items():
        if grad:
            graph.specs[grad] = graph.specs[forward.wanted[key]]
    owners: dict[int, str | None] = dict(before or {})
    so_far: dict[Key, str | None] = {}

    def own(row: int, index: int) -> int:
        owner = program.owner(program.rows[row].params[index])
        return (memory or {}).get(owner, owner)

    for row, index in sorted(params, key=lambda key: (-key[0], key[1])):
        param, owner, value = program.params[program.rows[row].params[index]], own(row, index), params[row, index]
        shape = program.params[owner].shape
        if value and param.shape != shape:
            value = graph.reshape(value, *shape)
        earlier = owners.get(owner) if param.adds_up else None
        total = graph.emit("Add", earlier, value) if earlier and value else earlier or value
        owners[owner] = total
        so_far.update({(row, i): total for i in range(index + 1) if (row, i) in params and own(row, i) == owner})
        if total:
            graph.declare(total, shape)
    return Gradients(bottoms, so_far, owners)
