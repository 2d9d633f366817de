"""Graphs as float16 computes them, against numpy in float16."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.engine import CPU, Compiled, Statistics
from caffestat.graph import Graph, Node
from caffestat.graph.narrow import narrowed

from .models import normal

HALF = np.float16


def half(x: np.ndarray) -> np.ndarray:
    """Return an array rounded to float16, in float32."""
    with np.errstate(over="ignore"):
        return x.astype(HALF).astype(np.float32)


def run(g: Graph, feeds: dict[str, np.ndarray], outputs: list[str], **constant: np.ndarray) -> dict[str, np.ndarray]:
    g.outputs = outputs
    g.infer()
    return Compiled(g, CPU, constant, compute="float16").run(feeds)


def test_every_value_is_rounded() -> None:
    g = Graph()
    x, w = g.input("x", (3, 5)), g.param("w", (5, 7))
    product = g.emit("MatMul", x, w, hint="product")
    root = g.emit("Sqrt", g.emit("Abs", product), hint="root")
    arrays = {"x": normal(3, 5), "w": normal(5, 7, seed=1)}
    found = run(g, {"x": arrays["x"]}, [product, root], w=arrays["w"])
    exact = half(half(arrays["x"]) @ half(arrays["w"]))
    assert found["product"].dtype == np.float32
    np.testing.assert_allclose(found["product"], exact, rtol=1e-3)
    np.testing.assert_array_equal(found["product"], half(found["product"]))
    np.testing.assert_array_equal(found["root"], half(np.sqrt(np.abs(found["product"]))))


@pytest.mark.parametrize("op", ["Max", "Add"])  # with a kernel on the CPU, and without
def test_overflow_becomes_infinite_and_underflow_zero(op: str) -> None:
    g = Graph()
    x = g.input("x", (4,))
    y = g.emit(op, g.emit("Mul", x, g.constant(16)), g.constant(0), hint="y")
    feeds = {"x": np.array([4094, 4095, 1e-9, 2.0**-20], np.float32)}
    np.testing.assert_array_equal(run(g, feeds, [y])["y"], [65504, np.inf, 0, 2.0**-16])


def test_ops_without_a_kernel_are_told() -> None:
    g = Graph()
    x = g.input("x", (4, 6))
    g.outputs = [g.emit("Sqrt", g.emit("Max", g.emit("Transpose", x, perm=[1, 0]), g.constant(1)))]
    compiled = Compiled(g, CPU, compute="float16")
    compiled.run({"x": normal(4, 6)})
    assert compiled.widened == {"Sqrt"}
    plain = Compiled(g, CPU)
    plain.run({"x": normal(4, 6)})
    assert plain.widened == set()


def test_statistics_stay_in_float32() -> None:
    g = Graph()
    x = g.input("x", (300, 500))
    y = g.emit("Add", x, g.constant(1), hint="y")
    g.infer()
    statistics = Statistics(g)
    statistics.sum_squares("squares", y)
    statistics.finish()
    feeds = {"x": np.full((300, 500), 2049 / 1024, np.float32)}
    found = statistics.read(run(g, feeds, list(g.outputs)))
    assert found["squares"] == pytest.approx(150_000 * (half(half(feeds["x"]) + 1)[0, 0]) ** 2, rel=1e-6)


def test_labels_stay_whole() -> None:
    g = Graph()
    label, x = g.input("label", (2,)), g.input("x", (2, 4099))
    index = g.cast(g.emit("Clip", g.reshape(label, 2, 1), g.constant(0), g.constant(4098)), np.int64)
    y = g.emit("GatherElements", x, index, axis=1, hint="y")
    array = np.arange(2 * 4099, dtype=np.float32).reshape(2, 4099) % 7
    found = run(g, {"label": np.array([4097, 2049], np.float32), "x": array}, [y])["y"]
    np.testing.assert_array_equal(found, array[[0, 1], [4097, 2049]].reshape(2, 1))


def test_constants_stay_within_float16() -> None:
    g = Graph()
    x = g.input("x", (3,))
    low = g.emit("Max", x, g.constant(-3e38), hint="low")
    positive = g.emit("Add", x, g.constant(1e-12), hint="positive")
    feeds = {"x": np.array([-np.inf, 0, 2], np.float32)}
    found = run(g, feeds, [low, positive])
    np.testing.assert_array_equal(found["low"], [-65504, 0, 2])
    np.testing.assert_array_equal(found["positive"], [-np.inf, 2.0**-24, 2])


def test_results_of_another_type_than_the_data_are_left() -> None:
    """The mean of a LayerNormalization is float32 whatever its data is; Resize reads its scales in float32."""
    g = Graph()
    x = g.input("x", (2, 3))
    y, mean = g.emit_many("LayerNormalization", x, g.constant([1, 1, 1]), count=2, axis=-1)
    image = g.emit("Abs", g.input("image", (1, 2, 4, 4)))
    g.outputs = [y, mean, g.emit("Resize", image, "", g.constant([1, 1, 1.5, 0.5]), mode="nearest")]
    g.infer()
    for supported in (True, False):
        graph, wide = narrowed(g, lambda node, graph, told=supported: told)
        made = {node.op: node for node in graph.nodes}
        assert graph.specs[made["Resize"].inputs[2]].dtype == np.float32
        assert (graph.specs[made["Resize"].inputs[0]].dtype == HALF) == supported
        assert wide == (set() if supported else {"LayerNormalization", "Abs", "Resize"})
        by_name = {name: node for node in graph.nodes for name in node.outputs}
        assert (by_name[mean].op == "LayerNormalization") == supported
        assert by_name[y].op == "Cast"


def test_subgraphs_compute_in_float32() -> None:
    from onnx import helper

    body = [helper.make_node("Mul", ["x", "x"], ["inner"])]
    branch = helper.make_graph(body, "branch", [], [helper.make_tensor_value_info("inner", 1, [3])])
    g = Graph()
    x, condition = g.input("x", (3,)), g.input("condition", (), np.bool_)
    attributes = {"then_branch": branch, "else_branch": branch}
    g.nodes.append(Node("If", (condition,), ("y",), attributes, captured=(x,)))
    g.declare("y", (3,))
    x_value = np.array([300, 0.1, 3], np.float32)
    found = run(g, {"x": x_value, "condition": np.array(True)}, ["y"])["y"]
    np.testing.assert_array_equal(found, half(x_value**2))
    assert np.isinf(found[0])
