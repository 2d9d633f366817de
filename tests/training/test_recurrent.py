"""Recurrent layers over several passes: the state that is kept, and the lines of the unrolled net."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffestat.net import read_solver
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.report import TrainingLog
from caffestat.training import Training
from caffestat.training.events import EndTest, Iteration

NET = """name: "r"
layer {{ name: "in" type: "Input" top: "x" top: "cont" input_param {{
  shape {{ dim: {steps} dim: 2 dim: 3 }} shape {{ dim: {steps} dim: 2 }} }} }}
layer {{ name: "rec" type: "{kind}" bottom: "x" bottom: "cont" top: "h"
  recurrent_param {{ num_output: 4 {more} weight_filler {{ type: "uniform" min: -0.7 max: 0.7 }} }} {rest} }}
layer {{ name: "loss" type: "Reduction" bottom: "h" top: "loss" reduction_param {{ operation: SUMSQ }} loss_weight: 1 }}
"""
SOLVER = 'net: "net.prototxt" base_lr: 0 lr_policy: "fixed" snapshot_after_train: false random_seed: 5 '


def training(
    folder: Path, kind: str, steps: int, solver: str, inputs: dict, more: str = "", rest: str = ""
) -> Training:
    (folder / "net.prototxt").write_text(NET.format(kind=kind, steps=steps, more=more, rest=rest))
    (folder / "solver.prototxt").write_text(SOLVER + solver)
    run = RunOptions(device="cpu", inputs=inputs, inputs_hold="zeros")
    made = read_solver(str(folder / "solver.prototxt"))
    return Training(made, NetOptions(), ValueOptions(), run, seed=5)


def data(steps: int, marks: float) -> dict[str, np.ndarray]:
    x = np.random.default_rng(2).normal(size=(2, 2, 3)).astype(np.float32)
    return {"x": np.concatenate([x] * (steps // 2)), "cont": np.full((steps, 2), marks, np.float32)}


def losses(made: Training) -> list[float]:
    return [event.loss for event in made.events() if isinstance(event, Iteration)]


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_a_pass_begins_with_the_state_that_the_one_before_left(kind: str, tmp_path: Path) -> None:
    """Three passes of two timesteps are one pass of six, and without marks all passes are the first."""
    (whole,) = losses(training(tmp_path, kind, 6, "max_iter: 1", data(6, 1)))
    parts = losses(training(tmp_path, kind, 2, "max_iter: 3", data(2, 1)))
    assert sum(parts) == pytest.approx(whole, rel=1e-5)
    assert parts[0] != pytest.approx(parts[1], rel=1e-3)
    assert len(set(losses(training(tmp_path, kind, 2, "max_iter: 3", data(2, 0))))) == 1


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_micro_batches_go_on_and_test_nets_keep_a_state_of_their_own(kind: str, tmp_path: Path) -> None:
    (whole,) = losses(training(tmp_path, kind, 6, "max_iter: 1", data(6, 1)))
    (mean,) = losses(training(tmp_path, kind, 2, "max_iter: 1 iter_size: 3", data(2, 1)))
    assert mean * 3 == pytest.approx(whole, rel=1e-5)
    tested = training(tmp_path, kind, 2, "max_iter: 1 test_iter: 3 test_interval: 1", data(2, 1))
    events = [event for event in tested.events() if isinstance(event, (EndTest, Iteration))]
    first, train, second = events
    assert first.outputs[0].value * 3 == pytest.approx(whole, rel=1e-5)
    (alone,) = losses(training(tmp_path, kind, 2, "max_iter: 1", data(2, 1)))
    assert train.loss == alone  # the test's passes have not touched the train net's state
    longer = losses(training(tmp_path, kind, 2, "max_iter: 6", data(2, 1)))
    assert second.outputs[0].value * 3 == pytest.approx(sum(longer[3:]), rel=1e-5)  # the second test goes on


def test_a_layer_in_place_behind_one_timestep_writes_over_its_state(tmp_path: Path) -> None:
    """Concat of one bottom shares memory: Exp writes over h_1, where the next pass begins. Losses are real Caffe's."""
    ones = 'type: "DummyData" top: "x" top: "cont" dummy_data_param { data_filler { value: 1 } data_filler { value: 1 }'
    made = training(tmp_path, "LSTM", 1, "max_iter: 3", {}, rest='} layer { name: "e" type: "Exp" bottom: "h" top: "h"')
    net = (tmp_path / "net.prototxt").read_text()
    net = net.replace('type: "Input" top: "x" top: "cont" input_param {', ones)
    (tmp_path / "net.prototxt").write_text(net)
    made = Training(read_solver(made.solver.name), NetOptions(), ValueOptions(), RunOptions(device="cpu"), seed=5)
    assert losses(made) == pytest.approx([7.8183, 7.79451, 7.97502], rel=1e-5)


