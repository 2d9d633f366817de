"""Reading regular files of bounded size, and writing files atomically."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from caffestat.errors import InputError

try:
    import fcntl
except ImportError:  # not on Windows, where files that are open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "LARGEST_TEXT",
    "Version",
    "check_strings",
    "create_file",
    "open_regular",
    "read_regular",
    "read_stdin",
    "refuse_inputs",
    "refuse_same",
    "refuse_unwritable",
    "replace_file",
    "replacing",
    "reserved",
    "search",
    "why_unwritable",
]

LARGEST_TEXT = 64 << 20
"""The most bytes of a text: a prototxt, a list of files, settings, a baseline."""

_CHUNK = 1 << 20
_TEMPORARY = r"\..+\.[0-9a-f]{8}\.caffestat\.tmp"


# Reading


def open_regular(path: str | Path) -> int:
    """Return a file descriptor for reading. Raises OSError, or InputError for what is no regular file.

    A named pipe or a device could block or never end.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise InputError(f"{path}: expected a regular file, found {_kind(mode)}")


def _kind(mode: int) -> str:
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "something else"


def read_regular(path: str | Path, limit: int = LARGEST_TEXT) -> bytes:
    """Return a regular file's bytes. Raises OSError, or InputError for other kinds and for more than `limit` bytes."""
    with open(open_regular(path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{path}: expected at most {limit:,} bytes, found more")
    return data


def check_strings(path: str | Path, message: Any) -> None:
    """Raise InputError when a text in a protobuf message is not UTF-8: it comes as bytes then, not as str."""
    waiting = [message]
    while waiting:
        for descriptor, value in waiting.pop().ListFields():
            if descriptor.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)
            elif descriptor.type == descriptor.TYPE_STRING and bytes in map(
                type, (value,) if isinstance(value, (str, bytes)) else value
            ):
                raise InputError(f"{path}: its field {descriptor.full_name} holds bytes that are not UTF-8")


def search(folder: str | Path, patterns: Iterable[str], links: bool = False) -> list[Path]:
    """Return the files below a folder whose names match a pattern, sorted; links to folders are not followed.

    Folders that cannot be searched are among them, for who opens one is told why.

    links: take a link that leads out of the folder, too, when the name of the file it leads to matches as well
    """
    root = os.path.realpath(folder)
    found: list[Path] = []
    for place, _, names in os.walk(folder, onerror=lambda error: found.append(Path(error.filename))):
        for name in names:
            if _matches(name, patterns):
                path = os.path.join(place, name)
                real = os.path.realpath(path)
                is_inside = os.path.commonpath([root, real]) == root
                if _may_be_file(real) and (is_inside or (links and _matches(os.path.basename(real), patterns))):
                    found.append(Path(path))
    return sorted(found)


def _may_be_file(path: str) -> bool:
    """Tell whether there is a regular file; also True in a folder that does not let it be looked at."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def read_stdin() -> bytes:
    """Return what the standard input holds. Raises OSError, or InputError when it is closed or holds more."""
    if sys.stdin is None:
        raise InputError("<stdin>: is closed")
    data = sys.stdin.buffer.read(LARGEST_TEXT + 1)
    if len(data) > LARGEST_TEXT:
        raise InputError(f"<stdin>: expected at most {LARGEST_TEXT:,} bytes, found more")
    return data


# Writing


@dataclass(frozen=True)
class Version:
    """A file's state; two that differ show that the file was changed between reading and writing."""

    size: int
    modified: int  # nanoseconds
    digest: bytes

    @classmethod
    def of(cls, path: str | Path) -> Version:
        """Return the present state. Raises InputError when the file cannot be read."""
        import hashlib  # here, for most runs write nothing

        digest = hashlib.blake2b()
        try:
            with open(open_regular(path), "rb") as file:
                status = os.fstat(file.fileno())
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        return cls(status.st_size, status.st_mtime_ns, digest.digest())


def refuse_inputs(output: str | Path | None, inputs: Iterable[str | Path]) -> None:
    """Raise InputError when the output is one of the inputs, by whatever name."""
    for path in inputs:
        with suppress(OSError, ValueError):
            if output is not None and os.path.samefile(output, path):
                raise InputError(f"{output}: is also an input, which would be overwritten; choose another output")


def refuse_same(*outputs: str | Path | None) -> None:
    """Raise InputError when two outputs are one file, of which the last one written would be left."""
    found = [path for path in outputs if path is not None and (os.path.isfile(path) or not os.path.exists(path))]
    for path, times in Counter(map(os.path.realpath, found)).items():
        if times > 1:
            raise InputError(f"{path}: is the name of two outputs; choose another one for one of them")


def why_unwritable(path: str | Path) -> str:
    """Return why no file can be written to a path, "" where it can; for outputs of long runs, before these begin."""
    import tempfile  # here, for most runs write nothing

    if os.path.exists(path) and not os.path.isfile(path):
        return ""  # a device or a pipe
    folder = os.path.dirname(path) or "."
    try:
        with tempfile.TemporaryFile(dir=folder):  # not all folders tell beforehand, so a file without a name is made
            return ""
    except OSError:
        return f"the folder {folder!r} is not writable" if os.path.isdir(folder) else f"there is no folder {folder!r}"


def refuse_unwritable(path: str | Path) -> None:
    """Raise InputError for an output that cannot be written; see `why_unwritable`."""
    if why := why_unwritable(path):
        raise InputError(f"{path}: cannot be written: {why}; create the folder or choose another one")


def replace_file(path: str | Path, data: bytes, since: Version | None = None) -> None:
    """Replace a file by these bytes atomically; see `replacing`."""
    with replacing(path, since) as fresh:
        fresh.write_bytes(data)


def create_file(path: Path, names: Iterable[Path], write: Callable[[BinaryIO], object]) -> Path:
    """Write a new file atomically under the first of `names` that no file has, and return that name.

    path: the file that the new one belongs to, whose mode it gets where that file is there; all are in one folder.
    Raises InputError when it cannot be written.
    """
    try:
        with _locked(path) as fresh:
            if path.exists():
                os.chmod(fresh, stat.S_IMODE(path.stat().st_mode))
            with fresh.open("wb") as file:
                write(file)
            _flush(fresh)
            return next(name for name in names if _take(fresh, name))
    except OSError as error:
        raise InputError(f"{path}: cannot write to its folder: {error.strerror or error}") from error


def _take(fresh: Path, name: Path) -> bool:
    """Give a file a name; return False when another file has it."""
    try:
        os.link(fresh, name)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        if name.exists():
            return False
        os.rename(fresh, name)
    fresh.unlink(missing_ok=True)
    return True


@contextmanager
def replacing(path: str | Path, since: Version | None = None) -> Iterator[Path]:
    """Yield a path in the same folder to write to; when all went well, that file takes the place of `path`.

    since: the version that was read; InputError when the file is another by now, and nothing is replaced then

    A reader, or a power cut, finds the old file or the new one. Symbolic links are followed; mode, owner, group and
    extended attributes of an existing file are kept; a device or a pipe is written to directly. Files that killed
    writers of the same file left behind are removed. Raises InputError when the file cannot be written, when what it
    has cannot be kept, and for one with several hard links: the others would keep the old bytes.
    """
    target = Path(os.path.realpath(path))
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            yield Path(path)  # not by its real path: that of a pipe at /dev/stdout is the name of no file
        else:
            with _locked(target) as fresh:
                _copy_status(target, fresh)
                yield fresh
                _flush(fresh)
                if since is not None and Version.of(target) != since:
                    raise InputError(f"{path}: was changed by another program in the meantime; not overwritten")
                os.replace(fresh, target)
            if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is safe without
                _flush(target.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Make a folder, and keep out other processes that ask for it; InputError when one has it, or it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise InputError(f"{folder}: cannot be used: {error.strerror or error}") from error
    try:
        if handle is not None:
            _reserve(folder, handle)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _reserve(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{folder}: another process writes to it; wait for its end or name another folder") from None
    except OSError:  # some network file systems know no locks
        pass


@contextmanager
def _locked(target: Path) -> Iterator[Path]:
    """Yield a new file beside the target, locked while this process lives, and removed when something goes wrong."""
    _remove_stale(target.parent)
    fresh, handle = _create(target)
    try:
        yield fresh
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _create(target: Path) -> tuple[Path, int]:
    while True:
        fresh = target.with_name(f".{target.name[:50]}.{os.urandom(4).hex()}.caffestat.tmp")
        handle = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if fcntl is None:
            return fresh, handle
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(fresh), os.fstat(handle)):
                return fresh, handle
        os.close(handle)  # before it was locked, another process took it for a stale one


@cache
def _remove_stale(folder: Path) -> None:
    """Remove the files that killed writers left in a folder: no process holds their locks any more."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        if re.fullmatch(_TEMPORARY, name):
            with suppress(OSError):
                _remove_unlocked(folder / name)


def _remove_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(handle)


def _copy_status(target: Path, fresh: Path) -> None:
    """Give the new file what the old one has beside its bytes. Raises InputError for what cannot be kept."""
    if not target.exists():
        return
    old, new = target.stat(), fresh.stat()
    if old.st_nlink > 1:
        links = f"has {old.st_nlink} hard links, and the others would keep the old bytes"
        raise InputError(f"{target}: {links}: replace it with a copy first")
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        try:
            os.chown(fresh, old.st_uid, old.st_gid)
        except OSError as error:
            raise InputError(f"{target}: belongs to another user or group, which cannot be kept: {error}") from error
    os.chmod(fresh, stat.S_IMODE(old.st_mode))
    if hasattr(os, "listxattr"):
        _copy_attributes(target, fresh)


def _copy_attributes(target: Path, fresh: Path) -> None:
    for name in _attributes(target):
        try:
            value = os.getxattr(target, name)
            if name not in _attributes(fresh) or os.getxattr(fresh, name) != value:
                os.setxattr(fresh, name, value)
        except OSError as error:
            raise InputError(f"{target}: its extended attribute {name} cannot be kept: {error.strerror}") from error


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:  # a file system without them
        return []


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
