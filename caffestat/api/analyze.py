"""`analyze`: what a net does to its signal, as a Report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import Finding
from caffestat.options import DEFAULT_SEED, NetOptions, RunOptions, ValueOptions

if TYPE_CHECKING:
    import numpy as np

    from caffestat.net import Measurement, Net
    from caffestat.net.prediction import Prediction
    from caffestat.program import NetFile
    from caffestat.report import Report

__all__ = ["analyze", "analyze_file"]

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
) -> Report:
    """Return what a net or solver prototxt will do to its signal: shapes, fans, fillers, and mean |x| of every blob.

    An .onnx model gets the same: a row per node, its values as blobs. Of the options, those about Caffe's phases,
    fillers and data do not apply to it.

    path:    the file, "-" for the standard input
    static:  do not run the net; measured values are then None
    predict: add what theory expects beside what is measured, and the gain of every layer with weights
    detail:  add histograms of values and params, f and f' of the activations, the source's text and what `check` finds
    phase, level, stages, shapes, batch, dialect, data: see `caffestat.options.NetOptions`
    seed, weights, assume_filler: see `caffestat.options.ValueOptions`
    device, inputs, inputs_hold, loss, forward_only: see `caffestat.options.RunOptions`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.program import is_onnx, open_file

    net = NetOptions(phase, level, stages, shapes or {}, batch, data, dialect)
    values = ValueOptions(seed, weights, assume_filler)
    run = RunOptions(device, inputs or {}, inputs_hold, loss, forward_only)
    if is_onnx(str(path)):
        return _analyze_onnx(str(path), net, values, run, static, predict, detail)
    return analyze_file(open_file(str(path)), net, values, run, static, predict, detail)


def analyze_file(
    file: NetFile,
    options: NetOptions,
    values: ValueOptions,
    run: RunOptions,
    static: bool = False,
    predict: bool = False,
    detail: bool = False,
) -> Report:
    """Return what `analyze` does, of an opened prototxt."""
    from caffestat import report
    from caffestat.program.opening import refuse_loss

    refuse_loss(run)
    net, seed = file.build(options), file.seed(values.seed)
    unfilled = [] if values.weights or values.assume_filler else _unfilled(net)
    net.findings = (*file.findings, *net.findings, *unfilled)
    notes: list[str] = []
    measured = None if static else _measure(net, seed, values, run, SAMPLES if detail else 0, notes)
    result = report.build(
        net, measured, source=file.source.name, seed=seed, assume_filler=values.assume_filler, notes=notes
    )
    if predict:
        from caffestat.report.predicted import with_prediction

        result = with_prediction(result, net, _predict(net, seed, values))
    if detail:
        from caffestat.report.detail import with_detail

        result = with_detail(result, file, options, values)
    return result


def _measure(net: Net, seed: int, values: ValueOptions, run: RunOptions, samples: int, notes: list[str]) -> Measurement:
    from caffestat.net import TEST, measure

    return measure(
        net,
        seed=seed,
        device=run.device,
        weights=values.weights,
        inputs=run.inputs,
        inputs_hold=run.inputs_hold,
        assume_filler=values.assume_filler,
        forward_only=run.forward_only or net.phase == TEST,  # Caffe runs no backward pass there
        samples=samples,
        notes=notes,
    )


def _predict(net: Net, seed: int, options: ValueOptions) -> Prediction:
    """Predict from the fillers or, where there are trained weights, from the values."""
    from caffestat import net as nets
    from caffestat.fillers import Stream
    from caffestat.net.prediction import predict

    if not options.weights:
        return predict(net, assume_filler=options.assume_filler)
    values = nets.draw_params(net, Stream(seed), options.assume_filler)
    nets.copy_weights(net, values, options.weights)
    return predict(net, values=values)


def _unfilled(net: Net) -> list[Finding]:
    """Return one warning about all weights that nothing fills: a file made for use after training has no fillers."""
    from caffestat.net import unfilled

    nodes = unfilled(net)
    if not nodes:
        return []
    names = ", ".join(node.name for node in nodes[:_NAMED]) + (", …" if len(nodes) > _NAMED else "")
    layers = "1 layer has" if len(nodes) == 1 else f"{len(nodes)} layers have"
    message = (
        f"{layers} weights without a weight_filler ({names}): Caffe starts them all at zero, and no signal passes; "
        "use --assume-filler xavier, or --weights FILE for trained ones"
    )
    return [Finding(nodes[0].place, message)]


def _analyze_onnx(
    path: str, options: NetOptions, values: ValueOptions, run: RunOptions, static: bool, predict: bool, detail: bool
) -> Report:
    from caffestat import onnx_models
    from caffestat.graph.load import load
    from caffestat.program.opening import refuse_caffe_options

    refuse_caffe_options(options, values)
    seed = DEFAULT_SEED if values.seed is None else values.seed
    model = load(path, options.shapes, options.batch, as_float32=True, given=run.inputs)
    notes: list[str] = []
    inputs = model.unpinned(run.inputs)
    told = {"inputs": inputs, "loss": run.loss or "noise", "forward_only": run.forward_only, "notes": notes}
    predicted = onnx_models.predict(model, **told) if predict else None  # type: ignore[arg-type]
    measured = None if static else onnx_models.measure(model, seed=seed, device=run.device, **told)  # type: ignore[arg-type]
    return onnx_models.build(model, measured, predicted, source=path, seed=seed, notes=list(dict.fromkeys(notes)))
