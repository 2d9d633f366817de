"""Forward mode, Hessian-vector products and straight-through gradients, against torch or finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from caffestat.autodiff import gradient, hessian_product, jvp
from caffestat.errors import GradientWarning

from ..graph.models import model, normal, run

node = helper.make_node
ARRAYS = {"w": normal(4, 3, 3, 2, seed=1), "b": normal(4, seed=2), "v": normal(5, 12, seed=3)}


def network() -> onnx.ModelProto:
    """Convolution, softplus, average pooling, inner product, softmax: smooth, so that second derivatives exist."""
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 0, 1, 1]),
        node("Softplus", ["c"], ["s"]),
        node("AveragePool", ["s"], ["p"], kernel_shape=[3, 2], strides=[3, 2]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v"], ["z"], transB=1),
        node("Softmax", ["z"], ["y"]),
    ]
    return model(nodes, {"x": (2, 3, 3, 6)}, ["y"], ARRAYS)


X = normal(2, 3, 3, 6, seed=4)


def test_the_network_has_the_sizes_that_it_should() -> None:
    assert run(network(), {"x": X})["y"].shape == (2, 5)


def test_jvp_is_the_derivative_along_a_direction() -> None:
    found = jvp(network(), wrt=["x", "w"])
    assert [item.name for item in found.graph.input] == ["x", "tangent/x", "tangent/w"]
    assert [item.name for item in found.graph.output] == ["y", "tangent/y"]
    dx, dw = normal(*X.shape, seed=5), normal(4, 3, 3, 2, seed=6)
    tangent = run(found, {"x": X, "tangent/x": dx, "tangent/w": dw})["tangent/y"]
    ends = []
    for step in (1e-3, -1e-3):
        moved = model(network().graph.node, {"x": X.shape}, ["y"], ARRAYS | {"w": ARRAYS["w"] + step * dw})
        ends.append(run(moved, {"x": X + np.float32(step) * dx})["y"].astype(np.float64))
    np.testing.assert_allclose(tangent, (ends[0] - ends[1]) / 2e-3, atol=2e-3)


def test_jvp_and_gradient_are_transposes() -> None:
    u, v = normal(2, 5, seed=7), normal(*X.shape, seed=8)
    forward = run(jvp(network(), wrt=["x"]), {"x": X, "tangent/x": v})["tangent/y"]
    backward = run(gradient(network(), wrt=["x"]), {"x": X, "cotangent/y": u})["grad/x"]
    assert float((forward * u).sum()) == pytest.approx(float((backward * v).sum()), rel=1e-4)


def test_jvp_of_what_does_not_matter_is_zero() -> None:
    proto = model([node("Neg", ["x"], ["y"]), node("Abs", ["x2"], ["z"])], {"x": (2, 3), "x2": (4,)}, ["y", "z"])
    found = run(jvp(proto, wrt=["x"]), {"x": X[0, 0, :2, :3], "x2": X[0, 0, 0, :4], "tangent/x": normal(2, 3)})
    np.testing.assert_array_equal(found["tangent/y"], -normal(2, 3))
    assert (found["tangent/z"] == 0).all()


def test_jvp_of_a_sum_adds_the_tangents_of_its_terms() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], {"a": (2, 3), "b": (2, 3)}, ["y"])
    feeds = {name: normal(2, 3, seed=index) for index, name in enumerate(("a", "b", "tangent/a", "tangent/b"))}
    expected = feeds["tangent/a"] + feeds["tangent/b"]
    np.testing.assert_allclose(run(jvp(proto), feeds)["tangent/y"], expected, rtol=1e-6)


def test_hessian_product() -> None:
    found = hessian_product(network(), wrt=["x", "b"])
    assert [item.name for item in found.graph.output] == ["y", "grad/x", "grad/b", "hessian/x", "hessian/b"]
    u, vx, vb = normal(2, 5, seed=7), normal(*X.shape, seed=8), normal(4, seed=9)
    feeds = {"x": X, "cotangent/y": u, "vector/x": vx, "vector/b": vb}
    out = run(found, feeds)
    ends: list[dict[str, Any]] = []
    for step in (2e-3, -2e-3):
        arrays = ARRAYS | {"b": (ARRAYS["b"] + step * vb).astype(np.float32)}
        moved = gradient(model(network().graph.node, {"x": X.shape}, ["y"], arrays), wrt=["x", "b"])
        ends.append(run(moved, {"x": X + np.float32(step) * vx, "cotangent/y": u}))
    for name in ("x", "b"):
        expected = (ends[0][f"grad/{name}"].astype(np.float64) - ends[1][f"grad/{name}"]) / 4e-3
        np.testing.assert_allclose(out[f"hessian/{name}"], expected, atol=0.02 * abs(expected).max() + 1e-3)


SMOOTH = [
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Mish",
    "Gelu",
    "Exp",
    "Erf",
    "Sin",
    "Cosh",
    "Atan",
    "Reciprocal",
    "Sqrt",
    "Log",
]


@pytest.mark.parametrize("op", SMOOTH)
def test_second_derivatives_of_functions(op: str) -> None:
    proto = model([node(op, ["x"], ["y"])], {"x": (3, 4)}, ["y"])
    x, u, v = abs(normal(3, 4, seed=1)) + np.float32(0.5), normal(3, 4, seed=2), normal(3, 4, seed=3)
    feeds = {"x": x, "cotangent/y": u, "vector/x": v}
    found = run(hessian_product(proto, wrt=["x"]), feeds)["hessian/x"]
    first = gradient(proto, wrt=["x"])
    ends = [run(first, {"x": x + step * v, "cotangent/y": u})["grad/x"] for step in np.float32([1e-2, -1e-2])]
    np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-2, rtol=0.01, atol=2e-3)


@pytest.mark.parametrize("per_channel", [False, True])
def test_straight_through(per_channel: bool) -> None:
    """q = round(x / s) + z in int8; what would be below -128 or above 127 gets no gradient."""
    scale = np.array([0.02, 0.5, 0.01] if per_channel else 0.02, np.float32)
    zero = np.array([3, -4, 0] if per_channel else 3, np.int8)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=1),
        node("Mul", ["d", "d"], ["y"]),
    ]
    proto = model(nodes, {"x": (2, 3, 4)}, ["y"], {"s": scale, "z": zero})
    x, dy = normal(2, 3, 4) * 2, normal(2, 3, 4, seed=1)
    with pytest.warns(
        GradientWarning,
        match="before 1 node that rounds to integers .QuantizeLinear 1; the first makes 'q'.; use straight",
    ):
        assert (run(gradient(proto, wrt=["x"]), {"x": x, "cotangent/y": dy})["grad/x"] == 0).all()
    out = run(gradient(proto, wrt=["x"], straight_through=True), {"x": x, "cotangent/y": dy})
    column = (slice(None), None)
    s, z = (scale[column], zero.astype(float)[column]) if per_channel else (scale, float(zero))
    inside = (x >= (-128 - z) * s) & (x <= (127 - z) * s)
    d = (np.clip(np.round(x / s) + z, -128, 127) - z) * s
    assert 0 < inside.sum() < x.size
    np.testing.assert_allclose(out["grad/x"], np.where(inside, 2 * d * dy, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("converts", [False, True])
def test_rows_whose_softmax_is_replaced_because_it_is_not_a_number_get_no_gradient(converts: bool) -> None:
    """As attention is exported: -inf where a key is masked, 0 where all are. The row in between has numbers."""
    nodes = [
        node("Where", ["mask", "x", "none"], ["scores"]),
        node("Softmax", ["scores"], ["share"]),
        *([node("Identity", ["share"], ["p"])] if converts else []),
        node("IsNaN", ["share"], ["empty"]),
        node("Where", ["empty", "zero", "p" if converts else "share"], ["safe"]),
        node("MatMul", ["safe", "w"], ["y"]),
    ]
    mask = np.array([[1, 1, 0], [0, 0, 0], [1, 1, 1]], bool)
    arrays = {"mask": mask, "none": np.float32(-np.inf), "zero": np.float32(0), "w": normal(3, 2, seed=3)}
    whole = model(nodes, {"x": (3, 3)}, ["y"], arrays)
    x, dy, v = normal(3, 3), normal(3, 2, seed=5), normal(3, 3, seed=6)
    found = run(hessian_product(whole, wrt=["x"]), {"x": x, "cotangent/y": dy, "vector/x": v})
    nodes = [
        node("Where", ["mask", "x", "none"], ["s"]),
        node("Softmax", ["s"], ["p"]),
        node("MatMul", ["p", "w"], ["y"]),
    ]
    rows = [0, 2]
    plain = model(nodes, {"x": (2, 3)}, ["y"], arrays | {"mask": mask[rows]})
    expected = run(hessian_product(plain, wrt=["x"]), {"x": x[rows], "cotangent/y": dy[rows], "vector/x": v[rows]})
    for name in ("grad/x", "hessian/x"):
        np.testing.assert_allclose(found[name][rows], expected[name], rtol=1e-5, atol=1e-6)
        assert found[name][1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("op", ["RoiAlign", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"])
def test_what_gets_no_gradient_is_constant_for_second_derivatives_too(op: str) -> None:
    if op == "RoiAlign":
        fed, constants, shape = ["x", "s", "i"], {"i": np.array([0, 0])}, (1, 2, 5, 4)
        s = np.array([[0.2, 0.3, 2.4, 3.1], [1.1, 0.7, 2.9, 2.2]], np.float32)
    else:
        fed, constants, shape = ["x", "i", "s"], {"i": np.array([2, 0])}, (2, 3)
        s = np.array([0.5, 2, 3], np.float32)
    proto = model([node(op, fed, ["z"]), node("Mul", ["z", "z"], ["y"])], {"x": shape, "s": s.shape}, ["y"], constants)
    made = hessian_product(proto, wrt=["x", "s"])
    (y,) = (item.type.tensor_type.shape.dim for item in made.graph.input if item.name == "cotangent/y")
    feeds = {"x": normal(*shape), "s": s, "cotangent/y": np.ones([dim.dim_value for dim in y], np.float32)}
    still, moved = (
        run(made, feeds | {"vector/x": normal(*shape, seed=5), "vector/s": np.full(s.shape, v, np.float32)})
        for v in (0, 1)
    )
    assert (still["grad/s"] == 0).all() and (still["hessian/s"] == 0).all() and (moved["hessian/s"] == 0).all()
    assert np.abs(still["hessian/x"]).max() > 0.01
    np.testing.assert_array_equal(moved["hessian/x"], still["hessian/x"])
