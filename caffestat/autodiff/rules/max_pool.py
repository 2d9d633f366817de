"""The gradient of MAX pooling, of any number of spatial axes: each dy goes to the first largest element of its window.

As in Caffe, that is the first in scan order. Both forms find it one axis after the other, the innermost first, so that
among equals the first row wins before the first column. The image is [N, C, size…], the pooled one [N, C, out…].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from caffestat.graph import Graph, Node, blocked, late
from caffestat.ops import Window

from ..engine import Tape, vjp
from ..sparse import scatter_add
from .common import Grads, window_of

Ints = tuple[int, ...]


@vjp("MaxPool")
def max_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """The runtime's own Indices take 1.2 to 2 times as long, and on CUDA they break ties by another order."""
    x = node.inputs[0]
    return [tape.emit_late("MaxPoolImage", x, dy, shape=tape.shape(x), like=x, window=window_of(tape, node))]


@late("MaxPoolImage")
def max_pool_image(g: Graph, node: Node, provider: str) -> list[str]:
    """dx from x and dy: by masks, which takes 0.2 to 0.4 of the time of indices, in the runtime's blocked layout."""
    x, dy = node.inputs
    is_fast = _is_blocked(g, x, node.attributes["window"]) and not g.is_strict
    form = _by_masks if is_fast else _by_indices
    return [form(g, x, dy, node.attributes["window"])]


# ---- by masks ----


def _is_blocked(g: Graph, x: str, win: Window) -> bool:
    """Tell whether the image has a blocked form, and the runtime pools it there."""
    is_plain = g.block > 0 and len(win.size) == 2 and set(win.dilations) == {1}
    fits = is_plain and blocked.fits_images(g, x, prod(g.shape(x)[:2]))
    return fits and all(max(ends) < k for *ends, k in zip(win.begins, win.ends, win.kernel, strict=True))


