"""GridSample: by way of one gather per corner of the cell that a point lies in. (ONNX operators)"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads


@vjp("GridSample")
def grid_sample(t: Tape, node: Node, dy: str) -> Grads:
    """Linear and nearest, of any number of spatial axes; nearest has no gradient for the grid."""
    if node.get("mode", "linear") not in ("linear", "nearest"):
        raise GradientError(f"GridSample (value {node.outputs[0]}): mode {node.get('mode')} has no gradient rule")
    return t.through(node, dy, lambda: [_sampled(t, node)])


def _sampled(t: Tape, node: Node) -> str:
    x, grid = node.inputs
    batch, channels, *size = t.shape(x)
    places = t.shape(grid)[1:-1]
    count = prod(places)
    flat = t.reshape(x, batch, channels, prod(size))
    axes = len(size)
    points = t.emit_many("Split", t.reshape(grid, batch, count, axes), count=axes, axis=2, num_outputs=axes)
    # the grid names the last axis first
    positions = [_position(t, node, point, n) for point, n in zip(reversed(points), size, strict=True)]
    terms = []
    for corner in _corners(t, node, positions):
        value = _gathered(t, node, flat, [index for index, _ in corner], size, (batch, channels, count))
        for (at, weight), n in zip(corner, size, strict=True):
            value = t.emit("Mul", value, t.reshape(_masked(t, node, at, weight, n), batch, 1, count))
        terms.append(value)
    return t.reshape(t.emit("Sum", *terms), batch, channels, *places)


def _number(t: Tape, node: Node, value: float) -> str:
    return t.scalar(value, like=node.inputs[1])


def _position(t: Tape, node: Node, point: str, size: int) -> str:
    """Return where a point of [-1, 1] lies on an axis, in elements, after padding: [batch, count, 1]."""
    corners = bool(node.get("align_corners", 0))
    scale, shift = ((size - 1) / 2, (size - 1) / 2) if corners else (size / 2, (size - 1) / 2)
    position = t.emit("Add", t.emit("Mul", point, _number(t, node, scale)), _number(t, node, shift))
    padding = node.get("padding_mode", "zeros")
    if padding == "reflection":
        position = _reflected(t, node, position, *((0, size - 1) if corners else (-0.5, size - 0.5)))
    if padding != "zeros":
        position = t.emit("Clip", position, _number(t, node, 0), _number(t, node, size - 1))
    return position


def _reflected(t: Tape, node: Node, position: str, low: float, high: float) -> str:
    """Fold the line at both borders: low + r - |(|p - low| mod 2r) - r| with r = high - low."""
    span = high - low
    if not span:
        return t.emit("Mul", position, _number(t, node, 0))
    away = t.emit("Abs", t.emit("Sub", position, _number(t, node, low)))
    wrapped = t.emit("Mod", away, _number(t, node, 2 * span), fmod=1)
    back = t.emit("Abs", t.emit("Sub", wrapped, _number(t, node, span)))
    return t.emit("Sub", _number(t, node, low + span), back)


def _corners(t: Tape, node: Node, positions: list[str]) -> list[tuple[tuple[str, str], ...]]:
    """Return, per corner of a point's cell, the element and the weight on every axis."""
    one = _number(t, node, 1)
    if node.get("mode", "linear") == "nearest":
        ones = [t.emit("Expand", one, t.emit("Shape", position)) for position in positions]
        return [tuple((t.emit("Round", position), weight) for position, weight in zip(positions, ones, strict=True))]
    axes = []
    for position in positions:
        low = t.emit("Floor", position)
        part = t.emit("Sub", position, low)
        axes.append([(low, t.emit("Sub", one, part)), (t.emit("Add", low, one), part)])
    return list(product(*axes))


def _masked(t: Tape, node: Node, at: str, weight: str, size: int) -> str:
    """Return the weight, 0 where the element lies outside: of zeros padding, and of the last element's neighbour."""
    inside = t.emit("Equal", at, t.emit("Clip", at, _number(t, node, 0), _number(t, node, size - 1)))
    return t.emit("Where", inside, weight, _number(t, node, 0))


def _gathered(t: Tape, node: Node, flat: str, indices: list[str], size: list[int], shape: tuple[int, int, int]) -> str:
    """Return the elements [batch, channels, count] at the indices, which are kept inside."""
    batch, channels, count = shape
    place = ""
    for index, n in zip(indices, size, strict=True):
        kept = t.emit("Clip", index, _number(t, node, 0), _number(t, node, n - 1))
        kept = t.emit("Cast", kept, to=7)
        place = t.emit("Add", t.emit("Mul", place, t.constant(n, np.int64)), kept) if place else kept
    row = t.emit("Expand", t.reshape(place, batch, 1, count), t.ints(batch, channels, count))
    return t.emit("GatherElements", flat, row, axis=2)
