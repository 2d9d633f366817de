"""Images read between their elements, at points that are values of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from caffestat.lazy import np

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["EDGE", "ZERO", "emit_inside", "emit_picked", "emit_sampled"]

EDGE, ZERO = "edge", "zero"
"""What stands outside of an image: its nearest element, or 0."""


def emit_sampled(g: Graph, image: str, y: str, x: str, outside: str = ZERO) -> str:
    """Emit the bilinear interpolation [N, C, H', W'] of images [N, C, H, W] at points y, x [N, H', W'], in elements.

    Gradients go to the images and to the points: at a whole number, the slope towards the next element.
    """
    (n, channels, height, width), places = g.shape(image), g.shape(y)[1:]
    rows, total = _rows(g, image), None
    for line, down in _neighbours(g, y, height, outside):
        for column, across in _neighbours(g, x, width, outside):
            picked = g.emit("Gather", rows, _index(g, line, column, (n, height, width)), axis=0)
            weight = g.emit("Unsqueeze", g.emit("Mul", down, across), g.ints(-1))
            part = g.emit("Mul", picked, weight)
            total = part if total is None else g.emit("Add", total, part)
    assert total is not None
    g.declare(total, (n, *places, channels))
    return g.declare(g.transpose(total, 0, 3, 1, 2), (n, channels, *places))


def _rows(g: Graph, image: str) -> str:
    """Emit images as [N · H · W, C]."""
    n, channels, height, width = g.shape(image)
    return g.reshape(g.declare(g.transpose(image, 0, 2, 3, 1), (n, height, width, channels)), -1, channels)


def _neighbours(g: Graph, place: str, size: int, outside: str) -> Iterator[tuple[str, str]]:
    """Yield index and weight of the two elements around each place on an axis."""
    low = g.emit("Floor", g.detach(place))
    ahead, first = g.emit("Sub", place, low), g.cast(low, np.int64)
    for index, weight in (
        (first, g.emit("Sub", g.constant(1), ahead)),
        (g.emit("Add", first, g.constant(1, np.int64)), ahead),
    ):
        within = _cut(g, index, size)
        if outside == ZERO:
            weight = g.emit("Mul", weight, g.cast(g.emit("Equal", index, within), np.float32))
        yield within, weight


def _cut(g: Graph, index: str, size: int) -> str:
    return g.emit("Clip", index, g.constant(0, np.int64), g.constant(size - 1, np.int64))


def _index(g: Graph, line: str, column: str, size: tuple[int, int, int]) -> str:
    """Emit where elements of items stand in rows: (item · height + line) · width + column."""
    n, height, width = size
    first = g.constant((np.arange(n) * height).reshape(-1, 1, 1), np.int64)
    of_item = g.emit("Add", first, line)
    return g.emit("Add", g.emit("Mul", of_item, g.constant(width, np.int64)), column)


def emit_picked(g: Graph, image: str, line: str, column: str) -> str:
    """Emit the elements [N, H', W', C] of images at int64 lines and columns [N, H', W'], cut to the image."""
    n, _, height, width = g.shape(image)
    index = _index(g, _cut(g, line, height), _cut(g, column, width), (n, height, width))
    return g.emit("Gather", _rows(g, image), index, axis=0)


def emit_inside(g: Graph, place: str, high: float, is_open: bool) -> str:
    """Emit whether 0 ≤ place ≤ high; is_open: place < high."""
    below = g.emit("Less" if is_open else "LessOrEqual", place, g.constant(high))
    return g.emit("And", g.emit("GreaterOrEqual", place, g.constant(0)), below)
