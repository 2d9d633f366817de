"""Ops that the runtime's optimizer makes of several, said by those of ONNX again. (onnxruntime, ContribOperators.md)

Shapes, costs, predictions and gradients are then those of the single ops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from .graph import CONTRIB, OPSET, Node
from .upgrade import AdapterContext

__all__ = ["is_fused", "unfused"]


class _Writer:
    """Collects the nodes that stand in the place of one."""

    def __init__(self, context: AdapterContext, node: Node) -> None:
        self.context, self.node, self.nodes = context, node, list[Node]()
        spec = context.spec(node.inputs[0])
        self.dtype = spec.dtype if spec else np.dtype(np.float32)

    def input(self, position: int) -> str:
        """Return the name of an input, empty for one that is left out."""
        return self.node.inputs[position] if position < len(self.node.inputs) else ""

    def emit(self, op: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node and return its output's name."""
        output = to or self.context.unique(f"{self.node.outputs[0]}/{op}")
        self.nodes.append(Node(op, inputs, (output,), attributes))
        return output

    def number(self, value: float) -> str:
        """Return a constant of the data's type."""
        return self.context.constant(value, self.dtype)

    def sum(self, *terms: str, to: str = "") -> str:
        """Emit the sum of the terms that there are; `to` names it."""
        total, *others = filter(None, terms)
        for index, term in enumerate(others):
            total = self.emit("Add", total, term, to=to if index == len(others) - 1 else "")
        return total


Definition = Callable[[_Writer, Node, str], None]


def _bias_gelu(w: _Writer, node: Node, y: str) -> None:
    """y = gelu(x + b), by the error function."""
    w.emit("Gelu", w.sum(*node.inputs), to=y)


def _fast_gelu(w: _Writer, node: Node, y: str) -> None:
    """y = gelu(x + b), by the hyperbolic tangent."""
    w.emit("Gelu", w.sum(*node.inputs), to=y, approximate="tanh")


def _quick_gelu(w: _Writer, node: Node, y: str) -> None:
    """y = x · sigmoid(α x)."""
    x = node.inputs[0]
    w.emit("Mul", x, w.emit("Sigmoid", w.emit("Mul", x, w.number(node.get("alpha", 1.702)))), to=y)


def _fused_conv(w: _Writer, node: Node, y: str) -> None:
    """y = f(w ∗ x + b + z)."""
    kept = {name: value for name, value in node.attributes.items() if not name.startswith("activation")}
    x, filters, bias, z = (w.input(position) for position in range(4))
    product = w.emit("Conv", *filter(None, (x, filters, bias)), **kept)
    _activation(w, node, w.sum(product, z), y)


def _fused_gemm(w: _Writer, node: Node, y: str) -> None:
    """y = f(α a b + β c)."""
    kept = {name: value for name, value in node.attributes.items() if not name.startswith("activation")}
    _activation(w, node, w.emit("Gemm", *node.inputs, **kept), y)


def _activation(w: _Writer, node: Node, x: str, y: str) -> None:
    """Emit the activation that a node's attributes name; of Gemm its settings have names of their own."""
    op, numbers = node.get("activation", ""), node.get("activation_params", ())
    op = op.decode() if isinstance(op, bytes) else op
    named = {name: value for name in ("alpha", "beta") if (value := node.get(f"activation_{name}")) is not None}
    names = sorted(onnx.defs.get_schema(op, OPSET).attributes) if op else ()
    settings = {**dict(zip(names, numbers, strict=False)), **named}
    bounds = () if names else map(w.number, numbers)  # of a Clip they are inputs
    w.emit(op or "Identity", x, *bounds, to=y, **settings)


def _skip_layer_normalization(w: _Writer, node: Node, y: str) -> None:
    """y = the layer normalization of x + skip + b; the fourth output is this sum."""
    x, skip, gamma, beta, bias = (w.input(position) for position in range(5))
    learned = [gamma, beta] if beta else [gamma]
    epsilon = node.get("epsilon", 1e-12)
    w.emit("LayerNormalization", _total(w, node, x, skip, bias), *learned, to=y, axis=-1, epsilon=epsilon)


def _skip_simplified(w: _Writer, node: Node, y: str) -> None:
    """As SkipLayerNormalization, without mean and shift."""
    x, skip, gamma, bias = (w.input(position) for position in range(4))
    _by_root_mean_square(w, _total(w, node, x, skip, bias), gamma, y, -1, node.get("epsilon", 1e-12))


def _total(w: _Writer, node: Node, *terms: str) -> str:
    """Emit the sum that is normalized, under the name of the fourth output where the node has it."""
    return w.sum(*terms, to=node.outputs[3] if len(node.outputs) > 3 else "")


def _simplified(w: _Writer, node: Node, y: str) -> None:
    """y = scale · x / √(mean x² + ε)."""
    x, scale = node.inputs[:2]
    _by_root_mean_square(w, x, scale, y, node.get("axis", -1), node.get("epsilon", 1e-5))


def _by_root_mean_square(w: _Writer, x: str, scale: str, y: str, axis: int, epsilon: float) -> None:
    spec = w.context.spec(x)
    axes = range(axis, 0) if axis < 0 or spec is None else range(axis - len(spec.shape), 0)
    mean = w.emit("ReduceMean", w.emit("Mul", x, x), w.context.constant(list(axes), np.int64), keepdims=1)
    root = w.emit("Sqrt", w.emit("Add", mean, w.number(epsilon)))
    w.emit("Mul", w.emit("Div", x, root), scale, to=y)


_DEFINITIONS: dict[str, Definition] = {
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _simplified,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
}
_PLAIN = frozenset(["SimplifiedLayerNormalization"])  # which the runtime has in ONNX's own domain


def is_fused(node: Node) -> bool:
    """Tell whether a node is said by other ops: not where its mean or deviation are asked for."""
    is_known = node.op in _DEFINITIONS and (node.domain == CONTRIB or node.op in _PLAIN)
    return is_known and not any(node.outputs[1:3])


def unfused(context: AdapterContext, node: Node) -> list[Node]:
    """Return the nodes of ONNX's ops that compute what a fused one does; the node itself where it is none."""
    if not is_fused(node):
        return [node]
    writer = _Writer(context, node)
    _DEFINITIONS[node.op](writer, node, node.outputs[0])
    return writer.nodes
