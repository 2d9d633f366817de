"""`fill`: the values that a net's params start with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.options import NetOptions, ValueOptions

if TYPE_CHECKING:
    from caffestat.rewriting import Filled
    from caffestat.rewriting.filled_model import FilledModel

__all__ = ["fill"]


def fill(
    path: str | Path,
    output: str | Path | None = None,
    *,
    seed: int | None = None,
    filler: str | None = None,
    bias: str | None = None,
    variance_norm: str | None = None,
    layers: Sequence[str] = (),
    types: Sequence[str] = (),
    excludes: Sequence[str] = (),
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dialect: str | None = None,
    assume_filler: str | None = None,
) -> Filled | FilledModel:
    """Return the initial values of a net's params, bit for bit those of Caffe, and write them if `output` is given.

    path:          a net or solver prototxt, "-" for the standard input, or an .onnx model whose weights are to be drawn
    output:        a .caffemodel, .npz, .h5 or .onnx file to write; of an .onnx model .onnx or .npz
    filler, bias:  policies that replace the file's fillers of weights and biases, as in `rewrite`; an .onnx model has
                   none of its own
    variance_norm: "fan_in", "fan_out" or "average": the n that divides the variance of such policies; default: fan_in
    layers, types, excludes: the wanted layers, by globs over their names and by types; default: all. The values are
                   drawn for the whole net, so they do not depend on the selection; an .onnx holds the whole net
    phase, level, stages, shapes, batch, dialect: see `caffestat.options.NetOptions`
    seed, assume_filler: see `caffestat.options.ValueOptions`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.files import refuse_inputs, refuse_unwritable
    from caffestat.options import DEFAULT_SEED
    from caffestat.program import open_file
    from caffestat.program.opening import is_onnx, refuse_caffe_options
    from caffestat.rewriting import change_of, fill_net

    if output is not None:
        refuse_inputs(output, [path])
        refuse_unwritable(output)
    change = change_of(filler, bias, variance_norm, layers, types, excludes)
    options = NetOptions(phase, level, stages, shapes or {}, batch, dialect=dialect)
    values = ValueOptions(seed, assume_filler=assume_filler)
    filled: Filled | FilledModel
    if is_onnx(str(path)):
        from caffestat.rewriting.filled_model import fill_model

        refuse_caffe_options(options, values)
        filled = fill_model(str(path), change, DEFAULT_SEED if values.seed is None else values.seed, options)
    else:
        file = open_file(str(path))
        filled = fill_net(file.build(options), change, file.seed(values.seed), values.assume_filler)
    if output is not None:
        filled.save(output)
    return filled
