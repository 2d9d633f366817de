"""`analyze`: what a net does to its signal, as a Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import CaffestatError, Finding, InputError, NetError, RefusedError
from caffestat.options import COMPUTE, DEFAULT_SEED, NetOptions, RunOptions, ValueOptions

if TYPE_CHECKING:
    import numpy as np

    from caffestat.net import Net
    from caffestat.program import NetFile, Program
    from caffestat.report import Report

__all__ = ["analyze", "analyze_file", "analyze_model"]

SAMPLES = 4096  # elements of each value that a detailed report's histograms show
_NAMED = 5  # layers that a warning names one by one


def analyze(
    path: str | Path,
    *,
    static: bool = False,
    predict: bool = False,
    detail: bool = False,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    seed: int | None = None,
    forward_only: bool = False,
    device: str = "auto",
    weights: Sequence[str] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dialect: str | None = None,
    assume_filler: str | None = None,
    data: str = "auto",
    inputs_hold: str = "noise",
    loss: str | None = None,
    stats: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    compute: str = "float32",
    straight_through: bool = False,
) -> Report:
    """Return what a net or solver prototxt will do to its signal: shapes, fans, fillers, and mean |x| of every blob.

    An .onnx model gets the same report, with a row per node and its values as blobs. Options about Caffe's phases,
    fillers and data do not apply to it.

    path:    the file, "-" for the standard input
    static:  do not run the net; measured values are then None
    predict: add predicted values beside measured ones, and the gain of every layer with weights
    detail:  add histograms of values and params, f and f' of the activations, the source's text and what `check` finds
    phase, level, stages, shapes, batch, dialect, data, dims: see `caffestat.options.NetOptions`
    seed, weights, assume_filler: see `caffestat.options.ValueOptions`
    device, inputs, inputs_hold, loss, forward_only, stats, compute, straight_through: see
             `caffestat.options.RunOptions`

    Raises a CaffestatError when the file, the net or an option cannot be used. For a net that Caffe refuses it is a
    RefusedError with the `report` of the layers that do not depend on the faults.
    """
    from caffestat.program import is_onnx, open_file

    net = NetOptions(phase, level, stages, shapes or {}, batch, data, dialect, dims or {})
    values = ValueOptions(seed, weights, assume_filler)
    run = RunOptions(device, inputs or {}, inputs_hold, loss, forward_only, stats, compute, straight_through)
    if static and (run.stats or run.compute != COMPUTE[0]):
        raise InputError(
            "static: the net is not run, so stats and compute have no effect; remove static, or stats and compute"
        )
    if run.straight_through and (static or predict):
        raise InputError("--ste (straight_through) applies to measured gradients only: remove --static and --predict")
    if is_onnx(str(path)):
        return analyze_model(str(path), net, values, run, static, predict, detail)
    return analyze_file(open_file(str(path)), net, values, run, static, predict, detail)


def analyze_file(
    file: NetFile,
    net: NetOptions,
    values: ValueOptions,
    run: RunOptions,
    static: bool = False,
    predict: bool = False,
    detail: bool = False,
) -> Report:
    """Return what `analyze` does, of an opened prototxt; raise what it raises."""
    from caffestat.net.backprop import stopping
    from caffestat.program.opening import refuse_model_options

    refuse_model_options(net, run)
    faults: list[NetError] = []
    program = file.assumed_program(net, values, faults)
    if not (program.is_trained or values.assume_filler):
        program.findings = (*program.findings, *_unfilled(program.net), *_unusable(program.net))
    # Caffe runs no backward pass in the test phase
    run = replace(run, forward_only=run.forward_only or program.phase == "TEST")
    if not (static or run.forward_only):
        faults.extend(stopping(program.net))
    try:
        report = _analyze(program, file.source.name, file.seed(values.seed), run, static, predict, detail)
    except CaffestatError as error:
        if isinstance(error, NetError):  # found by running: a filler that cannot fill, regions that are in no image
            faults.append(error)
        if not faults:
            raise
        report = _analyze(program, file.source.name, file.seed(values.seed), run, True, False, False)
        if not any(fault.message in str(error) for fault in faults):
            report = replace(report, notes=(*report.notes, f"the net was not run: {error}"))
    if detail:
        from caffestat.report.detail import with_detail

        report = with_detail(report, file, net, values)
    if faults:
        raise RefusedError(faults, replace(report, errors=tuple(Finding(e.place, e.message) for e in faults)))
    return report


def analyze_model(
    path: str, net: NetOptions, values: ValueOptions, run: RunOptions, static: bool, predict: bool, detail: bool = False
) -> Report:
    """Return what `analyze` does, of an ONNX model."""
    from caffestat.program.batches import saying_batch
    from caffestat.program.opening import open_model

    backward = not run.forward_only and (predict or not static)
    seed = DEFAULT_SEED if values.seed is None else values.seed
    with saying_batch(path, net, lambda: run.inputs, runs=not static):
        program, run = open_model(path, net, values, run, backward, static)
        return _analyze(program, path, seed, run, static, predict, detail)


def _analyze(
    program: Program, source: str, seed: int, run: RunOptions, static: bool, predict: bool, detail: bool
) -> Report:
    from caffestat import analysis, report
    from caffestat.fillers import Stream

    notes: list[str] = []
    measured = None
    if static and program.is_caffe and program.is_trained:  # the weights must fit, though nothing runs
        program.values(Stream(seed), notes)
    if not static:
        program, measured = analysis.measure(program, seed, run, notes, SAMPLES if detail else 0)
    predicted = analysis.predict(program, **_given(program, seed, run)) if predict else None
    notes = [*(predicted.notes if predicted else ()), *notes]
    return report.build(program, measured, predicted, source=source, seed=seed, notes=notes)


def _given(program: Program, seed: int, run: RunOptions) -> dict[str, Any]:
    """Return what is known before the prediction: arrays for data and, where there are trained weights, the params."""
    return {"values": program.trained_values(seed), "inputs": run.inputs}


def _unfilled(net: Net) -> list[Finding]:
    """Return one warning about all weights that nothing fills: a file made for use after training has no fillers."""
    from caffestat.net import unfilled

    nodes = unfilled(net)
    if not nodes:
        return []
    names = ", ".join(node.name for node in nodes[:_NAMED]) + (", …" if len(nodes) > _NAMED else "")
    layers = "1 layer has" if len(nodes) == 1 else f"{len(nodes)} layers have"
    message = (
        f"{layers} weights without a weight_filler ({names}): Caffe initializes them to zero, so no signal passes; "
        "use --assume-filler xavier, or --weights FILE for trained weights"
    )
    return [Finding(nodes[0].place, message)]


def _unusable(net: Net) -> list[Finding]:
    """Return a warning for each filler that gives no numbers; a run stops at the first of them."""
    from caffestat.fillers import problem

    found = [(entry, problem(entry.param.filler, entry.param.shape)) for entry in net.params]
    return [
        Finding(net.nodes[entry.node].place, f"layer {net.nodes[entry.node].name!r}: its {entry.param.role}: {why}")
        for entry, why in found
        if why
    ]
