"""The values that the params start with: drawn by the fillers in Caffe's order, or those that the net itself holds."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.lazy import np
from caffestat.schema.blobs import blob_shape, fits

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.layers import Param

    from .model import Net, Node

__all__ = ["draw_params", "unfilled", "with_assumed_filler"]

_FLOAT = 4  # bytes


def with_assumed_filler(param: Param, filler_type: str | None) -> Param:
    """Return the param, a weight without a written filler given the assumed one."""
    if filler_type is None or param.written or param.role != "weight":
        return param
    return replace(param, filler=replace(param.filler, type=filler_type))


def draw_params(net: Net, stream: Stream, assume_filler: str | None = None) -> list[np.ndarray]:
    """Return the initial values of every param by its index in `net.params`, bit for bit as Caffe draws them.

    A sharer draws too, then holds its owner's values; a layer that computes with the draw keeps it. `assume_filler` is
    the type for weights that have none written.
    Raises NetError for a filler that cannot fill its blob, InputError when the memory that is free cannot hold them.
    """
    from caffestat.engine.need import check_memory, need_of_draws

    sizes = [math.prod(entry.param.shape) * _FLOAT for entry in net.params]  # a sharer draws an array of its own
    check_memory(need_of_draws(sizes), "drawing the params")
    values: list[np.ndarray] = []
    for node in net.nodes:
        if not node.has_shapes:
            continue
        bottoms = [shape for shape in node.bottom_shapes if shape is not None]
        declared = [with_assumed_filler(net.params[number].param, assume_filler) for number in node.params]
        if node.layer.proto.blobs and node.layer.keeps_blobs:
            values.extend(_written_values(net, node))
            continue
        try:
            values.extend(node.layer.draw_params(stream, declared, bottoms))
        except InputError as error:
            raise node.layer.error(str(error)) from error
        node.layer.draw_setup(stream)
    for number, param in enumerate(net.params):
        if param.owner is not None:
            layer = net.nodes[param.node].layer
            if layer.keeps_drawn:
                layer.own_draws[param.index] = values[number]
            values[number] = values[param.owner].reshape(param.param.shape)
    return values


def _written_values(net: Net, node: Node) -> list[np.ndarray]:
    """Return the values of the blobs that the net itself holds for a layer, in place of draws. (layer.hpp, Layer)"""
    blobs, shapes = node.layer.proto.blobs, [net.params[number].param.shape for number in node.params]
    if len(blobs) != len(shapes):
        raise node.layer.error(f"expected a blob for each of its params ({len(shapes)}) or none, found {len(blobs)}")
    values = [np.array(blob.double_data or blob.data, np.float32) for blob in blobs]
    for blob, array, shape in zip(blobs, values, shapes, strict=True):
        if not fits(blob, shape) or array.size != math.prod(shape):
            found = f"shape {blob_shape(blob)} and {array.size} values"
            raise node.layer.error(f"expected blobs of its params' shapes; one of shape {shape} has {found}")
    return [array.reshape(shape) for array, shape in zip(values, shapes, strict=True)]


def unfilled(net: Net) -> list[Node]:
    """Return the layers with a weight without a written filler: Caffe starts them at zero."""
    return [
        node
        for node in net.nodes
        if any(net.params[n].param.role == "weight" and not net.params[n].param.written for n in node.params)
    ]
