"""`convert`: a Caffe net as an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import NetOptions, ValueOptions

if TYPE_CHECKING:
    import onnx

__all__ = ["convert"]


def convert(
    path: str | Path,
    output: str | Path,
    *,
    backward: bool = False,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    seed: int | None = None,
    weights: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dialect: str | None = None,
    assume_filler: str | None = None,
) -> None:
    """Write a Caffe net as an ONNX model; see `caffestat.program.export` for its inputs, outputs and names.

    path:     a net or solver prototxt, "-" for the standard input; or, with `backward`, an .onnx model, which gets the
              gradients of its inputs and initializers (`caffestat.gradient`)
    output:   the .onnx file; what makes it larger than 2 GiB goes to a file beside it
    backward: compute gradients too
    phase, level, stages, shapes, batch, dialect: see `caffestat.options.NetOptions`
    seed, weights, assume_filler: what the params hold; see `caffestat.options.ValueOptions`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.files import refuse_inputs
    from caffestat.graph.external import save
    from caffestat.program import is_onnx

    if not is_onnx(str(output)):
        raise InputError(f"{output}: expected a name that ends in .onnx")
    refuse_inputs(output, [path])
    net = NetOptions(phase, level, stages, shapes or {}, batch, "synthetic", dialect)
    values = ValueOptions(seed, weights, assume_filler)
    if is_onnx(str(path)):
        save(_with_gradient(str(path), net, values, backward), output)
    else:
        save(_converted(str(path), net, values, backward), output)


def _with_gradient(path: str, net: NetOptions, values: ValueOptions, backward: bool) -> onnx.ModelProto:
    from caffestat.api.gradient import gradient
    from caffestat.program.opening import refuse_caffe_options

    refuse_caffe_options(net, values)
    if not backward:
        raise InputError(f"{path}: is an ONNX model already; --backward would add its gradients")
    return gradient(path, shapes=net.shapes, batch=net.batch)


def _converted(path: str, options: NetOptions, given: ValueOptions, backward: bool) -> onnx.ModelProto:
    from caffestat.fillers import Stream
    from caffestat.program import open_file
    from caffestat.program.export import to_onnx

    file = open_file(path)
    program = file.program(options, given)
    return to_onnx(program.net, program.values(Stream(file.seed(given.seed)), []), backward)
