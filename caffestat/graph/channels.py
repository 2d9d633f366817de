"""Sums and affine maps per channel: of values [N, C, …] and vectors [C].

Where a value is another one times a vector, sums over it are those over the other one times the vector: a pass over the
vector instead of one over the value. Then often nobody needs the value itself (see `Graph.scaled`).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from caffestat.lazy import np

from . import blocked
from .axes import all_but_channels
from .late import early, late
from .normalized import affine_of, behind

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = [
    "affine",
    "batch_gradient",
    "channel_affine",
    "channel_column",
    "channel_dot",
    "channel_scale",
    "channel_sum",
    "channel_vector",
]

LONG_ROW = 512  # from this many places per channel on, products of rows beat Mul and ReduceSum on CPUs


def channel_column(g: Graph, vector: str, rank: int) -> str:
    """Return a vector [C] as [C, 1, …], which broadcasts over a value of `rank` axes."""
    return g.reshape(vector, -1, *(1,) * (rank - 2)) if rank > 2 else vector


def channel_vector(g: Graph, x: str, op: str, *operands: str) -> str:
    """Emit what an op makes of vectors of the channels of x: [C]."""
    return g.declare(g.emit(op, *operands), g.shape(x)[1:2])


def _axes(g: Graph, x: str) -> str:
    return g.ints(*all_but_channels(len(g.shape(x))))


def channel_scale(g: Graph, x: str, vector: str) -> str:
    """Emit vector · x."""
    return g.emit_late("ChannelScale", x, vector, shape=g.shape(x), like=x)


@early("ChannelScale")
def _scale_once(g: Graph, node: Node, provider: str) -> list[str] | None:
    x, vector = node.inputs
    assert g.scaled
    if x in g.scaled.values:
        other, factor = g.scaled.values[x]
        return [channel_scale(g, other, g.emit("Mul", vector, factor))]
    g.scaled.add(node.outputs[0], x, vector)
    return None


@late("ChannelScale")
def _channel_scale(g: Graph, node: Node, provider: str) -> list[str]:
    x, vector = node.inputs
    return [g.emit("Mul", x, channel_column(g, vector, len(g.shape(x))))]


def channel_sum(g: Graph, x: str) -> str:
    """Emit Σ x over all axes but the channels': [C]."""
    return g.emit_late("ChannelSum", x, shape=g.shape(x)[1:2], like=x)


@early("ChannelSum")
def _sum_of_scaled(g: Graph, node: Node, provider: str) -> list[str] | None:
    assert g.scaled
    if node.inputs[0] not in g.scaled.values:
        return None
    other, vector = g.scaled.values[node.inputs[0]]
    return [g.emit("Mul", vector, channel_sum(g, other))]


@late("ChannelSum")
def _channel_sum(g: Graph, node: Node, provider: str) -> list[str]:
    return [g.emit("ReduceSum", node.inputs[0], _axes(g, node.inputs[0]), keepdims=0)]


def channel_dot(g: Graph, a: str, b: str) -> str:
    """Emit Σ a · b over all axes but the channels': [C]."""
    return g.emit_late("ChannelDot", a, b, shape=g.shape(a)[1:2], like=a)


@early("ChannelDot")
def _dot_of_scaled(g: Graph, node: Node, provider: str) -> list[str] | None:
    a, b = node.inputs
    assert g.scaled
    if a in g.scaled.values:
        other, vector = g.scaled.values[a]
        return [g.emit("Mul", vector, channel_dot(g, other, b))]
    if normal := g.scaled.normal.get(b):
        slope, shift = affine_of(g, normal)
        dot, total = channel_dot(g, a, normal.x), channel_sum(g, a)
        return [g.emit("Add", g.emit("Mul", slope, dot), g.emit("Mul", shift, total))]
    return None


