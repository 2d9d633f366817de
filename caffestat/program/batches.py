"""The batch with which an ONNX model runs, where another one is why it does not: some hold the one that was traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import NetOptions

if TYPE_CHECKING:
    import numpy as np
    import onnx

    Source = str | Path | onnx.ModelProto

__all__ = ["saying_batch"]

_TRIED = (1, 2, 4, 8, 16, 32, 64, 128, 3, 10)


@contextmanager
def saying_batch(
    source: Source,
    net: NetOptions,
    read_given: Callable[[], Mapping[str, np.ndarray]],
    runs: bool = True,
    cuts: bool = False,
) -> Iterator[None]:
    """Let an error about a model say with which batch it runs, where it does so with another one only.

    read_given: returns arrays of inputs by name; only an error reads them
    runs:  whether the model may be run; else it is enough that it loads
    cuts:  whether arrays are cut into batches of the size that --batch says
    """
    try:
        yield
    except InputError as error:
        given, proto = read_given(), _proto(source)
        inputs = _inputs(proto)
        batch = _other_batch(source, proto, net, given, runs)
        if batch is None:
            raise
        how = f"--batch {batch}"
        if said := {name: shape for name, shape in net.shapes.items() if inputs.get(name)}:
            how = " ".join(f"--shape {name}={','.join(map(str, (batch, *shape[1:])))}" for name, shape in said.items())
        elif not cuts and any(inputs.get(name) for name in given):
            how = "give it arrays of that size"
        raise InputError(f"{error}; it {'runs' if runs else 'loads'} with a batch of {batch}: {how}") from error


def _proto(source: Source) -> onnx.ModelProto:
    """Return the model of a file, an empty one where the file is none."""
    import onnx

    from caffestat.graph.external import read_model

    if isinstance(source, onnx.ModelProto):
        return source
    try:
        return read_model(source)
    except InputError:
        return onnx.ModelProto()


def _inputs(proto: onnx.ModelProto) -> dict[str, bool]:
    """Return the inputs by name, and whether each leaves its first axis open."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    firsts = {v.name: v.type.tensor_type.shape.dim[:1] for v in proto.graph.input if v.name not in stored}
    return {name: any(dim.dim_value <= 0 for dim in dims) for name, dims in firsts.items()}


def _other_batch(
    source: Source, proto: onnx.ModelProto, net: NetOptions, given: Mapping[str, np.ndarray], runs: bool
) -> int | None:
    """Return another batch with which a model works; None where none is the cause."""
    from caffestat.graph.check import as_damage, check_model
    from caffestat.graph.load import load
    from caffestat.graph.sizes import Trial, fixed_shapes

    from .from_onnx import can_run

    inputs = _inputs(proto)
    shapes = {**{name: array.shape for name, array in given.items() if inputs.get(name)}, **net.shapes}
    others = {name: array for name, array in given.items() if inputs.get(name) is False}

    def works(batch: int | None) -> bool:
        sized = {name: (batch or shape[0], *shape[1:]) if inputs.get(name) else shape for name, shape in shapes.items()}
        try:
            whole = fixed_shapes(proto, sized, batch or net.batch, net.dims, others, lambda shapes: Trial.FAILS)
            model = load(source, whole, as_float32=True, given=others)
        except InputError:
            return False
        return not runs or can_run(model, others)

    if not any(inputs.values()):
        return None
    try:
        with as_damage():
            check_model(proto)
    except InputError:
        return None
    return None if works(None) else next(filter(works, _TRIED), None)
