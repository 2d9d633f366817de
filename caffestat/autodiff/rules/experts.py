"""A mixture of experts of which each token passes through the k that its router likes best.

Source: onnxruntime's contrib operator MoE (onnxruntime/contrib_ops/cpu/moe).
"""

from __future__ import annotations

import math

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of


@vjp("MoE")
def mixture_of_experts(t: Tape, node: Node, dy: str) -> Grads:
    """y = Σ over experts of gate · (act(x w₁ᵀ + b₁) w₂ᵀ + b₂); gates are 0 but for the k most likely experts.

    All experts are computed for all tokens. Which are chosen has no gradient.
    """
    kind, what = node.get("activation_type", "relu"), f"MoE (value {node.outputs[0]})"
    if kind not in ("relu", "gelu", "silu", "swiglu", "identity"):
        raise GradientError(f"{what}: no gradient is known of activation_type {kind!r}")
    if input_of(node, 6) or input_of(node, 7):
        raise GradientError(f"{what}: no gradient is known with weights fc3")
    return t.through(node, dy, lambda: [_mixed(t, node, kind)])


def _mixed(t: Tape, node: Node, kind: str) -> str:
    x, router, first, bias, second, second_bias = (input_of(node, position) for position in range(6))
    shape, experts = t.shape(x), t.shape(first)[0]
    tokens = math.prod(shape[:-1])
    rows = t.reshape(x, 1, tokens, shape[-1])
    hidden = _expert_product(t, rows, first, bias)
    made = _expert_product(t, _activated(t, node, hidden, kind, t.shape(first)[1]), second, second_bias)
    gates = t.reshape(t.transpose(_gates(t, node, router), 1, 0), experts, tokens, 1)
    return t.reshape(t.emit("ReduceSum", t.emit("Mul", made, gates), t.ints(0), keepdims=0), *shape)


def _expert_product(t: Tape, x: str, weights: str, bias: str) -> str:
    """Emit x wᵀ + b for each expert: [experts, tokens, rows of w]."""
    product = t.emit("MatMul", x, t.transpose(weights, 0, 2, 1))
    return t.emit("Add", product, t.emit("Unsqueeze", bias, t.ints(1))) if bias else product


def _gates(t: Tape, node: Node, router: str) -> str:
    """Emit what each expert's result is multiplied by: [tokens, experts]."""
    likely = t.emit("Softmax", router, axis=-1)
    _, best = t.emit_many("TopK", likely, t.ints(node.get("k", 1)), count=2, axis=-1)
    nothing = t.emit("Mul", router, t.scalar(0, like=router))
    ones = t.emit("Expand", t.scalar(1, like=router), t.emit("Shape", best))
    gates = t.emit("Mul", likely, t.emit("ScatterElements", nothing, best, ones, axis=-1))
    if not node.get("normalize_routing_weights", 0):
        return gates
    return t.emit("Div", gates, t.emit("ReduceSum", gates, t.ints(-1)))


def _activated(t: Tape, node: Node, x: str, kind: str, size: int) -> str:
    if kind == "relu":
        return t.emit("Relu", x)
    if kind == "gelu":
        return t.emit("Gelu", x, approximate="tanh")
    if kind == "silu":
        return t.emit("Mul", x, t.emit("Sigmoid", x))
    return _swiglu(t, node, x, size) if kind == "swiglu" else x


def _swiglu(t: Tape, node: Node, x: str, size: int) -> str:
    """Emit g · sigmoid(alpha · g) · (l + beta) of gates g and values l that stand side by side, both clipped."""
    dtype = t.specs[node.inputs[0]].dtype
    alpha, beta = (t.constant(node.get(f"activation_{name}", default), dtype) for name, default in _SWIGLU)
    gate, linear = (t.emit("Slice", x, t.ints(at), t.ints(size), t.ints(2), t.ints(2)) for at in (0, 1))
    limit = node.get("swiglu_limit")
    if limit is not None and limit < np.inf:
        most, least = t.constant(limit, dtype), t.constant(-limit, dtype)
        gate, linear = t.emit("Clip", gate, "", most), t.emit("Clip", linear, least, most)
    swish = t.emit("Mul", gate, t.emit("Sigmoid", t.emit("Mul", gate, alpha)))
    return t.emit("Mul", swish, t.emit("Add", linear, beta))


_SWIGLU = (("alpha", 1.0), ("beta", 0.0))
