"""The page: one file with its styles, scripts and data inside, that loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
from pathlib import Path
from typing import Any

from caffestat import __version__
from caffestat.errors import InputError
from caffestat.escape import json_compact

__all__ = ["Page", "in_frame", "is_available", "require_extra", "write"]

ASSETS = Path(__file__).parent / "assets"

# in the order in which they build on each other
SCRIPTS = (
    *("data", "colours", "scene", "paint", "view", "figures", "panel", "tables", "source", "charts"),
    *("training", "comparison", "sweep", "main"),
)

Page = dict[str, Any]
"""What a page shows, as plain data; `report` builds it from a Report."""


def missing() -> str | None:
    """Return the name of the first library of the extra that is not installed, None when all are."""
    return next((name for name in ("bokeh", "graphlay") if importlib.util.find_spec(name) is None), None)


def is_available() -> bool:
    """Tell whether pages can be made: whether the extra `caffestat[report]` is installed."""
    return missing() is None


def require_extra() -> None:
    """Raise InputError, with what to install, where the libraries that draw are missing."""
    name = missing()
    if name is not None:
        raise InputError(f"an HTML report needs {name}, which is not installed: pip install 'caffestat[report]'")


def write(page: Page, charts: dict[str, Any]) -> str:
    """Return the page as HTML."""
    script = "\n".join(_asset(f"{name}.js") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    bokeh = _bokeh() if charts["figures"] else ""
    parts = {
        "script-hashes": " ".join(map(_hash, (bokeh, script))),
        "version": __version__,
        "title": html.escape(f"{page['title']} · caffestat"),
        "css": _asset("page.css"),
        "data": _embedded(page),
        "charts": _embedded(charts),
        "bokeh": bokeh,
        "script": script,
    }
    return _filled(_asset("page.html"), parts)


def _filled(template: str, parts: dict[str, str]) -> str:
    """Put parts into a template, each once: what a part holds is not looked at."""
    pieces = template.split("{{")
    out = [pieces[0]]
    for piece in pieces[1:]:
        name, rest = piece.split("}}", 1)
        out += [parts[name], rest]
    return "".join(out)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _bokeh() -> str:
    from bokeh.util.paths import bokehjs_path

    return (Path(bokehjs_path()) / "js" / "bokeh.min.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the source expression that allows exactly this script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _embedded(value: Any) -> str:
    """Return JSON that cannot end the script element around it, whatever names it has.

    Bytes of a name that are no UTF-8 become the replacement character.
    """
    text = json_compact(value)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def in_frame(page: str) -> str:
    """Return a page as a frame to be put into another page, such as a notebook; it sees nothing of that page."""
    attributes = 'style="width: 100%; height: 800px; border: 1px solid #ccc" sandbox="allow-scripts allow-downloads"'
    return f'<iframe title="caffestat" {attributes} srcdoc="{html.escape(page)}"></iframe>'
