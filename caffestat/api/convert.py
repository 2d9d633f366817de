"""`convert`: a Caffe net as an ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError
from caffestat.options import NetOptions, ValueOptions

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["convert", "converted"]


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
    outputs: Sequence[str] | None = None,
    wrt: Sequence[str] | None = None,
    straight_through: bool = False,
    dims: Mapping[str, int] | None = None,
    loss: str | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write a Caffe net as an ONNX model; see `caffestat.program.export` for its inputs, outputs and names.

    path:     a net or solver prototxt, "-" for the standard input; or, with `backward`, an .onnx model, which gets the
              gradients of its inputs and initializers (`caffestat.gradient`)
    output:   the .onnx file; data beyond 2 GiB goes to a file beside it
    backward: also compute gradients
    phase, level, stages, shapes, batch, dialect, dims: see `caffestat.options.NetOptions`
    outputs, wrt, straight_through, loss, inputs: of the gradients of an .onnx model; see `caffestat.gradient`. Each
              name of `wrt` may be a pattern (`*.weight`), for all values that a file's names match
    seed, weights, assume_filler: what the params hold; see `caffestat.options.ValueOptions`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.files import refuse_inputs, refuse_unwritable
    from caffestat.graph.external import save
    from caffestat.program import is_onnx

    if not is_onnx(str(output)):
        raise InputError(f"{output}: expected a name that ends in .onnx")
    refuse_inputs(output, [path])
    refuse_unwritable(output)
    net = NetOptions(phase, level, stages, shapes or {}, batch, "synthetic", dialect, dims or {})
    values = ValueOptions(seed, weights, assume_filler)
    if is_onnx(str(path)):
        ask = partial(
            _with_gradient, outputs=outputs or None, straight_through=straight_through, loss=loss, inputs=inputs
        )
        save(ask(str(path), net, values, backward, wrt or None), output)
    else:
        if outputs or wrt or straight_through or loss or inputs:
            raise InputError(
                "--outputs, --wrt, --input, --loss and --ste are for .onnx models; a Caffe net defines its own losses"
            )
        save(converted(str(path), net, values, backward), output)


def _with_gradient(
    path: str, net: NetOptions, values: ValueOptions, backward: bool, wrt: Sequence[str] | None, **asked: Any
) -> onnx.ModelProto:
    from caffestat.api.gradient import gradient
    from caffestat.program.opening import refuse_caffe_options

    refuse_caffe_options(net, values)
    if not backward:
        raise InputError(f"{path}: is already an ONNX model; use --backward to add its gradients")
    names = None if wrt is None else _matching(path, wrt)
    return gradient(path, wrt=names, shapes=net.shapes, batch=net.batch, dims=net.dims, **asked)


def _matching(path: str, patterns: Sequence[str]) -> list[str]:
    """Return the names that the patterns match among a model's inputs, weights and computed values of floats.

    Raises InputError for a pattern that matches none.
    """
    from fnmatch import fnmatchcase

    from onnx import TensorProto

    from caffestat.graph.external import read_model

    graph = read_model(path).graph
    known = [*(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)]
    known += [name for node in graph.node for name in node.output if name]
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    float_kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    floats = [name for name in known if kinds.get(name, TensorProto.FLOAT) in float_kinds]
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [pattern] if pattern in known else [name for name in floats if fnmatchcase(name, pattern)]
        if not matched:
            raise InputError(f"--wrt {pattern}: no input, weight or value of {path} has such a name")
        found |= dict.fromkeys(matched)
    return list(found)


def converted(path: str, options: NetOptions, given: ValueOptions, backward: bool) -> onnx.ModelProto:
    """Return a Caffe net as an ONNX model; see `convert`."""
    from caffestat.fillers import Stream
    from caffestat.program import open_file
    from caffestat.program.export import to_onnx

    file = open_file(path)
    program = file.program(options, given)
    return to_onnx(program.net, program.values(Stream(file.seed(given.seed)), []), backward)
