"""The true fans of weights by the ONNX op that uses them, straight or behind a change of their shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from caffestat.ops import Combines, Role

from .graph import Node, Shape

__all__ = ["Use", "find_uses"]


@dataclass(frozen=True)
class Use:
    """What a value is for: `node` (its index) has it as a weight or a bias, with these fans; a bias has 1 and 1."""

    node: int
    role: str
    fan_in: int
    fan_out: int


def find_uses(nodes: Sequence[Node], shapes: Mapping[str, Shape], values: Collection[str]) -> dict[str, Use]:
    """What each of `values` (params, initializers) is used for first; those that no rule knows are left out.

    shapes: of the values, and of what Reshape, Transpose and the like make of them; a use of unknown shape is left out.
    """
    producers = {output: node for node in nodes for output in node.outputs}
    uses: dict[str, Use] = {}
    for index, node in enumerate(nodes):
        for value, use in _uses_by(index, node, producers, shapes, values):
            root = _root(value, producers)
            if root in values:
                uses.setdefault(root, use)
    return uses


def _uses_by(
    index: int, node: Node, producers: Mapping[str, Node], shapes: Mapping[str, Shape], values: Collection[str]
) -> Iterator[tuple[str, Use]]:
    info = node.info
    for position, value in enumerate(node.inputs):
        if position in info.fans and len(shapes.get(value, ())) > 1:
            yield value, Use(index, "weight", *info.fans[position](node.attributes, shapes[value]))
        elif info.role(position) is Role.BIAS or _is_added(node, position, producers, values):
            yield value, Use(index, "bias", 1, 1)


def _is_added(node: Node, position: int, producers: Mapping[str, Node], values: Collection[str]) -> bool:
    """Whether the other term of a sum is what a layer with a weight made: then this one is its bias."""
    if node.info.combines is not Combines.SUM or len(node.inputs) != 2:
        return False
    producer = producers.get(_root(node.inputs[1 - position], producers))
    if producer is None or not producer.info.is_product:
        return False
    return any(_root(name, producers) in values for name in producer.inputs)  # a mask is added to a product of two


def _root(value: str, producers: Mapping[str, Node]) -> str:
    """Where a value comes from, behind what only changes its shape."""
    while value in producers and producers[value].info.passes_weight:
        value = producers[value].inputs[0]
    return value
