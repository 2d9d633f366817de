"""The charts over depth, made with Bokeh. Their numbers are those of the report; nothing is worked out here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..scales import TITLES

__all__ = ["Chart", "HeatMap", "Line", "by_depth", "embed"]

Values = Sequence["float | None"]

_NAMED = 45  # points up to which an axis shows the layers' names
_COLOURS = {"measured": "#2166ac", "predicted": "#d6604d", "limit": "#b2182b", "third": "#4d9221", "fourth": "#762a83"}


@dataclass(frozen=True)
class Line:
    """One series: a value per row, or per `x` where that is given. `style` names its colour and dash."""

    title: str
    values: Values
    style: str
    x: Sequence[float] | None = None


@dataclass(frozen=True)
class Chart:
    """A chart over depth, or over the iterations.

    section  id and heading of the page's section that it stands in
    limits   levels to be drawn: (value, what it means)
    marks    places on the axis to be drawn
    x_title  what the axis is; "" for the layers. Charts with the same one share their range
    names    of the points of an axis of its own
    """

    title: str
    lines: Sequence[Line]
    section: tuple[str, str] = ("depth", "Over depth")
    note: str = ""
    limits: Sequence[tuple[float, str]] = ()
    is_log: bool = True
    x_title: str = ""
    marks: Sequence[float] = ()
    names: Sequence[str] = ()


@dataclass(frozen=True)
class HeatMap:
    """A quantity by layer and iteration, in colours; `values` by iteration and layer."""

    title: str
    iterations: Sequence[int]
    layers: Sequence[str]
    values: Sequence[Values]
    section: tuple[str, str]
    note: str = ""


@dataclass
class _Embedded:
    """What the page needs to show charts: Bokeh's documents, and which figure goes where."""

    docs: dict[str, Any] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def plain(self) -> dict[str, Any]:
        return vars(self)


def embed(charts: Sequence[Chart | HeatMap], names: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
    """Return the charts as plain data for `Bokeh.embed.embed_items`; charts without a number are left out.

    names: what is at each point of the axis; rows: the indices of the report's layers there
    """
    from bokeh.core.json_encoder import serialize_json
    from bokeh.document import Document

    embedded, document, ranges = _Embedded(), Document(), dict[str, Any]()
    roots: dict[str, str] = {}
    for index, chart in enumerate(chart for chart in charts if _has_numbers(chart)):
        figure, sources, spans = (
            (_heat_map(chart), [], {}) if isinstance(chart, HeatMap) else _figure(chart, names, rows, ranges)
        )
        document.add_root(figure)
        roots[figure.id] = element = f"chart-{index}"
        place = {"section": chart.section[0], "heading": chart.section[1], "title": chart.title, "note": chart.note}
        embedded.figures.append({"element": element, "root": figure.id, "sources": sources, "spans": spans, **place})
    if roots:
        embedded.docs["report"] = json.loads(serialize_json(document.to_json()))
        embedded.items.append({"docid": "report", "roots": roots, "root_ids": list(roots)})
    return embedded.plain


def _has_numbers(chart: Chart | HeatMap) -> bool:
    if isinstance(chart, HeatMap):
        return any(_drawable(value, True) for values in chart.values for value in values)
    return any(_drawable(value, chart.is_log) is not None for line in chart.lines for value in line.values)


def _drawable(value: float | None, is_log: bool) -> float | None:
    if value is None or not math.isfinite(value) or (is_log and value <= 0):
        return None
    return value


def _figure(
    chart: Chart, names: Sequence[str], rows: Sequence[int], ranges: dict[str, Any]
) -> tuple[Any, list[str], dict[str, str]]:
    """Return a figure, the ids of its sources, and of the lines that mark the hovered and the chosen layer."""
    from bokeh.models import LogTicker, Span
    from bokeh.plotting import figure

    plot = figure(
        height=250,
        sizing_mode="stretch_width",
        y_axis_type="log" if chart.is_log else "linear",
        tools="xpan,xwheel_zoom,box_zoom,reset,tap",
        toolbar_location="right",
        toolbar_inner=True,
        **({"x_range": ranges[chart.x_title]} if chart.x_title in ranges else {}),
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.min_border = 4
    ranges.setdefault(chart.x_title, plot.x_range)
    by_depth = not chart.x_title
    if by_depth:
        _name_axis(plot, names, rows)
    elif chart.names:
        _name_axis(plot, chart.names, range(len(chart.names)))
    else:
        plot.xaxis.axis_label = chart.x_title
    sources = [_draw(plot, line, chart, names, rows) for line in chart.lines if any(v is not None for v in line.values)]
    if len(chart.lines) > 1:
        _place_legend(plot)
    if chart.is_log:
        plot.yaxis.ticker = LogTicker(desired_num_ticks=5, mantissas=[1, 2, 5], num_minor_ticks=0)
    for value, meaning in chart.limits:
        _limit(plot, value, meaning)
    for place in chart.marks:
        plot.add_layout(Span(location=place, dimension="height", line_color=_COLOURS["third"], line_dash="dotted"))
    if not by_depth:
        return plot, [], {"slider_span": _slider_span(plot)}
    spans = {
        "hover_span": Span(dimension="height", line_color="#bf3989", line_width=1, visible=False, location=0),
        "chosen_span": Span(dimension="height", line_color="#bf3989", line_width=3, line_alpha=0.5, visible=False),
    }
    for span in spans.values():
        plot.add_layout(span)
    return plot, sources, {name: span.id for name, span in spans.items()}


def _name_axis(plot: Any, names: Sequence[str], rows: Sequence[int]) -> None:
    """Show the layers' names at their places where there is room, else their numbers."""
    if len(rows) > _NAMED:
        plot.xaxis.axis_label = "layer, in the order in which they run"
        return
    plot.xaxis.ticker = list(rows)
    plot.xaxis.major_label_overrides = dict(zip(rows, (_short(name) for name in names), strict=True))
    plot.xaxis.major_label_orientation = 0.9


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:8]}…{name[-7:]}"


