"""The page of a sweep: its variants in order, spreads over the seeds, the coordinate check, and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from caffestat.sweeps import Trial
from caffestat.sweeps.findings import Choice, Grid, Slope, quantities, swept
from caffestat.sweeps.spread import Band, Spread, Value
from caffestat.sweeps.summary import Summary

from .. import sweep_text
from ..json_format import number
from ..scales import TITLES
from .charts import Area, Chart, Curve, Fan, HeatMap, Line, embed, short
from .from_history import bare_page
from .page import require_extra, write

__all__ = ["render_sweep"]

_STYLES = ("measured", "predicted", "third", "fourth", "limit")
_SPREADS = 20  # variants whose spread can be chosen, fewer in large nets:
_POINTS = 2000  # layers times variants
_LISTED = 2000  # variants in the table
_STEPS = 6  # iterations of the coordinate check
_SPREAD = ("spread", "Spread over the seeds")
_WIDTHS = ("widths", "Signal against the width")
_Key = tuple[int, str, str]


def render_sweep(summary: Summary, title: str) -> str:
    """Return a sweep as one HTML file. Raises InputError where the extra `caffestat[report]` is not installed."""
    require_extra()
    choices = summary.choices()
    order = _kept(summary, choices)
    spreads = list(_spreads(summary, choices, order))
    widths: dict[Trial, list[Slope]] = {}
    places = {replace(choice.variant, width=1.0): -place for place, choice in enumerate(reversed(choices))}
    for slope in sorted(summary.slopes(), key=lambda slope: places[slope.variant]):
        widths.setdefault(slope.variant, []).append(slope)
    page = bare_page() | {
        "title": title,
        "about": list(sweep_text.about(summary)),
        "csv": sweep_text.render_csv(summary),
        "sweep": {
            **_variants(choices),
            "failed": [f"{trial.variant} · seed {trial.seed}: {text}" for trial, text in summary.errors],
            "spreads": [_spread_rows(*spread) for spread in spreads],
            "widths": [_slope_rows(variant, found) for variant, found in widths.items()],
            "grids": [_grid_cells(grid) for grid in summary.grids()],
        },
    }
    charts: list[Chart | Fan | HeatMap] = [
        *_spread_charts(spreads),
        *_width_charts(widths),
        *_loss_charts(summary, order[: len(_STYLES)]),
        *_charts(summary, order[: len(_STYLES)]),
    ]
    return write(page, embed(charts, [], []))


def _kept(summary: Summary, choices: Sequence[Choice]) -> list[Trial]:
    """Return the variants whose numbers are kept, the best first."""
    kept = set(summary.variants())
    return [choice.variant for choice in choices if choice.variant in kept]


def _variants(choices: Sequence[Choice]) -> dict[str, Any]:
    listed = [
        {
            "place": place,
            "parameters": choice.variant.parameters,
            "quantities": {name: number(value) for name, value in quantities(choice).items()},
            "reason": choice.reason,
        }
        for place, choice in enumerate(choices[:_LISTED], 1)
    ]
    names = dict.fromkeys(name for choice in choices for name in quantities(choice))
    return {"variants": listed, "parameters": list(swept(choices)) or ["net"], "quantities": list(names)}


# ---- the spread over the seeds, against the prediction

_Spread = tuple[str, Mapping[Value, Spread], Mapping[Value, Band]]


def _spreads(summary: Summary, choices: Sequence[Choice], order: Sequence[Trial]) -> Iterator[_Spread]:
    """Yield what can be chosen: the first pass of the best variants, and of trained ones the last iteration too."""
    places = {choice.variant: place for place, choice in enumerate(choices, 1)}
    count = max(min(_SPREADS, _POINTS // max(len(summary.of(order[0])), 1)), 1) if order else 0
    for variant in order[:count]:
        name = f"{places[variant]}. {variant.variant}"
        yield (f"{name}, first pass" if variant.iterations else name), summary.of(variant, 0), summary.bands
        if variant.iterations:
            yield f"{name}, at the end", summary.of(variant), {}


def _spread_rows(title: str, values: Mapping[Value, Spread], bands: Mapping[Value, Band]) -> dict[str, Any]:
    rows = [_spread_row(value, spread, bands.get(value)) for value, spread in values.items()]
    return {"title": title, "numbers": rows}


def _spread_row(value: Value, spread: Spread, band: Band | None) -> dict[str, Any]:
    found = {name: getattr(spread, name) if spread.count else None for name in ("mean", "deviation", "least", "most")}
    predicted = {"predicted": band.mean, "predicted_deviation": band.deviation} if band else {}
    what = TITLES.get(value.kind, value.kind).split(" of ")[0]
    words = {"layer": value.layer, "name": value.name, "of": what, "lost": spread.lost}
    return words | {name: number(one) for name, one in (found | predicted).items()}


def _spread_charts(spreads: Sequence[_Spread]) -> Iterator[Chart]:
    """Yield a chart for each kind of number, with the numbers of all that can be chosen."""
    for kind, title in TITLES.items():
        keys = sorted({_key(value) for _, values, _ in spreads for value in values if value.kind == kind})
        names = [f"{layer}/{name}" for _, layer, name in keys]
        others = {name: _spread_lines(kind, keys, values, bands) for name, values, bands in spreads}
        first = next(iter(others.values()), [])
        yield Chart(title, first, _SPREAD, x_title=f"{title}, spread", names=names, others=others)


def _spread_lines(
    kind: str, keys: Sequence[_Key], values: Mapping[Value, Spread], bands: Mapping[Value, Band]
) -> list[Line | Area]:
    x = range(len(keys))
    found = {_key(value): spread for value, spread in values.items() if value.kind == kind and spread.count}
    expected = {_key(value): bands[value] for value in values if value.kind == kind and value in bands}
    least, most, mean = (_column(found, keys, read) for read in (_least, _most, _mean))
    low, high = (_column(expected, keys, lambda band, side=side: _edge(band, side)) for side in (-2, 2))  # type: ignore[misc]
    return [
        Area("seeds", least, most, "measured", x),
        Area("theory ±2", low, high, "predicted", x),
        Line("mean", mean, "measured", x),
        Line("theory", _column(expected, keys, lambda band: band.mean), "predicted", x),
    ]


def _least(spread: Spread) -> float:
    return spread.least


def _most(spread: Spread) -> float:
    return spread.most


def _mean(spread: Spread) -> float:
    return spread.mean


def _edge(band: Band, deviations: int) -> float | None:
    """Return an edge of a band; one that reaches 0 is drawn at a hundredth of the mean, for the axis is logarithmic."""
    return None if band.deviation is None else max(band.mean + deviations * band.deviation, band.mean / 100)


# ---- the signal against the width


def _width_charts(widths: Mapping[Trial, Sequence[Slope]]) -> Iterator[Fan]:
    """Yield a chart for some iterations, with the layers of all variants that can be chosen."""
    for step in sweep_text.steps((slope.iteration for found in widths.values() for slope in found), _STEPS):
        others = {
            variant.variant: [_curve(slope) for slope in found if slope.iteration == step]
            for variant, found in widths.items()
        }
        yield Fan(f"mean |x|, iteration {step}", "width", next(iter(others.values())), _WIDTHS, others=others)


def _curve(slope: Slope) -> Curve:
    widths, means = zip(*slope.points, strict=True)
    return f"{slope.layer}/{slope.name}", widths, means, f"slope {slope.slope:+.2f}"


def _slope_rows(variant: Trial, slopes: Sequence[Slope]) -> dict[str, Any]:
    shown = sweep_text.steps((slope.iteration for slope in slopes), _STEPS)
    layers: dict[_Key, dict[int, Slope]] = {}
    for slope in slopes:
        layers.setdefault((slope.depth, slope.layer, slope.name), {})[slope.iteration] = slope
    rows = [
        {
            "layer": layer,
            "name": name,
            "slopes": [found[step].slope if step in found else None for step in shown],
            "moves": any(slope.moves for slope in found.values()),
        }
        for (_, layer, name), found in sorted(layers.items())
    ]
    moves = list(dict.fromkeys(row["layer"] for row in rows if row["moves"]))
    return {"title": variant.variant, "steps": shown, "layers": rows, "moves": moves}


def _grid_cells(grid: Grid) -> dict[str, Any]:
    return vars(grid) | {"cells": [list(map(number, row)) for row in grid.cells]}


# ---- the best variants beside each other


def _loss_charts(summary: Summary, variants: Sequence[Trial]) -> Iterator[Chart]:
    """Yield the losses of trained variants over the iterations."""
    lines = []
    for name, variant, style in zip(_entries([v.variant for v in variants]), variants, _STYLES, strict=False):
        found = [
            (value.iteration, spread.mean if spread.count else None)
            for value, spread in summary.values.items()
            if value.variant == variant and (value.kind, value.layer) == ("loss", "")
        ]
        lines.append(Line(name, [mean for _, mean in found], style, [iteration for iteration, _ in found]))
    if any(variant.iterations for variant in variants):
        yield Chart("loss, mean over the seeds", lines, ("training", "Training"), is_log=False, x_title="iteration")


def _charts(summary: Summary, variants: Sequence[Trial]) -> Iterator[Chart]:
    """Yield a chart for each kind of number, of the last iteration."""
    for kind, title in TITLES.items():
        found = [_numbers(summary, variant, kind) for variant in variants]
        keys = sorted({key for numbers in found for key in numbers})
        lines = [
            Line(name, _column(numbers, keys, _mean), style, range(len(keys)))
            for name, numbers, style in zip(_entries([v.variant for v in variants]), found, _STYLES, strict=False)
        ]
        if len(found) == 1:
            lines += _band(found[0], keys)
        yield Chart(title, lines, x_title=title, names=[f"{layer}/{name}" for _, layer, name in keys])


def _entries(names: list[str]) -> list[str]:
    """Return names that fit into a legend: the place in the order, and what a name does not share with all others."""
    if len(names) == 1:
        return ["mean"]
    parts = [name.split(" · ") for name in names]
    shared = set.intersection(*map(set, parts)) if parts else set()
    own = (" · ".join(part for part in found if part not in shared) for found in parts)
    return [f"{i} {short(name)}".strip() for i, name in enumerate(own, 1)]


def _key(value: Value) -> _Key:
    return value.depth, value.layer, value.name


def _numbers(summary: Summary, variant: Trial, kind: str) -> dict[_Key, Spread]:
    found = summary.of(variant).items()
    return {_key(value): spread for value, spread in found if value.kind == kind and spread.count}


def _band(numbers: dict[_Key, Spread], keys: Sequence[_Key]) -> list[Line]:
    """Return the smallest and the largest value over the seeds."""
    columns = {"least": _column(numbers, keys, _least), "most": _column(numbers, keys, _most)}
    return [Line(name, column, "third", range(len(keys))) for name, column in columns.items()]


def _column(
    numbers: Mapping[_Key, Any], keys: Sequence[_Key], read: Callable[[Any], float | None]
) -> list[float | None]:
    """Return one number for each key, None where there is none."""
    return [read(numbers[key]) if key in numbers else None for key in keys]
