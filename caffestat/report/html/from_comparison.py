"""The page of a comparison: both sides on the same axes, and what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from caffestat.logs import Key

from ..comparison import Comparison, Pair
from ..history import History
from ..json_format import number
from ..model import Report
from ..scales import TITLES, Mode
from .charts import Chart, Line, embed
from .from_history import bare_page
from .from_report import page_of
from .page import require_extra, write

__all__ = ["render_comparison"]

_MODE = Mode("ratio", "mean |x|: B ÷ A", "B's mean |x| over A's", True)
_DIFF_MODE = Mode("diff_ratio", "mean |dx|: B ÷ A", "B's mean |dx| over A's", True)

_TRAINING = ("training", "Training")
_DEPTH = ("depth", "Over depth, at the first pass")

_PARTS: tuple[tuple[str, Callable[[Key], bool]], ...] = (
    (TITLES["x"], lambda key: key.direction == "forward" and key.role == "top"),
    (TITLES["dx"], lambda key: key.direction == "backward" and key.role == "bottom"),
    (TITLES["w"], lambda key: key.direction == "forward" and key.role == "param"),
    (TITLES["dw"], lambda key: key.direction == "backward" and key.role == "param"),
)


def render_comparison(found: Comparison, runs: tuple[History, History], report: Report | None = None) -> str:
    """Return a comparison as one HTML file.

    runs: A and B over the iterations
    report: of the net that both are runs of, for the drawing with the ratios in its colours

    Raises InputError where the extra `caffestat[report]` is not installed.
    """
    require_extra()
    page = page_of(report) if report else bare_page()
    if report:
        page["modes"] = [vars(_MODE), vars(_DIFF_MODE), *page["modes"]]
        page["scales"] = {**_ratios(found, report), **page["scales"]}
    words = f"{found.count:,} numbers differ" if found.count else "no differences"
    page |= {
        "title": f"{found.a} and {found.b}",
        "about": [f"A: {found.a}", f"B: {found.b}", words],
        "comparison": _plain(found),
        "issues": [],
        "checked": False,
    }
    return write(page, embed([*_curves(*runs), *_charts(found)], [], []))


def _ratios(found: Comparison, report: Report) -> dict[str, list[Any]]:
    """Return B ÷ A of each layer's first top, and of its first gradient."""
    return {
        mode.key: [number(_first(found.first, row.name, accepts)) for row in report.layers]
        for mode, (_, accepts) in zip((_MODE, _DIFF_MODE), _PARTS, strict=False)
    }


def _first(pairs: list[Pair], layer: str, accepts: Callable[[Key], bool]) -> float | None:
    return next((pair.ratio for pair in pairs if pair.key.layer == layer and accepts(pair.key)), None)


def _curves(a: History, b: History) -> Iterator[Chart]:
    """Yield the losses and outputs of both over the iterations, where there is more than one."""
    for name in dict.fromkeys((*a.curves, *b.curves)):
        sides = [(title, style, run.curves[name]) for title, style, run in _sides(a, b) if name in run.curves]
        lines = [Line(title, curve.values, style, curve.iterations) for title, style, curve in sides]
        if any(len(curve.values) > 1 for _, _, curve in sides):
            yield Chart(name, lines, _TRAINING, is_log=False, x_title="iteration")


def _sides(a: History, b: History) -> tuple[tuple[str, str, History], ...]:
    return ("A", "measured", a), ("B", "predicted", b)


def _charts(found: Comparison) -> list[Chart]:
    charts = []
    for title, accepts in _PARTS:
        pairs = [pair for pair in found.first if accepts(pair.key)]
        lines = [
            Line("A", [pair.a for pair in pairs], "measured", range(len(pairs))),
            Line("B", [pair.b for pair in pairs], "predicted", range(len(pairs))),
        ]
        names = [f"{pair.key.layer}/{pair.key.blob}" for pair in pairs]
        charts.append(Chart(title, lines, _DEPTH, x_title=title, names=names))
    return charts


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "count": found.count,
        "differences": [
            {
                "pass": one.index,
                "iteration": one.iteration,
                **(one.key._asdict() if one.key else {"direction": "", "layer": "", "role": "whole pass", "blob": ""}),
                "a": number(one.a),
                "b": number(one.b),
                "ratio": number(Pair(one.key, one.a, one.b).ratio) if one.key else None,
            }
            for one in found.differences
        ],
    }
