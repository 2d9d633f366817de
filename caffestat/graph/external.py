"""ONNX models with tensors outside the model's file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto

from caffestat.files import replace_file, replacing

__all__ = ["LARGEST", "OWN_SUFFIX", "external_entry", "move_outside", "save"]

LARGEST = 2**31 - 1
"""The most bytes that a protobuf message, and so a model's own file, can hold."""

OWN_SUFFIX = ".weights"
"""What `move_outside` adds, with a number, to a model's name for the name of a data file."""

_ALIGNMENT = 64
_WORTH_MOVING = 1024


def save(model: onnx.ModelProto, path: str | Path) -> None:
    """Write a model in one step; what makes it larger than 2 GiB goes to a file beside it, which is there first."""
    path = Path(path)
    tensors = [t for t in model.graph.initializer if len(t.raw_data) >= _WORTH_MOVING]
    if sum(len(t.raw_data) for t in tensors) > LARGEST - 2**26:
        move_outside(tensors, path)
    replace_file(path, model.SerializeToString())


def move_outside(tensors: Sequence[TensorProto], path: Path) -> Path:
    """Write the tensors' raw data to a new file beside the model's `path`, and make them refer to it.

    Returns the new file's path.
    """
    data = free_name(path)
    offset = 0
    with replacing(data) as fresh, fresh.open("wb") as file:
        for tensor in tensors:
            offset += file.write(b"\0" * (-offset % _ALIGNMENT))
            length = file.write(tensor.raw_data)
            _refer(tensor, {"location": data.name, "offset": str(offset), "length": str(length)})
            offset += length
    return data


def free_name(path: Path) -> Path:
    """A name for a data file that no file has: an old one may still be in use."""
    names = (path.with_name(f"{path.name}{OWN_SUFFIX}{number}") for number in range(10**6))
    return next(name for name in names if not name.exists())


def external_entry(tensor: TensorProto, key: str, default: str = "") -> str:
    """What the tensor says about the place of its data: location, offset, length."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), default)


def _refer(tensor: TensorProto, entries: dict[str, str]) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
