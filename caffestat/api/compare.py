"""`compare`: two logs or runs number by number, two models value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import DEFAULT_SEED, NetOptions, RunOptions, ValueOptions, number

from .debug import debug

if TYPE_CHECKING:
    import numpy as np

    from caffestat.analysis.values import ValueDifference
    from caffestat.graph.load import Model
    from caffestat.logs import Difference, Pass

__all__ = ["NETS", "compare", "compare_values", "passes_of", "passes_of_both"]

NETS = (".prototxt", ".pbtxt")


def compare(a: str | Path, b: str | Path, *, rtol: float = 1e-3, atol: float = 1e-9) -> Iterator[Difference]:
    """Yield the numbers for which |a - b| > atol + rtol·max(|a|, |b|), or debug_info numbers that one side lacks.

    Losses and outputs are compared where both sides say them.

    a, b: training logs, "-" for the standard input; or nets and solvers (.prototxt), whose log
          is that of `debug`

    Raises a CaffestatError when a file cannot be used.
    """
    from caffestat import logs

    rtol, atol = number("rtol", rtol), number("atol", atol)
    return logs.compare(*passes_of_both(str(a), str(b)), rtol, atol)


def passes_of_both(a: str, b: str) -> tuple[Iterator[Pass], Iterator[Pass]]:
    """Return `passes_of` each. Raises InputError when both are the standard input."""
    if a == b == "-":
        raise InputError("-: the standard input is one log; name a file for the other one")
    return passes_of(a), passes_of(b)


def passes_of(path: str) -> Iterator[Pass]:
    """Yield the passes of a log or, of a net or solver, of the iteration that `debug` runs."""
    from caffestat import logs

    if path.endswith(NETS):
        return logs.read_passes(line.encode() for line in debug(path))
    return logs.read_log(path)


def compare_values(
    a: str | Path,
    b: str | Path,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-6,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    seed: int | None = None,
    weights: Sequence[str] = (),
    device: str = "auto",
    dims: Mapping[str, int] | None = None,
    compute: str = "float32",
) -> list[ValueDifference]:
    """Run two models on the same inputs, and return how far each value of b is from that of a, in a's order.

    A value parts (`ValueDifference.parts`) where max |a - b| > atol + rtol·max |a|. Each model computes in its own
    types; data that is not given is drawn. See `caffestat.analysis.values` for how values are matched.

    a, b:    .onnx models, or nets (.prototxt), which are taken in the test phase with the given weights
    shapes, batch, dims, inputs: of the inputs of a; sizes hold for b too where it has such inputs
    weights, seed: of nets; see `caffestat.options.ValueOptions`
    device:  "auto", "cpu", "cuda" or "cuda:N"
    compute: "float16" computes b in float16, see `caffestat.options.RunOptions`; a is computed in its own types

    Raises a CaffestatError when a file cannot be used, or the models do not take the same data.
    """
    from caffestat.analysis.values import compare_models
    from caffestat.engine import choose_device
    from caffestat.program.batches import saying_batch

    rtol, atol = number("rtol", rtol), number("atol", atol)
    run = RunOptions(device, inputs or {}, compute=compute)
    chosen, _ = choose_device(run.device)
    net = NetOptions("test", shapes=shapes or {}, batch=batch, data="synthetic", dims=dims or {})
    values = ValueOptions(seed, weights)
    drawn = DEFAULT_SEED if seed is None else seed
    with saying_batch(a, net, lambda: run.inputs):
        first, second = (_model(str(path), net, values, run.inputs) for path in (a, b))
        return compare_models(first, second, run.inputs, rtol, atol, drawn, chosen, run.compute)


def _model(path: str, net: NetOptions, values: ValueOptions, given: Mapping[str, np.ndarray]) -> Model:
    from caffestat.graph.load import load
    from caffestat.program import is_onnx
    from caffestat.program.from_onnx import can_run

    from .convert import converted

    if not is_onnx(path):
        return load(converted(path, net, values, False))
    return load(path, net.shapes, net.batch, given=given, dims=net.dims, runs=partial(can_run, inputs=given))
