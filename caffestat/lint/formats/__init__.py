"""How findings are written: for people, for programs, and for what runs builds.

`render` is for a finished list; each format is one module with one function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..issue import Issue
from . import github, json_format, junit, sarif, text

__all__ = ["FORMATS", "render"]

Renderer = Callable[[Sequence[Issue], Sequence[str]], str]

FORMATS: dict[str, Renderer] = {
    "text": text.render,
    "json": json_format.render,
    "github": github.render,
    "sarif": sarif.render,
    "junit": junit.render,
}


def render(issues: Sequence[Issue], files: Sequence[str], format: str = "text") -> str:
    """Return the findings in one of `FORMATS`; `files` are all that were checked. Raises KeyError for others."""
    return FORMATS[format](issues, files)
