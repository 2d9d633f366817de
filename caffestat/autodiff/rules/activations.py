"""Activation functions. A derivative that the output determines is read from it, so that the input can be freed."""

from __future__ import annotations

import math

import numpy as np

from caffestat.graph import Graph, Node, late
from caffestat.graph.gelu import normal_distribution

from ..engine import Tape, vjp
from .common import Grads, unbroadcast


def _above(t: Tape, value: str, bound: float, there: str, elsewhere: str) -> str:
    """Emit `there` where the value is above the bound, else `elsewhere`."""
    return t.emit("Where", t.emit("Greater", value, t.scalar(bound, like=value)), there, elsewhere)


@vjp("Relu")
def relu(t: Tape, node: Node, dy: str) -> Grads:
    """dx = dy · [y > 0]."""
    y = node.outputs[0]
    return [t.emit("Mul", dy, t.emit_late("Step", y, shape=t.shape(y), like=y))]


@late("Step")
def _step(g: Graph, node: Node, provider: str) -> list[str]:
    """[y > 0] of y ≥ 0; on the CPU min(3e38·y, 1) is faster in float32, and wrong only for y below 3.4e-39."""
    (y,) = node.inputs
    if provider == "cpu" and g.specs[y].dtype == np.float32:
        return [g.emit("HardSigmoid", y, alpha=3e38, beta=0.0)]
    return [g.emit("Sign", y)]


@vjp("LeakyRelu")
def leaky_relu(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    slope = _above(t, x, 0, t.scalar(1, like=x), t.scalar(node.get("alpha", 0.01), like=x))
    return [t.emit("Mul", dy, slope)]


@vjp("PRelu")
def prelu(t: Tape, node: Node, dy: str) -> Grads:
    x, slope = node.inputs
    dx = _above(t, x, 0, dy, t.emit("Mul", dy, slope)) if t.needs(x) else None
    if not t.needs(slope):
        return [dx, None]
    return [dx, unbroadcast(t, t.emit("Mul", dy, t.emit("Min", x, t.scalar(0, like=x))), x, slope)]


@vjp("ThresholdedRelu")
def thresholded_relu(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    return [_above(t, x, node.get("alpha", 1.0), dy, t.scalar(0, like=x))]


@vjp("Elu")
def elu(t: Tape, node: Node, dy: str) -> Grads:
    # with a negative alpha the output is above 0 on both sides
    y, alpha = node.outputs[0], node.get("alpha", 1.0)
    low = t.emit("Mul", dy, t.emit("Add", y, t.scalar(alpha, like=y)))
    return [_above(t, y if alpha >= 0 else node.inputs[0], 0, dy, low)]


@vjp("Selu")
def selu(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    slope = _above(t, node.inputs[0], 0, t.scalar(gamma, like=y), t.emit("Add", y, t.scalar(alpha * gamma, like=y)))
    return [t.emit("Mul", dy, slope)]


@vjp("Celu")
def celu(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    low = t.emit("Add", t.emit("Div", y, t.scalar(node.get("alpha", 1.0), like=y)), t.scalar(1, like=y))
    return [_above(t, y, 0, dy, t.emit("Mul", dy, low))]


@vjp("Sigmoid")
def sigmoid(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    return [t.emit("Mul", t.emit("Mul", dy, y), t.emit("Sub", t.scalar(1, like=y), y))]


@vjp("HardSigmoid")
def hard_sigmoid(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    inside = t.emit("And", t.emit("Greater", y, t.scalar(0, like=y)), t.emit("Less", y, t.scalar(1, like=y)))
    slope = t.emit("Mul", dy, t.scalar(node.get("alpha", 0.2), like=y))
    return [t.emit("Where", inside, slope, t.scalar(0, like=y))]


@vjp("HardSwish")
def hard_swish(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    ramp = t.emit("Add", t.emit("Div", x, t.scalar(3, like=x)), t.scalar(0.5, like=x))
    slope = _above(t, x, 3, t.scalar(1, like=x), _above(t, x, -3, ramp, t.scalar(0, like=x)))
    return [t.emit("Mul", dy, slope)]


@vjp("Softplus")
def softplus(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, t.emit("Sigmoid", node.inputs[0]))]


@vjp("Softsign")
def softsign(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    root = t.emit("Add", t.emit("Abs", x), t.scalar(1, like=x))
    return [t.emit("Div", dy, t.emit("Mul", root, root))]


@vjp("Mish")
def mish(t: Tape, node: Node, dy: str) -> Grads:
    """With s = tanh(softplus(x)): s + x · sigmoid(x) · (1 - s²)."""
    x = node.inputs[0]
    s = t.emit("Tanh", t.emit("Softplus", x))
    rest = t.emit("Sub", t.scalar(1, like=x), t.emit("Mul", s, s))
    slope = t.emit("Add", s, t.emit("Mul", t.emit("Mul", x, t.emit("Sigmoid", x)), rest))
    return [t.emit("Mul", dy, slope)]


@vjp("Gelu")
def gelu(t: Tape, node: Node, dy: str) -> Grads:
    slope = _gelu_tanh if node.get("approximate", "none") in ("tanh", b"tanh") else _gelu_exact
    return [t.emit("Mul", dy, slope(t, node.inputs[0]))]


def _gelu_exact(t: Tape, x: str) -> str:
    """Φ(x) + x · φ(x), the normal distribution and its density, exp(-x²/2 - log √(2π))."""
    scaled, cdf = normal_distribution(t.graph, x)
    power = t.emit("Sub", t.scalar(-0.5 * math.log(2 * math.pi), like=x), t.emit("Mul", scaled, scaled))
    return t.emit("Add", cdf, t.emit("Mul", x, t.emit("Exp", power)))


def _gelu_tanh(t: Tape, x: str) -> str:
    """With u = √(2/π)·(x + 0.044715·x³) and s = tanh(u): (1 + s)/2 + x·(1 - s²)/2 · √(2/π)·(1 + 0.134145·x²)."""
    half, one, root = t.scalar(0.5, like=x), t.scalar(1, like=x), t.scalar(math.sqrt(2 / math.pi), like=x)
    square = t.emit("Mul", x, x)
    cubic = t.emit("Add", t.emit("Mul", square, t.scalar(0.044715, like=x)), one)
    s = t.emit("Tanh", t.emit("Mul", t.emit("Mul", x, root), cubic))
    du = t.emit("Mul", t.emit("Add", t.emit("Mul", square, t.scalar(0.134145, like=x)), one), root)
    rest = t.emit("Mul", t.emit("Mul", x, du), t.emit("Sub", one, t.emit("Mul", s, s)))
    return t.emit("Mul", t.emit("Add", t.emit("Add", s, one), rest), half)
