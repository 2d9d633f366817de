"""Diagnoses: the first bad blob of each kind, dead layers, trends, and comparisons of two logs."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffestat.api.compare import passes_of
from caffestat.errors import Place
from caffestat.logs import Diagnosis, Key, Output, Pass, compare, diagnose, diagnose_log, diagnosis_lines, read_log

ROOT = Path(__file__).parent.parent.parent
RAW = ROOT / "tests" / "golden" / "raw_logs"

TOP = Key("forward", "conv", "top", "conv")
DEEP = Key("forward", "fc", "top", "fc")
DIFF = Key("backward", "conv", "param", "0")
LAST = Key("backward", "fc", "param", "0")


def passes(*values: dict[Key, float], test_net: int | None = None) -> list[Pass]:
    """Return passes at iterations 0, 10, 20, … that start at lines 1, 101, 201, …, their values one line later."""
    return [
        Pass(
            1 + 100 * index, test_net, 10 * index, values=value, lines=[2 + 100 * index + n for n in range(len(value))]
        )
        for index, value in enumerate(values)
    ]


def test_a_sound_log_is_healthy() -> None:
    found = diagnose(passes({TOP: 0.5, DIFF: 0.1}, {TOP: 0.6, DIFF: 0.05}))
    assert found.is_healthy
    assert (found.passes, found.first_iteration, found.last_iteration) == (2, 0, 10)
    assert found.trends[TOP].factor == pytest.approx(1.2)


@pytest.mark.parametrize(("bad", "kind"), [(math.nan, "nan"), (math.inf, "inf"), (0.0, "zero"), (600.0, "explosion")])
def test_the_first_bad_blob_is_named(bad: float, kind: str) -> None:
    found = diagnose(passes({TOP: 0.5, DEEP: 0.2}, {TOP: 0.5, DEEP: 0.3}, {TOP: bad, DEEP: 0.3}, {TOP: bad, DEEP: bad}))
    event = found.events[kind]
    assert (event.key, event.iteration, event.line) == (TOP, 20, 202)
    assert event.before == 0.5
    assert not found.is_healthy


def test_a_trend_ends_with_what_the_log_ends_with() -> None:
    found = diagnose(passes({TOP: 0.5, DEEP: 0.2}, {TOP: 0.0, DEEP: 0.4}, {TOP: math.nan, DEEP: math.inf}))
    assert found.dead == []
    assert math.isnan(found.trends[TOP].last)
    assert found.trends[DEEP].factor == math.inf


def test_a_gradient_that_has_vanished_towards_the_input() -> None:
    found = diagnose(passes({DIFF: 0.1, LAST: 0.2}, {DIFF: 1e-8, LAST: 0.2}))
    event = found.events["vanishing"]
    assert (event.key, event.iteration, event.before) == (DIFF, 10, 0.2)


@pytest.mark.parametrize(
    "small", [{DIFF: 1e-8}, {DIFF: 1e-8, LAST: 0.0}, {DIFF: 1e-8, Key("backward", "fc", "param", "1"): 9}]
)
def test_what_a_gradient_is_no_smaller_than(small: dict[Key, float]) -> None:
    """A dead layer and biases are not compared with."""
    assert "vanishing" not in diagnose(passes(small)).events


def test_a_vanished_gradient_is_told_once_and_of_the_train_net() -> None:
    faded = {DIFF: 1e-8, LAST: 0.2}
    assert diagnose(passes(faded, {DIFF: 1e-9, LAST: 0.2})).events["vanishing"].iteration == 0
    assert "vanishing" not in diagnose(passes(faded, test_net=0)).events


@pytest.mark.parametrize(
    ("key", "explodes"),
    [
        (Key("forward", "fc", "param", "fc_w"), True),
        (Key("backward", "fc", "bottom", "conv"), True),
        (LAST, False),  # gradients of params vary more
        (Key("forward", "l", "top", "loss"), False),
    ],
)
def test_what_explodes(key: Key, explodes: bool) -> None:
    assert ("explosion" in diagnose(passes({key: 0.5}, {key: 501.0})).events) == explodes
    assert "explosion" not in diagnose(passes({key: 0.5}, {key: 499.0})).events
    assert ("explosion" in diagnose(passes({key: 0.5}, {key: 51.0}), growth=100).events) == explodes


def test_a_blob_that_begins_at_zero_has_not_exploded() -> None:
    found = diagnose(passes({LAST: 0.5, TOP: 0.0}, {LAST: 0.5, TOP: 7.0}))
    assert "explosion" not in found.events
    assert found.trends[TOP].factor == math.inf


def test_the_factor_of_what_stays_zero() -> None:
    assert diagnose(passes({TOP: 0.0}, {TOP: 0.0})).trends[TOP].factor == 1


def test_losses_and_outputs_have_trends() -> None:
    found = diagnose(
        Pass(1, None, n, loss=2.0 - n, outputs=[Output("acc", 0.25 + n, 0), Output("ce", 1.0, 1)]) for n in range(2)
    )
    assert [(name, trend.first, trend.last) for name, trend in found.outputs.items()] == [
        ("loss", 2, 1),
        ("output acc", 0.25, 1.25),
        ("output ce", 1, 1),
    ]


def test_layers_that_are_zero_at_the_end_are_dead() -> None:
    found = diagnose(passes({TOP: 0.5, DEEP: 0.0}, {TOP: 0.0, DEEP: 0.1}))
    assert found.dead == [TOP]


def test_a_loss_an_accuracy_and_a_bias_may_be_zero() -> None:
    keys = [
        Key("forward", "l", "top", "loss"),
        Key("forward", "a", "top", "accuracy"),
        Key("backward", "c", "param", "1"),
        Key("backward", "c", "bottom", "0"),
        Key("forward", "c", "param", "0"),
    ]
    assert diagnose(passes(dict.fromkeys(keys, 0.0))).is_healthy


def test_test_nets_have_no_trend_but_may_be_bad() -> None:
    found = diagnose([*passes({TOP: 0.5}), *passes({TOP: math.nan}, test_net=0)])
    assert (found.passes, found.tests) == (1, 1)
    assert found.trends[TOP].count == 1
    assert found.events["nan"].line == 2


def test_what_is_predicted_stands_beside_what_was_logged() -> None:
    net = str(ROOT / "tests" / "golden" / "lenet_like" / "net.prototxt")
    found = diagnose_log(str(RAW / "lenet_like.log"), net)
    for name in ("conv1", "ip1", "ip2"):
        trend = found.trends[Key("forward", name, "top", name)]
        assert trend.expected == pytest.approx(trend.first, rel=0.6)  # one draw of few filters
    for key in (
        Key("forward", "ip1", "param", "0"),
        Key("backward", "ip1", "param", "0"),
        Key("backward", "ip2", "bottom", "ip1"),
    ):
        assert found.trends[key].expected == pytest.approx(found.trends[key].first, rel=0.6), key
    text = "\n".join(diagnosis_lines(found))
    assert "3 passes of the train net, iterations 0 to 2; 6 of test nets" in text
    assert "no problems found" in text


def test_an_event_has_the_line_of_its_layer() -> None:
    net = str(ROOT / "tests" / "golden" / "lenet_like" / "net.prototxt")
    places = {"conv2": Place(net, 33)}
    key = Key("forward", "conv2", "top", "conv2")
    found: Diagnosis = diagnose(passes({key: 1.0}, {key: math.nan}), {}, places)
    line = next(line for line in diagnosis_lines(found) if line.startswith("first nan"))
    assert f"{net}:33" in line
    assert "iteration 10, line 102" in line


def test_equal_logs_do_not_differ() -> None:
    log = str(RAW / "rules.log")
    assert list(compare(read_log(log), read_log(log), 0.0, 0.0)) == []


def test_differences_beyond_the_tolerance_are_named() -> None:
    a, b = passes({TOP: 1.0, DEEP: 2.0}, {TOP: 1.0}), passes({TOP: 1.0005, DEEP: 2.2})
    found = list(compare(a, b, 1e-3, 0.0))
    assert [(one.iteration, one.key) for one in found] == [(0, DEEP), (10, None)]
    assert str(found[0]) == "iteration 0: layer fc, top blob fc data: 2 and 2.2 (0.091 apart)"
    assert str(found[1]) == "iteration 10: only A has this pass"
    assert list(compare(a[:1], b, 0.1, 0.0)) == []
    assert list(compare(passes({TOP: math.nan}), passes({TOP: math.nan}), 0.0, 0.0)) == []
    assert len(list(compare(passes({TOP: math.nan}), passes({TOP: 1.0}), 1.0, 9.0))) == 1
    assert next(map(str, compare(passes({TOP: 1.0}), passes({DEEP: 1.0}), 0.0, 0.0))).endswith("only in A")


def test_a_run_agrees_with_caffes_log_of_the_same_seed() -> None:
    folder = ROOT / "tests" / "golden" / "shared_params"
    logged = next(read_log(str(RAW / "shared_params.log")))
    (run,) = passes_of(str(folder / "solver.prototxt"))
    assert list(compare([logged], [run], 1e-3, 1e-6)) == []


NET = """
input: "data" input_shape { dim: 6 dim: 3 dim: 9 dim: 7 }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 50 weight_filler { type: "xavier" } } }
layer { name: "read" type: "EuclideanLoss" bottom: "ip" bottom: "other" top: "loss" }
"""


def logged(tmp_path: Path, data: float, ip: float) -> str:
    path = tmp_path / "train.log"
    lines = [("input", "data", data), ("ip", "ip", ip), ("read", "loss", 0.5)]
    path.write_text("".join(f"[Forward] Layer {layer}, top blob {blob} data: {v}\n" for layer, blob, v in lines))
    return str(path)


def test_predictions_take_the_size_of_the_data_from_the_log(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(NET.split('layer { name: "read"')[0])
    found = diagnose_log(logged(tmp_path, 80.0, 80.0), str(net))
    assert found.trends[Key("forward", "input", "top", "data")].expected == pytest.approx(80.0, rel=0.02)
    assert found.trends[Key("forward", "ip", "top", "ip")].expected == pytest.approx(80.0, rel=0.05)


def test_a_net_that_cannot_be_built_does_not_stop_the_diagnosis(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(NET)
    found = diagnose_log(logged(tmp_path, 0.8, math.nan), str(net))
    assert "other" in found.warnings[0]
    assert found.events["nan"].place == Place(str(net), 3, 1)
    assert found.events["nan"].line == 2


def test_sizes_of_the_net_come_from_its_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("x.h5", "w") as file:
        file["x"] = np.ones((4, 3), np.float32)
    Path("x.txt").write_text("x.h5\n")
    Path("net.prototxt").write_text(
        'layer { name: "data" type: "HDF5Data" top: "x" hdf5_data_param { source: "x.txt" batch_size: 2 } }\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y"'
        ' inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }'
    )
    Path("train.log").write_text("    [Forward] Layer fc, top blob y data: 0.8\n")
    found = diagnose_log("train.log", "net.prototxt")
    assert found.warnings == []
    assert found.trends[Key("forward", "fc", "top", "y")].expected == pytest.approx(0.8, rel=0.2)
