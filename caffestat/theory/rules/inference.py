"""Ops that differ between training and inference: BatchNormalization on stored statistics, Dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffestat.graph import Graph, Node

from ..engine import Walk, backward_moments, decomposition, moments
from ..quadrature import NODES, cdf, expect
from ..signal import Gradient, Signal
from .elementwise import elementwise_backward
from .linear import known
from .standardize import reshaped

Gradients = Sequence[Gradient | None]

CENTERED = "caffestat.Centered"
MASKED = "caffestat.Masked"


@decomposition("BatchNormalization")
def batch_normalization(graph: Graph, node: Node) -> Sequence[Node]:
    """y = (x - mean) · scale / √(variance + ε) + bias; in training the op has a rule of its own."""
    if node.get("training_mode", 0):
        return (node,)
    x, *params = node.inputs
    spec = graph.specs[x]
    shape = (spec.shape[1], *(1 for _ in spec.shape[2:])) if len(spec.shape) > 1 else spec.shape
    nodes = [reshaped(graph, name, shape) for name in params]
    scale, bias, mean, variance = (step.outputs[0] for step in nodes)

    def emit(op: str, *inputs: str) -> str:
        like = graph.specs[inputs[0]]
        nodes.append(
            Node(op, inputs, (graph.declare(graph.unique(f"{node.outputs[0]}/{op}"), like.shape, like.dtype),))
        )
        return nodes[-1].outputs[0]

    deviation = emit("Sqrt", emit("Add", variance, graph.constant(node.get("epsilon", 1e-5), spec.dtype)))
    product = emit("Mul", emit(CENTERED, x, mean), emit("Div", scale, deviation))
    return [*nodes, Node("Add", (product, bias), node.outputs[:1])]


@moments(CENTERED)
def centered(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = x - m, m a stored mean per channel: as far as it can, it is what the elements of a channel have in common."""
    x, m = (known(walk.signal(name)) for name in node.inputs)
    if m.is_constant:
        return [Signal(x.values - m.mean, x.rho_spatial, x.rho_sample, x.spatial_profile, x.latent)]
    shared = min(x.cross_spatial, x.cross_sample) - x.mean**2
    tracked = (m.second - m.mean**2) - 2 * min(m.second - m.mean**2, shared)
    shift = x.mean - m.mean
    around = x.values - expect(x.values)
    spread = math.sqrt(max(x.second - x.mean**2 + tracked, 0.0) / max(expect(around**2), 1e-300))
    values = shift + spread * around
    space, batch = (cross - x.mean**2 + tracked + shift**2 for cross in (x.cross_spatial, x.cross_sample))
    pairs = Signal.of_pairs(values, space, batch)
    return [Signal(values, pairs.rho_spatial, pairs.rho_sample, x.spatial_profile, x.latent)]


@backward_moments(CENTERED)
def centered_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy, dm = -Σ dy over the elements of a channel."""
    return [dys[0], elementwise_backward(walk, Node("Sub", node.inputs, node.outputs), dys)[1]]


@decomposition("Dropout")
def dropout(graph: Graph, node: Node) -> Sequence[Node]:
    """y = x; in training x times a mask."""
    ratio, training = (graph.constants.get(name) for name in (*node.inputs[1:], "", "")[:2])
    if len(node.inputs) < 3 or (training is not None and not training.any()):
        return (Node("Identity", node.inputs[:1], node.outputs[:1]),)
    if training is None or (node.inputs[1] and ratio is None):
        return (node,)
    x, spec = node.inputs[0], graph.specs[node.inputs[0]]
    mask = graph.declare(graph.unique(f"{node.outputs[0]}/mask"), spec.shape, spec.dtype)
    drawn = Node(MASKED, (x,), (mask,), {"ratio": 0.5 if ratio is None else float(ratio)})
    return (drawn, Node("Mul", (x, mask), node.outputs[:1]))


@moments(MASKED)
def mask(walk: Walk, node: Node) -> Sequence[Signal]:
    """1 / (1 - ratio) where an element is kept, else 0, whatever the element is."""
    kept = 1 - node.attributes["ratio"]
    values = np.where(cdf(NODES) < kept, 1.0, 0.0)
    return [Signal(values / max(expect(values), 1e-300))]
