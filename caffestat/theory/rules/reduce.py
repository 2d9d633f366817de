"""Sums and means over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffestat.graph import Graph, Node

from ..engine import Walk, backward_moments, decomposition, moments, unsupported
from ..quadrature import expect
from ..signal import Gradient, Signal, Source
from ..sums import pair_sum
from .linear import known
from .pooling import positive_or_normal

Gradients = Sequence[Gradient | None]

unsupported("ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSumExp")


@decomposition("ReduceL1", "ReduceL2", "ReduceSumSquare")
def norm(graph: Graph, node: Node) -> Sequence[Node]:
    """y = Σ |x|, √(Σ x²) or Σ x²."""
    x, y, like = node.inputs[0], node.outputs[0], graph.specs[node.inputs[0]]
    terms = graph.declare(graph.unique(f"{y}/terms"), like.shape, like.dtype)
    each = Node("Abs", (x,), (terms,)) if node.op == "ReduceL1" else Node("Mul", (x, x), (terms,))
    inputs = (terms, *node.inputs[1:])
    if node.op != "ReduceL2":
        return each, Node("ReduceSum", inputs, node.outputs, node.attributes)
    total = graph.declare(graph.unique(f"{y}/total"), graph.shape(y), like.dtype)
    return each, Node("ReduceSum", inputs, (total,), node.attributes), Node("Sqrt", (total,), node.outputs)


def _axes(walk: Walk, node: Node) -> set[int]:
    """Return the axes that are summed over, counted from the front."""
    rank = len(walk.shape(node.inputs[0]))
    given = walk.constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    axes = node.get("axes") if given is None else given.tolist()
    return {axis % rank for axis in axes} if axes else set(range(rank))


def counts(walk: Walk, node: Node) -> tuple[int, int, int]:
    """Return how many samples, channels and places are added up."""
    shape, axes = walk.shape(node.inputs[0]), _axes(walk, node)
    samples = shape[0] if 0 in axes and shape else 1
    channels = shape[1] if 1 in axes and len(shape) > 1 else 1
    return samples, channels, math.prod(shape[axis] for axis in axes if axis > 1)


@moments("ReduceMean", "ReduceSum")
def reduce(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = Σ x, or the mean: elements of one channel are correlated, those of several are not."""
    x = known(walk.signal(node.inputs[0]))
    samples, channels, places = counts(walk, node)
    count, mean = samples * channels * places, expect(x.values)
    space, batch = x.cross_spatial - mean**2, x.cross_sample - mean**2
    spread = count * (x.second - mean**2 + pair_sum(space, batch, min(space, batch), samples, places))
    scale = 1 / count if node.op == "ReduceMean" else 1.0
    total = scale * count * mean
    values = positive_or_normal(total, max(scale**2 * spread, 0.0) + total**2, bool(x.values.min() >= 0))
    shared = scale**2 * count * samples * space + total**2, scale**2 * count * places * batch + total**2
    return [Signal.of_pairs(values, shared[0], shared[1])]


@backward_moments("ReduceMean", "ReduceSum")
def reduce_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy for all that was added up, ÷ their number for the mean."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    samples, channels, places = counts(walk, node)
    scale = 1 / (samples * channels * places) ** 2 if node.op == "ReduceMean" else 1.0
    second = dy.second * scale
    space = second if places > 1 else scale * dy.cross_spatial(y.rho_spatial)
    batch = second if samples > 1 else scale * dy.cross_sample(y.rho_sample)
    return [
        Gradient.of(Source(second, dy.shape, space, batch, finite_width=dy.finite_width)),
        *[None] * (len(node.inputs) - 1),
    ]
