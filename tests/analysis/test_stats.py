"""Statistics of elements in reports of nets and models: values known by construction, in every format."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft7Validator
from onnx import helper

import caffestat
from caffestat.errors import InputError
from caffestat.options import STATS
from caffestat.report import LayerRow, Report, render

from ..graph.models import model, normal

NET = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "big" type: "Power" bottom: "x" top: "big" power_param { scale: 1e5 } }
layer { name: "log" type: "Log" bottom: "big" top: "log" }
layer { name: "small" type: "Power" bottom: "x" top: "small" power_param { scale: 1e-6 } }
layer { name: "fc" type: "InnerProduct" bottom: "small" top: "fc" param { lr_mult: 0 } param { lr_mult: 2 }
  inner_product_param { num_output: 7
    weight_filler { type: "constant" value: 2 } bias_filler { type: "constant" value: 3 } } }
layer { name: "loss" type: "Reduction" bottom: "fc" top: "loss" loss_weight: 1 }
"""
X = np.abs(normal(2, 3, 5, 4)) + np.float32(0.5)
X[1, 2, 0, :3] = [0, -1, -2]  # log 0 = -inf, log of a negative number is NaN


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.prototxt"
    path.write_text(NET, encoding="utf-8")
    return path


def row(report: Report, name: str) -> LayerRow:
    return next(layer for layer in report.layers if layer.name == name)


def test_statistics_of_a_net(net: Path) -> None:
    report = caffestat.analyze(net, stats=STATS, inputs={"x": X}, device="cpu")
    assert report.stats == STATS
    data, big, log, small, fc = (row(report, name) for name in ("data", "big", "log", "small", "fc"))
    stats = {layer.name: layer.tops[0].stats for layer in (data, big, log, small, fc)}
    assert all(stats.values())
    assert stats["data"] and (stats["data"].min, stats["data"].max, stats["data"].zeros) == (-2, X.max(), 1)
    assert stats["data"].std == pytest.approx(X.std(), rel=1e-6)
    assert stats["big"] and stats["big"].float16 == "overflow"
    assert stats["big"].max == pytest.approx(X.max() * 1e5, rel=1e-6)
    assert stats["log"] and (stats["log"].nan, stats["log"].inf, stats["log"].min) == (2, 1, -math.inf)
    assert stats["small"] and stats["small"].float16 == "underflow"
    assert stats["small"].below_normal == X.size - 1
    weight, bias = fc.params
    assert weight.stats and (weight.stats.mean, weight.stats.std, weight.stats.count) == (2, 0, 7 * 60)
    assert bias.diff_stats and (bias.diff_stats.max, bias.diff_stats.min, bias.diff_stats.count) == (2, 2, 7)
    assert bias.stats and bias.stats.max == 3


def test_gradients_that_nothing_reaches_are_zero(net: Path) -> None:
    power = (
        'layer { name: "none" type: "Power" bottom: "fc" top: "none" power_param { scale: 0 } }\nlayer { name: "loss"'
    )
    net.write_text(
        NET.replace('layer { name: "loss"', power).replace('bottom: "fc" top: "loss"', 'bottom: "none" top: "loss"')
    )
    report = caffestat.analyze(net, stats=("zeros", "max"), inputs={"x": X}, device="cpu")
    bias = row(report, "fc").params[1].diff_stats
    assert bias is not None
    assert (bias.wanted, bias.count, bias.zeros, bias.max) == (("max", "zeros"), 7, 7, 0)
    diff = row(report, "none").bottom_diffs[0].stats
    assert diff is not None
    assert (diff.count, diff.zeros) == (14, 14)


