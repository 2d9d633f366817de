"""Reports: what is known of a net as plain data, and the formats it is shown in.

`render` is for a whole report; Caffe's debug_info lines come from `debug_lines`.
"""

from __future__ import annotations

from collections.abc import Callable

from caffestat.options import one_of

from . import csv_format, json_format, markdown, table
from .build import build
from .curve import CSV_HEADER, CURVE_FORMATS
from .debug_info import render as debug_lines
from .model import (
    FORMAT_VERSION,
    BottomDiff,
    Detail,
    IssueRow,
    LayerGain,
    LayerRow,
    ParamRow,
    Report,
    Spread,
    TopRow,
    Totals,
)
from .training_log import TrainingLog, first_iteration_lines

__all__ = [
    "CSV_HEADER",
    "CURVE_FORMATS",
    "FORMATS",
    "FORMAT_VERSION",
    "BottomDiff",
    "Detail",
    "IssueRow",
    "LayerGain",
    "LayerRow",
    "ParamRow",
    "Report",
    "Spread",
    "TopRow",
    "Totals",
    "TrainingLog",
    "build",
    "debug_lines",
    "first_iteration_lines",
    "render",
]

FORMATS: dict[str, Callable[[Report, int], str]] = {
    "table": table.render,
    "json": lambda report, _: json_format.render(report),
    "csv": lambda report, _: csv_format.render(report),
    "html": lambda report, _: report.to_html(),
    "markdown": lambda report, _: markdown.render(report),
}


def render(report: Report, format: str = "table", width: int = 120) -> str:
    """Return the report in one of `FORMATS`; `width` is for the table alone. Raises InputError for another format."""
    one_of("format", format, tuple(FORMATS))
    return FORMATS[format](report, width)
