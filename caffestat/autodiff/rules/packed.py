"""The runtime's ops on weights of few bits that are packed into bytes: products, and rows that are picked.

Source: onnxruntime's contrib operators MatMulNBits, MatMulBnb4 and GatherBlockQuantized.
"""

from __future__ import annotations

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of

# the numbers that a code of bitsandbytes stands for: FP4; NF4 (Dettmers et al. 2023, appendix E)
_FP4 = (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_CODES = ((*_FP4, *(-number for number in _FP4)), _NF4)


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


def _unpacked(t: Tape, packed: str, bits: int, lowest_first: bool = True) -> str:
    """Emit the numbers of each byte along a new last axis."""
    if bits == 8:
        return packed
    shifts = t.constant(np.arange(0, 8, bits)[:: 1 if lowest_first else -1], np.uint8)
    column = t.emit("Unsqueeze", packed, t.ints(-1))
    shifted = t.emit("BitShift", column, shifts, direction="RIGHT")
    return t.emit("BitwiseAnd", shifted, t.constant(2**bits - 1, np.uint8))


@vjp("MatMulBnb4")
def mat_mul_bnb4(t: Tape, node: Node, dy: str) -> Grads:
    """y = a wᵀ, w the numbers of 4-bit codes, in blocks that go on from row to row, times the maximum of each block."""
    if not node.get("transB", 1):
        raise GradientError(f"MatMulBnb4 (value {node.outputs[0]}): no gradient is known of transB=0")
    return t.through(node, dy, lambda: [_product_of_codes(t, node)])


def _product_of_codes(t: Tape, node: Node) -> str:
    a, packed, largest = node.inputs
    rows, columns, block = node.get("N"), node.get("K"), node.get("block_size")
    count, dtype = rows * columns, t.specs[a].dtype
    blocks = -(-count // block)
    codes = t.reshape(_unpacked(t, packed, 4, lowest_first=False), -1)
    codes = t.emit("Slice", t.cast(codes, np.int32), t.ints(0), t.ints(count), t.ints(0))
    numbers = t.emit("Gather", t.constant(_CODES[node.get("quant_type")], dtype), codes)
    wide = t.emit("Expand", t.reshape(largest, blocks, 1), t.ints(blocks, block))
    wide = t.emit("Slice", t.reshape(wide, blocks * block), t.ints(0), t.ints(count), t.ints(0))
    weights = t.reshape(t.emit("Mul", numbers, wide), rows, columns)
    return t.emit("MatMul", a, t.transpose(weights, 1, 0))


@vjp("GatherBlockQuantized")
def gather_block_quantized(t: Tape, node: Node, dy: str) -> Grads:
    """y = (q - zero) · scale of the picked rows, with one scale for each block along an axis."""
    axis, along = (node.get(name, default) % len(t.shape(node.inputs[0])) for name, default in _GATHERED)
    if axis == along:
        what = f"GatherBlockQuantized (value {node.outputs[0]})"
        raise GradientError(f"{what}: no gradient is known where blocks go along the axis that is picked from")
    return t.through(node, dy, lambda: [_picked_blocks(t, node, axis, along)])


_GATHERED = (("gather_axis", 0), ("quantize_axis", 1))


def _picked_blocks(t: Tape, node: Node, axis: int, along: int) -> str:
    data, rows, scale = node.inputs[:3]
    zero, bits, dtype = input_of(node, 3), node.get("bits", 4), t.specs[scale].dtype
    size = t.shape(data)[along]
    if t.specs[data].dtype == np.uint8:  # along the last axis, see `ops.rules.picked_blocks_shape`
        size *= 8 // bits
    after = along if along < axis else along + len(t.shape(rows)) - 1
    places = t.constant(np.arange(size) // node.get("block_size", 128), np.int64)

    def picked(value: str) -> str:
        """Emit the picked rows of integers; the runtime picks none of 4 bits."""
        if t.specs[value].dtype != np.uint8:
            return t.cast(t.emit("Gather", t.cast(value, np.int8), rows, axis=axis), dtype)
        chosen = _unpacked(t, t.emit("Gather", value, rows, axis=axis), bits)
        shape = [*t.shape(data)[:axis], *t.shape(rows), *t.shape(data)[axis + 1 : -1], -1]
        return t.cast(t.reshape(chosen, *shape), dtype)

    numbers = picked(data)
    if zero:
        numbers = t.emit("Sub", numbers, t.emit("Gather", picked(zero), places, axis=after))
    elif t.specs[data].dtype == np.uint8:
        numbers = t.emit("Sub", numbers, t.constant(2 ** (bits - 1), dtype))
    scales = t.emit("Gather", t.emit("Gather", scale, rows, axis=axis), places, axis=after)
    return t.emit("Mul", numbers, scales)
