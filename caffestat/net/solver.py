"""The first iteration of a solver, in the order in which `caffe train` goes through it. (solver.cpp, Init and Step)"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caffestat.engine import Device, choose_device
from caffestat.errors import Finding, InputError
from caffestat.fillers import Stream
from caffestat.schema import NetState

from .build import build
from .initial import copy_weights, draw_params
from .measure import Feeds, Runner, check_inputs, synthetic_layers
from .measurement import Measurement
from .memory import check_run
from .model import Net
from .rules import TEST, TRAIN, State, filter_layers
from .settle import settle
from .source import NetSource, Solver, beside

__all__ = [
    "BeginTest",
    "Clip",
    "Event",
    "Loss",
    "MeanTestLoss",
    "Pass",
    "Rate",
    "Score",
    "first_iteration",
    "learning_rate",
]


@dataclass(frozen=True)
class BeginTest:
    """A test net, counted from 0, is about to run."""

    number: int


@dataclass(frozen=True)
class Pass:
    """One pass of a net: forward in TEST, forward and backward in TRAIN."""

    net: Net
    measured: Measurement


@dataclass(frozen=True)
class Score:
    """One element of an output blob, of a test net the mean over its batches; `number` counts the elements of a net."""

    phase: int
    number: int
    name: str
    value: float
    weight: float  # in the loss; 0 for none


@dataclass(frozen=True)
class MeanTestLoss:
    """The mean loss over a test net's batches, which `test_compute_loss` asks for."""

    value: float


@dataclass(frozen=True)
class Loss:
    """The mean loss of the train net's passes, and the seconds since the iteration began."""

    value: float
    seconds: float


@dataclass(frozen=True)
class Rate:
    """The learning rate of the iteration."""

    value: float


@dataclass(frozen=True)
class Clip:
    """The gradients' norm (of all params together, before they are averaged) exceeds clip_gradients."""

    norm: float
    limit: float


Event = BeginTest | Pass | Score | MeanTestLoss | Loss | Rate | Clip


def first_iteration(
    solver: Solver,
    *,
    seed: int,
    device: str = "auto",
    weights: Sequence[str] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    inputs_hold: str = "zeros",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int | None = None,
    data: str = "auto",
    dialect: str | None = None,
    assume_filler: str | None = None,
    level: int = 0,
    stages: Sequence[str] = (),
    notes: MutableSequence[str] | None = None,
    findings: MutableSequence[Finding] | None = None,
) -> Iterator[Event]:
    """Return what happens in iteration 0: the test nets' passes when they are due, then `iter_size` of the train net.

    All nets are built at once, and run as the events are taken. They draw from one stream: the train net's set-up, each
    test net's, then the passes in order. A test net takes the train net's params, layer by layer of the same name.

    seed:          Caffe's random_seed
    weights:       caffemodel files, after those that the solver names
    inputs:        arrays for data blobs, by blob name, for every net that has the blob
    level, stages: the flags of `caffe train` that join train_state; the level always replaces the one written there
    findings:      what is strange about the solver and its nets is appended to it
    The others are those of `build` and `measure`.

    Raises what `build` and `measure` raise.
    """
    notes = notes if notes is not None else []
    findings = findings if findings is not None else []
    findings.extend(solver.findings)
    if solver.message.iter_size < 1:
        raise InputError(f"{solver.name}: iter_size is {solver.message.iter_size}; expected at least 1")
    chosen, why = choose_device(device)
    notes.extend([why] if why else [])
    process = _Process(Stream(seed), np.random.default_rng(seed), chosen, inputs or {}, inputs_hold == "zeros")
    weights = (*named_weights(solver), *weights)
    loaded: list[_Loaded] = []
    for source, state in _nets(solver, level, stages):
        here = {name: shape for name, shape in (shapes or {}).items() if not loaded or _has_top(source, state, name)}
        net = build(source, state, here, batch, data, dialect)
        if not loaded:
            check_inputs(net, process.inputs)
        check_run(net, not loaded, chosen)
        findings.extend(finding for finding in net.findings if finding not in findings)
        values = draw_params(net, process.stream, assume_filler)
        notes.extend(line for line in synthetic_layers(net, process.inputs) if line not in notes)
        notes.extend(line for line in copy_weights(net, values, weights) if line not in notes)
        loaded.append(_Loaded(net, values, process, bool(loaded)))
    return _iterate(solver, loaded[0], loaded[1:])


