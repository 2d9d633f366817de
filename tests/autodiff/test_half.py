"""Gradients of models in float16: every node gets operands of one type, and the stock runtime has a kernel for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from caffestat.autodiff import gradient
from caffestat.autodiff.rules import conv as rules

from ..graph.models import model, normal, run, value

node = helper.make_node
HALF = TensorProto.FLOAT16

NODES: dict[str, tuple[Any, tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "Conv": (node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 0, 1]), (2, 3, 7, 6), {"w": (4, 3, 3, 2), "b": (4,)}),
    "depthwise": (node("Conv", ["x", "w"], ["y"], group=3, pads=[1, 1, 1, 1]), (2, 3, 7, 6), {"w": (3, 1, 3, 3)}),
    "strided": (node("Conv", ["x", "w"], ["y"], strides=[2, 3]), (2, 8, 9, 10), {"w": (4, 8, 3, 3)}),
    "transposed": (node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]), (2, 3, 4, 5), {"w": (3, 2, 3, 3)}),
    "MaxPool": (node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 1]), (2, 3, 7, 6), {}),
    "tiles": (node("AveragePool", ["x"], ["y"], kernel_shape=[2, 3], strides=[2, 3]), (2, 3, 6, 6), {}),
    "bands": (node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2]), (2, 3, 7, 9), {}),
    "long": (node("AveragePool", ["x"], ["y"], kernel_shape=[700], strides=[2]), (1, 2, 1800), {}),
    "GlobalMaxPool": (node("GlobalMaxPool", ["x"], ["y"]), (2, 3, 4, 5), {}),
    "LRN": (node("LRN", ["x"], ["y"], size=3), (2, 5, 3, 4), {}),
    "BatchNormalization": (
        node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"]),
        (2, 3, 4, 5),
        {"s": (3,), "b": (3,), "m": (3,), "v": (3,)},
    ),
    "InstanceNormalization": (
        node("InstanceNormalization", ["x", "s", "b"], ["y"]), (2, 3, 4, 5), {"s": (3,), "b": (3,)}
    ),
    "GRU": (node("GRU", ["x", "w", "r"], ["y"], hidden_size=2), (4, 3, 5), {"w": (1, 6, 5), "r": (1, 6, 2)}),
    "LSTM": (node("LSTM", ["x", "w", "r"], ["y"], hidden_size=2), (4, 3, 5), {"w": (1, 8, 5), "r": (1, 8, 2)}),
    "GatherElements": (node("GatherElements", ["x", "i"], ["y"]), (4, 3), {}),
}  # fmt: skip


def half(name: str) -> Any:
    made, shape, weights = NODES[name]
    arrays = {key: normal(*size, seed=index).astype(np.float16) for index, (key, size) in enumerate(weights.items())}
    if "v" in arrays:
        arrays["v"] = abs(arrays["v"]) + np.float16(0.5)
    if "i" in made.input:
        arrays["i"] = np.array([[0, 1, 0], [3, 3, 1]])
    return model([made], [value("x", shape, HALF)], ["y"], arrays)


def check(proto: Any, shape: tuple[int, ...]) -> None:
    """The gradient model is well typed, runs, and agrees with the one in float32."""
    found = gradient(proto)
    shape_inference.infer_shapes(found, check_type=True, strict_mode=True)
    x = normal(*shape, seed=8).astype(np.float16)
    dy_shape = [dim.dim_value for dim in found.graph.input[-1].type.tensor_type.shape.dim]
    feeds = {"x": x, found.graph.input[-1].name: normal(*dy_shape, seed=9).astype(np.float16)}
    narrow = run(found, feeds)
    assert all(array.dtype == np.float16 for array in narrow.values())
    wide = run(_widened(proto), {name: array.astype(np.float32) for name, array in feeds.items()})
    for name, array in wide.items():
        scale = max(float(abs(array).max()), 1e-3)
        np.testing.assert_allclose(narrow[name] / scale, array / scale, atol=1e-2)


def _widened(proto: Any) -> Any:
    from onnx import numpy_helper

    wide = type(proto)()
    wide.CopyFrom(proto)
    for tensor in wide.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float16:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    wide.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    return gradient(wide)


@pytest.mark.parametrize("name", NODES)
def test_gradients_in_float16(name: str) -> None:
    check(half(name), NODES[name][1])


FORMS = [
    rules.dw_depthwise,
    rules.dw_gather_images,
    rules.dw_phases,
    rules.dw_pitch,
    rules.dw_swap,
    rules.dw_taps,
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_depthwise_weight_gradient(form: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "weight_form", lambda provider, c: form)
    check(half("depthwise"), NODES["depthwise"][1])


def test_gradients_in_bfloat16_are_computed_in_float32() -> None:
    narrow = ml_dtypes.bfloat16
    nodes = [
        node("Cast", ["x"], ["xb"], to=TensorProto.BFLOAT16),
        node("MatMul", ["xb", "w"], ["p"]),
        node("Relu", ["p"], ["r"]),
        node("Gather", ["r", "i"], ["g"], axis=1),
        node("Cast", ["g"], ["y"], to=TensorProto.FLOAT),
    ]
    w = normal(4, 5).astype(narrow)
    proto = model(nodes, {"x": (3, 4)}, ["y"], {"w": w, "i": np.array([1, 4, 1])})
    x, dy = normal(3, 4, seed=1), normal(3, 3, seed=2)
    found = run(gradient(proto, wrt=["x"]), {"x": x, "cotangent/y": dy})
    rounded = x.astype(narrow).astype(np.float32) @ w.astype(np.float32)
    dr = np.zeros((3, 5), np.float32)
    for column, index in enumerate([1, 4, 1]):
        dr[:, index] += dy[:, column]
    expected = (dr * (rounded > 0)) @ w.astype(np.float32).T
    np.testing.assert_allclose(found["grad/x"], expected, atol=0.05 * abs(expected).max())


def narrow_model(inner: onnx.NodeProto, shape: tuple[int, ...], arrays: dict[str, np.ndarray], dtype: Any) -> Any:
    """x in float32, what a node makes of it in a type, and y in float32; `c` is true."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("Cast", ["x"], ["n"], to=kind), inner, node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)]
    stored = {name: array.astype(dtype) for name, array in arrays.items()}
    return model(nodes, [value("x", shape), value("c", (), TensorProto.BOOL)], ["y"], stored)


