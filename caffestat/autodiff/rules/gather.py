"""Ops that pick elements by index, and those that put them."""

from __future__ import annotations

import math

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, only, scatter, scatter_add


@vjp("Gather")
def gather(t: Tape, node: Node, dy: str) -> Grads:
    x, indices = node.inputs
    shape = t.shape(x)
    axis = node.get("axis", 0) % len(shape)
    picked = [*shape[:axis], math.prod(t.shape(indices)), *shape[axis + 1 :]]
    slices = t.reshape(dy, *picked)
    if indices in t.constants and (run := _run(t.constants[indices], shape[axis])):
        t.accumulate_stretch(x, axis, run, slices)
        return [None, None]
    return [scatter(t, slices, x, picked, t.cast(indices, np.int64), axis, shape[axis]), None]


def _run(indices: np.ndarray, size: int) -> range:
    """Return the stretch of an axis that indices name one after the other, empty when they do not."""
    places = indices.ravel() % size
    run = range(int(places[0]), int(places[0]) + places.size) if places.size else range(0)
    return run if (places == np.asarray(run)).all() else range(0)


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
    if depth == 1 and not lead:
        count = math.prod(picked)
        slices = t.reshape(dy, count, *shape[1:])
        return [scatter(t, slices, x, [count, *shape[1:]], indices, 0, shape[0]), None]
    dims, rest = shape[lead : lead + depth], shape[lead + depth :]
    batch, count, width = math.prod(shape[:lead]), math.prod(picked[lead:-1]), math.prod(rest)
    strides = t.ints(*(math.prod(dims[i + 1 :]) for i in range(depth)))
    wrapped = t.emit("Mod", indices, t.ints(*dims))  # negative indices count from the end
    flat = t.emit("ReduceSum", t.emit("Mul", wrapped, strides), t.ints(-1), keepdims=0)
    index = t.emit("Expand", t.reshape(flat, batch, count, 1), t.ints(batch, count, width))
    zeros = t.zeros((batch, math.prod(dims), width), t.specs[x].dtype)
    grad = t.reshape(dy, batch, count, width)
    return [t.reshape(scatter_add(t, zeros, index, grad, 1, t.specs[x].dtype), *shape), None]


@vjp("ScatterElements")
def scatter_elements(t: Tape, node: Node, dy: str) -> Grads:
    _, indices, updates = node.inputs
    axis = node.get("axis", 0)
    picked = t.emit("GatherElements", dy, indices, axis=axis) if t.needs(updates) else None
    if _adds(node):
        return [dy, None, picked]
    return [t.emit("ScatterElements", dy, indices, t.zeros_like(updates), axis=axis), None, picked]


@vjp("ScatterND")
def scatter_nd(t: Tape, node: Node, dy: str) -> Grads:
    _, indices, updates = node.inputs
    picked = t.emit("GatherND", dy, indices) if t.needs(updates) else None
    if _adds(node):
        return [dy, None, picked]
    return [t.emit("ScatterND", dy, indices, t.zeros_like(updates)), None, picked]


def _adds(node: Node) -> bool:
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise GradientError(f"{node.op} (value {node.outputs[0]}): reduction {reduction!r} has no gradient rule")
    return bool(reduction == "add")


@vjp("TopK")
def top_k(t: Tape, node: Node, dy: str) -> Grads:
    x = node.inputs[0]
    zeros, axis = t.zeros_like(x), node.get("axis", -1)
    return only(node, scatter_add(t, zeros, node.outputs[1], dy, axis, t.specs[x].dtype))


@vjp("Compress")
def compress(t: Tape, node: Node, dy: str) -> Grads:
    """Each slice that was kept gives its dy back; the others get zero."""
    x, kept = node.inputs
    shape, axis = t.shape(x), node.get("axis")
    positions = t.emit("NonZero", kept)
    if axis is None:
        flat = scatter(t, dy, x, t.shape(node.outputs[0]), positions, 0, math.prod(shape))
        return [t.reshape(flat, *shape), None]
    axis %= len(shape)
    return [scatter(t, dy, x, t.shape(node.outputs[0]), positions, axis, shape[axis]), None]
