"""Normalizations by the batch's statistics that an affine map per channel follows, as one op.

The runtime's BatchNormalization in training mode scales and shifts anyway. What it normalized is then not computed:
its readers take what was normalized, and another affine map. It is computed where its values are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np

if TYPE_CHECKING:
    from .graph import Graph, Node, Normal, Scaled

__all__ = [
    "affine_of",
    "batch_normalization",
    "behind",
    "normalize",
    "normalize_batch",
    "only_scales",
    "relu",
    "running",
    "takes_statistics",
]

_NEAR = 10  # nodes from the first op to the last


def batch_normalization(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a BatchNormalization that returns running statistics, or is an affine map of what another has normalized.

    The other one is in training mode.
    """
    x, scale, bias, *given = node.inputs
    if node.get("training_mode", 0):
        return _with_running_statistics(g, node)
    if g.scaled is None or not _is_affine(g, node, given):
        return None
    if x not in g.scaled.normal:
        return _join(g, g.scaled, node)
    return [g.emit(node.op, *behind(g, x, scale, bias), *given, epsilon=0.0)]


def relu(g: Graph, node: Node, provider: str) -> None:
    """Leave a Relu as it is, and note where it reads a normalization by the batch's statistics."""
    index = _writer(g, node.inputs[0])
    if g.scaled and index is not None and takes_statistics(g.nodes[index]):
        g.scaled.rectified[node.inputs[0]] = node.outputs[0], g.nodes[index].inputs[2]
        g.scaled.others.update((node.inputs[0], node.outputs[0]))


def _with_running_statistics(g: Graph, node: Node) -> Sequence[str] | None:
    x, scale, bias, *given = node.inputs
    is_plain = node.get("momentum", 0.9) == 0 or not any(node.outputs[1:])
    if is_plain or x not in g.specs or not prod(g.shape(x)):
        return None
    y, *new = normalize_batch(g, x, scale, bias, epsilon=node.get("epsilon", 1e-5))
    return [y, *running(g, node, given, new)]


