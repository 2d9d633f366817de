"""Normalizations whose statistics are taken inside each sample: Layer, Group, Instance and Lp normalization."""

from __future__ import annotations

from math import prod

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of, only, sum_to


def _standardize(t: Tape, x: str, axes: str, epsilon: float) -> tuple[str, str]:
    """Emit (x - mean)/√(var + ε) over the axes, and the factor 1/√(var + ε)."""
    centered = t.emit("Sub", x, t.emit("ReduceMean", x, axes, keepdims=1))
    variance = t.emit("ReduceMean", t.emit("Mul", centered, centered), axes, keepdims=1)
    std = t.emit("Sqrt", t.emit("Add", variance, t.scalar(epsilon, like=x)))
    return t.emit("Div", centered, std), t.emit("Reciprocal", std)


def _standardize_grad(t: Tape, dy: str, y: str, factor: str, axes: str) -> str:
    """dx = (dy - mean(dy) - y · mean(dy · y)) · factor, for y the standardized value."""
    mean = t.emit("ReduceMean", dy, axes, keepdims=1)
    along = t.emit("Mul", y, t.emit("ReduceMean", t.emit("Mul", dy, y), axes, keepdims=1))
    return t.emit("Mul", t.emit("Sub", t.emit("Sub", dy, mean), along), factor)


@vjp("LayerNormalization")
def layer_normalization(t: Tape, node: Node, dy: str) -> Grads:
    x, scale, bias = node.inputs[0], node.inputs[1], input_of(node, 2)
    if any(t.cotangent(name) for name in node.outputs[1:]):
        return t.by_definition(node, dy)
    shape = t.shape(x)
    axes = t.ints(*range(node.get("axis", -1) % len(shape), len(shape)))
    y, factor = _standardize(t, x, axes, node.get("epsilon", 1e-5))
    dx = _standardize_grad(t, t.emit("Mul", dy, scale), y, factor, axes) if t.needs(x) else None
    dscale = sum_to(t, t.emit("Mul", dy, y), shape, t.shape(scale)) if t.needs(scale) else None
    return only(node, dx, dscale, *([sum_to(t, dy, shape, t.shape(bias)) if t.needs(bias) else None] if bias else []))


@vjp("InstanceNormalization")
def instance_normalization(t: Tape, node: Node, dy: str) -> Grads:
    return _group_grads(t, node, dy, t.shape(node.inputs[0])[1])


@vjp("GroupNormalization")
def group_normalization(t: Tape, node: Node, dy: str) -> Grads:
    return _group_grads(t, node, dy, node.attributes["num_groups"])


def _group_grads(t: Tape, node: Node, dy: str, groups: int) -> Grads:
    """x [N, C, …] is standardized per sample and group of channels; scale and bias [C] are per channel."""
    x, scale, bias = node.inputs
    n, channels, *space = shape = t.shape(x)
    grouped, column, axes = (n, groups, channels // groups * prod(space)), (channels, *[1] * len(space)), t.ints(2)
    y, factor = _standardize(t, t.reshape(x, *grouped), axes, node.get("epsilon", 1e-5))
    g = t.reshape(t.emit("Mul", dy, t.reshape(scale, *column)), *grouped)
    dx = t.reshape(_standardize_grad(t, g, y, factor, axes), *shape) if t.needs(x) else None
    scaled = t.emit("Mul", dy, t.reshape(y, *shape))
    grads = [(scaled, scale), (dy, bias)]
    return [dx, *(t.reshape(sum_to(t, g, shape, column), channels) if t.needs(p) else None for g, p in grads)]


@vjp("LpNormalization")
def lp_normalization(t: Tape, node: Node, dy: str) -> Grads:
    """dx = (dy - d · sum(dy · y))/‖x‖ₚ with d the norm's own derivative: y for p = 2, sign(x) for p = 1; 0 at x = 0."""
    x, y, axis = node.inputs[0], node.outputs[0], t.ints(node.get("axis", -1))
    p, zero = node.get("p", 2), t.scalar(0, like=x)
    norm = t.emit("ReduceL2" if p == 2 else "ReduceL1", x, axis, keepdims=1)
    inner = t.emit("ReduceSum", t.emit("Mul", dy, y), axis, keepdims=1)
    along = t.emit("Mul", y if p == 2 else t.emit("Sign", x), inner)
    dx = t.emit("Div", t.emit("Sub", dy, along), norm)
    return [t.emit("Where", t.emit("Equal", norm, zero), zero, dx)]
