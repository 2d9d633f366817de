"""Predictions of ops of integers, of random numbers and of Fourier transforms, against a run in the stock runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat

from ..graph.models import model, normal

node = helper.make_node
Q = {"x": np.array(0.05, np.float32), "xz": np.array(7, np.uint8), "y": np.array(0.4, np.float32)}


def columns(rows: int, axis_first: bool = True) -> dict[str, np.ndarray]:
    """Return weights of 8 bits, with a scale and a zero for each row (or column)."""
    random = np.random.default_rng(4)
    shape = (rows, 20) if axis_first else (20, rows)
    return {
        "w": random.integers(-90, 90, shape).astype(np.int8),
        "ws": random.uniform(0.01, 0.03, rows).astype(np.float32),
        "wz": np.zeros(rows, np.int8),
    }


def quantized_matmul() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearMatMul", ["q", "s", "z", "w", "ws", "wz", "t", "z"], ["p"]),
        node("DequantizeLinear", ["p", "t", "z"], ["y"]),
    ]
    given = {"s": Q["x"], "z": Q["xz"], "t": Q["y"], **columns(30, axis_first=False)}
    return model(nodes, {"x": (50, 20)}, ["y"], given, 17)


def quantized_conv() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "t", "z", "b"], ["p"], strides=[2, 1]),
        node("DequantizeLinear", ["p", "t", "z"], ["y"]),
    ]
    found = columns(30)
    found["w"] = found["w"].reshape(30, 5, 2, 2)
    bias = np.random.default_rng(5).integers(-900, 900, 30).astype(np.int32)
    given = {"s": Q["x"], "z": np.array(128, np.uint8), "t": Q["y"], "b": bias, **found}
    return model(nodes, {"x": (4, 5, 13, 9)}, ["y"], given, 17)


def integer_product() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("MatMulInteger", ["q", "w", "z"], ["p"]),
        node("Cast", ["p"], ["y"], to=1),
    ]
    weights = columns(30, axis_first=False)["w"]
    return model(nodes, {"x": (50, 20)}, ["y"], {"s": Q["x"], "z": np.array(128, np.uint8), "w": weights}, 17)


def integer_conv() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("ConvInteger", ["q", "w", "z", "wz"], ["p"]),
        node("Cast", ["p"], ["y"], to=1),
    ]
    weights = np.random.default_rng(6).integers(0, 255, (16, 5, 2, 3)).astype(np.uint8)
    given = {"s": Q["x"], "z": np.array(100, np.uint8), "w": weights, "wz": np.array(120, np.uint8)}
    return model(nodes, {"x": (4, 5, 13, 9)}, ["y"], given, 17)


def transform(shape: tuple[int, ...], axis: int, length: int | None = None, **how: int) -> onnx.ModelProto:
    given = {"axis": np.array(axis), **({} if length is None else {"n": np.array(length)})}
    made = node("DFT", ["x", "" if length is None else "n", "axis"], ["y"], **how)
    return model([made], {"x": shape}, ["y"], given, 20)


def frames(shape: tuple[int, ...], windowed: bool, **how: int) -> onnx.ModelProto:
    given: dict[str, Any] = {"step": np.array(20), "n": np.array(64)}
    if windowed:
        given["w"] = np.hanning(64).astype(np.float32)
    made = node("STFT", ["x", "step", "w" if windowed else "", "n"], ["y"], **how)
    return model([made], {"x": shape}, ["y"], given, 17)


def drawn(op: str, **settings: Any) -> onnx.ModelProto:
    nodes = [node(op, [], ["y"], shape=[40, 50], **settings), node("Identity", ["x"], ["z"])]
    return model(nodes, {"x": (2, 3)}, ["y", "z"], {}, 17)


CASES = {
    "QLinearMatMul": quantized_matmul(),
    "QLinearConv": quantized_conv(),
    "MatMulInteger": integer_product(),
    "ConvInteger": integer_conv(),
    "DFT of reals": transform((6, 50, 7, 1), 1),
    "DFT of complex numbers": transform((6, 7, 50, 2), -2),
    "half of a DFT": transform((30, 41, 1), 1, onesided=1),
    "inverse DFT": transform((30, 41, 2), 1, inverse=1),
    "padded DFT": transform((30, 20, 1), 1, 40),
    "cut DFT": transform((30, 40, 2), 1, 20),
    "STFT": frames((3, 400, 1), True),
    "STFT of a row": frames((3, 400), True, onesided=0),
    "STFT without a window": frames((3, 400, 1), False),
    "RandomNormal": drawn("RandomNormal", mean=0.5, scale=2.0, seed=3.0),
    "RandomUniform": drawn("RandomUniform", low=-0.5, high=2.0, seed=3.0),
    "Bernoulli": model(
        [node("Sigmoid", ["x"], ["p"]), node("Bernoulli", ["p"], ["y"], seed=2.0)], {"x": (60, 70)}, ["y"], {}, 17
    ),
    "IsNaN": model([node("IsNaN", ["x"], ["n"]), node("Cast", ["n"], ["y"], to=1)], {"x": (6, 7)}, ["y"], {}, 17),
}


@pytest.mark.parametrize("name", CASES)
def test_the_predicted_mean_is_the_measured_one(name: str, tmp_path: Any) -> None:
    onnx.save(CASES[name], tmp_path / "case.onnx")
    report = caffestat.analyze(tmp_path / "case.onnx", device="cpu", predict=True, forward_only=True)
    (top,) = (top for layer in report.layers for top in layer.tops if top.name == "y")
    assert top.predicted is not None
    assert top.predicted == pytest.approx(top.mean_abs, rel=0.06)


def test_rounded_values_stay_in_the_range_of_their_type(tmp_path: Any) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    proto = model(nodes, {"x": (50, 60)}, ["y"], {"s": np.array(0.01, np.float32), "z": np.array(200, np.uint8)}, 17)
    onnx.save(proto, tmp_path / "case.onnx")
    report = caffestat.analyze(tmp_path / "case.onnx", static=True, predict=True)
    clipped = np.clip(np.rint(normal(4000) / 0.01), -200, 55) * 0.01
    assert report.layers[-1].tops[0].predicted == pytest.approx(abs(clipped).mean(), rel=0.05)


def test_ops_whose_values_are_not_predicted_are_named(tmp_path: Any) -> None:
    nodes = [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    onnx.save(model(nodes, {"x": (5, 6)}, ["y"], {}, 17), tmp_path / "case.onnx")
    report = caffestat.analyze(tmp_path / "case.onnx", static=True, predict=True)
    assert any("the values of op DynamicQuantizeLinear are not predicted" in note for note in report.notes)
