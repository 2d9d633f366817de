"""The loop of `caffe train`: tests, passes, update, snapshot, again. (solver.cpp, Solve, Step and Test)"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from caffestat.analysis import Measurement, Step
from caffestat.engine.resident import Resident
from caffestat.errors import Finding, InputError, Place, SolverError
from caffestat.fillers import Stream
from caffestat.net import TRAIN, Net, NetSource, Solver, State, build
from caffestat.net.backprop import stopping
from caffestat.net.rules import filter_layers
from caffestat.net.source import missing_weights, named_weights
from caffestat.net.weights import copy_file
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.program import from_net
from caffestat.program.feeds import check_given
from caffestat.program.memory import check_run

from . import events as e
from .detection import ROW, Detections
from .nets import solver_nets
from .policies import Schedule
from .resident import ResidentUpdate
from .running import PlainSum, Process, Running, Sum
from .snapshot import State as Snapshot
from .snapshot import file_names, read_state, write_state
from .statistics import Sizes
from .update import Update
from .validation import snapshot_prefix, unwritable, validate

__all__ = ["NONE", "SNAPSHOT", "STOP", "Training"]

NONE, SNAPSHOT, STOP = "none", "snapshot", "stop"  # what a signal asks for

Events = Iterator[e.Event]
_F = np.float32


class SmoothedLoss:
    """The mean over the last losses, as Caffe keeps it in float32. (solver.cpp, UpdateSmoothedLoss)

    window: how many losses it is taken over, the solver's average_loss
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._losses: list[np.float32] = []
        self._mean = _F(0)

    def add(self, loss: np.float32, number: int) -> np.float32:
        """Take the loss of an iteration, counted from the first one of this run, and return the mean."""
        losses, window = self._losses, self._window
        with np.errstate(all="ignore"):
            if len(losses) < window:
                losses.append(loss)
                self._mean = (self._mean * _F(len(losses) - 1) + loss) / _F(len(losses))
            else:
                self._mean = self._mean + (loss - losses[number % window]) / _F(window)
                losses[number % window] = loss
        return self._mean


