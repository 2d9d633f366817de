"""Pooling over regions of interest. Regions get no gradient, as in torchvision and in Caffe's ROIPooling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, vjp
from ..sparse import scatter_add
from .common import Grads, only

Ints = tuple[int, ...]


@vjp("RoiAlign")
def roi_align(t: Tape, node: Node, dy: str) -> Grads:
    """Y_r = A_r X B_rᵀ for the image X that region r lies in: dX = Σ over its regions of A_rᵀ dY_r B_r.

    A_r [rows of Y, rows of X] and B_r have the weights of the mean of bilinear samples, which are products of a row's
    and a column's. (onnxruntime, roialign.cc)
    """
    x, rois, items = node.inputs
    node = replace(node, inputs=(x, t.graph.detach(rois), items))
    if node.get("mode", "avg") == "max":
        return _largest_sample(t, node, dy)
    batch, channels, height, width = t.shape(x)
    count, _, rows, columns = t.shape(node.outputs[0])
    across = t.reshape(_samples(t, node, 0, columns, width), count, 1, columns, width)
    wide = t.transpose(t.emit("MatMul", dy, across), 0, 2, 1, 3)
    wide = t.reshape(wide, count * rows, channels * width)
    down = _samples(t, node, 1, rows, height)
    if batch > 1:
        images = t.constant(np.arange(batch).reshape(-1, 1), np.int64)
        lies_in = t.cast(t.emit("Equal", t.reshape(items, 1, count), images), t.specs[x].dtype)
        down = t.emit("Mul", t.reshape(lies_in, batch, count, 1, 1), down)
    back = t.transpose(t.reshape(down, batch, count * rows, height), 0, 2, 1)
    dx = t.reshape(t.emit("MatMul", back, wide), batch, height, channels, width)
    return only(node, t.transpose(dx, 0, 2, 1, 3))


def _largest_sample(t: Tape, node: Node, dy: str) -> Grads:
    """dx goes to the largest product in a bin of an element near a sample and its bilinear weight. (roialign.cc)"""
    items = node.inputs[2]
    rows, columns = t.shape(node.outputs[0])[2:]
    down, across = (_neighbours(t, node, axis, bins) for axis, bins in ((1, rows), (0, columns)))
    return _to_largest(t, node, dy, t.cast(items, np.int64), down, across)


def _neighbours(t: Tape, node: Node, axis: int, bins: int) -> _Taps:
    """Emit the two elements around each sample along an axis."""
    x, rois, _ = node.inputs
    size = t.shape(x)[3 - axis]
    place, known, counts, _ = _sampled(t, node, axis, bins, size)
    low = t.emit("Floor", place)
    part = t.emit("Sub", place, low)
    weight = _side_by_side(t, t.emit("Sub", t.scalar(1, like=rois), part), part)
    weight = t.emit("Where", t.emit("Unsqueeze", known, t.ints(3)), weight, t.scalar(0, like=rois))
    low = t.cast(low, np.int64)
    high = t.emit("Min", t.emit("Add", low, t.constant(1, np.int64)), t.constant(size - 1, np.int64))
    flat = t.ints(t.shape(rois)[0], bins, -1)
    places = _side_by_side(t, low, high)
    within = t.emit("Expand", t.emit("Unsqueeze", counts, t.ints(-1)), t.emit("Shape", places))
    return _Taps(*(t.emit("Reshape", value, flat) for value in (places, within, t.cast(weight, t.specs[x].dtype))))


def _side_by_side(t: Tape, one: str, two: str) -> str:
    return t.emit("Concat", *(t.emit("Unsqueeze", value, t.ints(3)) for value in (one, two)), axis=3)


def _samples(t: Tape, node: Node, axis: int, bins: int, size: int) -> str:
    """Emit the weights of elements in each bin along an axis (0: columns, 1: rows): [regions, bins, size]."""
    x, rois, _ = node.inputs
    count = t.shape(rois)[0]
    place, known, counts, per_bin = _sampled(t, node, axis, bins, size)
    elements = t.constant(np.arange(size), t.specs[rois].dtype)
    distance = t.emit("Abs", t.emit("Sub", t.emit("Unsqueeze", place, t.ints(3)), elements))
    weight = t.emit("Relu", t.emit("Sub", t.scalar(1, like=rois), distance))
    known = t.emit("Unsqueeze", t.emit("And", known, counts), t.ints(3))
    weight = t.emit("Where", known, weight, t.scalar(0, like=rois))
    mean = t.emit("Div", t.emit("ReduceSum", weight, t.ints(2), keepdims=0), per_bin)
    return t.cast(t.declare(mean, (count, bins, size), t.specs[rois].dtype), t.specs[x].dtype)


def _sampled(t: Tape, node: Node, axis: int, bins: int, size: int) -> tuple[str, str, str, str]:
    """Emit where samples are along an axis, within the image, [regions, bins, samples], and which lie near to it.

    Then which count, and what those of a bin are divided by; see `_samples_per_bin`.
    """
    rois = node.inputs[1]
    count = t.shape(rois)[0]

    def number(value: float) -> str:
        return t.scalar(value, like=rois)

    halves = node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    corners = t.emit(
        "Mul", t.emit("Gather", rois, t.ints(axis, axis + 2), axis=1), number(node.get("spatial_scale", 1))
    )
    ends = t.emit_many("Split", corners, count=2, axis=1, num_outputs=2)
    start, end = (t.emit("Reshape", edge, t.ints(count, 1, 1)) for edge in ends)
    extent = t.emit("Sub", end, start)
    if halves:
        start = t.emit("Sub", start, number(0.5))
    else:
        extent = t.emit("Max", extent, number(1))
    step = t.emit("Div", extent, number(bins))
    per_bin, numbers, counts = _samples_per_bin(t, node, step)
    part = t.emit("Div", t.emit("Add", numbers, number(0.5)), per_bin)
    bin_numbers = t.constant(np.arange(bins).reshape(-1, 1), t.specs[rois].dtype)
    place = t.emit("Add", start, t.emit("Mul", t.emit("Add", bin_numbers, part), step))
    known = t.emit("And", t.emit("GreaterOrEqual", place, number(-1)), t.emit("LessOrEqual", place, number(size)))
    return t.emit("Clip", place, number(0), number(size - 1)), known, counts, per_bin


def _samples_per_bin(t: Tape, node: Node, step: str) -> tuple[str, str, str]:
    """Emit what the samples of a bin are divided by along an axis, their numbers from 0 on, and which of these count.

    Without a ratio there are as many as the bin's extent in elements, rounded up: none in a region of no extent. All
    regions then get the numbers of the largest one.
    """
    rois = node.inputs[1]
    dtype, ratio = t.specs[rois].dtype, node.get("sampling_ratio", 0)
    if ratio > 0:
        return t.constant(ratio, dtype), t.constant(np.arange(ratio), dtype), t.constant(True, np.bool_)
    most, one = t.emit("Ceil", step), t.scalar(1, like=rois)
    per_bin = t.emit("Max", most, one)
    numbers = t.emit("Range", t.scalar(0, like=rois), t.emit("ReduceMax", per_bin, keepdims=0), one)
    return per_bin, numbers, t.emit("Less", numbers, most)


@dataclass(frozen=True)
class _Taps:
    """The elements that bins see along an axis, [regions, bins, most] each.

    places: their numbers; within: which of them count; weight: what they are multiplied by, "" for 1
    """

    places: str
    within: str
    weight: str = ""


@vjp("MaxRoiPool")
def max_roi_pool(t: Tape, node: Node, dy: str) -> Grads:
    """dx goes to the first largest element of a bin; an empty bin is 0. (onnxruntime, roipool.cc)"""
    x, rois = node.inputs
    height, width = t.shape(x)[2:]
    rows, columns = t.shape(node.outputs[0])[2:]
    down, across = _bins(t, node, 1, rows, height), _bins(t, node, 0, columns, width)
    item = t.cast(t.emit("Gather", rois, t.ints(0), axis=1), np.int64)
    return _to_largest(t, node, dy, item, down, across)


def _to_largest(t: Tape, node: Node, dy: str, item: str, down: _Taps, across: _Taps) -> Grads:
    """Return dx where a bin's value is the largest of what it sees; `item` says the image of each region.

    The elements of all bins are gathered, as many per bin as the largest has.
    """
    x = node.inputs[0]
    batch, channels, height, width = t.shape(x)
    count, _, rows, columns = t.shape(node.outputs[0])
    places = t.reshape(t.transpose(x, 0, 2, 3, 1), batch * height * width, channels)
    first = t.emit("Mul", t.reshape(item, count, 1, 1), t.ints(height))
    lines = t.emit("Mul", t.emit("Add", down.places, first), t.ints(width))

    def pair(op: str, a: str, b: str) -> str:
        both = t.emit(op, t.emit("Unsqueeze", a, t.ints(2, 4)), t.emit("Unsqueeze", b, t.ints(1, 3)))
        return t.emit("Reshape", both, t.ints(count, rows, columns, -1))

    index = pair("Add", lines, across.places)
    inside = t.emit("Unsqueeze", pair("And", down.within, across.within), t.ints(4))
    seen = t.emit("Gather", places, index, axis=0)
    weight = pair("Mul", down.weight, across.weight) if down.weight else ""
    seen = t.emit("Mul", seen, t.emit("Unsqueeze", weight, t.ints(4))) if weight else seen
    winner = t.emit("ArgMax", t.emit("Where", inside, seen, t.scalar(-np.inf, like=x)), axis=3, keepdims=0)
    winner = t.emit("Reshape", winner, t.ints(count, rows, columns, -1))
    chosen = t.emit("GatherElements", index, winner, axis=3)
    chosen = t.declare(chosen, (count, rows, columns, channels), np.int64)
    target = t.emit("Add", t.emit("Mul", chosen, t.ints(channels)), t.constant(np.arange(channels), np.int64))
    is_filled = t.emit("ReduceMax", t.emit("CastLike", inside, x), t.ints(3), keepdims=0)
    share = t.emit("Mul", t.transpose(dy, 0, 2, 3, 1), is_filled)
    share = t.emit("Mul", share, t.emit("GatherElements", weight, winner, axis=3)) if weight else share
    zeros = t.emit("Expand", t.scalar(0, like=x), t.ints(prod(t.shape(x))))
    sizes = (target, share)
    index, share = (t.emit("Reshape", value, t.ints(count * rows * columns * channels)) for value in sizes)
    dx = scatter_add(t, zeros, index, share, 0, t.specs[x].dtype)
    return only(node, t.transpose(t.emit("Reshape", dx, t.ints(batch, height, width, channels)), 0, 3, 1, 2))


def _bins(t: Tape, node: Node, axis: int, bins: int, size: int) -> _Taps:
    """Emit the elements of each bin along an axis (0: columns, 1: rows)."""
    rois = node.inputs[1]
    dtype = t.specs[rois].dtype

    def number(value: float) -> str:
        return t.scalar(value, like=rois)

    scaled = t.emit(
        "Mul", t.emit("Gather", rois, t.ints(axis + 1, axis + 3), axis=1), number(node.get("spatial_scale", 1))
    )
    nearest = t.emit("Mul", t.emit("Sign", scaled), t.emit("Floor", t.emit("Add", t.emit("Abs", scaled), number(0.5))))
    start, end = t.emit_many("Split", nearest, count=2, axis=1, num_outputs=2)
    extent = t.emit("Max", t.emit("Add", t.emit("Sub", end, start), number(1)), number(1))
    step = t.emit("Div", extent, number(bins))
    edges = t.constant(np.arange(bins), dtype), t.constant(np.arange(1, bins + 1), dtype)
    low = t.emit("Floor", t.emit("Mul", step, edges[0]))
    high = t.emit("Ceil", t.emit("Mul", step, edges[1]))
    low, high = (
        t.cast(t.emit("Clip", t.emit("Add", edge, start), number(0), number(size)), np.int64) for edge in (low, high)
    )
    low, high = (t.emit("Unsqueeze", edge, t.ints(2)) for edge in (low, high))
    most = t.emit("Max", t.emit("ReduceMax", t.emit("Sub", high, low), keepdims=0), t.constant(1, np.int64))
    places = t.emit("Add", low, t.emit("Range", t.constant(0, np.int64), most, t.constant(1, np.int64)))
    within = t.emit("Less", places, high)
    return _Taps(t.emit("Min", places, t.constant(size - 1, np.int64)), within)
