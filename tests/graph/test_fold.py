"""`fold_normalizations`: convolutions that take in the normalization behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.autodiff import gradient, hessian_product
from caffestat.graph.fold import fold_normalizations
from caffestat.graph.load import load

from .models import model, normal, run

node = helper.make_node
LEARNED = ("scale", "shift", "mean", "variance")


def normalized(op: str = "Conv", group: int = 1, bias: bool = True, **more: Any) -> onnx.ModelProto:
    """A convolution of 4 channels to 6, its normalization, and a tanh."""
    filters = (6, 4 // group, 3, 2) if op == "Conv" else (4, 6 // group, 3, 2)
    learned = {"w": normal(*filters, seed=1), "b": normal(6, seed=2)}
    learned.update({name: normal(6, seed=3 + i) for i, name in enumerate(LEARNED)})
    learned["variance"] = np.abs(learned["variance"]) + 0.3
    inputs = ["x", "w", *(["b"] if bias else [])]
    nodes = [
        node(op, inputs, ["c"], group=group, strides=[2, 1]),
        node("BatchNormalization", ["c", *LEARNED], ["n"], epsilon=0.02, **more),
        node("Tanh", ["n"], ["y"]),
    ]
    return model(nodes, {"x": (2, 4, 7, 5)}, ["y"], learned if bias else {k: v for k, v in learned.items() if k != "b"})


def ops(proto: onnx.ModelProto) -> list[str]:
    return [found.op_type for found in proto.graph.node]


def results(proto: onnx.ModelProto, wrt: list[str]) -> dict[str, np.ndarray]:
    made = gradient(proto, wrt=wrt)
    feeds = {"x": normal(2, 4, 7, 5, seed=9)}
    dy = next(value for value in made.graph.input if value.name == "cotangent/y")
    feeds["cotangent/y"] = normal(*(dim.dim_value for dim in dy.type.tensor_type.shape.dim), seed=10)
    return run(made, feeds)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("op", "group"), [("Conv", 1), ("Conv", 2), ("ConvTranspose", 1), ("ConvTranspose", 2)])
def test_values_and_gradients_stay(op: str, group: int, bias: bool) -> None:
    """Asking for the value in between keeps the nodes as they are: the two ways agree."""
    proto = normalized(op, group, bias)
    wrt = ["x", "w", *(["b"] if bias else []), *LEARNED]
    assert fold_normalizations(load(proto).graph, ()) == (op == "Conv" or group == 1)
    apart, together = results(proto, [*wrt, "c"]), results(proto, wrt)
    for name in ("y", *(f"grad/{name}" for name in wrt)):
        scale = np.abs(apart[name]).max()
        np.testing.assert_allclose(together[name], apart[name], rtol=0, atol=1e-5 * scale, err_msg=name)


def test_no_normalization_is_left() -> None:
    assert "BatchNormalization" in ops(gradient(normalized(), wrt=["c"]))
    assert "BatchNormalization" not in ops(gradient(normalized()))
    assert "BatchNormalization" not in ops(hessian_product(normalized(), wrt=["w"]))
    assert "BatchNormalization" in ops(caffestat.gradient(normalized(), wrt=["w"], loss="c"))


def read_twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Exp", ["c"], ["e"]))
    proto.graph.output.append(helper.make_empty_tensor_value_info("e"))


def is_output(proto: onnx.ModelProto) -> None:
    proto.graph.output.append(helper.make_empty_tensor_value_info("c"))


def trains(proto: onnx.ModelProto) -> None:
    norm = proto.graph.node[1]
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    norm.output.extend(["m", "v"])


def filters_are_fed(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[0]
    proto.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (6, 4, 3, 2)))


@pytest.mark.parametrize("change", [read_twice, is_output, trains, filters_are_fed])
def test_what_stays_as_it_is(change: Any) -> None:
    proto = normalized()
    change(proto)
    graph = load(proto).graph
    before = list(graph.nodes)
    assert fold_normalizations(graph, ()) == 0
    assert graph.nodes == before
