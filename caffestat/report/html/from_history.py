"""The page of a training run: curves, heat maps of the signals, and the net with a slider through the iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..history import QUANTITIES, History
from ..json_format import number
from ..model import IssueRow, Report
from .charts import Chart, HeatMap, Line, embed
from .from_report import page_of
from .page import Page, require_extra, write

__all__ = ["render_history"]

_SECTION = ("training", "Training")
_STYLES = ("measured", "predicted", "third", "fourth")
_MODES = {"top": "forward", "bottom_diff": "backward"}


def render_history(
    history: History,
    title: str,
    issues: Sequence[IssueRow] = (),
    report: Report | None = None,
    about: Sequence[str] = (),
) -> str:
    """Return a training run as one HTML file.

    issues: what was found in its log
    report: of the net, for the drawing with the slider; without it the page has none

    Raises InputError where the extra `caffestat[report]` is not installed.
    """
    require_extra()
    page = page_of(report) if report else bare_page()
    found = [vars(issue) | {"row": report.row_of(issue.layer) if report else None} for issue in issues]
    page |= {
        "title": title,
        "about": [*about, *(words for words in page["about"] if words != "not run")],
        "issues": [*found, *page["issues"]],
        "checked": True,
        "history": _plain(history, report),
    }
    return write(page, embed(_charts(history), [], []))


def bare_page() -> Page:
    """Return the data of a page without a net."""
    nothing: Page = {"report": None, "csv": None, "layout": None, "sources": [], "checked": False}
    return nothing | {"title": "", "about": [], "notes": [], "modes": [], "scales": {}, "issues": []}


def _charts(history: History) -> list[Chart | HeatMap]:
    charts: list[Chart | HeatMap] = []
    marks = [mark.iteration for mark in history.marks[:50]]
    for title, names, is_log in _groups(history):
        lines = [
            Line(name, history.curves[name].values, _STYLES[i % len(_STYLES)], history.curves[name].iterations)
            for i, name in enumerate(names)
        ]
        charts.append(Chart(title, lines, _SECTION, is_log=is_log, x_title="iteration", marks=marks))
    layers, iterations = list(history.layers), list(history.signals)
    for quantity in QUANTITIES:
        shown = [name for name in layers if any((quantity.key, name) in v for v in history.signals.values())]
        if iterations and shown:
            values = history.matrix(quantity.key, shown)
            charts.append(HeatMap(quantity.title, iterations, shown, values, _SECTION, quantity.unit))
    return charts


def _groups(history: History) -> list[tuple[str, list[str], bool]]:
    """Return the charts of the curves: title, curves, whether the axis is logarithmic."""
    names = list(history.curves)
    losses = [name for name in names if "loss" in name.lower()]
    rates = [name for name in names if name == "rate"]
    others = [name for name in names if name not in (*losses, *rates)]
    groups = [("loss", losses, False), ("outputs", others, False), ("learning rate", rates, False)]
    return [group for group in groups if group[1]]


def _plain(history: History, report: Report | None) -> dict[str, Any]:
    """Return what the slider and the list of events need."""
    layers = [row.name for row in report.layers] if report else []
    scales = {
        mode: [[number(v) for v in _relative(values, key)] for values in history.matrix(key, layers)]
        for key, mode in _MODES.items()
    }
    curves = {
        name: {"iterations": curve.iterations, "values": [number(value) for value in curve.values]}
        for name, curve in history.curves.items()
    }
    return {
        "iterations": list(history.signals),
        "scales": {key: rows for key, rows in scales.items() if any(v is not None for row in rows for v in row)},
        "marks": [mark._asdict() for mark in history.marks],
        "curves": curves,
    }


def _relative(values: Sequence[float | None], key: str) -> list[float | None]:
    """Return values of one iteration against the input's, or gradients against the last layer's that has one."""
    reference = next((value for value in (values if key == "top" else reversed(values)) if value), None)
    return [None if value is None or reference is None else value / reference for value in values]
