"""GridSample: by way of one gather per element that a point lies between. AffineGrid. (ONNX operators)"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, cubic_convolution, only

_CUBIC = -0.75


@vjp("AffineGrid")
def affine_grid(t: Tape, node: Node, dy: str) -> Grads:
    """theta maps the points of an even grid: its gradient is a product with these."""
    batch, *size, axes = t.shape(node.outputs[0])
    points = _even_grid(size, bool(node.get("align_corners", 0)))
    turned = t.transpose(t.reshape(dy, batch, prod(size), axes), 0, 2, 1)
    return only(node, t.emit("MatMul", turned, t.constant(points, t.specs[dy].dtype)))


def _even_grid(size: Sequence[int], corners: bool) -> np.ndarray:
    """Return the points of [-1, 1] that the elements of an image lie at, the last axis first, then 1: [count, axes]."""
    lines = [np.linspace(1, -1, n)[::-1] if corners else (2 * np.arange(n) + 1) / n - 1 for n in size]
    axes = np.meshgrid(*lines, indexing="ij")
    return np.stack([*(axis.ravel() for axis in reversed(axes)), np.ones(prod(size))], axis=1)


@vjp("GridSample")
def grid_sample(t: Tape, node: Node, dy: str) -> Grads:
    """Nearest, linear and cubic, of any number of spatial axes; nearest has no gradient for the grid."""
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
    for corner in _corners(t, node, positions, size):
        value = _gathered(t, node, flat, [index for index, _ in corner], size, (batch, channels, count))
        for (at, weight), n in zip(corner, size, strict=True):
            value = t.emit("Mul", value, t.reshape(_masked(t, node, at, weight, n), batch, 1, count))
        terms.append(value)
    return t.reshape(t.emit("Sum", *terms), batch, channels, *places)


def _number(t: Tape, node: Node, value: float) -> str:
    return t.scalar(value, like=node.inputs[1])


def _position(t: Tape, node: Node, point: str, size: int) -> str:
    """Return where a point of [-1, 1] lies on an axis, in elements: [batch, count, 1].

    Points are padded, but in the cubic mode, where the elements that they lie between are.
    """
    scale = (size - 1) / 2 if node.get("align_corners", 0) else size / 2
    position = t.emit("Add", t.emit("Mul", point, _number(t, node, scale)), _number(t, node, (size - 1) / 2))
    return position if _is_cubic(node) else _padded(t, node, position, size)


def _is_cubic(node: Node) -> bool:
    return bool(node.get("mode", "linear") == "cubic")


def _padded(t: Tape, node: Node, position: str, size: int) -> str:
    """Return a position inside the axis, but where zeros lie around it."""
    corners = bool(node.get("align_corners", 0))
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


def _corners(t: Tape, node: Node, positions: list[str], size: Sequence[int]) -> list[tuple[tuple[str, str], ...]]:
    """Return, per element that a point lies between, its place and its weight on every axis."""
    if node.get("mode", "linear") == "nearest":
        one = _number(t, node, 1)
        ones = [t.emit("Expand", one, t.emit("Shape", position)) for position in positions]
        return [tuple((t.emit("Round", position), weight) for position, weight in zip(positions, ones, strict=True))]
    axes = [_neighbours(t, node, position, n) for position, n in zip(positions, size, strict=True)]
    return list(product(*axes))


def _neighbours(t: Tape, node: Node, position: str, size: int) -> list[tuple[str, str]]:
    """Return the elements of an axis that a position lies between, and their weights."""
    low, one = t.emit("Floor", position), _number(t, node, 1)
    part = t.emit("Sub", position, low)
    rest = t.emit("Sub", one, part)
    if not _is_cubic(node):
        return [(low, rest), (t.emit("Add", low, one), part)]
    near, far = cubic_convolution(_CUBIC)
    away = [(far, t.emit("Add", part, one)), (near, part), (near, rest), (far, t.emit("Add", rest, one))]
    places = (t.emit("Add", low, _number(t, node, tap)) for tap in range(-1, 3))
    return [
        (_padded(t, node, place, size), _polynomial(t, node, factors, distance))
        for place, (factors, distance) in zip(places, away, strict=True)
    ]


def _polynomial(t: Tape, node: Node, factors: Sequence[float], x: str) -> str:
    """Return the value of a polynomial, whose highest power comes first, by Horner's rule."""
    first, *others = (_number(t, node, factor) for factor in factors)
    for factor in others:
        first = t.emit("Add", t.emit("Mul", first, x), factor)
    return first


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
