"""What `caffe train` logs: the lines of a training run, in Caffe's words and order. (caffe.cpp, solver.cpp)"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from caffestat.escape import visible
from caffestat.lazy import np
from caffestat.net import Solver
from caffestat.training import events as e

from .build import build
from .debug_info import ostream, prefix, render, signed

__all__ = ["TrainingLog", "first_iteration_lines"]

Line = tuple[str, str]  # where in Caffe's source it is logged, and the text


class TrainingLog:
    """Turns the events of a solver's run into log lines.

    seed:    the random seed that the values were drawn with
    glog:    put a prefix as glog writes it before each line
    display: iterations between two displayed ones, for the timing figures; default: the solver's
    """

    def __init__(self, solver: Solver, seed: int, glog: bool = False, display: int | None = None) -> None:
        self._solver = solver
        self._seed = seed
        self._glog = glog
        self._display = solver.message.display if display is None else display
        self._is_hdf5 = solver.message.snapshot_format == solver.message.HDF5

    def lines(self, event: e.Event) -> Iterator[str]:
        """Yield the lines of one event, without line ends."""
        if isinstance(event, e.Pass):
            report = build(event.program, event.measured, source=self._solver.name, seed=self._seed)
            yield from render(report, self._glog, event.inner_only)
            return
        for place, text in _LINES.get(type(event), _none)(self, event):
            yield prefix(place) + text if self._glog else text

    def loaded(self, event: e.WeightsLoaded) -> Iterator[Line]:
        yield "solver.cpp:72", f"Finetuning from {visible(event.path)}"
        yield from _ignored(event.ignored, "net.cpp:746")

    def resumed(self, event: e.Resumed) -> Iterator[Line]:
        yield "caffe.cpp:235", f"Resuming from {visible(event.path)}"
        yield from _ignored(event.ignored, "net.cpp:746")
        if not event.path.endswith(".h5"):
            yield "sgd_solver.cpp:336", "SGDSolver: restoring history"

    def started(self, event: e.Started) -> Iterator[Line]:
        yield "caffe.cpp:239", "Starting Optimization"
        yield "solver.cpp:289", f"Solving {visible(event.net)}"
        yield "solver.cpp:290", f"Learning Rate Policy: {event.policy}"

    def testing(self, event: e.BeginTest) -> Iterator[Line]:
        yield "solver.cpp:347", f"Iteration {event.iteration}, Testing net (#{event.number})"
        yield from _ignored(event.ignored, "net.cpp:678")

    def tested(self, event: e.EndTest) -> Iterator[Line]:
        if event.loss is not None:
            yield "solver.cpp:401", f"Test loss: {signed(event.loss)}"
        for number, output in enumerate(event.outputs):
            yield from self._classes(output)
            yield "solver.cpp:414", _output(number, output, "Test")

    def _classes(self, output: e.Output) -> Iterator[Line]:
        for label, precision in output.classes.items():
            if precision is None:
                yield "solver.cpp:524", f"Missing true_pos for label: {label}"
            elif self._solver.added.show_per_class_result:
                yield "solver.cpp:540", f"class{label}: {ostream(precision)}"

    def interrupted(self, event: e.StopTest) -> Iterator[Line]:
        yield "solver.cpp:396", "Test interrupted."

    def iteration(self, event: e.Iteration) -> Iterator[Line]:
        number = event.iteration
        if event.displayed:
            pace = f"{ostream(_pace(event))} iter/s, {ostream(event.seconds)}s/{self._display} iters"
            yield "solver.cpp:239", f"Iteration {number} ({pace}), loss = {signed(event.smoothed)}"
            for index, output in enumerate(event.outputs):
                yield "solver.cpp:258", _output(index, output, "Train")
        if event.step is not None:
            waits = self._solver.message.lr_policy == "plateau"
            place, kind = ("sgd_solver.cpp:76", "Plateau") if waits else ("sgd_solver.cpp:50", "MultiStep")
            yield place, f"{kind} Status: Iteration {number}, step = {event.step}"
        if event.least is not None:
            least = ostream(event.least)
            yield "sgd_solver.cpp:83", f"Plateau Status: Iteration {number}, current minimum_loss = {least}"
        if event.displayed:
            yield "sgd_solver.cpp:112", f"Iteration {number}, lr = {ostream(event.rate)}"
        if event.clip:
            norms = f"L2 norm {ostream(event.clip.norm)} > {ostream(event.clip.limit)}"
            scale = ostream(float(np.float32(event.clip.limit) / np.float32(event.clip.norm)))
            text = f"Gradient clipping: scaling down gradients ({norms}) by scale factor {scale}"
            yield "sgd_solver.cpp:99", text

    def saved(self, event: e.Saved) -> Iterator[Line]:
        kind, model, state = ("HDF5", "474", "296") if event.model.endswith(".h5") else ("binary proto", "464", "284")
        yield f"solver.cpp:{model}", f"Snapshotting to {kind} file {visible(event.model)}"
        yield f"sgd_solver.cpp:{state}", f"Snapshotting solver state to {kind} file {visible(event.state)}"

    def written(self, event: e.FileWritten) -> Iterator[Line]:
        yield "hdf5_output_layer.cpp:33", f"Saving HDF5 file {visible(event.path)}"
        yield "hdf5_output_layer.cpp:38", f"Successfully saved {event.items} rows"

    def final_loss(self, event: e.FinalLoss) -> Iterator[Line]:
        yield "solver.cpp:327", f"Iteration {event.iteration}, loss = {signed(event.smoothed)}"

    def done(self, event: e.Done) -> Iterator[Line]:
        if event.stopped:
            yield "solver.cpp:311", "Optimization stopped early."
        else:
            yield "solver.cpp:332", "Optimization Done."
        yield "caffe.cpp:250", "Optimization Done."


def _none(log: TrainingLog, event: Any) -> Iterator[Line]:
    return iter(())


_LINES: dict[type, Callable[[TrainingLog, Any], Iterator[Line]]] = {
    e.WeightsLoaded: TrainingLog.loaded,
    e.Resumed: TrainingLog.resumed,
    e.Started: TrainingLog.started,
    e.BeginTest: TrainingLog.testing,
    e.EndTest: TrainingLog.tested,
    e.StopTest: TrainingLog.interrupted,
    e.Iteration: TrainingLog.iteration,
    e.Saved: TrainingLog.saved,
    e.FileWritten: TrainingLog.written,
    e.FinalLoss: TrainingLog.final_loss,
    e.Done: TrainingLog.done,
}


def _ignored(names: Iterable[str], place: str) -> Iterator[Line]:
    return ((place, f"Ignoring source layer {visible(name)}") for name in names)


def _pace(event: e.Iteration) -> float:
    return event.since / (event.seconds or 1.0)


def _output(number: int, output: e.Output, kind: str) -> str:
    text = f"    {kind} net output #{number}: {visible(output.name)} = {signed(output.value)}"
    if not output.weight:
        return text
    with np.errstate(all="ignore"):
        loss = float(np.float32(output.weight) * np.float32(output.value))
    return f"{text} (* {ostream(output.weight)} = {signed(loss)} loss)"


def first_iteration_lines(solver: Solver, events: Iterable[e.Event], seed: int, glog: bool = False) -> Iterator[str]:
    """Yield the lines of a solver's first iteration: those of `debug_info: true`, and of `display: 1` without one.

    events: of a training run that measures every pass; what comes after the first iteration is not run
    """
    log = TrainingLog(solver, seed, glog, solver.message.display or 1)
    for event in events:
        if isinstance(event, e.BeginTest):
            yield from log.lines(replace(event, ignored=()))  # they are not about the iteration
        elif isinstance(event, (e.Pass, e.EndTest, e.Iteration)):
            yield from log.lines(event)
        if isinstance(event, e.Iteration):
            return
