"""`caffestat compare`: two logs or runs line by line, two models value by value."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffestat.errors import InputError
from caffestat.files import refuse_inputs
from caffestat.options import COMPUTE

from . import options, terminal

if TYPE_CHECKING:
    from caffestat.analysis.values import ValueDifference

__all__ = ["compare"]


@click.command()
@click.argument("a", type=options.FILE, metavar="A")
@click.argument("b", type=options.FILE, metavar="B")
@click.option("--rtol", type=float, default=1e-3, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=float, help="Absolute tolerance.  [default: 1e-9; of models 1e-6]")
@click.option(
    "--limit",
    type=click.IntRange(1, 2**31 - 1, clamp=True),
    default=20,
    show_default=True,
    help="Maximum number of differences to print.",
)
@click.option("--all", "everything", is_flag=True, help="For models: also print the values within the tolerance.")
@options.shapes
@options.dims
@options.batch
@options.arrays
@options.seed
@options.weights
@options.device
@options.compute
@options.page
@options.output
def compare(
    a: str,
    b: str,
    rtol: float,
    atol: float | None,
    limit: int,
    everything: bool,
    format: str,
    output: Path | None,
    **settings: Any,
) -> None:
    """Compare A and B, and exit with 1 when they differ.

    For two logs, compares losses, outputs and debug_info numbers. A net or solver (.prototxt) is run, and its log is
    that of `caffestat debug`.

    When A or B is an .onnx model, both are run on the same inputs, each in its own types, and compared value by value:
    a model before and after quantization, a change of type or an optimizer; a net and its conversion. A net is taken in
    the test phase. Values are matched by name, the rest by position. A value differs when the largest error exceeds
    atol + rtol·max |a|. The options --shape, --dim, --batch, --input, --seed, --weights, --device, --compute and
    --all are for models. With --compute float16 the values of B are computed in float16, those of A are not.

    \b
    Examples:
      caffestat compare before.log after.log
      caffestat compare --rtol 0.05 caffe.log net.prototxt
      caffestat compare --format html -o compare.html before.log after.log
      caffestat compare --rtol 0.01 model.onnx model_fp16.onnx
      caffestat compare --rtol 0.01 --compute float16 model.onnx model.onnx
      caffestat compare --weights lenet.caffemodel lenet.prototxt lenet.onnx
    """
    target = terminal.page_file(format, output)
    refuse_inputs(target, [a, b])
    tolerances = {"rtol": rtol} if atol is None else {"rtol": rtol, "atol": atol}
    if _are_models(a, b):
        _compare_models(a, b, limit, everything, format, target, **tolerances, **settings)
    else:
        _refuse_model_options(everything, **settings)
        _compare_logs(a, b, limit, format, target, tolerances)


def _are_models(*paths: str) -> bool:
    from caffestat.program import is_onnx

    return any(map(is_onnx, paths))


def _refuse_model_options(everything: bool, *, device: str, compute: str, **settings: Any) -> None:
    changed = everything or device != "auto" or compute != COMPUTE[0]
    if changed or any(value not in (None, (), {}) for value in settings.values()):
        raise InputError("run options apply only to comparisons with an .onnx model; logs are compared as they are")


def _compare_logs(
    a: str, b: str, limit: int, format: str, target: Path | None, tolerances: Mapping[str, float]
) -> None:
    from caffestat import api
    from caffestat.api.pages import compare_page

    if format == "html":
        comparison, page = compare_page(a, b, **tolerances)
        terminal.write(page, target)
        sys.exit(1 if comparison.count else 0)
    found = api.compare(a, b, **tolerances)
    shown = list(islice(found, limit))
    more = sum(1 for _ in found)
    rest = [f"… and {more} more"] if more else []
    terminal.write_lines([*shown, *rest] if shown else ["no differences"], target)
    sys.exit(1 if shown else 0)


def _compare_models(
    a: str, b: str, limit: int, everything: bool, format: str, target: Path | None, **settings: Any
) -> None:
    from caffestat import api

    with terminal.progress(f"running {a} and {b}"):
        found = api.compare_values(a, b, **settings)
    parted = [one for one in found if one.parts]
    if format == "html":
        from caffestat.report.html.from_values import render_values

        terminal.write(render_values(found, a, b, _summary(found, parted)), target)
        sys.exit(1 if parted else 0)
    rows = found if everything else parted
    shown = rows[:limit]
    more = [f"… and {len(rows) - limit} more"] if len(rows) > limit else []
    terminal.write_lines([*_table(shown), *more, *_summary(found, parted)], target)
    sys.exit(1 if parted else 0)


_TITLES = ("value", "op", "shape", "max error", "mean error", "cosine", "SQNR dB", "")


def _table(rows: list[ValueDifference]) -> list[str]:
    """Return aligned lines, none without rows."""
    cells = [_TITLES, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
    return list(lines) if rows else []


def _cells(row: ValueDifference) -> tuple[str, ...]:
    name = row.name if row.name == row.other else f"{row.name} = {row.other}"
    shape = "x".join(map(str, row.shape)) or "scalar"
    errors = (f"{row.max_error:.3g}", f"{row.mean_error:.3g}", f"{row.cosine:.6f}", f"{row.sqnr:.1f}")
    return name, row.op, shape, *errors, "differs" if row.parts else ""


def _summary(found: list[ValueDifference], parted: list[ValueDifference]) -> list[str]:
    by_name = sum(one.matched == "name" for one in found)
    lines = [f"{len(found)} values compared, {by_name} matched by name, {len(found) - by_name} by position"]
    if not parted:
        return [*lines, "no differences"]
    first = parted[0]
    words = f"max error {first.max_error:.3g}, limit {first.limit:.3g}"
    return [*lines, f"{len(parted)} differ; the first: {first.name} ({first.op}): {words}"]
