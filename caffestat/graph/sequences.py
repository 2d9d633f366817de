"""Sequences of tensors of known length, replaced by tensors: exporters write a Split that way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .graph import Graph, Node

__all__ = ["Sequences", "whole_sequences"]

Rule = Callable[["Sequences", Node], "list[Node] | None"]

_RULES: dict[str, Rule] = {}
_READERS: set[str] = set()  # ops that read single elements of a sequence


def _rule(op: str, reads: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule that expresses an op without sequences, or returns None where a sequence has to stay.

    reads: the op takes elements out of a sequence
    """

    def register(rule: Rule) -> Rule:
        _RULES[op] = rule
        if reads:
            _READERS.add(op)
        return rule

    return register


def whole_sequences(nodes: Iterable[Node], outputs: Iterable[str]) -> set[str]:
    """Return the values that something reads which takes a sequence as a whole: these have to stay."""
    others = (node for node in nodes if node.op not in _READERS)
    return {*outputs, *(name for node in others for name in (*node.inputs, *node.captured))}


@dataclass
class Sequences:
    """The sequences of a graph, as the names of their elements.

    whole: see `whole_sequences`
    """

    graph: Graph
    whole: set[str]
    elements: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def lower(self, node: Node) -> Iterator[Node]:
        """Yield a node without sequences where they are of known length, the node itself otherwise."""
        rule = None if node.domain else _RULES.get(node.op)
        nodes = rule(self, node) if rule else None
        yield from [node] if nodes is None else nodes

    @_rule("SequenceConstruct")
    def _construct(self, node: Node) -> list[Node] | None:
        if node.outputs[0] in self.whole:
            return None
        self.elements[node.outputs[0]] = node.inputs
        return []

    @_rule("SplitToSequence")
    def _split(self, node: Node) -> list[Node] | None:
        """Pieces of given sizes, or of one size, the last of which may be smaller; without any they lose an axis."""
        x, *split = node.inputs
        constants, specs = self.graph.constants, self.graph.specs
        if node.outputs[0] in self.whole or not split or split[0] not in constants or x not in specs:
            return None
        axis, sizes = node.get("axis", 0), constants[split[0]]
        if not sizes.ndim:
            count, piece = specs[x].shape[axis], max(int(sizes), 1)
            sizes = np.array([min(piece, count - first) for first in range(0, count, piece)])
        names = tuple(f"{node.outputs[0]}/{index}" for index in range(len(sizes)))
        self.elements[node.outputs[0]] = names
        return [Node("Split", (x, self.graph.ints(*sizes.tolist())), names, {"axis": axis})]

    @_rule("SequenceAt", reads=True)
    def _at(self, node: Node) -> list[Node] | None:
        sequence, position = node.inputs
        if sequence not in self.elements or position not in self.graph.constants:
            return None
        return [Node("Identity", (self.elements[sequence][int(self.graph.constants[position])],), node.outputs)]

    @_rule("ConcatFromSequence", reads=True)
    def _concat(self, node: Node) -> list[Node] | None:
        if node.inputs[0] not in self.elements or node.get("new_axis", 0):
            return None
        return [Node("Concat", self.elements[node.inputs[0]], node.outputs, {"axis": node.attributes["axis"]})]
