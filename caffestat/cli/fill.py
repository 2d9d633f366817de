"""`caffestat fill`: the values that a net's params start with, shown or written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, terminal
from .policies import policies

__all__ = ["fill"]


@click.command()
@options.net_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=options.TARGET,
    help="Write the values to FILE, a .caffemodel, .npz, .h5 or .onnx.",
)
@click.option("--print", "show", is_flag=True, help="Show each param's filler, n, scale, std and first values.")
@policies
@options.seed
@options.assume_filler
@options.state
def fill(path: str, output: Path | None, show: bool, **settings: Any) -> None:
    """Draw the initial values of a net's params, bit for bit as Caffe does with the same random_seed.

    NET is a net or a solver prototxt; - is the standard input. A .caffemodel holds what Caffe would snapshot before the
    first iteration, an .onnx the net itself with these weights. NET may also be an .onnx model, whose weights --filler
    draws. Methods that look at the whole net (autoinit, orthogonal, lsuv, krahenbuhl) print signal and gradient before
    and after.

    \b
    Examples:
      caffestat fill models/lenet.prototxt --print
      caffestat fill models/lenet.prototxt -o lenet.caffemodel --seed 7
      caffestat fill models/lenet.prototxt -o lenet.npz --filler msra --layer 'ip*'
      caffestat fill models/lenet.prototxt -o lenet.caffemodel --filler lsuv:tolerance=0.02
      caffestat fill model.onnx -o new.onnx --filler autoinit
    """
    from caffestat import api

    if output is None and not show:
        raise click.UsageError("expected a destination for the values: -o FILE, --print, or both")
    with terminal.progress(f"filling {path}"):
        filled = api.fill(path, output, **settings)
    for note in filled.notes:
        terminal.line(f"note: {note}", err=True)
    if show:
        click.echo(str(filled), nl=False)
    for line in filled.curves.lines() if filled.curves else ():
        terminal.line(line)