LAYERS = {
    "RNN": [
        "rec_ x cont",
        "rec_ h_0",
        "rec_cont_slice cont_1 cont_2",
        "rec_x_transform W_xh_x",
        "rec_W_xh_x_slice W_xh_x_1 W_xh_x_2",
        "rec_h_conted_0 h_conted_0",
        "rec_W_hh_h_0 W_hh_h_0",
        "rec_h_input_sum_1 h_neuron_input_1",
        "rec_h_neuron_1 h_1",
        "h_1_rec_h_neuron_1_0_split h_1_rec_h_neuron_1_0_split_0 h_1_rec_h_neuron_1_0_split_1",
        "rec_W_ho_h_1 W_ho_h_1",
        "rec_o_neuron_1 o_1",
        "rec_h_conted_1 h_conted_1",
        "rec_W_hh_h_1 W_hh_h_1",
        "rec_h_input_sum_2 h_neuron_input_2",
        "rec_h_neuron_2 h_2",
        "rec_W_ho_h_2 W_ho_h_2",
        "rec_o_neuron_2 o_2",
        "rec_o_concat o",
    ],
    "LSTM": [
        "rec_ x cont",
        "rec_ c_0 h_0",
        "rec_cont_slice cont_1 cont_2",
        "cont_1_rec_cont_slice_0_split cont_1_rec_cont_slice_0_split_0 cont_1_rec_cont_slice_0_split_1",
        "cont_2_rec_cont_slice_1_split cont_2_rec_cont_slice_1_split_0 cont_2_rec_cont_slice_1_split_1",
        "rec_x_transform W_xc_x",
        "rec_W_xc_x_slice W_xc_x_1 W_xc_x_2",
        "rec_h_conted_0 h_conted_0",
        "rec_transform_1 W_hc_h_0",
        "rec_gate_input_1 gate_input_1",
        "rec_unit_1 c_1 h_1",
        "h_1_rec_unit_1_1_split h_1_rec_unit_1_1_split_0 h_1_rec_unit_1_1_split_1",
        "rec_h_conted_1 h_conted_1",
        "rec_transform_2 W_hc_h_1",
        "rec_gate_input_2 gate_input_2",
        "rec_unit_2 c_2 h_2",
        "rec_ c_T",
        "rec_h_concat h",
    ],
}


# the layers without a name of their own follow each other: where the second begins
BEGIN = {"RNN": {("rec_", "h_0")}, "LSTM": {("rec_", "c_0")}}


def untimed(line: str) -> str:
    return re.sub(r"[^ (]+ iter/s, [^ ]+s/", "", line)


def lines(made: Training) -> list[str]:
    log = TrainingLog(made.solver, 5)
    return [line for event in made.events() for line in log.lines(event)]


@pytest.mark.parametrize("kind", LAYERS)
def test_lines_of_the_unrolled_net(kind: str, tmp_path: Path) -> None:
    """They come at every pass, whatever the solver's display, in front of those of the layer itself."""
    found = lines(training(tmp_path, kind, 2, "max_iter: 2", data(2, 1), "debug_info: true"))
    tops: list[list[str]] = []
    for layer, blob in re.findall(r"\[Forward\] Layer (\S+), top blob (\S+) data", "\n".join(found)):
        begins = not tops or tops[-1][0] != layer or (layer, blob) in BEGIN[kind]
        tops += [[layer]] if begins else []
        tops[-1].append(blob)
    assert [" ".join(top) for top in tops] == LAYERS[kind] * 2
    params = {"RNN": "W_xh b_h W_hh W_ho b_o W_hh W_ho b_o", "LSTM": "W_xc b_c W_hc W_hc"}[kind].split()
    assert re.findall(r"\[Forward\] .* param blob (\S+) data", "\n".join(found)) == params * 2
    assert not any("All net params" in line or "Layer loss" in line or "Layer rec," in line for line in found)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_inside_add_up_over_timesteps_and_micro_batches(kind: str, tmp_path: Path) -> None:
    solver = "max_iter: 1 iter_size: 2 debug_info: true display: 1"
    found = lines(training(tmp_path, kind, 2, solver, data(2, 0), "debug_info: true"))
    backward = [line for line in found if "[Backward]" in line and "param blob" in line]
    first, second = backward[: len(backward) // 2], backward[len(backward) // 2 :]
    weight = {"RNN": "rec_W_hh_h_", "LSTM": "rec_transform_"}[kind]
    outer = {"RNN": "rec, param blob 2", "LSTM": "rec, param blob 2"}[kind]

    def values(part: list[str], what: str) -> list[float]:
        return [float(line.split(": ")[-1]) for line in part if what in line]

    assert values(first, weight)[-1] == values(first, outer)[0]  # the whole gradient, after the first timestep's
    for what in ("rec_x_transform, param blob 0", "rec_x_transform, param blob 1", outer):
        assert values(second, what) == pytest.approx([2 * value for value in values(first, what)], rel=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_frozen_params_have_gradients_that_count(kind: str, tmp_path: Path) -> None:
    """The unrolled net knows no lr_mult: with 0 the gradient's line is left out, but clipping and norms have it."""
    solver = "max_iter: 1 debug_info: true display: 1 clip_gradients: 0.01"
    free = lines(training(tmp_path, kind, 2, solver, data(2, 1)))
    frozen = lines(training(tmp_path, kind, 2, solver, data(2, 1), rest="param { lr_mult: 0 }"))
    kept = [line for line in free if "Layer rec, param blob 0 diff" not in line]
    assert len(kept) == len(free) - 1 and list(map(untimed, kept)) == list(map(untimed, frozen))
    assert any("Gradient clipping" in line for line in kept) and any("All net params" in line for line in kept)
