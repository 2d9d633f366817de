"""Findings for people: one line each, as compilers write them, and the fix below."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ..issue import SEVERITIES, Issue

__all__ = ["render"]


def render(issues: Sequence[Issue], files: Sequence[str]) -> str:
    """Return `file:line:column: CODE severity: layer: message`, the fix, and a count."""
    return "".join(f"{line}\n" for line in _lines(issues, files))


def _lines(issues: Sequence[Issue], files: Sequence[str]) -> Iterator[str]:
    for issue in issues:
        layer = f"{issue.layer}: " if issue.layer else ""
        yield f"{issue.place}: {issue.code} {issue.severity}: {layer}{issue.message} [{issue.name}]"
        if issue.fix != "see the message":
            yield f"    fix: {issue.fix}"
    counts = Counter(issue.severity for issue in issues)
    words = [
        f"{counts[s]} {s}{'s' if counts[s] > 1 and s != 'info' else ''}" for s in reversed(SEVERITIES) if counts[s]
    ]
    checked = f"{len(files)} file{'' if len(files) == 1 else 's'} checked"
    yield f"{checked}: {', '.join(words) or 'nothing found'}"
