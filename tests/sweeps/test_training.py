"""Trials that train: what their train and test nets put out, on data from files or noise."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import caffestat
from caffestat.net.source import read_solver
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.sweeps import Sweep, Trial
from caffestat.sweeps.bench import Bench
from caffestat.sweeps.rows import Row, outputs_of
from caffestat.sweeps.spec import settings_of
from caffestat.training import Training
from caffestat.training.events import EndTest, Output

DATA = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: %s }
  hdf5_data_param { source: "%s.txt" batch_size: %d } }"""

BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "fc" type: "InnerProduct" bottom: "conv" top: "fc"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""

SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 max_iter: 100 test_iter: 3 test_interval: 50
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images whose brightest row tells their class, and nets that learn them."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    for name, count in (("train", 40), ("test", 18)):
        labels = np.arange(count, dtype=np.float32) % 3
        images = random.normal(size=(count, 2, 5, 4)).astype(np.float32)
        images[np.arange(count), :, labels.astype(int) + 1] += 2
        with h5py.File(f"{name}.h5", "w") as file:
            file["data"], file["label"] = images, labels
        Path(f"{name}.txt").write_text(f"{name}.h5\n")
    both = DATA % ("TRAIN", "train", 10) + DATA % ("TEST", "test", 6)
    Path("net.prototxt").write_text(both + BODY)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


def bench(net: str = "solver.prototxt", data: str = "auto") -> Bench:
    return Bench(pickle.loads(pickle.dumps(settings_of(Sweep([net]), data=data))))


def told(rows: list[Row], kind: str) -> dict[tuple[int, str, str], float]:
    assert [row.text for row in rows if row.kind == "error"] == []
    return {(row.iteration, row.layer, row.name): row.value for row in rows if row.kind == kind}


def trained(seed: int, iterations: int) -> EndTest:
    """Return what the test net puts out after some iterations of `caffestat train`."""
    solver = read_solver("solver.prototxt")
    solver.message.test_interval, solver.message.max_iter = iterations, iterations
    solver.message.test_initialization, solver.message.test_compute_loss = False, True
    training = Training(solver, NetOptions(), ValueOptions(), RunOptions(device="cpu"), seed=seed, saves=False)
    (found,) = (event for event in training.events() if isinstance(event, EndTest))
    return found


def test_the_accuracy_of_the_test_net_is_that_of_train(folder: Path) -> None:
    shared = bench()
    for seed in (1, 2, 1):  # the compiled nets of the first trial serve the others
        rows = shared.run(Trial("solver.prototxt", seed, iterations=20))
        expected = trained(seed, 20)
        assert told(rows, "output")[20, "test", "accuracy"] == pytest.approx(expected.outputs[0].value)
        assert told(rows, "loss")[20, "test", ""] == pytest.approx(expected.loss, rel=1e-5)
    assert len(shared._runners) == 2
    assert told(rows, "output")[20, "test", "accuracy"] > 0.9


def test_the_outputs_of_the_train_net_are_rows_of_each_iteration(folder: Path) -> None:
    rows = bench().run(Trial("solver.prototxt", 1, iterations=3))
    assert list(told(rows, "output")) == [(0, "", "accuracy"), (1, "", "accuracy"), (2, "", "accuracy"),
                                          (3, "test", "accuracy")]  # fmt: skip
    assert list(told(rows, "loss")) == [(0, "", ""), (1, "", ""), (2, "", ""), (3, "test", "")]


def test_the_summary_has_the_accuracy(folder: Path) -> None:
    summary = caffestat.sweep("solver.prototxt", seeds=range(3), rates=[0.1, 1e-6], iterations=20)
    best, worst = summary.choices()
    assert (best.variant.rate, worst.variant.rate) == (0.1, 1e-6)
    assert best.outputs["test accuracy"][0] > 0.8 > worst.outputs["test accuracy"][0]
    assert "test accuracy" in best.reason


