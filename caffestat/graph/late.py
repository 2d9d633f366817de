"""Late ops: ops of our own that become ordinary ones when it is known which of the runtime's providers runs the graph.

They let one graph serve all providers. A late op is declared with its result's shape, is part of no model that leaves
this package, and has one definition: `@late("Op")` registers a function that emits ordinary ops for a provider. What
follows from other values, whatever the provider's kernels are, is found before: `@early("Op")` registers a function
that emits late ops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["LATE", "Definition", "append", "branch", "define", "early", "for_provider", "late"]

LATE = "caffestat.late"
"""The domain of late ops."""

Definition = Callable[["Graph", "Node", str], "Sequence[str] | None"]
"""Emit what a node computes, for the provider "cpu" or "cuda", and return its outputs; None: it stays as it is."""

_DEFINITIONS: dict[str, Definition] = {}
_EARLY: dict[str, Definition] = {}


def late(op: str) -> Callable[[Definition], Definition]:
    """Register the definition of a late op. Raises ValueError when it has one already."""
    return _registering(op, _DEFINITIONS)


def early(op: str) -> Callable[[Definition], Definition]:
    """Register what a late op is replaced by before any is defined. Raises ValueError when it has that already."""
    return _registering(op, _EARLY)


def _registering(op: str, table: dict[str, Definition]) -> Callable[[Definition], Definition]:
    def register(definition: Definition) -> Definition:
        if op in table:
            raise ValueError(f"late op {op!r} already has a definition")
        table[op] = definition
        return definition

    return register


def define(g: Graph, node: Node, provider: str = "cpu") -> Sequence[str]:
    """Emit what a late op's node computes and return its outputs."""
    outputs = _DEFINITIONS[node.op](g, node, provider)
    assert outputs is not None
    return outputs


def append(
    g: Graph, node: Node, provider: str, rewrites: Mapping[str, Definition] | None = None, is_early: bool = False
) -> None:
    """Append a node, or what defines it where it is a late op, or what `rewrites` (by op of ONNX) makes of it.

    is_early: late ops stay, or are replaced by others
    """
    rules = {LATE: _EARLY if is_early else _DEFINITIONS, "": rewrites or {}}
    rule = rules.get(node.domain, {}).get(node.op)
    first = len(g.nodes)
    outputs = rule(g, node, provider) if rule else None
    if outputs is None:
        g.nodes.append(node)
        if not g.changing.isdisjoint((*node.inputs, *node.captured)):
            g.changing.update(node.outputs)
        return
    emitted = g.nodes[first:]
    del g.nodes[first:]
    for inner in _under_names(g, emitted, dict(zip(outputs, node.outputs, strict=False))):
        is_itself = inner.op == node.op and node.domain != LATE
        append(g, inner, provider, None if is_itself else rewrites, is_early)


def _under_names(g: Graph, nodes: Sequence[Node], names: Mapping[str, str]) -> list[Node]:
    """Return the nodes with some of their outputs under other names; one that none of them computes is copied.

    What a node in front computes under its name already is left as it is.
    """
    from .graph import Node

    result = []
    for node in nodes:
        inputs, outputs = (tuple(names.get(n, n) for n in values) for values in (node.inputs, node.outputs))
        result.append(replace(node, inputs=inputs, outputs=outputs))
    computed = {name for node in nodes for name in node.outputs}
    copied = ((old, new) for old, new in names.items() if new and old not in (new, *computed))
    return result + [Node("Identity", (old,), (new,)) for old, new in copied]


def for_provider(g: Graph, provider: str = "cpu") -> Graph:
    """Return the graph without late ops; the graph itself when it has none."""
    if all(node.domain != LATE for node in g.nodes):
        return g
    result = branch(g)
    for node in g.nodes:
        append(result, node, provider)
    return result


def branch(g: Graph) -> Graph:
    """Return a graph without nodes that continues `g`; the tables of `g` stay as they are, its names are shared."""
    result = copy(g)
    result.nodes, result.specs, result.constants = [], dict(g.specs), dict(g.constants)
    result._constant_names, result.statistics = dict(g._constant_names), set(g.statistics)
    result.spread, result.dilated = {}, {}
    return result
