"""Nets and solvers as texts, which are sent to the processes that run trials, and the solver of a trial."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.net import NetSource, Solver
from caffestat.net.source import source_of
from caffestat.program.opening import NetFile
from caffestat.prototext import Document, parse

from .trial import Trial
from .variants import variant_of

__all__ = ["opened", "solver_of", "texts_of"]


@dataclass(frozen=True)
class _Shipped(Solver):
    """A solver whose test nets came with it; tests: those of `named_tests`."""

    tests: tuple[NetSource, ...] = ()

    def named_tests(self) -> tuple[NetSource, ...]:
        return self.tests


def texts_of(file: NetFile) -> tuple[bytes, ...]:
    """Return the texts of a net; of a solver its own, that of its net (b"" where it is inside), those of its test nets.

    Raises a CaffestatError when one cannot be read.
    """
    own = bytes(file.text)
    if file.solver is None:
        return (own,)
    net = b"" if file.source.name == file.text.name else read_regular(file.source.name)
    return (own, net, *(read_regular(test.name) for test in file.solver.file_tests()))


def opened(name: str, texts: Sequence[bytes]) -> NetFile:
    """Return the net or solver of `texts_of`."""
    document = parse(texts[0], name)
    if len(texts) == 1 or not texts[1]:
        found = source_of(document)
        if not isinstance(found, Solver):
            return NetFile(document, found)
        return NetFile(document, found.net, _shipped(found, texts[2:]))
    net = _net(name, texts[1])
    return NetFile(document, net, _shipped(_bare_solver(name, document, net), texts[2:]))


def _net(name: str, text: bytes) -> NetSource:
    net = source_of(parse(text, name))
    if isinstance(net, Solver):
        raise InputError(f"{name}: its net is a solver")
    return net


def _shipped(solver: Solver, tests: Sequence[bytes]) -> _Shipped:
    files = tuple(_net(solver.name, text) for text in tests)
    return _Shipped(**vars(solver), tests=(*solver.inline_tests(), *files))


def _bare_solver(name: str, document: Document, net: NetSource) -> Solver:
    from caffestat.schema import SolverParameter, from_document

    message, findings = from_document(document, SolverParameter)
    return Solver(name, message, net, document, tuple(findings))


def solver_of(file: NetFile, trial: Trial) -> Solver:
    """Return the solver that a trial trains with: the file's own, or plain SGD at a fixed rate.

    Its test nets run once, after the last iteration.
    """
    solver = file.solver
    if solver is None:
        if trial.rate is None:
            raise InputError(f"{trial.net}: training a net without a solver needs a learning rate: --lr 0.01")
        document = parse(b'base_lr: 0 lr_policy: "fixed" max_iter: 0', trial.net)
        solver = _shipped(_bare_solver(trial.net, document, file.source), ())
    message = deepcopy(solver.message)
    for name in ("snapshot", "display", "test_interval"):
        message.ClearField(name)
    if message.test_iter:
        message.test_interval, message.test_initialization = trial.iterations, False
        message.test_compute_loss = True
    message.snapshot_after_train = False
    message.max_iter = trial.iterations
    if trial.rate is not None:
        message.base_lr = trial.rate
    if trial.solver:
        message.type = trial.solver
    assert isinstance(solver, _Shipped)
    tests = tuple(variant_of(source, trial, partly=True) for source in solver.tests)
    return replace(solver, message=message, net=file.source, tests=tests)
