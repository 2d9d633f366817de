"""Trained weights, read from files and copied into a net's params by the names of layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffestat.data.batches import read_archive
from caffestat.data.hdf5_file import is_hdf5, member, read_array, reading
from caffestat.errors import InputError, Place
from caffestat.lazy import np
from caffestat.schema import LayerParameter, NetParameter, read_binary
from caffestat.schema.blobs import blob_shape, fits, set_shape, set_values

from .model import Net, Node
from .upgrade import Entry, upgrade

__all__ = ["Copied", "copy_file", "copy_weights", "read_layers"]

_MOST_PARAMS = 1000  # of a layer in HDF5


def read_layers(path: str) -> Iterable[Any]:
    """Return the layers of a .caffemodel, or of an HDF5 or .npz file as LayerParameters with a blob for each array."""
    if _is_hdf5(path):
        return _hdf5_layers(path)
    if path.endswith(".npz"):
        return _npz_layers(path)
    message = read_binary(path, NetParameter)
    place = Place(path)
    old = [Entry(layer, None, place) for layer in message.layers]
    new = [Entry(layer, None, place) for layer in message.layer]
    message.ClearField("layers")
    message.ClearField("layer")
    return [entry.proto for entry in upgrade(message, old, new, place)[1]]


def _is_hdf5(path: str) -> bool:
    """Tell whether weights are in HDF5: what the file holds decides. (net.cpp, CopyTrainedLayersFrom)"""
    return path.endswith(".h5") or is_hdf5(path)


def _hdf5_layers(path: str) -> list[Any]:
    """Return the groups in alphabetical order; a shared param that its layer lacks leaves an empty blob.

    Source: net.cpp, CopyTrainedLayersFromHDF5.
    """
    with reading(path, lambda reason: InputError(f"{path}: cannot be used as HDF5 weights: it {reason}")) as file:
        data = member(file, "data")
        return [_hdf5_layer(name, member(data, name)) for name in sorted(data)]


def _hdf5_layer(name: str, group: Any) -> Any:
    indices = sorted(map(int, group))
    if indices and indices[-1] >= _MOST_PARAMS:
        raise InputError(f"has a data set {indices[-1]} in layer {name!r}; expected the index of a param")
    return _layer(name, {index: read_array(group, str(index)) for index in indices})


def _npz_layers(path: str) -> list[Any]:
    """Return the layers of arrays called layer/index, as `fill` writes them."""
    layers: dict[str, dict[int, np.ndarray]] = {}
    for key, array in read_archive(path):
        name, _, index = key.rpartition("/")
        if not name or not index.isascii() or not index.isdigit() or int(index) >= _MOST_PARAMS:
            raise InputError(f"{path}: has an array {key!r}; expected a layer and the index of a param, like conv1/0")
        layers.setdefault(name, {})[int(index)] = array
    return [_layer(name, arrays) for name, arrays in layers.items()]


def _layer(name: str, arrays: Mapping[int, np.ndarray]) -> Any:
    """Return a LayerParameter with the arrays as its blobs, empty ones where an index is absent."""
    message = LayerParameter(name=name)
    for index in range(max(arrays, default=-1) + 1):
        blob = message.blobs.add()
        if index in arrays:
            set_shape(blob, arrays[index].shape)
            set_values(blob, arrays[index])
    return message


_NAMED = 5  # layers that a line names one by one


@dataclass(frozen=True)
class Copied:
    """What was taken from a file of weights.

    layers   how many layers took theirs
    ignored  the names of its layers that the net lacks
    lacking  the names of the net's layers with params that it has none for
    """

    path: str
    layers: int
    ignored: tuple[str, ...]
    lacking: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(self.lacking[:_NAMED]) + (", …" if len(self.lacking) > _NAMED else "")
        return f"{self.path}: weights of {self.layers} layers taken" + (f", none for {names}" if names else "")


def copy_weights(
    net: Net, values: Sequence[np.ndarray], paths: Sequence[str], taken: set[int] | None = None
) -> list[str]:
    """Overwrite initial values by those of trained models, layers matched by name as in Caffe.

    Later files win. The numbers of the params that were overwritten join `taken`. Returns a line about each file: how
    many layers were taken.
    Raises InputError when a file cannot be read, holds nothing for this net, or a blob does not fit.
    """
    return [str(_copy_some(net, values, path, taken)) for path in paths]


def _copy_some(net: Net, values: Sequence[np.ndarray], path: str, taken: set[int] | None) -> Copied:
    """Copy a file as `copy_file` does. Raises InputError when it has none of the net's layers."""
    copied = copy_file(net, values, path, taken)
    if not copied.layers:
        raise InputError(f"{path}: no layer name in this file occurs in the net; Caffe matches weights by layer name")
    return copied


