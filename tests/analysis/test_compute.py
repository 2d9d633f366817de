"""Nets and models computed in float16 (`--compute`): against the runtime's own float16, and where they overflow."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import caffestat
from caffestat.engine.elements import ElementStats
from caffestat.errors import InputError
from caffestat.options import COMPUTE
from caffestat.report import Report, render

from ..graph.models import model, normal, run, value

node = helper.make_node
NET = """
layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 3 dim: 5 dim: 6 dim: 4 } shape { dim: 3 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 7 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "big" type: "Power" bottom: "conv" top: "big" power_param { scale: 1e5 } }
layer { name: "small" type: "Power" bottom: "big" top: "small" power_param { scale: 1e-4 } }
layer { name: "fc" type: "InnerProduct" bottom: "small" top: "fc"
  inner_product_param { num_output: 11 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


def stats_of(report: Report, layer: str) -> ElementStats:
    (found,) = (row.tops[0].stats for row in report.layers if row.name == layer)
    assert found is not None
    return found


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET, encoding="utf-8")
    return path


def test_a_net_overflows_where_float16_does(net: Path) -> None:
    wide = caffestat.analyze(net, stats=("max", "inf", "nan"), device="cpu")
    half = caffestat.analyze(net, stats=("max", "inf", "nan"), device="cpu", compute="float16")
    assert stats_of(half, "conv").max == pytest.approx(stats_of(wide, "conv").max, rel=2e-3)
    assert (stats_of(wide, "big").inf, stats_of(wide, "big").float16) == (0, "overflow")
    assert stats_of(half, "big").inf > 0
    assert stats_of(half, "small").max == math.inf
    assert stats_of(half, "fc").nan + stats_of(half, "fc").inf > 0
    assert "computed in float16" in half.notes[-2]
    assert "cpu has no float16 kernels for Conv, " in half.notes[-1]
    assert not any("float16" in note for note in wide.notes)


def test_a_net_within_the_range_is_close_to_float32(net: Path) -> None:
    net.write_text(NET.replace("1e5", "2").replace("1e-4", "0.5"), encoding="utf-8")
    reports = (caffestat.analyze(net, device="cpu", compute=compute) for compute in COMPUTE)
    found = [json.loads(render(report, "json")) for report in reports]
    numbers = [[n for n in numbers_of(one["layers"]) if n] for one in found]
    assert numbers[0] != numbers[1]
    np.testing.assert_allclose(numbers[1], numbers[0], rtol=5e-3)


def numbers_of(value: object) -> list[float]:
    if isinstance(value, dict):
        own = [value["mean_abs"]] if isinstance(value.get("mean_abs"), float) else []
        return own + [n for part in value.values() for n in numbers_of(part)]
    return [n for part in value for n in numbers_of(part)] if isinstance(value, list) else []


def test_a_model_of_float16_is_computed_as_the_runtime_does(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Softplus", ["h"], ["s"], name="soft"),
        node("Mul", ["s", "c"], ["y"], name="scaled"),
    ]
    arrays = {"w": normal(5, 7).astype(np.float16), "c": np.full(7, 3.5e4, np.float16)}
    proto = model(nodes, [value("x", (3, 5), TensorProto.FLOAT16)], ["h", "s", "y"], arrays)
    for output in proto.graph.output:
        output.type.tensor_type.elem_type = TensorProto.FLOAT16
    path = tmp_path / "half.onnx"
    path.write_bytes(proto.SerializeToString())
    x = normal(3, 5, seed=2).astype(np.float16)
    report = caffestat.analyze(
        path, stats=("max", "min", "mean", "inf"), inputs={"x": x}, forward_only=True, device="cpu", compute="float16"
    )
    for layer, name in (("product", "h"), ("soft", "s"), ("scaled", "y")):
        exact, found = run(proto, {"x": x})[name].astype(np.float64), stats_of(report, layer)
        # the CPU does not round between two nodes that it computes in float32
        np.testing.assert_allclose([found.max, found.min], [exact.max(), exact.min()], rtol=2e-3)
        assert found.inf == int(np.isinf(exact).sum())
    assert stats_of(report, "scaled").inf > 0
    in_float32 = caffestat.analyze(path, stats="inf", inputs={"x": x}, forward_only=True, device="cpu")
    assert stats_of(in_float32, "scaled").inf == 0
    (note,) = in_float32.notes
    assert note == "float16 of the model is computed in float32; --compute float16 rounds every value to float16"


def test_a_model_compared_with_itself_parts_where_float16_overflows(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Mul", ["h", "c"], ["big"]),
        node("Tanh", ["big"], ["y"]),
    ]
    proto = model(nodes, {"x": (3, 5)}, ["h", "y"], {"w": normal(5, 7), "c": np.full(7, 1e5, np.float32)})
    path = tmp_path / "wide.onnx"
    path.write_bytes(proto.SerializeToString())
    given = {"x": normal(3, 5, seed=2)}
    assert not any(one.max_error for one in caffestat.compare_values(path, path, inputs=given))
    found = {one.name: one for one in caffestat.compare_values(path, path, inputs=given, compute="float16", rtol=0.01)}
    assert [name for name, one in found.items() if one.parts] == ["big"]
    assert found["big"].max_error == math.inf
    assert 1e-5 < found["h"].max_error / found["h"].largest < 2e-3


def test_calibration_in_float16_leaves_out_what_overflows(tmp_path: Path) -> None:
    nodes = [node("Mul", ["x", "c"], ["big"]), node("Mul", ["big", "d"], ["y"])]
    arrays = {"c": np.full(5, 3e4, np.float32), "d": np.full(5, 1e-4, np.float32)}
    path = tmp_path / "wide.onnx"
    path.write_bytes(model(nodes, {"x": (3, 5)}, ["y"], arrays).SerializeToString())
    x = np.linspace(-3, 3.1, 15, dtype=np.float32).reshape(3, 5)
    ranges = {
        compute: caffestat.calibrate(path, inputs={"x": x}, compute=compute, device="cpu").ranges for compute in COMPUTE
    }
    assert ranges["float32"]["big"].high == pytest.approx(9.3e4)
    held = x[np.abs(x) * 3e4 < 65504]
    for end, extreme in (("low", held.min()), ("high", held.max())):
        assert getattr(ranges["float16"]["big"], end) == pytest.approx(extreme * 3e4, rel=1e-3)
        assert getattr(ranges["float16"]["y"], end) == pytest.approx(extreme * 3, rel=2e-3)


def test_check_finds_what_overflows_in_float16_alone(net: Path) -> None:
    wide, half = (caffestat.check(net, run=True, select=["CS021"], compute=compute).issues for compute in COMPUTE)
    assert wide == ()
    assert [issue.layer for issue in half] == ["big"]
    with pytest.raises(InputError, match="compute: applies only with a run"):
        caffestat.check(net, compute="float16")


def test_debug_of_a_solver_computes_in_float16(net: Path) -> None:
    solver = net.with_name("solver.prototxt")
    solver.write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 random_seed: 3 debug_info: true',
        encoding="utf-8",
    )
    lines = {
        compute: list(caffestat.debug(solver, device="cpu", inputs_hold="noise", compute=compute))
        for compute in COMPUTE
    }
    big = {c: next(line for line in found if "Layer big, top blob big" in line) for c, found in lines.items()}
    assert "inf" in big["float16"] and "inf" not in big["float32"]


def test_an_unknown_type_is_refused(net: Path) -> None:
    with pytest.raises(InputError, match="compute: expected one of float32, float16, found 'int8'"):
        caffestat.analyze(net, compute="int8")
