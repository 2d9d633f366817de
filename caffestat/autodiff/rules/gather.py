"""Ops that pick elements by index."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from caffestat.graph import Node, Spec

from ..engine import Tape, vjp, vjp_of_rows
from ..sparse import Rows, Stretch, are_distinct, scatter, scatter_add
from .common import Grads, flat_index, only


@vjp("Gather")
def gather(t: Tape, node: Node, dy: str) -> Grads:
    x, indices = node.inputs
    shape, axis = t.shape(x), _axis(t, node)
    picked = [*shape[:axis], math.prod(t.shape(indices)), *shape[axis + 1 :]]
    slices = t.reshape(dy, *picked)
    if indices in t.constants and (run := _run(t.constants[indices], shape[axis])):
        return [Stretch(axis, run, slices), None]
    if axis == 0:
        return [_rows(t, x, indices, slices), None]
    return [scatter(t, slices, x, picked, t.cast(indices, np.int64), axis, shape[axis]), None]


def _axis(t: Tape, node: Node) -> int:
    return int(node.get("axis", 0)) % len(t.shape(node.inputs[0]))


def _run(indices: np.ndarray, size: int) -> range:
    """Return the stretch of an axis that indices name one after the other, empty when they do not."""
    places = indices.ravel() % size
    run = range(int(places[0]), int(places[0]) + places.size) if places.size else range(0)
    return run if (places == np.asarray(run)).all() else range(0)


def _rows(t: Tape, x: str, positions: str, dy: str) -> Rows:
    """Return the gradient of x from that of the slices along its first axis that positions name: dy [positions, …]."""
    places = t.cast(positions, np.int64)
    t.specs.setdefault(places, Spec(t.shape(positions), np.dtype(np.int64)))
    return Rows(places, math.prod(t.shape(positions)), t.shape(x)[0], dy, are_distinct(t, positions))


# ---- gradients that are rows ----


@vjp_of_rows("Compress", "Gather", "GatherND", "TopK")
def rows_of_picked(t: Tape, node: Node, rows: Rows) -> Grads | None:
    """Row i of y = x[positions] is row positions[i] of x."""
    x, y = node.inputs[0], node.outputs[0]
    if (place := _selected(t, node)) is not None:
        return _rows_of_selected(t, node, rows, *place)
    positions = _positions(t, node)
    if positions is None or rows.depth > 1:
        return None
    of_x, of_y = _of_known_number(t, positions), rows.places
    tail = t.shape(of_x)[1:]
    if tail not in ((), (1,)):
        of_x, tail = t.reshape(of_x, t.shape(y)[0]), ()
    if tail:
        of_y = t.reshape(of_y, rows.count)
    places = t.declare(t.once("Gather", of_x, of_y, axis=0), (*t.shape(of_y), *tail), np.int64)
    distinct = rows.are_distinct and are_distinct(t, positions)
    return only(node, Rows(places, rows.count, t.shape(x)[0], rows.dy, distinct))


def _of_known_number(t: Tape, positions: str) -> str:
    """Return positions as int64; a Reshape refuses data that leads to another number than the run that found it."""
    shape, places = t.shape(positions), t.cast(positions, np.int64)
    if t.graph.is_settled and positions not in t.constants:
        places = t.once("Reshape", places, t.ints(*shape))
    return t.declare(places, shape, np.int64)


def _selected(t: Tape, node: Node) -> tuple[int, int] | None:
    """Return the axis, and its place, of which a node picks the one slice, without the axis; None for other nodes."""
    if node.op != "Gather" or node.inputs[1] not in t.constants or t.shape(node.inputs[1]):
        return None
    axis = _axis(t, node)
    return axis, int(t.constants[node.inputs[1]]) % t.shape(node.inputs[0])[axis]


def _rows_of_selected(t: Tape, node: Node, rows: Rows, axis: int, place: int) -> Grads | None:
    """Row i of the slice at one place of the first axis, or of the axis behind the rows', is one of x's finer rows."""
    if axis == 0:
        before = place * math.prod(t.shape(node.outputs[0])[: rows.depth])
        return only(node, replace(rows, depth=rows.depth + 1, offset=rows.offset + before))
    if axis == rows.depth:
        size = t.shape(node.inputs[0])[axis]
        finer = replace(rows, depth=axis + 1, scale=rows.scale * size, offset=rows.offset * size + place)
        return only(node, finer)
    return None


def _positions(t: Tape, node: Node) -> str | None:
    """Return the positions along the first axis at which a node picks slices, one after the other; None for others."""
    x, y = node.inputs[0], node.outputs[0]
    if node.op == "TopK":
        return node.outputs[1] if len(t.shape(x)) == 1 else None
    if node.op == "Compress":
        axis = node.get("axis")
        along = len(t.shape(x)) == 1 if axis is None else axis % len(t.shape(x)) == 0
        return t.declare(t.once("NonZero", node.inputs[1]), (1, t.shape(y)[0]), np.int64) if along else None
    indices = node.inputs[1]
    if node.op == "GatherND":
        return indices if len(t.shape(indices)) == 2 and _is_along_first(t, node) else None
    return indices if len(t.shape(indices)) == 1 and _axis(t, node) == 0 else None


def _is_along_first(t: Tape, node: Node) -> bool:
    return t.shape(node.inputs[1])[-1] == 1 and not node.get("batch_dims", 0)


# ---- other indices ----


@vjp("GatherElements")
def gather_elements(t: Tape, node: Node, dy: str) -> Grads:
    x, indices = node.inputs
    axis = node.get("axis", 0)
    return [scatter_add(t, t.zeros_like(x), indices, dy, axis, t.specs[x].dtype), None]


@vjp("GatherND")
def gather_nd(t: Tape, node: Node, dy: str) -> Grads:
    """One scatter along the indexed axes, flattened into one; along one axis, as masks pick, it is that of Gather."""
    x, indices = node.inputs
    shape, picked, lead = t.shape(x), t.shape(indices), node.get("batch_dims", 0)
    depth = picked[-1]
    if _is_along_first(t, node):
        return [_rows(t, x, indices, t.reshape(dy, math.prod(picked), *shape[1:])), None]
    dims, rest = shape[lead : lead + depth], shape[lead + depth :]
    batch, count, width = math.prod(shape[:lead]), math.prod(picked[lead:-1]), math.prod(rest)
    index = flat_index(t, indices, dims, (batch, count, width))
    zeros = t.zeros((batch, math.prod(dims), width), t.specs[x].dtype)
    grad = t.reshape(dy, batch, count, width)
    return [t.reshape(scatter_add(t, zeros, index, grad, 1, t.specs[x].dtype), *shape), None]


@vjp("TopK")
def top_k(t: Tape, node: Node, dy: str) -> Grads:
    x, positions = node.inputs[0], _positions(t, node)
    if positions is not None:
        return only(node, _rows(t, x, positions, dy))
    zeros, axis = t.zeros_like(x), node.get("axis", -1)
    return only(node, scatter_add(t, zeros, node.outputs[1], dy, axis, t.specs[x].dtype))


@vjp("Compress")
def compress(t: Tape, node: Node, dy: str) -> Grads:
    """Each slice that was kept gives its dy back; the others get zero."""
    x, kept = node.inputs
    shape, axis = t.shape(x), node.get("axis")
    if (positions := _positions(t, node)) is not None:
        return [_rows(t, x, positions, dy), None]
    count = math.prod(t.shape(node.outputs[0])) if axis is None else t.shape(node.outputs[0])[axis]
    positions = t.declare(t.once("NonZero", kept), (1, count), np.int64)
    if axis is None:
        flat = scatter(t, dy, x, [count], positions, 0, math.prod(shape))
        return [t.reshape(flat, *shape), None]
    return [scatter(t, dy, x, t.shape(node.outputs[0]), positions, axis % len(shape), shape[axis]), None]


@vjp("OneHot")
def one_hot(t: Tape, node: Node, dy: str) -> Grads:
    """Of the two values, [elsewhere, at the indices], each gets the sum of dy over the elements that have it."""
    indices, depth, values = node.inputs
    marks = t.constant(np.array([0, 1]), t.specs[values].dtype)
    there = t.emit("Mul", dy, t.emit("OneHot", indices, depth, marks, axis=node.get("axis", -1)))
    whole, on = (t.reshape(t.emit("ReduceSum", value, keepdims=0), 1) for value in (dy, there))
    return [None, None, t.emit("Concat", t.emit("Sub", whole, on), on, axis=0)]
