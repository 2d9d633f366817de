"""Ops around convolutions that read or write their columns: Col2Im, DeformConv."""

from __future__ import annotations

from math import prod

import numpy as np

from caffestat.graph import Node
from caffestat.ops import Window, window

from ..engine import Tape, vjp
from .common import Grads, constant_of, input_of, only


@vjp("Col2Im")
def col2im(t: Tape, node: Node, dy: str) -> Grads:
    """x [N, C · taps, places] is summed into an image [N, C, size…]: dx is what each tap of each place sees of dy."""
    x, shape = node.inputs[0], t.shape(node.outputs[0])
    size, kernel = (constant_of(t, node, position).tolist() for position in (1, 2))
    begins, ends = _pads(node, len(size))
    spans = [d * (k - 1) + 1 for d, k in zip(node.get("dilations", [1] * len(size)), kernel, strict=True)]
    steps = zip(size, begins, ends, spans, node.get("strides", [1] * len(size)), strict=True)
    win = window(node.attributes, size, [(n + b + e - span) // s + 1 for n, b, e, span, s in steps], kernel)
    padded = t.emit("Pad", dy, t.ints(0, 0, *win.begins, 0, 0, *win.ends)) if any((*win.begins, *win.ends)) else dy
    kept = [t.ints(*numbers) for numbers in ([0] * len(size), win.padded, range(2, 2 + len(size)))]
    flat = t.emit("Reshape", t.emit("Slice", padded, *kept), t.ints(*shape[:2], prod(win.padded)))
    seen = t.emit("Gather", flat, t.constant(win.indices().T.reshape(-1), np.int64), axis=2)
    return only(node, t.emit("Reshape", seen, t.ints(*t.shape(x))))


def _pads(node: Node, rank: int) -> tuple[list[int], list[int]]:
    pads = list(node.get("pads", [0] * 2 * rank))
    return pads[:rank], pads[rank:]


@vjp("DeformConv")
def deform_conv(t: Tape, node: Node, dy: str) -> Grads:
    """By way of GridSample: a convolution whose taps are moved by the offset, and weighted by the mask."""
    return t.through(node, dy, lambda: [_deformed(t, node)])


def _deformed(t: Tape, node: Node) -> str:
    x, w, offset, bias, mask = (input_of(node, position) for position in range(5))
    (batch, channels, *_), (_, filters, *out) = (t.shape(value) for value in (x, node.outputs[0]))
    group, parts, taps, places = node.get("group", 1), node.get("offset_group", 1), prod(t.shape(w)[2:]), prod(out)
    win = window(node.attributes, t.shape(x)[2:], out, t.shape(w)[2:])
    lanes = (batch * parts, channels // parts)
    grid = _grid(t, offset, win, batch * parts)
    seen = t.emit("GridSample", t.reshape(x, *lanes, *win.size), grid, padding_mode="zeros", align_corners=0)
    seen = t.declare(seen, (*lanes, taps * out[0], out[1]), t.specs[x].dtype)
    if mask:
        seen = t.emit("Mul", t.reshape(seen, *lanes, taps, places), t.reshape(mask, batch * parts, 1, taps, places))
        seen = t.declare(seen, (*lanes, taps, places), t.specs[x].dtype)
    columns = t.reshape(seen, batch, group, channels // group * taps, places)
    y = t.emit("MatMul", t.reshape(w, group, filters // group, channels // group * taps), columns)
    y = t.reshape(t.declare(y, (batch, group, filters // group, places), t.specs[x].dtype), batch, filters, *out)
    return t.emit("Add", y, t.reshape(bias, filters, 1, 1)) if bias else y


def _grid(t: Tape, offset: str, win: Window, images: int) -> str:
    """Emit where each tap of each place stands, as GridSample takes it: [images, taps · rows, columns, (x, y)]."""
    moved = t.reshape(offset, images, win.taps, 2, *win.out)
    rows, columns = (win.taps_along(axis).T for axis in (0, 1))  # [kernel, out]
    base = np.zeros((*win.kernel, 2, *win.out))
    base[:, :, 0] = rows[:, None, :, None]
    base[:, :, 1] = columns[None, :, None, :]
    start = t.constant(base.reshape(1, win.taps, 2, *win.out) + 0.5, t.specs[offset].dtype)
    scale = t.constant(2 / np.reshape(win.size, (2, 1, 1)), t.specs[offset].dtype)
    where = t.emit("Sub", t.emit("Mul", t.emit("Add", moved, start), scale), t.scalar(1, like=offset))
    turned = t.transpose(t.emit("Gather", where, t.ints(1, 0), axis=2), 0, 1, 3, 4, 2)
    turned = t.declare(turned, (images, win.taps, *win.out, 2), t.specs[offset].dtype)
    return t.reshape(turned, images, win.taps * win.out[0], win.out[1], 2)
