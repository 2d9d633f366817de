"""Arithmetic and functions applied element by element, with numpy's broadcasting."""

from __future__ import annotations

import math

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, broadcast_grads, constant_of, input_of, only, unbroadcast


@vjp("Add")
def add(t: Tape, node: Node, dy: str) -> Grads:
    return broadcast_grads(t, node, lambda: dy, lambda: dy)


@vjp("Sub")
def sub(t: Tape, node: Node, dy: str) -> Grads:
    a, b = node.inputs
    da = unbroadcast(t, dy, node.outputs[0], a) if t.needs(a) else None
    return [da, t.emit("Neg", unbroadcast(t, dy, node.outputs[0], b)) if t.needs(b) else None]


@vjp("Mul")
def mul(t: Tape, node: Node, dy: str) -> Grads:
    a, b = node.inputs
    return broadcast_grads(t, node, lambda: t.emit("Mul", dy, b), lambda: t.emit("Mul", dy, a))


@vjp("Div")
def div(t: Tape, node: Node, dy: str) -> Grads:
    b, y = node.inputs[1], node.outputs[0]
    scaled = t.emit("Div", dy, b)
    return broadcast_grads(t, node, lambda: scaled, lambda: t.emit("Neg", t.emit("Mul", scaled, y)))


@vjp("Mod")
def mod(t: Tape, node: Node, dy: str) -> Grads:
    """y = a - b·q, where the quotient q is piecewise constant."""
    a, b = node.inputs

    def db() -> str:
        quotient = t.emit("Round", t.emit("Div", t.emit("Sub", a, node.outputs[0]), b))
        return t.emit("Neg", t.emit("Mul", dy, quotient))

    return broadcast_grads(t, node, lambda: dy, db)


def _pow_base(t: Tape, node: Node, dy: str) -> str:
    # x⁰ has slope 0 at x = 0 too, where p·xᵖ⁻¹ would be 0·∞
    x, power = node.inputs
    spec = t.specs[power]
    if power in t.constants:
        p = t.constants[power]
        lower = t.constant(np.where(p == 0, 0, p - 1), spec.dtype)
    else:
        zero = t.scalar(0, like=power)
        lower = t.emit("Where", t.emit("Equal", power, zero), zero, t.emit("Sub", power, t.scalar(1, like=power)))
    slope = t.emit("Mul", t.emit("Pow", x, lower), t.cast(power, t.specs[x].dtype))
    return t.emit("Mul", dy, slope)


def _pow_exponent(t: Tape, node: Node, dy: str) -> str:
    # 0 where x is 0, as torch has it for p >= 0
    x, power = node.inputs
    zero = t.scalar(0, like=x)
    slope = t.emit("Mul", node.outputs[0], t.emit("Log", x))
    grad = t.emit("Mul", dy, t.emit("Where", t.emit("Equal", x, zero), zero, slope))
    return t.cast(grad, t.specs[power].dtype)


@vjp("Pow")
def pow_(t: Tape, node: Node, dy: str) -> Grads:
    return broadcast_grads(t, node, lambda: _pow_base(t, node, dy), lambda: _pow_exponent(t, node, dy))


@vjp("Neg")
def neg(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Neg", dy)]


@vjp("Abs")
def abs_(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, t.emit("Sign", node.inputs[0]))]


@vjp("Reciprocal")
def reciprocal(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    return [t.emit("Neg", t.emit("Mul", t.emit("Mul", dy, y), y))]


@vjp("Sqrt")
def sqrt(t: Tape, node: Node, dy: str) -> Grads:
    y = node.outputs[0]
    return [t.emit("Div", t.emit("Mul", dy, t.scalar(0.5, like=y)), y)]


@vjp("Exp")
def exp(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, node.outputs[0])]


@vjp("Log")
def log(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, node.inputs[0])]


@vjp("Erf")
def erf(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    bell = t.emit("Exp", t.emit("Neg", t.emit("Mul", x, x)))
    return [t.emit("Mul", dy, t.emit("Mul", bell, t.scalar(2 / math.sqrt(math.pi), like=x)))]


@vjp("Sin")
def sin(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, t.emit("Cos", node.inputs[0]))]


@vjp("Cos")
def cos(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Neg", t.emit("Mul", dy, t.emit("Sin", node.inputs[0])))]


@vjp("Tan")
def tan(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, _plus_square(t, 1, node.outputs[0]))]


@vjp("Asin")
def asin(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, t.emit("Sqrt", _one_minus_square(t, node.inputs[0])))]


@vjp("Acos")
def acos(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Neg", t.emit("Div", dy, t.emit("Sqrt", _one_minus_square(t, node.inputs[0]))))]


@vjp("Atan")
def atan(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, _plus_square(t, 1, node.inputs[0]))]


@vjp("Sinh")
def sinh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, t.emit("Cosh", node.inputs[0]))]


@vjp("Cosh")
def cosh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, t.emit("Sinh", node.inputs[0]))]


@vjp("Tanh")
def tanh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Mul", dy, _one_minus_square(t, node.outputs[0]))]


@vjp("Asinh")
def asinh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, t.emit("Sqrt", _plus_square(t, 1, node.inputs[0])))]


