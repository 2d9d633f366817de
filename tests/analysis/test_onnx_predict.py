"""Predictions of ONNX models: what is predicted, from what, and what is left unknown."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffestat
from caffestat.analysis import predict
from caffestat.errors import InputError
from caffestat.program.from_onnx import from_onnx
from caffestat.report import LayerRow, Report

from ..graph.models import model, normal, value
from .test_onnx_measure import DENSE, B, W, image_net

node = helper.make_node


def predicted(proto: onnx.ModelProto, folder: Path, **options: object) -> Report:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return caffestat.analyze(str(path), predict=True, **{"static": True, **options})


def row(report: Report, name: str) -> LayerRow:
    return next(layer for layer in report.layers if layer.name == name)


def test_values_gradients_and_params_are_predicted_from_the_weights_without_a_run(tmp_path: Path) -> None:
    report = predicted(image_net(), tmp_path, batch=8)
    conv, relu, dense = row(report, "/conv/Conv"), row(report, "/Relu"), row(report, "MatMul_0")
    spread = math.sqrt(18 * np.square(W).mean() + np.square(B).mean())
    assert conv.tops[0].predicted == pytest.approx(spread * math.sqrt(2 / math.pi), rel=0.05)
    assert relu.tops[0].predicted == pytest.approx(spread / math.sqrt(2 * math.pi), rel=0.1)
    assert [p.predicted for p in conv.params] == pytest.approx([abs(W).mean(), abs(B).mean()], rel=0.05)
    dm = math.sqrt(5 * np.square(DENSE).mean()) * math.sqrt(2 / math.pi)
    assert dense.bottom_diffs[0].predicted == pytest.approx(dm, rel=0.1)
    assert dense.params[0].diff_predicted > 0
    assert dense.bottom_diffs[0].mean_abs is None
    assert report.device is None


def test_nodes_with_weights_have_gains(tmp_path: Path) -> None:
    report = predicted(image_net(), tmp_path)
    conv, dense = row(report, "/conv/Conv").gain, row(report, "MatMul_0").gain
    assert row(report, "/Relu").gain is None
    assert conv is not None
    assert dense is not None
    second = {name: float(np.square(array).mean()) for name, array in {"conv": W, "dense": DENSE}.items()}
    assert dense.forward == pytest.approx(6 * second["dense"], rel=0.02)  # nothing follows
    assert conv.forward < 18 * second["conv"]  # ReLU and the mean over places leave less
    assert dense.product == pytest.approx(conv.forward * dense.forward)
    assert dense.backward == pytest.approx(5 * second["dense"], rel=0.02)
    assert conv.product_backward == pytest.approx(conv.backward * dense.backward)


def test_predictions_agree_with_what_is_measured(tmp_path: Path) -> None:
    report = predicted(image_net(), tmp_path, static=False, batch=64, device="cpu")
    for layer in report.layers:
        for top in layer.tops:
            assert top.predicted == pytest.approx(top.mean_abs, rel=0.25)
        for diff in layer.bottom_diffs:
            assert diff.predicted == pytest.approx(diff.mean_abs, rel=0.25)


def test_given_inputs_count_instead_of_noise(tmp_path: Path) -> None:
    proto = model([node("Abs", ["x"], ["y"])], {"x": (3, 4)}, ["y"])
    report = predicted(proto, tmp_path, inputs={"x": np.full((3, 4), -2.5, np.float32)})
    assert report.layers[0].tops[0].predicted == pytest.approx(2.5)
    with pytest.raises(InputError, match=r"--input x: has shape \(2,\)"):
        predicted(proto, tmp_path, inputs={"x": np.ones(2, np.float32)})


def test_samples_of_a_given_input_that_are_alike_stay_alike(tmp_path: Path) -> None:
    """The mean over equal samples is as large as one of them, that over noise smaller by their root."""
    proto = model([node("ReduceMean", ["x", "batch"], ["y"])], {"x": (16, 50)}, ["y"], {"batch": np.array([0])})
    one = normal(1, 50)
    alike = predicted(proto, tmp_path, inputs={"x": np.repeat(one, 16, axis=0)}).layers[0].tops[0].predicted
    noise = predicted(proto, tmp_path).layers[0].tops[0].predicted
    assert alike == pytest.approx(abs(one).mean(), rel=0.1)
    assert noise == pytest.approx(math.sqrt(2 / math.pi / 16), rel=0.02)


def test_drawn_integers_are_rows_of_their_table_or_ones(tmp_path: Path) -> None:
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    nodes = [node("Gather", ["table", "ids"], ["rows"]), node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT)]
    nodes += [node("Cast", ["ids"], ["i"], to=TensorProto.FLOAT)]
    inputs = [value("ids", (5, 7), TensorProto.INT64), value("mask", (5,), TensorProto.INT64)]
    report = predicted(model(nodes, inputs, ["rows", "m", "i"], {"table": table}), tmp_path)
    assert row(report, "Gather_0").tops[0].predicted == pytest.approx(table.mean(), rel=0.01)
    assert row(report, "Cast_0").tops[0].predicted == pytest.approx(1)
    assert row(report, "Cast_1").tops[0].predicted == pytest.approx(4.5, rel=0.01)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("noise", math.sqrt(2 / math.pi)), ("ones", 1.0), ("y", 1.0), ("cross-entropy", 2 * 3 / 4**2 / 64)],
)
def test_the_gradient_starts_at_the_loss(tmp_path: Path, loss: str, expected: float) -> None:
    proto = model([node("Mul", ["x", "small"], ["y"])], {"x": (64, 4)}, ["y"], {"small": np.array(1e-3, np.float32)})
    report = predicted(proto, tmp_path, loss=loss)
    (diff,) = report.layers[0].bottom_diffs
    assert diff.predicted == pytest.approx(1e-3 * expected, rel=0.02)
    measured = predicted(proto, tmp_path, static=False, loss=loss, device="cpu").layers[0].bottom_diffs[0]
    assert measured.predicted == diff.predicted
    assert measured.mean_abs == pytest.approx(diff.predicted, rel=0.1)


def test_a_loss_that_is_not_there_is_refused_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--loss ghost"):
        predicted(image_net(), tmp_path, loss="ghost")
    assert predicted(image_net(), tmp_path, forward_only=True).layers[0].gain.backward is None


def test_ops_that_are_not_predicted_are_named_once_and_leave_what_follows_blank(tmp_path: Path) -> None:
    nodes = [
        node("Tanh", ["x"], ["a"], name="before"),
        node("Det", ["a"], ["d"]),
        node("Det", ["a"], ["e"]),
        node("Add", ["d", "e"], ["y"], name="behind"),
        node("Abs", ["a"], ["z"], name="beside"),
    ]
    report = predicted(model(nodes, {"x": (1, 65, 65)}, ["y", "z"]), tmp_path, static=False, device="cpu")
    reason = "there is no moments rule for op Det; what depends on it is not predicted"
    assert report.notes[1:] == (f"the prediction stops at 'Det_0', 'Det_1' (Det): {reason}",)
    assert row(report, "before").tops[0].predicted is not None
    assert row(report, "behind").tops[0].predicted is None
    assert row(report, "beside").tops[0].predicted is not None
    assert row(report, "before").bottom_diffs == ()  # neither measured nor predicted


def test_nodes_of_the_loss_are_not_named(tmp_path: Path) -> None:
    proto = model([node("Det", ["x"], ["y"])], {"x": (3, 3)}, ["y"])
    report = predicted(proto, tmp_path, loss="ones")
    [note] = [note for note in report.notes if "stops at" in note]
    assert note.startswith("the prediction stops at 'Det_0' (Det): there is no moments rule for op Det")


def test_weights_that_are_not_finite_are_unknown(tmp_path: Path) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": np.full((3, 4), np.nan, np.float32)})
    assert predicted(proto, tmp_path).layers[0].tops[0].predicted is None


def test_the_model_stays_as_it_was() -> None:
    from caffestat.graph.load import load

    loaded = load(image_net())
    before = list(loaded.graph.nodes), dict(loaded.graph.inputs)
    predict(from_onnx(loaded, "model.onnx", "cross-entropy"))
    assert (loaded.graph.nodes, loaded.graph.inputs) == before
