"""The page of one Report."""

from __future__ import annotations

from typing import Any

from .. import csv_format, json_format
from ..columns import heading
from ..model import Detail, IssueRow, Report
from ..scales import MODES, depth_series, scales
from .charts import by_depth, embed
from .layout import layout
from .net import drawing
from .page import Page, require_extra, write

__all__ = ["page_of", "render", "source_of"]

LIMITS = (1e-6, 1e6)


def render(report: Report) -> str:
    """Return a report as one HTML file. Raises InputError where the extra `caffestat[report]` is not installed."""
    require_extra()
    return write(page_of(report), charts_of(report))


def page_of(report: Report) -> Page:
    """Return what the page shows, as plain data."""
    number = json_format.number
    shown = json_format.to_dict(report)
    shown.pop("detail", None)  # it is beside the report in the page's data
    issues = report.detail.issues if report.detail and report.detail.issues is not None else _issues(report)
    return {
        "title": report.source,
        "about": [part for part in heading(report).split(" · ") if part != report.source] + _totals(report),
        "notes": list(report.notes),
        "report": shown,
        "csv": csv_format.render(report),
        "modes": [vars(mode) for mode in MODES],
        "scales": {key: [number(value) for value in values] for key, values in scales(report).items()},
        "layout": layout(drawing(report)),
        "issues": [vars(issue) for issue in issues],
        "checked": report.detail is not None and report.detail.issues is not None,
        "sources": [source_of(report.detail, report)] if report.detail else [],
    }


def source_of(detail: Detail, report: Report) -> dict[str, Any]:
    """Return the text line by line, and the last line of each layer by its first."""
    ends = {row.line: row.last_line for row in report.layers if row.last_line}
    return {"name": detail.file, "lines": detail.text.splitlines(), "ends": ends}


def _totals(report: Report) -> list[str]:
    return [f"{report.totals.params:,} params", f"{report.totals.macs:,} multiply-adds"]


def charts_of(report: Report) -> dict[str, Any]:
    """Return the charts over depth; layers that are not drawn have no place on their axis."""
    rows = sorted(row for box in drawing(report).boxes for row in box.rows)
    series = {name: [values[row] for row in rows] for name, values in depth_series(report).items()}
    return embed(by_depth(series, LIMITS), [report.layers[row].name for row in rows], rows)


def _issues(report: Report) -> list[IssueRow]:
    """Return the warnings of a report that was not checked."""
    lines = {row.line: index for index, row in enumerate(report.layers) if row.line and not row.inserted}
    return [
        IssueRow("", "", "warning", place.file, place.line, "", finding.message, "", "", lines.get(place.line))
        for finding in report.findings
        for place in (finding.place,)
    ]
