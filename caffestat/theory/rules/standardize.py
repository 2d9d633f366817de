"""Normalizations over a value's own axes, of one sample: LayerNormalization and similar ops."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffestat.graph import Graph, Node

from ..engine import Walk, backward_moments, decomposition, moments
from ..quadrature import expect
from ..signal import Gradient, Signal, Source, factor
from ..sums import pair_sum
from .linear import known
from .reduce import counts

Gradients = Sequence[Gradient | None]

STANDARD = "MeanVarianceNormalization"


def _counts(walk: Walk, node: Node) -> tuple[int, int, int]:
    """Return over how many samples, channels and places of each the mean is taken; `channels` says it for groups."""
    samples, channels, places = counts(walk, node)
    return samples, node.get("channels", channels), places


def _square_of_mean(x: Signal, sizes: tuple[int, int, int]) -> float:
    """Return E[m²] of the mean m over the axes: elements of one channel are correlated, others are not."""
    square = x.mean**2
    space, batch, far = (cross - square for cross in x.crosses)
    return square + _spread(x.second - square, space, batch, far, sizes)


def _spread(second: float, space: float, batch: float, far: float, sizes: tuple[int, int, int]) -> float:
    """Return E[m²] of the mean m of so many samples, channels and places, of mean 0."""
    samples, channels, places = sizes
    return (second + pair_sum(space, batch, far, samples, places)) / (samples * channels * places)


@moments(STANDARD)
def standardize(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """y = (x - m) / √(E[(x - m)²] + ε), m the mean over the axes: second moment 1, whatever comes in."""
    x = known(walk.signal(node.inputs[0]))
    shared = _square_of_mean(x, _counts(walk, node))
    variance = max(x.second - shared, 0.0)
    square = variance + node.get("epsilon", 1e-9)
    if not square > 0:
        return [None]
    size = variance / square
    around = x.values - expect(x.values)
    values = around * math.sqrt(size / max(expect(around**2), 1e-300))
    space, batch = (
        min(max((cross - shared) / max(variance, 1e-300), 0.0), 1.0) for cross in (x.cross_spatial, x.cross_sample)
    )
    return [Signal(values, space, batch, x.spatial_profile, x.latent, 1.0)]


@backward_moments(STANDARD)
def standardize_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = (dy - mean(dy) - y·mean(dy·y)) / σ"""
    dy, (x, y) = dys[0], (known(walk.signal(name)) for name in (node.inputs[0], node.outputs[0]))
    if dy is None or dy.second <= 0:
        return [None]
    sizes = _counts(walk, node)
    along = dy.times(factor(y.values))
    shared = _spread(dy.second, *dy.crosses(y), sizes)
    taken = shared + _spread(along.second, *along.crosses(y), sizes)
    inverse = 1 / (max(x.second - _square_of_mean(x, sizes), 0.0) + node.get("epsilon", 1e-9))
    space, batch, far = ((cross - shared) * inverse for cross in dy.crosses(y))
    left = max(dy.second - taken, 0.0) * inverse
    source = Source(left, dy.shape, space, batch, dy.spatial_profile, finite_width=dy.finite_width, cross_other=far)
    return [Gradient.profiled(source, dy.second_at, x, walk.shape(node.inputs[0])[2:])]


@decomposition("LayerNormalization")
def layer_normalization(graph: Graph, node: Node) -> list[Node]:
    """y = standardized x · scale + bias, over the last axes."""
    rank = len(graph.shape(node.inputs[0]))
    axes = list(range(node.get("axis", -1) % rank, rank))
    return _scaled(graph, node, {"axes": axes}, ())


@decomposition("InstanceNormalization")
def instance_normalization(graph: Graph, node: Node) -> list[Node]:
    """Over the places of one channel."""
    return _scaled(graph, node, {"axes": _places(graph, node)}, _per_channel(graph, node))


@decomposition("GroupNormalization")
def group_normalization(graph: Graph, node: Node) -> list[Node]:
    """Over the places of a group of channels."""
    group = graph.shape(node.inputs[0])[1] // node.attributes["num_groups"]
    return _scaled(graph, node, {"axes": _places(graph, node), "channels": group}, _per_channel(graph, node))


def _places(graph: Graph, node: Node) -> list[int]:
    return list(range(2, len(graph.shape(node.inputs[0]))))


def _per_channel(graph: Graph, node: Node) -> tuple[int, ...]:
    """Return the shape in which a value per channel broadcasts to [N, C, places…]."""
    shape = graph.shape(node.inputs[0])
    return (shape[1], *(1 for _ in shape[2:]))


def _scaled(graph: Graph, node: Node, over: dict[str, object], shape: tuple[int, ...]) -> list[Node]:
    """Return the nodes of standardized x · scale + bias, these two reshaped unless `shape` is empty."""
    x, *factors = (name for name in node.inputs if name)
    out, spec = node.outputs[0], graph.specs[x]
    epsilon = {"epsilon": node.get("epsilon", 1e-5)}
    between = [f"{out}/standard", f"{out}/scaled"][: len(factors)]
    names = [x, *(graph.declare(graph.unique(name), spec.shape, spec.dtype) for name in between), out]
    nodes = [Node(STANDARD, (x,), (names[1],), {**over, **epsilon})]
    for op, value, before, after in zip(("Mul", "Add"), factors, names[1:], names[2:], strict=False):
        if shape:
            nodes.append(reshaped(graph, value, shape))
        nodes.append(Node(op, (before, nodes[-1].outputs[0] if shape else value), (after,)))
    return nodes


def reshaped(graph: Graph, value: str, shape: tuple[int, ...]) -> Node:
    """Return the node that gives a value another shape."""
    out = graph.declare(graph.unique(f"{value}/as/{'x'.join(map(str, shape))}"), shape, graph.specs[value].dtype)
    return Node("Reshape", (value, graph.ints(*shape)), (out,))
