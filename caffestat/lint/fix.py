"""Applies the fixes of findings to the text: those that need no decision by a person."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from caffestat.errors import InputError
from caffestat.files import Version, replace_file
from caffestat.net.source import STDIN, read_bytes
from caffestat.prototext import Document, Edit, parse, replace

from .issue import Issue
from .run import Job, check_file

__all__ = ["Fixed", "diff_of", "fix_file"]


@dataclass(frozen=True)
class Fixed:
    """A file's text before and after, and the findings that were dealt with; `error` is why it is left as it is."""

    path: str
    before: bytes = b""
    after: bytes = b""
    issues: tuple[Issue, ...] = ()
    since: Version | None = None
    error: str | None = None

    @property
    def diff(self) -> str:
        """The change as a unified diff, "" when there is none."""
        return _diff(self.before, self.after, self.path)

    def write(self) -> None:
        """Replace the file, where something is fixed. Raises InputError, also when it was changed since it was read."""
        if self.issues:
            replace_file(self.path, self.after, self.since)


def _diff(before: bytes, after: bytes, path: str) -> str:
    old, new = (text.decode(errors="replace").splitlines(keepends=True) for text in (before, after))
    return "".join(difflib.unified_diff(old, new, path, path))


def diff_of(issue: Issue, document: Document) -> str:
    """Return what the fix of a finding changes in its text, as a unified diff; "" where a person must decide."""
    edits = list(issue.edits(document)) if issue.edits else []
    return _diff(bytes(document), replace(document, edits), document.name) if edits else ""


def fix_file(path: str, job: Job) -> Fixed:
    """Return the text of a net with every fix applied that does not touch another one's bytes. Writes nothing.

    Nothing is fixed in a solver: its net is in another file. Raises a CaffestatError when it cannot be read, and
    for the standard input, which cannot be changed.
    """
    if path == STDIN:
        raise InputError("-: fixes cannot be written to standard input; name the file")
    since = Version.of(path)
    issues = [issue for issue in check_file(path, job) if issue.edits and issue.place.file == path]
    before = read_bytes(path)
    document = parse(before, path)
    chosen: list[Edit] = []
    done: list[Issue] = []
    for issue in issues:
        edits = list(issue.edits(document)) if issue.edits else []
        if edits and not any(_overlap(edit, other) for edit in edits for other in chosen):
            chosen += edits
            done.append(issue)
    return Fixed(path, before, replace(document, chosen), tuple(done), since)


def _overlap(one: Edit, other: Edit) -> bool:
    """Tell whether two edits change the same bytes, or insert at the same place."""
    return one[:2] == other[:2] or (one[0] < other[1] and other[0] < one[1])
