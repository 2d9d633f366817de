"""The validation of solvers that `train`, `debug` and `check` share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from caffestat.errors import Finding, Place, SolverError, SourceError
from caffestat.files import why_unwritable
from caffestat.net import Solver
from caffestat.net.rules import filter_layers
from caffestat.net.save import why_no_group
from caffestat.schema import SolverParameter

from .detection import AP_VERSIONS
from .nets import solver_nets
from .policies import POLICIES
from .solvers import SOLVERS, solver_type

__all__ = ["doubts", "faults", "snapshot_prefix", "unwritable", "validate"]

Finds = Iterator[Finding]


def validate(solver: Solver) -> None:
    """Raise SolverError (file:line) for the first fault of a solver."""
    for fault in faults(solver):
        raise SolverError(fault.message, fault.place)


def faults(solver: Solver) -> Finds:
    """Yield the settings that Caffe refuses, or accepts but cannot train with, in the order of the file."""
    found = [fault for rule in _RULES for fault in rule(_Fields(solver))]
    yield from sorted(found, key=lambda fault: (fault.place.line, fault.place.column))


def doubts(solver: Solver) -> Finds:
    """Yield settings that Caffe accepts without a warning but that are probably mistakes."""
    yield from _doubts(_Fields(solver))


def snapshot_prefix(solver: Solver) -> str:
    """Return what the names of snapshots begin with: without a prefix, or in a folder, the solver file's stem.

    Source: util/upgrade_proto.cpp, UpgradeSnapshotPrefixProperty.
    """
    prefix, file = solver.message.snapshot_prefix, os.path.splitext(solver.name)[0]
    if not solver.message.HasField("snapshot_prefix"):
        return file
    return os.path.join(prefix, os.path.basename(file)) if os.path.isdir(prefix) else prefix


@dataclass(frozen=True)
class _Fields:
    """A solver's message, and the places of its fields."""

    solver: Solver

    @property
    def message(self) -> Any:
        return self.solver.message

    def has(self, name: str) -> bool:
        """Tell whether the file has a field."""
        return self.solver.document.first(name) is not None

    def place(self, *names: str) -> Place:
        """Return the place of the first of these fields that the file has, else the file's beginning."""
        for name in names:
            field = self.solver.document.first(name)
            if field is not None:
                return field.place
        return Place(self.solver.name, 1)

    def finding(self, message: str, *names: str) -> Finding:
        """Return a finding at the first of these fields that the file has."""
        return Finding(self.place(*names), message)


def _policy(f: _Fields) -> Finds:
    """sgd_solver.cpp, GetLearningRate"""
    name = f.message.lr_policy
    if name not in POLICIES:
        known = ", ".join(POLICIES)
        found = f"unknown lr_policy {name!r}" if f.has("lr_policy") else "lr_policy is missing"
        yield f.finding(f"{found}; expected one of {known}", "lr_policy")
        return
    for field in ("gamma", "power", "stepvalue"):
        if field in POLICIES[name].needs and not f.has(field):
            yield f.finding(f"{field} is missing; lr_policy {name!r} needs it", "lr_policy")
    if "stepsize" in POLICIES[name].needs and f.message.stepsize <= 0:
        found = f"is {f.message.stepsize}" if f.has("stepsize") else "is missing"
        yield f.finding(f"stepsize {found}; lr_policy {name!r} needs at least 1", "stepsize", "lr_policy")
    if "gamma" in POLICIES[name].needs and f.message.gamma < 0:
        yield f.finding(f"gamma is {f.message.gamma:g}; lr_policy {name!r} needs 0 or more", "gamma")


def _type(f: _Fields) -> Finds:
    """solver_factory.hpp, CreateSolver; upgrade_proto.cpp, UpgradeSolverType; sgd_solvers.hpp, constructor checks"""
    if f.has("type") and f.has("solver_type"):
        message = "solver_type is the old form of type; the solver has both: remove one of them"
        yield f.finding(message, "solver_type")
    name = str(f.message.type) if f.has("type") else solver_type(f.message)
    if name not in SOLVERS:
        yield f.finding(f"unknown solver type {name!r}; expected one of {', '.join(SOLVERS)}", "type")
        return
    if f.message.momentum and not SOLVERS[name].takes_momentum:
        yield f.finding(f"{name} takes no momentum, found {f.message.momentum:g}; remove it or change type", "momentum")
    if name == "RMSProp" and not 0 <= f.message.rms_decay < 1:
        yield f.finding(f"rms_decay is {f.message.rms_decay:g}; expected 0 or more and less than 1", "rms_decay")


def _numbers(f: _Fields) -> Finds:
    """solver.cpp, Init and Step; sgd_solver.cpp, Regularize"""
    for name in ("iter_size", "average_loss"):
        value = getattr(f.message, name)
        if value < 1:
            yield f.finding(f"{name} is {value}; expected at least 1", name)
    for name in ("base_lr", "weight_decay", "momentum"):
        value = getattr(f.message, name)
        if not math.isfinite(value):
            yield f.finding(f"{name} is {value:g}; expected a finite number", name)
    if f.message.base_lr < 0:
        yield f.finding(f"base_lr is {f.message.base_lr:g}; expected 0 or more", "base_lr")
    kind = f.message.regularization_type
    if kind not in ("L1", "L2") and f.message.weight_decay:
        yield f.finding(f"unknown regularization_type {kind!r}; expected L1 or L2", "regularization_type")


