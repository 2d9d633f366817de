"""Findings as SARIF 2.1.0, which code scanning services read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from caffestat import __version__

from ..issue import Issue
from ..registry import Check, all_checks

__all__ = ["render"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"info": "note", "warning": "warning", "error": "error"}


def render(issues: Sequence[Issue], files: Sequence[str]) -> str:
    """Return one run with a rule for every check."""
    rules = all_checks()
    index = {check.code: position for position, check in enumerate(rules)}
    driver = {"name": "caffestat", "version": __version__, "rules": [_rule(check) for check in rules]}
    results = [_result(issue, index[issue.code]) for issue in issues]
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _rule(check: Check) -> dict[str, Any]:
    return {
        "id": check.code,
        "name": "".join(word.capitalize() for word in check.name.split("-")),
        "shortDescription": {"text": check.summary},
        "fullDescription": {"text": check.summary},
        "help": {"text": check.page, "markdown": check.page},
        "defaultConfiguration": {"level": _LEVELS[check.severity]},
    }


def _result(issue: Issue, rule: int) -> dict[str, Any]:
    region = {"startLine": max(issue.place.line, 1)}
    if issue.place.column:
        region["startColumn"] = issue.place.column
    place: dict[str, Any] = {
        "physicalLocation": {"artifactLocation": {"uri": _uri(issue.place.file)}, "region": region}
    }
    if issue.layer:
        place["logicalLocations"] = [{"name": issue.layer, "kind": "module"}]
    layer = f"{issue.layer}: " if issue.layer else ""
    return {
        "ruleId": issue.code,
        "ruleIndex": rule,
        "level": _LEVELS[issue.severity],
        "message": {"text": f"{layer}{issue.message}. Fix: {issue.fix}"},
        "locations": [place],
        "partialFingerprints": {"caffestat/v1": "|".join(issue.key)},
    }


def _uri(file: str) -> str:
    return quote(file.replace("\\", "/"), safe="/:")
