"""`caffestat convert`: a Caffe net as an ONNX model, forward or forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, terminal

__all__ = ["convert"]


@click.command(short_help="Write a net as an ONNX model, its backward pass included if asked.")
@options.net_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The .onnx file, written atomically.",
)
@click.option("--backward", is_flag=True, help="Compute the gradients of all params too.")
@options.state
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Caffe's random_seed.  [default: the solver's, else 1701]",
)
@options.weights
@options.assume_filler
def convert(path: str, output: Path, **settings: Any) -> None:
    """Write a Caffe net as an ONNX model that stock runtimes run.

    NET is a net or a solver prototxt; - is the standard input. Inputs and values carry the names of blobs, params those
    of their layers: conv1/0. With --backward the model also returns grad/conv1/0 and so on, the gradients of the net's
    losses. An .onnx model in the place of NET gets its gradients: a cotangent/NAME input per output, grad/NAME outputs.

    \b
    Examples:
      caffestat convert models/lenet.prototxt -o lenet.onnx
      caffestat convert models/lenet.prototxt --backward -o lenet_backward.onnx
      caffestat convert --phase test --weights lenet.caffemodel lenet.prototxt -o lenet.onnx
      caffestat convert --backward resnet.onnx -o resnet_backward.onnx
    """
    from caffestat import api

    with terminal.progress(f"converting {path}"):
        api.convert(path, output, **settings)
