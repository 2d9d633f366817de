"""Reports: what is known of a net as plain data, and the formats it is shown in.

`render` is for a whole report; Caffe's debug_info lines come from `debug_lines`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from caffestat.lazy import lazily
from caffestat.options import one_of

from .build import build
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

if TYPE_CHECKING:
    from .curve import CSV_HEADER, CURVE_FORMATS
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

__getattr__ = lazily(
    __name__,
    {"curve": ["CSV_HEADER", "CURVE_FORMATS"], "training_log": ["TrainingLog", "first_iteration_lines"]},
)

FORMATS: dict[str, Callable[[Report, int], str]] = {
    "table": lambda report, width: str(_module("table").render(report, width)),
    "json": lambda report, _: str(_module("json_format").render(report)),
    "csv": lambda report, _: str(_module("csv_format").render(report)),
    "html": lambda report, _: report.to_html(),
    "markdown": lambda report, _: str(_module("markdown").render(report)),
}


def render(report: Report, format: str = "table", width: int = 120) -> str:
    """Return the report in one of `FORMATS`; `width` is for the table alone. Raises InputError for another format."""
    one_of("format", format, tuple(FORMATS))
    return FORMATS[format](report, width)


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
