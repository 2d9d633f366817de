"""Signals of a run: what they hold, the files that keep them, and the rules that watch them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat import logs
from caffestat.errors import InputError
from caffestat.net import read_solver
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.training import Training
from caffestat.training.events import Event, Iteration, Statistics
from caffestat.training.statistics import Signal, SignalFile

NET = """name: "n"
layer {{ name: "data" type: "DummyData" top: "x" top: "label" dummy_data_param {{
  shape {{ dim: 6 dim: 5 }} shape {{ dim: 6 }}
  data_filler {{ type: "gaussian" std: 1 }} data_filler {{ type: "uniform" min: 0 max: 2.99 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param {{ num_output: 7 weight_filler {{ type: "gaussian" std: {std} }}
  bias_filler {{ type: "constant" value: {bias} }} }} }}
layer {{ name: "act" type: "{kind}" bottom: "ip" top: "ip" }}
layer {{ name: "top" type: "InnerProduct" bottom: "ip" top: "top"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "gaussian" std: 1 }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "top" bottom: "label" }}
"""


def events(folder: Path, solver: str, stats: int, kind: str = "ReLU", std: float = 1, bias: float = 0) -> list[Event]:
    (folder / "net.prototxt").write_text(NET.format(kind=kind, std=std, bias=bias))
    (folder / "solver.prototxt").write_text(
        f'net: "net.prototxt" lr_policy: "fixed" snapshot_after_train: false {solver}'
    )
    made = read_solver(str(folder / "solver.prototxt"))
    training = Training(made, NetOptions(), ValueOptions(), RunOptions(device="cpu"), seed=3, stats=stats)
    return list(training.events())


def test_signals_of_every_third_iteration(tmp_path: Path) -> None:
    found = events(tmp_path, "base_lr: 0.1 max_iter: 7", 3)
    recorded = [event for event in found if isinstance(event, Statistics)]
    assert [event.iteration for event in recorded] == [0, 3, 6]
    assert isinstance(found[found.index(recorded[1]) - 1], Iteration)
    values = recorded[0].values
    # of a plain gradient step the update is the rate times the gradient
    for layer in ("ip", "top"):
        diff, update = (values[Signal(quantity, layer, "0")] for quantity in ("param_diff", "update"))
        assert update == pytest.approx(0.1 * diff, rel=1e-5)
        ratio = values[Signal("update_ratio", layer, "0")]
        assert ratio == pytest.approx(update / values[Signal("param", layer, "0")], rel=0.05)  # before and after it
    assert 0.2 < values[Signal("zeros", "act", "ip")] < 0.8
    assert not any(signal.quantity == "saturated" for signal in values)


ACTIVATION = """layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 40 dim: 30 }} }} }}
layer {{ name: "act" type: "{}" bottom: "x" top: "y" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "y" top: "ip" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 }}
"""


@pytest.mark.parametrize(("kind", "limit"), [("Sigmoid", 0.0125), ("TanH", 0.05)])
def test_saturated_units_are_those_of_a_small_slope(kind: str, limit: float, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32) * 4
    (tmp_path / "net.prototxt").write_text(ACTIVATION.format(kind))
    solver = 'net: "net.prototxt" lr_policy: "fixed" base_lr: 0 max_iter: 1 snapshot_after_train: false'
    (tmp_path / "solver.prototxt").write_text(solver)
    made = read_solver(str(tmp_path / "solver.prototxt"))
    training = Training(made, NetOptions(), ValueOptions(), RunOptions("cpu", inputs={"x": x}), seed=3, stats=1)
    (event,) = (event for event in training.events() if isinstance(event, Statistics))
    y = 1 / (1 + np.exp(-x)) if kind == "Sigmoid" else np.tanh(x)
    slope = y * (1 - y) if kind == "Sigmoid" else 1 - y * y
    assert 0.1 < (slope < limit).mean() < 0.9
    assert event.values[Signal("saturated", "act", "y")] == pytest.approx((slope < limit).mean(), abs=1e-6)


def test_the_statistics_change_nothing(tmp_path: Path) -> None:
    plain, watched = (
        [
            event.loss
            for event in events(tmp_path, "base_lr: 0.1 max_iter: 6 iter_size: 2", stats)
            if isinstance(event, Iteration)
        ]
        for stats in (0, 2)
    )
    assert plain == pytest.approx(watched, rel=1e-6)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_files(suffix: str, tmp_path: Path) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    file = SignalFile(tmp_path / f"signals{suffix}")
    file.add(0, {Signal("top", "a", "x"): 1.5})
    file.add(10, {Signal("top", "a", "x"): 2.5, Signal("param", "b/c", "0"): 0.25})
    file.save()
    if suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(tmp_path / "signals.parquet").to_pydict()
        assert list(table) == ["iteration", "top/a/x", "param/b/c/0"]
        assert (table["iteration"], table["top/a/x"], table["param/b/c/0"][1]) == ([0, 10], [1.5, 2.5], 0.25)
        return
    with np.load(tmp_path / "signals.npz") as arrays:
        assert arrays["iteration"].tolist() == [0, 10]
        assert [arrays[name].tolist() for name in ("quantity", "layer", "name")] == [
            ["top", "param"],
            ["a", "b/c"],
            ["x", "0"],
        ]
        np.testing.assert_array_equal(arrays["values"], np.array([[1.5, np.nan], [2.5, 0.25]], np.float32))


def test_other_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"signals\.txt: expected a name that ends in \.npz or \.parquet"):
        SignalFile("signals.txt")


def test_a_folder_that_is_not_there_is_refused_at_once() -> None:
    with pytest.raises(InputError, match=r"no/signals\.npz: cannot be written: there is no folder 'no'; create"):
        SignalFile("no/signals.npz")


def alerts(found: list[Event]) -> dict[str, logs.Alert]:
    watch = logs.Watch()
    return {alert.rule: alert for event in found for alert in watch.see(event)}


def test_a_net_that_is_well(tmp_path: Path) -> None:
    assert alerts(events(tmp_path, "base_lr: 0.01 max_iter: 30", 5)) == {}


def test_a_dead_relu_is_told_with_its_layer(tmp_path: Path) -> None:
    found = alerts(events(tmp_path, "base_lr: 0.01 max_iter: 3", 1, bias=-50))
    assert (found["dead-relu"].subject, found["dead-relu"].iteration) == ("act", 0)
    assert "zero" in found


def test_saturated_units_are_told(tmp_path: Path) -> None:
    assert alerts(events(tmp_path, "base_lr: 0.01 max_iter: 1", 1, "Sigmoid", std=300))["saturated"].subject == "act"


def test_a_run_that_diverges(tmp_path: Path) -> None:
    found = alerts(events(tmp_path, "base_lr: 1e6 max_iter: 40", 1))
    assert found["update-ratio"].subject in ("ip", "top")
    assert "loss-nan" in found or "loss-cap" in found or "explosion" in found


def test_updates_that_are_too_small(tmp_path: Path) -> None:
    found = alerts(events(tmp_path, "base_lr: 1e-7 max_iter: 12", 2))
    assert "too small" in found["update-ratio"].message


def test_poor_initialisations(tmp_path: Path) -> None:
    watch = logs.Watch()
    found = [alert for event in events(tmp_path, "base_lr: 0.01 max_iter: 1", 1, std=1e5) for alert in watch.see(event)]
    assert [alert.subject for alert in found if alert.rule == "poor-initialisation"] == [
        "the initialisation",
        "the gradient",
    ]
