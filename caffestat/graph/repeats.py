"""Nodes that compute what one before them does."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["computes", "merge_repeats", "renamed"]

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
