"""Sequences of tensors of known length, replaced by tensors: exporters write Splits and growing lists that way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import numpy_helper

from .graph import Graph, Node

__all__ = ["Sequences"]

Rule = Callable[["Sequences", Node], "list[Node] | None"]

_RULES: dict[str, Rule] = {}


def _rule(op: str) -> Callable[[Rule], Rule]:
    """Register a rule that expresses an op without sequences, or returns None where a sequence has to stay."""

    def register(rule: Rule) -> Rule:
        _RULES[op] = rule
        return rule

    return register


@dataclass
class Sequences:
    """The sequences of a graph.

    elements  the names of their elements
    empty     the nodes that make those that begin empty
    whole     those that are values of the graph, too
    """

    graph: Graph
    elements: dict[str, tuple[str, ...]] = field(default_factory=dict)
    empty: dict[str, Node] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    def lower(self, node: Node) -> Iterator[Node]:
        """Yield a node without sequences where they are of known length, the node itself otherwise."""
        rule = None if node.domain else _RULES.get(node.op)
        nodes = rule(self, node) if rule else None
        if nodes is None:
            nodes = [*self.made((*node.inputs, *node.captured)), node]
        yield from nodes

    def made(self, names: Iterable[str]) -> Iterator[Node]:
        """Yield nodes that make those of the values that are sequences: something takes them as a whole."""
        for name in dict.fromkeys(names):
            if name in self.elements and name not in self.whole:
                self.whole.add(name)
                elements = self.elements[name]
                yield Node("SequenceConstruct", elements, (name,)) if elements else self._none(name)

    def _none(self, name: str) -> Node:
        return replace(self.empty[name], outputs=(name,))

    def _keep(self, name: str, elements: Iterable[str]) -> list[Node]:
        self.elements[name] = tuple(elements)
        return []

    def _place(self, node: Node, position: int, count: int) -> int | None:
        """Return the place that an optional input names, `count` without it; None where data decides."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        if not name:
            return count
        return int(self.graph.constants[name]) if name in self.graph.constants else None

    @_rule("SequenceEmpty")
    def _empty(self, node: Node) -> list[Node]:
        self.empty[node.outputs[0]] = node
        return self._keep(node.outputs[0], ())

    @_rule("SequenceConstruct")
    def _construct(self, node: Node) -> list[Node]:
        return self._keep(node.outputs[0], node.inputs)

    @_rule("Identity")
    def _alias(self, node: Node) -> list[Node] | None:
        source, name = node.inputs[0], node.outputs[0]
        if source not in self.elements:
            return None
        if source in self.empty:
            self.empty[name] = self.empty[source]
        return self._keep(name, self.elements[source])

    @_rule("SequenceInsert")
    def _insert(self, node: Node) -> list[Node] | None:
        elements = self.elements.get(node.inputs[0])
        place = None if elements is None else self._place(node, 2, len(elements))
        if elements is None or place is None:
            return None
        return self._keep(node.outputs[0], (*elements[:place], node.inputs[1], *elements[place:]))

    @_rule("SequenceErase")
    def _erase(self, node: Node) -> list[Node] | None:
        elements = self.elements.get(node.inputs[0], ())
        place = self._place(node, 1, -1)
        if len(elements) < 2 or place is None:
            return None
        place %= len(elements)
        return self._keep(node.outputs[0], (*elements[:place], *elements[place + 1 :]))

    @_rule("SequenceLength")
    def _length(self, node: Node) -> list[Node] | None:
        if node.inputs[0] not in self.elements:
            return None
        length = numpy_helper.from_array(np.array(len(self.elements[node.inputs[0]]), np.int64))
        return [Node("Constant", (), node.outputs, {"value": length})]

    @_rule("SplitToSequence")
    def _split(self, node: Node) -> list[Node] | None:
        """Pieces of given sizes, or of one size, the last of which may be smaller; by default of 1.

        Without `keepdims` slices of 1 lose the axis: the runtime drops it where one size is given, too.
        """
        x, split = (*node.inputs, "")[:2]
        constants, specs = self.graph.constants, self.graph.specs
        axis, rank = node.get("axis", 0), len(specs[x].shape) if x in specs else 0
        if (split and split not in constants) or not -rank <= axis < rank:
            return None
        sizes = constants[split] if split else np.array(1)
        keeps_axis = bool(sizes.ndim or node.get("keepdims", 1))
        if not sizes.ndim:
            count, piece = specs[x].shape[axis], max(int(sizes), 1)
            sizes = np.array([min(piece, count - first) for first in range(0, count, piece)])
        if not sizes.size:
            return None
        y = node.outputs[0]
        pieces = [self.graph.unique(f"{y}/{index}") for index in range(sizes.size)]
        parts = Node("Split", (x, self.graph.ints(*sizes.tolist())), tuple(pieces), {"axis": axis})
        if keeps_axis:
            self._keep(y, pieces)
            return [parts]
        flat = self._each("Squeeze", pieces, axis)
        self._keep(y, (node.outputs[0] for node in flat))
        return [parts, *flat]

    def _each(self, op: str, values: Iterable[str], axis: int) -> list[Node]:
        """Return a node for each value that adds an axis or drops one."""
        axes = self.graph.ints(axis)
        return [Node(op, (value, axes), (self.graph.unique(f"{value}/{op}"),)) for value in values]

    @_rule("SequenceAt")
    def _at(self, node: Node) -> list[Node] | None:
        elements, place = self.elements.get(node.inputs[0], ()), self._place(node, 1, 0)
        if place is None or not -len(elements) <= place < len(elements):
            return None
        return [Node("Identity", (elements[place],), node.outputs)]

    @_rule("ConcatFromSequence")
    def _concat(self, node: Node) -> list[Node] | None:
        elements = self.elements.get(node.inputs[0])
        if not elements:
            return None
        axis = node.attributes["axis"]
        rows = self._each("Unsqueeze", elements, axis) if node.get("new_axis", 0) else []
        parts = tuple(row.outputs[0] for row in rows) or elements
        return [*rows, Node("Concat", parts, node.outputs, {"axis": axis})]
