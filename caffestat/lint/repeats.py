"""One cause in many layers of a file is reported once in formats for people.

Comments and baselines silence single findings, fixes mend them, and programs read them, so they stay apart until then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .issue import Issue

__all__ = ["without_repeats"]

_NAMED = 3


def without_repeats(issues: Iterable[Issue]) -> list[Issue]:
    """Return the issues, of those with the same cause in one file the first alone, which names the others."""
    groups: dict[object, list[Issue]] = {}
    for number, issue in enumerate(issues):
        alike = (issue.place.file, issue.code, issue.severity, issue.cause)
        groups.setdefault(alike if issue.cause else number, []).append(issue)
    return [_told(group) for group in groups.values()]


def _told(group: Sequence[Issue]) -> Issue:
    first, *others = group
    if not others:
        return first
    named = ", ".join(_place(issue) for issue in others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
    places = "1 more place" if len(others) == 1 else f"{len(others)} more places"
    message = f"{first.message}; the same in {places}: {named}"
    return replace(first, message=message)


def _place(issue: Issue) -> str:
    return f"{issue.layer} (line {issue.place.line})" if issue.layer else f"line {issue.place.line}"
