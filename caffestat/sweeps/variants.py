"""Nets with other fillers, fields and widths than their files have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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

from .trial import Change, Trial

__all__ = ["filler_fields", "variant_of", "with_stds"]


def variant_of(source: NetSource, trial: Trial) -> NetSource:
    """Return the net that a trial runs. Raises InputError for a change that fits no layer or no field."""
    layers = tuple(replace(entry, proto=deepcopy(entry.proto)) for entry in source.layers)
    if trial.filler and parse_method(trial.filler) is None:
        _fill(layers, trial.filler)
    for change in trial.changes:
        _change(layers, change)
    if trial.width != 1:
        _widen(layers, trial.width)
    return replace(source, layers=layers)


def filler_fields(entry: Entry, role: str = "weight") -> Iterator[tuple[Any, str]]:
    """Yield the messages and fields of a layer that hold the fillers of a role."""
    cls = layer_class(entry.proto.type)
    for path, found in (cls.filler_fields if cls else {}).items():
        *messages, field = path.split(".")
        message = entry.proto
        for name in messages:
            message = getattr(message, name, None)
        if found == role and message is not None:
            yield message, field


def _fill(layers: Sequence[Entry], text: str) -> None:
    """Give all weights a filler: "type" or "type:field=value,field=value"."""
    kind, _, settings = text.partition(":")
    if filler_type(kind) is None:
        raise InputError(f"filler {kind!r}: expected one of {', '.join((*filler_types(), *METHODS))}")
    written = f"type: {_quoted(kind)} " + " ".join(part.replace("=", ": ", 1) for part in settings.split(",") if part)
    filled = 0
    for entry in layers:
        for message, field in filler_fields(entry):
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
        for message, field in filler_fields(entry) if entry.proto.name in fillers else ():
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


def _change(layers: Sequence[Entry], change: Change) -> None:
    """Set a field of every layer that a pattern matches: "conv*.weight_filler.std" and its value."""
    path, value = change
    pattern, _, field = path.partition(".")
    if not field:
        raise InputError(f"{path!r}: expected LAYERS.FIELD, such as 'conv*.weight_filler.std'")
    chosen = [entry for entry in layers if fnmatchcase(entry.proto.name, pattern)]
    holders = [holder for entry in chosen if (holder := _holder(entry, field)) is not None]
    if not holders:
        names = ", ".join(entry.proto.name for entry in layers[:8])
        what = f"none of the layers has a field {field!r}" if chosen else f"no layer is named {pattern!r}: {names}, …"
        raise InputError(f"{path!r} changes nothing: {what}")
    for message in holders:
        _set(message, field, value, path)


def _holder(entry: Entry, field: str) -> Any:
    """Return the message that a path begins in: the layer, or the one of its parameters that has the first field."""
    first = field.split(".")[0]
    names = {descriptor.name for descriptor in entry.proto.DESCRIPTOR.fields}
    if first in names:
        return entry.proto
    for descriptor, message in entry.proto.ListFields():
        if descriptor.message_type and descriptor.has_presence and first in message.DESCRIPTOR.fields_by_name:
            return message
    return None


def _set(message: Any, field: str, value: str, path: str) -> None:
    *outer, last = field.split(".")
    for name in outer:
        if name not in message.DESCRIPTOR.fields_by_name:
            raise InputError(f"{path!r}: {message.DESCRIPTOR.name} has no field {name!r}")
        message = getattr(message, name)
    descriptor = message.DESCRIPTOR.fields_by_name.get(last)
    if descriptor is None:
        raise InputError(f"{path!r}: {message.DESCRIPTOR.name} has no field {last!r}")
    message.ClearField(last)
    is_text = descriptor.type == descriptor.TYPE_STRING
    _parse(f"{last}: {_quoted(value) if is_text else value}", message, path)


def _widen(layers: Sequence[Entry], factor: float) -> None:
    """Multiply the outputs of hidden layers; groups of depthwise layers, one per channel, grow with them.

    The layers behind which no other has weights keep their outputs: these are classes, or images.
    """
    sized = [entry for entry in layers if _outputs(entry) is not None]
    last = _last(layers)
    for entry in sized:
        if entry.proto.name in last:
            continue
        message = _outputs(entry)
        before = message.num_output
        message.num_output = max(round(before * factor), 1)
        group = getattr(message, "group", 1)
        if group == before and group > 1:
            message.group = message.num_output
        elif message.num_output % max(group, 1):
            message.num_output += group - message.num_output % group


def _outputs(entry: Entry) -> Any:
    """Return the parameter of a layer that has num_output, None without."""
    for descriptor, message in entry.proto.ListFields():
        if descriptor.message_type and descriptor.has_presence and "num_output" in message.DESCRIPTOR.fields_by_name:
            return message if message.num_output else None
    return None


def _last(layers: Sequence[Entry]) -> set[str]:
    """Return the names of the layers with outputs behind which no other has any."""
    behind: set[str] = set()  # blobs that some such layer reads, straight or through others
    found = set()
    for entry in reversed(layers):
        tops, bottoms = list(entry.proto.top), list(entry.proto.bottom)
        reads_on = not behind.isdisjoint(tops)
        if _outputs(entry) is not None:
            if not reads_on:
                found.add(entry.proto.name)
            behind.update(bottoms)
        elif reads_on:
            behind.update(bottoms)
    return found
