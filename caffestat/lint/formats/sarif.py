"""Findings as SARIF 2.1.0 (OASIS, with errata 01), which code scanning services read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from caffestat import __version__
from caffestat.errors import Place
from caffestat.escape import json_text

from ..issue import Issue
from ..registry import Check, all_checks

if TYPE_CHECKING:
    from ..run import Checked, Unchecked

__all__ = ["render"]

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"info": "note", "warning": "warning", "error": "error"}
_ROOT = "%SRCROOT%"


def render(checked: Checked) -> str:
    """Return one run with a rule for every check; it failed when a file could not be checked.

    Files in the working directory are named relative to it, others by `file:` URIs.
    """
    rules = all_checks()
    index = {check.code: position for position, check in enumerate(rules)}
    run = {
        "tool": {"driver": {"name": "caffestat", "version": __version__, "rules": [_rule(check) for check in rules]}},
        "invocations": [_invocation(checked)],
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The folder in which caffestat was run."}}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(issue, index[issue.code]) for issue in checked.issues],
    }
    return json_text({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(check: Check) -> dict[str, Any]:
    return {
        "id": check.code,
        "name": "".join(word.capitalize() for word in check.name.split("-")),
        "shortDescription": {"text": check.summary},
        "fullDescription": {"text": check.summary},
        "help": {"text": check.page, "markdown": check.page},
        "defaultConfiguration": {"level": _LEVELS[check.severity]},
    }


def _invocation(checked: Checked) -> dict[str, Any]:
    notes = [_notification(unchecked) for unchecked in checked.errors]
    return {"executionSuccessful": not notes, "toolExecutionNotifications": notes}


def _notification(unchecked: Unchecked) -> dict[str, Any]:
    location = {"physicalLocation": _physical(unchecked.place)}
    return {"level": "error", "message": {"text": _text(unchecked.message)}, "locations": [location]}


def _result(issue: Issue, rule: int) -> dict[str, Any]:
    place: dict[str, Any] = {"physicalLocation": _physical(issue.place)}
    if issue.layer:
        place["logicalLocations"] = [{"name": issue.layer, "kind": "module"}]
    return {
        "ruleId": issue.code,
        "ruleIndex": rule,
        "level": _LEVELS[issue.severity],
        "message": {"text": _text(issue.text)},
        "locations": [place],
        "partialFingerprints": {"caffestat/v1": "|".join(issue.key)},
    }


def _text(text: str) -> str:
    """Keep what looks like a link from being one. (SARIF 2.1.0, 3.11.6)"""
    return text.replace("](", "\\](")


def _physical(place: Place) -> dict[str, Any]:
    # services show nothing that has no line, so findings about a whole file are at its beginning
    region = {"startLine": max(place.line, 1), "startColumn": max(place.column, 1)}
    return {"artifactLocation": _artifact(Path(place.file)), "region": region}


def _artifact(path: Path) -> dict[str, str]:
    """Return a file's URI, and what it is relative to. (SARIF 2.1.0, 3.10.2: no `.` or `..`, links resolved)"""
    here, path = Path.cwd().resolve(), path.resolve()
    if not path.is_relative_to(here):
        return {"uri": path.as_uri()}
    return {"uri": quote(os.fsencode(path.relative_to(here).as_posix())), "uriBaseId": _ROOT}
