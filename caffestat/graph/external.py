"""Files of ONNX models, and their external tensors, which must lie in the model's folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import BinaryIO

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from caffestat.errors import InputError
from caffestat.files import Version, check_strings, create_file, read_regular, replace_file

__all__ = ["LARGEST", "external_entry", "external_path", "read_model", "save"]

LARGEST = 2**31 - 1
"""The most bytes that a protobuf message, and so a model's own file, can hold."""

_ALIGNMENT = 64
_WORTH_MOVING = 1024


def read_model(path: str | Path) -> onnx.ModelProto:
    """Return the model in a file, its external data not read.

    Raises InputError when it cannot be read or is no ONNX model.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(read_regular(path, LARGEST))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise InputError(f"{path}: expected an ONNX model, found other or incomplete data") from error
    if not model.HasField("graph"):
        raise InputError(f"{path}: expected an ONNX model, found one without a graph")
    check_strings(path, model)
    return model


def save(
    model: onnx.ModelProto, path: str | Path, outside: Sequence[TensorProto] = (), since: Version | None = None
) -> None:
    """Replace a model's file atomically, after the data of the tensors `outside` are written to a new file beside it.

    So do all large initializers when the model is larger than 2 GiB. since: as in `files.replacing`
    """
    path = Path(path)
    held = [t for t in model.graph.initializer if len(t.raw_data) >= _WORTH_MOVING]
    leaving = {id(tensor) for tensor in outside}
    if sum(len(t.raw_data) for t in held if id(t) not in leaving) > LARGEST - 2**26:
        outside = held
    data = _move_outside(outside, path) if outside else None
    try:
        replace_file(path, model.SerializeToString(), since)
    except BaseException:
        if data is not None:
            data.unlink()
        raise


def _move_outside(tensors: Sequence[TensorProto], path: Path) -> Path:
    """Write the tensors' raw data to a new file beside the model, make them refer to it, and return its path."""
    offsets: list[int] = []

    def write(file: BinaryIO) -> None:
        for tensor in tensors:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            offsets.append(file.tell())
            file.write(tensor.raw_data)

    data = create_file(path, (path.with_name(f"{path.name}.weights{number}") for number in count()), write)
    for tensor, offset in zip(tensors, offsets, strict=True):
        _refer(tensor, {"location": data.name, "offset": str(offset), "length": str(len(tensor.raw_data))})
    return data


def external_entry(tensor: TensorProto, key: str, default: str = "") -> str:
    """Return what the tensor says about the place of its data: location, offset, length."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), default)


def external_path(tensor: TensorProto, folder: Path | None) -> Path:
    """Return the file of a tensor's data.

    folder: that of the model's file, None for a model that has none
    Raises InputError for a file that is not there, and for one outside of the folder: links are followed.
    """
    location = external_entry(tensor, "location")
    said = f"initializer {tensor.name!r} keeps its data in {location!r}"
    if folder is None:
        raise InputError(f"{said} beside the model's file: load the model by its path")
    try:
        path = (folder / location).resolve()
        is_inside = bool(location) and path.is_relative_to(folder.resolve())
        is_file = is_inside and path.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, with a NUL, links in a circle
        raise InputError(f"{said}, which is not a file path: {error}") from error
    if not is_inside:
        raise InputError(f"{said}, outside the model's folder: this is refused")
    if not is_file:
        raise InputError(f"{said}, which was not found: put it beside the model")
    return path


def _refer(tensor: TensorProto, entries: dict[str, str]) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
