"""Ops that the runtime's optimizer makes of several: said by these, they compute the same."""

from __future__ import annotations

import math
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


@pytest.mark.parametrize(
    "flags", [{"transBatchA": 1}, {"transBatchB": 1, "alpha": 0.5}, {"transBatchA": 1, "transA": 1}]
)
def test_products_whose_rows_stand_in_front_of_the_batch(flags: dict[str, Any]) -> None:
    shapes = {"x": (2, 4, 5, 6), "w": (4, 5, 6, 3)}
    if "transA" in flags:
        shapes = {"x": (6, 4, 5, 2), "w": (4, 5, 6, 3)}
    elif "transBatchB" in flags:
        shapes = {"x": (4, 5, 2, 6), "w": (6, 4, 5, 3)}
    nodes = [node("FusedMatMul", ["x", "w"], ["y"], domain=CONTRIB, **flags)]
    proto = model(nodes, {"x": shapes["x"]}, ["y"], {"w": normal(*shapes["w"])})
    proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    x, step = normal(*shapes["x"], seed=1), normal(*shapes["x"], seed=2)
    found = run(caffestat.gradient(proto, loss="ones"), {"x": x})
    (y,), (moved,) = (run(proto, {"x": array}).values() for array in (x, x + step))
    np.testing.assert_allclose(found["y"], y, rtol=1e-5, atol=1e-5)
    assert np.sum(found["grad/x"] * step) == pytest.approx(np.sum(moved - y), rel=1e-4)


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


def test_embeddings_that_are_normalized() -> None:
    words, kinds = np.array([[1, 4, 2], [0, 3, 5]], np.int32), np.array([[0, 1, 1], [0, 0, 1]], np.int32)
    mask, places = np.array([[1, 1, 0], [1, 1, 1]], np.int32), np.array([[2, 0, 1]], np.int32)
    tables = {name: normal(rows, 8, seed=rows) for name, rows in (("p", 5), ("s", 2))}
    learned = {"gamma": normal(8, seed=3), "beta": normal(8, seed=4)}
    given = {"words": words, "kinds": kinds, "mask": mask, "places": places}
    whole = ["words", "kinds", "x", "p", "s", "gamma", "beta", "mask"]
    for inputs, outputs in (
        (whole, ["y", "lengths", "sum"]),
        ([*whole[:7], "", "places"], ["y", "lengths"]),
        (["words", "", "x", "p", "", "gamma", "beta"], ["y", "lengths"]),
    ):
        one = node("EmbedLayerNormalization", inputs, outputs, domain=CONTRIB, epsilon=1e-5)
        arrays = {name: array for name, array in (tables | learned | given).items() if name in inputs}
        proto = model([one], {"x": (6, 8)}, outputs, arrays)
        proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT32
        proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        check(proto, normal(6, 8, seed=9))


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("skips", [None, (2, 4), (2, 4, 1, 1)])
def test_group_normalizations_that_add_and_activate(is_last: bool, skips: tuple[int, ...] | None) -> None:
    """The stock CPU runtime has no kernel: in numpy."""
    gamma, beta, bias, x = normal(4, seed=1), normal(4, seed=2), normal(4, seed=3), normal(2, 4, 5, 6, seed=4)
    arrays = {"gamma": gamma, "beta": beta}
    total = x
    if skips:
        skip = normal(*skips, seed=5)
        total = x + skip.reshape(2, 4, 1, 1) + bias.reshape(4, 1, 1)
        arrays |= {"skip": skip.transpose(0, 2, 3, 1) if is_last and len(skips) == 4 else skip, "bias": bias}
    settings = {"groups": 2, "epsilon": 1e-3, "activation": 1, "channels_last": int(is_last)}
    proto = built("SkipGroupNorm" if skips else "GroupNorm", arrays, ["y"], **settings)
    for dim, size in zip(proto.graph.input[0].type.tensor_type.shape.dim, x.transpose(0, 2, 3, 1).shape, strict=True):
        dim.dim_value = size if is_last else dim.dim_value
    plain = load(proto)
    found = run(plain.graph.to_onnx(plain.arrays), {"x": x.transpose(0, 2, 3, 1) if is_last else x})["y"]
    parts = total.reshape(2, 2, 2, 5, 6)
    spread = np.sqrt(parts.var((2, 3, 4), keepdims=True) + 1e-3)
    expected = ((parts - parts.mean((2, 3, 4), keepdims=True)) / spread).reshape(x.shape)
    expected = expected * gamma.reshape(4, 1, 1) + beta.reshape(4, 1, 1)
    expected = expected / (1 + np.exp(-expected))
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2) if is_last else found, expected, rtol=1e-4, atol=1e-5)


def test_halves_of_which_one_is_activated() -> None:
    x, b = normal(2, 4, 5, 6), normal(6, seed=1)
    plain = load(built("BiasSplitGelu", {"b": b}, ["y"]))
    a, g = np.split(x + b, 2, axis=-1)
    erf = np.vectorize(math.erf)(g / 2**0.5)
    found = run(plain.graph.to_onnx(plain.arrays), {"x": x})["y"]
    np.testing.assert_allclose(found, a * g * (1 + erf) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("position", [0, 1])
def test_biases_of_sums_that_are_normalized_are_counted(position: int, tmp_path: Any) -> None:
    """The optimizer takes the bias of a product, and the product stands in either place of the sum."""
    arrays = {"w": normal(6, 6, seed=1), "gamma": normal(6, seed=2), "beta": normal(6, seed=3), "b": normal(6, seed=4)}
    terms = ["m", "x"] if position == 0 else ["x", "m"]
    inputs = [*terms, "gamma", "beta", "b"]
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("SkipLayerNormalization", inputs, ["y"], domain=CONTRIB)]
    proto = model(nodes, {"x": (2, 5, 6)}, ["y"], arrays)
    proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    onnx.save(proto, tmp_path / "net.onnx")
    report = caffestat.analyze(tmp_path / "net.onnx", static=True)
    assert {param.name for layer in report.layers for param in layer.params} == set(arrays)


def test_written_models_hold_no_constants_that_nobody_reads() -> None:
    nodes = [node("Shape", ["x"], ["s"]), node("Reshape", ["x", "s"], ["r"]), node("Exp", ["r"], ["y"])]
    found = caffestat.gradient(model(nodes, {"x": (3, 4)}, ["y"]))
    read = {name for inner in found.graph.node for name in inner.input}
    assert {tensor.name for tensor in found.graph.initializer} <= read


@pytest.mark.parametrize("axis", [-1, 1, 2])
def test_softmax_with_a_bias(axis: int) -> None:
    """The stock CPU runtime has no kernel: in numpy."""
    x, dy, bias = normal(2, 4, 5, 6), normal(2, 4, 5, 6, seed=1), normal(2, 1, 1, 6, seed=2)
    proto = built("BiasSoftmax", {"b": bias}, ["y"], axis=axis, is_inner_broadcast=1)
    found = run(caffestat.gradient(proto, wrt=["x", "b"]), {"x": x, "cotangent/y": dy})
    places = tuple(range(axis % 4, 4))
    e = np.exp(x + bias)
    y = e / e.sum(places, keepdims=True)
    slope = y * (dy - (y * dy).sum(places, keepdims=True))
    np.testing.assert_allclose(found["y"], y, rtol=1e-5)
    np.testing.assert_allclose(found["grad/x"], slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["grad/b"], slope.sum((1, 2), keepdims=True), rtol=1e-4, atol=1e-6)
