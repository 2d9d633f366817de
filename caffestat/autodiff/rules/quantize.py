"""Quantized values: rounding has a gradient of zero, and a dequantized value depends on its scale alone."""

from __future__ import annotations

import numpy as np

from caffestat.errors import GradientError
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


@vjp("MatMulNBits")
def mat_mul_n_bits(t: Tape, node: Node, dy: str) -> Grads:
    """y = a wᵀ + b, w = (q - zero) · scale with one scale for each block of a row, q packed into bytes."""
    bits, what = node.get("bits", 4), f"MatMulNBits (value {node.outputs[0]})"
    if 8 % bits or input_of(node, 4):
        raise GradientError(f"{what}: no gradient is known of {f'{bits} bits' if 8 % bits else 'g_idx'}")
    return t.through(node, dy, lambda: [_product_of_bits(t, node, bits)])


def _product_of_bits(t: Tape, node: Node, bits: int) -> str:
    a, packed, scale = node.inputs[:3]
    rows, columns, block = node.get("N"), node.get("K"), node.get("block_size")
    dtype, blocks = t.specs[a].dtype, -(-columns // block)
    scale = t.reshape(scale, rows, blocks, 1)
    numbers = t.cast(t.reshape(_unpacked(t, packed, bits), rows, blocks, block), dtype)
    weights = t.emit("Mul", t.emit("Sub", numbers, _zero_of_bits(t, node, bits, blocks)), scale)
    weights = t.reshape(weights, rows, blocks * block)
    if blocks * block > columns:
        weights = t.emit("Slice", weights, t.ints(0), t.ints(columns), t.ints(1))
    product = t.emit("MatMul", a, t.transpose(weights, 1, 0))
    bias = input_of(node, 5)
    return t.emit("Add", product, bias) if bias else product


def _zero_of_bits(t: Tape, node: Node, bits: int, blocks: int) -> str:
    """Emit what represents 0 in each block: the middle, a number of a's type, or packed as the weights are."""
    zero, rows, dtype = input_of(node, 3), node.get("N"), t.specs[node.inputs[0]].dtype
    if not zero:
        return t.constant(2 ** (bits - 1), dtype)
    if t.specs[zero].dtype == np.uint8:
        numbers = t.reshape(_unpacked(t, zero, bits), rows, -1)
        zero = t.cast(t.emit("Slice", numbers, t.ints(0), t.ints(blocks), t.ints(1)), dtype)
    return t.reshape(zero, rows, blocks, 1)


def _unpacked(t: Tape, packed: str, bits: int) -> str:
    """Emit the numbers of each byte, the lowest bits first, along a new last axis."""
    if bits == 8:
        return packed
    shifts = t.constant(np.arange(0, 8, bits), np.uint8)
    column = t.emit("Unsqueeze", packed, t.ints(-1))
    shifted = t.emit("BitShift", column, shifts, direction="RIGHT")
    return t.emit("BitwiseAnd", shifted, t.constant(2**bits - 1, np.uint8))
