"""V0 and V1 nets, legacy inputs and old parameter placements, brought to the current format. (upgrade_proto.cpp)

Works on entries, not on a NetParameter, so that every layer keeps the place it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from caffestat.errors import Finding, NetError, Place
from caffestat.layers import fork_type
from caffestat.prototext import Message
from caffestat.schema import LayerParameter, NetParameter, V1LayerParameter, caffe_pb2

__all__ = ["Entry", "current_type", "upgrade"]


@dataclass(frozen=True)
class Entry:
    """One layer message (of any generation), the text it was read from (None when there is none), and its place.

    is_inserted: Caffe adds the layer itself
    fault: why it cannot be computed, where that is known before its class is asked
    """

    proto: Any
    text: Message | None
    place: Place
    is_inserted: bool = False
    fault: str = ""


_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_CONV = "convolution_param"
_FC = "inner_product_param"
_SOURCES = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}

# V0 field -> the current field's name, and the message that takes it by V0 layer type ("*": whatever the type)
_V0_FIELDS: dict[str, tuple[str, dict[str, str]]] = {
    "num_output": ("num_output", {"conv": _CONV, "innerproduct": _FC}),
    "biasterm": ("bias_term", {"conv": _CONV, "innerproduct": _FC}),
    "weight_filler": ("weight_filler", {"conv": _CONV, "innerproduct": _FC}),
    "bias_filler": ("bias_filler", {"conv": _CONV, "innerproduct": _FC}),
    "pad": ("pad", {"conv": _CONV, "pool": "pooling_param"}),
    "kernelsize": ("kernel_size", {"conv": _CONV, "pool": "pooling_param"}),
    "group": ("group", {"conv": _CONV}),
    "stride": ("stride", {"conv": _CONV, "pool": "pooling_param"}),
    "pool": ("pool", {"pool": "pooling_param"}),
    "dropout_ratio": ("dropout_ratio", {"dropout": "dropout_param"}),
    "local_size": ("local_size", {"lrn": "lrn_param"}),
    "alpha": ("alpha", {"lrn": "lrn_param"}),
    "beta": ("beta", {"lrn": "lrn_param"}),
    "k": ("k", {"lrn": "lrn_param"}),
    "source": ("source", {**_SOURCES, "infogain_loss": "infogain_loss_param"}),
    "scale": ("scale", {"*": "transform_param"}),
    "meanfile": ("mean_file", {"*": "transform_param"}),
    "batchsize": ("batch_size", _SOURCES),
    "cropsize": ("crop_size", {"*": "transform_param"}),
    "mirror": ("mirror", {"*": "transform_param"}),
    "rand_skip": ("rand_skip", {"data": "data_param", "images": "image_data_param"}),
    "shuffle_images": ("shuffle", {"images": "image_data_param"}),
    "new_height": ("new_height", {"images": "image_data_param"}),
    "new_width": ("new_width", {"images": "image_data_param"}),
    "concat_dim": ("concat_dim", {"concat": "concat_param"}),
    "det_fg_threshold": ("fg_threshold", {"window_data": "window_data_param"}),
    "det_bg_threshold": ("bg_threshold", {"window_data": "window_data_param"}),
    "det_fg_fraction": ("fg_fraction", {"window_data": "window_data_param"}),
    "det_context_pad": ("context_pad", {"window_data": "window_data_param"}),
    "det_crop_mode": ("crop_mode", {"window_data": "window_data_param"}),
}
_V0_KEPT = ("name", "blobs", "blobs_lr", "weight_decay", "hdf5_output_param")

# where the current spelling of a V1 type is not the capitalised words of the old one
_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}

_V1_NAMES = frozenset(V1LayerParameter.LayerType.keys())

_TRANSFORM_FIELDS = ("scale", "mean_file", "crop_size", "mirror")
_TRANSFORMING = {"Data": "data_param", "ImageData": "image_data_param", "WindowData": "window_data_param"}


def _put(message: Any, name: str, value: Any) -> None:
    """Set a field, whatever its kind."""
    target = getattr(message, name)
    if hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    elif hasattr(target, "append"):
        target.append(value)
    else:
        setattr(message, name, value)


def _v0_to_v1(entry: Entry, findings: list[Finding]) -> Entry:
    """Return the V1 form of one V0 layer; a field that its type does not take is a finding, as in Caffe."""
    old = entry.proto.layer
    new = V1LayerParameter(bottom=entry.proto.bottom, top=entry.proto.top)
    if old.HasField("type"):
        if old.type not in _V0_TYPES:
            findings.append(Finding(entry.place, f"layer {old.name!r}: unknown V0 layer type {old.type!r}"))
        else:
            new.type = V1LayerParameter.LayerType.Value(_V0_TYPES[old.type])
    for descriptor, value in old.ListFields():
        name = descriptor.name
        if name in _V0_KEPT:
            (getattr(new, name).CopyFrom if name == "hdf5_output_param" else _extend(new, name))(value)
        elif name in _V0_FIELDS:
            target, owners = _V0_FIELDS[name]
            owner = owners.get("*") or owners.get(old.type)
            if owner is None:
                findings.append(Finding(entry.place, f"layer {old.name!r}: a {old.type!r} layer takes no {name}"))
            elif isinstance(value, int) and value < 0:  # Caffe's sizes are unsigned
                raise NetError(f"layer {old.name!r}: {name} is {value}; expected 0 or more", entry.place)
            else:
                _put(getattr(new, owner), target, value)
    return replace(entry, proto=new)


def _extend(message: Any, name: str) -> Any:
    """Return a function that sets a field of `message`, repeated or not."""

    def put(value: Any) -> None:
        field = getattr(message, name)
        if hasattr(field, "extend"):
            field.extend(value)
        else:
            setattr(message, name, value)

    return put


def _drop_padding(entries: Sequence[Entry]) -> list[Entry]:
    """Remove V0 `padding` layers; the conv or pool layer behind one takes its pad and its bottom."""
    producers: dict[str, Any] = {}
    kept = []
    for entry in entries:
        proto = entry.proto
        is_padding = proto.layer.type == "padding"
        for index, bottom in enumerate(proto.bottom):
            padding = producers.get(bottom)
            if is_padding or padding is None:
                continue
            _check_padding(padding, entry)
            proto.layer.pad = padding.layer.pad
            proto.bottom[index] = padding.bottom[0]
        producers.update((top, proto if is_padding else None) for top in proto.top)
        if not is_padding:
            kept.append(entry)
    return kept


def _check_padding(padding: Any, entry: Entry) -> None:
    """Raise NetError for a V0 `padding` layer, or one behind it, of which the other's pad makes no sense."""
    found = entry.proto.layer
    if found.type not in ("conv", "pool"):
        message = f"layer {found.name!r}: only conv and pool may follow a padding layer, found {found.type!r}"
        raise NetError(message, entry.place)
    if len(entry.proto.bottom) != 1:
        message = f"layer {found.name!r}: takes 1 bottom behind a padding layer, found {len(entry.proto.bottom)}"
        raise NetError(message, entry.place)
    if (len(padding.bottom), len(padding.top)) != (1, 1):
        counts = f"{len(padding.bottom)} bottoms and {len(padding.top)} tops"
        raise NetError(f"layer {padding.layer.name!r}: padding has 1 bottom and 1 top, found {counts}", entry.place)


