"""The charts over depth, made with Bokeh. Their numbers are those of the report; nothing is computed here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ..scales import TITLES

__all__ = ["Area", "Chart", "Curve", "Fan", "HeatMap", "Line", "by_depth", "embed", "short"]

Values = Sequence["float | None"]

_LEGEND = 264  # pixels, the width of a plot on a narrow screen
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
class Area:
    """The values between two series, as an area; None where there are none."""

    title: str
    low: Values
    high: Values
    style: str
    x: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """A chart over depth, or over the iterations.

    section  id and heading of the page's section that it stands in
    limits   levels to be drawn: (value, what it means)
    marks    places on the axis to be drawn
    x_title  what the axis is; "" for the layers. Charts with the same one share their range
    names    of the points of an axis of its own
    others   lines and areas that the reader can choose in the place of the first ones, by what they are called
    """

    title: str
    lines: Sequence[Line | Area]
    section: tuple[str, str] = ("depth", "Over depth")
    note: str = ""
    limits: Sequence[tuple[float, str]] = ()
    is_log: bool = True
    x_title: str = ""
    marks: Sequence[float] = ()
    names: Sequence[str] = ()
    others: Mapping[str, Sequence[Line | Area]] = field(default_factory=dict)


Curve = tuple[str, Sequence[float], Sequence[float], str]


@dataclass(frozen=True)
class Fan:
    """Many curves on logarithmic axes, in the colours of their order: of each its name, x, y and a text about it.

    others  curves that the reader can choose in the place of the first ones, by what they are called
    """

    title: str
    x_title: str
    curves: Sequence[Curve]
    section: tuple[str, str]
    note: str = ""
    others: Mapping[str, Sequence[Curve]] = field(default_factory=dict)


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


@dataclass
class _Drawn:
    """A figure, the ids of its sources and of the lines that mark layers, and other data of its sources by name.

    linked  whether the points of the sources are layers
    """

    figure: Any
    sources: list[str] = field(default_factory=list)
    spans: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[Any]] = field(default_factory=dict)
    linked: bool = False


def embed(charts: Sequence[Chart | Fan | HeatMap], names: Sequence[str], rows: Sequence[int]) -> dict[str, Any]:
    """Return the charts as plain data for `Bokeh.embed.embed_items`; charts without a number are left out.

    Each is a document of its own, which the page draws on its own; only charts that share an axis are in one.
    names: what is at each point of the axis; rows: the indices of the report's layers there
    """
    from bokeh.core.json_encoder import serialize_json
    from bokeh.document import Document

    embedded, ranges = _Embedded(), dict[str, Any]()
    documents: dict[str, tuple[Document, dict[str, str]]] = {}
    for index, chart in enumerate(chart for chart in charts if _has_numbers(chart)):
        drawn = _drawn(chart, names, rows, ranges)
        element = f"chart-{index}"
        axis = f"axis {chart.x_title}" if isinstance(chart, Chart) else element
        document, roots = documents.setdefault(axis, (Document(), {}))
        document.add_root(drawn.figure)
        roots[drawn.figure.id] = element
        place = {"section": chart.section[0], "heading": chart.section[1], "title": chart.title, "note": chart.note}
        parts = {name: value for name, value in vars(drawn).items() if name != "figure"}
        embedded.figures.append({"element": element, "root": drawn.figure.id, **parts, **place})
    for name, (document, roots) in documents.items():
        embedded.docs[name] = json.loads(serialize_json(document.to_json()))
        embedded.items.append({"docid": name, "roots": roots, "root_ids": list(roots)})
    return embedded.plain


def _drawn(chart: Chart | Fan | HeatMap, names: Sequence[str], rows: Sequence[int], ranges: dict[str, Any]) -> _Drawn:
    if isinstance(chart, HeatMap):
        return _Drawn(_heat_map(chart))
    return _fan(chart) if isinstance(chart, Fan) else _figure(chart, names, rows, ranges)


def _has_numbers(chart: Chart | Fan | HeatMap) -> bool:
    if isinstance(chart, HeatMap):
        return any(_drawable(value, True) for values in chart.values for value in values)
    if isinstance(chart, Fan):
        return bool(chart.curves)
    lines = (line for line in chart.lines if isinstance(line, Line))
    return any(_drawable(value, chart.is_log) is not None for line in lines for value in line.values)


def _drawable(value: float | None, is_log: bool) -> float | None:
    if value is None or not math.isfinite(value) or (is_log and value <= 0):
        return None
    return value


def _figure(chart: Chart, names: Sequence[str], rows: Sequence[int], ranges: dict[str, Any]) -> _Drawn:
    """Return a figure with lines that mark the hovered and the chosen layer."""
    from bokeh.models import LogTicker, Span

    plot = _empty(chart, ranges)
    by_depth = not chart.x_title
    if by_depth:
        _name_axis(plot, names, rows)
    elif chart.names:
        _name_axis(plot, chart.names, range(len(chart.names)))
    else:
        plot.xaxis.axis_label = chart.x_title
    data = _Data(chart, names, rows)
    shown = [line for line in chart.lines if chart.others or data.of(line)["x"]]
    sources = [_draw(plot, line, data) for line in shown]
    if len(chart.lines) > 1:
        _place_legend(plot, max(len(line.title) for line in shown))
    if chart.is_log:
        plot.yaxis.ticker = LogTicker(desired_num_ticks=5, mantissas=[1, 2, 5], num_minor_ticks=0)
    else:
        _widen(plot, {value for line in shown for value in data.of(line).get("y", ())})
    for value, meaning in chart.limits:
        _limit(plot, value, meaning)
    for place in chart.marks:
        plot.add_layout(Span(location=place, dimension="height", line_color=_COLOURS["third"], line_dash="dotted"))
    others = {name: [data.of(line) for line in lines] for name, lines in chart.others.items()}
    if not by_depth:
        return _Drawn(plot, sources, {"slider_span": _slider_span(plot)}, others)
    return _Drawn(plot, sources, _layer_spans(plot), linked=True)


def _empty(chart: Chart, ranges: dict[str, Any]) -> Any:
    """Return a figure without lines; figures with the same x axis share its range, which `ranges` keeps."""
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
    return plot


def _layer_spans(plot: Any) -> dict[str, str]:
    """Add the lines that mark the hovered and the chosen layer, and return their ids."""
    from bokeh.models import Span

    spans = {
        "hover_span": Span(dimension="height", line_color="#bf3989", line_width=1, visible=False, location=0),
        "chosen_span": Span(dimension="height", line_color="#bf3989", line_width=3, line_alpha=0.5, visible=False),
    }
    for span in spans.values():
        plot.add_layout(span)
    return {name: span.id for name, span in spans.items()}


def _name_axis(plot: Any, names: Sequence[str], rows: Sequence[int]) -> None:
    """Show the layers' names at their places where there is room, else their numbers."""
    if len(rows) > _NAMED:
        plot.xaxis.axis_label = "layer, in the order in which they run"
        return
    plot.xaxis.ticker = list(rows)
    plot.xaxis.major_label_overrides = dict(zip(rows, (short(name) for name in names), strict=True))
    plot.xaxis.major_label_orientation = 0.9


