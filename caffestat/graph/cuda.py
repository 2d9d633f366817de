"""Replacements of ops for which the CUDA provider has no kernels, or only slow ones.

Measured on an H100: docs/performance.md has the times.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .axes import all_but_channels
from .convolution import convolution_of
from .graph import CONTRIB, OPSET
from .largest import first_largest, pad_with_least
from .late import Definition
from .normalized import running

if TYPE_CHECKING:
    from caffestat.ops import Window

    from .graph import Graph, Node, Spec

__all__ = ["REWRITES", "newest_opset"]

_OPSET = 21  # the newest that the provider has kernels of MaxPool, Elu, Selu and others for
_LARGE = 1 << 14  # elements from which on a kernel costs more than its start
_FEW_PLACES = 32  # per row; below, rows are too short for a product or a normalization of their own
_CUDNN_EPSILON = float(np.float32(1e-5))  # the least that every version of cuDNN takes
_REPEATING = ("reflect", "edge", "wrap")  # modes of Pad that fill with elements instead of one value
_OLD_MODES = {"linear": "bilinear", "cubic": "bicubic"}  # of GridSample
_EXACT = 1 << 24  # the largest of the whole numbers from 0 on that are all float32
_TINY = 1e-12  # keeps the deviation of a constant row finite


def newest_opset(nodes: Sequence[Node]) -> int:
    """Return the newest opset to use; in older ones pooling with ceil_mode has wrong shapes."""
    return OPSET if any(node.get("ceil_mode", 0) for node in nodes) else _OPSET


# ---- sums ----


def _over_all_but_channels(g: Graph, node: Node) -> Spec | None:
    """Return the spec of what a node reduces if it is large and only the channels' axis is left."""
    spec = g.specs.get(node.inputs[0])
    axes = g.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if spec is None or axes is None or len(spec.shape) < 3 or spec.dtype != np.float32:
        return None
    rank = len(spec.shape)
    reduced = {int(axis) % rank for axis in axes.ravel()}
    is_long = prod(spec.shape) >= _LARGE and prod(spec.shape[2:]) >= _FEW_PLACES
    return spec if reduced == set(all_but_channels(rank)) and is_long else None


