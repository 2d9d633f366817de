"""Ops that put elements by index: in the place of others, or reduced with them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, flat_index


@vjp("ScatterElements")
def scatter_elements(t: Tape, node: Node, dy: str) -> Grads:
    x, indices, updates = node.inputs
    axis, rule = node.get("axis", 0), _REDUCTIONS.get(_reduction(node))
    if rule:
        dx, du = rule(_Scatter(t, x, indices, updates, node.outputs[0], dy, axis))
        return [dx, None, du]
    picked = t.emit("GatherElements", dy, indices, axis=axis) if t.needs(updates) else None
    if _reduction(node) == "add":
        return [dy, None, picked]
    return [t.emit("ScatterElements", dy, indices, t.zeros_like(updates), axis=axis), None, picked]


@vjp("ScatterND")
def scatter_nd(t: Tape, node: Node, dy: str) -> Grads:
    x, indices, updates = node.inputs
    if rule := _REDUCTIONS.get(_reduction(node)):
        dx, du = rule(_along_one_axis(t, node, dy))
        return [t.reshape(dx, *t.shape(x)), None, t.reshape(du, *t.shape(updates))]
    picked = t.emit("GatherND", dy, indices) if t.needs(updates) else None
    if _reduction(node) == "add":
        return [dy, None, picked]
    return [t.emit("ScatterND", dy, indices, t.zeros_like(updates)), None, picked]


def _reduction(node: Node) -> str:
    value = node.get("reduction", "none")
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True)
class _Scatter:
    """y = ScatterElements(x, index, updates) with a reduction, and the gradient of y."""

    tape: Tape
    x: str
    index: str
    updates: str
    y: str
    dy: str
    axis: int

    def pick(self, value: str) -> str:
        """Emit the elements where the updates are put."""
        picked = self.tape.emit("GatherElements", value, self.index, axis=self.axis)
        return self.tape.declare(picked, self.tape.shape(self.updates), self.tape.specs[self.x].dtype)

    def put(self, x: str, updates: str, reduction: str) -> str:
        """Emit the same scatter of other values."""
        return self.tape.emit("ScatterElements", x, self.index, updates, axis=self.axis, reduction=reduction)

    def are(self, value: str, others: str) -> str:
        """Emit 1 for each element that equals another one, else 0."""
        return self.tape.cast(self.tape.emit("Equal", value, others), self.tape.specs[self.x].dtype)


def _along_one_axis(t: Tape, node: Node, dy: str) -> _Scatter:
    """Return a ScatterND as a ScatterElements: the runtime's adds into one place from several threads."""
    x, indices, updates = node.inputs
    shape, depth = t.shape(x), t.shape(indices)[-1]
    rows, width = prod(t.shape(indices)[:-1]), prod(shape[depth:])
    index = t.reshape(flat_index(t, indices, shape[:depth], (1, rows, width)), rows, width)
    x, y, dy = (t.reshape(value, prod(shape[:depth]), width) for value in (x, node.outputs[0], dy))
    return _Scatter(t, x, index, t.reshape(updates, rows, width), y, dy, 0)


def _extreme(s: _Scatter) -> tuple[str, str]:
    """Return the gradients of x and of the updates: equal elements share it equally, as in torch's scatter_reduce."""
    emit = s.tape.emit
    chosen, put = s.are(s.x, s.y), s.are(s.updates, s.pick(s.y))
    share = emit("Div", s.dy, s.put(chosen, put, "add"))
    return emit("Mul", share, chosen), emit("Mul", s.pick(share), put)


def _product(s: _Scatter) -> tuple[str, str]:
    """Return dy times the product of the other elements: 0 where another one is 0, else that of all over the element.

    That of all leaves zeros out: these count as ones.
    """
    emit, zero = s.tape.emit, s.tape.scalar(0, like=s.x)
    zeros, zero_updates = s.are(s.x, zero), s.are(s.updates, zero)
    x, updates = emit("Add", s.x, zeros), emit("Add", s.updates, zero_updates)
    product, count = s.put(x, updates, "mul"), s.put(zeros, zero_updates, "add")

    def slope(product: str, element: str, count: str, own: str) -> str:
        others_are_zero = emit("Greater", count, own)
        return emit("Where", others_are_zero, zero, emit("Div", product, element))

    dx = emit("Mul", s.dy, slope(product, x, count, zeros))
    return dx, emit("Mul", s.pick(s.dy), slope(s.pick(product), updates, s.pick(count), zero_updates))


_REDUCTIONS = {"mul": _product, "max": _extreme, "min": _extreme}