def short(name: str) -> str:
    """Return a name of at most 16 letters, with its beginning and its end."""
    return name if len(name) <= 16 else f"{name[:8]}…{name[-7:]}"


@dataclass(frozen=True)
class _Data:
    """What the sources of a chart's lines and areas hold; names and rows: of the axis over depth."""

    chart: Chart
    names: Sequence[str]
    rows: Sequence[int]

    def of(self, line: Line | Area) -> dict[str, list[Any]]:
        """Return the columns of a source: the points that can be drawn."""
        return self._area(line) if isinstance(line, Area) else self._line(line)

    def _line(self, line: Line) -> dict[str, list[Any]]:
        x = list(self.rows if line.x is None else line.x)
        values = [_drawable(value, self.chart.is_log) for value in line.values]
        known = [(place, value, i) for i, (place, value) in enumerate(zip(x, values, strict=True)) if value is not None]
        return {
            "x": [place for place, _, _ in known],
            "y": [value for _, value, _ in known],
            "row": [self.rows[i] if line.x is None else i for _, _, i in known],
            "name": [self._name(line, x, i) for _, _, i in known],
            "shown": [f"{value:.4g}" for _, value, _ in known],
        }

    def _name(self, line: Line, x: Sequence[float], index: int) -> str:
        names = self.names if line.x is None else self.chart.names
        return names[index] if names else str(x[index])

    def _area(self, area: Area) -> dict[str, list[Any]]:
        sides = [[_drawable(value, self.chart.is_log) for value in side] for side in (area.low, area.high)]
        known = [(x, a, b) for x, a, b in zip(area.x, *sides, strict=True) if a is not None and b is not None]
        return {name: [point[i] for point in known] for i, name in enumerate(("x", "low", "high"))}