def current_type(old: str) -> str:
    """Return the current spelling of a type that a V0 or V1 layer names; a fork's own is returned as it is."""
    name = _V0_TYPES.get(old, old)
    if name not in _V1_NAMES:
        return old
    return _V1_TYPES.get(name, "".join(word.capitalize() for word in name.split("_")))


def _v1_type(entry: Entry) -> str:
    """Return the current spelling of a V1 layer's type; of an unknown type the written one."""
    proto = entry.proto
    if proto.HasField("type"):
        return current_type(V1LayerParameter.LayerType.Name(proto.type))
    written = _raw_type(entry.text)
    return fork_type(written) or written


def _raw_type(text: Message | None) -> str:
    """Return the type as the text has it, for a name that the schema's enum lacks."""
    written = text.first("type") if text else None
    if text and written is None:  # a V0 layer keeps it one level deeper
        inner = text.first("layer")
        return _raw_type(inner.values[0]) if inner and isinstance(inner.values[0], Message) else ""
    return getattr(written.values[0], "text", "").strip("\"'") if written else ""


def _v1_to_v2(entry: Entry) -> Entry:
    """Return the current form of one V1 layer."""
    old = entry.proto
    new = LayerParameter(name=old.name, type=_v1_type(entry), bottom=old.bottom, top=old.top)
    for descriptor, value in old.ListFields():
        name = descriptor.name
        if name in ("include", "exclude", "blobs", "loss_weight"):
            getattr(new, name).extend(value)
        elif name.endswith("_param") and hasattr(new, name):
            getattr(new, name).CopyFrom(value)
    _v1_param_specs(old, new)
    return replace(entry, proto=new)


def _v1_param_specs(old: Any, new: Any) -> None:
    """Gather V1's four parallel lists into ParamSpecs."""
    lists = {
        "name": old.param,
        "share_mode": [
            caffe_pb2.ParamSpec.STRICT if mode == 0 else caffe_pb2.ParamSpec.PERMISSIVE for mode in old.blob_share_mode
        ],
        "lr_mult": old.blobs_lr,
        "decay_mult": old.weight_decay,
    }
    for _ in range(max(map(len, lists.values()))):
        new.param.add()
    for name, values in lists.items():
        for spec, value in zip(new.param, values, strict=False):
            setattr(spec, name, value)


