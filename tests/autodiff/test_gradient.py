"""`gradient`: names, types and defaults of the model that it returns, and what it refuses."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from caffestat import api
from caffestat.autodiff import gradient, jvp
from caffestat.errors import GradientError, InputError
from caffestat.program.from_onnx import settle_drawn

from ..graph.models import model, normal, run, value
from ..graph.test_load import conditional

node = helper.make_node
X, W, B = normal(2, 3), normal(3, 4, seed=1), normal(4, seed=2)


def linear(opset: int = 22) -> onnx.ModelProto:
    """h = x·w + b, y = tanh(h), z = Σ y²; i picks rows of y."""
    nodes = [
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["p", "b"], ["h"]),
        node("Tanh", ["h"], ["y"]),
        node("Mul", ["y", "y"], ["square"]),
        node("ReduceSum", ["square"], ["z"], keepdims=0),
        node("ArgMax", ["y"], ["best"], axis=1),
    ]
    proto = model(nodes, {"x": (2, 3)}, ["y", "z"], {"w": W, "b": B}, opset)
    proto.graph.output.append(value("best", None, TensorProto.INT64))
    return proto


def test_defaults() -> None:
    found = gradient(linear())
    onnx.checker.check_model(found, full_check=True)
    assert [item.name for item in found.graph.input] == ["x", "cotangent/y", "cotangent/z"]
    assert [item.name for item in found.graph.output] == ["y", "z", "best", "grad/x", "grad/w", "grad/b"]
    dy, dz = normal(2, 4, seed=5), np.array(0.7, np.float32)
    out = run(found, {"x": X, "cotangent/y": dy, "cotangent/z": dz})
    y = np.tanh(X @ W + B)
    dh = (dy + 2 * dz * y) * (1 - y * y)
    np.testing.assert_allclose(out["grad/x"], dh @ W.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["grad/w"], X.T @ dh, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["grad/b"], dh.sum(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["z"], (y * y).sum(), rtol=1e-5)


def test_results_are_computed_under_their_names() -> None:
    """Add's gradient is one value for both of its inputs: a copy gives it the second name."""
    nodes = [node("Add", ["x", "w"], ["h"]), node("Tanh", ["h"], ["y"])]
    found = gradient(model(nodes, {"x": (2, 3)}, ["y"], {"w": X}))
    assert [made.op_type for made in found.graph.node].count("Identity") == 1
    out = run(found, {"x": X, "cotangent/y": np.ones_like(X)})
    np.testing.assert_allclose(out["grad/x"], 1 - np.tanh(2 * X) ** 2, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(out["grad/w"], out["grad/x"])


def test_chosen_outputs_and_values() -> None:
    found = gradient(linear(), outputs=["z"], wrt=["h", "y", "z"])
    assert [item.name for item in found.graph.input] == ["x", "cotangent/z"]
    out = run(found, {"x": X, "cotangent/z": np.array(1, np.float32)})
    y = np.tanh(X @ W + B)
    np.testing.assert_allclose(out["grad/h"], 2 * y * (1 - y * y), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["grad/y"], 2 * y, rtol=1e-4)
    assert out["grad/z"] == 1


def test_what_no_output_depends_on_has_a_gradient_of_zero() -> None:
    proto = linear()
    proto.graph.input.append(value("spare", (5, 2)))
    out = run(
        gradient(proto, wrt=["spare"]),
        {"x": X, "spare": normal(5, 2), "cotangent/y": normal(2, 4), "cotangent/z": np.array(1, np.float32)},
    )
    np.testing.assert_array_equal(out["grad/spare"], np.zeros((5, 2)))


def test_a_scalar_initializer_has_a_gradient() -> None:
    proto = model([node("Mul", ["x", "s"], ["y"])], {"x": (2, 3)}, ["y"], {"s": np.array(3, np.float32)})
    out = run(gradient(proto), {"x": X, "cotangent/y": np.ones((2, 3), np.float32)})
    np.testing.assert_allclose(out["grad/s"], X.sum(), rtol=1e-5)


def test_a_scalar_has_a_gradient_through_what_is_computed_from_it_alone() -> None:
    """Such values are computed ahead of a run; what lies between them and a size stays so."""
    nodes = [
        node("Exp", ["s"], ["e"]),
        node("Mul", ["e", "s"], ["f"]),
        node("Floor", ["f"], ["rows"]),
        node("Cast", ["rows"], ["count"], to=TensorProto.INT64),
        node("Unsqueeze", ["count", "zero"], ["shape"]),
        node("Expand", ["x", "shape"], ["wide"]),
        node("Mul", ["wide", "f"], ["y"]),
    ]
    proto = model(nodes, {"x": (1,)}, ["y"], {"s": np.array(1.2, np.float32), "zero": np.array([0])})
    found = gradient(proto, wrt=["s", "f"])
    onnx.checker.check_model(found, full_check=True)
    x, dy = normal(1), normal(3, seed=8)
    out = run(found, {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(out["grad/f"], dy.sum() * x[0], rtol=1e-5)
    np.testing.assert_allclose(out["grad/s"], dy.sum() * x[0] * np.exp(1.2) * 2.2, rtol=1e-5)


def test_a_run_for_shapes_takes_nodes_that_were_put_back() -> None:
    """`e` is computed ahead, and again once its scalar has a gradient; the shape of `m` is known from a run only."""
    nodes = [
        node("Exp", ["s"], ["e"]),
        node("Relu", ["x"], ["r"]),
        node("NonZero", ["r"], ["i"]),
        node("Transpose", ["i"], ["t"]),
        node("GatherND", ["r", "t"], ["m"]),
        node("Mul", ["m", "e"], ["h"]),
        node("MatMul", ["h", "w"], ["y"]),
    ]
    weights = {"s": np.array(0.5, np.float32), "w": normal(4, 3)}
    proto = model(nodes, {"x": (4,)}, ["y"], weights)
    x = np.abs(normal(4)) + 1
    out = run(api.gradient(proto, inputs={"x": x}), {"x": x, "cotangent/y": np.ones(3, np.float32)})
    np.testing.assert_allclose(out["grad/s"], (np.exp(0.5) * x) @ weights["w"] @ np.ones(3), rtol=1e-5)


def test_scales_computed_from_a_scalar_stay_constants() -> None:
    nodes = [
        node("Unsqueeze", ["s", "zero"], ["one"]),
        node("Concat", ["one", "one"], ["scales"], axis=0),
        node("Resize", ["x", "", "scales"], ["y"], mode="nearest"),
    ]
    proto = model(nodes, {"x": (2, 3)}, ["y"], {"s": np.array(2, np.float32), "zero": np.array([0])})
    out = run(gradient(proto), {"x": X, "cotangent/y": np.ones((4, 6), np.float32)})
    np.testing.assert_array_equal(out["grad/x"], np.full((2, 3), 4))
    assert out["grad/s"] == 0


def test_the_gradient_of_a_gradient() -> None:
    """Its names are taken where the model has them already: the later one gets a number."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["y"])]
    first = gradient(model(nodes, {"x": (2, 3)}, ["y"], {"w": W}), wrt="x")
    second = gradient(first, outputs="grad/x", wrt=["x", "cotangent/y"])
    assert [item.name for item in second.graph.output] == ["y", "grad/x", "grad/x_2", "grad/cotangent/y"]
    dy, v = normal(2, 4, seed=5), normal(2, 3, seed=6)
    out = run(second, {"x": X, "cotangent/y": dy, "cotangent/grad/x": v})
    y = np.tanh(X @ W)
    np.testing.assert_allclose(out["grad/x_2"], (v @ W * dy * -2 * y * (1 - y * y)) @ W.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["grad/cotangent/y"], v @ W * (1 - y * y), rtol=1e-4, atol=1e-5)


def test_a_name_counts_once() -> None:
    found = gradient(linear(), outputs=["y", "y"], wrt=["w", "w"])
    assert [item.name for item in found.graph.input] == ["x", "cotangent/y"]
    assert [item.name for item in found.graph.output] == ["y", "z", "best", "grad/w"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_types_stay_the_models_own(dtype: type) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Sigmoid", ["h"], ["y"])]
    proto = model(nodes, [value("x", (2, 3), kind)], [], {"w": W.astype(dtype)})
    proto.graph.output.append(value("y", None, kind))
    out = run(gradient(proto), {"x": X.astype(dtype), "cotangent/y": np.ones((2, 4), dtype)})
    y = 1 / (1 + np.exp(-(X @ W)))
    assert out["grad/w"].dtype == dtype
    np.testing.assert_allclose(out["grad/w"], X.T @ (y * (1 - y)), rtol=1e-2, atol=1e-3)


def test_open_sizes_have_to_be_said() -> None:
    proto = model([node("Softmax", ["x"], ["y"])], {"x": ["N", "C"]}, ["y"])
    with pytest.raises(InputError, match="--shape x=1,224"):
        gradient(proto)
    assert len(gradient(proto, shapes={"x": (2, 3)}).graph.output) == 2


def test_refusals() -> None:
    with pytest.raises(InputError, match="'best' is not a floating-point output"):
        gradient(linear(), outputs=["best"])
    with pytest.raises(InputError, match="no value 'ghost'"):
        gradient(linear(), wrt=["ghost"])
    with pytest.raises(GradientError, match="'best' holds int64"):
        gradient(linear(), wrt=["best"])
    with pytest.raises(GradientError, match=r"Det .value y.: matrices of more than 64 rows"):
        gradient(model([node("Det", ["x"], ["y"])], {"x": (65, 65)}, ["y"]))


def test_a_gradient_passes_a_subgraph_that_reads_from_outside() -> None:
    """x is not among the inputs of the If, but its branches read it."""
    assert [output.name for output in gradient(conditional()).graph.output][-1] == "grad/x"


@pytest.mark.parametrize("outputs", [[], ["positive"]])
def test_without_a_float_to_start_from_there_are_no_zeros(outputs: list[str]) -> None:
    proto = model([helper.make_node("Greater", ["x", "w"], ["positive"])], {"x": (2, 3)}, outputs, {"w": normal(3)})
    for found in proto.graph.output:
        found.type.tensor_type.elem_type = TensorProto.BOOL
    with pytest.raises(InputError, match="no floating-point output to start a backward pass from"):
        gradient(proto)


@pytest.mark.parametrize("derivative", ["grad", "tangent"])
@pytest.mark.parametrize("wrt", ["x", "w"])
@pytest.mark.parametrize("counts", [False, True])
def test_data_that_decides_other_shapes_is_refused(derivative: str, wrt: str, counts: bool) -> None:
    """The number of the elements above 0 divides the output, or only they are in it: one in the run for shapes."""
    kept = [node("Greater", ["x", "zero"], ["high"]), node("Compress", ["x", "high"], ["kept"])]
    if counts:
        rest = [node("Size", ["kept"], ["n"]), node("Cast", ["n"], ["count"], to=1), node("Div", ["x", "count"], ["m"])]
    else:
        rest = [node("Mul", ["kept", "kept"], ["m"])]
    nodes = [*kept, *rest, node("Mul", ["m", "w"], ["s"]), node("ReduceSum", ["s"], ["y"], keepdims=0)]
    proto = model(nodes, {"x": (3,), "w": (1,)}, ["y"], {"zero": np.zeros((), np.float32)})
    one, two = np.array([-1, 2, -3], np.float32), np.array([1, 2, -3], np.float32)
    made = api.gradient(proto, wrt=[wrt], inputs={"x": one})
    if derivative == "tangent":
        made = jvp(proto, wrt=[wrt], settle=partial(settle_drawn, inputs={"x": one}))
    more = {
        item.name: np.ones([d.dim_value for d in item.type.tensor_type.shape.dim], np.float32)
        for item in made.graph.input
    }
    run(made, more | {"x": one})
    with pytest.raises(Exception, match=r"the data decides other shapes|Non-zero status code"):
        run(made, more | {"x": two})


def test_the_gradient_of_an_empty_value_is_empty() -> None:
    """The runtime takes an Expand to no elements for one that broadcasts."""
    nodes = [node("Mul", ["x", "w"], ["p"]), node("ReduceSum", ["p", "axis"], ["y"], keepdims=0)]
    proto = model(nodes, {"x": (2, 0, 3)}, ["y"], {"w": normal(3), "axis": np.array([1])})
    found = run(gradient(proto), {"x": np.zeros((2, 0, 3), np.float32), "cotangent/y": normal(2, 3)})
    assert found["grad/x"].shape == (2, 0, 3)
    assert found["grad/w"].tolist() == [0, 0, 0]
