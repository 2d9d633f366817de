"""Strings out of files, as outputs show them: nothing in them is obeyed by a terminal, a viewer or a build service.

Every output that shows names, messages or paths passes them through one of these functions.
"""

from __future__ import annotations

import json
import re
from typing import Any

from caffestat.errors import PrototextError

__all__ = ["csv_cell", "json_compact", "json_line", "json_text", "markdown", "shown_error", "visible"]

# what the runners of GitHub Actions obey: `::name` at the beginning of a line, and the older `##[name]` anywhere
_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#\[)")
_FORMULA = ("=", "+", "-", "@")  # what begins a formula in spreadsheets (OWASP, CSV injection)
_MARKUP = r"(?i)[\\`*_|<>\[\]~&$]|:(?=//)|(?<=\bwww)\."


def visible(text: str, keep: str = "") -> str:
    """Return the text with `\\x1b` and the like for what is not printable: controls, line ends, marks of direction.

    keep: characters that stay as they are. A command to GitHub's runners is broken up by `\\x3a` or `\\x23`.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in keep else _escaped(c) for c in text)
    return _COMMAND.sub(_broken, text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _broken(match: re.Match[str]) -> str:
    return "\\x23" if match[0] == "#" else f"{match[1]}\\x3a"


def shown_error(error: Exception) -> str:
    """Return an error's message in one line; that of a broken text has the line below, and a mark under its column."""
    if isinstance(error, PrototextError):
        return "\n".join(visible(line, "\t") for line in f"{visible(str(error.place))}: {error.message}".split("\n"))
    return visible(str(error))


def csv_cell(text: str) -> str:
    """Return the text as a cell that no spreadsheet takes for a formula: an apostrophe precedes such a text."""
    text = visible(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """Return the text so that a name like `a_b` or `![x](y)` is not read as markup, nor an address as a link."""
    return re.sub(_MARKUP, r"\\\g<0>", visible(text))


def json_text(data: Any) -> str:
    """Return JSON whose strings hold no unprintable character as it is; bytes that are no UTF-8 become `?`."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(map(_json_visible, text.split("\n"))) + "\n"


def json_compact(data: Any) -> str:
    """Return JSON on one line without spaces; see `json_text`."""
    return _json_visible(json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def json_line(data: Any) -> str:
    """Return JSON on one line, in ASCII."""
    return json.dumps(data, allow_nan=False)


def _json_visible(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
