"""Findings as GitHub's workflow commands, which annotate the lines of a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from ..issue import Issue

__all__ = ["render"]

_COMMANDS = {"info": "notice", "warning": "warning", "error": "error"}


def render(issues: Sequence[Issue], files: Sequence[str]) -> str:
    """Return one `::warning file=…,line=…::…` per finding."""
    return "".join(_command(issue) for issue in issues)


def _command(issue: Issue) -> str:
    place = {"file": issue.place.file, "line": str(issue.place.line), "col": str(issue.place.column)}
    place["title"] = f"{issue.code} {issue.name}"
    settings = ",".join(f"{name}={_setting(value)}" for name, value in place.items() if value != "0")
    layer = f"{issue.layer}: " if issue.layer else ""
    return f"::{_COMMANDS[issue.severity]} {settings}::{_data(f'{layer}{issue.message}. Fix: {issue.fix}')}\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _setting(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
