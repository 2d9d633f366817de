"""`caffestat calibrate`: the ranges of a model's values, for onnxruntime's quantization tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caffestat.files import refuse_inputs
from caffestat.options import CALIBRATION_METHODS

from . import options, terminal

__all__ = ["calibrate"]


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return () if value == "none" else tuple(map(float, value.split(",")))
    except ValueError:
        raise click.BadParameter(f"expected comma-separated numbers or none, found {value!r}") from None


@click.command()
@options.net_argument
@options.sources
@click.option(
    "--method",
    type=click.Choice(CALIBRATION_METHODS),
    default=CALIBRATION_METHODS[0],
    show_default=True,
    help="Method for the ranges: the extremes, or a percentile of the elements.",
)
@click.option(
    "--percentile",
    type=click.FloatRange(0, 100),
    default=99.999,
    show_default=True,
    metavar="P",
    help="Share of the elements that --method percentile keeps, in percent.",
)
@click.option(
    "--percentiles",
    default="0.1,1,50,99,99.9",
    show_default=True,
    metavar="P,P,…",
    callback=_numbers,
    help="Percentiles to write beside the ranges; none avoids a second pass with --method minmax.",
)
@click.option("--symmetric", is_flag=True, help="Symmetric ranges, from -a to a.")
@options.shapes
@options.batch
@options.dims
@options.weights
@options.seed
@options.device
@options.compute
@options.output
def calibrate(path: str, output: Path | None, inputs: dict[str, str], **settings: Any) -> None:
    """Run a model on batches of data, and write the range of each value as JSON.

    NET is an .onnx model, or a net in the test phase, whose values get the names that `convert` gives them. The file is
    the calibration_cache_path of onnxruntime's quantize_static, with percentiles added. Arrays with more samples than
    a batch are run in parts.

    \b
    Examples:
      caffestat calibrate --input data=images/ -o ranges.json model.onnx
      caffestat calibrate --input data=images.npz --method percentile --percentile 99.99 -o ranges.json model.onnx
      caffestat calibrate --input data=images.npy --weights lenet.caffemodel -o ranges.json lenet.prototxt
    """
    from caffestat import api
    from caffestat.report.calibration import render_calibration

    refuse_inputs(output, [path, *settings["weights"], *inputs.values()])
    with terminal.progress(f"calibrating {path}"):
        found = api.calibrate(path, inputs=inputs, **settings)
    for note in found.notes:
        terminal.line(f"note: {note}", err=True)
    terminal.write(render_calibration(found), output)
