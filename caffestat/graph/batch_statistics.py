"""Normalizations by a large batch's statistics as sums per channel and one affine map, which work by slices."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from .channels import affine, channel_column, channel_dot, channel_sum, channel_vector
from .normalized import takes_statistics
from .slices import large

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["by_sums", "relu"]

_DEVIATIONS = 8.0
"""Up to so many deviations between a channel's mean and 0, E[x²] - mean² keeps the variance's digits."""


def by_sums(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a BatchNormalization that takes the statistics of a large batch, and returns nothing else of them."""
    x, scale, bias = node.inputs[:3]
    if not takes_statistics(node) or not _is_large(g, x):
        return None
    mean, variance = _statistics(g, x)
    root = g.emit("Sqrt", g.emit("Add", variance, g.constant(node.get("epsilon", 1e-5))))
    slope = channel_vector(g, x, "Div", scale, root)
    shift = channel_vector(g, x, "Sub", bias, g.emit("Mul", mean, slope))
    if g.scaled:
        g.scaled.affine[node.outputs[0]] = x, slope, shift
    return [affine(g, x, slope, shift), g.copy(mean), variance]


def _is_large(g: Graph, x: str) -> bool:
    shape = g.shape(x) if x in g.specs else (1,)
    return shape[0] > 1 and prod(shape) >= large(g)


def relu(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define the Relu of an affine map by one pass from its input; where only this reads the map, it falls away."""
    found = g.scaled.affine.get(node.inputs[0]) if g.scaled else None
    return [affine(g, *found, is_rectified=True)] if found else None


def _statistics(g: Graph, x: str) -> tuple[str, str]:
    """Emit mean and variance per channel of x, [batch, channels, …]: [C] each.

    The variance is E[x²] - mean² where that keeps its digits in all channels, else E[(x - mean)²].
    """
    from .bodies import either

    share = g.constant(g.shape(x)[1] / prod(g.shape(x)))
    mean = channel_vector(g, x, "Mul", channel_sum(g, x), share)
    square = g.emit("Mul", mean, mean)
    quick = channel_vector(g, x, "Sub", _mean_square(g, x, share), square)
    most = g.emit("Mul", quick, g.constant(_DEVIATIONS**2))
    farthest = g.emit("ReduceMax", g.emit("Sub", square, most), keepdims=0)
    is_exact = g.emit("LessOrEqual", farthest, g.constant(0.0))
    return mean, either(g, is_exact, lambda inner: quick, lambda inner: _spread(inner, x, mean, share))


def _spread(g: Graph, x: str, mean: str, share: str) -> str:
    """Emit E[(x - mean)²] per channel."""
    centered = g.emit("Sub", x, channel_column(g, mean, len(g.shape(x))))
    return _mean_square(g, g.declare(centered, g.shape(x)), share)


def _mean_square(g: Graph, x: str, share: str) -> str:
    return channel_vector(g, x, "Mul", channel_dot(g, x, x), share)