def _draw(plot: Any, line: Line, chart: Chart, names: Sequence[str], rows: Sequence[int]) -> str:
    """Draw a line with its points, and return the id of their source."""
    from bokeh.models import ColumnDataSource, HoverTool

    by_depth = line.x is None
    x = list(rows if line.x is None else line.x)
    points = [(place, value, index) for index, (place, value) in enumerate(zip(x, line.values, strict=True))]
    known = [(p, _drawable(v, chart.is_log), i) for p, v, i in points if _drawable(v, chart.is_log) is not None]
    source = ColumnDataSource(
        {
            "x": [p for p, _, _ in known],
            "y": [v for _, v, _ in known],
            "row": [rows[i] if by_depth else i for _, _, i in known],
            "name": [names[i] if by_depth else chart.names[i] if chart.names else str(x[i]) for _, _, i in known],
            "shown": [f"{v:.4g}" for _, v, _ in known],
        }
    )
    colour, is_dashed = _COLOURS[line.style], line.style == "predicted"
    title = {"legend_label": line.title} if len(chart.lines) > 1 else {}
    dash = [5, 3] if is_dashed else []
    plot.line("x", "y", source=source, line_color=colour, line_width=1.5, line_dash=dash, **title)
    size = 7 if len(known) <= _NAMED * 4 else 4
    dots = plot.scatter(
        "x", "y", source=source, size=size, color=colour, marker="diamond" if is_dashed else "circle", **title
    )
    what = "layer" if by_depth or chart.names else chart.x_title
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[(what, "@name"), (line.title, "@shown")], mode="mouse"))
    return str(source.id)


def _place_legend(plot: Any) -> None:
    """Put the legend above the plot, where it covers no point; a click on an entry hides its line."""
    legend = plot.legend[0]
    plot.center.remove(legend)
    plot.add_layout(legend, "above")
    legend.update(click_policy="hide", orientation="horizontal", label_text_font_size="11px", padding=0, margin=0)
    legend.update(spacing=10, glyph_height=14, border_line_color=None)


def _slider_span(plot: Any) -> str:
    """Add the line that shows where the slider stands, and return its id."""
    from bokeh.models import Span

    span = Span(dimension="height", line_color="#bf3989", line_width=2, line_alpha=0.6, visible=False, location=0)
    plot.add_layout(span)
    return str(span.id)


