"""The columns of a table for people, shared by the terminal's table and Markdown: titles and wording of the cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from caffestat.escape import visible
from caffestat.options import STATS

from .model import BottomDiff, ParamRow, Report, TopRow
from .rows import Row

__all__ = ["COLUMNS", "Column", "footer", "heading", "shape_text", "used"]

_NORM_WORDS = {"FAN_IN": "in", "FAN_OUT": "out", "AVERAGE": "avg"}
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Column:
    """A column: `text(row, exact)` is its cell, where counts are exact or shortened; names can be shortened as well.

    is_size: it makes room for predictions or statistics when these are shown.
    """

    title: str
    text: Callable[[Row, bool], str]
    is_number: bool = False
    is_name: bool = False
    is_size: bool = False

    def cell(self, row: Row, exact: bool) -> str:
        """Return the text with nothing in it that is not printable."""
        return visible(self.text(row, exact))


def shape_text(shape: tuple[int, ...] | None) -> str:
    """Return 64x20x24x24; "?" for an unknown shape, "scalar" for one without axes."""
    return "?" if shape is None else "x".join(map(str, shape)) or "scalar"


def _count(value: int | None, exact: bool) -> str:
    if value is None:
        return ""
    unit = None if exact else next((unit for unit in _UNITS if value >= unit[0]), None)
    return f"{value / unit[0]:.3g}{unit[1]}" if unit else f"{value:,}"


def _measured(value: float | None, is_unknown: bool = False) -> str:
    return ("?" if is_unknown else "") if value is None else f"{value:.3g}"


def _norm(value: float | None) -> str:
    return "?" if value is None else f"{value:.6g}"


def _top(top: TopRow | None) -> str:
    return shape_text(top.shape) if top else ""


def _fan_in(param: ParamRow | None) -> str:
    return _fan(param.caffe_fan_in, param.fan_in) if param else ""


def _fan_out(param: ParamRow | None) -> str:
    return _fan(param.caffe_fan_out, param.fan_out) if param else ""


def _fan(caffe: int | None, true: int) -> str:
    return "" if caffe is None else str(caffe) if caffe == true else f"{caffe} ({true})"


def _filler(param: ParamRow | None) -> str:
    if param is None:
        return ""
    return param.filler if param.filler_origin == "file" else f"({param.filler})"


def _xavier(row: Row) -> str:
    if row.spread is None or row.fans is None:
        return ""
    return f"{row.spread.scale:.4g} {_NORM_WORDS[row.fans.variance_norm]} {row.spread.n:g}"


def _gain(row: Row, name: str) -> str:
    value = getattr(row.layer.gain, name) if row.is_first and row.layer.gain else None
    return "" if value is None else f"{value:.2g}"


def _stat(value: TopRow | BottomDiff | None, name: str) -> str:
    """Return a statistic: of zeros the share, of what is not finite the count."""
    stats = value.stats if value else None
    if stats is None or name not in stats.wanted:
        return ""
    number = getattr(stats, name)
    if name == "zeros":
        return f"{number / stats.count:.3g}"
    return f"{number:,}" if isinstance(number, int) else f"{number:.3g}"


def _float16(value: TopRow | BottomDiff | None) -> str:
    stats = value.stats if value else None
    if stats is None or not stats.float16:
        return ""
    return stats.float16 if stats.float16 == "overflow" else f"underflow {stats.small_share:.0%}"


def _of_top(name: str) -> Column:
    return Column(name, lambda row, _: _stat(row.top, name), is_number=True)


def _of_diff(name: str) -> Column:
    return Column(f"{name} dx", lambda row, _: _stat(row.diff, name), is_number=True)


COLUMNS = (
    Column("layer", lambda row, _: row.name, is_name=True),
    Column("type", lambda row, _: row.type, is_name=True),
    Column("top", lambda row, _: _top(row.top)),
    Column("weight", lambda row, _: shape_text(row.param.shape) if row.param else ""),
    Column("fan-in", lambda row, _: _fan_in(row.fans), is_number=True),
    Column("fan-out", lambda row, _: _fan_out(row.fans), is_number=True),
    Column("filler", lambda row, _: _filler(row.param), is_name=True),
    Column("xavier ±a, n", lambda row, _: _xavier(row), is_size=True),
    Column("then", lambda row, _: (row.layer.followed_by or "") if row.is_first else "", is_name=True),
    Column(
        "mean|x|", lambda row, _: _measured(row.top.mean_abs, row.top.is_unknown) if row.top else "", is_number=True
    ),
    Column("predicted", lambda row, _: _measured(row.top.predicted if row.top else None), is_number=True),
    *map(_of_top, STATS),
    Column("float16", lambda row, _: _float16(row.top)),
    Column(
        "mean|dx|", lambda row, _: _measured(row.diff.mean_abs, row.diff.is_unknown) if row.diff else "", is_number=True
    ),
    Column("predicted", lambda row, _: _measured(row.diff.predicted if row.diff else None), is_number=True),
    *map(_of_diff, STATS),
    Column("float16 dx", lambda row, _: _float16(row.diff)),
    Column("gain", lambda row, _: _gain(row, "forward"), is_number=True),
    Column("so far", lambda row, _: _gain(row, "product"), is_number=True),
    Column("back", lambda row, _: _gain(row, "backward"), is_number=True),
    Column("so far", lambda row, _: _gain(row, "product_backward"), is_number=True),
    Column("params", lambda row, exact: _count(row.params, exact), is_number=True, is_size=True),
    Column("MACs", lambda row, exact: _count(row.macs, exact), is_number=True, is_size=True),
)


def used(table: Iterable[Row]) -> tuple[Column, ...]:
    """Return the columns that have something to show."""
    lines = list(table)
    is_wide = any(row.layer.gain or (row.top and row.top.stats) for row in lines)
    columns = [column for column in COLUMNS if not (is_wide and column.is_size)]
    return tuple(column for column in columns if any(column.text(row, True) for row in lines))


def heading(report: Report) -> str:
    """Return the line above the table: what it is about."""
    run = f"device {report.device}" if report.device else "not run"
    parts = filter(None, (report.source, report.net, f"phase {report.phase}", f"seed {report.seed}", run))
    return " · ".join(map(visible, parts))


def footer(report: Report, table: Iterable[Row]) -> Iterator[str]:
    """Yield the lines below the table: totals, then what the parentheses mean where there are any."""
    totals, norms = report.totals, report.norms
    yield f"params {totals.params:,} · multiply-adds {totals.macs:,} · activations {totals.activations:,}"
    if totals.statistics:
        yield f"BatchNorm statistics and quantization scales, not counted as params: {totals.statistics:,}"
    if norms:
        yield f"L1 norm of all params {norms.data_l1:.6g}, of their gradients {_norm(norms.diff_l1)}"
        yield f"L2 norm of all params {norms.data_l2:.6g}, of their gradients {_norm(norms.diff_l2)}"
        if norms.diff_l1 is None:
            yield "?: depends on the gradient of a layer that cannot be computed."
    if any(top.is_unknown for layer in report.layers for top in layer.tops):
        yield "mean|x| ?: the value of a layer that cannot be computed, one that depends on it, or text and lists."
    if not totals.is_complete:
        yield "Layers of unknown shape (?) or cost, and what depends on them, are left out of the totals."
    params = [row.fans for row in table if row.fans]
    counted = [p for p in params if p.caffe_fan_in is not None]
    if any((p.caffe_fan_in, p.caffe_fan_out) != (p.fan_in, p.fan_out) for p in counted):
        yield "fan-in, fan-out: as Caffe's fillers count them, in parentheses the true number where it differs."
    if any(layer.gain for layer in report.layers):
        yield "gain, back: of E[x²] and E[dx²], with what the nonlinearity leaves; so far: their products over depth."
    if report.stats:
        yield "zeros: their share; inf, nan: how many; max and min: of what is not NaN; dx: of the gradient."
        yield "float16: overflow: max |x| > 65504; underflow: that share of the nonzero |x| is below 2⁻¹⁴ = 6.1e-05."
    if any(p.filler_origin == "default" for p in params):
        yield "(filler): the file has none, this is Caffe's default."
    if any(p.filler_origin == "option" for p in params):
        yield "(filler): the file has none, --assume-filler put it there."