def running(g: Graph, node: Node, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Emit momentum · old + (1 - momentum) · new of a batch normalization's statistics."""
    momentum, dtype = node.get("momentum", 0.9), g.specs[node.inputs[0]].dtype
    if momentum == 0:
        return list(new)
    kept = [g.emit("Mul", value, g.constant(momentum, dtype)) for value in old]
    added = [g.emit("Mul", value, g.constant(1 - momentum, dtype)) for value in new]
    return [g.emit("Add", *pair) for pair in zip(kept, added, strict=True)]


def normalize_batch(g: Graph, x: str, scale: str, bias: str, epsilon: float, hint: str = "") -> list[str]:
    """Emit (y, mean, variance) of a batch by the runtime's own training mode: a third of the time of single ops.

    The CPU kernel writes the statistics over its inputs 3 and 4, constants and feeds included: they get values of their
    own, which momentum 0 makes void.
    """
    shape, dtype = g.shape(x), g.specs[x].dtype
    ends = g.ints(1, shape[1], *(1,) * (len(shape) - 2))
    first = g.reshape(g.emit("Slice", x, g.ints(*(0,) * len(shape)), ends), shape[1])
    scratch = [g.emit(op, first) for op in ("Neg", "Abs")]
    attributes: dict[str, Any] = {"epsilon": epsilon, "training_mode": 1, "momentum": 0.0}
    values = g.emit_many("BatchNormalization", x, scale, bias, *scratch, count=3, hint=hint, **attributes)
    return [g.declare(v, s, dtype) for v, s in zip(values, (shape, shape[1:2], shape[1:2]), strict=True)]


def behind(g: Graph, value: str, scale: str, bias: str) -> tuple[str, str, str]:
    """Return (x, scale, bias) with the same scale · x + bias, vectors [C], x not being a normalization."""
    normal = g.scaled.normal.get(value) if g.scaled else None
    if normal is None:
        return value, scale, bias
    slope, shift = affine_of(g, normal)
    factor, added = g.emit("Mul", scale, slope), g.emit("Add", bias, g.emit("Mul", scale, shift))
    shape, dtype = g.shape(slope), g.specs[slope].dtype
    return normal.x, g.declare(factor, shape, dtype), g.declare(added, shape, dtype)


def affine_of(g: Graph, normal: Normal) -> tuple[str, str]:
    """Emit (slope, shift) of a normalization, both [C]: slope = 1 / √(variance + ε), shift = -mean · slope."""
    spec = g.specs[normal.variance]
    root = g.emit("Sqrt", g.emit("Add", normal.variance, g.constant(normal.epsilon, spec.dtype)))
    slope = g.declare(g.emit("Reciprocal", root), spec.shape, spec.dtype)
    return slope, g.declare(g.emit("Mul", g.emit("Neg", normal.mean), slope), spec.shape, spec.dtype)


def _join(g: Graph, scaled: Scaled, node: Node) -> Sequence[str] | None:
    """Let the node in front that normalizes scale and shift too, and emit what it normalized apart."""
    from .graph import Normal

    y, scale, bias = node.inputs[:3]
    index = _writer(g, y)
    if index is None or not {scale, bias} <= g.params.keys() | g.constants.keys():
        return None
    front = g.nodes[index]
    if front.op != node.op or not _normalizes(g, front) or not {front.inputs[0], *front.outputs} <= g.specs.keys():
        return None
    (x, ones, zeros, *scratch), (mean, variance) = front.inputs, front.outputs[1:]
    g.nodes[index] = replace(front, inputs=(x, scale, bias, *scratch), outputs=(*node.outputs, mean, variance))
    epsilon = front.get("epsilon", 1e-5)
    scaled.normal[y] = Normal(x, mean, variance, epsilon, node.outputs[0], scale, bias)
    scaled.others.add(node.outputs[0])
    settings = {"epsilon": epsilon}
    g.nodes.append(replace(front, inputs=(x, ones, zeros, mean, variance), outputs=(y,), attributes=settings))
    return node.outputs


def normalize(g: Graph, normal: Normal) -> str:
    """Emit what `normal` describes, in a graph that need not be the one of its values."""
    zeros, ones = (g.constant(np.full(g.shape(normal.mean), value)) for value in (0, 1))
    y = g.emit("BatchNormalization", normal.x, ones, zeros, normal.mean, normal.variance, epsilon=normal.epsilon)
    return g.declare(y, g.shape(normal.x), g.specs[normal.x].dtype)


def only_scales(g: Graph, normal: Normal) -> str:
    """Emit whether what follows a normalization multiplies by scales above zero and adds nothing, as Caffe starts."""
    is_above = g.emit("Greater", g.emit("ReduceMin", normal.scale, keepdims=0), g.constant(0))
    is_zero = g.emit("Equal", g.emit("ReduceL1", normal.bias, keepdims=0), g.constant(0))
    return g.emit("And", is_above, is_zero)


def _writer(g: Graph, value: str) -> int | None:
    """Return the index of the node near the end that computes a value which no node reads yet."""
    for index in range(len(g.nodes) - 1, max(len(g.nodes) - _NEAR, 0) - 1, -1):
        node = g.nodes[index]
        if value in node.outputs:
            return index
        if value in (*node.inputs, *node.captured):
            return None
    return None


def _normalizes(g: Graph, node: Node) -> bool:
    """Tell whether a BatchNormalization only normalizes, and returns the batch's mean and variance."""
    is_whole = takes_statistics(node) and all(node.outputs)
    return is_whole and _is_filled(g, node.inputs[1], 1) and _is_filled(g, node.inputs[2], 0)


def takes_statistics(node: Node) -> bool:
    """Tell whether a node normalizes by the batch's statistics, and returns these."""
    return node.get("training_mode", 0) == 1 and node.get("momentum", 0.9) == 0 and len(node.outputs) == 3


def _is_affine(g: Graph, node: Node, given: Sequence[str]) -> bool:
    """Tell whether the statistics of a node, (mean, variance), leave its input as it is."""
    return node.get("epsilon", 1e-5) == 0 and _is_filled(g, given[0], 0) and _is_filled(g, given[1], 1)


def _is_filled(g: Graph, name: str, number: float) -> bool:
    return name in g.constants and bool(np.all(g.constants[name] == number))
