"""The signs and movements that the table claims, against what the runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from caffestat.ops import Elements, Sign, op_info, ops

SHAPE = (2, 4, 6, 4)
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "AveragePool": {"kernel_shape": [3, 2]},
    "Concat": {"axis": 1},
    "DepthToSpace": {"blocksize": 2},
    "LRN": {"size": 3},
    "LpPool": {"kernel_shape": [3, 2]},
    "MaxPool": {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]},
    "SpaceToDepth": {"blocksize": 2},
    "Split": {"num_outputs": 2},
    "TopK": {"axis": 1},
}
CONSTANTS: dict[str, list[np.ndarray]] = {
    "CumSum": [np.array(1)],
    "Expand": [np.array([3, 1, 1, 1, 1])],
    "Gather": [np.array([1, 0, 1])],
    "GatherElements": [np.ones((2, 4, 6, 4), np.int64)],
    "GatherND": [np.array([[0, 1], [1, 3]])],
    "Pad": [np.array([0, 0, 1, 0, 0, 0, 0, 2])],
    "Reshape": [np.array([8, -1])],
    "Slice": [np.array([1]), np.array([4]), np.array([2])],
    "Tile": [np.array([1, 2, 1, 1])],
    "TopK": [np.array([2])],
    "Trilu": [np.array(1)],
    "Unsqueeze": [np.array([1])],
}


def run(op: str, values: list[np.ndarray]) -> np.ndarray:
    arrays = {f"x{i}": value for i, value in enumerate([*values, *CONSTANTS.get(op, [])])}
    outputs = ["y", "y2"] if op == "TopK" or op == "Split" else ["y"]
    node = helper.make_node(op, list(arrays), outputs, **ATTRIBUTES.get(op, {}))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in arrays.items()
    ]
    graph = helper.make_graph([node], op, inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return np.asarray(ort.InferenceSession(model.SerializeToString()).run(["y"], arrays)[0])


SIGNED = [
    *("Abs", "Add", "Asinh", "Atan", "AveragePool", "Ceil", "Concat", "CumSum", "DepthToSpace", "Div", "Erf", "Exp"),
    *("Cosh", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "GlobalAveragePool"),
    *("GlobalMaxPool", "HardSigmoid", "Identity", "LRN", "LpNormalization", "Max", "MaxPool", "Mean", "Min", "Mul"),
    *("Pad", "Pow", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Sigmoid", "Sign", "Sinh", "Slice", "Softmax"),
    *("Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sum", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze"),
]


@pytest.mark.parametrize("op", SIGNED)
def test_signs(op: str) -> None:
    random = np.random.default_rng(5)
    signed = [random.normal(size=SHAPE).astype(np.float32) for _ in range(2 if op_info(op).joins else 1)]
    if op == "Pad":
        signed = signed[:1]
    sign = op_info(op).sign
    assert sign is not Sign.ANY
    values = signed if sign is Sign.NON_NEGATIVE and op != "Sqrt" else [np.abs(value) for value in signed]
    try:
        y = run(op, values)
    except NoKernel:
        pytest.skip("this onnxruntime has no kernel of the op")
    assert y.min() >= 0


@pytest.mark.parametrize("op", [op for op in SIGNED if op_info(op).elements in (Elements.MOVED, Elements.PICKED)])
def test_movements(op: str) -> None:
    x = np.random.default_rng(7).permutation(np.prod(SHAPE)).reshape(SHAPE).astype(np.float32) + 1
    values = [x, -x] if op == "Concat" else [x]
    y = run(op, values)
    if op_info(op).elements is Elements.MOVED:
        assert sorted(y.ravel()) == sorted(x.ravel())
    else:
        assert set(y.ravel()) <= {0.0, *x.ravel(), *-x.ravel()}


def test_most_signs_are_covered() -> None:
    claimed = {op for op in ops() if op_info(op).sign is not Sign.ANY and op_info(op).elements is not Elements.NONE}
    assert len(claimed - set(SIGNED)) < 45
