"""The values that the params start with: drawn by the fillers in Caffe's order, or copied from trained weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from caffestat.errors import InputError, Place
from caffestat.fillers import Stream
from caffestat.layers import Param
from caffestat.schema import NetParameter, read_binary

from .model import Net, Node
from .upgrade import Entry, upgrade

__all__ = ["blob_shape", "copy_weights", "draw_params", "fits", "unfilled", "with_assumed_filler"]


def with_assumed_filler(param: Param, filler_type: str | None) -> Param:
    """Return the param, a weight without a written filler given the assumed one."""
    if filler_type is None or param.written or param.role != "weight":
        return param
    return replace(param, filler=replace(param.filler, type=filler_type))


def draw_params(net: Net, stream: Stream, assume_filler: str | None = None) -> list[np.ndarray]:
    """Return the initial values of every param by its index in `net.params`, bit for bit as Caffe draws them.

    A sharer draws too, then holds its owner's values. `assume_filler` is the type for weights that have none written.
    Raises NetError for a filler that cannot fill its blob.
    """
    values: list[np.ndarray] = []
    for node in net.nodes:
        if not node.is_known:
            continue
        bottoms = [shape for shape in node.bottom_shapes if shape is not None]
        declared = [with_assumed_filler(net.params[number].param, assume_filler) for number in node.params]
        try:
            values.extend(node.layer.draw_params(stream, declared, bottoms))
        except InputError as error:
            raise node.layer.error(str(error)) from error
        node.layer.draw_setup(stream)
    for number, param in enumerate(net.params):
        if param.owner is not None:
            values[number] = values[param.owner].reshape(param.param.shape)
    return values


def unfilled(net: Net) -> list[Node]:
    """Return the layers with a weight whose filler nobody wrote: Caffe starts them at zero."""
    return [
        node
        for node in net.nodes
        if any(net.params[n].param.role == "weight" and not net.params[n].param.written for n in node.params)
    ]


def blob_shape(blob: Any) -> tuple[int, ...]:
    """Return a BlobProto's shape; blobs of old files have four axes."""
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    return (blob.num, blob.channels, blob.height, blob.width)


def _is_legacy(blob: Any) -> bool:
    return any(blob.HasField(name) for name in ("num", "channels", "height", "width"))


def fits(blob: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether the blob has this shape; a legacy one may have axes of size 1 in front. (blob.cpp, ShapeEquals)"""
    found = blob_shape(blob)
    if _is_legacy(blob):
        return len(shape) <= 4 and found == (1,) * (4 - len(shape)) + shape
    return found == shape


def _layers(path: str) -> Iterable[Any]:
    message = read_binary(path, NetParameter)
    place = Place(path)
    old = [Entry(layer, None, place) for layer in message.layers]
    new = [Entry(layer, None, place) for layer in message.layer]
    message.ClearField("layers")
    message.ClearField("layer")
    return [entry.proto for entry in upgrade(message, old, new, place)[1]]


def copy_weights(net: Net, values: list[np.ndarray], paths: Sequence[str], taken: set[int] | None = None) -> list[str]:
    """Overwrite initial values by those of trained models, layers matched by name as in Caffe.

    Later files win. The numbers of the params that were overwritten join `taken`. Returns a line about each file: how
    many layers were taken.
    Raises InputError when a file cannot be read or a blob does not fit.
    """
    by_name = {node.name: node for node in reversed(net.nodes)}
    return [_copy_file(net, values, by_name, path, set() if taken is None else taken) for path in paths]


def _copy_file(net: Net, values: list[np.ndarray], by_name: dict[str, Node], path: str, params: set[int]) -> str:
    taken = 0
    for source in _layers(path):
        node = by_name.get(source.name)
        if node is None or (not source.blobs and not node.params):
            continue
        if len(source.blobs) != len(node.params):
            raise InputError(
                f"{path}: layer {source.name!r} has {len(source.blobs)} blobs; "
                f"the net at {node.place} wants {len(node.params)}"
            )
        for index, blob in enumerate(source.blobs):
            _copy_blob(net, values, node, index, blob, path)
        params.update(node.params)
        taken += 1
    if not taken:
        raise InputError(
            f"{path}: no layer of the net has the name of one in this file; Caffe matches weights by layer name"
        )
    return f"{path}: weights of {taken} layers taken"


def _copy_blob(net: Net, values: list[np.ndarray], node: Node, index: int, blob: Any, path: str) -> None:
    number = node.params[index]
    shape = net.params[number].param.shape
    if not fits(blob, shape):
        raise InputError(
            f"{path}: layer {node.name!r}, param {index} has shape {blob_shape(blob)}; "
            f"the net at {node.place} wants {shape}; "
            "rename the layer in the net to leave its weights out"
        )
    data = blob.double_data if len(blob.double_data) else blob.data
    array = np.array(data, np.float32)
    if array.size != values[number].size:
        raise InputError(
            f"{path}: layer {node.name!r}, param {index} holds {array.size} values for shape {shape}: "
            "the file is damaged"
        )
    values[number][...] = array.reshape(shape)
