"""Two models value by value, against numpy."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffestat
from caffestat.analysis.values import ValueDifference
from caffestat.errors import InputError

RANDOM = np.random.default_rng(3)
X = RANDOM.standard_normal((3, 5)).astype(np.float32)
W = RANDOM.standard_normal((5, 7)).astype(np.float32)


def write(path: Path, weights: np.ndarray, names: tuple[str, ...] = ("x", "product", "y"), op: str = "Tanh") -> str:
    """Write tanh(x W), with values of the given names, in the weights' type."""
    kind = helper.np_dtype_to_tensor_dtype(weights.dtype)
    x, product, y = names
    nodes = [helper.make_node("MatMul", [x, "w"], [product]), helper.make_node(op, [product], [y])]
    ends = [helper.make_tensor_value_info(x, kind, (3, 5)), helper.make_tensor_value_info(y, kind, None)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def compare(a: str, b: str, **options: float) -> dict[str, ValueDifference]:
    return {one.name: one for one in caffestat.compare_values(a, b, inputs={"x": X}, **options)}


def test_errors_are_those_of_numpy(tmp_path: Path) -> None:
    other = W + np.float32(0.01) * RANDOM.standard_normal(W.shape).astype(np.float32)
    found = compare(write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", other))
    assert list(found) == ["product", "y"]
    a, b = (X @ w.astype(np.float64) for w in (W, other))
    one = found["product"]
    np.testing.assert_allclose(one.max_error, np.abs(a - b).max(), rtol=1e-4)
    np.testing.assert_allclose(one.mean_error, np.abs(a - b).mean(), rtol=1e-4)
    np.testing.assert_allclose(one.sqnr, 10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), rtol=1e-4)
    np.testing.assert_allclose(one.cosine, (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()), rtol=1e-6)
    np.testing.assert_allclose(one.largest, np.abs(a).max(), rtol=1e-6)
    assert one.parts and one.matched == "name" and one.op == "MatMul" and one.shape == (3, 7)


def test_the_limit_is_relative_to_the_largest_value(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", W * np.float32(1.001))
    assert not any(one.parts for one in compare(a, b, rtol=2e-3).values())
    assert compare(a, b, rtol=0.5e-3)["product"].parts


def test_other_names_are_matched_by_position(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", W, names=("in", "p", "out"))
    found = compare(a, b)
    assert [(one.name, one.other, one.matched) for one in found.values()] == [
        ("product", "p", "position"),
        ("y", "out", "position"),
    ]
    assert not any(one.parts for one in found.values())


def test_each_model_computes_in_its_own_type(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", W.astype(np.float16))
    one = compare(a, b)["product"]
    assert 1e-5 < one.max_error < 2e-2
    assert 50 < one.sqnr < 90


def test_bfloat16_computes_in_its_own_numbers(tmp_path: Path) -> None:
    """The runtime has no kernel of it; each value is computed in float32 and rounded."""
    narrow = ml_dtypes.bfloat16
    a, b = write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", W.astype(narrow))
    found = compare(a, b)
    product = (X.astype(narrow).astype(np.float32) @ W.astype(narrow).astype(np.float32)).astype(narrow)
    y = np.tanh(product.astype(np.float32)).astype(narrow).astype(np.float32)
    np.testing.assert_allclose(found["product"].max_error, np.abs(X @ W - product.astype(np.float32)).max(), rtol=1e-3)
    np.testing.assert_allclose(found["y"].max_error, np.abs(np.tanh(X @ W) - y).max(), rtol=1e-3)
    assert not any(one.max_error for one in compare(b, b).values())


def test_nan_on_one_side_alone_is_an_infinite_error(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx", W, op="Sqrt"), write(tmp_path / "b.onnx", W, op="Abs")
    assert compare(a, b)["y"].max_error == np.inf
    assert not compare(a, a)["y"].parts


def test_inputs_of_other_shapes_are_refused(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx", W), write(tmp_path / "b.onnx", W)
    model = onnx.load(b)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 5)))
    onnx.save(model, b)
    with pytest.raises(InputError, match=r"\(3, 5\) in the first model, \(4, 5\) in the second"):
        compare(a, b)


@pytest.mark.parametrize("turned", [False, True])
def test_a_relu_that_a_range_of_integers_implies_is_no_difference(tmp_path: Path, turned: bool) -> None:
    """Quantizers leave the Relu out and give its name to what it read: the integers hold no negative numbers."""
    whole = write(tmp_path / "a.onnx", W, op="Relu")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y/rounded"]),
        helper.make_node("Identity", ["y/rounded"], ["out"]),
    ]
    arrays = {"w": W, "scale": np.array(0.05, np.float32), "zero": np.array(0, np.uint8)}
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    ends = [
        helper.make_tensor_value_info(*end)
        for end in (("x", TensorProto.FLOAT, (3, 5)), ("out", TensorProto.FLOAT, None))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "b.onnx")
    names = [whole, str(tmp_path / "b.onnx")]
    found = compare(*names[:: -1 if turned else 1]).values()
    one = next(one for one in found if {one.name, one.other} == {"y", "y/rounded"})
    assert one.matched == "name" and one.max_error <= 0.026
