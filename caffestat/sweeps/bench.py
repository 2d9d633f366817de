"""Runs trials in one process: nets are compiled once per structure, and fed other params and seeds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from caffestat.analysis import Measurement, Runner
from caffestat.engine import CPU, Device
from caffestat.errors import CaffestatError, InputError
from caffestat.fillers import Stream
from caffestat.initialization.methods import Method, draw, filler_of, parse_method
from caffestat.net import NetSource, Solver
from caffestat.net.source import source_of
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.program import NetProgram, Program, from_net
from caffestat.program.feeds import Feeds
from caffestat.program.opening import NetFile
from caffestat.prototext import Document, parse
from caffestat.schema import SolverParameter

from .rows import Row, rows_of
from .trial import Trial
from .variants import variant_of, with_stds

__all__ = ["Bench", "Settings"]

_KEPT = 8  # compiled nets of one process


@dataclass(frozen=True)
class Settings:
    """What all trials of a sweep share; it pickles.

    nets  the texts of nets and solvers by the names that trials use; a solver's is followed by its net's
    """

    nets: Mapping[str, tuple[bytes, ...]]
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batch: int | None = None
    device: str = "cpu"

    @property
    def options(self) -> NetOptions:
        """How the nets are built."""
        return NetOptions(shapes=self.shapes, batch=self.batch, data="synthetic")


class Bench:
    """Runs trials; what is compiled is kept for the next ones of the same structure."""

    def __init__(self, settings: Settings, device: Device = CPU) -> None:
        self._settings = settings
        self._device = device
        self._files: dict[str, NetFile] = {}
        self._runners: OrderedDict[bytes, Runner] = OrderedDict()
        self._solved: OrderedDict[Trial, dict[str, str]] = OrderedDict()

    def run(self, trial: Trial) -> list[Row]:
        """Return what a trial finds; an error is a row, too. The last row says how long it took."""
        started = time.perf_counter()
        try:
            rows = list(self._train(trial) if trial.iterations else self._first_pass(trial))
        except CaffestatError as error:
            rows = [_error(str(error))]
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:  # one trial must not end the sweep
            rows = [_error(f"{type(error).__name__}: {error}")]
        return [*rows, Row(0, -1, "", "", "seconds", time.perf_counter() - started)]

    def _file(self, name: str) -> NetFile:
        if name not in self._files:
            self._files[name] = _opened(name, self._settings.nets[name])
        return self._files[name]

    def variant(self, trial: Trial) -> NetFile:
        """Return the file that a trial runs; stds that autoinit solves are its fillers."""
        file = self._file(trial.net)
        varied = replace(file, source=variant_of(file.source, trial))
        method = parse_method(trial.filler)
        if method is None or not method.is_solved:
            return varied
        key = replace(trial, seed=0)
        if key not in self._solved:
            self._solved[key] = _solve(from_net(varied.build(self._settings.options)), method)
        while len(self._solved) > _KEPT:
            self._solved.popitem(last=False)
        return replace(varied, source=with_stds(varied.source, self._solved[key]))

    def _first_pass(self, trial: Trial) -> Iterator[Row]:
        file = self.variant(trial)
        program = from_net(file.build(self._settings.options))
        stream = Stream(trial.seed)
        values = program.values(stream, [])
        _draw(program, trial, values)
        runner = self._runner(file.source, program, values)
        feeds = Feeds(stream, np.random.default_rng(trial.seed))
        measured = runner.run(feeds.of(runner.forward, program.net))
        yield from _rows(0, program, measured)
        yield Row(0, -1, "", "", "loss", measured.loss)

    def _runner(self, source: NetSource, program: NetProgram, values: list[np.ndarray]) -> Runner:
        """Return a compiled net of the program's structure that holds the values."""
        key = _structure(source)
        runner = self._runners.pop(key, None)
        if runner is None or runner.forward.graph.states:
            runner = Runner(program, values, self._device, changing=True)
        runner.values = values
        self._runners[key] = runner
        while len(self._runners) > _KEPT:
            self._runners.popitem(last=False)
        return runner

    def _train(self, trial: Trial) -> Iterator[Row]:
        from caffestat.training import Training, events

        file = self.variant(trial)
        solver = _solver_of(file, trial)
        run, values = RunOptions(device=self._settings.device), ValueOptions()
        training = Training(
            solver, self._settings.options, values, run,
            seed=trial.seed, debug=True, saves=False, iterations=trial.iterations,
        )  # fmt: skip
        _draw(training.train.program, trial, training.train.values)
        key = _structure(file.source)
        if key in self._runners and not self._runners[key].forward.graph.states:
            training.train.runner = self._runners[key]
            training.train.runner.values = training.train.values
        for event in training.events():
            if isinstance(event, events.Pass) and event.program.phase == "TRAIN":
                measured = event.measured
            elif isinstance(event, events.Iteration):
                yield from _rows(event.iteration, training.train.program, measured)
                yield Row(event.iteration, -1, "", "", "loss", event.loss)
        if training.train.runner is not None:
            self._runners[key] = training.train.runner


