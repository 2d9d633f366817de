"""Quantized values: rounding has a gradient of zero, and a dequantized value depends on its scale alone."""

from __future__ import annotations

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, gradient_free, vjp
from .common import Grads, input_of

gradient_free("QuantizeLinear", "DynamicQuantizeLinear")


@vjp("DequantizeLinear")
def dequantize_linear(t: Tape, node: Node, dy: str) -> Grads:
    """y = (x - zero) · scale, with one scale for all, one per element of an axis, or one per block of these."""
    return t.through(node, dy, lambda: [_dequantized(t, node)])


def _dequantized(t: Tape, node: Node) -> str:
    x, scale, zero = node.inputs[0], node.inputs[1], input_of(node, 2)
    rank, block = len(t.shape(x)), node.get("block_size", 0)
    axis = node.get("axis", 1) % max(rank, 1)

    def spread(value: str) -> str:
        """Emit a value for each element of x, as far as they differ."""
        if block:
            places = t.constant(np.arange(t.shape(x)[axis]) // block, np.int64)
            return t.emit("Gather", value, places, axis=axis)
        return t.reshape(value, *([-1 if i == axis else 1 for i in range(rank)] if t.shape(scale) else ()))

    value = t.cast(x, t.specs[scale].dtype)
    if zero:
        value = t.emit("Sub", value, spread(t.cast(zero, t.specs[scale].dtype)))
    return t.emit("Mul", value, spread(scale))