def _iterate(solver: Solver, train: _Loaded, tests: Sequence[_Loaded]) -> Iterator[Event]:
    message = solver.message
    started = time.perf_counter()
    if message.test_interval and message.test_initialization:
        for number, test in enumerate(tests):
            yield BeginTest(number)
            _share(test, train)
            yield from _test(test, message.test_iter[number], message.test_compute_loss)
            test.runner = None  # its memory is needed for the next net
    measured = yield from _train(train, message.iter_size, started)
    yield Rate(learning_rate(message, solver.name))
    norm = (measured.norms.diff_l2 or 0.0) if measured.norms else 0.0
    if 0 <= message.clip_gradients < norm:
        yield Clip(norm, message.clip_gradients)


def _test(test: _Loaded, count: int, with_loss: bool) -> Iterator[Event]:
    """Yield the passes of a test net and the means of its outputs. (solver.cpp, Test)"""
    totals: dict[int, np.ndarray] = {}
    loss = 0.0
    for _ in range(count):
        measured = test.measure()
        yield Pass(test.net, measured)
        loss += measured.loss
        outputs = _outputs(test.net, measured)
        totals = {blob: output + totals.get(blob, 0) for blob, output in outputs.items()}
    if with_loss and count:
        yield MeanTestLoss(loss / count)
    yield from _scores(test.net, {blob: total / np.float32(count) for blob, total in totals.items()}, TEST)


def _train(train: _Loaded, count: int, started: float) -> Generator[Event, None, Measurement]:
    """Yield the passes of the train net, their param gradients added up, and loss and outputs. Return the last pass.

    Source: solver.cpp, Step.
    """
    total = _DiffSum(train)
    loss = 0.0
    for _ in range(count):
        measured = train.measure(("param_diff",) if count > 1 else ())
        if count > 1:
            total.add(measured)
        yield Pass(train.net, measured)
        loss += measured.loss
    yield Loss(loss / count, time.perf_counter() - started)
    yield from _scores(train.net, _outputs(train.net, measured), TRAIN)
    return measured


def _outputs(net: Net, measured: Measurement) -> dict[int, np.ndarray]:
    """Return the values of the output blobs that could be computed, in Caffe's order."""
    return {blob: np.array(measured.outputs[blob], np.float32) for blob in net.outputs if blob in measured.outputs}


def _scores(net: Net, outputs: Mapping[int, np.ndarray], phase: int) -> Iterator[Event]:
    # a blob's weight is that of the layer that wrote it last, in place or not
    weights = {blob: weight for node in net.nodes for blob, weight in zip(node.tops, node.loss_weights, strict=True)}
    elements = [(blob, value) for blob, output in outputs.items() for value in output]
    for number, (blob, value) in enumerate(elements):
        yield Score(phase, number, net.blobs[blob].name, float(value), weights[blob])


@dataclass(frozen=True)
class _Process:
    """What all nets of a run of `caffe train` share."""

    stream: Stream
    random: np.random.Generator
    device: Device
    inputs: Mapping[str, np.ndarray]
    zeros: bool


@dataclass
class _Loaded:
    """A net and its params' values; a runner is made when the first pass is due."""

    net: Net
    values: list[np.ndarray]
    process: _Process
    forward_only: bool  # a test net's passes, whatever its phase
    runner: Runner | None = None

    def measure(self, fetch: Sequence[str] = ()) -> Measurement:
        """Run one pass."""
        p = self.process
        feeds = Feeds(p.stream, p.random, p.inputs, p.zeros)
        net = settle(self.net, self.values, p.device, feeds)
        if self.runner is None or self.runner.net is not net:  # a net that selects has other shapes in every batch
            self.runner = Runner(net, self.values, p.device, self.forward_only, fetch)
        return self.runner.run(feeds.of(net, self.runner.lowered))


