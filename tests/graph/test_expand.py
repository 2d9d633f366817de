"""What the runtime gets in the place of ops: sums over channels, values that are computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.graph import Graph, blocked
from caffestat.graph.expand import expand, sum_channels


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize(("channels", "size"), [(96, 5), (80, 3), (112, 9), (13, 5), (400, 3)])
def test_sums_over_channels(provider: str, channels: int, size: int) -> None:
    x = np.random.default_rng(3).standard_normal((2, channels, 7)).astype(np.float32)
    g = Graph()
    g.outputs.append(sum_channels(g, g.input("x", x.shape), x.shape, size, 0.5, np.float32))
    expected = np.zeros(x.shape)
    for channel in range(channels):
        around = slice(max(channel - size // 2, 0), channel + size // 2 + 1)
        expected[:, channel] = 0.5 * x[:, around].astype(np.float64).sum(1)
    ordinary = expand(g, g.outputs, provider)
    (found,) = Compiled(ordinary).run({"x": x}).values()
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_many_channels_take_few_products() -> None:
    g = Graph()
    g.outputs.append(sum_channels(g, g.input("x", (2, 192, 7)), (2, 192, 7), 5, 1.0, np.float32))
    assert max(array.size for array in expand(g, g.outputs).constants.values()) < 192 * 192 / 4


def test_products_of_the_same_views_are_computed_once() -> None:
    g = Graph()
    x = g.input("x", (3, 4))
    products = []
    for _ in range(2):
        rows = g.emit("Reshape", x, g.ints(4, 3))
        products += [g.fused_matmul(rows, rows, transB=turned) for turned in (0, 1)]
    noise = [g.emit("RandomNormalLike", x) for _ in range(2)]
    total = g.emit("Concat", *noise, *products, axis=1)
    asked = g.emit("Reshape", x, g.ints(4, 3))
    ops = [node.op for node in expand(g, [total, asked]).nodes]
    counts = {op: ops.count(op) for op in ops}
    assert counts == {"Reshape": 2, "FusedMatMul": 2, "RandomNormalLike": 2, "Concat": 1}


def test_views_of_views_are_views_of_the_value() -> None:
    """Each view that a slice's graph reads from outside is a copy there."""
    g = Graph()
    x = g.declare(g.emit("Neg", g.input("x", (2, 6))), (2, 6))
    rows = g.reshape(x, 3, 4)
    column = g.declare(g.emit("Unsqueeze", g.reshape(rows, 12), g.ints(1)), (12, 1))
    empty = g.reshape(g.declare(g.emit("Slice", rows, g.ints(0), g.ints(0)), (0, 4)), 4, 0)
    g.outputs = [rows, g.emit("Neg", column), g.reshape(empty, 2, 0)]
    views = [node.inputs[0] for node in expand(g, g.outputs).nodes if node.info.reshapes]
    assert views[:2] == [x, x]
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    found = [*Compiled(g).run({"x": values}).values()]
    np.testing.assert_array_equal(found[0], -values.reshape(3, 4))
    np.testing.assert_array_equal(found[1], values.reshape(12, 1))
    assert found[2].shape == (2, 0)


def test_an_output_that_other_nodes_compute_too_is_computed_once() -> None:
    g = Graph()
    x = g.input("x", (3, 4))
    sums = [g.emit("ReduceSum", x, g.ints(axis), keepdims=0) for axis in (1, 0, 1, 1)]
    noise = [g.emit("RandomNormalLike", x) for _ in range(2)]
    total = g.emit("Sum", sums[0], sums[2])
    g.outputs += [sums[2], total, sums[3], *noise]
    expanded = expand(g, g.outputs)
    assert [node.op for node in expanded.nodes].count("ReduceSum") == 2  # two outputs of one value stay two nodes
    assert [node.op for node in expanded.nodes].count("RandomNormalLike") == 2
    values = np.random.default_rng(5).standard_normal((3, 4)).astype(np.float32)
    found = Compiled(g).run({"x": values}, outputs=[sums[2], total, sums[3]])
    for name, times in ((sums[2], 1), (total, 2), (sums[3], 1)):
        np.testing.assert_allclose(found[name], times * values.sum(1), rtol=1e-6)


