"""`caffestat convert`: a Caffe net as an ONNX model, forward or forward and backward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options, terminal

__all__ = ["convert"]


@click.command()
@options.net_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=options.TARGET,
    help="The .onnx file, written atomically.",
)
@click.option("--backward", is_flag=True, help="Also compute the gradients of all params.")
@click.option(
    "--wrt",
    multiple=True,
    metavar="PATTERN",
    help="For .onnx models: gradients of these values, such as '*.weight'; repeatable.  [default: inputs, weights]",
)
@click.option(
    "--outputs",
    multiple=True,
    metavar="NAME",
    help="For .onnx models: outputs where the gradients start; repeatable.  [default: all floating-point outputs]",
)
@click.option(
    "--loss",
    metavar="LOSS",
    help="For .onnx models: ones, cross-entropy, or the name of a value to sum.  [default: an input for each gradient]",
)
@options.ste
@options.state
@options.dims
@options.model_arrays
@options.seed
@options.weights
@options.assume_filler
def convert(path: str, output: Path, **settings: Any) -> None:
    """Write a Caffe net as an ONNX model that stock runtimes run.

    NET is a net or a solver prototxt; - is the standard input. Inputs and values carry the names of blobs, params those
    of their layers: conv1/0. With --backward the model also returns grad/conv1/0 and so on, the gradients of the net's
    losses. An .onnx model as NET gets its gradients: a cotangent/NAME input per output, grad/NAME outputs;
    with --loss those of a loss, cross-entropy with an input for the labels.

    \b
    Examples:
      caffestat convert models/lenet.prototxt -o lenet.onnx
      caffestat convert models/lenet.prototxt --backward -o lenet_backward.onnx
      caffestat convert --phase test --weights lenet.caffemodel lenet.prototxt -o lenet.onnx
      caffestat convert --backward resnet.onnx -o resnet_backward.onnx
      caffestat convert --backward --outputs logits --wrt image resnet.onnx -o saliency.onnx
      caffestat convert --backward --loss cross-entropy --outputs logits --wrt '*.weight' resnet.onnx -o train.onnx
      caffestat convert --backward --input sr=16000 --shape input=1,512 vad.onnx -o vad_backward.onnx
      caffestat convert --backward --ste --wrt '*.weight' int8.onnx -o int8_backward.onnx
    """
    from caffestat import api

    with terminal.warnings_told(path), terminal.progress(f"converting {path}"):
        api.convert(path, output, **settings)