class Training:
    """A solver about to train: its nets are built and filled, and `events` runs them.

    debug:     measure every pass and display every iteration, as if the solver had `debug_info: true`
    snapshot:  a .solverstate to go on from
    stats:     every how many iterations to yield signals (`Statistics`); 0 for never
    iterations: how many to run, instead of up to the solver's max_iter
    resident:  whether params and history live on the device while it trains; default: on CUDA
    requested: called after each iteration and each test batch; returns NONE, SNAPSHOT or STOP
    findings, notes: what is strange about the solver and its nets, and lines worth telling

    Raises SolverError for a solver that Caffe refuses, and what building a net and reading its files raises.
    """

    def __init__(
        self,
        solver: Solver,
        net: NetOptions,
        values: ValueOptions,
        run: RunOptions,
        *,
        seed: int,
        debug: bool = False,
        saves: bool = True,
        snapshot: str | None = None,
        iterations: int | None = None,
        stats: int = 0,
        resident: bool | None = None,
        requested: Callable[[], str] = lambda: NONE,
    ) -> None:
        validate(solver)
        self.solver, self.message = solver, solver.message
        self.debug, self._saves = debug, saves
        self.findings: list[Finding] = list(solver.findings)
        self.notes: list[str] = []
        self._requested, self._stats, self._resident = requested, stats, resident
        self.prefix = snapshot_prefix(solver)
        self._prelude: list[e.Event] = []
        self._stored: dict[int, np.ndarray] = {}  # updates that files of weights hold beside these
        if snapshot and values.weights:
            raise InputError("give a snapshot to resume from or weights to start from, not both")
        self._check_prefix()
        self._open_nets(net, values, run, seed, () if snapshot else values.weights or _named_weights(solver))
        self.schedule = Schedule(self.message, solver.added.plateau_winsize)
        self.update: Update | ResidentUpdate = Update(self.message, self.train.learnable)
        self.iteration = 0
        if snapshot:
            self._restore(snapshot)
        self.update.last, self._stored = self._stored, {}
        self._first = self.iteration
        self.last = self.message.max_iter if iterations is None else self.iteration + iterations
        self.last = max(self.last, 1) if debug else self.last
        self._refuse_no_max_iter()
        self._smooth = SmoothedLoss(self.message.average_loss)
        self._stopped = False
        # whether the last iteration's passes were measured; without one the net's own debug_info counts
        self._measures = debug or bool(solver.net.header.debug_info)

    # ---- set-up

    def _check_prefix(self) -> None:
        saves = self._saves and (self.message.snapshot or self.message.snapshot_after_train)
        for fault in unwritable(self.solver) if saves else ():
            raise SolverError(fault.message, fault.place)

    def _refuse_no_max_iter(self) -> None:
        """Raise InputError for a policy that divides by max_iter, of a solver that has none to run."""
        if self.iteration < self.last and self.message.max_iter <= 0 and self.schedule.needs("max_iter"):
            policy = self.message.lr_policy
            raise InputError(f"lr_policy {policy!r} divides by max_iter: set it to the number of iterations")

    def _open_nets(
        self, options: NetOptions, values: ValueOptions, run: RunOptions, seed: int, weights: Sequence[str]
    ) -> None:
        from caffestat.engine import choose_device

        self.device, why = choose_device(run.device)
        self.notes.extend([why] if why else [])
        stream = Stream(seed)
        random, zeros = np.random.default_rng(seed), run.inputs_hold == "zeros"
        self.process = Process(stream, random, self.device, run.inputs, zeros, run.compute)
        nets: list[Running] = []
        for source, state in solver_nets(self.solver, options.level, options.stages):
            nets.append(self._open_net(source, state, options, values, weights, bool(nets)))
        self.train, self.tests = nets[0], nets[1:]
        _refuse_shared_files([running.net for running in nets])

    def _open_net(
        self,
        source: NetSource,
        state: State,
        options: NetOptions,
        values: ValueOptions,
        weights: Sequence[str],
        is_test: bool,
    ) -> Running:
        p = self.process
        shapes = {n: shape for n, shape in options.shapes.items() if not is_test or _has_top(source, state, n)}
        net = build(source, state, shapes, options.batch, options.data, options.dialect)
        program = from_net(net, replace(values, weights=()))
        if not is_test:
            check_given(program, p.inputs)
        check_run(program, not is_test, p.device)
        self.findings.extend(finding for finding in net.findings if finding not in self.findings)
        params = program.values(p.stream, [])
        synthetic = program.synthetic(p.inputs)
        if not self.debug and options.data != "synthetic":
            self._refuse_untrainable(net, synthetic)
        _refuse_stopping(net, is_test)
        self.notes.extend(line for line in synthetic if line not in self.notes)
        for path in weights:
            copied = copy_file(net, params, path, diffs=None if is_test else self._stored)
            self._prelude.append(e.WeightsLoaded(path, copied.ignored))
            self.notes.extend([str(copied)] if str(copied) not in self.notes else [])
        return Running(program, params, p, is_test, bool(self._stats) and not is_test)

    def _refuse_untrainable(self, net: Net, synthetic: Sequence[str]) -> None:
        """Raise InputError for data that is not available, NetError for a layer that cannot be computed."""
        if synthetic:
            raise InputError(f"{synthetic[0]}; training needs real data; use --data synthetic to train on noise")
        for node in net.nodes:
            if net.phase == TRAIN and (node.layer.why_unknown or not node.is_known):
                why = node.layer.why_unknown or node.layer.why_uncomputed or "its bottoms are unknown"
                raise node.layer.error(f"cannot be trained: {why}")

    def _restore(self, path: str) -> None:
        state = read_state(path, [array.shape for array in self.update.history])
        ignored: tuple[str, ...] = ()
        if state.model:
            model = state.model if os.path.exists(state.model) else str(Path(path).parent / Path(state.model).name)
            ignored = self.train.load(model, self._stored)
        for mine, array in zip(self.update.history, state.history, strict=True):
            mine[...] = array
        self.iteration, self.schedule.current_step = state.iteration, state.current_step
        if state.plateau:
            self.schedule.least_loss, self.schedule.last_event = state.plateau
        self._prelude.append(e.Resumed(path, state.iteration, ignored))

    # ---- the loop

    def events(self) -> Events:
        """Run the iterations; yield what happens."""
        with ExitStack() as stack:
            for net in () if self.debug else (self.train, *self.tests):
                stack.enter_context(net.reading_ahead())
            yield from self._events()

    def _events(self) -> Events:
        m = self.message
        self._move_to_device()
        yield from self._prelude
        yield e.Started(self.train.name, m.lr_policy, self.iteration)
        self._shown, self._clock = self.iteration, time.perf_counter()
        while self.iteration < self.last and not self._stopped:
            yield from self._step()
        if m.snapshot_after_train and not (m.snapshot and self.iteration % m.snapshot == 0):
            yield from self._snapshot()
        stopped = self._stopped  # a signal in the last test stops nothing else
        if not stopped:
            yield from self._finish()
        yield e.Done(self.iteration, stopped)

    def _move_to_device(self) -> None:
        """Let params and history live on the device from now on, where the solver's rule can be compiled for it."""
        wanted = self.device.kind == "cuda" if self._resident is None else self._resident
        if not wanted or not isinstance(self.update, Update) or not self.update.rule.is_compilable():
            return
        self.update = ResidentUpdate(self.message, self.update, self.train.values, self.device)
        self.train.hold(self.update.values)
        for test in self.tests:
            test.hold(Resident(test.values, self.device))

    def _finish(self) -> Events:
        if self.message.display and self.iteration % self.message.display == 0:
            yield from self._last_loss()
        if self.message.test_interval and self.iteration % self.message.test_interval == 0:
            yield from self._test_all()

    def _last_loss(self) -> Events:
        """Run one forward pass more, for its loss alone."""
        result = self.train.step(self._measures, into=self.update.gradients(0))
        if result.measured:
            yield e.Pass(self.train.program, _forward(result.measured), not self._measures)
        yield from self._write_files(self.train, result)
        smoothed = self._smooth.add(result.loss, self.iteration - self._first)
        yield e.FinalLoss(self.iteration, float(result.loss), float(smoothed))

    def _step(self) -> Events:
        m, iteration = self.message, self.iteration
        if m.test_interval and iteration % m.test_interval == 0 and (iteration or m.test_initialization):
            yield from self._test_all()
            if self._stopped:
                return
        displayed = self.debug or bool(m.display and iteration % m.display == 0)
        self._measures = self.debug or (displayed and m.debug_info)
        collects = bool(self._stats) and iteration % self._stats == 0
        total, loss = self.train.sum(m.iter_size, self.update.add), _F(0)
        for number in range(m.iter_size):
            into = self.update.gradients(number)
            result = self.train.step(self._measures or collects, total.several, into)
            measured = total.add(result, self.train.runner)
            if measured and (self._measures or measured.inner):
                yield e.Pass(self.train.program, measured, not self._measures)
            yield from self._write_files(self.train, result)
            loss += result.loss
        loss = loss / _F(m.iter_size)
        event, sizes = self._update(total, loss, result, displayed, collects)
        yield event
        if collects and measured:
            yield e.Statistics(iteration, self.train.signals(measured, sizes))
        yield from self._obey()

    def _update(
        self, total: Sum | PlainSum, loss: np.float32, result: Step, displayed: bool, collects: bool
    ) -> tuple[e.Iteration, Sizes]:
        smoothed = self._smooth.add(loss, self.iteration - self._first)
        lapse, since = time.perf_counter() - self._clock, self.iteration - self._shown
        if displayed:
            self._clock, self._shown = time.perf_counter(), self.iteration
        self.schedule.observe(self.iteration, float(smoothed))
        steps = self.schedule.advances(self.iteration)
        rate = self.schedule.rate(self.iteration)
        applied = self.update.apply(self.train.values, total.diffs, rate, self.iteration, collects)
        self.iteration += 1
        event = e.Iteration(
            self.iteration - 1,
            float(loss),
            float(smoothed),
            self.train.outputs(result.outputs),
            float(rate),
            self.schedule.current_step if steps else None,
            self.schedule.least_loss if displayed and self.schedule.has_news(self.iteration - 1) else None,
            applied.clip,
            displayed,
            lapse,
            since,
        )
        return event, applied.sizes

    def _obey(self) -> Events:
        """Write a snapshot when one is due or a signal asks for it, and stop when one asks for that."""
        request = self._requested()
        if (self.message.snapshot and self.iteration % self.message.snapshot == 0) or request == SNAPSHOT:
            yield from self._snapshot()
        self._stopped = request == STOP

    # ---- tests

    def _test_all(self) -> Events:
        for number in range(len(self.tests)):
            if not self._stopped:
                yield from self._test(number)

    def _test(self, number: int) -> Events:
        """Run a test net's batches with the train net's params, and yield the means of its outputs."""
        m, test = self.message, self.tests[number]
        yield e.BeginTest(self.iteration, number, test.take_params(self.train))
        totals: dict[int, np.ndarray] = {}
        detections = {blob: Detections() for blob in test.net.outputs if self.solver.added.eval_type == "detection"}
        loss = _F(0)
        for _ in range(m.test_iter[number]):
            yield from self._obey_while_testing()
            if self._stopped:
                yield e.StopTest()
                return
            measures = self.debug or m.debug_info
            result = test.step(measures)
            if result.measured:
                yield e.Pass(test.program, result.measured, not measures)
            yield from self._write_files(test, result)
            loss += result.loss
            for blob, collected in detections.items():
                collected.add(self._rows(test, blob, result.outputs))
            if not detections:
                totals = {blob: totals[blob] + value if totals else value for blob, value in result.outputs.items()}
        if self.debug:
            test.runner = None  # its memory is needed for the next net
        count = _F(m.test_iter[number])
        means = {blob: total / count for blob, total in totals.items()}
        mean_loss = (float(loss / count) if count else math.nan) if m.test_compute_loss else None
        if detections:
            yield self._detected(number, detections, mean_loss)
        else:
            yield e.EndTest(self.iteration, number, test.outputs(means), mean_loss)

    def _rows(self, test: Running, blob: int, outputs: Mapping[int, np.ndarray]) -> np.ndarray:
        """Return the rows of an output that DetectionEvaluate made. Raises SolverError for another one."""
        rows = outputs.get(blob)
        if rows is None or rows.shape[-1:] != (ROW,):
            found = "one that cannot be computed" if rows is None else f"shape {rows.shape}"
            name = test.net.blobs[blob].name
            message = (
                f"eval_type 'detection' expects outputs of {ROW} columns, those of DetectionEvaluate; {name!r} has "
            )
            raise SolverError(message + found, Place(self.solver.name))
        return rows

    def _detected(self, number: int, found: Mapping[int, Detections], loss: float | None) -> e.EndTest:
        """Return what a detector's test net is worth: of each output, the mean over classes of average precisions."""
        outputs: list[e.Output] = []
        for blob, detections in found.items():
            by_class = detections.by_class(self.solver.added.ap_version)
            mean = detections.mean(by_class)
            if mean is not None:
                outputs.append(e.Output(self.tests[number].net.blobs[blob].name, mean, 0.0, by_class))
        return e.EndTest(self.iteration, number, tuple(outputs), loss)

    def _obey_while_testing(self) -> Events:
        while (request := self._requested()) != NONE:
            if request == SNAPSHOT:
                yield from self._snapshot()
            self._stopped = self._stopped or request == STOP

    # ---- files

    def _write_files(self, net: Running, result: Step) -> Events:
        """Write what layers of a net write to files in a pass."""
        if self._saves:
            yield from net.write_files(result.written)

    def _is_ssds(self) -> bool:
        """Tell whether the solver or a layer has fields of SSD's Caffe, which keeps more in its states."""
        added = self.solver.added
        forks = {node.layer.adds.DESCRIPTOR.file.name for node in self.train.net.nodes if node.layer.adds}
        return bool(added.ListFields()) or added.DESCRIPTOR.file.name in forks

    def _snapshot(self) -> Events:
        if not self._saves:
            return
        model, state = self.file_names()
        self.train.write(model, self.update.last if self.message.snapshot_diff else None)
        seen = (self.schedule.least_loss, self.schedule.last_event) if self._is_ssds() else None
        write_state(state, Snapshot(self.iteration, self.schedule.current_step, model, self.update.history, seen))
        yield e.Saved(self.iteration, model, state)

    def file_names(self) -> tuple[str, str]:
        """Return the names of a snapshot's two files: the weights and the solver's state."""
        return file_names(self.message, self.prefix, self.iteration)


