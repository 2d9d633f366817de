"""The page of `check`: findings of several files, with their texts."""

from __future__ import annotations

from collections.abc import Sequence

from ..model import IssueRow, Report
from .charts import embed
from .from_history import bare_page
from .from_report import charts_of, page_of
from .page import require_extra, write

__all__ = ["render_check"]


def render_check(
    files: Sequence[str], issues: Sequence[IssueRow], texts: Sequence[tuple[str, str]], report: Report | None = None
) -> str:
    """Return findings as one HTML file.

    files:  that were checked
    texts:  (name, text) of those to be shown
    report: of the net, when there is one file only

    Raises InputError where the extra `caffestat[report]` is not installed.
    """
    require_extra()
    page = page_of(report) if report else bare_page()
    ends = page["sources"][0]["ends"] if page["sources"] else {}
    page |= {
        "title": files[0] if len(files) == 1 else f"{len(files)} files",
        "issues": [vars(issue) for issue in issues],
        "sources": [{"name": name, "lines": text.splitlines(), "ends": ends if report else {}} for name, text in texts],
        "checked": True,
    }
    return write(page, charts_of(report) if report else embed([], [], []))
