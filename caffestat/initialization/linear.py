"""The rows of a program that are linear in a weight, and changes of what they compute inside of the graph.

y = W∘x + b is linear in W, so W / σ gives exactly (y - b) / σ + b. Where that is computed inside of the graph, behind
every layer, one pass over the net finds the σ of all layers, each measured behind the layers in front of it as they
will be.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from caffestat.graph import Graph, Node, Region
from caffestat.program import Forward, Program, Row

from .layout import Layout, layouts

__all__ = ["Linear", "linear_rows", "replace_bias", "replace_top", "spread", "without_bias"]


@dataclass(frozen=True)
class Linear:
    """A row that is linear in a weight.

    row       its index
    weight    the number of the param that owns the weight's values
    layout    how it is read
    bias      the number of the param that owns the bias's values; None without one
    bias_use  the (row, param) that adds the bias: the row itself, or in a model an Add behind it
    """

    row: int
    weight: int
    layout: Layout
    bias: int | None = None
    bias_use: tuple[int, int] | None = None

    @property
    def has_own_bias(self) -> bool:
        """Whether the row itself adds the bias."""
        return self.bias_use is not None and self.bias_use[0] == self.row


def linear_rows(program: Program, forward: Forward, numbers: Collection[int]) -> list[Linear]:
    """Return the rows that read some of the weights, in order; those of a shared weight each."""
    owners = {program.owner(number) for number in numbers}
    known = layouts(forward, owners)
    return list(_rows(program, owners, known))


def _rows(program: Program, owners: Collection[int], known: dict[int, Layout]) -> Iterator[Linear]:
    for row in program.rows:
        weight = next((program.owner(n) for n in row.params if program.owner(n) in owners), None)
        layout = known.get(weight) if weight is not None else None
        if weight is not None and layout is not None and layout.is_linear:
            use = _bias_use(program, row)
            number = program.rows[use[0]].params[use[1]] if use else None
            yield Linear(row.index, weight, layout, None if number is None else program.owner(number), use)


def _bias_use(program: Program, row: Row) -> tuple[int, int] | None:
    """Return which param of which row is the bias: of the row itself, else of the one row that reads it."""
    readers = [reader for reader, _ in program.flow.users(row.index)]
    for index in (row.index, *(readers if len(readers) == 1 else ())):
        roles = [program.params[number].role for number in program.rows[index].params]
        if roles.count("bias") == 1 and (index == row.index or len(roles) == 1):
            return index, roles.index("bias")
    return None


def without_bias(graph: Graph, forward: Forward, linear: Linear) -> tuple[str, str | None]:
    """Emit a row's top without its bias, and the bias in a shape that goes with it, None where the row adds none."""
    top = forward.tops[linear.row, 0]
    if not linear.has_own_bias or linear.bias_use is None:
        return top, None
    name, factor = forward.uses[linear.bias_use], linear.layout.node.get("beta", 1.0)
    if factor != 1:
        name = graph.emit("Mul", name, graph.constant(factor))
    bias = spread(graph, name, graph.shape(forward.uses[linear.bias_use]), linear, len(graph.shape(top)))
    return graph.emit("Sub", top, bias), bias


def spread(graph: Graph, value: str, shape: tuple[int, ...], linear: Linear, rank: int) -> str:
    """Emit a value per output in a shape that goes with the row's top; one that has several axes already stays."""
    if len(shape) != 1:
        return value
    return graph.reshape(graph.declare(value, shape), *shape, *[1] * (rank - 1 - linear.layout.axis % rank))


def replace_top(graph: Graph, forward: Forward, linear: Linear, emit: Callable[[], str]) -> None:
    """Replace a row's top, for all its readers, by what `emit` emits."""
    top = forward.tops[linear.row, 0]
    producer = next(index for index, node in enumerate(graph.nodes) if top in node.outputs)
    forward.tops[linear.row, 0] = _replace(graph, producer + 1, top, emit)


def replace_bias(graph: Graph, forward: Forward, linear: Linear, emit: Callable[[], str]) -> None:
    """Replace a row's bias by what `emit` emits."""
    assert linear.bias_use is not None
    bias = forward.uses[linear.bias_use]
    reader = next(index for index, node in enumerate(graph.nodes) if bias in node.inputs)
    forward.uses[linear.bias_use] = _replace(graph, reader, bias, emit)


def _replace(graph: Graph, at: int, old: str, emit: Callable[[], str]) -> str:
    """Insert what `emit` emits in front of a node, and let the nodes from there on read its result instead of `old`."""
    at = next((region.first for region in graph.regions if region.first < at < region.last), at)
    before = len(graph.nodes)
    new = graph.declare(emit(), graph.shape(old))
    added = graph.nodes[before:]
    graph.nodes[at:] = [*added, *(_reading(node, old, new) for node in graph.nodes[at:before])]
    graph.regions = [_moved(region, len(added), old, new) if region.first >= at else region for region in graph.regions]
    return new


def _moved(region: Region, by: int, old: str, new: str) -> Region:
    inputs = tuple(new if name == old else name for name in region.inputs)
    return replace(region, first=region.first + by, last=region.last + by, inputs=inputs)


def _reading(node: Node, old: str, new: str) -> Node:
    inputs = tuple(new if name == old else name for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)
