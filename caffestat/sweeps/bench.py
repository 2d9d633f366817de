"""Runs trials in one process: nets are compiled once per structure, and fed other params and seeds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.analysis import Measurement, Runner
from caffestat.engine import choose_device
from caffestat.errors import CaffestatError, InputError
from caffestat.fillers import Stream
from caffestat.initialization.methods import Method, draw, filler_of, parse_method
from caffestat.layers import load_plugin
from caffestat.net import NetSource
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.program import NetProgram, Program, from_net
from caffestat.program.feeds import Feeds
from caffestat.program.memory import check_run
from caffestat.program.opening import NetFile

from .rows import Row, outputs_of, rows_of, test_name
from .shipped import opened, solver_of
from .trial import Trial
from .variants import variant_of, with_stds

if TYPE_CHECKING:
    from caffestat.training.running import Running

__all__ = ["Bench", "Settings"]

_KEPT = 8  # compiled nets of one process


@dataclass(frozen=True)
class Settings:
    """The settings that all trials of a sweep share; they can be pickled.

    nets    the texts of nets and solvers by the names that trials use, see `shipped`
    real    the nets whose data layers read their files; those of others hold noise
    device  one of `options.DEVICES`; each process chooses its own
    dialect the fork whose layer types are meant, see `options.NetOptions`
    plugins files of layer types, which each process loads
    """

    nets: Mapping[str, tuple[bytes, ...]]
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    batch: int | None = None
    device: str = "cpu"
    real: frozenset[str] = frozenset()
    dialect: str | None = None
    plugins: tuple[str, ...] = ()

    def options(self, net: str) -> NetOptions:
        """Return the options with which nets are built."""
        data = "real" if net in self.real else "synthetic"
        return NetOptions(shapes=self.shapes, batch=self.batch, data=data, dialect=self.dialect)


class Bench:
    """Runs trials; what is compiled is kept for the next ones of the same structure."""

    def __init__(self, settings: Settings) -> None:
        for path in settings.plugins:
            load_plugin(path)
        self._settings = settings
        self._files: dict[str, NetFile] = {}
        self._runners: OrderedDict[bytes, Runner] = OrderedDict()
        self._solved: OrderedDict[Trial, dict[str, str]] = OrderedDict()

    def run(self, trial: Trial) -> list[Row]:
        """Return the rows of a trial; an error is a row, too. The last row has its seconds."""
        started = time.perf_counter()
        try:
            rows = list(self._train(trial) if trial.iterations else self._first_pass(trial))
        except CaffestatError as error:
            rows = [_error(str(error))]
        except Exception as error:  # one trial must not end the sweep
            rows = [_error(f"{type(error).__name__}: {error}")]
        return [*rows, Row(0, -1, "", "", "seconds", time.perf_counter() - started)]

    def _file(self, name: str) -> NetFile:
        if name not in self._files:
            self._files[name] = opened(name, self._settings.nets[name])
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
            self._solved[key] = _solve(from_net(varied.build(self._settings.options(trial.net))), method)
        while len(self._solved) > _KEPT:
            self._solved.popitem(last=False)
        return replace(varied, source=with_stds(varied.source, self._solved[key]))

    def _first_pass(self, trial: Trial) -> Iterator[Row]:
        file = self.variant(trial)
        program = from_net(file.build(self._settings.options(trial.net)))
        stream = Stream(trial.seed)
        values = program.values(stream, [])
        _draw(program, trial, values)
        runner = self._runner(trial.net, file.source, program, values)
        feeds = Feeds(stream, np.random.default_rng(trial.seed))
        measured = runner.run(feeds.of(runner.forward, program.net))
        yield from _rows(0, program, measured)
        yield Row(0, -1, "", "", "loss", measured.loss)

    def _runner(self, name: str, source: NetSource, program: NetProgram, values: list[np.ndarray]) -> Runner:
        """Return a compiled net of the program's structure that holds the values."""
        key = _structure(name, source)
        runner = self._runners.pop(key, None)
        if runner is None or runner.forward.graph.states:
            device, _ = choose_device(self._settings.device)
            check_run(program, True, device)
            runner = Runner(program, values, device, changing=True)
        runner.values = values
        self._runners[key] = runner
        while len(self._runners) > _KEPT:
            self._runners.popitem(last=False)
        return runner

    def _train(self, trial: Trial) -> Iterator[Row]:
        from caffestat.training import Training, events

        file = self.variant(trial)
        options, run = self._settings.options(trial.net), RunOptions(device=self._settings.device)
        training = Training(
            solver_of(file, trial), options, ValueOptions(), run,
            seed=trial.seed, debug=True, saves=False, iterations=trial.iterations,
        )  # fmt: skip
        _draw(training.train.program, trial, training.train.values)
        layers = _structure(trial.net, file.source)
        nets = {layers + bytes([number]): net for number, net in enumerate([training.train, *training.tests])}
        for key, net in nets.items():
            self._lend(key, net)
        measured = Measurement()
        for event in training.events():
            if isinstance(event, events.Pass):
                for key, net in nets.items():
                    self._take_back(key, net)
                measured = event.measured if event.program.phase == "TRAIN" else measured
            elif isinstance(event, events.Iteration):
                yield from _rows(event.iteration, training.train.program, measured)
                yield from outputs_of(event.iteration, "", event.loss, event.outputs)
            elif isinstance(event, events.EndTest):
                yield from outputs_of(event.iteration, test_name(event.number), event.loss, event.outputs)

    def _lend(self, key: bytes, net: Running) -> None:
        """Let a net that is about to train run what is compiled of its structure."""
        runner = self._runners.get(key)
        if runner is not None and not runner.forward.graph.states:
            net.runner = runner
            runner.values = net.values

    def _take_back(self, key: bytes, net: Running) -> None:
        if net.runner is not None:
            self._runners[key] = net.runner
            self._runners.move_to_end(key)
            while len(self._runners) > _KEPT:
                self._runners.popitem(last=False)


def _weights(program: Program) -> list[int]:
    return [n for n, param in enumerate(program.params) if param.role == "weight" and param.owner is None]


def _draw(program: Program, trial: Trial, values: Sequence[np.ndarray]) -> None:
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
            raise InputError(f"layer {name!r}: autoinit finds no std for it: {std}")
        fillers[name] = filler_of(std, method)
    return fillers


def _error(text: str) -> Row:
    return Row(0, -1, "", "", "error", float("nan"), text)


def _structure(name: str, source: NetSource) -> bytes:
    """Return what makes two variants of a net one graph: their layers without fillers."""
    parts = [name.encode()]
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
