"""Findings as GitHub's workflow commands, which annotate the lines of a pull request.

Escapes as in actions/toolkit, packages/core/src/command.ts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caffestat.errors import Place
from caffestat.escape import visible

from ..issue import Issue

if TYPE_CHECKING:
    from ..run import Checked, Unchecked

__all__ = ["render"]

_COMMANDS = {"info": "notice", "warning": "warning", "error": "error"}


def render(checked: Checked) -> str:
    """Return one `::warning file=…,line=…::…` per finding, `::error` for each file that could not be checked."""
    return "".join([*map(_finding, checked.issues), *map(_error, checked.errors)])


def _finding(issue: Issue) -> str:
    return _command(_COMMANDS[issue.severity], issue.place, f"{issue.code} {issue.name}", issue.text)


def _error(unchecked: Unchecked) -> str:
    return _command("error", unchecked.place, "cannot be checked", unchecked.message)


def _command(command: str, place: Place, title: str, message: str) -> str:
    values = {"file": place.file, "line": str(place.line), "col": str(place.column), "title": title}
    settings = ",".join(f"{name}={_setting(value)}" for name, value in values.items() if value != "0")
    return f"::{command} {settings}::{_data(message)}\n"


def _data(text: str) -> str:
    return visible(text, "\r\n").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _setting(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
