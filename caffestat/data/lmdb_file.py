"""LMDB files, read without mapping them: with truncated or damaged files, the library ends the process with a signal.

Source: lmdb.h, mdb.c (MDB_meta, MDB_page, MDB_node): the format of 64-bit little-endian machines.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from caffestat.files import open_regular

__all__ = ["LmdbError", "LmdbFile"]

# after the page's header: magic, version, address, size of the map; the tree of free pages, whose pad is the page size;
# the main tree: its root; the last page, the transaction
_META = struct.Struct("<16xII8x8x I44x 40xQ 8xQ")
_HEADER = struct.Struct("<QHHHH")  # page number, pad, flags, lower, upper; of large values the number of pages
_NODE = struct.Struct("<HHHH")  # low and high half of the size, flags, key's size
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_DEEPEST = 32  # as in the library
_BIG = 1  # the value is in pages of its own


class LmdbError(Exception):
    """The file is not an LMDB, or is damaged."""


@dataclass(frozen=True)
class _Meta:
    page_size: int
    root: int
    transaction: int


class LmdbFile:
    """The values of an LMDB's main database in the order of its keys, as of the last transaction.

    Raises LmdbError, also while it is read; OSError and InputError when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(open_regular(path / "data.mdb" if path.is_dir() else path), "rb", buffering=0)  # noqa: SIM115
        self._lock = Lock()  # batches are read ahead in another thread
        self._size = os.fstat(self._file.fileno()).st_size
        self._meta = self._newest()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def values(self) -> Iterator[bytes]:
        """Yield every value once."""
        if self._meta.root == 2**64 - 1:  # an empty database has none
            return
        try:
            yield from self._values(self._meta.root, set(), _DEEPEST)
        except struct.error as error:
            raise LmdbError("a page is damaged") from error

    def _newest(self) -> _Meta:
        first = self._meta_at(0)
        second = self._meta_at(first.page_size)
        return max(first, second, key=lambda meta: meta.transaction)

    def _meta_at(self, start: int) -> _Meta:
        data = self._read(start, _META.size)
        magic, version, page_size, root, transaction = _META.unpack(data)
        if magic != 0xBEEFC0DE or version != 1:
            raise LmdbError("it is not an LMDB of a 64-bit machine")
        if not 256 <= page_size <= 1 << 16 or page_size & (page_size - 1):
            raise LmdbError(f"its pages have {page_size} bytes")
        return _Meta(page_size, root, transaction)

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self._size:
            raise LmdbError(f"it is truncated: expected {start + size:,} bytes, found {self._size:,}")
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    def _values(self, number: int, seen: set[int], levels: int) -> Iterator[bytes]:
        """Yield the values below a page.

        seen: the branches so far, of which none comes twice in a tree; levels: how many there can be below
        """
        page = self._read(number * self._meta.page_size, self._meta.page_size)
        own, _, flags, lower, _ = _HEADER.unpack_from(page)
        if own != number or flags & 0xF not in (_BRANCH, _LEAF) or number in seen or not levels:
            raise LmdbError(f"page {number} is damaged")
        if flags & _BRANCH:
            seen.add(number)
        for offset in struct.unpack_from(f"<{max(0, lower - _HEADER.size) // 2}H", page, _HEADER.size):
            low, high, node_flags, key_size = _NODE.unpack_from(page, offset)
            if flags & _BRANCH:
                yield from self._values(low | high << 16 | node_flags << 32, seen, levels - 1)
            else:
                yield self._value(page, offset + _NODE.size + key_size, low | high << 16, node_flags)

    def _value(self, page: bytes, start: int, size: int, flags: int) -> bytes:
        if not flags:
            value = page[start : start + size]
            if len(value) < size:
                raise LmdbError("a value does not fit into its page")
            return value
        if flags != _BIG:
            raise LmdbError("it has nested databases or several values per key, which are not supported")
        (number,) = struct.unpack_from("<Q", page, start)
        begin = number * self._meta.page_size
        own, _, kind, _, _ = _HEADER.unpack(self._read(begin, _HEADER.size))
        if own != number or not kind & _OVERFLOW:
            raise LmdbError(f"page {number} is damaged")
        return self._read(begin + _HEADER.size, size)
