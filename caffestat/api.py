"""The verbs that the command line and `import caffestat` share.

Importing this module imports neither numpy nor a runtime: each verb takes what it needs when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import Finding, InputError

if TYPE_CHECKING:
    import numpy as np

    from caffestat.lint import Checked, Fixed
    from caffestat.net import Net, NetSource, Solver, State
    from caffestat.net.prediction import Prediction
    from caffestat.report import Report
    from caffestat.rewriting import Filled, Outcome, Upgraded

__all__ = ["DEFAULT_SEED", "analyze", "check", "convert", "debug", "fill", "fix", "load_plugin", "rewrite", "upgrade"]

DEFAULT_SEED = 1701  # when neither the user nor a solver says one; fixed, so that a run can be repeated
_NAMED = 5  # layers that a warning names one by one


def analyze(
    path: str | Path,
    *,
    static: bool = False,
    predict: bool = False,
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
    assume_filler: str | None = None,
    data: str = "auto",
    inputs_hold: str = "noise",
    loss: str | None = None,
) -> Report:
    """Return what a net or solver prototxt will do to its signal: shapes, fans, fillers, and mean |x| of every blob.

    An .onnx model gets the same: a row per node, its values as blobs. Of the options, those that speak of Caffe's
    phases, fillers and data do not apply to it.

    path:          the file, "-" for the standard input
    static:        do not run the net; measured values are then None
    predict:       say what theory expects beside what is measured, and the gain of every layer with weights
    phase:         "train" or "test"; default: what the file says, else train
    level, stages: the state that include and exclude rules look at; stages join those of the file
    seed:          Caffe's random_seed; default: the solver's, else 1701
    forward_only:  no backward pass; Caffe never runs one in the test phase
    device:        "auto", "cpu" or "cuda"
    weights:       caffemodel files whose blobs replace the fillers' values, layers matched by name; later files win
    inputs:        arrays for data blobs by blob name, in the shape the net gives them
    shapes:        shapes of data blobs by blob name, outermost axis first (N, C, H, W)
    batch:         replaces the first axis of every data blob
    assume_filler: the filler type of weights that have none written, for example "xavier"
    data:          what data layers read: "auto" (the files they name, where these are at hand), "real" (those or an
                   error) or "synthetic" (N(0, 1) noise and labels drawn evenly)
    inputs_hold:   what Input layers hold: "noise" (N(0, 1)) or "zeros" (as under `caffe train`)
    loss:          of an .onnx model: "noise" (the default: the gradient of every output is N(0, 1)), "ones",
                   "cross-entropy" (with random labels) or the name of a value that is summed

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    path = str(path)
    if is_onnx(path):
        _refuse_caffe_options(phase, level, *stages, *weights, assume_filler)
        told = {"inputs": inputs, "loss": loss or "noise", "forward_only": forward_only}
        run = None if static else {"device": device, **told}
        expect = told if predict else None
        return _analyze_onnx(path, _shapes(shapes), batch, DEFAULT_SEED if seed is None else seed, run, expect)
    _refuse_loss(loss)
    from caffestat import net as nets
    from caffestat import report

    source, solver = _load(path)
    state = _state(source, solver, phase, level, stages)
    net = nets.build(source, state, _shapes(shapes), batch, data)
    unfilled = [] if weights or assume_filler else _unfilled(net)
    net.findings = (*(solver.findings if solver else ()), *net.findings, *unfilled)
    seed = _seed(solver) if seed is None else seed
    notes: list[str] = []
    measured = (
        None
        if static
        else nets.measure(
            net,
            seed=seed,
            device=device,
            weights=weights,
            inputs=inputs or {},
            inputs_hold=inputs_hold,
            assume_filler=assume_filler,
            forward_only=forward_only or net.phase == nets.TEST,
            notes=notes,
        )
    )
    result = report.build(net, measured, source=source.name, seed=seed, assume_filler=assume_filler, notes=notes)
    if not predict:
        return result
    from caffestat.report.predicted import with_prediction

    return with_prediction(result, net, _predict(net, seed, weights, assume_filler))


def _predict(net: Net, seed: int, weights: Sequence[str], assume_filler: str | None) -> Prediction:
    """Predict from the fillers or, where there are trained weights, from the values."""
    from caffestat import net as nets
    from caffestat.fillers import Stream
    from caffestat.net.prediction import predict

    if not weights:
        return predict(net, assume_filler=assume_filler)
    values = nets.draw_params(net, Stream(seed), assume_filler)
    nets.copy_weights(net, values, weights)
    return predict(net, values=values)


@dataclass(frozen=True)
class DebugLog:
    """The lines of one iteration, which come as the nets run, and what was strange about the file and its nets."""

    lines: Iterator[str]
    findings: Sequence[Finding]
    notes: Sequence[str]


