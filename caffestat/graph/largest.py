"""Where the largest element of each window of an image is: of equal elements the first in scan order, as in Caffe."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from caffestat.ops import Window

    from .graph import Graph

__all__ = ["first_largest", "pad_with_least"]


def first_largest(g: Graph, x: str, win: Window) -> str:
    """Emit the flat index in x of each window's first largest element: int [N, C, out…].

    One axis after the other, the innermost first, so that among equals the first row wins before the first column. On
    the way, which tap it is on each axis is a uint8: the runtime chooses between these in an eighth of the time.
    """
    shape = g.shape(x)
    best, taps = pad_with_least(g, x, win), dict[int, str]()
    for axis in reversed(range(len(win.size))):
        best, taps = _larger(g, best, taps, win, axis)
    dtype = np.int32 if prod(shape) < 2**31 else np.int64
    planes = np.arange(prod(shape[:2])) * prod(win.size)
    index = g.constant(planes.reshape(*shape[:2], *[1] * len(win.size)), dtype)
    for axis in range(len(win.size)):
        index = g.emit("Add", _offset(g, taps.get(axis), win, axis, dtype), index)
    return index


def _offset(g: Graph, tap: str | None, win: Window, axis: int, dtype: Any) -> str:
    """Emit what the tap of each place adds to its flat index, along an axis; padding wins only where all is NaN."""
    corners = win.taps_along(axis)[:, 0]
    along = corners.reshape([-1 if i == axis else 1 for i in range(len(win.size))])[None, None]
    place = g.constant(along, dtype)
    if tap is not None:
        steps = _times(g, g.cast(tap, dtype), win.dilations[axis], dtype)
        place = g.emit("Add", steps, place)
    if win.begins[axis]:
        place = g.emit("Clip", place, g.constant(0, dtype), g.constant(win.size[axis] - 1, dtype))
    return _times(g, place, prod(win.size[axis + 1 :]), dtype)


def _times(g: Graph, value: str, factor: int, dtype: Any) -> str:
    return value if factor == 1 else g.emit("Mul", value, g.constant(factor, dtype))


def pad_with_least(g: Graph, x: str, win: Window) -> str:
    """Emit an image with the padding of its windows, which no element is less than."""
    if not any(win.begins + win.ends):
        return x
    pads = g.ints(0, 0, *win.begins, 0, 0, *win.ends)
    return g.emit("Pad", x, pads, g.constant(-np.inf, g.specs[x].dtype))


def _larger(g: Graph, values: str, taps: dict[int, str], win: Window, axis: int) -> tuple[str, dict[int, str]]:
    """Pool along one axis: the largest of each window's elements, and by axis the tap of the first that has it."""
    at = range(0, win.spans[axis], win.dilations[axis])
    reach, stride = (win.out[axis] - 1) * win.strides[axis] + 1, win.strides[axis]
    slices = [[g.ints(start), g.ints(start + reach), g.ints(2 + axis), g.ints(stride)] for start in at]
    best, chosen = g.emit("Slice", values, *slices[0]), {i: g.emit("Slice", taps[i], *slices[0]) for i in taps}
    dtype = np.uint8 if win.kernel[axis] <= 256 else np.int32
    if win.kernel[axis] > 1:
        chosen[axis] = g.constant(0, dtype)
    for number, place in enumerate(slices[1:], 1):
        tap = g.emit("Slice", values, *place)
        better = g.emit("Greater", tap, best)
        best = g.emit("Max", best, tap)
        others = {i: g.emit("Slice", taps[i], *place) for i in taps} | {axis: g.constant(number, dtype)}
        chosen = {i: g.emit("Where", better, others[i], chosen[i]) for i in chosen}
    return best, chosen