def _heat_map(chart: HeatMap) -> Any:
    """Return a figure of iterations by layers, the first layer on top; a value of 0 or below has no colour."""
    from bokeh.models import ColorBar, HoverTool, LogColorMapper
    from bokeh.palettes import Viridis256
    from bokeh.plotting import figure

    cells = _cells(chart)
    mapper = LogColorMapper(Viridis256, low=min(cells["value"]), high=max(cells["value"]))
    count = len(chart.layers)
    plot = figure(
        height=max(min(14 * count + 90, 700), 250),
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,box_zoom,reset",
        toolbar_location="right",
        toolbar_inner=True,
    )
    plot.toolbar.logo, plot.toolbar.autohide, plot.grid.visible = None, True, False
    colour = {"field": "value", "transform": mapper}
    drawn = plot.rect("x", "y", "width", 1, source=cells, fill_color=colour, line_color=None)
    tips = [("layer", "@layer"), ("iteration", "@iteration"), ("value", "@value{0.000e}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=tips))
    plot.add_layout(ColorBar(color_mapper=mapper, width=10), "right")
    plot.xaxis.axis_label = "iteration"
    plot.yaxis.ticker = [-row for row in range(count)] if count <= _NAMED else []
    plot.yaxis.major_label_overrides = {-row: _short(name) for row, name in enumerate(chart.layers)}
    plot.x_range.range_padding = plot.y_range.range_padding = 0
    return plot


def _cells(chart: HeatMap) -> dict[str, list[Any]]:
    """Return the cells that have a colour, column by column of Bokeh's source."""
    edges = _edges(chart.iterations)
    cells: dict[str, list[Any]] = {name: [] for name in ("x", "width", "y", "value", "layer", "iteration")}
    for column, values in enumerate(chart.values):
        low, high = edges[column], edges[column + 1]
        for row, value in enumerate(values):
            if _drawable(value, True) is not None:
                place = ((low + high) / 2, high - low, -row, value, chart.layers[row], chart.iterations[column])
                for name, part in zip(cells, place, strict=True):
                    cells[name].append(part)
    return cells


def _edges(places: Sequence[int]) -> list[float]:
    """Return where the cells of places begin and end: halfway between them."""
    inner = [(a + b) / 2 for a, b in pairwise(places)]
    first, last = (inner[0], inner[-1]) if inner else (places[0] + 0.5, places[0] - 0.5)
    return [2 * places[0] - first, *inner, 2 * places[-1] - last]


def _limit(plot: Any, value: float, meaning: str) -> None:
    from bokeh.models import Span

    plot.add_layout(Span(location=value, dimension="width", line_color=_COLOURS["limit"], line_dash="dotted"))


def by_depth(series: Mapping[str, Values], limits: tuple[float, float]) -> list[Chart]:
    """Return the charts of a report over depth.

    series: of `report.scales.depth_series`, inserted layers left out
    limits: the ratios of amplitude below which a signal vanishes, and above which it explodes
    """
    low, high = limits
    return [
        Chart(
            TITLES["x"],
            [
                Line("measured", series["forward"], "measured"),
                Line("predicted", series["forward_predicted"], "predicted"),
            ],
        ),
        Chart(
            TITLES["dx"],
            [
                Line("measured", series["backward"], "measured"),
                Line("predicted", series["backward_predicted"], "predicted"),
            ],
        ),
        Chart(
            "gain n·Var(w) and its product over depth",
            [
                Line("gain", series["gain"], "measured"),
                Line("product", series["product"], "third"),
                Line("gain, backward", series["gain_backward"], "predicted"),
                Line("product, backward", series["product_backward"], "fourth"),
            ],
            note=f"of E[x²]; check warns where the square root of a product leaves {low:g} to {high:g}",
            limits=[(low**2, "vanishes"), (high**2, "explodes")] if _near(series, low, high) else [],
        ),
        Chart(
            "mean |dw| ÷ mean |w| of the weights",
            [
                Line("measured", series["update"], "measured"),
                Line("predicted", series["update_predicted"], "predicted"),
            ],
        ),
    ]


def _near(series: Mapping[str, Values], low: float, high: float) -> bool:
    """Whether a product comes near the limits: else they would flatten the chart."""
    products = [v for name in ("product", "product_backward") for v in series[name] if v]
    return any(value < low or value > high for value in products)
