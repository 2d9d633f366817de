"""Params that live on the device: the compiled update against the one on the host, and Caffe's own runs through it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from caffestat.engine import choose_device
from caffestat.engine.resident import Resident, View
from caffestat.net import read_solver
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.schema import SolverParameter
from caffestat.training import Training
from caffestat.training import resident as module
from caffestat.training.events import EndTest, Iteration, Statistics
from caffestat.training.resident import ResidentUpdate
from caffestat.training.solvers import SOLVERS, Rule
from caffestat.training.update import Applied, Learnable, Update

from .golden import CASES, DEVICE
from .test_golden import replay

ITERATIONS = 4
PARAMS = (
    Learnable(0, (7, 5), 1.0, 1.0),
    Learnable(1, (7,), 2.0, 0.0),
    Learnable(3, (3, 2, 11), 1.0, 1.0),
    Learnable(4, (3,), 2.0, 0.0),
    Learnable(5, (70, 3), 0.0, 1.0, is_statistic=True),
    Learnable(6, (2,), 1.0, 1.0, adds_up=False),
    Learnable(7, (13,), 0.5, 3.0),
)
STATISTIC, UNREACHED = 5, 7


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 128)  # small ones, whose ends cut through params


def values_of(random: np.random.Generator) -> list[np.ndarray]:
    """Return values for the params, and for one that no solver updates."""
    shapes = {param.number: param.shape for param in PARAMS} | {2: (4,)}
    return [random.standard_normal(shapes[number]).astype(np.float32) for number in sorted(shapes)]


def both(solver: SolverParameter, seed: int = 0) -> tuple[Update, ResidentUpdate, list[np.ndarray]]:
    """Return the two updates of the same values and history, and the values of the first."""
    random = np.random.default_rng(seed)
    host = Update(solver, PARAMS)
    for array in host.history:
        array[...] = random.standard_normal(array.shape) ** 2
    values = values_of(random)
    return host, ResidentUpdate(solver, host, [array.copy() for array in values], choose_device(DEVICE)[0]), values


def write(resident: ResidentUpdate, number: int, diffs: dict[int, np.ndarray]) -> dict:
    """Write the gradients of a pass where the update wants them, as a pass does, and return the views."""
    views = {n: view for n, view in resident.gradients(number).items() if n in diffs}
    for n, view in views.items():
        view.write(diffs[n])
    return views


def iterate(host: Update, resident: ResidentUpdate, values: list[np.ndarray], passes: int, **how) -> list[Applied]:
    """Run one iteration of both."""
    seed, iteration, measure = how["seed"], how.get("iteration", 0), how.get("measure", False)
    random = np.random.default_rng(seed)
    reached = [param for param in PARAMS if param.number not in (STATISTIC, UNREACHED)]
    sums: list[dict] = [{}, {}]
    for number in range(passes):
        diffs = {p.number: random.standard_normal(p.shape).astype(np.float32) for p in reached}
        host.gradients(number)
        sums[1] = resident.add(sums[1], write(resident, number, diffs))
        sums[0] = host.add(sums[0], diffs)
    rate = np.float32(0.013 * (iteration + 1))
    return [
        update.apply(held, diffs, rate, iteration, measure)
        for update, held, diffs in ((host, values, sums[0]), (resident, resident.values, sums[1]))
    ]


def assert_equal(host: Update, resident: ResidentUpdate, values: list[np.ndarray]) -> None:
    for found, expected in zip([*resident.values, *resident.history], [*values, *host.history], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "decay", "clip", "passes"),
    [*product(SOLVERS, ("none", "L2", "L1"), (2.5,), (3,)), *product(SOLVERS, ("L2",), (-1, 1e4), (1,))],
)
def test_the_compiled_update_equals_the_one_on_the_host(name: str, decay: str, clip: float, passes: int) -> None:
    solver = SolverParameter(
        type=name, momentum=0.9, delta=1e-3, clip_gradients=clip, iter_size=passes, snapshot_diff=True
    )
    if name == "RMSProp":
        solver.rms_decay = 0.95
    if decay != "none":
        solver.weight_decay, solver.regularization_type = 0.04, decay
    host, resident, values = both(solver)
    for t in range(ITERATIONS):
        applied = iterate(host, resident, values, passes, seed=t, iteration=t)
        clips = [one.clip for one in applied]
        assert [one is not None for one in clips] == [0 < clip < 1e4] * 2
        if clips[0] and clips[1]:
            assert clips[1].norm == pytest.approx(clips[0].norm, rel=1e-6)
        assert_equal(host, resident, values)
        assert not any(one.left_to_cpu for one in resident._compiled.values())
        for number, update in host.last.items():
            np.testing.assert_allclose(resident.last[number], update, rtol=1e-5, atol=1e-6 * np.abs(update).max())


def test_the_sizes_of_an_update() -> None:
    host, resident, values = both(SolverParameter(type="Adam", momentum=0.9))
    expected, found = (one.sizes for one in iterate(host, resident, values, 1, seed=3, measure=True))
    assert found.keys() == expected.keys() == {param.number for param in PARAMS}
    for number, sizes in expected.items():
        assert found[number] == pytest.approx(sizes, rel=1e-5)
    assert iterate(host, resident, values, 1, seed=4)[1].sizes == {}


def test_values_that_a_pass_replaces_are_updated_where_they_are_then() -> None:
    """A statistic that a pass leaves in memory of its own, as any output that stays on the device."""
    host, resident, values = both(SolverParameter(type="SGD", momentum=0.9, weight_decay=0.1), seed=2)
    fresh = np.random.default_rng(9).standard_normal(values[STATISTIC].shape).astype(np.float32)
    for _ in range(2):
        values[STATISTIC][...] = fresh
        resident.values.place(STATISTIC, fresh.copy())
        iterate(host, resident, values, 1, seed=1)
        assert_equal(host, resident, values)


def test_a_gradient_that_no_longer_comes_is_zero() -> None:
    solver = SolverParameter(type="SGD", momentum=0.5, iter_size=2)
    host, resident, values = both(solver)
    iterate(host, resident, values, 2, seed=1)
    diffs = {0: np.full(PARAMS[0].shape, 0.5, np.float32)}
    sums: dict = {}
    for number in range(2):
        sums = resident.add(sums, write(resident, number, diffs))
    host.apply(values, {0: 2 * diffs[0]}, np.float32(0.1), 1)
    resident.apply(resident.values, sums, np.float32(0.1), 1)
    assert_equal(host, resident, values)


def test_what_is_read_cannot_be_written_to_and_stays_as_it_was() -> None:
    host, resident, values = both(SolverParameter(type="SGD", momentum=0.9))
    before = resident.values[0]
    kept = before.copy()
    with pytest.raises(ValueError, match="read-only"):
        before[0, 0] = 1
    iterate(host, resident, values, 1, seed=1)
    np.testing.assert_array_equal(before, kept)
    assert (resident.values[0] != before).any()


NET = """layer { name: "data" type: "DummyData" top: "x" top: "label" dummy_data_param {
  shape { dim: 6 dim: 3 dim: 5 dim: 4 } shape { dim: 6 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "uniform" min: 0 max: 2.99 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 bias_term: false weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "norm" }
layer { name: "act" type: "ReLU" bottom: "norm" top: "norm" }
layer { name: "top" type: "InnerProduct" bottom: "norm" top: "top"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "top" bottom: "label" top: "loss" }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.01 max_iter: 5 display: 1
  iter_size: 2 clip_gradients: 1 test_iter: 2 test_interval: 2 snapshot_after_train: false """


def trained(folder: Path, resident: bool, **how) -> tuple[Training, list]:
    """Run a training and return it and its events."""
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)
    made = read_solver(str(folder / "solver.prototxt"))
    training = Training(made, NetOptions(), ValueOptions(), RunOptions(device=DEVICE), seed=3, resident=resident, **how)
    return training, list(training.events())


@pytest.mark.parametrize("longest", [20, 10_000])
def test_nothing_that_stays_on_the_device_is_read_back(
    longest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a net of one part, and in one that is cut into many."""
    monkeypatch.setattr("caffestat.engine.compiled._LONG", {"cpu": longest, "cuda": longest})

    def refuse(*_: object) -> None:
        raise AssertionError("an array was copied to the host")

    with monkeypatch.context() as patch:
        patch.setattr(View, "numpy", refuse)
        patch.setattr(Resident, "__getitem__", refuse)
        patch.setattr("caffestat.analysis.runner.as_array", only_arrays)
        resident, events = trained(tmp_path, True)
    host, expected = trained(tmp_path, False)
    pairs = [[e for e in found if isinstance(e, (Iteration, EndTest))] for found in (events, expected)]
    assert [type(e) for e in pairs[0]] == [type(e) for e in pairs[1]]
    for mine, other in zip(*pairs, strict=True):
        assert [o.value for o in mine.outputs] == pytest.approx([o.value for o in other.outputs], rel=1e-4)
    for mine, other in zip(resident.train.values, host.train.values, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def only_arrays(value: object) -> np.ndarray:
    assert isinstance(value, np.ndarray), "a value of the device was copied to the host"
    return value


def test_statistics_of_a_run(tmp_path: Path) -> None:
    both_events = [trained(tmp_path, resident, stats=2)[1] for resident in (True, False)]
    found, expected = ([e for e in events if isinstance(e, Statistics)] for events in both_events)
    assert len(found) == len(expected) == 3
    for mine, other in zip(found, expected, strict=True):
        assert mine.values.keys() == other.values.keys()
        assert any(signal.quantity == "update_ratio" for signal in mine.values)
        for signal, value in other.values.items():
            assert mine.values[signal] == pytest.approx(value, rel=1e-3, abs=1e-7), signal


def test_a_rule_without_a_compiled_form_works_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOLVERS["SGD"], "emit", Rule.emit)
    training, events = trained(tmp_path, True)
    assert isinstance(training.update, Update)
    assert sum(isinstance(event, Iteration) for event in events) == 5


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Update, "apply")  # nothing is updated on the host
    replay(name, tmp_path, monkeypatch, resident=True)
