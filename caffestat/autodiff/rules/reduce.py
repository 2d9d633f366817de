"""Reductions over axes, and running sums."""

from __future__ import annotations

import math
from typing import Any

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, axes_of, divided, keep_axes, only

# no axes mean none here; "all" is spelled out
_KEEP: dict[str, Any] = {"keepdims": 1, "noop_with_empty_axes": 1}


def _kept(t: Tape, node: Node, value: str) -> str:
    """Give a reduced value its axes back, so that it broadcasts against the input."""
    return keep_axes(t, value, node.inputs[0], axes_of(t, node))


def _like_input(t: Tape, node: Node, value: str) -> str:
    return t.emit("Expand", value, t.ints(*t.shape(node.inputs[0])))


@vjp("ReduceSum")
def reduce_sum(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, _like_input(t, node, _kept(t, node, dy)))


@vjp("ReduceMean")
def reduce_mean(t: Tape, node: Node, dy: str) -> Grads:
    shape = t.shape(node.inputs[0])
    count = math.prod(shape[axis] for axis in axes_of(t, node))
    share = divided(t, _kept(t, node, dy), count, like=node.outputs[0])
    return only(node, _like_input(t, node, share))


@vjp("ReduceMax", "ReduceMin")
def reduce_extreme(t: Tape, node: Node, dy: str) -> Grads:
    """Equal elements share the gradient equally, as in torch.amax."""
    x, y = node.inputs[0], _kept(t, node, node.outputs[0])
    chosen = t.cast(t.emit("Equal", x, y), t.specs[x].dtype)
    count = t.emit("ReduceSum", chosen, t.ints(*axes_of(t, node)), **_KEEP)
    return only(node, t.emit("Mul", t.emit("Div", _kept(t, node, dy), count), chosen))


@vjp("ReduceProd")
def reduce_prod(t: Tape, node: Node, dy: str) -> Grads:
    """The product of the other elements: 0 where another one is 0, else that of all non-zero ones over the element."""
    x, axes = node.inputs[0], t.ints(*axes_of(t, node))
    zero, one = t.scalar(0, like=x), t.scalar(1, like=x)
    is_zero = t.emit("Equal", x, zero)
    ones = t.cast(is_zero, t.specs[x].dtype)
    other_zeros = t.emit("Sub", t.emit("ReduceSum", ones, axes, **_KEEP), ones)
    safe = t.emit("Where", is_zero, one, x)
    others = t.emit("Div", t.emit("ReduceProd", safe, axes, **_KEEP), safe)
    slope = t.emit("Where", t.emit("Greater", other_zeros, zero), zero, others)
    return only(node, t.emit("Mul", _kept(t, node, dy), slope))


@vjp("ReduceL1")
def reduce_l1(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, t.emit("Mul", _kept(t, node, dy), t.emit("Sign", node.inputs[0])))


@vjp("ReduceL2")
def reduce_l2(t: Tape, node: Node, dy: str) -> Grads:
    """x/‖x‖, and 0 where the norm is 0, as in torch.linalg.vector_norm."""
    x, y = node.inputs[0], _kept(t, node, node.outputs[0])
    zero = t.scalar(0, like=x)
    scaled = t.emit("Where", t.emit("Equal", y, zero), zero, t.emit("Div", _kept(t, node, dy), y))
    return only(node, t.emit("Mul", scaled, x))


@vjp("ReduceSumSquare")
def reduce_sum_square(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    return only(node, t.emit("Mul", t.emit("Mul", _kept(t, node, dy), t.scalar(2, like=x)), x))


@vjp("ReduceLogSum")
def reduce_log_sum(t: Tape, node: Node, dy: str) -> Grads:
    share = t.emit("Div", dy, t.emit("Exp", node.outputs[0]))
    return only(node, _like_input(t, node, _kept(t, node, share)))


@vjp("ReduceLogSumExp")
def reduce_log_sum_exp(t: Tape, node: Node, dy: str) -> Grads:
    softmax = t.emit("Exp", t.emit("Sub", node.inputs[0], _kept(t, node, node.outputs[0])))
    return only(node, t.emit("Mul", _kept(t, node, dy), softmax))


@vjp("CumSum")
def cum_sum(t: Tape, node: Node, dy: str) -> Grads:
    exclusive, reverse = node.get("exclusive", 0), node.get("reverse", 0)
    return only(node, t.emit("CumSum", dy, node.inputs[1], exclusive=exclusive, reverse=1 - reverse))
