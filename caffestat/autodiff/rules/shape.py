"""Ops that move, repeat, cut or join elements without changing them."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, vjp
from ..sparse import Stretch, scatter
from .common import Grads, constant_of, input_of, interpolate_transposed, only, unbroadcast


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, t.reshape(dy, *t.shape(node.inputs[0])))


@vjp("Transpose")
def transpose(t: Tape, node: Node, dy: str) -> Grads:
    perm = node.get("perm") or list(reversed(range(len(t.shape(node.inputs[0])))))
    return [t.transpose(dy, *(int(axis) for axis in np.argsort(perm)))]


@vjp("Expand")
def expand(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, unbroadcast(t, dy, node.outputs[0], node.inputs[0]))


@vjp("Tile")
def tile(t: Tape, node: Node, dy: str) -> Grads:
    shape = t.shape(node.inputs[0])
    repeats = [y // x if x else 0 for x, y in zip(shape, t.shape(node.outputs[0]), strict=True)]
    split = t.reshape(dy, *(size for pair in zip(repeats, shape, strict=True) for size in pair))
    summed = t.emit("ReduceSum", split, t.ints(*range(0, 2 * len(shape), 2)), keepdims=0)
    return only(node, summed)


@vjp("Concat")
def concat(t: Tape, node: Node, dy: str) -> Grads:
    axis = node.attributes["axis"] % len(t.shape(node.outputs[0]))
    return t.split(dy, [t.shape(x)[axis] for x in node.inputs], axis)


@vjp("Split")
def split(t: Tape, node: Node, dy: str) -> Grads:
    parts = [t.cotangent(y) or t.zeros_like(y) for y in node.outputs]
    return only(node, t.emit("Concat", *parts, axis=node.get("axis", 0)))


@vjp("Slice")
def slice_(t: Tape, node: Node, dy: str) -> Grads:
    """Put dy back where it was taken from: zeros around it, or a scatter along axes taken with a step."""
    x = node.inputs[0]
    shape, taken = list(t.shape(node.outputs[0])), _taken(t, node)
    cut = [axis for axis, positions in taken.items() if len(positions) < t.shape(x)[axis]]
    if len(cut) == 1 and taken[cut[0]].step == 1 and taken[cut[0]]:
        return only(node, Stretch(cut[0], taken[cut[0]], dy))
    before, after = [0] * len(shape), [0] * len(shape)
    for axis, positions in taken.items():
        size = t.shape(x)[axis]
        if positions.step == 1:
            before[axis], after[axis] = positions.start, size - positions.start - len(positions)
        else:
            dy = scatter(t, dy, x, shape, t.ints(*positions), axis, size)
            shape[axis] = size
    return only(node, t.emit("Pad", dy, t.ints(*before, *after)) if any(before + after) else dy)


def _taken(t: Tape, node: Node) -> dict[int, range]:
    """Return the positions that a Slice takes, by axis."""
    shape = t.shape(node.inputs[0])
    starts, ends = constant_of(t, node, 1), constant_of(t, node, 2)
    axes = constant_of(t, node, 3, np.arange(len(starts)))
    steps = constant_of(t, node, 4, np.ones(len(starts), np.int64))
    bounds = zip(starts.tolist(), ends.tolist(), axes.tolist(), steps.tolist(), strict=True)
    return {axis % len(shape): range(shape[axis])[start:end:step] for start, end, axis, step in bounds}


@vjp("Pad")
def pad(t: Tape, node: Node, dy: str) -> Grads:
    mode = node.get("mode", "constant")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    return _constant_pad(t, node, dy) if mode == "constant" else _copying_pad(t, node, dy, mode)


def _pads(t: Tape, node: Node) -> dict[int, list[int]]:
    rank = len(t.shape(node.inputs[0]))
    axes = constant_of(t, node, 3, np.arange(rank))
    before, after = constant_of(t, node, 1).reshape(2, -1).tolist()
    return {axis % rank: widths for axis, *widths in zip(axes.tolist(), before, after, strict=True)}


def _copying_pad(t: Tape, node: Node, dy: str, mode: Any) -> Grads:
    """Modes reflect, edge and wrap pad with copies of elements and may crop others: a 0/1 matrix along each axis."""
    x = node.inputs[0]
    shape, dtype = list(t.shape(node.outputs[0])), t.specs[x].dtype
    for axis, (before, after) in _pads(t, node).items():
        size = t.shape(x)[axis]
        if before or after:
            kept = np.arange(max(-before, 0), size + min(after, 0))
            copied = np.pad(kept, (max(before, 0), max(after, 0)), mode)[:, None]
            dy = interpolate_transposed(t, dy, shape, copied, np.ones(copied.shape, dtype), axis, size)
            shape[axis] = size
    return only(node, dy)


def _constant_pad(t: Tape, node: Node, dy: str) -> Grads:
    """Crop what was padded and pad with zeros what was cropped; the fill value gets the sum of the cropped part."""
    fill = input_of(node, 2)
    pads = constant_of(t, node, 1)
    axes = [name for name in (input_of(node, 3),) if name]
    dx = t.emit("Pad", dy, t.ints(*-pads), *(["", *axes] if axes else []))
    if not t.needs(fill):
        return only(node, dx)
    outside = t.emit("Sub", *(t.emit("ReduceSum", value, keepdims=0) for value in (dy, dx)))
    return [dx, None, t.reshape(outside, *t.shape(fill)), *[None] * len(axes)]


@vjp("Trilu")
def trilu(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, t.emit("Trilu", dy, *node.inputs[1:], upper=node.get("upper", 1)))


@vjp("SpaceToDepth")
def space_to_depth(t: Tape, node: Node, dy: str) -> Grads:
    return [t.emit("DepthToSpace", dy, blocksize=node.attributes["blocksize"], mode="DCR")]


@vjp("DepthToSpace")
def depth_to_space(t: Tape, node: Node, dy: str) -> Grads:
    block = node.attributes["blocksize"]
    if node.get("mode", "DCR") in ("DCR", b"DCR"):
        return [t.emit("SpaceToDepth", dy, blocksize=block)]
    n, c, h, w = t.shape(node.outputs[0])
    tiles = t.transpose(t.reshape(dy, n, c, h // block, block, w // block, block), 0, 1, 3, 5, 2, 4)
    return [t.reshape(tiles, *t.shape(node.inputs[0]))]


@vjp("ReverseSequence")
def reverse_sequence(t: Tape, node: Node, dy: str) -> Grads:
    """Reversing the same part again puts every element back."""
    return only(node, t.emit("ReverseSequence", dy, node.inputs[1], **node.attributes))