@vjp("Acosh")
def acosh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, t.emit("Sqrt", _plus_square(t, -1, node.inputs[0])))]


@vjp("Atanh")
def atanh(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("Div", dy, _one_minus_square(t, node.inputs[0]))]


def _plus_square(t: Tape, term: float, value: str) -> str:
    return t.emit("Add", t.scalar(term, like=value), t.emit("Mul", value, value))


def _one_minus_square(t: Tape, value: str) -> str:
    return t.emit("Sub", t.scalar(1, like=value), t.emit("Mul", value, value))


@vjp("Sum")
def sum_(t: Tape, node: Node, dy: str) -> Grads:
    return broadcast_grads(t, node, *[lambda: dy] * len(node.inputs))


@vjp("Mean")
def mean(t: Tape, node: Node, dy: str) -> Grads:
    share = t.emit("Mul", dy, t.scalar(1 / len(node.inputs), like=node.outputs[0]))
    return broadcast_grads(t, node, *[lambda: share] * len(node.inputs))


@vjp("Max", "Min")
def extreme(t: Tape, node: Node, dy: str) -> Grads:
    """Equal inputs share the gradient equally, as in torch.maximum."""
    y = node.outputs[0]
    dtype = t.specs[y].dtype
    chosen = [t.cast(t.emit("Equal", x, y), dtype) for x in node.inputs]
    share = t.emit("Div", dy, t.emit("Sum", *chosen))
    return broadcast_grads(t, node, *[lambda c=c: t.emit("Mul", share, c) for c in chosen])


@vjp("Where")
def where(t: Tape, node: Node, dy: str) -> Grads:
    condition, a, b = node.inputs
    y, zero = node.outputs[0], t.scalar(0, like=node.outputs[0])
    da = unbroadcast(t, t.emit("Where", condition, dy, zero), y, a) if t.needs(a) else None
    return [None, da, unbroadcast(t, t.emit("Where", condition, zero, dy), y, b) if t.needs(b) else None]


@vjp("Clip")
def clip(t: Tape, node: Node, dy: str) -> Grads:
    """At a bound the gradient still passes, as in torch.clamp; the bounds get what they hold back.

    Where only products read y, so that dy is finite, dy is multiplied by whether y is x: two thirds of the time.
    """
    x, zero = node.inputs[0], t.scalar(0, like=node.inputs[0])
    low, high = input_of(node, 1), input_of(node, 2)
    if not any(map(t.needs, node.inputs[1:])) and _is_read_by_products(t, node.outputs[0]):
        inside = t.cast(t.emit("Equal", x, node.outputs[0]), t.specs[x].dtype)
        return only(node, t.emit("Mul", dy, inside))
    below = t.emit("Less", x, low) if low else ""
    above = t.emit("Greater", x, high) if high else ""
    outside = t.emit("Or", below, above) if below and above else below or above
    dx = t.emit("Where", outside, zero, dy) if outside else dy
    bounds = zip(node.inputs[1:], (below, above), strict=False)
    held = [unbroadcast(t, t.emit("Where", o, dy, zero), x, b) if t.needs(b) else None for b, o in bounds]
    return [dx, *held]


def _is_read_by_products(t: Tape, value: str) -> bool:
    """Tell whether a value is read by nodes that multiply it by others and add up, and by nothing else."""
    readers = t.flow.readers(value)
    return bool(readers) and all(t.graph.nodes[step].info.is_product for step, _ in readers)


@vjp("Identity")
def identity(t: Tape, node: Node, dy: str) -> Grads:
    return [dy]


@vjp("Cast", "CastLike")
def cast(t: Tape, node: Node, dy: str) -> Grads:
    source, target = t.specs[node.inputs[0]].dtype, t.specs[node.outputs[0]].dtype
    discrete = any(dtype.kind in "biu" for dtype in (source, target))
    return only(node, None if discrete else t.cast(dy, source))


@vjp("Dropout")
def dropout(t: Tape, node: Node, dy: str) -> Grads:
    """Identity at inference; in training the mask that the node drew, which is asked for when it is not there."""
    if not constant_of(t, node, 2, default=False):
        return only(node, dy)
    if not any(node.outputs[1:]):
        node.outputs = (node.outputs[0], t.unique("mask"))
    x, keep = node.inputs[0], 1 - float(constant_of(t, node, 1, default=0.5))
    scaled = t.emit("Div", dy, t.scalar(keep, like=x))
    return only(node, t.emit("Where", node.outputs[1], scaled, t.scalar(0, like=x)))


@vjp("Range")
def range_(t: Tape, node: Node, dy: str) -> Grads:
    """y = start + i · delta; the limit only decides how many there are."""
    start, _, delta = node.inputs
    steps = t.constant(np.arange(t.shape(node.outputs[0])[0]), t.specs[delta].dtype)
    sums = (t.emit("ReduceSum", value, keepdims=0) for value in (dy, t.emit("Mul", dy, steps)))
    dstart, ddelta = (t.reshape(total, *t.shape(x)) for total, x in zip(sums, (start, delta), strict=True))
    return [dstart, None, ddelta]
