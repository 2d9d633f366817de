"""Statistics of elements, in the graph and of arrays, against numpy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.engine.elements import ElementStatistics, ElementStats, of_array, of_zeros
from caffestat.graph import Graph
from caffestat.options import STATS

# scalar; small; in rows of one size; a prime; larger than a chunk of an array
SHAPES = [(), (2, 3, 5), (40, 601), (100_003,), (3, 1024, 1001)]


def normal(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def in_graph(arrays: dict[str, np.ndarray], wanted: tuple[str, ...] = STATS) -> dict[str, ElementStats]:
    g = Graph()
    statistics: ElementStatistics[str] = ElementStatistics(g, wanted)
    for name, array in arrays.items():
        statistics.ask(name, g.input(name, array.shape))
    statistics.finish()
    g.outputs = statistics.outputs
    return statistics.read(Compiled(g).run(arrays))


def both(x: np.ndarray) -> list[ElementStats]:
    of_memory = of_array(x, STATS)
    assert of_memory is not None
    return [in_graph({"x": x})["x"], of_memory]


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    x = np.asarray(normal(shape) * np.float32(3) + np.float32(2))
    x.reshape(-1)[1:8:3] = 0
    exact = x.astype(np.float64)
    for found in both(x):
        assert found.count == x.size
        assert found.mean == pytest.approx(exact.mean(), rel=1e-5)
        assert found.std == pytest.approx(exact.std(), rel=3e-5)
        assert (found.max, found.min) == (x.max(), x.min())
        assert (found.zeros, found.inf, found.nan) == (int((x == 0).sum()), 0, 0)


def test_std_of_large_numbers_with_a_large_mean() -> None:
    x = (normal((7, 5000)) * np.float32(1e25) + np.float32(1e26)).astype(np.float32)
    for found in both(x):
        assert found.std == pytest.approx(x.astype(np.float64).std(), rel=1e-4)


def test_numbers_that_are_not_finite_are_counted() -> None:
    x = normal((40, 700))
    x[3, :5], x[0, :7], x[1, :11] = np.nan, np.inf, 0
    x[2, 9] = -np.inf
    for found in both(x):
        assert (found.nan, found.inf, found.zeros) == (5, 8, 11)
        assert (found.max, found.min) == (math.inf, -math.inf)
        assert math.isnan(found.mean)
        assert math.isnan(found.std)
    for found in both(np.full((2, 3), np.nan, np.float32)):
        assert found.nan == 6
        assert math.isnan(found.max)
        assert math.isnan(found.min)
        assert found.float16 == ""


def test_range_of_float16() -> None:
    ones = np.ones((9, 1000), np.float32)
    cases = {65504.0: "", 65505.0: "overflow", -70000.0: "overflow", np.inf: "overflow", np.nan: ""}
    for extreme, expected in cases.items():
        x = ones.copy()
        x[7, 3] = extreme
        assert [found.float16 for found in both(x)] == [expected, expected]


def test_underflow_is_a_share_of_the_nonzero_elements() -> None:
    x = np.zeros((8, 1000), np.float32)
    x[0], x[1, :99] = 2.0**-14, -(2.0**-15)
    for found in both(x):
        assert (found.below_normal, found.zeros, found.float16) == (99, 6901, "")
    x[1, 99:112] = 1e-30
    for found in both(x):
        assert (found.below_normal, found.float16) == (112, "underflow")
        assert found.small_share == 112 / 1112


def test_values_of_one_shape_share_their_nodes() -> None:
    arrays = {f"x{number}": normal((3, 4) if number % 2 else (7,), number) for number in range(90)}
    g = Graph()
    statistics: ElementStatistics[str] = ElementStatistics(g, ("max", "min"))
    for name, array in arrays.items():
        statistics.ask(name, g.input(name, array.shape))
    statistics.finish()
    nodes = [node for node in g.nodes if node.op not in ("Reshape", "Concat")]
    assert len(nodes) < 50
    g.outputs = statistics.outputs
    found = statistics.read(Compiled(g).run(arrays))
    assert {name: (one.max, one.min) for name, one in found.items()} == {
        name: (array.max(), array.min()) for name, array in arrays.items()
    }
    assert found["x3"].wanted == ("max", "min")


def test_nothing_is_computed_unasked() -> None:
    g = Graph()
    statistics: ElementStatistics[str] = ElementStatistics(g, ())
    statistics.ask("x", g.input("x", (3, 5)))
    statistics.ask("empty", g.input("empty", (0, 5)))
    statistics.finish()
    assert (g.nodes, statistics.outputs, statistics.read({})) == ([], [], {})


def test_value_that_is_only_reshaped_is_looked_at_once() -> None:
    g = Graph()
    x = g.input("x", (4, 5, 6))
    y = g.emit("Transpose", x, perm=[2, 0, 1])
    g.infer()
    statistics: ElementStatistics[str] = ElementStatistics(g, ("max",))
    statistics.ask("x", x)
    statistics.ask("y", y)
    statistics.finish()
    assert sum(node.op == "ReduceMax" for node in g.nodes) == 1
    g.outputs = statistics.outputs
    found = statistics.read(Compiled(g).run({"x": normal((4, 5, 6))}))
    assert found["x"] == found["y"]


def test_arrays_without_elements_have_no_statistics() -> None:
    assert of_array(np.zeros((0, 3), np.float32), STATS) is None
    assert of_zeros(0, STATS) is None
    zeros = of_zeros(6, ("zeros",))
    assert zeros is not None
    assert (zeros.zeros, zeros.wanted) == (6, ("zeros",))