def debug(path: str | Path, *, glog: bool = False, inputs_hold: str = "zeros", **options: Any) -> Iterator[str]:
    """Yield the lines that Caffe's debug_info prints in one iteration, in its words and its order, without line ends.

    A solver's first iteration is that of `caffe train`: its test nets first when they are due, every line about losses
    and rates included. With `phase` or `forward_only` only the one net is run.

    glog:        put a prefix as glog writes it before each line
    inputs_hold: what Input layers hold: "zeros", as under `caffe train`, or "noise"
    options:     those of `analyze`, except `static`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    return debug_log(path, glog=glog, inputs_hold=inputs_hold, **options).lines


def debug_log(
    path: str | Path,
    *,
    glog: bool = False,
    inputs_hold: str = "zeros",
    phase: str | None = None,
    forward_only: bool = False,
    **options: Any,
) -> DebugLog:
    """Return the lines of `debug` together with the findings and notes about them."""
    from caffestat import report

    path = str(path)
    solver = None if is_onnx(path) or phase or forward_only else _load(path)[1]
    if solver is None:
        result = analyze(path, inputs_hold=inputs_hold, phase=phase, forward_only=forward_only, **options)
        return DebugLog(report.debug_lines(result, glog), result.findings, result.notes)
    return _solver_log(solver, glog, inputs_hold=inputs_hold, **options)


def _solver_log(
    solver: Solver,
    glog: bool,
    *,
    seed: int | None = None,
    level: int | None = None,
    loss: str | None = None,
    **options: Any,
) -> DebugLog:
    """Return the first iteration of a solver; `options` are those of `net.first_iteration`."""
    from caffestat import net as nets
    from caffestat import report

    _refuse_loss(loss)
    seed = _seed(solver) if seed is None else seed
    findings: list[Finding] = []
    notes: list[str] = []
    shapes = _shapes(options.pop("shapes", None))
    events = nets.first_iteration(
        solver, seed=seed, level=level or 0, shapes=shapes, findings=findings, notes=notes, **options
    )
    return DebugLog(report.solver_lines(solver, events, seed, glog), findings, notes)


def _refuse_loss(loss: str | None) -> None:
    if loss is not None:
        raise InputError("--loss is for .onnx models; a Caffe net says its losses itself (loss_weight)")


def check(
    paths: str | Path | Sequence[str | Path],
    *,
    run: bool = False,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    severity: str | None = None,
    baseline: str | None = None,
    limits: Mapping[str, float | None] | None = None,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    weights: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    seed: int | None = None,
) -> Checked:
    """Return what is wrong with nets and solvers, from their texts, from what is predicted of them and from runs.

    paths:    prototxt files, "-" for the standard input, or folders in which all of them are checked
    run:      run one iteration of each as well
    select, ignore: codes of checks, beginnings of codes or names; default: all
    severity: the least that is reported: "info", "warning" or "error"
    baseline: a file of findings that are known and left out
    limits:   see `caffestat.lint.Limits`; None for the default
    phase, level, stages, weights, shapes, batch, seed: as in `analyze`

    What is not given comes from the project's caffestat.cfg or setup.cfg. A file that cannot be read is told of in the
    result. Raises a CaffestatError when an option cannot be used.
    """
    from caffestat import lint

    config = lint.find_config(Path.cwd())
    given = {name: value for name, value in (limits or {}).items() if value is not None}
    job = lint.Job(
        lint.selected(_commas(select) or config.select, _commas(ignore) or config.ignore),
        replace(config.limits, **given),
        run,
        severity or config.severity or "info",
        None if phase is None else ("train", "test").index(phase),
        level,
        stages,
        weights,
        _shapes(shapes),
        batch,
        DEFAULT_SEED if seed is None else seed,
    )
    many = [paths] if isinstance(paths, (str, Path)) else list(paths)
    checked = lint.check_files(map(str, many), job)
    known = baseline or config.baseline
    if known is None:
        return checked
    return replace(checked, issues=tuple(lint.read_baseline(known).without_known(checked.issues)))


def fix(
    paths: str | Path | Sequence[str | Path],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    dry_run: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> list[Fixed]:
    """Apply the fixes of what `check` finds, where no person has to decide, and return what was done to each file.

    paths:          prototxt files, or folders in which all of them are fixed, in place and in one step each
    select, ignore: as in `check`, the project's settings included
    dry_run:        write nothing
    shapes, batch:  as in `analyze`

    Raises a CaffestatError when a file cannot be read or written, or an option cannot be used.
    """
    from caffestat import lint

    config = lint.find_config(Path.cwd())
    chosen = lint.selected(_commas(select) or config.select, _commas(ignore) or config.ignore)
    job = lint.Job(chosen, config.limits, shapes=_shapes(shapes), batch=batch)
    many = [paths] if isinstance(paths, (str, Path)) else list(paths)
    done = []
    for path in lint.find_nets(map(str, many)):
        done.append(lint.fix_file(path, job))
        if not dry_run:
            done[-1].write()
    return done


def _commas(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for text in words for word in text.replace(",", " ").split())


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
    assume_filler: str | None = None,
) -> None:
    """Write a Caffe net as an ONNX model; see `caffestat.net.export` for its inputs, outputs and names.

    path:     a net or solver prototxt, "-" for the standard input; or, with `backward`, an .onnx model, which gets the
              gradients of its inputs and initializers (`caffestat.autodiff.gradient`)
    output:   the .onnx file; what makes it larger than 2 GiB goes to a file beside it
    backward: compute gradients too
    seed, weights, assume_filler: what the params hold: the fillers' values, or those of caffemodel files
    phase, level, stages, shapes, batch: as in `analyze`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.files import refuse_inputs
    from caffestat.graph.external import save

    path = str(path)
    if not is_onnx(str(output)):
        raise InputError(f"{output}: expected a name that ends in .onnx")
    refuse_inputs(output, [path])
    if is_onnx(path):
        from caffestat.autodiff import gradient

        _refuse_caffe_options(phase, level, *stages, *weights, assume_filler)
        if not backward:
            raise InputError(f"{path}: is an ONNX model already; --backward would add its gradients")
        save(gradient(path, shapes=shapes, batch=batch), output)
        return
    from caffestat import net as nets
    from caffestat.fillers import Stream
    from caffestat.net.export import to_onnx

    source, solver = _load(path)
    net = nets.build(source, _state(source, solver, phase, level, stages), _shapes(shapes), batch, "synthetic")
    values = nets.draw_params(net, Stream(_seed(solver) if seed is None else seed), assume_filler)
    nets.copy_weights(net, values, weights)
    save(to_onnx(net, values, backward), output)


