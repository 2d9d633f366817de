"""Findings as one JSON object; docs/ci.md describes it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.escape import json_text

from ..issue import Issue

if TYPE_CHECKING:
    from ..run import Checked, Unchecked

__all__ = ["FORMAT_VERSION", "render"]

FORMAT_VERSION = 1


def render(checked: Checked) -> str:
    """Return `{"format_version", "files", "findings", "errors"}`; numbers that are not finite become strings."""
    data = {
        "format_version": FORMAT_VERSION,
        "files": checked.files,
        "findings": [_finding(issue) for issue in checked.issues],
        "errors": [_error(unchecked) for unchecked in checked.errors],
    }
    return json_text(data)


def _finding(issue: Issue) -> dict[str, Any]:
    return {
        "code": issue.code,
        "name": issue.name,
        "severity": issue.severity,
        **_place(issue.place),
        "layer": issue.layer,
        "message": issue.message,
        "numbers": {name: value if math.isfinite(value) else str(value) for name, value in issue.numbers.items()},
        "fix": issue.fix,
        "fixable": issue.edits is not None,
    }


def _error(unchecked: Unchecked) -> dict[str, Any]:
    return {**_place(unchecked.place), "message": unchecked.message}


def _place(place: Place) -> dict[str, Any]:
    return {"file": place.file, "line": place.line, "column": place.column}
