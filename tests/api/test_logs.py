"""compare and diagnose: a solver's state counts, and its own log is equal to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

import caffestat
from caffestat.api.pages import compare_page
from caffestat.errors import InputError
from caffestat.report import debug_lines

NET = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 3 dim: 5 } } }
layer { name: "label" type: "DummyData" top: "t" dummy_data_param { shape { dim: 3 dim: 2 } } }
layer { name: "wide" type: "InnerProduct" bottom: "x" top: "h" include { stage: "wide" }
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "narrow" type: "InnerProduct" bottom: "x" top: "h" exclude { stage: "wide" }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "h" top: "y"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" random_seed: 5 train_state { stage: "wide" }
test_iter: 2 test_interval: 10 test_state { stage: "wide" }
"""


@pytest.fixture
def solver(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(NET)
    path = tmp_path / "solver.prototxt"
    path.write_text(SOLVER)
    return path


def test_the_log_of_a_solver_equals_the_solver(solver: Path) -> None:
    log = solver.with_suffix(".log")
    log.write_text("\n".join(caffestat.debug(solver)))
    assert list(caffestat.compare(log, solver, rtol=0.0, atol=0.0)) == []
    solver.write_text(SOLVER.replace("random_seed: 5", "random_seed: 6"))
    found = list(caffestat.compare(log, solver))
    assert {one.key.layer for one in found if one.key} >= {"wide", "ip"}
    solver.write_text(SOLVER.replace('stage: "wide"', ""))
    assert "narrow" in {one.key.layer for one in caffestat.compare(log, solver) if one.key}


def test_losses_and_outputs_of_plain_logs_are_compared(solver: Path) -> None:
    said = "Iteration 0, loss = 2\n    Train net output #0: acc = 0.25\nIteration 0, lr = 0.1\n"
    one, other = solver.with_name("a.log"), solver.with_name("b.log")
    one.write_text(said + said.replace("0,", "10,").replace("= 2", "= 1"))
    other.write_text(said + said.replace("0,", "10,").replace("0.25", "0.5").replace("= 2", "= 1.5"))
    found = list(map(str, caffestat.compare(one, other)))
    assert found == [
        "iteration 10: loss: 1 and 1.5 (0.33 apart)",
        "iteration 10: output #0 acc: 0.25 and 0.5 (0.5 apart)",
    ]
    assert list(caffestat.compare(one, one)) == []


def test_the_expectations_of_a_solver_are_those_of_its_state(solver: Path) -> None:
    log = solver.with_suffix(".log")
    log.write_text("\n".join(caffestat.debug(solver)))
    found = caffestat.diagnose(log, net=solver)
    expected = {key.layer: trend.expected for key, trend in found.trends.items() if key.role == "top"}
    assert expected["wide"] is not None
    assert "narrow" not in expected
    assert found.tests == 2


def test_the_weights_of_a_solver_count_as_in_its_log(solver: Path) -> None:
    weights = solver.with_name("w.caffemodel")
    drawn = caffestat.fill(solver, weights, seed=9)
    solver.write_text(SOLVER + 'weights: "w.caffemodel"')
    assert set(debug_lines(caffestat.analyze(solver, inputs_hold="zeros"))) <= set(caffestat.debug(solver))
    caffestat.convert(solver, solver.with_name("net.onnx"))
    held = {tensor.name: to_array(tensor) for tensor in onnx.load(solver.with_name("net.onnx")).graph.initializer}
    assert np.array_equal(held["wide/0"], drawn.values[0])


def test_missing_weights_of_a_solver_are_told(solver: Path) -> None:
    solver.write_text(SOLVER + 'weights: "w.caffemodel"')
    assert "weights: file not found" in "".join(map(str, caffestat.analyze(solver, static=True).findings))


@pytest.mark.parametrize("compare", [caffestat.compare, compare_page])
def test_the_standard_input_is_one_log(compare: Callable[..., object]) -> None:
    with pytest.raises(InputError, match="the standard input is one log"):
        compare("-", "-")