def is_onnx(path: str) -> bool:
    """Tell by its name whether a file is an ONNX model."""
    return path.endswith(".onnx")


def _refuse_caffe_options(*values: Any) -> None:
    for value in values:
        if value is not None:
            raise InputError(f"{value!r}: phases, weights files and fillers are Caffe's; an .onnx model has none")


def _analyze_onnx(
    path: str,
    shapes: Mapping[str, Sequence[int]],
    batch: int | None,
    seed: int,
    run: dict[str, Any] | None,
    expect: dict[str, Any] | None,
) -> Report:
    """Return the Report of an ONNX model; `run` and `expect` hold what `measure` and `predict` are told, None for
    neither.
    """
    from caffestat.graph.load import load
    from caffestat.onnx_models import build, measure, predict

    model = load(path, shapes, batch, as_float32=True)
    notes: list[str] = []
    predicted = None if expect is None else predict(model, notes=notes, **expect)
    measured = None if run is None else measure(model, seed=seed, notes=notes, **run)
    return build(model, measured, predicted, source=path, seed=seed, notes=list(dict.fromkeys(notes)))


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
    assume_filler: str | None = None,
) -> Filled:
    """Return the values that a net's params start with, bit for bit those of Caffe, and write them when asked to.

    path:          a net or solver prototxt, "-" for the standard input
    output:        a .caffemodel, .npz, .h5 or .onnx file to write
    seed:          Caffe's random_seed; default: the solver's, else 1701
    filler, bias:  policies that replace the file's fillers of weights and biases, as in `rewrite`
    layers, types, excludes: which layers are wanted, by globs over their names and by types; default: all. The values
                   are drawn for the whole net, so they are the same whatever is wanted; an .onnx holds the whole net
    phase, level, stages, shapes, batch, assume_filler: as in `analyze`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat import net as nets
    from caffestat.files import refuse_inputs
    from caffestat.rewriting import change_of, fill_net

    refuse_inputs(output, [path])
    change = change_of(filler, bias, variance_norm, layers, types, excludes)
    source, solver = _load(str(path))
    state = _state(source, solver, phase, level, stages)
    net = nets.build(source, state, _shapes(shapes), batch)
    filled = fill_net(net, change, _seed(solver) if seed is None else seed, assume_filler)
    if output is not None:
        filled.save(output)
    return filled


def rewrite(
    paths: str | Path | Sequence[str | Path],
    *,
    filler: str | None = None,
    bias: str | None = None,
    variance_norm: str | None = None,
    layers: Sequence[str] = (),
    types: Sequence[str] = (),
    excludes: Sequence[str] = (),
    only_missing: bool = False,
    recursive: bool = False,
    output: str | Path | None = None,
    backup: bool = False,
    dry_run: bool = False,
    net: str | None = None,
    seed: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    watch: Callable[[Outcome, int], None] | None = None,
) -> list[Outcome]:
    """Change the fillers of prototxt files, or the weights of .caffemodel and .onnx models, and nothing else in them.

    paths:         files, or with `recursive` folders of prototxt files
    filler, bias:  policies for weights and for biases: "xavier", "gaussian:std=0.01", "auto", "explicit:msra", …
    variance_norm: "fan_in", "fan_out" or "average", for xavier and msra
    layers, types, excludes: which layers, by globs over their names and by types; frozen and recurrent layers and
                   bilinear upsampling are left alone unless `layers` or `types` name them
    only_missing:  add fillers where none is written, and replace none
    output:        a file, or for several files a folder, to write to; default: in place
    backup:        keep what is replaced as FILE.bak
    dry_run:       write nothing
    net, seed:     the net of .caffemodel files (default: what they hold themselves), and Caffe's random_seed for models
    shapes, batch: as in `analyze`, for policies that need fans
    watch:         is called with each file's outcome, and how many files there are

    Each file is replaced in one step. One that cannot be rewritten stays as it is, which its outcome says.
    Raises a CaffestatError when an option cannot be used.
    """
    from caffestat.rewriting import Job, change_of, find_files, rewrite_file, targets

    if filler is None and bias is None:
        raise InputError("say what to fill with: a policy for the weights, for the biases, or both")
    change = change_of(filler, bias, variance_norm, layers, types, excludes, only_missing)
    source = None if net is None else _load(net)[0]
    job = Job(change, DEFAULT_SEED if seed is None else seed, source, _shapes(shapes), batch, backup, dry_run)
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = find_files(given, recursive)
    to = None if output is None else Path(output)
    is_folder = to is not None and (to.is_dir() or str(output).endswith(("/", os.sep)) or _is_several(given))
    outcomes = []
    for (path, _), target in zip(files, targets(files, to, is_folder), strict=True):
        outcomes.append(rewrite_file(path, target, job))
        if watch:
            watch(outcomes[-1], len(files))
    return outcomes


def load_plugin(path: str | Path) -> None:
    """Run a Python file whose `@layer` classes are layer types of its own; docs/plugins.md shows one.

    Raises InputError, with the line that fails, when it cannot be run.
    """
    from caffestat.layers import load_plugin as load

    load(str(path))


def upgrade(path: str | Path, output: str | Path | None = None) -> Upgraded:
    """Return a net or solver prototxt in the current format: old layers, inputs and solver types are written anew.

    path:   the file, "-" for the standard input
    output: a file to write to in one step, which may be the same; one that is current already is not replaced

    Raises a CaffestatError when the file is broken, or cannot be read or written.
    """
    from caffestat.files import Version, replace_file
    from caffestat.net.source import read_bytes
    from caffestat.rewriting import upgrade_text

    path = str(path)
    is_same = output is not None and os.path.realpath(output) == os.path.realpath(path)
    since = Version.of(path) if is_same else None
    data = read_bytes(path)
    upgraded = upgrade_text(data, "<stdin>" if path == "-" else path)
    if output is not None and (upgraded.data != data or not is_same):
        replace_file(output, upgraded.data, since)
    return upgraded


def _is_several(paths: Sequence[str | Path]) -> bool:
    return len(paths) != 1 or Path(paths[0]).is_dir()


def _shapes(shapes: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in (shapes or {}).items()}


def _load(path: str) -> tuple[NetSource, Solver | None]:
    from caffestat.net import Solver, load

    loaded = load(path)
    return (loaded.net, loaded) if isinstance(loaded, Solver) else (loaded, None)


def _state(
    source: NetSource, solver: Solver | None, phase_name: str | None, level: int | None, stages: Iterable[str]
) -> State:
    """Return the state to build in: the net's own, joined by the solver's for that phase, then by the options."""
    from caffestat.net import TEST, TRAIN, state_of

    phases = {None: None, "train": TRAIN, "test": TEST}
    if phase_name not in phases:
        raise InputError(f"phase is 'train' or 'test', found {phase_name!r}")
    phase = phases[phase_name]
    if solver is None:
        return state_of(source, phase, level, stages)
    if phase != TEST:
        # `caffe train` puts its own --level, 0 by default, in the place of the one that the solver says
        return state_of(source, TRAIN, level or 0, (*solver.message.train_state.stage, *stages))
    for state in solver.message.test_state[:1]:
        stages = (*state.stage, *stages)
        level = state.level if level is None and state.HasField("level") else level
    return state_of(source, TEST, level, stages)


def _seed(solver: Solver | None) -> int:
    # Caffe takes a negative random_seed for none
    return solver.message.random_seed if solver and solver.message.random_seed >= 0 else DEFAULT_SEED


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
