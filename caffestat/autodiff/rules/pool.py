"""Gradients of pooling, of any number of spatial axes.

The window's arithmetic is `Window`; the image is [N, C, size…], the pooled one [N, C, out…].
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from caffestat.graph import Convolution, Graph, Node, Spec, late
from caffestat.ops import Window

from ..engine import Tape, vjp
from .common import Grads, divided, is_linear, only, window_of
from .conv import dx_transpose

Ints = tuple[int, ...]


# ---- the largest; MaxPool has a module of its own ----


@vjp("MaxUnpool")
def max_unpool(tape: Tape, node: Node, dy: str) -> Grads:
    """Each element of x is at the position of the flat result that its index names: dx is dy there."""
    x, indices = node.inputs[:2]
    picked = tape.emit("Gather", tape.emit("Reshape", dy, tape.ints(-1)), tape.reshape(indices, -1), axis=0)
    return only(node, tape.reshape(picked, *tape.shape(x)))


@vjp("GlobalMaxPool")
def global_max_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """dy goes to the first largest element of its channel."""
    (x,) = node.inputs
    n, channels, *size = shape = tape.shape(x)
    where = tape.emit("ArgMax", tape.reshape(x, n, channels, prod(size)), axis=2, keepdims=1)
    chosen = tape.emit("Equal", where, tape.constant(np.arange(prod(size)), np.int64))
    spread = tape.emit("Where", chosen, tape.reshape(dy, n, channels, 1), tape.scalar(0, like=x))
    return [tape.reshape(spread, *shape)]


# ---- the mean ----


@vjp("GlobalAveragePool")
def global_average_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """dx = dy / places, everywhere."""
    (x,) = node.inputs
    shape: Ints = tape.shape(x)
    share = divided(tape, dy, prod(shape[2:]), like=x)
    return [tape.emit("Expand", share, tape.ints(*shape))]


@vjp("AveragePool")
def average_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """Each element gets the sum of dy / divisor over the windows it lies in."""
    x, win = node.inputs[0], window_of(tape, node)
    shares = [1 / count for count in _counts(node, win)]
    if win.kernel == win.size and win.places == 1:
        share = tape.scalar(prod(float(share[0]) for share in shares), like=x)
        return [tape.emit("Expand", tape.emit("Mul", dy, share), tape.ints(*tape.shape(x)))]
    return [tape.emit_late("AveragePoolImage", dy, shape=tape.shape(x), like=x, window=win, shares=shares)]


@late("AveragePoolImage")
def average_pool_image(g: Graph, node: Node, provider: str) -> list[str]:
    """dx from dy; shares: per axis, 1 / divisor of each place.

    Windows that tile the image: nearest-neighbour Resize. Stride 1: AveragePool again. Everything else, and every case
    on CUDA: a product with a small band matrix per axis.
    """
    (dy,), (dx,) = node.inputs, node.outputs
    win, shares = node.attributes["window"], node.attributes["shares"]
    spec = g.specs[dx]
    if provider != "cuda" and win.tiles:
        return [_enlarge(g, g.emit("Mul", dy, g.constant(1 / win.taps, spec.dtype)), win)]
    if provider != "cuda" and len(win.size) == 2 and _reflects(win):
        return [_pool_again(g, dy, spec, win, shares)]
    largest = max(out * size for out, size in zip(win.out, win.size, strict=True))
    form = _bands if is_linear(largest, spec.shape, (*spec.shape[:2], *win.out)) else _slide_back
    return [form(g, dy, spec, win, shares)]


def _counts(node: Node, win: Window) -> list[np.ndarray]:
    """Return, per axis, how many of its taps each place divides by; the divisor is their product.

    With count_include_pad, padding that the node asks for counts, but not what a window covers beyond it (ceil_mode).
    """
    rank = len(win.size)
    pads = node.get("pads", [0] * 2 * rank) if node.get("auto_pad", "NOTSET") == "NOTSET" else [*win.begins, *win.ends]
    counts = []
    for axis, size in enumerate(win.size):
        taps = win.taps_along(axis)
        before, after = (pads[axis], pads[axis + rank]) if node.get("count_include_pad", 0) else (0, 0)
        counts.append(((taps >= -before) & (taps < size + after)).sum(1))
    return counts


def _enlarge(g: Graph, small: str, win: Window) -> str:
    """Repeat each element over the window it came from."""
    factors = g.constant(np.array([1, 1, *win.strides], np.float32))
    how: dict[str, Any] = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return g.emit("Resize", small, "", factors, **how)


def _reflects(win: Window) -> bool:
    """Tell whether the gradient is a pooling itself: stride 1, and no padding wider than the kernel reaches.

    Neither uneven padding nor a kernel larger than what it slides over, for which onnxruntime before 1.26 is wrong.
    """
    fits = all(pad < k <= n for pad, k, n in zip(win.begins, win.kernel, win.out, strict=True))
    return set(win.strides + win.dilations) == {1} and win.begins == win.tails and fits


def _pool_again(g: Graph, dy: str, spec: Spec, win: Window, shares: list[np.ndarray]) -> str:
    """Stride 1: dx = taps · AveragePool(dy / divisor), padded so that each element sees the windows it lies in."""
    factors = win.taps * np.multiply.outer(*shares)
    factor = factors.ravel()[0] if np.ptp(factors) == 0 else factors
    pads = [k - 1 - pad for k, pad in zip(win.kernel * 2, [*win.begins, *win.tails], strict=True)]
    scaled = g.emit("Mul", dy, g.constant(factor, spec.dtype))
    return g.emit("AveragePool", scaled, kernel_shape=list(win.kernel), pads=pads, count_include_pad=1)


def _bands(g: Graph, dy: str, spec: Spec, win: Window, shares: list[np.ndarray]) -> str:
    """dx = dy · B per axis, where B is [out, size]: the share that a place gives to each element."""
    shape = spec.shape
    for axis in reversed(range(len(win.size))):
        inner, band = prod(shape[3 + axis :]), _band(win, axis, shares[axis])
        if inner == 1:
            dy = g.emit("MatMul", g.reshape(dy, -1, win.out[axis]), g.constant(band, spec.dtype))
        else:
            columns = g.reshape(dy, -1, win.out[axis], inner)
            dy = g.emit("MatMul", g.constant(band.T, spec.dtype), columns)
    return g.reshape(dy, *shape)


def _slide_back(g: Graph, dy: str, spec: Spec, win: Window, shares: list[np.ndarray]) -> str:
    """dx = (dy / divisor) ∗ᵀ ones, channel by channel: for axes so long that their band matrices are large."""
    dtype, shape = spec.dtype, spec.shape
    for axis, share in enumerate(shares):
        along = [-1 if i == axis else 1 for i in range(len(win.size))]
        dy = g.emit("Mul", dy, g.constant(share.reshape(1, 1, *along), dtype))
    images = prod(shape[:2])
    alone = Convolution(win, batch=images, group=1, channels=1, filters=1)
    ones = g.emit("Expand", g.constant(1, dtype), g.ints(1, 1, *win.kernel))
    return g.reshape(dx_transpose(g, alone, ones, g.reshape(dy, images, 1, *win.out)), *shape)


def _band(win: Window, axis: int, share: np.ndarray) -> np.ndarray:
    band = np.zeros((win.out[axis], win.size[axis]))
    for place, taps in enumerate(win.taps_along(axis)):
        inside = taps[(taps >= 0) & (taps < win.size[axis])]
        band[place, inside] = share[place]
    return band


# ---- norms: y = (Σ |x|ᵖ)^(1/p), so that dx = sign(x) |x|ᵖ⁻¹ Σ dy y¹⁻ᵖ over the windows that x lies in ----


@vjp("GlobalLpPool")
def global_lp_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """The one window is the whole image."""
    return [tape.emit("Mul", _power_slope(tape, node), _norm_share(tape, node, dy))]


@vjp("LpPool")
def lp_pool(tape: Tape, node: Node, dy: str) -> Grads:
    """The sums over windows are those of AveragePool, all of whose divisors are the number of taps."""
    x, win = node.inputs[0], window_of(tape, node)
    share = tape.emit("Mul", _norm_share(tape, node, dy), tape.scalar(win.taps, like=x))
    tape.declare(share, tape.shape(node.outputs[0]), tape.specs[x].dtype)
    shares = [np.full(places, 1 / taps) for places, taps in zip(win.out, win.kernel, strict=True)]
    summed = tape.emit_late("AveragePoolImage", share, shape=tape.shape(x), like=x, window=win, shares=shares)
    return [tape.emit("Mul", _power_slope(tape, node), summed)]


def _power_slope(tape: Tape, node: Node) -> str:
    """Emit sign(x) |x|ᵖ⁻¹."""
    x, p = node.inputs[0], node.get("p", 2)
    if p == 2:
        return x
    sign = tape.emit("Sign", x)
    return sign if p == 1 else tape.emit("Mul", sign, tape.emit("Pow", tape.emit("Abs", x), tape.scalar(p - 1, like=x)))


def _norm_share(tape: Tape, node: Node, dy: str) -> str:
    """Emit dy y¹⁻ᵖ, 0 where y is: there x is 0, too."""
    y, p = node.outputs[0], node.get("p", 2)
    if p == 1:
        return dy
    zero = tape.scalar(0, like=y)
    share = tape.emit("Div", dy, y if p == 2 else tape.emit("Pow", y, tape.scalar(p - 1, like=y)))
    return tape.emit("Where", tape.emit("Equal", y, zero), zero, share)
