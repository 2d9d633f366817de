"""Which node of a model owns which params, and who reads which value."""

from __future__ import annotations

from collections import defaultdict

from caffestat.graph import Node
from caffestat.graph.fans import Use, find_uses
from caffestat.graph.load import Model, ModelNode
from caffestat.ops import Role

__all__ = ["Layout"]


class Layout:
    """The params of a model's nodes.

    uses     what each param is for
    node_of  the index in `model.nodes` of each of the graph's nodes
    ids      the number of every value that is fed or computed
    readers  the graph's nodes, by index, that read a value
    owned    the params of each of `model.nodes`
    """

    def __init__(self, model: Model) -> None:
        self.model, self.graph = model, model.graph
        self.node_of = {i: index for index, node in enumerate(model.nodes) for i in range(node.first, node.last)}
        # behind the model's own nodes lie those of the loss and its gradient
        self.nodes = self.graph.nodes[: len(self.node_of)]
        computed = (name for node in model.nodes for name in node.outputs if name)
        self.ids = {name: number for number, name in enumerate(dict.fromkeys((*self.graph.inputs, *computed)))}
        shapes = {name: spec.shape for name, spec in self.graph.specs.items()}
        self.uses: dict[str, Use] = find_uses(self.nodes, shapes, self.graph.params)
        self.statistics: set[str] = set()
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            self._enter(index, node)
        self.owned: dict[int, list[str]] = defaultdict(list)
        for name in self.graph.params:
            place = self.uses[name].node if name in self.uses else self._first_reader(name)
            if place is not None:
                self.owned[self.node_of[place]].append(name)

    def _enter(self, index: int, node: Node) -> None:
        for position, name in enumerate(node.inputs):
            self.readers[name].append(index)
            if node.info.role(position) is Role.STATISTIC:
                self.statistics.add(name)
        for name in node.captured:
            self.readers[name].append(index)

    def _first_reader(self, name: str) -> int | None:
        """Return the first node that does more with a value than to hand it on."""
        place = None
        while self.readers[name]:
            place = self.readers[name][0]
            node = self.graph.nodes[place]
            if not node.info.passes_weight or node.inputs[0] != name:
                break
            name = node.outputs[0]
        return place

    def params(self, index: int) -> list[str]:
        """Return the params of a node of the model, weights first."""
        return sorted(self.owned.get(index, ()), key=lambda name: self.role(name) != "weight")

    def role(self, name: str) -> str:
        """Return what a param is: weight, bias, statistic or, where no rule knows it, param."""
        if name in self.uses:
            return self.uses[name].role
        return "statistic" if name in self.statistics else "param"

    def is_stored(self, name: str) -> bool:
        """Tell whether a value stands in the model's file."""
        return name in self.graph.params or name in self.graph.constants

    def bottoms(self, node: ModelNode) -> list[str]:
        """Return what a node reads that is computed or fed: its inputs, then what its subgraphs read."""
        inner = (name for n in self.nodes[node.first : node.last] for name in (*n.inputs, *n.captured))
        hidden = dict.fromkeys(name for name in inner if name not in (*node.inputs, *node.outputs))
        return [name for name in (*node.inputs, *hidden) if name in self.ids and not self.is_stored(name)]
