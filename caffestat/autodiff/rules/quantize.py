"""Quantized values: rounding has no slope, and a value that comes back from integers depends on its scale alone."""

from __future__ import annotations

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, gradient_free, vjp
from .common import Grads, input_of

gradient_free("QuantizeLinear", "DynamicQuantizeLinear")


@vjp("DequantizeLinear")
def dequantize_linear(t: Tape, node: Node, dy: str) -> Grads:
    """y = (x - zero) · scale, with one scale for all or one per element of an axis."""
    if node.get("block_size", 0):
        raise GradientError(f"DequantizeLinear (value {node.outputs[0]}): blocks have no gradient rule")
    return t.through(node, dy, lambda: [_dequantized(t, node)])


def _dequantized(t: Tape, node: Node) -> str:
    x, scale, zero = node.inputs[0], node.inputs[1], input_of(node, 2)
    rank, axis = len(t.shape(x)), node.get("axis", 1)
    column = [-1 if i == axis % max(rank, 1) else 1 for i in range(rank)] if t.shape(scale) else []
    value = t.cast(x, t.specs[scale].dtype)
    if zero:
        value = t.emit("Sub", value, t.reshape(t.cast(zero, t.specs[scale].dtype), *column))
    return t.emit("Mul", value, t.reshape(scale, *column))
