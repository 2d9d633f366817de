"""The table as CSV: exact numbers, whole names, one line per top, weight or gradient; empty where there is nothing."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from caffestat.escape import csv_cell

from .columns import shape_text
from .model import Report
from .rows import Row, rows

if TYPE_CHECKING:
    from caffestat.engine.elements import ElementStats

__all__ = ["COLUMNS", "PREDICTED", "render", "stats_columns"]

COLUMNS = (
    *("layer", "type", "line", "top", "top_shape", "param", "param_shape", "filler", "filler_origin"),
    *("caffe_fan_in", "caffe_fan_out", "fan_in", "fan_out", "xavier_norm", "xavier_n", "xavier_scale"),
    *("mean_abs", "diff_blob", "diff_mean_abs", "params", "macs"),
)
_VALUES = ("", "diff_", "param_", "param_diff_")  # what the columns of statistics begin with
PREDICTED = ("predicted", "diff_predicted", "gain", "gain_backward")  # only when predictions were asked for

Cells = dict[str, str | int | None]


def render(report: Report) -> str:
    """Return the report's lines as CSV with a header; counts are on a layer's first line only, to be summed."""
    out = io.StringIO()
    is_predicted = any(top.predicted is not None for layer in report.layers for top in layer.tops)
    columns = (*COLUMNS, *(PREDICTED if is_predicted else ()), *stats_columns(report))
    writer = csv.DictWriter(out, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    cells = (_layer, _top, _param, _diff, _gain, _stats)
    writer.writerows({name: cell for part in cells for name, cell in part(row).items()} for row in rows(report))
    return out.getvalue()


def stats_columns(report: Report) -> list[str]:
    """Return the columns of the statistics of tops, gradients of bottoms, params and their gradients."""
    names = (*report.stats, "float16") if report.stats else ()
    return [f"{value}{name}" for value in _VALUES for name in names]


def _stats(row: Row) -> Cells:
    values = (row.top, row.diff, row.param)
    found = [*(value.stats if value else None for value in values), row.param.diff_stats if row.param else None]
    return {
        f"{prefix}{name}": number
        for prefix, stats in zip(_VALUES, found, strict=True)
        for name, number in (_stats_of(stats) if stats else {}).items()
    }


def _stats_of(stats: ElementStats) -> Cells:
    numbers = {name: getattr(stats, name) for name in stats.wanted}
    cells: Cells = {name: n if isinstance(n, int) else _number(n) for name, n in numbers.items()}
    return {**cells, "float16": stats.float16}


def _layer(row: Row) -> Cells:
    name, type = csv_cell(row.layer.name), csv_cell(row.layer.type)
    return {"layer": name, "type": type, "line": row.layer.line, "params": row.params, "macs": row.macs}


def _top(row: Row) -> Cells:
    if row.top is None:
        return {}
    top = row.top
    measured: Cells = {"mean_abs": _number(top.mean_abs), "predicted": _number(top.predicted)}
    return {"top": csv_cell(top.name), "top_shape": shape_text(top.shape), **measured}


def _param(row: Row) -> Cells:
    param = row.param
    if param is None:
        return {}
    named: Cells = {"param": csv_cell(param.name), "param_shape": shape_text(param.shape)}
    return {**named, "filler": csv_cell(param.filler), "filler_origin": param.filler_origin, **_fans(row)}


def _fans(row: Row) -> Cells:
    param, spread = row.fans, row.spread
    if param is None or spread is None:
        return {}
    return {
        "caffe_fan_in": param.caffe_fan_in,
        "caffe_fan_out": param.caffe_fan_out,
        "fan_in": param.fan_in,
        "fan_out": param.fan_out,
        "xavier_norm": param.variance_norm,
        "xavier_n": _number(spread.n),
        "xavier_scale": _number(spread.scale),
    }


def _diff(row: Row) -> Cells:
    if row.diff is None:
        return {}
    measured: Cells = {"diff_mean_abs": _number(row.diff.mean_abs), "diff_predicted": _number(row.diff.predicted)}
    return {"diff_blob": csv_cell(row.diff.name), **measured}


def _gain(row: Row) -> Cells:
    gain = row.layer.gain if row.is_first else None
    return {"gain": _number(gain.forward), "gain_backward": _number(gain.backward)} if gain else {}


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.9g}"
