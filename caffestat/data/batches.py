"""Arrays from .npy and .npz files and folders of them: batches of data, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from caffestat.engine.need import Need, check_memory
from caffestat.errors import CaffestatError, InputError
from caffestat.files import open_regular
from caffestat.lazy import np

__all__ = ["Source", "number_of", "read_archive", "read_array", "read_arrays"]

Source = str | Path | np.ndarray | Sequence[np.ndarray]


def number_of(text: str) -> np.ndarray | None:
    """Return a number as an array without axes, None for other text."""
    for kind in (int, float):
        with suppress(ValueError):
            return np.asarray(kind(text))
    return None


def read_array(path: str | Path) -> np.ndarray:
    """Return the array of numbers or text in a .npy file, memory-mapped. Raises InputError for anything else."""
    found = _load(path)
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: expected a .npy file with one array, found an archive of several")
    return found if found.dtype.kind == "U" else _numbers(path, found)


def read_archive(path: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a .npz file with their names. Raises InputError for anything else."""
    found = _load(path)
    if isinstance(found, np.ndarray):
        raise InputError(f"{path}: expected a .npz file, found one array without a name")
    with found as archive:
        for key in archive.files:
            yield key, _numbers(path, _member(path, archive, key))


def read_arrays(source: Source, name: str) -> Iterator[np.ndarray]:
    """Yield the arrays of a source: an array, several, a .npy or .npz file, or all of these in a folder, by file name.

    name: of the input; of an archive that has an array of that name, that one alone is meant

    Raises InputError for a file that cannot be read, or a folder without any.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: expected a folder with .npy or .npz files, found none")
        for file in files:
            yield from _arrays(file, name)
    elif isinstance(source, np.ndarray):
        yield source
    else:
        for array in source if isinstance(source, Sequence) else [source]:
            if not isinstance(array, np.ndarray):
                raise InputError(f"inputs: expected files or arrays for {name!r}, found {array!r:.60}")
            yield array


def _arrays(path: Path, name: str) -> Iterator[np.ndarray]:
    found = _load(path)
    if isinstance(found, np.ndarray):
        yield _numbers(path, found)
        return
    with found as archive:
        for key in [name] if name in archive.files else archive.files:
            yield _numbers(path, _member(path, archive, key))


def _load(path: str | Path) -> Any:
    try:
        os.close(open_regular(str(path)))
        return np.load(path, allow_pickle=False, mmap_mode="r")  # mapped: a false size allocates nothing
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; expected a .npy file") from error
    except CaffestatError:
        raise
    except Exception as error:  # of damaged files it raises almost any, and recommends unsafe loading
        raise InputError(f"{path}: expected an array of numbers as numpy.save writes it, found another file") from error


def _member(path: str | Path, archive: Any, key: str) -> np.ndarray:
    size = sum(part.file_size for part in archive.zip.infolist() if part.filename.removesuffix(".npy") == key)
    check_memory(Need(size), f"{path}: reading the array {key!r}")
    try:
        return np.asarray(archive[key])
    except Exception as error:  # damaged archives raise almost any
        raise InputError(f"{path}: the array {key!r} cannot be read: the file is damaged") from error


def _numbers(path: str | Path, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path}: expected an array of numbers, found one of {array.dtype}")
    return array