def _draw(plot: Any, line: Line | Area, data: _Data) -> str:
    """Draw a line with its points, or an area, and return the id of the source."""
    from bokeh.models import ColumnDataSource, HoverTool

    chart, source = data.chart, ColumnDataSource(data.of(line))
    colour, is_dashed = _COLOURS[line.style], line.style == "predicted"
    title = {"legend_label": line.title} if len(chart.lines) > 1 else {}
    if isinstance(line, Area):
        plot.varea("x", "low", "high", source=source, fill_color=colour, fill_alpha=0.2, **title)
        return str(source.id)
    dash = [5, 3] if is_dashed else []
    plot.line("x", "y", source=source, line_color=colour, line_width=1.5, line_dash=dash, **title)
    size = 7 if len(source.data["x"]) <= _NAMED * 4 else 4
    dots = plot.scatter(
        "x", "y", source=source, size=size, color=colour, marker="diamond" if is_dashed else "circle", **title
    )
    what = "layer" if line.x is None or chart.names else chart.x_title
    plot.add_tools(HoverTool(renderers=[dots], tooltips=[(what, "@name"), (line.title, "@shown")], mode="mouse"))
    return str(source.id)


def _fan(chart: Fan) -> _Drawn:
    """Return a figure of many curves, the first ones dark, the last ones light."""
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=250,
        sizing_mode="stretch_width",
        x_axis_type="log",
        y_axis_type="log",
        tools="pan,wheel_zoom,box_zoom,reset",
        toolbar_location="right",
        toolbar_inner=True,
    )
    plot.toolbar.logo, plot.toolbar.autohide, plot.min_border = None, True, 4
    plot.xaxis.axis_label = chart.x_title
    source = ColumnDataSource(_curves(chart.curves))
    drawn = plot.multi_line("xs", "ys", source=source, line_color="colour", line_width=2)
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("layer", "@name"), ("", "@about")], line_policy="nearest"))
    return _Drawn(plot, [str(source.id)], others={name: [_curves(curves)] for name, curves in chart.others.items()})


def _curves(curves: Sequence[Curve]) -> dict[str, list[Any]]:
    from bokeh.palettes import Viridis256

    last = max(len(curves) - 1, 1)
    colours = [Viridis256[round(220 * i / last)] for i in range(len(curves))]  # the lightest are invisible on white
    names, xs, ys, about = (list(column) for column in zip(*curves, strict=True)) if curves else ([], [], [], [])
    return {"name": names, "xs": list(map(list, xs)), "ys": list(map(list, ys)), "about": about, "colour": colours}


def _place_legend(plot: Any, letters: int) -> None:
    """Put the legend above the plot, where it covers no point; a click on an entry hides its line.

    letters: of the longest entry
    """
    legend = plot.legend[0]
    columns = max(_LEGEND // (6 * letters + 24), 1)
    plot.height += 20 * ((len(legend.items) - 1) // columns)
    plot.center.remove(legend)
    plot.add_layout(legend, "above")
    legend.update(click_policy="hide", orientation="horizontal", label_text_font_size="11px", padding=0, margin=0)
    legend.update(spacing=10, glyph_height=14, glyph_width=14, border_line_color=None, ncols=columns)


def _widen(plot: Any, values: set[float]) -> None:
    """Let the axis of a constant begin at 0: Bokeh shows one more and one less, where a small rate looks like 0."""
    if len(values) == 1 and any(values):
        plot.y_range.default_span = 2 * abs(values.pop())


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
    plot.yaxis.major_label_overrides = {-row: short(name) for row, name in enumerate(chart.layers)}
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
        _measured_and_predicted(TITLES["x"], series, "forward"),
        _measured_and_predicted(TITLES["dx"], series, "backward"),
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
        _measured_and_predicted("mean |dw| ÷ mean |w| of the weights", series, "update"),
    ]


def _measured_and_predicted(title: str, series: Mapping[str, Values], name: str) -> Chart:
    lines = [Line("measured", series[name], "measured"), Line("predicted", series[f"{name}_predicted"], "predicted")]
    return Chart(title, lines)


def _near(series: Mapping[str, Values], low: float, high: float) -> bool:
    """Tell whether a product comes near the limits: else they would flatten the chart."""
    products = [v for name in ("product", "product_backward") for v in series[name] if v]
    return any(value < low or value > high for value in products)
