"""Findings for people: one line each, as compilers write them, and the fix below; one cause in many layers once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caffestat.escape import visible
from caffestat.options import SEVERITIES

from ..issue import Issue
from ..repeats import without_repeats

if TYPE_CHECKING:
    from ..run import Checked

__all__ = ["render"]


def render(checked: Checked) -> str:
    """Return `file:line:column: CODE severity: layer: message`, the fix, and a count."""
    return "".join(f"{visible(line)}\n" for line in _lines(checked))


def _lines(checked: Checked) -> Iterator[str]:
    issues = without_repeats(checked.issues)
    for issue in issues:
        layer = f"{issue.layer}: " if issue.layer else ""
        yield f"{issue.place}: {issue.code} {issue.severity}: {layer}{issue.message} [{issue.name}]"
        if issue.advice:
            yield f"    fix: {issue.advice}"
    found = _counts(issues) or "nothing found" * (len(checked.files) > len(checked.errors))
    yield f"{_files(checked)}: {found}" if found else _files(checked)


def _files(checked: Checked) -> str:
    good, bad = len(checked.files) - len(checked.errors), len(checked.errors)
    told = f"{good} file{'' if good == 1 else 's'} checked"
    return f"{told}, {bad} could not be checked" if bad else told


def _counts(issues: Sequence[Issue]) -> str:
    counts = Counter(issue.severity for issue in issues)
    words = [
        f"{counts[s]} {s}{'s' if counts[s] > 1 and s != 'info' else ''}" for s in reversed(SEVERITIES) if counts[s]
    ]
    return ", ".join(words)
