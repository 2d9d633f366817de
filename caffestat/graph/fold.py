"""Normalizations with given statistics (inference), folded into the convolutions before them.

    y = s · (w ∗ x + b - mean) + bias,  s = scale / √(var + ε)
      = (s · w) ∗ x + (s · (b - mean) + bias)

The runtime computes the filters on the right once, when a session opens, and never the values in between. Gradients
win most: the one of s comes from that of s · w, a sum over taps in the place of one over all places of the image.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from caffestat.ops import Role

from .flow import Flow
from .graph import Graph, Node

__all__ = ["fold_normalizations"]


def fold_normalizations(graph: Graph, kept: Collection[str]) -> int:
    """Fold normalizations into the convolutions before them, in place; return their number.

    kept: values that have to stay, beside the graph's outputs
    """
    flow, nodes = graph.flow(), graph.nodes
    fixed = {*kept, *graph.outputs, *graph.detached}
    pairs = {}
    for step, node in enumerate(nodes):
        maker = flow.writer(node.inputs[0]) if _is_fixed_normalization(node) else None
        if maker is not None and node.inputs[0] not in fixed and _folds(graph, flow, nodes[maker], node):
            pairs[step] = maker
    if pairs:
        gone = set(pairs.values())
        graph.nodes = []
        for step, node in enumerate(nodes):
            if step in pairs:
                _emit_folded(graph, nodes[pairs[step]], node)
            elif step not in gone:
                graph.nodes.append(node)
    return len(pairs)


def _is_fixed_normalization(node: Node) -> bool:
    """Tell whether a node normalizes each channel by statistics that it is given."""
    is_tracked = node.info.normalizes and node.info.role(len(node.inputs) - 1) is Role.STATISTIC
    return is_tracked and not node.get("training_mode", 0)


def _folds(graph: Graph, flow: Flow[str], maker: Node, normalization: Node) -> bool:
    """Tell whether a node is a convolution of weights whose result the normalization alone reads."""
    if not (maker.info.is_product and maker.info.window) or len(flow.readers(maker.outputs[0])) > 1:
        return False
    learned = [*filter(None, maker.inputs[1:]), *normalization.inputs[1:]]
    types = {graph.specs[name].dtype for name in learned if name in graph.specs}
    are_fixed = all(name in graph.params or name in graph.constants for name in learned)
    whole = maker.get("group", 1) == 1 or _filters_axis(maker) == 0
    return are_fixed and whole and len(types) == 1 and types.pop().name in ("float32", "float64")


def _filters_axis(node: Node) -> int:
    """Return the axis of the weights that has one filter per channel of the result."""
    return 1 if node.info.upsamples else 0


def _emit_folded(graph: Graph, convolution: Node, normalization: Node) -> None:
    """Append the convolution with the normalization's scale and shift in its weights and its bias."""
    x, w, *bias = filter(None, convolution.inputs)
    _, scale, shift, mean, variance = normalization.inputs
    epsilon = graph.constant(normalization.get("epsilon", 1e-5), graph.specs[variance].dtype)
    slope = graph.emit("Div", scale, graph.emit("Sqrt", graph.emit("Add", variance, epsilon)))
    graph.declare(slope, graph.shape(scale), graph.specs[scale].dtype)
    column = [-1 if axis == _filters_axis(convolution) else 1 for axis in range(len(graph.shape(w)))]
    filters = graph.emit("Mul", w, graph.reshape(slope, *column))
    graph.declare(filters, graph.shape(w), graph.specs[w].dtype)
    center = graph.emit("Sub", bias[0], mean) if bias else graph.emit("Neg", mean)
    moved = graph.emit("Add", graph.emit("Mul", slope, center), shift)
    graph.nodes.append(replace(convolution, inputs=(x, filters, moved), outputs=normalization.outputs[:1]))
