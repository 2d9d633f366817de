"""Ops that the runtime's optimizer makes of several: said by these, they compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import caffestat
from caffestat.graph.load import load

from .models import model, normal, run

node = helper.make_node
CONTRIB = "com.microsoft"


def built(op: str, arrays: dict[str, np.ndarray], outputs: list[str], **settings: Any) -> onnx.ModelProto:
    proto = model([node(op, ["x", *arrays], outputs, domain=CONTRIB, **settings)], {"x": (2, 4, 5, 6)}, ["y"], arrays)
    proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    return proto


def check(proto: onnx.ModelProto, x: np.ndarray) -> None:
    plain = load(proto)
    assert all(found.domain == "" for found in plain.graph.nodes)
    ours, theirs = run(plain.graph.to_onnx(plain.arrays), {"x": x}), run(proto, {"x": x})
    for name, array in theirs.items():
        np.testing.assert_allclose(ours[name], array, rtol=1e-5, atol=1e-5)


ACTIVATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "Relu": {"activation": "Relu"},
    "LeakyRelu": {"activation": "LeakyRelu", "activation_params": [0.3]},
    "Clip": {"activation": "Clip", "activation_params": [-0.5, 1.5]},
    "HardSigmoid": {"activation": "HardSigmoid", "activation_params": [0.4, 0.3]},
}


@pytest.mark.parametrize("settings", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_fused_convolutions(settings: dict[str, Any]) -> None:
    arrays = {"w": normal(3, 4, 3, 2, seed=1), "b": normal(3, seed=2)}
    check(built("FusedConv", arrays, ["y"], strides=[2, 1], **settings), normal(2, 4, 5, 6))


def test_fused_convolutions_that_add() -> None:
    arrays = {"w": normal(3, 4, 3, 2, seed=1), "b": normal(3, seed=2), "z": normal(2, 3, 3, 5, seed=4)}
    check(built("FusedConv", arrays, ["y"], activation="Relu"), normal(2, 4, 5, 6))


def test_fused_products() -> None:
    arrays = {"w": normal(7, 5, seed=1), "c": normal(7, seed=2)}
    settings = {"alpha": 0.5, "transB": 1, "activation": "LeakyRelu", "activation_alpha": 0.2}
    proto = built("FusedGemm", arrays, ["y"], **settings)
    del proto.graph.input[0].type.tensor_type.shape.dim[2:]
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, (3, 5), strict=True):
        dim.dim_value = size
    check(proto, normal(3, 5))


@pytest.mark.parametrize("opset", [11, 17, 22])
def test_optimized_models_have_the_costs_and_the_gradients_of_the_original(opset: int, tmp_path: Any) -> None:
    arrays = {"w": normal(8, 3, 3, 3, seed=1), "b": normal(8, seed=2), "v": normal(5, 8, 3, 3, seed=3)}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["d"]),
        node("LeakyRelu", ["d"], ["y"], alpha=0.2),
    ]
    proto = model(nodes, {"x": (2, 3, 7, 6)}, ["y"], arrays, opset)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fast = onnx.load(tmp_path / "fast.onnx")
    assert [found.op_type for found in fast.graph.node] == ["FusedConv", "FusedConv"]
    (tmp_path / "plain.onnx").write_bytes(proto.SerializeToString())
    before, after = (caffestat.analyze(tmp_path / name, static=True) for name in ("plain.onnx", "fast.onnx"))
    assert (after.totals.params, after.totals.macs) == (before.totals.params, before.totals.macs)
    feeds = {"x": normal(2, 3, 7, 6), "cotangent/y": normal(2, 5, 5, 4, seed=5)}
    expected, found = (run(caffestat.gradient(model, wrt=["x"]), feeds)["grad/x"] for model in (proto, fast))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
