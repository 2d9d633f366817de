"""Ops newer than opset 22 that ONNX does not define as functions, expressed in ops of opset 22."""

from __future__ import annotations

import numpy as np

from .graph import Node
from .upgrade import AdapterContext
from .writer import Writer, definition


def _knows_shapes(context: AdapterContext, node: Node) -> bool:
    return all(context.spec(name) is not None for name in node.inputs if name)


@definition("TensorScatter", fits=_knows_shapes, domain="")
def _tensor_scatter(w: Writer, node: Node, y: str) -> None:
    """y = the cache with the update from each sample's place on, along an axis; with `circular` it wraps around."""
    cache, update = w.shape(0), w.shape(1)
    axis, batch = node.get("axis", -2) % len(cache), cache[0]
    ahead = (1,) * (axis - 1)
    behind = (1,) * (len(cache) - axis - 1)
    steps = w.context.constant(np.arange(update[axis]).reshape(1, *ahead, -1, *behind), np.int64)
    if w.input(2):
        steps = w.emit("Add", w.reshape(w.input(2), batch, *ahead, 1, *behind), steps)
    if node.get("mode", "linear") == "circular":
        steps = w.emit("Mod", steps, w.context.constant(cache[axis], np.int64))
    w.emit("ScatterElements", w.input(0), w.emit("Expand", steps, w.ints(*update)), w.input(1), to=y, axis=axis)


def _knows_axis(context: AdapterContext, node: Node) -> bool:
    return _knows_shapes(context, node) and context.known(node.inputs[1]) is not None


@definition("CumProd", fits=_knows_axis, domain="")
def _cumulative_product(w: Writer, node: Node, y: str) -> None:
    """y = products of more and more elements along an axis: of 2, 4, 8, … neighbours in as many steps."""
    x, shape = w.input(0), w.shape(0)
    axis = int(np.asarray(w.context.known(w.input(1))).item()) % len(shape)
    is_reverse = bool(node.get("reverse", 0))
    if node.get("exclusive", 0):
        x = _moved(w, x, shape, axis, 1, is_reverse)
    step = 1
    while step < shape[axis]:
        x = w.emit("Mul", x, _moved(w, x, shape, axis, step, is_reverse))
        step *= 2
    w.emit("Identity", x, to=y)


def _moved(w: Writer, x: str, shape: tuple[int, ...], axis: int, step: int, is_reverse: bool) -> str:
    """Emit x moved along an axis by some places, ones in front; towards the front where it is reversed."""
    pads = [0] * (2 * len(shape))
    pads[axis + is_reverse * len(shape)] = step
    pads[axis + (not is_reverse) * len(shape)] = -step
    return w.emit("Pad", x, w.ints(*pads), w.number(1.0))