def _by_masks(g: Graph, x: str, dy: str, win: Window) -> str:
    """Split dy among the rows, then what each row got among the columns: the first that equals the largest takes it."""
    from caffestat.graph.bodies import over_slices, slices_that_fit

    lanes, block = prod(g.shape(x)[:2]) // g.block, g.block
    slices = slices_that_fit(lanes, prod(win.size) // win.strides[1] * block)  # most ops see one phase of the columns
    channels = lanes // slices * block
    image, grads = g.reshape(x, slices, 1, channels, *win.size), g.reshape(dy, slices, 1, channels, *win.out)
    dx = over_slices(g, [image, grads], lambda inner, *one: _share_image(inner, win, *one), "pool")
    return g.reshape(dx, *g.shape(x))


def _share_image(g: Graph, win: Window, x: str, dy: str) -> str:
    """Emit dx of [1, C, height, width], C a multiple of the block.

    Behind the last window of an axis of more than one phase there may be further ones, which no gradient reaches: so
    that each phase has as many elements as there are windows.
    """
    image = _covered(g, win, _reordered(g, x))
    counts = _counts(win)
    places = [max(out, count) if s > 1 else out for out, count, s in zip(win.out, counts, win.strides, strict=True)]
    whole = [count * s for count, s in zip(counts, win.strides, strict=True)]
    by_row = _pool(g, image, win, 1, places[1])
    largest = _pool(g, by_row, win, 0, places[0])
    grads = _moved(g, _reordered(g, dy), _Move(places[0]), _Move(places[1]))
    grads = _share(g, win, 0, by_row, _Move(places[1]), largest, grads)
    rows = _Move(whole[0], win.begins[0])
    grads = _share(g, win, 1, image, rows, _moved(g, by_row, rows, _Move(places[1])), grads)
    dx = _moved(g, grads, _Move(win.size[0]), _Move(win.size[1]))
    return g.declare(g.emit("ReorderOutput", dx, domain=blocked.NCHWC, channels=g.shape(x)[1]), g.shape(x))


def _counts(win: Window) -> list[int]:
    """Return how many elements a phase has along each axis: those a stride apart."""
    return [-(-size // stride) for size, stride in zip(win.size, win.strides, strict=True)]


def _reordered(g: Graph, image: str) -> str:
    return g.declare(blocked.reorder(g, image), g.shape(image))


def _covered(g: Graph, win: Window, image: str) -> str:
    """Emit a blocked image with the padding in front, and that behind it but for what only the last taps see.

    Of the lowest number, which never is the largest: where the layout pads by itself, it takes zeros.
    """
    ends = [max(end - 1, 0) for end in win.ends]
    if not any((*win.begins, *ends)):
        return image
    channels, height, width = g.shape(image)[1:]
    pads = g.ints(0, win.begins[0], win.begins[1] * g.block, 0, ends[0], ends[1] * g.block)
    rows = g.reshape(image, channels // g.block, height, width * g.block)
    height, width = height + win.begins[0] + ends[0], width + win.begins[1] + ends[1]
    padded = g.emit("Pad", rows, pads, g.constant(np.finfo(np.float32).min))
    return g.reshape(g.declare(padded, (channels // g.block, height, width * g.block)), 1, channels, height, width)


def _pool(g: Graph, image: str, win: Window, axis: int, places: int) -> str:
    """Emit the largest of so many windows along one axis of a blocked image."""
    shape = list(g.shape(image))
    end = max((places - 1) * win.strides[axis] + win.kernel[axis] - shape[2 + axis], 0)
    shape[2 + axis] = places

    def along(value: int, other: int) -> list[int]:
        return [value if i == axis else other for i in range(2)]

    sliding = {"kernel_shape": along(win.kernel[axis], 1), "strides": along(win.strides[axis], 1)}
    pooled = g.emit("MaxPool", image, domain=blocked.NCHWC, pads=[0, 0, *along(end, 0)], **sliding)
    return g.declare(pooled, shape)


@dataclass(frozen=True)
class _Move:
    """What to take along an axis: so many elements, a stride apart, from one on; zeros outside of the image."""

    size: int
    start: int = 0
    stride: int = 1

    def is_whole(self, size: int) -> bool:
        return (self.size, self.start, self.stride) == (size, 0, 1)

    def taps(self, size: int) -> tuple[int, int, int, int]:
        """Return the length of a filter that takes it from so many elements, its tap that counts, and the padding."""
        begin, tap = max(-self.start, 0), max(self.start, 0)
        length = max(tap + 1, size + begin - self.stride * self.size + 1)
        return length, tap, begin, max(self.stride * (self.size - 1) + length - size - begin, 0)


def _moved(g: Graph, image: str, rows: _Move, columns: _Move, factor: float = 1, *added: str, **activation: Any) -> str:
    """Emit a part of a blocked image, times a factor, plus another one: by a filter of one tap for each channel."""
    channels, *size = g.shape(image)[1:]
    if factor == 1 and not added and rows.is_whole(size[0]) and columns.is_whole(size[1]):
        return image
    lengths, taps, begins, ends = zip(rows.taps(size[0]), columns.taps(size[1]), strict=True)
    filters = np.zeros((channels // g.block, *lengths, g.block), np.float32)
    filters[:, taps[0], taps[1]] = factor
    weights = g.constant(filters.reshape(channels, 1, *lengths))
    sliding: dict[str, Any] = {"kernel_shape": list(lengths), "strides": [rows.stride, columns.stride]}
    sliding |= {"pads": [*begins, *ends], "group": channels}
    bias = [""] if added else []
    y = g.emit("Conv", image, weights, *bias, *added, domain=blocked.NCHWC, **sliding, **activation)
    return g.declare(y, (1, channels, rows.size, columns.size))


def _share(g: Graph, win: Window, axis: int, seen: str, other: _Move, largest: str, grads: str) -> str:
    """Emit the gradient of what is seen, pooled along an axis, of the other one what the move takes.

    The taps take in turn: the first that is equal to the largest takes all, the last one what no other took.
    """
    stride, places = win.strides[axis], g.shape(largest)[2 + axis]
    shared: list[list[tuple[str, int]]] = [[] for _ in range(stride)]
    for tap in range(win.kernel[axis]):
        taken = grads
        if tap < win.kernel[axis] - 1:
            along = _Move(places, tap, stride)
            seen_by = (along, other) if axis == 0 else (other, along)
            grads = g.declare(g.emit("Mul", taken, _is_less(g, seen, seen_by, largest)), g.shape(largest))
            taken = g.declare(g.emit("Sub", taken, grads), g.shape(largest))
        start, phase = divmod(tap - win.begins[axis], stride)
        shared[phase].append((taken, -start))
    count = _counts(win)[axis]
    return _join(g, [_sum(g, parts, axis, count, g.shape(largest)) for parts in shared], axis)


def _is_less(g: Graph, seen: str, move: Sequence[_Move], largest: str) -> str:
    """Emit 1 where what is seen is less than the largest, else 0: the difference, times more than any is small."""
    steep = float(np.finfo(np.float32).max)
    return _moved(g, seen, *move, -1, largest, activation="HardSigmoid", activation_params=[steep, 0.0])


def _sum(g: Graph, parts: list[tuple[str, int]], axis: int, count: int, shape: Ints) -> str:
    """Emit the sum of the parts, each from its start on: so many elements along the axis."""
    sizes = [count if i == axis else size for i, size in enumerate(shape[2:])]
    if not parts:
        return g.declare(g.emit("Expand", g.constant(0), g.ints(*shape[:2], *sizes)), (*shape[:2], *sizes))
    total: list[str] = []
    for part, start in sorted(parts, key=lambda item: item[1] != 0):
        moves = [_Move(size, start if i == axis else 0) for i, size in enumerate(sizes)]
        total = [_moved(g, part, moves[0], moves[1], 1, *total)]
    return total[0]


def _join(g: Graph, phases: list[str], axis: int) -> str:
    """Emit the elements of the phases in turn along an axis."""
    if len(phases) == 1:
        return phases[0]
    shape = list(g.shape(phases[0]))
    outer = shape[1] // g.block * prod(shape[2 : 3 + axis])
    inner = prod(shape[3 + axis :]) * g.block
    rows = [g.reshape(phase, outer, inner) for phase in phases]
    joined = g.declare(g.emit("Concat", *rows, axis=1), (outer, len(phases) * inner))
    shape[2 + axis] *= len(phases)
    return g.reshape(joined, *shape)


# ---- by indices ----


def _by_indices(g: Graph, x: str, dy: str, win: Window) -> str:
    """Emit the flat index of each window's element, and add dy there.

    0.5 of torch's time on 3x3 stride 1 and 0.7 on 3x3 stride 2.
    """
    return _scatter(g, dy, _first_largest(g, x, win), x)


def _scatter(g: Graph, dy: str, indices: str, x: str) -> str:
    """Add each dy to the element of the flat image that its index names."""
    shape: Ints = g.shape(x)
    zeros = g.emit("Expand", g.constant(0, g.specs[x].dtype), g.ints(prod(shape)))
    flat = g.reshape(indices, -1), g.reshape(dy, -1)
    return g.reshape(scatter_add(g, zeros, *flat, axis=0, dtype=g.specs[x].dtype), *shape)


def _first_largest(g: Graph, x: str, win: Window) -> str:
    """Emit the flat index in x of each window's first largest element: int [N, C, out…].

    One axis after the other, the innermost first, so that among equals the first row wins before the first column. On
    the way, which tap it is on each axis is a uint8: the runtime chooses between these in an eighth of the time.
    """
    shape: Ints = g.shape(x)
    best, taps = _pad_image(g, x, win), dict[int, str]()
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


def _pad_image(g: Graph, x: str, win: Window) -> str:
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