@late("ChannelDot")
def _channel_dot(g: Graph, node: Node, provider: str) -> list[str]:
    a, b = node.inputs
    if blocked.fits_rows(g, a):
        return [g.emit("ReduceSum", blocked.dots(g, a, b), g.ints(0, 2), keepdims=0)]
    n, channels, *space = g.shape(a)
    places = prod(space)
    if provider != "cpu" or places < LONG_ROW:
        return [channel_sum(g, g.declare(g.emit("Mul", a, b), g.shape(a)))]
    rows = (g.reshape(value, n * channels, 1, places) for value in (a, b))
    dots = g.reshape(g.fused_matmul(*rows, transB=1), n, channels)
    return [channel_sum(g, g.declare(dots, (n, channels)))]


def channel_affine(g: Graph, x: str, scale: str, bias: str, hint: str = "") -> str:
    """Emit scale · x + bias with vectors [C], in one pass over x where the runtime can."""
    zeros, ones = (g.constant(np.full(g.shape(x)[1], value)) for value in (0, 1))
    y = g.emit("BatchNormalization", x, scale, bias, zeros, ones, epsilon=0.0, hint=hint)
    return g.declare(y, g.shape(x))


def affine(g: Graph, x: str, scale: str, bias: str, is_rectified: bool = False) -> str:
    """Emit scale · x + bias with vectors [C], or 0 where that is below, in one pass on all threads if there is one."""
    return g.emit_late("Affine", x, scale, bias, shape=g.shape(x), like=x, is_rectified=is_rectified)


@late("Affine")
def _affine(g: Graph, node: Node, provider: str) -> list[str]:
    is_rectified = node.attributes["is_rectified"]
    if blocked.fits_rows(g, node.inputs[0]):
        return [blocked.affine(g, *node.inputs, **({"activation": "Relu"} if is_rectified else {}))]
    y = channel_affine(g, *node.inputs)
    return [g.emit("Relu", y) if is_rectified else y]


def batch_gradient(g: Graph, dy: str, y: str, slope: str) -> str:
    """Emit (dy - mean(dy) - y · mean(dy · y)) · slope, the means over all axes but the channels' and slope [C]."""
    return g.emit_late("BatchGradient", dy, y, slope, shape=g.shape(y), like=y)


@early("BatchGradient")
@late("BatchGradient")
def _batch_gradient(g: Graph, node: Node, provider: str) -> list[str]:
    dy, y, slope = node.inputs
    is_taken_up = g.scaled is not None and dy in g.changing
    if g.scaled and dy in g.scaled.values:
        dy, vector = g.scaled.values[dy]
        slope = channel_vector(g, y, "Mul", slope, vector)
    share = g.constant(-g.shape(y)[1] / prod(g.shape(y)))
    means = [channel_vector(g, y, "Mul", total, share) for total in (channel_dot(g, dy, y), channel_sum(g, dy))]
    if g.scaled and is_taken_up:
        return [_scaled_last(g, node, dy, slope, *means)]
    scales = [channel_vector(g, y, "Mul", mean, slope) for mean in means]
    return [_add_affine_of(g, dy, y, *scales, slope)]


def _scaled_last(g: Graph, node: Node, dy: str, slope: str, along: str, shift: str) -> str:
    """Multiply by the slope last: filters that change from run to run take it up in the place of their dy."""
    assert g.scaled
    rest = _add_affine_of(g, dy, node.inputs[1], along, shift)
    g.scaled.add(node.outputs[0], rest, slope)
    return g.emit("Mul", rest, channel_column(g, slope, len(g.shape(rest))))


def _add_affine_of(g: Graph, value: str, y: str, scale: str, bias: str, *factor: str) -> str:
    """Emit factor · value + scale · y + bias with vectors [C]; a factor may be given."""
    return g.emit_late("AddAffine", value, *behind(g, y, scale, bias), *factor, shape=g.shape(y), like=y)


@late("AddAffine")
def _add_affine(g: Graph, node: Node, provider: str) -> list[str]:
    """factor · value + scale · x + bias with vectors [C]; an input of the graph would be copied first."""
    value, x, scale, bias, *factor = node.inputs
    if factor:
        value = g.declare(g.emit("Mul", value, channel_column(g, factor[0], len(g.shape(x)))), g.shape(x))
    if blocked.fits_rows(g, x) and value not in g.inputs:
        return [blocked.affine(g, x, scale, bias, value)]
    return [g.emit("Add", value, affine(g, x, scale, bias))]
