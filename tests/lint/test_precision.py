"""Where NaN, infinity and numbers outside of float16 are made: nets and models in which that is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import caffestat
from caffestat.lint import Issue

from ..graph.models import model, normal
from .nets import DATA, FC, LOSS, issues

node = helper.make_node
X = np.abs(normal(4, 3, 9, 7)) + np.float32(0.5)


def net_issues(folder: Path, text: str, code: str, inputs: Mapping[str, np.ndarray]) -> list[Issue]:
    path = folder / "net.prototxt"
    path.write_text(text, encoding="utf-8")
    return list(caffestat.check(path, run=True, select=code, inputs=inputs).issues)


def power(name: str, bottom: str, settings: str) -> str:
    return f'layer {{ name: "{name}" type: "Power" bottom: "{bottom}" top: "{name}" power_param {{ {settings} }} }}\n'


LOG = 'layer { name: "log" type: "Log" bottom: "shifted" top: "log" }\n'


def test_the_first_nan_is_told_with_what_it_is_made_of(tmp_path: Path) -> None:
    text = DATA + power("shifted", "x", "shift: -1") + LOG + FC("fc", "log") + LOSS.format("fc")
    x = X + np.float32(1)
    x[2, 1, 3, 4:7] = 0.25  # log(-0.75)
    x[0, 0, 0, 0] = 1  # log 0
    (found,) = net_issues(tmp_path, text, "CS021", {"x": x})
    assert (found.layer, found.place.line, found.severity) == ("log", 4, "error")
    assert "top 'log' is the first that is nan: 3 NaN and 1 infinite of 756 elements" in found.message
    assert f"bottom 'shifted' in [-0.75, {x.max() - 1:.3g}]" in found.message
    assert found.numbers == {"elements": 756, "nan": 3, "inf": 1}
    assert net_issues(tmp_path, text, "CS021", {"x": X + np.float32(1)}) == []


def test_an_infinite_gradient_is_told_after_finite_values(tmp_path: Path) -> None:
    x = X.copy()
    x[1, 2, 3, 4] = 0
    text = (
        DATA + FC("zero", "x", 'weight_filler { type: "constant" value: 0 }', 5) + power("root", "zero", "power: 0.5")
    )
    (found,) = net_issues(tmp_path, text + FC("fc", "root") + LOSS.format("fc"), "CS021", {"x": x})
    assert found.layer == "root"
    assert "gradient of bottom 'zero' is the first" in found.message
    assert "bottom 'zero' in [0, 0]" in found.message


def test_the_first_layer_that_overflows_in_float16_is_named(tmp_path: Path) -> None:
    text = DATA + power("a", "x", "scale: 300") + power("b", "a", "scale: 300") + power("c", "b", "scale: 2")
    text += power("d", "c", "scale: 1e-12") + FC("fc", "d") + LOSS.format("fc")
    found = net_issues(tmp_path, text, "CS035", {"x": X})
    forward = {issue.layer: issue for issue in found if "gradient" not in issue.message}
    assert list(forward) == ["b", "d"]  # c reads what overflows already
    assert forward["b"].numbers["max_abs"] == pytest.approx(X.max() * 90_000, rel=1e-5)
    assert f"bottom 'a' in [{X.min() * 300:.3g}, {X.max() * 300:.3g}]" in forward["b"].message
    assert "top 'd': 100% of the nonzero elements" in forward["d"].message
    assert {issue.severity for issue in found} == {"info"}


def test_weights_outside_of_float16_are_told_in_place_of_what_they_make(tmp_path: Path) -> None:
    text = DATA + FC("large", "x", 'weight_filler { type: "constant" value: 7e4 }') + power("s", "large", "scale: 1e-6")
    found = issues(tmp_path, text + LOSS.format("s"), "CS035", run=True)
    assert [(issue.layer, issue.message.partition(":")[0]) for issue in found][:1] == [("large", "param '0'")]


def test_small_gradients_are_told_once_with_the_room_for_a_loss_scale(tmp_path: Path) -> None:
    loss = LOSS.format("two").replace('top: "loss"', 'top: "loss" loss_weight: 1e-5')
    text = DATA + FC("one", "x", outputs=6) + FC("two", "one") + loss
    (found,) = net_issues(tmp_path, text, "CS035", {"x": X})
    report = caffestat.analyze(tmp_path / "net.prototxt", stats="max", inputs={"x": X}, device="cpu")
    diffs = [d.stats for row in report.layers for d in row.bottom_diffs]
    diffs += [p.diff_stats for row in report.layers for p in row.params]
    largest = max(one.largest for one in diffs if one)
    room = int(found.fix.rpartition("^")[2])
    assert largest * 2**room < 65504 < largest * 2 ** (room + 1)
    assert "gradients underflow in float16" in found.message
    assert found.numbers["share"] > 0.9


def test_a_net_within_float16_is_left_alone(tmp_path: Path) -> None:
    text = DATA + FC("fc", "x") + LOSS.format("fc")
    assert net_issues(tmp_path, text, "CS021,CS035", {}) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model whose node `root` makes NaN of negative numbers, and `big` numbers that float16 does not hold."""
    nodes = [
        node("Mul", ["x", "s"], ["b"], name="big"),
        node("Sqrt", ["b"], ["r"], name="root"),
        node("MatMul", ["r", "w"], ["y"], name="product"),
    ]
    path = tmp_path / "model.onnx"
    arrays = {"s": np.full(5, 7e4, np.float32), "w": normal(5, 7)}
    path.write_bytes(model(nodes, {"x": [3, 5]}, ["y"], arrays).SerializeToString())
    return path


def test_models_are_checked_with_run(path: Path) -> None:
    x = np.abs(normal(3, 5)) + np.float32(1)
    (overflow,) = (i for i in caffestat.check(path, run=True, inputs={"x": x}).issues if "gradient" not in i.message)
    assert (overflow.code, overflow.layer) == ("CS035", "big")
    assert "param 's': max |x| is 7e+04" in overflow.message
    x[1, 3] = -1
    (found,) = caffestat.check(path, run=True, inputs={"x": x}, select="CS021").issues
    assert (found.layer, found.place.file) == ("root", str(path))
    assert "1 NaN of 15 elements; it reads bottom 'b' in [-7e+04, " in found.message
    assert caffestat.check(path, run=True, inputs={"x": x}, severity="warning").is_bad


def test_sizes_that_a_model_leaves_open_are_given_by_name_and_by_shape(tmp_path: Path) -> None:
    path = tmp_path / "open.onnx"
    path.write_bytes(model([node("Sqrt", ["x"], ["y"], name="root")], {"x": ["n", "width"]}, ["y"]).SerializeToString())
    for sizes in ({"dims": {"n": 2, "width": 3}}, {"shapes": {"x": (2, 3)}}):
        (found,) = caffestat.check(path, run=True, select="CS021", **sizes).issues
        assert "of 6 elements" in found.message
    for sizes, words in (({"dims": {"height": 3}}, "--dim height"), ({"shapes": {"z": (2, 3)}}, "--shape z")):
        (error,) = caffestat.check(path, run=True, **sizes).errors
        assert words in error.message


def test_a_model_that_cannot_be_run_is_an_error_of_its_own(path: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08")
    checked = caffestat.check([tmp_path / "broken.onnx", path], run=True, select="CS035")
    assert [one.file for one in checked.errors] == [str(tmp_path / "broken.onnx")]
    assert checked.files == (str(tmp_path / "broken.onnx"), str(path))
