"""Gradients of the normalizations that look across channels or across the batch: LRN and BatchNormalization."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads

Ints = tuple[int, ...]


def _band(channels: int, size: int) -> np.ndarray:
    """Return 1 where two channels are at most (size - 1) / 2 apart: [C, C]."""
    position = np.arange(channels)
    return (abs(position - position[:, None]) <= (size - 1) // 2).astype(np.float64)


def _power(tape: Tape, base: str, exponent: float, dtype: Any) -> str:
    """Emit base^exponent; LRN's usual 3/4 as √base · √√base, a third of Pow's time."""
    if exponent != 0.75:
        return tape.emit("Pow", base, tape.constant(exponent, dtype))
    root = tape.emit("Sqrt", base)
    return tape.emit("Mul", root, tape.emit("Sqrt", root))


@vjp("LRN")
def lrn(tape: Tape, node: Node, dy: str) -> Grads:
    """y = x · s^-β with s = k + α/n Σ x² over the n channels around: dx = dy · s^-β - 2αβ/n · x · Σ dy · y / s.

    The sums over channels are products with a [C, C] band matrix on [N, C, places]: a third of the time of
    AveragePool with a (n, 1) kernel.
    """
    (x,) = node.inputs
    n, channels, *space = shape = tape.shape(x)
    alpha, beta, size = node.get("alpha", 1e-4), node.get("beta", 0.75), node.attributes["size"]
    dtype, band = tape.specs[x].dtype, _band(channels, size)
    x, y, dy = (tape.reshape(value, n, channels, prod(space)) for value in (x, node.outputs[0], dy))
    mean = tape.emit("MatMul", tape.constant(band * (alpha / size), dtype), tape.emit("Mul", x, x))
    scale = tape.emit("Add", mean, tape.scalar(node.get("bias", 1.0), like=x))
    share = tape.emit("Div", tape.emit("Mul", dy, y), scale)
    spread = tape.emit("MatMul", tape.constant(band * (-2 * alpha * beta / size), dtype), share)
    direct = tape.emit("Div", dy, _power(tape, scale, beta, dtype))
    return [tape.reshape(tape.emit("Add", direct, tape.emit("Mul", x, spread)), *shape)]


@vjp("BatchNormalization")
def batch_normalization(tape: Tape, node: Node, dy: str) -> Grads:
    """y = scale · x̂ + bias, x̂ = (x - mean) / √(var + ε) with given statistics, or with the batch's in training mode.

    x is [N, C, …], everything else [C]. Running statistics, the further outputs in training mode, carry no gradient.
    """
    if any(tape.cotangent(name) for name in node.outputs[1:]):
        raise GradientError(f"BatchNormalization (value {node.outputs[0]}): running statistics have no gradient rule")
    return _batch_grads(tape, node, dy) if node.get("training_mode", 0) else _given_grads(tape, node, dy)


def _per_channel(tape: Tape, node: Node) -> tuple[Ints, str]:
    """Return the shape [1, C, 1, …] and the axes to sum over to get there."""
    rank = len(tape.shape(node.inputs[0]))
    column = (1, -1, *[1] * (rank - 2))
    return column, tape.ints(*(axis for axis in range(rank) if axis != 1))


def _given_grads(tape: Tape, node: Node, dy: str) -> Grads:
    """With std = √(var + ε): dx = dy · scale / std, dscale = Σ dy · x̂, dbias = Σ dy.

    And for the statistics: dmean = -dbias · scale / std, dvar = -dscale · scale / (2 std²).
    """
    x, scale, bias, mean, var = node.inputs
    column, axes = _per_channel(tape, node)
    std = tape.emit("Sqrt", tape.emit("Add", var, tape.scalar(node.get("epsilon", 1e-5), like=var)))
    slope = tape.emit("Div", scale, std)
    dx = tape.emit("Mul", dy, tape.reshape(slope, *column)) if tape.needs(x) else None
    dscale = dvar = dbias = dmean = None
    if tape.needs(scale) or tape.needs(var):
        centered = tape.emit("Sub", x, tape.reshape(mean, *column))
        dscale = tape.emit("Div", tape.emit("ReduceSum", tape.emit("Mul", dy, centered), axes, keepdims=0), std)
        half = tape.emit("Div", tape.emit("Mul", dscale, slope), std)
        dvar = tape.emit("Mul", half, tape.scalar(-0.5, like=x))
    if tape.needs(bias) or tape.needs(mean):
        dbias = tape.emit("ReduceSum", dy, axes, keepdims=0)
        dmean = tape.emit("Neg", tape.emit("Mul", dbias, slope))
    return [dx, dscale, dbias, dmean, dvar]


def _batch_grads(tape: Tape, node: Node, dy: str) -> Grads:
    """dx = scale · f · (dy - mean(dy) - x̂ · mean(dy · x̂)), dscale = Σ dy · x̂, dbias = Σ dy; f = 1/√(batch variance + ε)."""
    x, scale = node.inputs[:2]
    column, axes = _per_channel(tape, node)
    mean = tape.emit("ReduceMean", x, axes, keepdims=1)
    centered = tape.emit("Sub", x, mean)
    var = tape.emit("ReduceMean", tape.emit("Mul", centered, centered), axes, keepdims=1)
    std = tape.emit("Sqrt", tape.emit("Add", var, tape.scalar(node.get("epsilon", 1e-5), like=x)))
    factor = tape.emit("Reciprocal", std)
    standard = tape.emit("Mul", centered, factor)
    dbias = tape.emit("ReduceSum", dy, axes, keepdims=1)
    dscale = tape.emit("ReduceSum", tape.emit("Mul", dy, standard), axes, keepdims=1)
    share = tape.scalar(tape.shape(x)[1] / prod(tape.shape(x)), like=x)
    slope = tape.emit("Mul", tape.reshape(scale, *column), factor)
    inner = tape.emit("Sub", dy, tape.emit("Mul", standard, tape.emit("Mul", dscale, share)))
    dx = tape.emit("Mul", tape.emit("Sub", inner, tape.emit("Mul", dbias, share)), slope) if tape.needs(x) else None
    return [dx, *(tape.reshape(total, tape.shape(x)[1]) for total in (dscale, dbias)), None, None]
