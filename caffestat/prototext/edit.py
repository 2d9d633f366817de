"""Changes given bytes of a parsed text and leaves all others alone."""

from __future__ import annotations

from collections.abc import Iterable

from caffestat.prototext.tree import Document

__all__ = ["replace"]


def replace(document: Document, edits: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The document's bytes with each span [start, end) replaced; start == end inserts.

    Spans come from `field.span` and the like, in any order; insertions at one offset keep theirs.
    Raises ValueError when spans overlap or leave the document.
    """
    data = bytes(document)
    pieces: list[bytes] = []
    done = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        if not done <= start <= end <= len(data):
            raise ValueError(f"edit [{start}, {end}) overlaps another one or leaves the {len(data)} bytes of the text")
        pieces += (data[done:start], new)
        done = end
    return b"".join([*pieces, data[done:]])
