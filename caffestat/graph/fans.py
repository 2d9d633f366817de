"""The true fans of weights by the ONNX op that uses them, directly or after a change of their shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from caffestat.ops import Combines, Role

from .graph import Node, Shape, flow_of

__all__ = ["Use", "find_uses"]


@dataclass(frozen=True)
class Use:
    """What a value is for: `node` (its index) has it as a weight or a bias, with these fans; a bias has 1 and 1.

    count: how many numbers it holds, of packed weights
    """

    node: int
    role: str
    fan_in: int
    fan_out: int
    count: int | None = None


def find_uses(nodes: Sequence[Node], shapes: Mapping[str, Shape], values: Collection[str]) -> dict[str, Use]:
    """Return what each of `values` (params, initializers) is used for first; those that no rule knows are left out.

    shapes: of the values, and of what Reshape, Transpose and the like make of them; a use of unknown shape is left out.
    """
    return _Uses(nodes, shapes, values).found()


class _Uses:
    def __init__(self, nodes: Sequence[Node], shapes: Mapping[str, Shape], values: Collection[str]) -> None:
        self._nodes, self._shapes, self._values = nodes, shapes, values
        self._flow = flow_of(nodes)
        self._origins = self._flow.origins(lambda index: nodes[index].info.passes_weight)

    def found(self) -> dict[str, Use]:
        uses: dict[str, Use] = {}
        for index, node in enumerate(self._nodes):
            for value, use in self._by(index, node):
                if self._origin(value) in self._values:
                    uses.setdefault(self._origin(value), use)
        return uses

    def _by(self, index: int, node: Node) -> Iterator[tuple[str, Use]]:
        info = node.info
        for position, value in enumerate(node.inputs):
            shape = self._shapes.get(value, ())
            if position in info.fans and (len(shape) > 1 or position in info.holds):
                count = info.holds[position](node.attributes, shape) if position in info.holds else None
                yield value, Use(index, "weight", *info.fans[position](node.attributes, shape), count)
            elif info.role(position) is Role.BIAS or self._is_added(node, position):
                yield value, Use(index, "bias", 1, 1)

    def _is_added(self, node: Node, position: int) -> bool:
        """Tell whether the other term of a sum is what a layer with a weight made: then this one is its bias."""
        if node.info.combines is not Combines.SUM or len(node.inputs) != 2:
            return False
        return self._is_of_weight(node.inputs[1 - position], sums=1)

    def _is_of_weight(self, value: str, sums: int) -> bool:
        """Tell whether a value is a product with a weight, or the sum of one and something else."""
        writer = self._flow.writer(self._origin(value))
        if writer is None:
            return False
        node = self._nodes[writer]
        if sums and node.info.combines is Combines.SUM and len(node.inputs) == 2:
            return any(self._is_of_weight(name, sums - 1) for name in node.inputs)
        # a mask is added to a product of two
        return node.info.is_product and any(self._origin(name) in self._values for name in node.inputs)

    def _origin(self, value: str) -> str:
        """Return the value of which this one is all or a part."""
        return self._origins.get(value, value)