class _DiffSum:
    """The param gradients that Caffe adds up over the passes of one iteration, and shows as added up so far."""

    def __init__(self, train: _Loaded) -> None:
        self._train = train
        self._sums: dict[int, np.ndarray] = {}  # by owner

    def add(self, measured: Measurement) -> None:
        """Add the latest pass and put the sums' numbers in the place of its own."""
        net, runner = self._train.net, self._train.runner
        assert runner is not None
        before, sums = dict(self._sums), self._sums
        for node, index in sorted(measured.param_diffs, key=lambda key: (-key[0], key[1])):
            owner = net.owner(net.nodes[node].params[index])
            diff = runner.tensors.get(("param_diff", node, index))
            if net.nodes[node].overwrites_diff(index):
                before.pop(owner, None)
            if diff is not None:
                sums[owner] = diff + before[owner] if owner in before else diff
            measured.param_diffs[node, index] = _mean_abs(sums.get(owner))
        if measured.norms and measured.norms.diff_l1 is not None:
            l1 = math.fsum(float(np.abs(total).sum(dtype=np.float64)) for total in sums.values())
            l2 = math.fsum(float(np.square(total, dtype=np.float64).sum()) for total in sums.values()) ** 0.5
            measured.norms = replace(measured.norms, diff_l1=l1, diff_l2=l2)


def _mean_abs(array: np.ndarray | None) -> float:
    return 0.0 if array is None else float(np.abs(array).mean(dtype=np.float64))


def _nets(solver: Solver, level: int, stages: Sequence[str]) -> Iterator[tuple[NetSource, State]]:
    """Yield the train net and the test nets with the states that they are built in.

    Each state begins with the phase, then come the net's own and the solver's. `caffe train` adds its flags to
    train_state alone, a stage of no name when it is given none.
    Source: caffe.cpp, train; solver.cpp, InitTrainNet and InitTestNets.
    """
    message = solver.message
    flags = NetState(level=level, stage=stages or [""])
    yield solver.net, _merged(TRAIN, solver.net.header.state, message.train_state, flags)
    for number, source in enumerate(solver.test_nets()):
        yield source, _merged(TEST, source.header.state, *message.test_state[number : number + 1])


def _merged(phase: int, *written: Any) -> State:
    state = NetState(phase=phase)
    for other in written:
        state.MergeFrom(other)
    return State(state.phase, state.level, tuple(state.stage))


def _has_top(source: NetSource, state: State, name: str) -> bool:
    return any(name in entry.proto.top for entry in filter_layers(source.layers, state))


def named_weights(solver: Solver) -> list[str]:
    """Return the caffemodel files that a solver names, looked for as its net is."""
    names = [name.strip() for names in solver.message.weights for name in names.split(",")]
    return [beside(name, solver.name) for name in names]


def _share(test: _Loaded, train: _Loaded) -> None:
    """Let the test net's layers use the params of the train net's of the same name.

    Raises NetError when they have other shapes. (net.cpp, ShareTrainedLayersWith)
    """
    by_name = {node.name: node for node in reversed(test.net.nodes)}
    for node in train.net.nodes:
        target = by_name.get(node.name)
        if target is None:
            continue
        shapes = [train.net.params[number].param.shape for number in node.params]
        wanted = [test.net.params[number].param.shape for number in target.params]
        if shapes != wanted:
            raise target.layer.error(
                f"has params of shapes {wanted}; the train net's layer of this name at {node.place} has {shapes}, "
                "and the test net takes its params from there: give one of them another name"
            )
        for mine, number in zip(target.params, node.params, strict=True):
            test.values[mine] = train.values[number]


def learning_rate(message: Any, name: str) -> float:
    """Return the rate of iteration 0 under the solver's lr_policy: base_lr, but for `sigmoid` and early steps.

    name: the solver's file, for the message.
    Raises InputError for a policy that Caffe does not have. (sgd_solver.cpp, GetLearningRate)
    """
    policy = message.lr_policy
    if policy == "sigmoid":
        return float(message.base_lr / (1 + math.exp(message.gamma * message.stepsize)))
    if policy == "multistep" and message.stepvalue and message.stepvalue[0] <= 0:
        return float(message.base_lr * message.gamma)
    if policy not in ("fixed", "step", "exp", "inv", "multistep", "poly"):
        known = "fixed, step, exp, inv, multistep, poly or sigmoid"
        raise InputError(f"{name}: unknown lr_policy {policy!r}; expected {known}")
    return float(message.base_lr)