def _named_weights(solver: Solver) -> Sequence[str]:
    """Return the files of weights that a solver names. Raises SolverError when one is missing."""
    for fault in missing_weights(solver):
        raise SolverError(fault.message, fault.place)
    return named_weights(solver)


def _refuse_stopping(net: Net, forward_only: bool) -> None:
    """Raise NetError for a layer in whose passes Caffe stops."""
    for node in net.nodes:
        empty = next((shape for shape in node.top_shapes if shape and 0 in shape), None)
        if empty and not node.layer.shares_memory:
            what = f"has a top without elements, of shape {empty}"
            raise node.layer.error(f"{what}: Caffe stops in its forward pass; remove the top, or give it elements")
    for fault in () if forward_only else stopping(net):
        raise fault


def _refuse_shared_files(nets: Sequence[Net]) -> None:
    """Raise NetError for layers that write the same file: Caffe keeps each open from its set-up on."""
    names = set[str]()
    for layer in (node.layer for net in nets for node in net.nodes if node.layer.output_file):
        if layer.output_file in names:
            raise layer.error(
                f"writes {layer.output_file!r}, which another layer or net does too: Caffe cannot open it twice; "
                "give it a name of its own, or put the layer into one net by `include`"
            )
        names.add(layer.output_file)


def _forward(measured: Measurement) -> Measurement:
    """Return what was measured in the forward pass."""
    inner = {node: (net, _forward(part)) for node, (net, part) in measured.inner.items()}
    return replace(measured, bottom_diffs={}, param_diffs={}, norms=None, inner=inner)


def _has_top(source: NetSource, state: State, name: str) -> bool:
    return any(name in entry.proto.top for entry in filter_layers(source.layers, state))
