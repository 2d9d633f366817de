"""Straight-through gradients of quantized values. (Bengio, Léonard, Courville 2013; Jacob et al. 2018)

A QuantizeLinear with its DequantizeLinear rounds x to y: a staircase, whose derivative is 0 almost everywhere. Straight
through, the gradient of y is that of x, as far as x lies within the range of the integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .graph import Graph, Node

__all__ = ["pass_straight_through", "quantized_pairs"]


def pass_straight_through(graph: Graph) -> list[int]:
    """Let gradients pass the graph's pairs of QuantizeLinear and DequantizeLinear.

    Returns where what stands for each node now begins, and where the last ends.

    y becomes c + (y - c), the bracket without a gradient, where c is x, outside of the range of the integers y itself:
    the gradient passes at the range's ends, too.
    """
    pairs = {back.outputs: quantize for quantize, back in quantized_pairs(graph)}
    nodes, graph.nodes = graph.nodes, []
    starts = [0]
    for node in nodes:
        if node.outputs in pairs:
            _emit_straight(graph, pairs[node.outputs], node)
        else:
            graph.nodes.append(node)
        starts.append(len(graph.nodes))
    return starts


def quantized_pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    """Yield the nodes that round to integers, each with one that makes floats of them again."""
    flow, nodes = graph.flow(), graph.nodes
    for node in nodes:
        maker = flow.writer(node.inputs[0]) if node.info.converts and len(node.inputs) > 1 else None
        if maker is not None and nodes[maker].info.rounds:
            yield nodes[maker], node


def _emit_straight(graph: Graph, quantize: Node, dequantize: Node) -> None:
    (x, *_), (y,) = quantize.inputs, dequantize.outputs
    spec, rounded = graph.specs[x], graph.unique(f"{y}/rounded")
    graph.nodes.append(replace(dequantize, outputs=(graph.declare(rounded, spec.shape, spec.dtype),)))
    within = x
    if len(quantize.outputs) == 1:  # a range that is found for each batch holds all values
        low, high = _range(graph, quantize)
        outside = graph.emit("Or", graph.emit("Less", x, low), graph.emit("Greater", x, high))
        within = graph.emit("Where", outside, graph.detach(rounded), x)
    rest = graph.detach(graph.emit("Sub", rounded, within))
    graph.nodes.append(Node("Add", (within, rest), (y,)))


def _range(graph: Graph, quantize: Node) -> tuple[str, str]:
    """Emit the smallest and the largest number that the integers represent."""
    x, scale = quantize.inputs[:2]
    zero = quantize.inputs[2] if len(quantize.inputs) > 2 and quantize.inputs[2] else ""
    limits = np.iinfo(graph.specs[zero].dtype if zero else np.uint8)
    dtype, rank = graph.specs[scale].dtype, len(graph.shape(x))
    column = [-1 if i == quantize.get("axis", 1) % max(rank, 1) else 1 for i in range(rank)]
    ends = []
    for limit in (limits.min, limits.max):
        steps = graph.constant(limit, dtype)
        if zero:
            steps = graph.emit("Sub", steps, graph.cast(zero, dtype))
        end = graph.emit("Mul", steps, scale)
        ends.append(graph.reshape(end, *column) if graph.shape(scale) else end)
    return ends[0], ends[1]