def copy_file(
    net: Net,
    values: Sequence[np.ndarray],
    path: str,
    taken: set[int] | None = None,
    diffs: dict[int, np.ndarray] | None = None,
) -> Copied:
    """Overwrite values by those of one file, a .caffemodel, .h5 or .npz; one with other layers alone changes nothing.

    diffs: gets what a .caffemodel stores beside the values, by owner param: Caffe reads it too
    Raises InputError when it cannot be read or a blob does not fit. (net.cpp, CopyTrainedLayersFrom)
    """
    ignored, count, found = [], 0, set()
    owners_only = _is_hdf5(path)
    # of layers of one name Caffe takes the last for HDF5, else the first
    by_name = {node.name: node for node in (net.nodes if owners_only else reversed(net.nodes))}
    for source in read_layers(path):
        node = by_name.get(source.name)
        found.add(source.name)
        if node is None:
            ignored.append(source.name)
        elif source.blobs or node.params:
            _copy_layer(net, values, node, source, path, owners_only)
            if diffs is not None:
                diffs.update(_stored_diffs(net, node, source))
            (set() if taken is None else taken).update(node.params)
            count += 1
    lacking = (node.name for node in net.nodes if node.params and node.name not in found)
    return Copied(path, count, tuple(ignored), tuple(lacking))


def _copy_layer(net: Net, values: Sequence[np.ndarray], node: Node, source: Any, path: str, owners_only: bool) -> None:
    """Copy a layer's blobs; owners_only: the file, an HDF5 one, has a shared param with its owner alone."""
    blobs = dict(enumerate(source.blobs))
    if owners_only:
        blobs = {index: blob for index, blob in blobs.items() if len(blob.data)}
        absent = [index for index in range(len(node.params)) if index not in blobs]
        fits_net = len(source.blobs) <= len(node.params) and all(
            net.params[node.params[index]].owner is not None for index in absent
        )
    else:
        fits_net = len(blobs) == len(node.params)
    if not fits_net:
        raise InputError(
            f"{path}: layer {source.name!r} has {len(blobs)} blobs; the net at {node.place} expects {len(node.params)}"
        )
    for index, blob in blobs.items():
        _copy_blob(net, values, node, index, blob, path)


def _stored_diffs(net: Net, node: Node, source: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yield what a layer's blobs hold in the place of gradients, by owner param. (blob.cpp, FromProto)"""
    for number, blob in zip(node.params, source.blobs, strict=False):
        diff = blob.double_diff if len(blob.double_diff) else blob.diff
        shape = net.params[number].param.shape
        if len(diff) == math.prod(shape):
            yield net.owner(number), np.array(diff, np.float32).reshape(shape)


def _copy_blob(net: Net, values: Sequence[np.ndarray], node: Node, index: int, blob: Any, path: str) -> None:
    number = node.params[index]
    shape = net.params[number].param.shape
    if not fits(blob, shape):
        found = blob_shape(blob)
        advice = "rename the layer in the net to leave its weights out"
        if math.prod(found) == math.prod(shape):
            advice = f"both hold {math.prod(shape)} values: reshape the blob in the file (net surgery) to keep them"
        raise InputError(
            f"{path}: layer {node.name!r}, param {index} has shape {found}; "
            f"the net at {node.place} expects {shape}; {advice}"
        )
    data = blob.double_data if len(blob.double_data) else blob.data
    array = np.array(data, np.float32)
    if array.size != values[number].size:
        raise InputError(
            f"{path}: layer {node.name!r}, param {index} holds {array.size} values for shape {shape}: "
            "the file is damaged"
        )
    values[number][...] = array.reshape(shape)
