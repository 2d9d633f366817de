"""Straight-through gradients of quantized values. (Bengio, Léonard, Courville 2013; Jacob et al. 2018)

A QuantizeLinear with its DequantizeLinear rounds x to y: a staircase, whose derivative is 0 almost everywhere. Straight
through, the gradient of y is that of x, as far as x lies within the range of the integers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .graph import Graph, Node

__all__ = ["pass_straight_through"]


def pass_straight_through(graph: Graph) -> int:
    """Let gradients pass the graph's pairs of QuantizeLinear and DequantizeLinear; return how many there are.

    y becomes c + (y - c), the bracket without a gradient, where c is x clipped to the range of the integers.
    """
    makers = {name: node for node in graph.nodes for name in node.outputs}
    nodes, graph.nodes = graph.nodes, []
    passed: dict[str, str] = {}
    for node in nodes:
        graph.nodes.append(replace(node, inputs=tuple(passed.get(name, name) for name in node.inputs)))
        quantize = makers.get(node.inputs[0]) if node.info.converts and len(node.inputs) > 1 else None
        if quantize is not None and quantize.info.rounds:
            passed[node.outputs[0]] = _straight(graph, quantize, node)
    graph.outputs = [passed.get(name, name) for name in graph.outputs]
    return len(passed)


def _straight(graph: Graph, quantize: Node, dequantize: Node) -> str:
    x, y = quantize.inputs[0], dequantize.outputs[0]
    low, high = _range(graph, quantize)
    clipped = graph.emit("Min", graph.emit("Max", x, low), high)
    rest = graph.emit("Sub", y, clipped)
    result = graph.emit("Add", clipped, graph.detach(rest))
    return graph.declare(result, graph.shape(x), graph.specs[x].dtype)


def _range(graph: Graph, quantize: Node) -> tuple[str, str]:
    """Emit the smallest and the largest number that the integers stand for."""
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
