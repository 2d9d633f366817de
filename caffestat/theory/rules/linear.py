"""Convolutions and matrix products: sums over weights that are independent of what they multiply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..lags import Axis, Sharing, along_axes, at_lags, near_lags
from ..quadrature import Array
from ..signal import Gradient, Signal
from ..sums import batch_and_places, reduced, through_weights, weighted_sum

Gradients = Sequence[Gradient | None]


def known(signal: Signal | None) -> Signal:
    """Return a signal that the walk has already found to be known."""
    assert signal is not None
    return signal


def windows(walk: Walk, node: Node) -> tuple[Axis, ...]:
    """Return per spatial axis how the node's window slides."""
    rule = node.info.window
    assert rule is not None
    return Axis.of(rule(walk.graph.call(node)))


def profile_of(spatial_profile: Array | None, space: Sequence[int]) -> Array:
    """Return a spatial_profile of the given places, flat where none is known."""
    return spatial_profile if spatial_profile is not None and spatial_profile.shape == tuple(space) else np.ones(space)


@moments("Conv", windows=True)
def conv(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = W * x + b."""
    x, w, b = _operands(walk, node)
    axes = windows(walk, node)
    at = along_axes([axis.reads for axis in axes], profile_of(x.spatial_profile, walk.shape(node.inputs[0])[2:]))
    return [weighted_sum(x, w, b, at, walk.shape(node.inputs[1])[1], Sharing.forward(axes), node.get("group", 1))]


@backward_moments("Conv")
def conv_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Wᵀ * dy, dW = Σ x·dy over samples and places."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    x, w, _ = _operands(walk, node)
    axes = windows(walk, node)
    reach = along_axes([axis.reads.T for axis in axes], profile_of(dy.spatial_profile, walk.shape(node.outputs[0])[2:]))
    groups = node.get("group", 1)
    dx = through_weights(dy, y, w, reach, walk.shape(node.inputs[1])[0] / groups, Sharing.backward(axes), groups)
    space, diffs = dy.cross_spatial(y.rho_spatial), dy.cross_lag(y, [a.places for a in axes])
    near = (_strided(axes, x.cross_lag([a.size for a in axes]), x.cross_spatial) - x.cross_spatial) * (diffs - space)
    return [dx, *_param_gradients(walk, node, dy, y, x, node.outputs[0], axes, near)]


@moments("ConvTranspose", windows=True)
def conv_transpose(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = Wᵀ * x + b."""
    x, w, b = _operands(walk, node)
    axes = windows(walk, node)
    at = along_axes([axis.reads.T for axis in axes], profile_of(x.spatial_profile, walk.shape(node.inputs[0])[2:]))
    groups = node.get("group", 1)
    return [weighted_sum(x, w, b, at, walk.shape(node.inputs[1])[0] / groups, Sharing.backward(axes), groups)]


@backward_moments("ConvTranspose")
def conv_transpose_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = W * dy, dW = Σ x·dy over samples and places."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    x, w, _ = _operands(walk, node)
    axes = windows(walk, node)
    reach = along_axes([axis.reads for axis in axes], profile_of(dy.spatial_profile, walk.shape(node.outputs[0])[2:]))
    groups = node.get("group", 1)
    dx = through_weights(dy, y, w, reach, walk.shape(node.inputs[1])[1], Sharing.forward(axes), groups)
    space, diffs = dy.cross_spatial(y.rho_spatial), dy.cross_lag(y, [a.size for a in axes])
    near = (x.cross_lag([a.places for a in axes]) - x.cross_spatial) * (_strided(axes, diffs, space) - space)
    return [dx, *_param_gradients(walk, node, dy, y, x, node.inputs[0], axes, near)]


def _operands(walk: Walk, node: Node) -> tuple[Signal, Signal, Signal | None]:
    b = known(walk.signal(node.inputs[2])) if len(node.inputs) > 2 and node.inputs[2] else None
    return known(walk.signal(node.inputs[0])), known(walk.signal(node.inputs[1])), b


def _strided(axes: Sequence[Axis], near: Array, far: float) -> Array:
    """Return the lag map of the image by the lags of the places."""
    lags = near_lags([axis.places for axis in axes])
    return at_lags(near, far, [lag * axis.stride for lag, axis in zip(lags, axes, strict=True)])


def _param_gradients(
    walk: Walk, node: Node, dy: Gradient, y: Signal, x: Signal, place: str, axes: Sequence[Axis], near: Array
) -> list[Gradient | None]:
    """Return the gradients of weights and bias; a weight meets the places of value `place` but for those at a border.

    near: the product of what E[x x'] and E[dy dy'] are more at a lag of these places than on average.
    """
    shape = walk.shape(place)
    met = math.prod(batch_and_places(shape)) * math.prod(float(axis.inside.mean()) for axis in axes)
    weight = reduced(x, dy, y, met, shape, near)
    grads: list[Gradient | None] = [Gradient.of(weight)]
    if len(node.inputs) > 2:
        tops = walk.shape(node.outputs[0])
        grads.append(Gradient.of(reduced(None, dy, y, math.prod(batch_and_places(tops)), tops)))
    return grads


@moments("Gemm", "MatMul", "FusedMatMul")
def matmul(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = x·W + b: n is the axis that is summed over."""
    x, w, b = _operands(walk, node)
    y = weighted_sum(x, w, b, np.ones(()), _inner(walk, node))
    return [replace(y, values=y.values * node.get("alpha", 1.0))]


@backward_moments("Gemm", "MatMul", "FusedMatMul")
def matmul_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy·Wᵀ, dW = xᵀ·dy."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    x, w, b = _operands(walk, node)
    tops = walk.shape(node.outputs[0])
    dx = through_weights(dy, y, w, np.ones(()), tops[-1] if tops else 1)
    rows = (math.prod(tops[:-1]), 1)
    grads: list[Gradient | None] = [dx, Gradient.of(reduced(x, dy, y, rows[0], rows))]
    if b:
        grads.append(Gradient.of(reduced(None, dy, y, rows[0], rows)))
    return [*grads, *[None] * (len(node.inputs) - len(grads))]


def _inner(walk: Walk, node: Node) -> int:
    shape = walk.shape(node.inputs[0])
    transposed = node.get("transA", 0) and len(shape) > 1
    return shape[-2 if transposed else -1] if shape else 1


@moments("Gather")
def gather(walk: Walk, node: Node) -> Sequence[Signal]:
    """Rows of a table: as its elements; two samples have the same row now and then."""
    table = known(walk.signal(node.inputs[0]))
    if not walk.shape(node.inputs[1]) or node.get("axis", 0):
        return [Signal(table.values, table.rho_spatial, table.rho_sample)]
    return [Signal(table.values, 0.0, 1 / max(walk.shape(node.inputs[0])[0], 1))]


@backward_moments("Gather")
def gather_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """d(row) = Σ dy over the places that took it."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    rows, taken = walk.shape(node.inputs[0]), walk.shape(node.inputs[1])
    if node.get("axis", 0):
        return [Gradient.of(reduced(None, dy, y, 1, (1, 1))), None]
    count = math.prod(taken) / max(rows[0], 1)
    return [Gradient.of(reduced(None, dy, y, count, (math.prod(taken), 1))), None]
