"""Shapes of the runtime's ops of 8-bit integers, against what the runtime makes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from caffestat.graph.load import load

from ..graph.models import model, run, value

S, Z = np.array(0.1, np.float32), np.array(100, np.uint8)
FLOATS = ("MatMulIntegerToFloat", "DynamicQuantizeMatMul")


def bytes_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, shape).astype(np.uint8)


PLANE = [bytes_of(2, 8, 7, 9), S, Z, S, Z]
POOL = {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 0, 1]}
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("QLinearAdd", [bytes_of(2, 3, 4, 1), S, Z, bytes_of(3, 1, 5), S, Z, S, Z], {}),
    ("QLinearMul", [bytes_of(4, 1), S, Z, bytes_of(3, 1, 5), S, Z, S, Z], {}),
    ("QLinearLeakyRelu", PLANE, {}),
    ("QLinearSigmoid", PLANE, {}),
    ("QLinearSoftmax", PLANE, {"opset": 13}),
    ("QLinearGlobalAveragePool", PLANE, {}),
    ("QLinearGlobalAveragePool", PLANE, {"channels_last": 1}),
    ("QLinearAveragePool", PLANE, POOL),
    ("QLinearAveragePool", PLANE, {**POOL, "channels_last": 1}),
    ("QLinearConcat", [S, Z, bytes_of(2, 3, 4), S, Z, bytes_of(2, 1, 4), S, Z], {"axis": -2}),
    ("QLinearWhere", [np.array([[True], [False]]), bytes_of(2, 3), S, Z, bytes_of(3), S, Z, S, Z], {}),
    ("QGemm", [bytes_of(3, 4), S, Z, bytes_of(5, 4), S, Z, None, S, Z], {"transB": 1}),
    ("QGemm", [bytes_of(4, 3), S, Z, bytes_of(4, 5), S, Z, None, S, Z], {"transA": 1}),
    ("MatMulIntegerToFloat", [bytes_of(2, 3, 4), bytes_of(4, 5), S, S, Z, Z], {}),
    ("DynamicQuantizeMatMul", [np.ones((2, 3, 4), np.float32), bytes_of(4, 5), S, Z], {}),
]


@pytest.mark.parametrize(("op", "arrays", "attributes"), CASES)
def test_shapes_are_the_runtime_s(op: str, arrays: list[np.ndarray | None], attributes: dict[str, Any]) -> None:
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    kind = TensorProto.FLOAT if op in FLOATS else TensorProto.UINT8
    nodes = [helper.make_node(op, names, ["y"], domain="com.microsoft", **attributes)]
    inputs = [value(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)) for name, array in given.items()]
    proto = model(nodes, inputs, [], opset=17)
    proto.graph.output.append(value("y", None, kind))
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    y = run(proto, given)["y"]
    found = load(proto).graph.specs["y"]
    assert (found.shape, found.dtype) == (y.shape, y.dtype)
