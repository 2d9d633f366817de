"""HDF5 files: written atomically; untrusted ones are read without links to other files, and within the free memory."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from caffestat.engine.need import Need, check_memory
from caffestat.errors import CaffestatError, InputError
from caffestat.files import open_regular, replacing
from caffestat.lazy import np

__all__ = ["is_hdf5", "member", "read_array", "reading", "write_arrays", "writing"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: str | Path) -> bool:
    """Tell by its first bytes whether a file that can be read is in HDF5."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except (InputError, OSError, ValueError):
        return False


def open_hdf5(path: str | Path, mode: str) -> Any:
    """Open an HDF5 file. Raises InputError without h5py, OSError when it cannot be opened."""
    h5py = _library(path, "reading" if mode == "r" else "writing")
    try:
        return h5py.File(path, mode, locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, mode)  # this process has it open, with locks


def _library(path: str | Path, what: str) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise InputError(f"{path}: {what} HDF5 needs h5py: pip install 'caffestat[data]'") from error


@contextmanager
def reading(path: str | Path, fail: Callable[[str], CaffestatError]) -> Iterator[Any]:
    """Open a file for reading; raise what `fail` makes of the reason, for any error."""
    try:
        os.close(open_regular(path))
        with open_hdf5(path, "r") as file:
            yield file
    except InputError as error:
        raise fail(str(error)) from error
    except Exception as error:  # of damaged files the library raises almost any
        raise fail(f"cannot be read: {error}") from error


@contextmanager
def writing(path: str | Path) -> Iterator[Any]:
    """Open a new file that replaces `path` when all went well. Raises InputError when it cannot be written."""
    _library(path, "writing")
    try:
        with replacing(path) as fresh, _plain_errors(), open_hdf5(fresh, "w") as file:
            yield file
    except RuntimeError as error:  # what the library raises of a full disk
        raise InputError(f"{path}: cannot be written: {error}") from error


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of data sets, atomically. Raises InputError when it cannot be written."""
    with writing(path) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise OSErrors with the system's text: the library's is a page about the file that it writes to."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno)) if error.errno else error from error


def member(group: Any, name: str) -> Any:
    """Return what a group holds under a name. Raises InputError when it holds nothing, or a link."""
    import h5py

    if not isinstance(group, h5py.Group) or name not in group:
        known = ", ".join(sorted(group)) if isinstance(group, h5py.Group) else ""
        raise InputError(f"has no data set {name!r}; it has {known or 'none'}")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"has a link as data set {name!r}; links are not followed")
    return group[name]


def read_array(group: Any, name: str, kind: type = np.float32, axes: int = 0) -> np.ndarray:
    """Return a data set of numbers. Raises InputError for what is none, is stored elsewhere or is too large.

    axes: the least number of them
    """
    import h5py

    data = member(group, name)
    if not isinstance(data, h5py.Dataset):
        raise InputError(f"has a group {name!r}; expected a data set")
    if data.external or data.is_virtual:
        raise InputError(f"keeps data set {name!r} in other files, which are not read")
    if data.dtype.kind not in "fiu" or data.shape is None or len(data.shape) < axes:
        what = "rows of numbers" if axes else "numbers"
        raise InputError(f"has in data set {name!r} type {data.dtype} and shape {data.shape}; expected {what}")
    check_memory(Need(math.prod(data.shape) * (data.dtype.itemsize + 4)), f"reading the data set {name!r}")
    return np.asarray(data, kind)