def _weights(program: Program) -> list[int]:
    return [n for n, param in enumerate(program.params) if param.role == "weight" and param.owner is None]


def _draw(program: Program, trial: Trial, values: list[np.ndarray]) -> None:
    """Overwrite the weights where the trial's filler is a method that draws values; its data is noise of the seed."""
    method = parse_method(trial.filler)
    if method is None or method.is_solved:
        return
    feeds = Feeds(Stream(trial.seed), np.random.default_rng(trial.seed))
    draw(program, dict.fromkeys(_weights(program), method), values, feeds, trial.seed, [])


def _solve(program: Program, method: Method) -> dict[str, str]:
    """Return the fillers that autoinit gives layers, by name. Raises the reason where a layer has none."""
    from caffestat.initialization import solve

    fillers = {}
    for number, std in solve(program, _weights(program), method["target"], method["fixup"]).items():
        name = program.rows[program.params[number].row].name
        if not isinstance(std, float):
            raise InputError(f"layer {name!r}: no std is solved for it: {std}")
        fillers[name] = filler_of(std, method)
    return fillers


def _error(text: str) -> Row:
    return Row(0, -1, "", "", "error", float("nan"), text)


def _opened(name: str, texts: Sequence[bytes]) -> NetFile:
    """Return a net or a solver from its text; a solver's net comes as a text of its own."""
    document = parse(texts[0], name)
    if len(texts) == 1:
        found = source_of(document)
        return NetFile(document, found.net, found) if isinstance(found, Solver) else NetFile(document, found)
    net = source_of(parse(texts[1], name))
    if isinstance(net, Solver):
        raise InputError(f"{name}: its net is a solver")
    return NetFile(document, net, _bare_solver(name, document, net))


def _bare_solver(name: str, document: Document, net: NetSource) -> Solver:
    from caffestat.schema import from_document

    message, findings = from_document(document, SolverParameter)
    return Solver(name, message, net, document, tuple(findings))


def _solver_of(file: NetFile, trial: Trial) -> Solver:
    """Return the solver that a trial trains with: the file's own, or plain SGD at a fixed rate."""
    solver = file.solver
    if solver is None:
        if trial.rate is None:
            raise InputError(f"{trial.net}: training a net without a solver needs a learning rate: --lr 0.01")
        document = parse(b'base_lr: 0 lr_policy: "fixed" max_iter: 0', trial.net)
        solver = _bare_solver(trial.net, document, file.source)
    message = deepcopy(solver.message)
    for name in ("test_iter", "test_interval", "test_net", "test_net_param", "test_state", "snapshot", "display"):
        message.ClearField(name)
    message.snapshot_after_train = False
    message.max_iter = trial.iterations
    if trial.rate is not None:
        message.base_lr = trial.rate
    if trial.solver:
        message.type = trial.solver
    return replace(solver, message=message, net=file.source)


def _structure(source: NetSource) -> bytes:
    """Return what makes two variants one graph: their layers without fillers and names of nothing else."""
    parts = []
    for entry in source.layers:
        proto = deepcopy(entry.proto)
        _clear_fillers(proto)
        parts.append(proto.SerializeToString(deterministic=True))
    return b"\n".join(parts)


def _clear_fillers(message: Any) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.message_type.name == "FillerParameter":
            if descriptor.has_presence:
                message.ClearField(descriptor.name)
        else:
            for inner in [value] if descriptor.has_presence else value:
                _clear_fillers(inner)


def _rows(iteration: int, program: NetProgram, measured: Measurement) -> Iterator[Row]:
    means = {"x": measured.tops, "dx": measured.bottom_diffs, "w": measured.params, "dw": measured.param_diffs}
    return (row for _, row in rows_of(iteration, program, means))
