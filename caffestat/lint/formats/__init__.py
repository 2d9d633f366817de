"""How findings are written: for people, for programs, and for continuous integration.

`render` is for a finished list; each format is one module with one function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from caffestat.options import one_of

from . import github, json_format, junit, sarif, text

if TYPE_CHECKING:
    from ..run import Checked

__all__ = ["FORMATS", "render"]

FORMATS: dict[str, Callable[[Checked], str]] = {
    "text": text.render,
    "json": json_format.render,
    "github": github.render,
    "sarif": sarif.render,
    "junit": junit.render,
}


def render(checked: Checked, format: str = "text") -> str:
    """Return what was found, and what could not be checked, in one of `FORMATS`.

    Raises InputError for other formats. What is not printable is escaped, each format in its own way.
    """
    one_of("format", format, tuple(FORMATS))
    return FORMATS[format](checked)
