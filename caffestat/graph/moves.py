"""Images in the runtime's blocked layout, moved along their axes and put together from phases.

A phase holds the elements of an image that are a stride apart along an axis. A filter of one tap for each channel takes
them, adds another image and applies an activation, all in one pass on all threads, where Pad, Slice and Split take a
pass each, on one thread: a third to a half of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .blocked import NCHWC, reorder

if TYPE_CHECKING:
    from .graph import Graph

__all__ = ["Move", "back", "elements_of_phase", "join", "laid", "moved", "zeros"]


@dataclass(frozen=True)
class Move:
    """What to take along an axis: so many elements, a stride apart, from one on; zeros outside of the image."""

    size: int
    start: int = 0
    stride: int = 1

    def is_whole(self, size: int) -> bool:
        """Tell whether this takes all of so many elements as they are."""
        return (self.size, self.start, self.stride) == (size, 0, 1)

    def filter_of(self, size: int) -> tuple[int, int, int, int]:
        """Return the length of a filter over so many elements, its tap that counts, and the padding on both sides."""
        begin, tap = max(-self.start, 0), max(self.start, 0)
        length = max(tap + 1, size + begin - self.stride * self.size + 1)
        return length, tap, begin, max(self.stride * (self.size - 1) + length - size - begin, 0)


def elements_of_phase(size: int, stride: int) -> int:
    """Return how many elements each phase of an axis has, the last ones perhaps behind the image."""
    return -(-size // stride)


def laid(g: Graph, image: str) -> str:
    """Emit an image, [batch, channels, height, width], in the blocked layout."""
    return g.declare(reorder(g, image), g.shape(image))


def back(g: Graph, image: str) -> str:
    """Emit a blocked image in the plain layout."""
    shape = g.shape(image)
    return g.declare(g.emit("ReorderOutput", image, domain=NCHWC, channels=shape[1]), shape)


def moved(g: Graph, image: str, moves: Sequence[Move], factor: float = 1, added: str = "", **activation: Any) -> str:
    """Emit a part of a blocked image, times a factor, plus another image that may be given.

    moves: along the rows and along the columns
    """
    batch, channels, *size = g.shape(image)
    if factor == 1 and not added and all(move.is_whole(count) for move, count in zip(moves, size, strict=True)):
        return image
    lengths, taps, begins, ends = zip(*map(Move.filter_of, moves, size), strict=True)
    filters = np.zeros((channels // g.block, *lengths, g.block), np.float32)
    filters[:, taps[0], taps[1]] = factor
    inputs = [image, g.constant(filters.reshape(channels, 1, *lengths)), *(["", added] if added else [])]
    sliding = {"kernel_shape": lengths, "strides": [move.stride for move in moves], "pads": (*begins, *ends)}
    settings: dict[str, Any] = {name: list(values) for name, values in sliding.items()} | activation
    y = g.emit("Conv", *inputs, domain=NCHWC, group=channels, **settings)
    return g.declare(y, (batch, channels, *(move.size for move in moves)))


def join(g: Graph, parts: Sequence[str], axis: int) -> str:
    """Emit the elements of all phases of a blocked image in turn, along its rows (axis 0) or columns (1)."""
    if len(parts) == 1:
        return parts[0]
    shape = list(g.shape(parts[0]))
    outer = prod(shape[: 3 + axis]) // g.block
    inner = prod(shape[3 + axis :]) * g.block
    rows = [g.reshape(part, outer, inner) for part in parts]
    joined = g.declare(g.emit("Concat", *rows, axis=1), (outer, len(parts) * inner))
    shape[2 + axis] *= len(parts)
    return g.reshape(joined, *shape)


def zeros(g: Graph, *shape: int) -> str:
    """Emit an image of zeros."""
    return g.declare(g.emit("Expand", g.constant(0), g.ints(*shape)), shape)