def test_subgraphs_in_bfloat16_are_computed_in_float32() -> None:
    """A recurrent op is differentiated by a Scan; a branch reads the narrow value from outside, and stores one."""
    arrays = {"w": normal(1, 12, 2), "r": normal(1, 12, 3, seed=1)}
    rounded = {name: array.astype(ml_dtypes.bfloat16).astype(np.float32) for name, array in arrays.items()}
    recurrent = node("LSTM", ["n", "w", "r"], ["m"], hidden_size=3)
    x, dy = normal(4, 2, 2, seed=2).astype(ml_dtypes.bfloat16).astype(np.float32), normal(4, 1, 2, 3, seed=3)
    feeds = {"x": x, "c": np.array(True), "cotangent/y": dy}
    found, expected = (
        run(gradient(narrow_model(recurrent, x.shape, stored, dtype), wrt=["x"]), feeds)["grad/x"]
        for stored, dtype in ((arrays, ml_dtypes.bfloat16), (rounded, np.float32))
    )
    np.testing.assert_allclose(found, expected, atol=0.05 * abs(expected).max())
    factor = numpy_helper.from_array(np.array([2.5, -1.5], ml_dtypes.bfloat16), "f")
    branch = helper.make_graph([node("Mul", ["n", "f"], ["o"])], "b", [], [value("o", (4, 2, 2), 16)], [factor])
    chosen = node("If", ["c"], ["m"], then_branch=branch, else_branch=branch)
    dy = np.ones(x.shape, np.float32)
    found = run(
        gradient(narrow_model(chosen, x.shape, {}, ml_dtypes.bfloat16), wrt=["x"]), {**feeds, "cotangent/y": dy}
    )
    np.testing.assert_array_equal(found["grad/x"], dy * np.float32([2.5, -1.5]))
