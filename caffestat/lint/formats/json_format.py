"""Findings as one JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ..issue import Issue

__all__ = ["FORMAT_VERSION", "render"]

FORMAT_VERSION = 1


def render(issues: Sequence[Issue], files: Sequence[str]) -> str:
    """Return `{"format_version", "files", "findings"}`; numbers that are not finite become strings."""
    data = {"format_version": FORMAT_VERSION, "files": list(files), "findings": [_finding(issue) for issue in issues]}
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finding(issue: Issue) -> dict[str, Any]:
    return {
        "code": issue.code,
        "name": issue.name,
        "severity": issue.severity,
        "file": issue.place.file,
        "line": issue.place.line,
        "column": issue.place.column,
        "layer": issue.layer,
        "message": issue.message,
        "numbers": {name: value if math.isfinite(value) else str(value) for name, value in issue.numbers.items()},
        "fix": issue.fix,
        "fixable": issue.edits is not None,
    }