def test_test_nets_of_their_own_travel_and_change_as_the_train_net_does(folder: Path) -> None:
    inline = "".join(DATA % ("TEST", "test", 6) + BODY)
    Path("train.prototxt").write_text(DATA % ("TRAIN", "train", 10) + BODY)
    Path("test.prototxt").write_text(inline)
    rest = SOLVER.replace('net: "net.prototxt"', "").replace("test_iter: 3", "test_iter: 2 test_iter: 3")
    nets = 'train_net: "train.prototxt" test_net: "test.prototxt" test_net_param {' + inline + "}"
    Path("own.prototxt").write_text(nets + rest)
    found = bench("own.prototxt")
    for name in ("train.prototxt", "test.prototxt"):
        Path(name).unlink()
    rows = found.run(Trial("own.prototxt", 1, changes=(("conv.num_output", "7"),), width=2, iterations=20))
    outputs = told(rows, "output")
    assert [key for key in outputs if key[1]] == [(20, "test", "accuracy"), (20, "test 1", "accuracy")]
    assert min(outputs[20, "test", "accuracy"], outputs[20, "test 1", "accuracy"]) > 0.8


@pytest.mark.parametrize("data", ["auto", "real"])
def test_data_layers_read_their_files_from_the_beginning_in_each_trial(folder: Path, data: str) -> None:
    shared = bench("net.prototxt", data)
    first, again = (shared.run(Trial("net.prototxt", 5)) for _ in range(2))
    report = caffestat.analyze("net.prototxt", seed=5, device="cpu")
    means = {(layer.name, top.name): top.mean_abs for layer in report.layers for top in layer.tops}
    for rows in (first, again):
        assert {(r.layer, r.name): r.value for r in rows if r.kind == "x"} == pytest.approx(means, rel=1e-5)


def test_without_the_files_data_layers_hold_noise_unless_real_is_asked_for(folder: Path) -> None:
    Path("test.txt").unlink()
    Path("train.txt").unlink()
    assert not settings_of(Sweep(["net.prototxt"], shapes={"data": (4, 2, 5, 4), "label": (4,)})).real
    options: dict[str, Any] = {"seeds": [1], "shapes": {"data": (4, 2, 5, 4), "label": (4,)}}
    assert caffestat.sweep("net.prototxt", **options).failed == 0
    with pytest.raises(caffestat.CaffestatError, match=r"train\.txt"):
        caffestat.sweep("net.prototxt", data="real", **options)


def test_noise_can_be_asked_for(folder: Path) -> None:
    plan = Sweep(["net.prototxt"], shapes={"data": (40, 2, 5, 4), "label": (40,)})
    rows = Bench(settings_of(plan, data="synthetic")).run(Trial("net.prototxt", 1))
    (x,) = (row for row in rows if (row.kind, row.name) == ("x", "data"))
    assert x.value == pytest.approx(0.8, abs=0.03)  # E|x| of N(0, 1)


def test_predictions_know_the_data(folder: Path) -> None:
    summary = caffestat.sweep("net.prototxt", seeds=range(20), predict=True)
    found = {value.name: (summary.values[value].mean, band.mean) for value, band in summary.bands.items()
             if value.kind == "x"}  # fmt: skip
    assert found["data"][1] == pytest.approx(found["data"][0], rel=2e-3)
    assert found["conv"][1] == pytest.approx(found["conv"][0], rel=0.15)


def test_outputs_of_several_numbers_are_left_out_and_a_lone_loss_is_told_once() -> None:
    outputs = [Output("loss", 0.7, 1.0), Output("prob", 0.1, 0), Output("prob", 0.9, 0), Output("accuracy", 0.5, 0)]
    assert [(row.kind, row.name, row.value) for row in outputs_of(3, "", 0.7, outputs)] == [
        ("loss", "", 0.7), ("output", "accuracy", 0.5)
    ]  # fmt: skip
    two = [Output("loss1", 0.3, 0.5), Output("loss2", 0.4, 1.0)]
    assert [row.name for row in outputs_of(3, "", 0.55, two)] == ["", "loss1", "loss2"]
