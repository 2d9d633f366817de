"""Messages from binary files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from caffestat.errors import InputError
from caffestat.files import check_strings, read_regular

__all__ = ["read_binary"]

M = TypeVar("M", bound=Any)
LARGEST = 2**31 - 1
_HDF5 = b"\x89HDF"


def read_binary(path: str | Path, cls: type[M]) -> M:
    """Return the message in a file: .caffemodel (NetParameter), .solverstate (SolverState), .binaryproto (BlobProto).

    Raises InputError when the file cannot be read, is larger than the 2 GiB that protobuf takes, is cut short, or
    holds something else. Source: util/io.cpp.
    """
    data = _read(Path(path), cls)
    message: M = cls()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise InputError(_mismatch(path, cls, data)) from error
    if not message.ListFields():
        raise InputError(_mismatch(path, cls, data))
    check_strings(path, message)
    return message


def _read(path: Path, cls: type[Any]) -> bytes:
    try:
        size = os.path.getsize(path)
        if size > LARGEST:
            raise InputError(f"{path}: expected at most {LARGEST} bytes, which is protobuf's limit, found {size}")
        return read_regular(path, LARGEST)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as a binary {_name(cls)}: {reason}") from error


def _mismatch(path: str | Path, cls: type[Any], data: bytes) -> str:
    return f"{path}: expected a binary {_name(cls)}, found {_looks_like(data)}"


def _name(cls: type[Any]) -> str:
    return str(cls.DESCRIPTOR.full_name)


def _looks_like(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data.startswith(_HDF5):
        return "an HDF5 file"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in data[:512]):
        return "what looks like text"
    return f"other or incomplete data ({len(data)} bytes)"
