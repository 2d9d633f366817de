"""Gradients of pooling, of any number of spatial axes.

The window's arithmetic is `Window`; the image is [N, C, size…], the pooled one [N, C, out…].
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from ..windows import Window, window
from .common import Grads

Ints = tuple[int, ...]


def _window(tape: Tape, node: Node) -> Window:
    x_shape, y_shape = tape.shape(node.inputs[0]), tape.shape(node.outputs[0])
    return window(node, x_shape[2:], y_shape[2:], node.attributes["kernel_shape"])


# ---- the largest ------------------------------------------------------------------------------------------------------


@vjp("MaxPool")
def max_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """Each dy goes to the first largest element of its window, in scan order, as in Caffe.

    The runtime's own Indices tell which that is. Where windows tile the image MaxUnpool places them (0.22 of torch's time, with the
    forward pass; 0.38 by scattering), else ScatterElements adds them up (0.93 to 1.05).
    """
    x, win = node.inputs[0], _window(tape, node)
    indices = _indices(tape, node)
    if win.tiles:
        attributes: dict[str, Any] = {"kernel_shape": list(win.kernel), "strides": list(win.strides)}
        return [tape.emit("MaxUnpool", dy, indices, tape.ints(*tape.shape(x)), **attributes)]
    return [_scatter(tape, dy, indices, x)]


def _indices(tape: Tape, node: Node) -> str:
    """Return the node's second output, the flat index of each maximum; the node gets one when it has none."""
    if node.get("storage_order", 0):
        raise GradientError(f"MaxPool (value {node.outputs[0]}): column-major indices (storage_order=1) have no gradient rule")
    if len(node.outputs) == 1:
        node.outputs = (node.outputs[0], tape.unique("indices"))
    return node.outputs[1]


def _scatter(tape: Tape, dy: str, indices: str, x: str) -> str:
    """Add each dy to the element of the flat image that its index names."""
    shape: Ints = tape.shape(x)
    zeros = tape.emit("Expand", tape.scalar(0, like=x), tape.ints(prod(shape)))
    flat = tape.reshape(indices, -1), tape.reshape(dy, -1)
    return tape.reshape(tape.emit("ScatterElements", zeros, *flat, axis=0, reduction="add"), *shape)


@vjp("MaxPool", provider="cuda")
def max_pool_by_masks(tape: Tape, node: Node, dy: str) -> Grads:
    """As above without Indices, whose kernel on CUDA breaks ties by another order: per tap, a mask of the places it won.

    A tap wins a place when it equals the maximum and no tap before it did.
    """
    x, y, win = node.inputs[0], node.outputs[0], _window(tape, node)
    lowest = float(np.finfo(tape.specs[x].dtype).min)
    padded, zero = _pad_image(tape, x, win, lowest), tape.scalar(0, like=x)
    free, parts = "", []
    for offset in win.offsets():
        equal = tape.emit("Equal", _tap(tape, padded, win, offset), y)
        won = tape.emit("And", equal, free) if free else equal
        lost = tape.emit("Not", equal)
        free = tape.emit("And", free, lost) if free else lost
        parts.append(_spread(tape, tape.emit("Where", won, dy, zero), win, offset, tape.shape(x)))
    return [_unpad_image(tape, tape.emit("Sum", *parts), win)]


def _pad_image(tape: Tape, x: str, win: Window, value: float) -> str:
    if not any(win.begins + win.ends):
        return x
    pads = tape.ints(0, 0, *win.begins, 0, 0, *win.ends)
    return tape.emit("Pad", x, pads, tape.scalar(value, like=x))


def _unpad_image(tape: Tape, image: str, win: Window) -> str:
    if win.padded == win.size:
        return image
    return _slice(tape, image, win.begins, [b + size for b, size in zip(win.begins, win.size, strict=True)])


def _slice(tape: Tape, image: str, starts: Sequence[int], ends: Sequence[int], *steps: int) -> str:
    axes = tape.ints(*range(2, 2 + len(starts)))
    return tape.emit("Slice", image, tape.ints(*starts), tape.ints(*ends), axes, *([tape.ints(*steps)] if steps else []))


def _tap(tape: Tape, padded: str, win: Window, offset: Ints) -> str:
    """Emit what one tap sees at every place: [N, C, out…]."""
    ends = [at + (o - 1) * s + 1 for at, o, s in zip(offset, win.out, win.strides, strict=True)]
    return _slice(tape, padded, offset, ends, *win.strides)


def _spread(tape: Tape, seen: str, win: Window, offset: Ints, x_shape: Ints) -> str:
    """Undo `_tap`: put what the tap saw at each place back into zeros of the padded image's size."""
    outer, rank = x_shape[:2], len(win.out)
    stretched = [o * s for o, s in zip(win.out, win.strides, strict=True)]
    if max(win.strides) > 1:
        single = [n for size in win.out for n in (size, 1)]
        gaps = [n for stride in win.strides for n in (0, stride - 1)]
        seen = tape.emit("Pad", tape.reshape(seen, *outer, *single), tape.ints(*[0] * (4 + 2 * rank), *gaps))
        seen = tape.reshape(seen, *outer, *stretched)
    ends = [min(size, padded - at) for size, padded, at in zip(stretched, win.padded, offset, strict=True)]
    seen = _slice(tape, seen, [0] * rank, ends)
    after = [padded - at - end for padded, at, end in zip(win.padded, offset, ends, strict=True)]
    return tape.emit("Pad", seen, tape.ints(0, 0, *offset, 0, 0, *after))


