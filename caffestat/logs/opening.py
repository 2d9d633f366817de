"""Opens logs of any size, encoding and compression as lines of bytes, of which none is kept."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import Any, BinaryIO

from caffestat.errors import InputError

__all__ = ["STDIN", "log_lines"]

STDIN = "-"

_BLOCK = 1 << 18
_LONGEST = 1 << 16  # bytes of a line that are looked at; no line of Caffe's is as long

_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_FOREIGN = {b"PK\x03\x04": "a zip archive", b"(\xb5/\xfd": "compressed with zstd", b"7z\xbc\xaf": "a 7z archive"}
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def log_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a log without their ends; `-` is the standard input.

    Text compressed with gzip, bzip2 or xz and text in UTF-16 is read as what it holds. Of a line above 64 KiB the
    beginning is returned. Raises InputError when the file cannot be read.
    """
    name = "<stdin>" if path == STDIN else path
    try:
        with closing(_open(path, name)) as file:
            yield from _lines(_decoded(file, name))
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{name}: cannot be read: {reason}; expected a training log") from error


def _open(path: str, name: str) -> BinaryIO:
    if path == STDIN:
        if sys.stdin is None:
            raise InputError(f"{name}: is closed")
        return sys.stdin.buffer
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise InputError(f"{name}: is not a file; expected a training log")
    return open(path, "rb")  # the caller closes it


def _decoded(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield blocks of text in an encoding that extends ASCII."""
    head = file.read(_BLOCK)
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(
                f"{name}: is {what}; expected a training log, as text or compressed with gzip, bzip2 or xz"
            )
    for magic, opener in _COMPRESSED.items():
        if head.startswith(magic):
            with opener(_Rejoined(head, file), "rb") as inner:
                yield from _decoded(inner, name)
            return
    encoding = next((found for mark, found in _UTF16.items() if head.startswith(mark)), None)
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace") if encoding else None
    while head:
        yield decoder.decode(head).encode() if decoder else head
        head = file.read(_BLOCK)


class _Rejoined:
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return self._head + self._file.read()
        found, self._head = self._head[:size], self._head[size:]
        return found or self._file.read(size)


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        first, *others = block.split(b"\n")
        rest = (rest + first)[:_LONGEST]
        if others:
            yield rest
            yield from others[:-1]
            rest = others[-1]
    if rest:
        yield rest
