"""Multiply-adds of a graph's nodes, one forward pass."""

from __future__ import annotations

from caffestat.ops import UnknownShapeError

from .graph import Graph, Node

__all__ = ["macs"]


def macs(graph: Graph, node: Node) -> int | None:
    """Return the multiply-adds of a node, 0 for an op that is not counted, None where a shape is not known."""
    rule = node.info.macs
    try:
        return rule(graph.call(node)) if rule else 0
    except UnknownShapeError:
        return None
