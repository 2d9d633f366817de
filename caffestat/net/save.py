"""A net's params as files: Caffe's binary and HDF5 weights, numpy archives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from caffestat.data.hdf5_file import writing
from caffestat.errors import InputError
from caffestat.files import replace_file, replacing
from caffestat.lazy import np
from caffestat.schema import LayerParameter, NetParameter
from caffestat.schema.binary import LARGEST
from caffestat.schema.blobs import set_diffs, set_shape, set_values

from .model import Net, Node

__all__ = ["WRITERS", "Values", "Writer", "to_caffemodel", "why_no_group", "write_hdf5"]

Values = Sequence[np.ndarray]  # of each param, by its index in `net.params`


def to_caffemodel(net: Net, values: Values, diffs: Values | None = None) -> Any:
    """Return the NetParameter that Caffe would snapshot: the built net's layers, splits included, and their blobs.

    diffs: stored beside the values, as `snapshot_diff` asks for

    (net.cpp and layer.hpp, ToProto)
    """
    message = NetParameter(name=net.name)
    for node in net.nodes:
        layer = message.layer.add()
        layer.CopyFrom(_as_set_up(net, node))
        for number in node.params:
            blob = layer.blobs.add()
            set_shape(blob, net.params[number].param.shape)
            set_values(blob, values[number])
            if diffs is not None:
                set_diffs(blob, diffs[number])
    return message


def _as_set_up(net: Net, node: Node) -> Any:
    """Return the layer's message as Caffe leaves it after set-up."""
    proto = LayerParameter()
    proto.CopyFrom(node.layer.proto)
    proto.ClearField("blobs")
    if not proto.HasField("phase"):
        proto.phase = net.phase
    if any(node.loss_weights) and not proto.loss_weight:
        proto.loss_weight.append(node.loss_weights[0])
    statistics = [net.params[number].param.is_statistic for number in node.params]
    if any(statistics):
        for is_statistic in statistics[len(proto.param) :]:
            proto.param.add(**({"lr_mult": 0} if is_statistic else {}))
    if node.layer.added is not None:
        proto.MergeFromString(_own_fields(node.layer.added))
    return proto


def _own_fields(added: Any) -> bytes:
    """Return what a layer holds of a fork's own fields, without those whose numbers are other fields in Caffe."""
    own, caffes = deepcopy(added), LayerParameter.DESCRIPTOR.fields_by_number
    for field, _ in added.ListFields():
        known = caffes.get(field.number)
        if known and (known.name != field.name or known.is_repeated):
            own.ClearField(field.name)
    return bytes(own.SerializeToString())


def _save_caffemodel(path: Path, net: Net, values: Sequence[np.ndarray], nodes: Sequence[Node]) -> None:
    size = sum(values[number].nbytes for node in nodes for number in node.params)
    if size > LARGEST:
        raise InputError(
            f"{path}: the weights take {size} bytes, and a .caffemodel holds at most {LARGEST}, protobuf's limit; "
            "write .h5 or .npz"
        )
    message = to_caffemodel(net, values)
    kept = {node.index for node in nodes}
    for index in reversed(range(len(message.layer))):
        if index not in kept:
            del message.layer[index]
    replace_file(path, message.SerializeToString())


def _save_npz(path: Path, net: Net, values: Sequence[np.ndarray], nodes: Sequence[Node]) -> None:
    _refuse_twice(path, [node for node in nodes if node.params])
    arrays = {f"{node.name}/{index}": values[n] for node in nodes for index, n in enumerate(node.params)}
    with replacing(path) as fresh, fresh.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take every keyword for allow_pickle


def _save_hdf5(path: Path, net: Net, values: Sequence[np.ndarray], nodes: Sequence[Node]) -> None:
    write_hdf5(path, net, values, nodes)


def why_no_group(layer: str) -> str:
    """Return why Caffe's HDF5 files have no group for a layer of this name, "" when they have."""
    if "/" in layer:
        return f"HDF5 would nest the group of layer {layer!r}, and Caffe reads no nested ones"
    return f"HDF5 has no group of the name {layer!r}, that of a layer" if layer in ("", ".") or "\0" in layer else ""


def write_hdf5(path: Path, net: Net, values: Values, nodes: Sequence[Node], diffs: Values | None = None) -> None:
    """Write groups data/<layer>/<index>, a shared param with its owner only; diffs, if any, with every layer.

    Source: net.cpp, ToHDF5.
    """
    unfit = next(filter(None, (why_no_group(node.name) for node in nodes)), None)
    if unfit:
        raise InputError(f"{path}: {unfit}; write .caffemodel")
    _refuse_twice(path, nodes)
    with writing(path) as file:
        data = file.create_group("data")
        for node in nodes:
            group = data.create_group(node.name)
            diff = file.create_group(f"diff/{node.name}") if diffs is not None else None
            for index, number in enumerate(node.params):
                if net.params[number].owner is None:
                    group.create_dataset(str(index), data=values[number])
                if diff is not None and diffs is not None:
                    diff.create_dataset(str(index), data=diffs[number])


def _refuse_twice(path: Path, nodes: Sequence[Node]) -> None:
    """Raise InputError when two layers share the name by which the file would hold them."""
    first: dict[str, Node] = {}
    for node in nodes:
        if first.setdefault(node.name, node) is not node:
            places = f"at {first[node.name].place} and at {node.place}"
            raise InputError(f"{path}: two layers are called {node.name!r}, {places}; rename one or write .caffemodel")


Writer = Callable[[Path, Net, Sequence[np.ndarray], Sequence[Node]], None]

WRITERS: dict[str, Writer] = {
    ".caffemodel": _save_caffemodel,
    ".npz": _save_npz,
    ".h5": _save_hdf5,
}
"""How each kind of file is written, by the end of its name."""
