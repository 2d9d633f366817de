"""Multiply-adds of a graph's nodes, one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from caffestat.ops import UnknownShapeError

from .graph import Graph, Node, Spec
from .infer import branch_taken
from .nodes import subgraphs

__all__ = ["macs"]


def macs(graph: Graph, node: Node) -> int | None:
    """Return the multiply-adds of a node, 0 for an op that is not counted, None where they are not known.

    They are not for ops that the table lacks, unknown shapes, branches of different costs, and loops of unknown length.
    """
    info = node.info
    if info.bodies:
        return _of_bodies(graph, node)
    if info.macs is None:
        return 0 if info.is_known else None
    try:
        return info.macs(graph.call(node))
    except UnknownShapeError:
        return None


def _of_bodies(graph: Graph, node: Node) -> int | None:
    scanned = node.get("num_scan_inputs", 0)
    taken = None if node.get("then_branch") is None else branch_taken(graph, node)
    bodies = [taken] if taken else subgraphs(node)
    costs = {_of_body(graph, body, _slices(graph, node, scanned)) for body in bodies}
    if len(costs) != 1:
        return 0 if not costs else None
    (cost,) = costs
    if not cost or node.get("then_branch") is not None:
        return cost
    return cost * _steps(graph, node, scanned) if scanned and node.inputs[-1] in graph.specs else None


def _of_body(graph: Graph, body: onnx.GraphProto, inputs: Sequence[Spec | None]) -> int | None:
    from .bodies import open_body

    inner = open_body(graph, body, inputs)
    costs = [macs(inner, node) for node in inner.nodes]
    return None if None in costs else sum(cost or 0 for cost in costs)


def _slices(graph: Graph, node: Node, scanned: int) -> list[Spec | None]:
    """Return shape and type of the inputs of a Scan's body: states, then slices; nothing for other bodies."""
    if not scanned:
        return []
    states, arrays = node.inputs[:-scanned], node.inputs[-scanned:]
    axes = node.get("scan_input_axes") or [0] * scanned
    slices = [_without(graph.specs.get(name), axis) for name, axis in zip(arrays, axes, strict=True)]
    return [*(graph.specs.get(name) for name in states), *slices]


def _without(spec: Spec | None, axis: int) -> Spec | None:
    if spec is None:
        return None
    axis %= len(spec.shape)
    return Spec((*spec.shape[:axis], *spec.shape[axis + 1 :]), spec.dtype)


def _steps(graph: Graph, node: Node, scanned: int) -> int:
    axes = node.get("scan_input_axes") or [0] * scanned
    return graph.shape(node.inputs[-1])[axes[-1]]
