"""Gradients that are zero outside of a part of their value.

A rule returns a Stretch or Rows in the place of a gradient that is mostly zeros. The reverse walk keeps them until the
whole gradient is read: all parts of one value are then put into zeros at once. Rows of a value that was itself picked
from another one (`boxes[kept][best]`) become rows of that one, without the gradient in between.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from caffestat.graph import Graph
from caffestat.ops import Elements

if TYPE_CHECKING:
    from .engine import Tape

__all__ = ["Grad", "Rows", "Stretch", "are_distinct", "join_rows", "scatter", "scatter_add", "whole"]

_FLOAT = int(TensorProto.FLOAT)


@dataclass(frozen=True)
class Stretch:
    """A gradient that is zero but for the places of one axis, which follow each other."""

    axis: int
    places: range
    dy: str


@dataclass(frozen=True)
class Rows:
    """A gradient that is zero but for some rows of its value.

    places: int64, `count` row numbers; negative ones count from the end. The number of the row in the value is
            scale · place + offset
    size:   how many rows the places are counted in
    dy:     [count, …], the gradients of the rows
    depth:  a row is what one place of the value's first `depth` axes holds; these are numbered in row-major order
    are_distinct: no row is named twice
    """

    places: str
    count: int
    size: int
    dy: str
    are_distinct: bool = False
    depth: int = 1
    scale: int = 1
    offset: int = 0

    @property
    def form(self) -> tuple[int, int, int]:
        """What the rows of a value must share to be joined."""
        return self.depth, self.size, self.scale


Grad = str | Stretch | Rows | None


def whole(tape: Tape, value: str, parts: Sequence[Stretch | Rows]) -> Iterator[str]:
    """Emit the gradients of a value that are zero but for some parts; yield their names, as few as possible."""
    yield from _stretches(tape, value, [part for part in parts if isinstance(part, Stretch)])
    groups: defaultdict[tuple[int, int, int], list[Rows]] = defaultdict(list)
    for part in parts:
        if isinstance(part, Rows):
            groups[part.form].append(part)
    for group in groups.values():
        yield _put_back(tape, value, join_rows(tape, value, group))


# ---- stretches ----


def _stretches(tape: Tape, value: str, found: Sequence[Stretch]) -> Iterator[str]:
    """Join stretches of one axis that do not overlap by one Concat, in the place of a Pad each and their sum."""
    found = sorted(found, key=lambda stretch: (stretch.axis, stretch.places.start))
    while found:
        joined, rest = found[:1], found[:0]
        for stretch in found[1:]:
            fits = stretch.axis == joined[0].axis and stretch.places.start >= joined[-1].places.stop
            (joined if fits else rest).append(stretch)
        yield _side_by_side(tape, value, joined)
        found = rest


def _side_by_side(tape: Tape, value: str, stretches: Sequence[Stretch]) -> str:
    """Emit a gradient that is zero outside of stretches of one axis, which follow each other."""
    shape, axis, places = tape.shape(value), stretches[0].axis, stretches[0].places
    if len(stretches) == 1:
        pads = np.zeros((2, len(shape)), np.int64)
        pads[:, axis] = places.start, shape[axis] - places.stop
        return tape.emit("Pad", stretches[0].dy, tape.ints(*pads.ravel())) if pads.any() else stretches[0].dy
    parts, end = [], 0
    for stretch in stretches:
        parts += [*_gap(tape, value, axis, stretch.places.start - end), stretch.dy]
        end = stretch.places.stop
    return tape.concat([*parts, *_gap(tape, value, axis, shape[axis] - end)], axis)


def _gap(tape: Tape, value: str, axis: int, size: int) -> list[str]:
    """Return zeros of so many places along an axis of a value; none for no places."""
    shape = tape.shape(value)
    return [tape.zeros((*shape[:axis], size, *shape[axis + 1 :]), tape.specs[value].dtype)] if size else []


# ---- rows ----


def join_rows(tape: Tape, value: str, parts: Sequence[Rows]) -> Rows:
    """Return rows of one form as one; of several ones, the places are the numbers of the rows in the value."""
    if len(parts) == 1:
        return parts[0]
    ordered = parts[::-1]  # the walk met the last of the forward pass first
    depth, count = parts[0].depth, sum(part.count for part in parts)
    shape = tape.shape(value)
    dy = tape.concat([part.dy for part in ordered], 0)
    tape.declare(dy, (count, *shape[depth:]), tape.specs[value].dtype)
    size = math.prod(shape[:depth])
    return Rows(_numbers(tape, ordered, size), count, size, dy, depth=depth)


def _numbers(tape: Tape, parts: Sequence[Rows], size: int) -> str:
    """Emit the numbers of the rows of some parts of one form, of `size` rows of the value."""
    together = _together(tape, parts)
    form = parts[0]
    offsets = np.repeat([part.offset for part in parts], [part.count for part in parts])
    if form.size == size:
        return together
    shape = tape.shape(together)
    from_start = tape.once("Mod", together, tape.ints(form.size))  # -1 is the last row of those that are counted
    scaled = from_start if form.scale == 1 else tape.once("Mul", from_start, tape.ints(form.scale))
    if offsets.any():
        scaled = tape.emit("Add", scaled, tape.constant(offsets.reshape(shape), np.int64))
    return tape.declare(scaled, shape, np.int64)


def _together(tape: Tape, parts: Sequence[Rows]) -> str:
    """Emit the places of some parts, one after the other: [places] or [places, 1]."""
    if len(parts) == 1:
        return parts[0].places
    tails = {tape.shape(part.places)[1:] for part in parts}
    alike = tails in ({()}, {(1,)})
    places = [part.places if alike else tape.reshape(part.places, part.count) for part in parts]
    count = sum(part.count for part in parts)
    return tape.declare(tape.once("Concat", *places, axis=0), (count, *(tails.pop() if alike else ())), np.int64)


def _put_back(tape: Tape, value: str, rows: Rows) -> str:
    """Emit the whole gradient."""
    shape = tape.shape(value)
    size, picked = math.prod(shape[: rows.depth]), (rows.count, *shape[rows.depth :])
    numbers = _numbers(tape, [rows], size)
    flat = scatter(tape, rows.dy, value, picked, numbers, 0, size, rows.are_distinct)
    tape.declare(flat, (size, *picked[1:]), tape.specs[value].dtype)
    return tape.reshape(flat, *shape)


# ---- scatters ----


def scatter(
    tape: Tape,
    grad: str,
    like: str,
    shape: Sequence[int],
    positions: str,
    axis: int,
    size: int,
    distinct: bool = False,
) -> str:
    """Add the slices of `grad` (of shape `shape`) at `positions` of an axis of length `size` into zeros.

    positions: int64, one position per slice; negative ones count from the end
    distinct:  none of them is named twice
    """
    zeros = tape.zeros((*shape[:axis], size, *shape[axis + 1 :]), tape.specs[like].dtype)
    rows = (shape[axis], 1)
    if axis == 0 and distinct and (len(shape) > 1 or tape.shape(positions) == rows):
        return tape.emit("ScatterND", zeros, tape.reshape(positions, *rows), grad)
    index = tape.reshape(positions, *(shape[axis] if i == axis else 1 for i in range(len(shape))))
    if math.prod(shape) != shape[axis]:
        index = tape.emit("Expand", index, tape.ints(*shape))
    return scatter_add(tape, zeros, index, grad, axis, tape.specs[like].dtype)


def are_distinct(tape: Tape, positions: str) -> bool:
    """Tell whether positions along one axis are known to be different ones."""
    if positions in tape.constants:
        array = tape.constants[positions]
        return bool(array.size and array.min() >= 0 and np.unique(array).size == array.size)
    moved = tape.flow.chain(positions, lambda step: tape.graph.nodes[step].info.elements is Elements.MOVED)
    *_, source = moved
    step = tape.flow.writer(source)
    if step is None:
        return False
    node = tape.graph.nodes[step]
    rule = node.info.distinct.get(node.outputs.index(source))
    return rule is not None and math.prod(tape.shape(source)) == tape.shape(source)[rule(tape.graph.call(node))]


def scatter_add(tape: Tape | Graph, base: str, index: str, updates: str, axis: int, dtype: Any) -> str:
    """Add each update to the element of `base` that its index names along an axis; both are of type `dtype`.

    ScatterND sums into one place from several threads in onnxruntime's CPU kernel and loses terms; this op does not. It
    has no kernel for the narrow floats, which are added as float32.
    """
    if np.dtype(dtype).itemsize > 2:
        return tape.emit("ScatterElements", base, index, updates, axis=axis, reduction="add")
    base, updates = (tape.emit("Cast", value, to=_FLOAT) for value in (base, updates))
    wide = tape.emit("ScatterElements", base, index, updates, axis=axis, reduction="add")
    return tape.emit("Cast", wide, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))
