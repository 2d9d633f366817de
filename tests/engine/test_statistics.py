"""Statistics heads against numpy in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from caffestat.engine import Compiled, Statistics
from caffestat.graph import Graph
from caffestat.graph.expand import expand

# small; even rows; a prime; no divisor between 64 and 1024; larger than what is kept as |x|
SHAPES = [(), (5,), (2, 3, 5, 7), (40, 600), (100_003,), (2, 3, 5003), (3, 1024, 1000)]


def values(shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(np.random.default_rng(1).standard_normal(shape, np.float32) + np.float32(0.1))


def run(x: np.ndarray, emit: Callable[[Graph, str], str]) -> tuple[float, float, float]:
    """Return (mean |y|, sum |y|, sum y²) of y = emit(x)."""
    g = Graph()
    y = emit(g, g.input("x", x.shape))
    g.infer()
    statistics = Statistics(g)
    statistics.mean_abs("mean", y)
    statistics.sum_abs("sum", y)
    statistics.sum_squares("squares", y)
    statistics.finish()
    found = statistics.read(Compiled(g).run({"x": x}))
    return found["mean"], found["sum"], found["squares"]


@pytest.mark.parametrize("shape", SHAPES)
def test_norms(shape: tuple[int, ...]) -> None:
    x = values(shape)
    exact = x.astype(np.float64)
    mean, total, squares = run(x, lambda g, value: g.emit("Neg", value))
    assert mean == pytest.approx(np.abs(exact).mean(), rel=2e-6)
    assert total == pytest.approx(np.abs(exact).sum(), rel=2e-6)
    assert squares == pytest.approx((exact**2).sum(), rel=2e-6)


def test_norms_for_cuda() -> None:
    x = values((2, 3, 5003))
    g = Graph()
    statistics = Statistics(g)
    y = g.declare(g.emit("Neg", g.input("x", x.shape)), x.shape)
    statistics.sum_abs("sum", y)
    statistics.sum_squares("squares", y)
    statistics.finish()
    of_cuda = expand(g, g.outputs, "cuda")
    assert len(of_cuda.nodes) < len(expand(g, g.outputs).nodes)
    found = statistics.read(Compiled(of_cuda).run({"x": x}))
    assert found["sum"] == pytest.approx(np.abs(x.astype(np.float64)).sum(), rel=1e-4)  # the CPU's kernel loses digits
    assert found["squares"] == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-4)


def pooled_relu(g: Graph, value: str) -> str:
    y = g.emit("Relu", value)
    return g.emit("Concat", y, g.emit("MaxPool", y, kernel_shape=[1, 1]), axis=1)


@pytest.mark.parametrize("op", [pooled_relu, lambda g, x: g.emit("Concat", g.emit("Relu", x), x, axis=1)])
def test_sign_is_looked_up_through_pooling_and_concat(op: Callable[[Graph, str], str]) -> None:
    x = values((2, 3, 80, 90))
    g = Graph()
    g.outputs.append(op(g, g.input("x", x.shape)))
    (y,) = Compiled(g).run({"x": x}).values()
    assert run(x, op)[0] == pytest.approx(np.abs(y.astype(np.float64)).mean(), rel=2e-6)


def test_transposed_value_shares_its_sum() -> None:
    x = values((3, 4, 5))
    g = Graph()
    value = g.input("x", x.shape)
    y = g.emit("Transpose", g.emit("Identity", value), perm=[2, 0, 1])
    g.infer()
    statistics = Statistics(g)
    statistics.mean_abs("x", value)
    before = len(g.nodes)
    statistics.mean_abs("y", y)
    assert len(g.nodes) == before
    statistics.finish()
    found = statistics.read(Compiled(g).run({"x": x}))
    assert found["x"] == found["y"] == pytest.approx(np.abs(x).mean(), rel=1e-6)


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_squares_of_a_product_of_thin_matrices(transposed: tuple[int, int]) -> None:
    a, b = values((7, 900)), values((7, 1100))
    left, right = (a if transposed[0] else a.T.copy()), (b.T.copy() if transposed[1] else b)
    g = Graph()
    y = g.fused_matmul(g.input("a", left.shape), g.input("b", right.shape), transA=transposed[0], transB=transposed[1])
    g.infer()
    statistics = Statistics(g)
    statistics.sum_squares("squares", y)
    statistics.finish()
    assert not any(node.op == "Mul" and g.specs.get(node.inputs[0]) == g.specs[y] for node in g.nodes)
    found = statistics.read(Compiled(g).run({"a": left, "b": right}))
    exact = a.T.astype(np.float64) @ b.astype(np.float64)
    assert found["squares"] == pytest.approx((exact**2).sum(), rel=3e-6)


@pytest.mark.parametrize("transposed", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(
    ("rows", "inner", "columns", "is_stored"),
    [(1031, 3, 4096, False), (2, 5, 2_200_000, True), (5003, 2, 1009, True), (70, 3, 500, True)],
)
def test_elements_of_a_large_product_of_thin_matrices(
    transposed: tuple[int, int], rows: int, inner: int, columns: int, is_stored: bool
) -> None:
    a, b = values((rows, inner)), values((inner, columns))
    left, right = (x.T.copy() if swap else x for x, swap in zip((a, b), transposed, strict=True))
    g = Graph()
    y = g.fused_matmul(g.input("a", left.shape), g.input("b", right.shape), transA=transposed[0], transB=transposed[1])
    statistics = Statistics(g)
    statistics.mean_abs("mean", y)
    statistics.finish()
    stored = {name for node in expand(g, g.outputs).nodes for name in node.outputs}
    assert (y in stored) == is_stored
    found = statistics.read(Compiled(g).run({"a": left, "b": right}))
    assert found["mean"] == pytest.approx(np.abs(a.astype(np.float64) @ b).mean(), rel=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    x = values((40, 600))
    x[3, 4] = bad
    assert str(run(x, lambda g, value: g.emit("Relu", value))[0]) == str(bad)


def test_small_values_of_one_shape_are_summed_up_together() -> None:
    random = np.random.default_rng(6)
    g = Graph()
    feeds = {}
    statistics = Statistics(g)
    for number in range(150):
        shape = [(3, 4), (4, 3), (7,)][number % 3]
        name = g.input(f"x{number}", shape)
        feeds[name] = random.standard_normal(shape).astype(np.float32)
        statistics.mean_abs(("mean", name), name)
        statistics.sum_squares(("squares", name), name)
    statistics.mean_abs("alone", g.input("alone", (5, 1)))
    feeds["alone"] = np.float32([[1], [-2], [3], [4], [5]])
    statistics.finish()
    assert len(g.nodes) < 40
    found = statistics.read(Compiled(g).run(feeds))
    assert found["alone"] == 3
    for name, x in list(feeds.items())[:-1]:
        assert found["mean", name] == pytest.approx(np.abs(x).mean(), rel=1e-6)
        assert found["squares", name] == pytest.approx((x.astype(np.float64) ** 2).sum(), rel=1e-6)
