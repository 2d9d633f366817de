"""Nodes that compute what one before them does."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from caffestat.ops import CONTRIB

from . import blocked
from .late import LATE

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["computes", "merge_repeats", "renamed", "without_repeats"]

_NEAR = 100  # nodes between two that compute the same
_SMALL = 64  # bytes of constants that are compared


def merge_repeats(graph: Graph, kept: Collection[str] = ()) -> None:
    """Drop nodes that compute what one before them does, in place; equal small constants are one.

    kept: values that have to stay, beside the graph's outputs
    """
    captured = (name for node in graph.nodes for name in node.captured)
    fixed = {*kept, *graph.outputs, *graph.detached, *captured}
    names = _equal_constants(graph)
    first: dict[Hashable, Node] = {}
    nodes = []
    for node in graph.nodes:
        node = renamed(node, names)
        same = first.setdefault(computes(node, node.inputs), node)
        if same is node or not fixed.isdisjoint(node.outputs):
            nodes.append(node)
        else:
            names.update(zip(node.outputs, same.outputs, strict=True))
    graph.nodes[:] = nodes


def _equal_constants(graph: Graph) -> dict[str, str]:
    """Return the first equal one for each small constant."""
    first: dict[Hashable, str] = {}
    small = ((name, array) for name, array in graph.constants.items() if array.nbytes <= _SMALL)
    keys = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in small}
    return {name: first.setdefault(key, name) for name, key in keys.items()}


def without_repeats(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return the nodes without those that compute what a node shortly before them does.

    The runtime leaves out such nodes of ONNX's own ops, but not of others, and none that computes an output of the
    graph. What was computed long before is computed again, for it would take memory in between: a third more on
    GoogLeNet and a fifth more on ResNet-50, measured with equal nodes of all ops. Images in the blocked layout are
    kept: 6 to 9 % of the time of MobileNet's training for 6 % of its memory. Views stay: one that two nodes far apart
    share takes a tenth more on GoogLeNet.
    """
    fixed = {*outputs, *(name for node in nodes for name in node.captured)}
    own = {node.op for node in nodes if not fixed.isdisjoint(node.outputs)}
    names: dict[str, str] = {}
    asked: dict[str, str] = {}  # the names outside of what the nodes call otherwise
    last: dict[Hashable, tuple[int, Node]] = {}
    views: dict[str, Hashable] = {}
    kept = []
    for index, node in enumerate(nodes):
        node = renamed(node, names)
        key = _computes(node, views, own)
        if node.info.reshapes:
            views[node.outputs[0]] = key
            key = node.outputs
        before, same = last.get(key, (-_NEAR, node))
        is_asked = not fixed.isdisjoint(node.outputs)
        is_shared = index - before < _NEAR or (same is not node and blocked.is_reorder(node))
        if is_shared and not (is_asked and fixed.union(asked).intersection(same.outputs)):
            names.update(zip(node.outputs, same.outputs, strict=True))
            asked.update(zip(same.outputs, node.outputs, strict=True) if is_asked else ())
        else:
            last[key] = index, node
            kept.append(node)
    return [renamed(node, asked, results=True) for node in kept]


def _computes(node: Node, views: Mapping[str, Hashable], own: Collection[str]) -> Hashable:
    """Return a key that two nodes share when their outputs are equal and the runtime would not tell.

    views: what the views among the node's inputs compute
    own:   the ops of ONNX that the runtime does not compare
    """
    is_compared = node.domain in (LATE, CONTRIB, blocked.NCHWC) or node.info.reshapes or node.op in own
    return computes(node, [views.get(name, name) for name in node.inputs]) if is_compared else node.outputs


def computes(node: Node, inputs: Sequence[Hashable]) -> Hashable:
    """Return a key that two nodes share when their outputs are equal; `inputs` tell what it reads."""
    if node.info.is_random or node.info.bodies:
        return node.outputs
    settings = tuple(sorted((name, repr(value)) for name, value in node.attributes.items()))
    return node.op, node.domain, tuple(inputs), settings, tuple(map(bool, node.outputs))


def renamed(node: Node, names: Mapping[str, str], results: bool = False) -> Node:
    """Return the node that reads values under other names, and with `results` computes them under these."""
    inputs, outputs = (tuple(names.get(name, name) for name in values) for values in (node.inputs, node.outputs))
    outputs = outputs if results else node.outputs
    return node if (inputs, outputs) == (node.inputs, node.outputs) else replace(node, inputs=inputs, outputs=outputs)