def _tests(f: _Fields) -> Finds:
    """solver.cpp, InitTestNets"""
    m = f.message
    named, count = len(m.test_net_param) + len(m.test_net), len(m.test_iter)
    generic = m.HasField("net") or m.HasField("net_param")
    if count < named or (count > named and not generic):
        message = f"expected one test_iter for each test net ({named}), found {count}"
        yield f.finding(message, "test_iter", "test_net", "test_net_param")
        return
    if m.test_state and len(m.test_state) != count:
        message = f"expected no test_state or one for each test net ({count}), found {len(m.test_state)}"
        yield f.finding(message, "test_state")
    if count and m.test_interval < 1:
        message = f"has test nets, but a test_interval of {m.test_interval}; expected at least 1"
        yield f.finding(message, "test_interval", "test_iter")
    if any(number < 0 for number in m.test_iter):
        yield f.finding(f"test_iter is {min(m.test_iter)}; expected 0 or more", "test_iter")


def _snapshots(f: _Fields) -> Finds:
    """solver.cpp, CheckSnapshotWritePermissions"""
    m = f.message
    if m.snapshot or (m.snapshot_after_train and f.has("snapshot_prefix")):
        yield from unwritable(f.solver)
    if m.snapshot_format == SolverParameter.HDF5 and (m.snapshot or m.snapshot_after_train):
        yield from _unfit_layers(f)


def _unfit_layers(f: _Fields) -> Finds:
    """net.cpp, ToHDF5: Caffe stops at the first snapshot"""
    source, state = next(solver_nets(f.solver))
    names = [entry.proto.name for entry in filter_layers(source.layers, state)]
    twice = next((f"two layers are called {name!r}" for name in names if names.count(name) > 1), None)
    if why := next(filter(None, (*map(why_no_group, names), twice)), None):
        yield f.finding(f"no snapshot can be written: {why}; write BINARYPROTO or rename it", "snapshot_format")


def _test_files(f: _Fields) -> Finds:
    """io.cpp, ReadProtoFromTextFile"""
    try:
        f.solver.named_tests()
    except SourceError as error:
        yield Finding(error.place, error.message)


def unwritable(solver: Solver) -> Finds:
    """Yield a finding when no file with the solver's snapshot prefix can be written."""
    name = f"{snapshot_prefix(solver)}_iter_N"
    if why := why_unwritable(name):
        message = f"no snapshot can be written to {name!r}: {why}; create the folder or change the prefix"
        yield _Fields(solver).finding(message, "snapshot_prefix", "snapshot")


def _detection(f: _Fields) -> Finds:
    """weiliu89/caffe, branch ssd: solver.cpp, TestAll; bbox_util.cpp, ComputeAP"""
    added = f.solver.added
    if added.eval_type not in ("classification", "detection"):
        yield f.finding(f"unknown eval_type {added.eval_type!r}; expected classification or detection", "eval_type")
    if added.ap_version not in AP_VERSIONS:
        expected = ", ".join(AP_VERSIONS)
        yield f.finding(f"unknown ap_version {added.ap_version!r}; expected one of {expected}", "ap_version")


_RULES: tuple[Callable[[_Fields], Finds], ...] = (_policy, _type, _numbers, _tests, _test_files, _snapshots, _detection)


def _doubts(f: _Fields) -> Finds:
    m = f.message
    if not f.has("max_iter"):
        yield f.finding("max_iter is missing: `caffe train` stops before the first iteration", "max_iter")
    if not m.base_lr:
        how = "is 0" if f.has("base_lr") else "is missing"
        yield f.finding(f"base_lr {how}: no weight ever changes", "base_lr", "lr_policy")
    for name in ("weight_decay", "momentum"):
        if getattr(m, name) < 0:
            yield f.finding(f"{name} is {getattr(m, name):g}; expected 0 or more", name)
    if m.momentum >= 1:
        yield f.finding(f"momentum is {m.momentum:g}: updates grow without bound; expected less than 1", "momentum")
    if m.clip_gradients == 0:
        message = "clip_gradients is 0: every gradient is scaled to 0; remove the field to clip none"
        yield f.finding(message, "clip_gradients")
    if list(m.stepvalue) != sorted(m.stepvalue):
        message = "the stepvalues are not ascending: a large one delays all that follow it"
        yield f.finding(message, "stepvalue")
    yield from _ignored(f)


def _ignored(f: _Fields) -> Finds:
    """Fields that the solver does not look at."""
    m, name = f.message, solver_type(f.message)
    needs = POLICIES[m.lr_policy].needs if m.lr_policy in POLICIES else ()
    for field in ("stepsize", "stepvalue") if m.lr_policy in POLICIES else ():
        if f.has(field) and field not in needs:
            yield f.finding(f"lr_policy {m.lr_policy!r} ignores {field}", field)
    for field, types in {"momentum2": ("Adam",), "rms_decay": ("RMSProp",)}.items():
        if f.has(field) and name in SOLVERS and name not in types:
            yield f.finding(f"solver type {name!r} ignores {field}", field)
    if f.has("test_interval") and not m.test_iter and not m.test_net and not m.test_net_param:
        yield f.finding("test_interval has no effect: without test_iter there is no test net", "test_interval")