def _move_transform_fields(entry: Entry) -> None:
    """Move the data layers' own scale, mean_file, crop_size and mirror to transform_param."""
    proto = entry.proto
    param = getattr(proto, _TRANSFORMING.get(proto.type, ""), None)
    if param is None:
        return
    for name in _TRANSFORM_FIELDS:
        if param.HasField(name):
            setattr(proto.transform_param, name, getattr(param, name))
            param.ClearField(name)


def _freeze_old_batch_norm(entry: Entry) -> None:
    """Three ParamSpecs on a BatchNorm layer come from an older definition: Caffe zeroes their multipliers."""
    if entry.proto.type == "BatchNorm" and len(entry.proto.param) == 3:
        for spec in entry.proto.param:
            spec.lr_mult = spec.decay_mult = 0.0


def _input_layer(net: Any, place: Place, entries: Sequence[Entry], findings: list[Finding]) -> list[Entry]:
    """Return the Input layer that replaces `input` with `input_shape` or `input_dim`; none without inputs.

    Caffe drops inputs that have neither; those that no layer produces are kept here, for the user to give their shapes.
    """
    has_shapes = net.input_shape or net.input_dim
    produced = set() if has_shapes else {top for entry in entries for top in entry.proto.top}
    names = [name for name in net.input if name not in produced]
    if not names:
        return []
    layer = LayerParameter(name="input", type="Input", top=names)
    dims = list(net.input_dim)
    each = len(dims) // len(net.input) if dims and len(dims) % len(net.input) == 0 else 4
    if dims and each != 4:
        found = f"{len(dims)} input_dim for {len(net.input)} input(s)"
        findings.append(
            Finding(place, f"{found}: Caffe expects 4 for each, forks for volumes {each}; read as in those forks")
        )
    shapes = [list(shape.dim) for shape in net.input_shape] or [dims[i : i + each] for i in range(0, len(dims), each)]
    if shapes and (len(shapes) < len(net.input) or (not net.input_shape and len(dims) != each * len(net.input))):
        expected = f"{len(net.input)} input_shape, or {4 * len(net.input)} input_dim"
        raise NetError(f"{len(net.input)} inputs need {expected}; found {len(net.input_shape)} and {len(dims)}", place)
    for shape in shapes[: len(net.input)]:
        layer.input_param.shape.add(dim=shape)
    return [Entry(layer, None, place)]


def _is_v0(entries: Iterable[Entry]) -> bool:
    return any(entry.proto.HasField("layer") for entry in entries)


def _upgrade_layers(entries: list[Entry], findings: list[Finding]) -> list[Entry]:
    if _is_v0(entries):
        entries = [_v0_to_v1(entry, findings) for entry in _drop_padding(entries)]
    entries = [_v1_to_v2(entry) for entry in entries]
    for entry in entries:  # Caffe moves these in old nets only: a current net's data_param.scale has no effect
        _move_transform_fields(entry)
    return entries


def _left_out_of_v0(head: Any, place: Place) -> Iterator[Finding]:
    """Take out of a V0 net what Caffe's upgrade does not carry over, and tell so. (upgrade_proto.cpp, UpgradeV0Net)"""
    for name in ("state", "debug_info"):
        if head.HasField(name):
            head.ClearField(name)
            yield Finding(place, f"{name} is left out of a net with V0 layers, as Caffe does")


def upgrade(
    net: Any, old: Iterable[Entry], new: Iterable[Entry], input_place: Place, inline: bool = False
) -> tuple[Any, list[Entry], list[Finding]]:
    """Bring a net to the current format.

    net: the NetParameter; `old` and `new` its `layers` and `layer` as entries; `input_place` where its inputs are.
    inline: the net is part of a solver; Caffe upgrades none there, so BatchNorm layers keep their multipliers.
    Returns a NetParameter without layers and inputs, the layers, and findings about fields that were not carried over.
    Raises NetError when the net mixes generations or some of its inputs lack shapes.
    """
    findings: list[Finding] = []
    old_entries, entries = list(old), list(new)
    if old_entries and entries:
        message = "the net has both `layer` (current) and `layers` (V1): Caffe refuses that; rewrite the `layers` ones"
        raise NetError(message, old_entries[0].place)
    entries = entries or _upgrade_layers(old_entries, findings)
    for entry in () if inline else entries:
        _freeze_old_batch_norm(entry)
    head = NetParameter()
    head.CopyFrom(net)
    for name in ("layer", "layers", "input", "input_shape", "input_dim"):
        head.ClearField(name)
    if _is_v0(old_entries):
        findings += _left_out_of_v0(head, input_place)
    return head, _input_layer(net, input_place, entries, findings) + entries, findings