def test_statistics_of_a_model(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="gemm"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Mul", ["r", "large"], ["y"], name="mul"),
    ]
    w = normal(5, 7)
    path = tmp_path / "model.onnx"
    proto = model(nodes, {"x": [3, 5]}, ["y"], {"w": w, "large": np.full(7, 1e5, np.float32)})
    path.write_bytes(proto.SerializeToString())
    x = normal(3, 5, seed=4)
    report = caffestat.analyze(path, stats=STATS, inputs={"x": x}, loss="ones", device="cpu")
    h = x @ w
    gemm, relu, mul = (row(report, name) for name in ("gemm", "relu", "mul"))
    stats = relu.tops[0].stats
    assert stats and stats.zeros == int((h <= 0).sum())
    assert stats.std == pytest.approx(np.maximum(h, 0).std(), rel=1e-5)
    assert stats.mean == pytest.approx(np.maximum(h, 0).mean(), rel=1e-5)
    assert mul.tops[0].stats and mul.tops[0].stats.float16 == "overflow"
    assert relu.bottom_diffs[0].stats and relu.bottom_diffs[0].stats.max == 1e5
    assert gemm.params[0].stats and gemm.params[0].stats.min == w.min()
    dw = x.T @ (1e5 * (h > 0))
    assert gemm.params[0].diff_stats and gemm.params[0].diff_stats.max == pytest.approx(dw.max(), rel=1e-5)
    assert report.inputs[0].stats and report.inputs[0].stats.max == x.max()


def test_formats_show_what_was_asked_for(net: Path, root: Path) -> None:
    report = caffestat.analyze(net, stats="max", inputs={"x": X}, device="cpu")
    layers = {layer["name"]: layer for layer in json.loads(render(report, "json"))["layers"]}
    assert layers["big"]["tops"][0]["forward"]["stats"] == {
        "max": pytest.approx(X.max() * 1e5, rel=1e-6), "below_normal": 0, "float16": "overflow"
    }  # fmt: skip
    assert layers["fc"]["params"][1]["backward"]["stats"] == {"max": 2, "below_normal": 0, "float16": None}
    schema = json.loads((root / "docs/json.schema.json").read_text(encoding="utf-8"))
    full = caffestat.analyze(net, stats=STATS, inputs={"x": X}, device="cpu")
    for one in (report, full):
        assert list(Draft7Validator(schema).iter_errors(json.loads(render(one, "json")))) == []
    lines = {line["layer"]: line for line in csv.DictReader(io.StringIO(render(report, "csv"))) if line["layer"]}
    assert lines["big"]["float16"] == "overflow"
    assert float(lines["big"]["max"]) == pytest.approx(X.max() * 1e5, rel=1e-6)
    assert (lines["fc"]["param_max"], lines["small"]["float16"]) == ("2", "underflow")
    assert "nan" not in lines["big"]
    for format in ("table", "markdown"):
        text = render(full, format)
        assert "overflow" in text
        assert "underflow 100%" in text
        assert all(f" {name} " in text for name in (*STATS, "max dx"))
        assert "max" not in render(caffestat.analyze(net, inputs={"x": X}, device="cpu"), format)


def test_statistics_do_not_change_the_means(net: Path) -> None:
    plain = json.loads(render(caffestat.analyze(net, inputs={"x": X}, device="cpu"), "json"))
    with_stats = json.loads(render(caffestat.analyze(net, stats=STATS, inputs={"x": X}, device="cpu"), "json"))
    assert "stats" not in json.dumps(plain)

    def without(value: object) -> object:
        if isinstance(value, dict):
            return {name: without(part) for name, part in value.items() if name != "stats"}
        return [without(part) for part in value] if isinstance(value, list) else value

    assert without(with_stats) == plain


def test_unknown_statistics_are_refused(net: Path) -> None:
    with pytest.raises(InputError, match="expected one of mean, max, min, std, zeros, inf, nan, found 'median'"):
        caffestat.analyze(net, stats=["max", "median"])


@pytest.mark.parametrize("options", [{"stats": "max"}, {"compute": "float16"}])
def test_what_needs_a_run_is_refused_without_one(net: Path, options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="static: the net is not run"):
        caffestat.analyze(net, static=True, **options)


def test_what_is_left_out_inside_of_recurrent_layers_is_told(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "d" type: "Input" top: "x" top: "cont"
          input_param { shape { dim: 4 dim: 2 dim: 3 } shape { dim: 4 dim: 2 } } }
        layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
          recurrent_param { num_output: 5 debug_info: true weight_filler { type: "xavier" } } }
        layer { name: "l" type: "Reduction" bottom: "h" top: "l" loss_weight: 1 }
        """,
        encoding="utf-8",
    )
    words = "--stats skips the values inside lstm: only their mean |x| is known"
    assert words in caffestat.analyze(path, stats="max", device="cpu").notes
    assert words not in caffestat.analyze(path, device="cpu").notes