@vjp("GlobalMaxPool")
def global_max_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """dy goes to the first largest element of its channel."""
    (x,) = node.inputs
    n, channels, *size = shape = tape.shape(x)
    where = tape.emit("ArgMax", tape.reshape(x, n, channels, prod(size)), axis=2, keepdims=1)
    chosen = tape.emit("Equal", where, tape.constant(np.arange(prod(size)), np.int64))
    spread = tape.emit("Where", chosen, tape.reshape(dy, n, channels, 1), tape.scalar(0, like=x))
    return [tape.reshape(spread, *shape)]


# ---- the mean ---------------------------------------------------------------------------------------------------------


@vjp("GlobalAveragePool")
def global_average_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """dx = dy / places, everywhere."""
    (x,) = node.inputs
    shape: Ints = tape.shape(x)
    share = tape.emit("Mul", dy, tape.scalar(1 / prod(shape[2:]), like=x))
    return [tape.emit("Expand", share, tape.ints(*shape))]


@vjp("AveragePool")
def average_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """Each element gets the sum of dy / divisor over the windows it lies in.

    One place: Expand. Windows that tile the image: nearest-neighbour Resize. Stride 1: AveragePool again. Everything else, and every
    case on CUDA but the first: a product with a small band matrix per axis. 0.08 to 0.22 of torch's time.
    """
    x, win = node.inputs[0], _window(tape, node)
    counts = _counts(node, win)
    shares = [1 / count for count in counts]
    if win.kernel == win.size and win.places == 1:
        share = tape.scalar(prod(float(share[0]) for share in shares), like=x)
        return [tape.emit("Expand", tape.emit("Mul", dy, share), tape.ints(*tape.shape(x)))]
    if tape.provider != "cuda" and win.tiles:
        return [_enlarge(tape, tape.emit("Mul", dy, tape.scalar(1 / win.taps, like=x)), win)]
    if tape.provider != "cuda" and len(win.size) == 2 and _reflects(win):
        return [_pool_again(tape, dy, x, win, shares)]
    return [_bands(tape, dy, x, win, shares)]


def _counts(node: Node, win: Window) -> list[np.ndarray]:
    """Return, per axis, how many of its taps each place divides by; the divisor is their product.

    With count_include_pad, padding that the node asks for counts, but not what a window covers beyond it (ceil_mode).
    """
    rank = len(win.size)
    pads = node.get("pads", [0] * 2 * rank) if node.get("auto_pad", "NOTSET") == "NOTSET" else [*win.begins, *win.ends]
    counts = []
    for axis, size in enumerate(win.size):
        taps = _taps(win, axis)
        before, after = (pads[axis], pads[axis + rank]) if node.get("count_include_pad", 0) else (0, 0)
        counts.append(((taps >= -before) & (taps < size + after)).sum(1))
    return counts


def _taps(win: Window, axis: int) -> np.ndarray:
    """Return the positions in the image that each place's taps have along an axis: [out, kernel]."""
    corners = np.arange(win.out[axis]) * win.strides[axis] - win.begins[axis]
    return corners[:, None] + np.arange(win.kernel[axis]) * win.dilations[axis]


def _enlarge(tape: Tape, small: str, win: Window) -> str:
    """Repeat each element over the window it came from."""
    factors = tape.constant(np.array([1, 1, *win.strides], np.float32))
    how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return tape.emit("Resize", small, "", factors, **how)


def _reflects(win: Window) -> bool:
    """Whether the gradient is a pooling itself: stride 1, and no padding wider than the kernel reaches."""
    reach = [k - 1 for k in win.kernel * 2]
    dense = set(win.strides + win.dilations) == {1}
    return dense and all(pad <= r for pad, r in zip([*win.begins, *win.tails], reach, strict=True))


def _pool_again(tape: Tape, dy: str, x: str, win: Window, shares: list[np.ndarray]) -> str:
    """Stride 1: dx = taps · AveragePool(dy / divisor), padded so that each element sees the windows it lies in."""
    factors = win.taps * np.multiply.outer(*shares)
    factor = factors.ravel()[0] if np.ptp(factors) == 0 else factors
    pads = [k - 1 - pad for k, pad in zip(win.kernel * 2, [*win.begins, *win.tails], strict=True)]
    scaled = tape.emit("Mul", dy, tape.constant(factor, tape.specs[x].dtype))
    return tape.emit("AveragePool", scaled, kernel_shape=list(win.kernel), pads=pads, count_include_pad=1)


def _bands(tape: Tape, dy: str, x: str, win: Window, shares: list[np.ndarray]) -> str:
    """dx = dy · B per axis, where B is [out, size]: the share that a place gives to each element."""
    shape: Ints = tape.shape(x)
    for axis in reversed(range(len(win.size))):
        inner, band = prod(shape[3 + axis :]), _band(win, axis, shares[axis])
        if inner == 1:
            dy = tape.emit("MatMul", tape.reshape(dy, -1, win.out[axis]), tape.constant(band, tape.specs[x].dtype))
        else:
            columns = tape.reshape(dy, -1, win.out[axis], inner)
            dy = tape.emit("MatMul", tape.constant(band.T, tape.specs[x].dtype), columns)
    return tape.reshape(dy, *shape)


def _band(win: Window, axis: int, share: np.ndarray) -> np.ndarray:
    band = np.zeros((win.out[axis], win.size[axis]))
    for place, taps in enumerate(_taps(win, axis)):
        inside = taps[(taps >= 0) & (taps < win.size[axis])]
        band[place, inside] = share[place]
    return band
