"""What the files of one check have in common: a net that several solvers name is read, built and predicted once."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from caffestat.errors import NetError
from caffestat.net import NetSource, Solver
from caffestat.net.rules import State
from caffestat.net.sizes import Assumed
from caffestat.net.source import STDIN, as_net, net_source, read_bytes, read_document, source_of
from caffestat.program import NetFile
from caffestat.program.opening import net_file
from caffestat.prototext import Document, parse
from caffestat.theory import Memo

from .context import Outlook

__all__ = ["Built", "Shared"]

T = TypeVar("T")

_KEPT = 24  # texts, sources and nets: files that share one are neighbours


@dataclass(frozen=True)
class Built:
    """A net, and what is predicted of it with the values of its fillers.

    faults   the errors at which Caffe would stop
    assumed  likely sizes of data that no file states
    """

    outlook: Outlook
    faults: tuple[NetError, ...]
    assumed: tuple[Assumed, ...]


class Shared:
    """The last texts, sources and nets of one check, and the answers of its predictions. Files must not change."""

    def __init__(self) -> None:
        self.memo = Memo()
        self._kept: dict[Hashable, tuple[object, Any]] = {}

    def open(self, path: str) -> NetFile:
        """Read a net or solver prototxt, and the net that a solver names; see `open_file`.

        The places of a net have the name by which it was first opened.
        """
        text = self.document(path)
        return net_file(text, self._source(text))

    def document(self, path: str) -> Document:
        """Parse a prototxt; see `read_document`."""
        if path == STDIN:
            return read_document(path)
        text = read_bytes(path)
        # not normalized: a folder in the path may be a link
        return self._once((os.path.join(os.getcwd(), path), text), None, partial(parse, text, path))

    def built(self, source: NetSource, state: State, sizes: bool, build: Callable[[], Built]) -> Built:
        """Return the net of a source in a state, with or without likely sizes."""
        return self._once((id(source), state, sizes), source, build)

    def _source(self, text: Document) -> NetSource | Solver:
        return self._once(id(text), text, lambda: source_of(text, self._net))

    def _net(self, path: str) -> NetSource:
        text = as_net(self.document(path))
        return self._once(id(text), text, lambda: net_source(text))

    def _once(self, key: Hashable, owner: object, work: Callable[[], T]) -> T:
        """Return what was worked out for a key that is among the last ones, else work it out.

        owner: what the key is the id of; it is kept, so that no other object gets that id
        """
        found: tuple[object, T] = self._kept.pop(key) if key in self._kept else (owner, work())
        self._kept[key] = found
        while len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept)))
        return found[1]
