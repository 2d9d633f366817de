"""`train`: Caffe's training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from caffestat.errors import InputError
from caffestat.options import DEFAULT_SEED, NetOptions, RunOptions, ValueOptions, options_of, whole_number

if TYPE_CHECKING:
    from caffestat.training import Training
    from caffestat.training.events import Event

__all__ = ["train", "training_of"]


def train(path: str | Path, *, inputs_hold: str = "zeros", **options: Any) -> Iterator[Event]:
    """Train a solver's net as `caffe train` does, or an ONNX model, and yield its events.

    The events are those of `caffestat.training.events`: an `Iteration` has the number, the loss, the outputs and the
    rate; `EndTest`, `Saved` and the others come in between, in Caffe's order. Snapshots are written as the solver says.
    Nets are built, and the solver is refused, before the first event; closing the iterator ends the training.

    path:        a solver prototxt, "-" for the standard input, or an .onnx model
    snapshot:    a .solverstate to resume from
    stats:       interval in iterations of `Statistics`, the signals of each layer; 0 for none
    iterations:  number to run, instead of up to the solver's max_iter
    solver:      of an .onnx model, the solver prototxt; `loss` and `inputs` are then needed too
    freeze:      of an .onnx model, patterns of the names of initializers to freeze
    inputs_hold: what Input layers hold: "zeros", as under `caffe train`, or "noise"
    options:     `level`, `stages`, `shapes`, `batch`, `dialect`, `dims`, `data`, `seed`, `weights`, `assume_filler`,
                 `device` and `inputs` of `analyze`; `inputs` of an .onnx model hold all samples

    Raises SolverError (file:line) for a solver that Caffe refuses, and other CaffestatErrors when the file, its nets,
    its data or an option cannot be used.
    """
    return training_of(path, inputs_hold=inputs_hold, **options)[0].events()


def training_of(
    path: str | Path,
    *,
    snapshot: str | Path | None = None,
    iterations: int | None = None,
    stats: int = 0,
    solver: str | Path | None = None,
    freeze: Sequence[str] = (),
    requested: Callable[[], str] | None = None,
    **options: Any,
) -> tuple[Training, int]:
    """Return the training run of a solver, ready to start, and its random seed."""
    from caffestat.program import is_onnx

    net, values, run = options_of(**options)
    whole_number("iterations", iterations or 0, 0)
    whole_number("stats", stats, 0)
    if net.phase or run.forward_only:
        raise InputError(
            "phase and forward_only do not apply to training, which runs the solver's train and test nets; remove them"
        )
    how = _How(
        seed=DEFAULT_SEED if values.seed is None else values.seed,
        snapshot=None if snapshot is None else str(snapshot),
        iterations=iterations,
        stats=stats,
        requested=requested or (lambda: "none"),
    )
    if is_onnx(str(path)):
        return _of_model(str(path), solver, freeze, net, values, run, how)
    if solver is not None or freeze:
        raise InputError("--solver and --freeze are for .onnx models; for a Caffe net, pass the solver file itself")
    return _of_solver(str(path), net, values, run, how)


class _How(TypedDict):
    """How long a run goes on, and what it yields."""

    seed: int
    snapshot: str | None
    iterations: int | None
    stats: int
    requested: Callable[[], str]


def _of_solver(path: str, net: NetOptions, values: ValueOptions, run: RunOptions, how: _How) -> tuple[Training, int]:
    from caffestat.net.source import not_a_solver
    from caffestat.program import open_file
    from caffestat.program.opening import refuse_model_options
    from caffestat.training import Training

    refuse_model_options(net, run)
    file = open_file(path)
    if file.solver is None:
        raise not_a_solver(file.text)
    seed = how["seed"] = file.seed(values.seed)
    return Training(file.solver, net, values, run, **how), seed


def _of_model(
    path: str,
    solver: str | Path | None,
    freeze: Sequence[str],
    net: NetOptions,
    values: ValueOptions,
    run: RunOptions,
    how: _How,
) -> tuple[Training, int]:
    from caffestat.net.source import read_settings
    from caffestat.program.opening import refuse_caffe_options
    from caffestat.training.models import ModelTraining

    refuse_caffe_options(net, values)
    if solver is None:
        raise InputError(f"{path}: training an ONNX model needs a solver prototxt: --solver FILE")
    settings = read_settings(str(solver))
    return ModelTraining(path, settings, run, net, freeze, **how), how["seed"]
