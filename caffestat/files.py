"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caffestat.errors import InputError

__all__ = ["replace_file", "replacing"]


def replace_file(path: str | Path, data: bytes) -> None:
    """Put the bytes there in one step; see `replacing`."""
    with replacing(path) as fresh:
        fresh.write_bytes(data)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path in the same folder to write to; when all went well, that file takes the place of `path`.

    A reader, or a power cut, finds the old file or the new one. Symbolic links are followed, the mode of an existing
    file is kept; a device or a pipe is written to directly. Raises InputError when the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            yield target
        else:
            yield from _replacing_file(target)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def _replacing_file(target: Path) -> Iterator[Path]:
    fresh = target.with_name(f".{target.name[:100]}.{os.urandom(4).hex()}.tmp")
    try:
        _create_like(target, fresh)
        yield fresh
        _flush(fresh)
        os.replace(fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is safe without
        _flush(target.parent)


def _create_like(target: Path, fresh: Path) -> None:
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    if target.exists():
        os.chmod(fresh, stat.S_IMODE(target.stat().st_mode))


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
