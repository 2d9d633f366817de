"""A sweep as text, and as a table of comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from caffestat.escape import csv_cell
from caffestat.sweeps import Trial
from caffestat.sweeps.findings import Choice, Grid, Slope
from caffestat.sweeps.spread import Band, Spread, Value
from caffestat.sweeps.summary import Summary

__all__ = ["TITLES", "about", "lines", "render_csv", "steps"]

TITLES = {"x": "mean|x|", "dx": "mean|dx|", "w": "mean|w|", "dw": "mean|dw|"}

_FAILED = 5  # trials that are listed
_BEST = 50  # variants that are listed
_STEPS = 8  # iterations that are shown beside each other
_CELLS = 12  # columns of a grid


def about(summary: Summary) -> Iterator[str]:
    """Yield the numbers of trials, and what is not kept."""
    trials = "1 trial" if summary.trials == 1 else f"{summary.trials} trials"
    yield f"{trials}, {summary.seconds:.1f} s of work, {summary.failed} failed"
    if summary.dropped:
        yield f"the layers of the best {len(summary.variants())} variants; -o FOLDER keeps those of the others too"


def lines(summary: Summary) -> Iterator[str]:
    """Yield the report as text: each variant's layers, the order of the variants, the widths, and the grids."""
    yield from about(summary)
    for trial, text in summary.errors[:_FAILED]:
        yield f"failed: {trial.variant} · seed {trial.seed}: {text}"
    for variant in summary.variants():
        yield ""
        yield variant.variant
        yield from _table(summary.of(variant), summary.bands)
    yield from _best(summary.choices())
    yield from _widths(summary.slopes())
    for grid in summary.grids():
        yield from _grid(grid)


def _best(choices: Sequence[Choice]) -> Iterator[str]:
    if len(choices) < 2:
        return
    yield ""
    yield "best first:"
    yield from (f"  {choice.variant.variant}: {choice.reason}" for choice in choices[:_BEST])
    if len(choices) > _BEST:
        yield f"  and {len(choices) - _BEST} more"


_HEAD = f"{'layer':<24}{'of':<14}{'mean':>11}{'over seeds ±':>14}{'least':>11}{'most':>11}{'predicted':>18}"


def _table(values: Mapping[Value, Spread], bands: Mapping[Value, Band]) -> Iterator[str]:
    yield _HEAD
    for value, spread in values.items():
        band = bands.get(value)
        what = value.name if value.kind == "output" else TITLES.get(value.kind, value.kind)
        shown = "" if band is None else str(band)
        numbers = (spread.mean, spread.deviation, spread.least, spread.most)
        where = f"{_cut(value.layer, 24):<24}{_cut(what, 14):<14}"
        if not spread.count:
            yield f"{where}{'not finite':>11}"
            continue
        a, b, c, d = (f"{number:.4g}" for number in numbers)
        yield f"{where}{a:>11}{b:>14}{c:>11}{d:>11}{shown:>18}".rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) < width else text[: width - 2] + "…"


def steps(iterations: Iterable[int], most: int = _STEPS) -> list[int]:
    """Return some of the iterations, evenly spread, with the first and the last."""
    found = sorted(set(iterations))
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def _widths(slopes: Sequence[Slope]) -> Iterator[str]:
    """Yield the coordinate check: a line per layer, a column per iteration."""
    for variant, group in groupby(sorted(slopes, key=lambda slope: slope.variant.variant), lambda slope: slope.variant):
        found = list(group)
        shown = steps(slope.iteration for slope in found)
        yield ""
        yield f"{variant.variant}: power of the width that mean |x| is proportional to (0: it does not depend on it)"
        yield f"{'layer':<24}" + "".join(f"{f'iteration {step}':>14}" for step in shown)
        by_place = {(slope.depth, slope.layer, slope.name): dict[int, Slope]() for slope in found}
        for slope in found:
            by_place[slope.depth, slope.layer, slope.name][slope.iteration] = slope
        for (_, layer, _), by_step in sorted(by_place.items()):
            numbers = (f"{by_step[step].slope:+.2f}" if step in by_step else "" for step in shown)
            line = f"{_cut(layer, 24):<24}" + "".join(f"{number:>14}" for number in numbers)
            moves = any(slope.moves for slope in by_step.values())
            yield f"{line}  <- depends on the width" if moves else line.rstrip()


def _grid(grid: Grid) -> Iterator[str]:
    """Yield a grid with a line per value of its rows; columns beyond the first twelve are left out."""
    yield ""
    best = ", of the best with these two" if grid.others else ""
    yield f"{grid.title}, {grid.rows} by {grid.columns}{best}:"
    columns = grid.column_values[:_CELLS]
    head = max(map(len, (*grid.row_values, grid.rows))) + 2
    widths = [max(len(value), 9) + 2 for value in columns]
    yield f"{'':<{head}}" + "".join(f"{value:>{width}}" for value, width in zip(columns, widths, strict=True))
    for name, cells in zip(grid.row_values, grid.cells, strict=True):
        numbers = ("" if cell is None else f"{cell:.4g}" for cell in cells)
        line = "".join(f"{number:>{width}}" for number, width in zip(numbers, widths, strict=False))
        yield f"{name:<{head}}{line}".rstrip()
    if len(columns) < len(grid.column_values):
        yield f"and {len(grid.column_values) - len(columns)} more values of {grid.columns}"


_COLUMNS = ("iteration", "depth", "layer", "name", "kind", "mean", "deviation", "least", "most")
_PREDICTED = ("predicted", "predicted_deviation")


def render_csv(summary: Summary) -> str:
    """Return every number of the summary as one table.

    Beside the kinds of rows there are `range_x` and `range_dx`, the factor by which a variant's signal and gradient
    change with depth, and `slope`, that of a layer's mean |x| over the width.
    """
    choices = summary.choices()
    parameters = list(dict.fromkeys(name for choice in choices for name in choice.variant.parameters))
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["variant", *parameters, *_COLUMNS, *_PREDICTED])

    def row(variant: Trial, *cells: object, without: str = "") -> None:
        found = variant.parameters | {without: ""}
        shown = (csv_cell(cell) if isinstance(cell, str) else cell for cell in (variant.variant, *cells))
        table.writerow([next(shown), *(found.get(name, "") for name in parameters), *shown])

    for value, spread in summary.values.items():
        band = summary.bands.get(value)
        numbers = (spread.mean, spread.deviation, spread.least, spread.most) if spread.count else ("",) * 4
        row(value.variant, *value[1:], *numbers, *((band.mean, band.deviation) if band else (None, None)))
    kept = set(summary.variants())
    for choice in choices:
        for cells in _judged(choice, choice.variant in kept):
            row(choice.variant, *cells)
    for slope in summary.slopes():
        where = (slope.iteration, slope.depth, slope.layer, slope.name, "slope", slope.slope)
        row(slope.variant, *where, *[""] * 5, without="width")
    return out.getvalue()


def _judged(choice: Choice, is_kept: bool) -> Iterator[tuple[object, ...]]:
    """Yield the cells of what ranks a variant; is_kept: its loss and its outputs have rows of their own."""
    nothing = ("",) * 5
    yield (0, -1, "", "", "range_x", choice.forward, *nothing)
    yield (0, -1, "", "", "range_dx", choice.backward, *nothing)
    if choice.loss is not None and not is_kept:
        yield (choice.variant.iterations, -1, "", "", "loss", choice.loss, *nothing)
        for name, (mean, deviation) in choice.outputs.items():
            yield (choice.variant.iterations, -1, "", name, "output", mean, deviation, *nothing[1:])
