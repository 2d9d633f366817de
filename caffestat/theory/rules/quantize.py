"""Ops of integers: quantized values, and products of them. (ONNX operators)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caffestat.graph import Graph, Node

from ..engine import Walk, decomposition, moments, unsupported
from ..signal import Signal
from .linear import known
from .standardize import reshaped

# what the runtime finds the scale from are the extremes of a value
unsupported("DynamicQuantizeLinear")
unsupported("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Unique", "NonMaxSuppression")

_BITS = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16}


@moments("QuantizeLinear")
def quantize_linear(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """y = round(x / scale) + zero within the range of its type; one scale for all elements."""
    x, scale = (known(walk.signal(name)) for name in node.inputs[:2])
    zero = known(walk.signal(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] else None
    kind = walk.graph.specs[node.outputs[0]].dtype.name
    if kind not in _BITS or not scale.is_constant or not scale.mean > 0 or (zero and not zero.is_constant):
        return [None]
    least = 0 if kind.startswith("u") else -(1 << _BITS[kind] - 1)
    shift = zero.mean if zero else 0.0
    values = np.clip(np.rint(x.values / scale.mean) + shift, least, least + (1 << _BITS[kind]) - 1)
    return [replace(x, values=values, spatial_profile=None, channel_values=None, components=(), finite_width=None)]


class _Steps:
    """Collects the nodes that stand for one; the values between are floats."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node, self.nodes = graph, node, list[Node]()

    def input(self, position: int) -> str:
        return self.node.inputs[position] if position < len(self.node.inputs) else ""

    def emit(self, op: str, *inputs: str, shape: Sequence[int], **attributes: object) -> str:
        output = self.graph.declare(self.graph.unique(f"{self.node.op}/{op}"), tuple(shape))
        self.nodes.append(Node(op, inputs, (output,), attributes))
        return output

    def operand(self, first: int, axis: int) -> str:
        """Append the floats that an input stands for; its scale and its zero follow it."""
        return self.dequantized(self.input(first), self.input(first + 1), self.input(first + 2), axis)

    def dequantized(self, value: str, scale: str, zero: str, axis: int) -> str:
        """Append (value - zero) · scale, with scales for all or one for each place of an axis."""
        shape = self.graph.shape(value)
        spread = tuple(size if i == axis % len(shape) else 1 for i, size in enumerate(shape))
        factors = [self.shaped(name, spread) for name in (scale, zero) if name]
        return self.emit("DequantizeLinear", value, *factors, shape=shape)

    def shaped(self, value: str, shape: tuple[int, ...]) -> str:
        """Append a Reshape of what differs from place to place."""
        if np.prod(self.graph.shape(value)) == 1:
            return value
        self.nodes.append(reshaped(self.graph, value, shape))
        return self.nodes[-1].outputs[0]

    def shifted(self, value: str, zero: str, axis: int) -> str:
        """Append value - zero."""
        return self.dequantized(value, self.graph.constant(1.0, np.float32), zero, axis)

    def to_output(self, value: str, scale: str, zero: str) -> list[Node]:
        """Append the quantization of the result, and return all nodes."""
        return [*self.nodes, Node("QuantizeLinear", tuple(filter(None, (value, scale, zero))), self.node.outputs)]


@decomposition("MatMulInteger")
def mat_mul_integer(graph: Graph, node: Node) -> Sequence[Node]:
    """y = (a - zero) (b - zero), with a zero for all of a and for each column of b."""
    steps = _Steps(graph, node)
    a, b = steps.shifted(steps.input(0), steps.input(2), -2), steps.shifted(steps.input(1), steps.input(3), -1)
    return [*steps.nodes, Node("MatMul", (a, b), node.outputs)]


@decomposition("ConvInteger")
def conv_integer(graph: Graph, node: Node) -> Sequence[Node]:
    """y = (w - zero) * (x - zero)."""
    steps = _Steps(graph, node)
    x, w = steps.shifted(steps.input(0), steps.input(2), 1), steps.shifted(steps.input(1), steps.input(3), 0)
    return [*steps.nodes, Node("Conv", (x, w), node.outputs, dict(node.attributes))]


@decomposition("QLinearMatMul")
def q_linear_mat_mul(graph: Graph, node: Node) -> Sequence[Node]:
    """y = quantized (a b), both as the floats that they stand for."""
    steps = _Steps(graph, node)
    a, b = steps.operand(0, -2), steps.operand(3, -1)
    product = steps.emit("MatMul", a, b, shape=graph.shape(node.outputs[0]))
    return steps.to_output(product, steps.input(6), steps.input(7))


@decomposition("QLinearConv")
def q_linear_conv(graph: Graph, node: Node) -> Sequence[Node]:
    """y = quantized (w * x + b); b counts in scales of x and w multiplied."""
    steps = _Steps(graph, node)
    x, w = steps.operand(0, 1), steps.operand(3, 0)
    bias = []
    if steps.input(8):
        scale = steps.emit("Mul", steps.input(1), steps.input(4), shape=graph.shape(steps.input(4)))
        bias.append(steps.dequantized(steps.input(8), scale, "", axis=0))
    product = steps.emit("Conv", x, w, *bias, shape=graph.shape(node.outputs[0]), **node.attributes)
    return steps.to_output(product, steps.input(6), steps.input(7))
