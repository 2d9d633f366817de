"""Shapes of BlobProtos, and their values without a Python object for each number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caffestat.lazy import np
from caffestat.schema.caffe_pb2 import BlobProto

__all__ = ["blob_shape", "fits", "is_legacy", "set_diffs", "set_shape", "set_values"]

_LENGTH_DELIMITED = 2
_LEGACY = ("num", "channels", "height", "width")


def is_legacy(blob: Any) -> bool:
    """Tell whether a BlobProto has the four sizes of old files."""
    return any(blob.HasField(name) for name in _LEGACY)


def blob_shape(blob: Any) -> tuple[int, ...]:
    """Return a BlobProto's shape: four axes in old files, none where none are stated. (blob.cpp, FromProto)"""
    return tuple(getattr(blob, name) for name in _LEGACY) if is_legacy(blob) else tuple(blob.shape.dim)


def fits(blob: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether the blob has this shape; a legacy one may have axes of size 1 in front. (blob.cpp, ShapeEquals)"""
    found = blob_shape(blob)
    if is_legacy(blob):
        return len(shape) <= 4 and found == (1,) * (4 - len(shape)) + shape
    return found == shape


def set_shape(blob: Any, shape: Sequence[int]) -> None:
    """Give a BlobProto without a shape one; that of no axes is not written. (blob.cpp, ToProto)"""
    if shape:
        blob.shape.dim.extend(shape)


def set_values(blob: Any, values: np.ndarray) -> None:
    """Replace a BlobProto's values, in double precision when it held such; its shape and all else stay.

    Packed as the binary format has them: a field's key, the length in bytes, little-endian numbers.
    """
    name, kind = ("double_data", "<f8") if len(blob.double_data) else ("data", "<f4")
    _set(blob, name, kind, values)


def set_diffs(blob: Any, values: np.ndarray) -> None:
    """Replace a BlobProto's diffs; see `set_values`."""
    _set(blob, "diff", "<f4", values)


def _set(blob: Any, name: str, kind: str, values: np.ndarray) -> None:
    blob.ClearField(name)
    raw = np.ascontiguousarray(values, kind).tobytes()
    key = BlobProto.DESCRIPTOR.fields_by_name[name].number << 3 | _LENGTH_DELIMITED
    blob.MergeFromString(_varint(key) + _varint(len(raw)) + raw)


def _varint(number: int) -> bytes:
    """Return a varint: seven bits a byte, the lowest first; the top bit says that more follow."""
    groups = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