def test_values_are_added_in_their_order_by_ops_that_work_on_all_threads() -> None:
    g = Graph()
    parts = [g.input(name, shape) for name, shape in {"a": (3, 1, 4), "b": (2, 1), "c": (3, 2, 4)}.items()]
    g.outputs = [g.emit("Sum", *parts)]
    assert [node.op for node in expand(g, g.outputs).nodes] == ["Add", "Add"]
    values = [np.float32(1e8) * np.ones((3, 1, 4), np.float32), -np.full((2, 1), 1e8, np.float32)]
    feeds = dict(zip(parts, (*values, np.full((3, 2, 4), 0.5, np.float32)), strict=True))
    np.testing.assert_array_equal(Compiled(g).run(feeds)[g.outputs[0]], feeds["c"])


@pytest.mark.parametrize(
    ("rows", "how", "is_turned"),
    [
        (8, {"transB": 1}, True),
        (48, {"transB": 1}, True),
        (7, {"transB": 1}, False),
        (49, {"transB": 1}, False),
        (20, {}, False),
        (20, {"transA": 1, "transB": 1}, False),
        (20, {"transB": 1, "alpha": 0.5}, False),
        (20, {"transB": 1, "beta": 0.5}, False),
    ],
)
@pytest.mark.parametrize("bias", [None, (), (701,), (1, 701), ("rows", 1)])
def test_few_rows_stand_right_in_a_product_with_large_weights(
    rows: int, how: dict[str, Any], is_turned: bool, bias: tuple[int, ...] | None
) -> None:
    random = np.random.default_rng(7)
    x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, 750), (701, 750)))
    shape = bias and tuple(rows if size == "rows" else size for size in bias)
    b = random.standard_normal(shape or ()).astype(np.float32) if bias is not None else np.float32(0)
    g = Graph()
    left, right = (x.T if how.get("transA") else x), (w if how.get("transB") else w.T)
    operands = [g.input("x", left.shape), g.param("w", right.shape), *([] if bias is None else [g.param("b", b.shape)])]
    g.outputs = [g.emit("Gemm", *operands, **how)]
    assert ("MatMul" in {node.op for node in expand(g, g.outputs).nodes}) == is_turned
    found = Compiled(g, constant={"w": right, "b": np.asarray(b)}).run({"x": left})[g.outputs[0]]
    expected = how.get("alpha", 1) * (x.astype(np.float64) @ w.T) + how.get("beta", 1) * b
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "columns", "is_turned"),
    [(16, 2100, True), (64, 2100, True), (15, 2100, False), (65, 2100, False), (16, 1900, False)],
)
def test_few_rows_stand_right_in_a_product_with_very_large_weights(rows: int, columns: int, is_turned: bool) -> None:
    random = np.random.default_rng(7)
    dy, w = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, 4096), (4096, columns)))
    g = Graph()
    g.outputs = [g.emit("MatMul", g.input("dy", dy.shape), g.param("w", w.shape))]
    assert ("FusedMatMul" in {node.op for node in expand(g, g.outputs).nodes}) == is_turned
    assert [node.op for node in expand(g, g.outputs, "cuda").nodes] == ["MatMul"]
    found = Compiled(g, constant={"w": w}).run({"dy": dy})[g.outputs[0]]
    np.testing.assert_allclose(found, dy.astype(np.float64) @ w, atol=3e-4)


def test_what_was_computed_long_before_is_computed_again() -> None:
    g = Graph()
    x = value = g.input("x", (4, 4))
    first = g.fused_matmul(x, x)
    for _ in range(200):
        value = g.emit("Tanh", value)
    g.outputs.append(g.emit("Sum", first, value, g.fused_matmul(x, x)))
    assert [node.op for node in expand(g, g.outputs).nodes].count("FusedMatMul") == 2


def test_an_image_is_brought_into_the_blocked_layout_once() -> None:
    g = Graph()
    x = g.input("x", (2, 16, 3, 4))
    value = first = blocked.reorder(g, x)
    for _ in range(200):
        value = g.emit("Tanh", value)
    again, other = blocked.reorder(g, x), blocked.reorder(g, g.emit("Neg", x))
    g.outputs.append(g.emit("Sum", first, value, again, other))
    nodes = expand(g, g.outputs).nodes
    assert [blocked.is_reorder(node) for node in nodes].count(True) == 2
    assert [node.inputs[-1] for node in nodes[-3:]] == [value, first, other]
    assert nodes[-3].inputs[0] == first