def _sum(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    spec = _over_all_but_channels(g, node)
    return [_reduced_to_channels(g, node, spec, 1)] if spec else None


def _mean(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    spec = _over_all_but_channels(g, node)
    return [_reduced_to_channels(g, node, spec, 1 / prod(spec.shape[2:]))] if spec else None


def _reduced_to_channels(g: Graph, node: Node, spec: Spec, share: float) -> str:
    """Each row by a product with `share`, then over the batch: a seventh of cuDNN's time for both at once."""
    batch, channels, *space = spec.shape
    places = prod(space)
    rows = g.reshape(node.inputs[0], batch * channels, places)
    sums = g.reshape(g.emit("MatMul", rows, g.constant(np.full((places, 1), share), spec.dtype)), batch, channels)
    total = g.declare(g.emit(node.op, sums, g.ints(0), keepdims=0), (channels,), spec.dtype)
    return g.reshape(total, 1, channels, *(1,) * len(space)) if node.get("keepdims", 1) else total


# ---- images ----


def _pad(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """A Concat per axis: the kernel of Pad moves 0.1 TB/s, and there is none for integers."""
    spec, pads = g.specs.get(node.inputs[0]), g.constants.get(node.inputs[1])
    is_plain = node.get("mode") not in _REPEATING and len(node.inputs) < 4
    if spec is None or pads is None or not is_plain or min(pads) < 0:
        return None
    if prod(spec.shape) < _LARGE and spec.dtype.kind == "f":
        return None
    fill = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else g.constant(0, spec.dtype)
    value, shape = node.inputs[0], list(spec.shape)
    for axis in reversed(range(len(shape))):
        ends = (int(pads[axis]), int(pads[axis + len(shape)]))
        value = _extended(g, value, shape, axis, ends, fill)
        shape[axis] += sum(ends)
    return [g.declare(value, tuple(shape), spec.dtype)]


def _extended(g: Graph, value: str, shape: Sequence[int], axis: int, ends: Sequence[int], fill: str) -> str:
    """Emit a value with so many elements more at both ends of an axis."""
    strips = [g.emit("Expand", fill, g.ints(*shape[:axis], n, *shape[axis + 1 :])) if n else "" for n in ends]
    parts = [part for part in (strips[0], value, strips[1]) if part]
    return g.emit("Concat", *parts, axis=axis) if len(parts) > 1 else value


def _average_pool(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """ceil_mode, whose opset is too new for the kernel, expressed as padding that is not counted."""
    win = _window(g, node)
    if win is None or not node.get("ceil_mode", 0) or node.get("count_include_pad", 0):
        return None
    return [_slid(g, node, node.inputs[0], [*win.begins, *win.ends])]


def _max_pool(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """ceil_mode as padding; Indices by plain ops, and what is dilated in a padded image.

    Among equal elements the kernel takes the first column before the first row, and it reads outside of the image where
    all are as large as 2^24 or NaN. Before an image it starts dilated windows at its first element.
    """
    win, (x, *_) = _window(g, node), node.inputs
    is_dilated = win is not None and set(win.dilations) != {1} and any(win.begins)
    has_indices = len(node.outputs) > 1 and not node.get("storage_order", 0)
    if win is None or not (node.get("ceil_mode", 0) or is_dilated or has_indices):
        return None
    pads = [0] * 2 * len(win.size) if is_dilated else [*win.begins, *win.ends]
    y = _slid(g, node, pad_with_least(g, x, win) if is_dilated else x, pads)
    return [y, g.cast(first_largest(g, x, win), np.int64)] if has_indices else [y]


def _window(g: Graph, node: Node) -> Window | None:
    """Return how a pooling node slides over its image, None where that is not known or a padding is too wide."""
    rule, known = node.info.window, [g.specs.get(name) for name in (node.inputs[0], node.outputs[0])]
    if rule is None or None in known:
        return None
    win = rule(g.call(node))
    return None if any(end >= k for end, k in zip(win.ends, win.kernel, strict=True)) else win


def _slid(g: Graph, node: Node, x: str, pads: Sequence[int]) -> str:
    """Emit the first output of a pooling node over another image, with this padding."""
    attributes = {k: v for k, v in node.attributes.items() if k not in ("ceil_mode", "auto_pad")}
    return g.emit(node.op, x, **{**attributes, "pads": list(pads)})


def _convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """1x1 as a product: y[n] = w · x[n]."""
    x, w, *bias = node.inputs
    known = [g.specs.get(value) for value in (x, w, node.outputs[0])]
    if any(spec is None or len(spec.shape) < 3 for spec in known):
        return None
    c = convolution_of(node, *(g.shape(value) for value in (x, node.outputs[0], w)))
    if not c.is_product:
        return None
    rows = g.reshape(x, c.batch, c.channels, c.window.places)
    y = g.reshape(g.emit("MatMul", g.reshape(w, c.filters, c.channels), rows), *g.shape(node.outputs[0]))
    return [g.emit("Add", y, g.reshape(bias[0], c.filters, *[1] * len(c.window.out))) if any(bias) else y]


# ---- normalization ----


def _batch_normalization(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """The kernel has no training mode, and takes no epsilon near zero."""
    epsilon, trains = node.get("epsilon", 1e-5), node.get("training_mode", 0)
    spec = g.specs.get(node.inputs[0])
    if spec is None or not (trains or epsilon < _CUDNN_EPSILON):
        return None
    x, scale, bias, mean, variance = node.inputs
    if not trains:
        return [_normalized(g, x, scale, bias, mean, variance, epsilon)]
    new = _batch_statistics(g, x, spec)
    y = _normalized(g, x, scale, bias, *new, epsilon)
    return [y, *running(g, node, (mean, variance), new)]


def _normalized(g: Graph, x: str, scale: str, bias: str, mean: str, variance: str, epsilon: float) -> str:
    """Emit scale · (x - mean) / √(variance + epsilon) + bias; one op where epsilon allows it."""
    spec, known = g.specs[x], g.constants.get(variance)
    if epsilon < _CUDNN_EPSILON and known is not None and known.min() + epsilon > 2 * _CUDNN_EPSILON:
        variance, epsilon = g.constant(known + (epsilon - _CUDNN_EPSILON), spec.dtype), _CUDNN_EPSILON
    if epsilon >= _CUDNN_EPSILON:
        y = g.emit("BatchNormalization", x, scale, bias, mean, variance, epsilon=epsilon)
        return g.declare(y, spec.shape, spec.dtype)
    column = (-1, *(1,) * (len(spec.shape) - 2))
    root = g.emit("Sqrt", g.emit("Add", variance, g.constant(epsilon, spec.dtype)))
    slope = g.emit("Div", scale, root)
    centered = g.emit("Sub", x, g.reshape(mean, *column))
    return g.emit("Add", g.emit("Mul", centered, g.reshape(slope, *column)), g.reshape(bias, *column))


def _batch_statistics(g: Graph, x: str, spec: Spec) -> tuple[str, str]:
    """Emit mean and variance [C] of a batch; squares are taken of differences from a mean, as in Caffe."""
    batch, channels, *space = spec.shape
    places = prod(space)
    if places >= _FEW_PLACES and spec.dtype == np.float32:
        return _statistics_of_rows(g, g.reshape(x, batch * channels, places), (batch, channels, places), spec.dtype)
    axes = g.ints(*all_but_channels(len(spec.shape)))
    mean = g.emit("ReduceMean", x, axes, keepdims=1)
    centered = g.emit("Sub", x, mean)
    variance = g.emit("ReduceMean", g.emit("Mul", centered, centered), axes, keepdims=0)
    return g.reshape(mean, channels), g.declare(variance, (channels,), spec.dtype)


def _statistics_of_rows(g: Graph, rows: str, sizes: Sequence[int], dtype: Any) -> tuple[str, str]:
    """Emit mean and variance of a batch by those of each row, which LayerNormalization takes in one pass.

    variance = mean of the rows' variances + variance of the rows' means.
    """
    batch, channels, places = sizes
    ones = g.constant(np.ones(places), dtype)
    _, *moments = g.emit_many("LayerNormalization", rows, ones, count=3, axis=-1, epsilon=_TINY)
    means, inverses = (g.reshape(value, batch, channels) for value in moments)
    mean = g.declare(g.emit("ReduceMean", means, g.ints(0), keepdims=0), (channels,), dtype)
    deviations = g.emit("Reciprocal", inverses)
    apart = g.emit("Sub", means, mean)
    squares = g.emit("Add", g.emit("Mul", deviations, deviations), g.emit("Mul", apart, apart))
    return mean, g.declare(g.emit("ReduceMean", squares, g.ints(0), keepdims=0), (channels,), dtype)


def _group_normalization(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """By the rows of the groups: the runtime has no kernel for the op, and finds the shapes of its parts on the CPU."""
    x, scale, bias = node.inputs
    spec = g.specs.get(x)
    if spec is None or spec.dtype != np.float32:
        return None
    count, channels, *space = spec.shape
    rows, column = count * node.attributes["num_groups"], (channels, *[1] * len(space))
    ones = g.constant(np.ones(prod(spec.shape) // rows), spec.dtype)
    normal = g.emit("LayerNormalization", g.reshape(x, rows, -1), ones, axis=-1, epsilon=node.get("epsilon", 1e-5))
    scaled = g.emit("Mul", g.reshape(normal, *spec.shape), g.reshape(scale, *column))
    return [g.emit("Add", scaled, g.reshape(bias, *column))]


# ---- ops without a kernel for a type, or at all ----


def _clip(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """There is no kernel for int32. The bounds tell the type too, where nothing is known of the value."""
    known = (g.specs.get(name) for name in node.inputs)
    if all(spec is None or spec.dtype != np.int32 for spec in known):
        return None
    value, *bounds = node.inputs
    for op, bound in zip(("Max", "Min"), bounds, strict=False):
        value = g.emit(op, value, bound) if bound else value
    return [value]


def _arg_max(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    return _place_of(g, node, "ReduceMax")


def _arg_min(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    return _place_of(g, node, "ReduceMin")


def _place_of(g: Graph, node: Node, extreme: str) -> Sequence[str] | None:
    """By plain ops: the kernel takes any of equal elements, and has neither `select_last_index` nor integers."""
    (x,), axis = node.inputs, node.get("axis", 0)
    spec = g.specs.get(x)
    size = spec.shape[axis] if spec else 0
    if spec is None or not 0 < size <= _EXACT:
        return None
    numbers = g.constant(np.arange(size).reshape(-1, *[1] * (len(spec.shape[axis:]) - 1)))
    is_best = g.emit("Equal", x, g.emit(extreme, x, g.ints(axis), keepdims=1))
    pick, other = ("ReduceMax", 0) if node.get("select_last_index", 0) else ("ReduceMin", size - 1)
    places = g.emit("Where", is_best, numbers, g.constant(other))
    return [g.cast(g.emit(pick, places, g.ints(axis), keepdims=node.get("keepdims", 1)), np.int64)]


def _grid_sample(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """The kernel is that of an older op, for images of two axes."""
    spec, y = g.specs.get(node.inputs[0]), g.specs.get(node.outputs[0])
    if spec is None or y is None or len(spec.shape) != 4 or spec.dtype != np.float32:
        return None
    mode = node.get("mode", "linear")
    attributes = {**node.attributes, "mode": _OLD_MODES.get(mode, mode)}
    return [g.declare(g.emit(node.op, *node.inputs, domain=CONTRIB, **attributes), y.shape, y.dtype)]


def _softplus(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """ln(1 + exp x) with the last term in float64, as in Caffe: the kernel is 0 from x = -17 on."""
    (x,) = node.inputs
    spec = g.specs.get(x)
    if spec is None or spec.dtype != np.float32:
        return None
    small = g.emit("Exp", g.cast(g.emit("Neg", g.emit("Abs", x)), np.float64))
    rest = g.emit("Log", g.emit("Add", small, g.constant(1, np.float64)))
    return [g.emit("Add", g.emit("Relu", x), g.cast(rest, np.float32))]


def _mean_of_inputs(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """There is no kernel for Mean."""
    spec = g.specs.get(node.inputs[0])
    share = spec and g.constant(1 / len(node.inputs), spec.dtype)
    return [g.emit("Mul", g.emit("Sum", *node.inputs), share)] if share else None


REWRITES: dict[str, Definition] = {
    "ArgMax": _arg_max,
    "ArgMin": _arg_min,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Conv": _convolution,
    "GridSample": _grid_sample,
    "GroupNormalization": _group_normalization,
    "MaxPool": _max_pool,
    "Mean": _mean_of_inputs,
    "Pad": _pad,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Softplus": _softplus,
}
"""By op of ONNX; beside those that all providers get."""
