"""The Report as a page to look at: the net drawn with its signal on it, charts, findings and tables in one HTML file.

Needs the extra `caffestat[report]`. docs/html.md describes the page.
"""

from __future__ import annotations

from .from_report import render
from .page import in_frame, is_available, require_extra

__all__ = ["in_frame", "is_available", "render", "require_extra"]
