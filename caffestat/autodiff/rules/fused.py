"""Ops of the runtime's own that its optimizer makes of several, by way of these. (onnxruntime, ContribOperators.md)"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of

Definition = Callable[[Tape, Node], list[str]]


def _fused(*ops: str) -> Callable[[Definition], Definition]:
    """Register ops that `definition` emits the outputs of."""

    def register(definition: Definition) -> Definition:
        def rule(t: Tape, node: Node, dy: str) -> Grads:
            return t.through(node, dy, partial(definition, t, node))

        vjp(*ops)(rule)
        return definition

    return register


def _plus(t: Tape, *terms: str) -> str:
    """Emit the sum of the terms that there are."""
    total, *others = filter(None, terms)
    for term in others:
        total = t.emit("Add", total, term)
    return total


@_fused("BiasGelu")
def bias_gelu(t: Tape, node: Node) -> list[str]:
    """y = gelu(x + b), by the error function."""
    return [t.emit("Gelu", _plus(t, *node.inputs))]


@_fused("FastGelu")
def fast_gelu(t: Tape, node: Node) -> list[str]:
    """y = gelu(x + b), by the hyperbolic tangent."""
    return [t.emit("Gelu", _plus(t, *node.inputs), approximate="tanh")]


@_fused("QuickGelu")
def quick_gelu(t: Tape, node: Node) -> list[str]:
    """y = x · sigmoid(α x)."""
    x = node.inputs[0]
    return [t.emit("Mul", x, t.emit("Sigmoid", t.emit("Mul", x, t.scalar(node.get("alpha", 1.702), like=x))))]


@_fused("SkipLayerNormalization")
def skip_layer_normalization(t: Tape, node: Node) -> list[str]:
    """y = the layer normalization of x + skip + b; the fourth output is this sum."""
    x, skip, gamma, beta, bias = (input_of(node, position) for position in range(5))
    total = _plus(t, x, skip, bias)
    learned = [gamma, beta] if beta else [gamma]
    y = t.emit("LayerNormalization", total, *learned, axis=-1, epsilon=node.get("epsilon", 1e-12))
    return [y, "", "", total]


@_fused("SkipSimplifiedLayerNormalization")
def skip_simplified_layer_normalization(t: Tape, node: Node) -> list[str]:
    """As SkipLayerNormalization, without mean and shift."""
    x, skip, gamma, bias = (input_of(node, position) for position in range(4))
    total = _plus(t, x, skip, bias)
    return [_by_root_mean_square(t, total, gamma, -1, node.get("epsilon", 1e-12)), "", "", total]


@_fused("SimplifiedLayerNormalization")
def simplified_layer_normalization(t: Tape, node: Node) -> list[str]:
    """y = scale · x / √(mean x² + ε)."""
    x, scale = node.inputs
    return [_by_root_mean_square(t, x, scale, node.get("axis", -1), node.get("epsilon", 1e-5))]


def _by_root_mean_square(t: Tape, x: str, scale: str, axis: int, epsilon: float) -> str:
    rank = len(t.shape(x)) if axis != -1 else 0
    axes = t.ints(*range(axis % rank, rank)) if rank else t.ints(-1)
    mean = t.emit("ReduceMean", t.emit("Mul", x, x), axes, keepdims=1)
    root = t.emit("Sqrt", t.emit("Add", mean, t.scalar(epsilon, like=scale)))
    return t.emit("Mul", t.emit("Div", x, root), scale)
