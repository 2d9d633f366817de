"""Which nodes of a graph run, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from typing import TYPE_CHECKING

from .repeats import renamed

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["in_order", "live", "without_copies", "without_views_of_views"]


def in_order(g: Graph) -> Graph:
    """Return the graph with the nodes that compute values of `Graph.statistics` right behind what they read.

    Else all activations would live until the statistics at the end are computed.
    """
    turn: dict[str, int] = {}  # of each value: the node in whose turn it is computed
    turns = []
    for index, node in enumerate(g.nodes):
        before = [turn[name] for name in (*node.inputs, *node.captured) if name in turn]
        mine = max(before) if before and node.outputs[0] in g.statistics else index
        turn.update(dict.fromkeys(node.outputs, mine))
        turns.append(mine)
    result = copy(g)
    result.nodes = [g.nodes[index] for index in sorted(range(len(turns)), key=lambda index: (turns[index], index))]
    return result


def live(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return the nodes that the outputs depend on: the runtime would compute the others too."""
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs, node.captured)
            live.append(node)
    return live[::-1]


def without_copies(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return the nodes without those that give a value another name, unless it is asked for by that name.

    The runtime leaves them out too, but not where a graph is cut: both names would cross, and with them a copy.
    """
    fixed = {*outputs, *(name for node in nodes for name in node.captured)}
    names: dict[str, str] = {}
    kept = []
    for node in nodes:
        node = renamed(node, names)
        if node.info.renames and node.outputs[0] not in fixed:
            names[node.outputs[0]] = node.inputs[0]
        else:
            kept.append(node)
    return kept


def without_views_of_views(g: Graph, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes with views of views as views of what these are views of, as far as shapes are known."""
    from .graph import Node

    sources: dict[str, str] = {}
    found = []
    for node in nodes:
        value = node.outputs[0]
        if node.info.reshapes and value in g.specs and 0 not in g.shape(value):
            if node.inputs[0] in sources:
                node = Node("Reshape", (sources[node.inputs[0]], g.ints(*g.shape(value))), node.outputs)
            sources[value] = node.inputs[0]
        found.append(node)
    return found
