"""Comments that silence findings: `# caffestat: ignore[CS012] reason`.

A comment in a layer, on its line or on the lines right above it, applies to that layer; one with `ignore-file` to the
whole file. Several codes are separated by commas; without brackets all are meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from caffestat.prototext import Document

from .issue import Issue

__all__ = ["Suppression", "suppressions", "without_suppressed"]

_COMMENT = re.compile(rb"#\s*caffestat:\s*(ignore(?:-file)?)(?:\[([^\]]*)\])?[ \t]*([^\n]*)")


@dataclass(frozen=True)
class Suppression:
    """A comment, and the lines (first, last) that it applies to; codes empty for all. Line 0 is the file as such."""

    codes: tuple[str, ...]
    reason: str
    first: int
    last: int

    def covers(self, issue: Issue) -> bool:
        """Tell whether the comment silences an issue."""
        is_meant = not self.codes or any(issue.code == code or issue.name == code for code in self.codes)
        return is_meant and self.first <= issue.place.line <= self.last


def suppressions(document: Document) -> Iterator[Suppression]:
    """Yield the comments of a text. A `#` in a string may be taken for one."""
    data = bytes(document)
    blocks = [_lines(data, *field.span) for field in document.fields]
    last_line = data.count(b"\n") + 1
    for found in _COMMENT.finditer(data):
        line = data.count(b"\n", 0, found.start()) + 1
        codes = tuple(code.strip() for code in (found[2] or b"").decode(errors="replace").split(",") if code.strip())
        first, last = (0, last_line) if found[1] == b"ignore-file" else _block(line, blocks)
        yield Suppression(codes, found[3].decode(errors="replace").strip(), first, last)


def _lines(data: bytes, start: int, end: int) -> tuple[int, int]:
    first = data.count(b"\n", 0, start) + 1
    return first, first + data.count(b"\n", start, end)


def _block(line: int, blocks: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the lines of the top-level field that a line is in or, between two, of the next one."""
    for first, last in blocks:
        if line <= last:
            return min(first, line), last
    return line, line


def without_suppressed(issues: Iterable[Issue], file: str, comments: Iterable[Suppression]) -> list[Issue]:
    """Return the issues that no comment of a file silences."""
    known = list(comments)
    return [issue for issue in issues if issue.place.file != file or not any(c.covers(issue) for c in known)]
