"""Nets with other fillers, fields and widths than their files have."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from copy import deepcopy
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from google.protobuf import text_format

from caffestat.errors import InputError
from caffestat.fillers import filler_type, filler_types
from caffestat.initialization.methods import METHODS, parse_method
from caffestat.layers import layer_class
from caffestat.net import NetSource
from caffestat.net.upgrade import Entry
from caffestat.options import one_of
from caffestat.schema import caffe_pb2

from .trial import Change, Sweep, Trial

__all__ = ["refuse_unknown", "variant_of", "weight_fillers", "with_stds"]


def refuse_unknown(sweep: Sweep) -> None:
    """Raise InputError for a filler, a change or a solver type that no trial of any net can have."""
    from caffestat.training import SOLVERS

    for text in filter(None, sweep.fillers):
        if parse_method(text) is None:
            _parse(_written(text), caffe_pb2.FillerParameter(), f"filler {text!r}")
    for path in sweep.changes:
        _parts(path)
    for name in filter(None, sweep.solvers):
        one_of("solvers", name, tuple(SOLVERS))


def variant_of(source: NetSource, trial: Trial, partly: bool = False) -> NetSource:
    """Return the net that a trial runs. Raises InputError for a change that fits no layer or no field.

    partly: leave out the changes whose layers the net lacks, as separate test nets may
    """
    layers = tuple(replace(entry, proto=deepcopy(entry.proto)) for entry in source.layers)
    if trial.filler and parse_method(trial.filler) is None:
        _fill(layers, trial.filler)
    for change in trial.changes:
        if not partly or any(_holders(layers, change)):
            _change(layers, change)
    if trial.width != 1:
        _widen(layers, trial.width)
    return replace(source, layers=layers)


def weight_fillers(entry: Entry) -> Iterator[tuple[Any, str]]:
    """Yield the messages and fields of a layer that hold the fillers of its weights."""
    cls = layer_class(entry.proto.type)
    for path, found in (cls.filler_fields if cls else {}).items():
        *messages, field = path.split(".")
        message = entry.proto
        for name in messages:
            message = getattr(message, name, None)
        if found == "weight" and message is not None:
            yield message, field


def _written(text: str) -> str:
    """Return a filler as prototxt has it, given as "type" or "type:field=value,field=value"."""
    kind, _, settings = text.partition(":")
    if filler_type(kind) is None:
        raise InputError(f"filler {kind!r}: expected one of {', '.join((*filler_types(), *METHODS))}")
    return f"type: {_quoted(kind)} " + " ".join(part.replace("=", ": ", 1) for part in settings.split(",") if part)


def _fill(layers: Sequence[Entry], text: str) -> None:
    """Give all weights a filler."""
    written, filled = _written(text), 0
    for entry in layers:
        for message, field in weight_fillers(entry):
            filler = getattr(message, field)
            filler.Clear()
            _parse(written, filler, f"filler {text!r}")
            filled += 1
    if not filled:
        raise InputError(f"filler {text!r}: the net has no layer with weights to fill")


def with_stds(source: NetSource, fillers: Mapping[str, str]) -> NetSource:
    """Return the net with these weight fillers, as texts by the names of layers."""
    layers = tuple(replace(entry, proto=deepcopy(entry.proto)) for entry in source.layers)
    for entry in layers:
        for message, field in weight_fillers(entry) if entry.proto.name in fillers else ():
            filler = getattr(message, field)
            filler.Clear()
            _parse(fillers[entry.proto.name], filler, f"layer {entry.proto.name!r}")
    return replace(source, layers=layers)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parse(text: str, message: Any, what: str) -> None:
    try:
        text_format.Merge(text, message)
    except text_format.ParseError as error:
        raise InputError(f"{what}: {str(error).split(' : ')[-1]}") from error


def _parts(path: str) -> tuple[str, str]:
    """Return the pattern of layers and the field that a path names."""
    pattern, _, field = path.partition(".")
    if not field:
        raise InputError(f"{path!r}: expected LAYERS.FIELD, such as 'conv*.weight_filler.std'")
    return pattern, field


def _change(layers: Sequence[Entry], change: Change) -> None:
    """Set a field of every layer that a pattern matches: "conv*.weight_filler.std" and its value."""
    path, value = change
    pattern, field = _parts(path)
    holders = list(_holders(layers, change))
    if not holders:
        names = ", ".join(entry.proto.name for entry in layers[:8])
        chosen = any(fnmatchcase(entry.proto.name, pattern) for entry in layers)
        what = f"none of the layers has a field {field!r}" if chosen else f"no layer is named {pattern!r}: {names}, …"
        raise InputError(f"{path!r} changes nothing: {what}")
    for message in holders:
        _set(message, field, value, path)


def _holders(layers: Sequence[Entry], change: Change) -> Iterator[Any]:
    pattern, _, field = change[0].partition(".")
    for entry in layers:
        if fnmatchcase(entry.proto.name, pattern) and (holder := _holder(entry, field)) is not None:
            yield holder


def _holder(entry: Entry, field: str) -> Any:
    """Return the message that a path begins in: the layer, or the one of its parameters that has the first field."""
    first = field.split(".")[0]
    names = {descriptor.name for descriptor in entry.proto.DESCRIPTOR.fields}
    if first in names:
        return entry.proto
    own = entry.proto.type.lower() + "param"  # relu_param of a ReLU that has none yet
    for descriptor in entry.proto.DESCRIPTOR.fields:
        kind = descriptor.message_type
        if not (kind and descriptor.has_presence and first in kind.fields_by_name):
            continue
        if entry.proto.HasField(descriptor.name) or descriptor.name.replace("_", "") == own:
            return getattr(entry.proto, descriptor.name)
    return None


def _set(message: Any, field: str, value: str, path: str) -> None:
    """Set a field by its path; the parts of a repeated message have a number: param.0.lr_mult."""
    *outer, last = re.sub(r"\.(\d+)(?=\.)", r"#\1", field).split(".")
    for part in outer:
        name, _, number = part.partition("#")
        message = _inner(message, name, number, path)
    descriptor = message.DESCRIPTOR.fields_by_name.get(last)
    if descriptor is None:
        raise InputError(f"{path!r}: {message.DESCRIPTOR.name} has no field {last!r}")
    message.ClearField(last)
    is_text = descriptor.type == descriptor.TYPE_STRING
    _parse(f"{last}: {_quoted(value) if is_text else value}", message, path)


def _inner(message: Any, name: str, number: str, path: str) -> Any:
    """Return a message inside of another, of a repeated one the part of that number, made where there is none yet."""
    descriptor = message.DESCRIPTOR.fields_by_name.get(name)
    if descriptor is None or descriptor.message_type is None:
        raise InputError(f"{path!r}: {message.DESCRIPTOR.name} has no field {name!r} with fields of its own")
    found = getattr(message, name)
    if descriptor.has_presence:
        if number:
            raise InputError(f"{path!r}: {name} is not repeated; expected no number")
        return found
    if not number or int(number) > len(found):
        raise InputError(f"{path!r}: {name} is repeated ({len(found)} here); expected {name}.0.FIELD or a later number")
    return found.add() if int(number) == len(found) else found[int(number)]


def _widen(layers: Sequence[Entry], factor: float) -> None:
    """Multiply the outputs of hidden layers, and what follows them: groups of depthwise layers, places of slices.

    Layers whose outputs reach a loss, or nothing, through no other such layer keep them: these are classes or images.
    Layers of as many outputs get as many again, so that sums of them stay possible; groups divide what they must.
    """
    outputs = {id(entry): message.num_output for entry in layers if (message := _outputs(entry)) is not None}
    kept, makers = _kept(layers), _makers(layers)
    sources = {layer: {outputs[maker] for maker in read - kept} for layer, read in makers.items()}
    units = _units(layers, outputs.keys() - kept, sources)

    def after(count: int) -> int:
        unit = units.get(count, 1)
        return max(-(-round(count * factor) // unit), 1) * unit

    for entry in layers:
        message, read = _outputs(entry), sources[id(entry)]
        if message is None:
            _move_slices(entry, read, after)
        elif _is_depthwise(message, read):
            if read or id(entry) not in kept:
                per_group = message.num_output // message.group
                message.group = after(message.group)
                message.num_output = per_group * message.group
        elif id(entry) not in kept:
            message.num_output = after(message.num_output)


def _outputs(entry: Entry) -> Any:
    """Return the parameter of a layer that has num_output, None without."""
    for descriptor, message in entry.proto.ListFields():
        if descriptor.message_type and descriptor.has_presence and "num_output" in message.DESCRIPTOR.fields_by_name:
            return message if message.num_output else None
    return None


def _group(message: Any) -> int:
    return int(getattr(message, "group", 1)) or 1


def _is_depthwise(message: Any, sources: Set[int]) -> bool:
    """Tell whether each channel is a group of its own; sources: the numbers of channels that the layer reads."""
    group = _group(message)
    return group > 1 and (group == message.num_output or sources == {group})


def _kept(layers: Sequence[Entry]) -> set[int]:
    """Return the ids of the layers that keep their outputs. A depthwise layer keeps the channels that it reads."""
    read = {blob for entry in layers for blob in entry.proto.bottom}
    ends: set[str] = set()  # blobs that reach the end of the net through no layer with outputs of its own
    found = set()
    for entry in reversed(layers):
        tops, message = list(entry.proto.top), _outputs(entry)
        if not tops or (read.issuperset(tops) and ends.isdisjoint(tops)):
            continue
        if message is not None:
            found.add(id(entry))
        if message is None or _is_depthwise(message, set()):
            ends.update(entry.proto.bottom)
    return found


def _makers(layers: Sequence[Entry]) -> dict[int, set[int]]:
    """Return, by the id of each layer, the ids of the layers with outputs that made what it reads."""
    made: dict[str, set[int]] = {}
    found = {}
    for entry in layers:
        found[id(entry)] = read = {maker for blob in entry.proto.bottom for maker in made.get(blob, ())}
        message = _outputs(entry)
        is_own = message is not None and not _is_depthwise(message, set())
        for blob in entry.proto.top:
            made[blob] = {id(entry)} if is_own else read | ({id(entry)} if message is not None and not read else set())
    return found


def _units(layers: Sequence[Entry], hidden: Set[int], sources: Mapping[int, Set[int]]) -> dict[int, int]:
    """Return what must divide the new numbers of outputs, by the old ones: the groups that make or read them."""
    units: dict[int, int] = {}
    for entry in layers:
        message, read = _outputs(entry), sources[id(entry)]
        if message is None or _is_depthwise(message, read):
            continue
        for count in read | ({message.num_output} if id(entry) in hidden else set()):
            units[count] = math.lcm(units.get(count, 1), _group(message))
    return units


def _move_slices(entry: Entry, sources: Set[int], after: Callable[[int], int]) -> None:
    """Let a layer that slices hidden channels slice them in the same proportions."""
    if len(sources) == 1 and entry.proto.slice_param.axis == 1:
        (count,) = sources
        points = [point * after(count) // count for point in entry.proto.slice_param.slice_point]
        entry.proto.slice_param.slice_point[:] = points
