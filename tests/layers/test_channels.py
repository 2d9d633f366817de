"""Sums per channel against numpy in float64, and values that nobody needs any more."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.engine import Compiled, Statistics
from caffestat.graph import Graph
from caffestat.graph.expand import expand
from caffestat.layers.channels import channel_dot, channel_scale, channel_sum

SHAPES = [(3, 5, 40, 50), (2, 3, 7, 5), (4, 6, 300)]  # [N, C, …]: long rows, short ones, one axis


def scaled_graph(shape: tuple[int, ...]) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a graph of z = (x · u) · v and its sums, what it reads, and what it should compute."""
    random = np.random.default_rng(5)
    x, y = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    u, v = (random.uniform(-2, 2, shape[1]).astype(np.float32) for _ in range(2))
    g = Graph()
    names = [g.input(name, array.shape) for name, array in zip("xyuv", (x, y, u, v), strict=True)]
    z = channel_scale(g, channel_scale(g, names[0], names[2]), names[3])
    results = {"z": z, "sum": channel_sum(g, z), "dot": channel_dot(g, z, names[1])}
    axes = tuple(axis for axis in range(len(shape)) if axis != 1)
    column = (u.astype(np.float64) * v).reshape(-1, *(1,) * (len(shape) - 2))
    product = x * column
    expected = {"z": product, "sum": product.sum(axes), "dot": (product * y).sum(axes)}
    g.outputs = list(results.values())
    return g, dict(zip(names, (x, y, u, v), strict=True)), {results[name]: expected[name] for name in results}


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_of_scaled_values(shape: tuple[int, ...]) -> None:
    g, feeds, expected = scaled_graph(shape)
    found = Compiled(g).run(feeds)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_of_scaled_values(shape: tuple[int, ...]) -> None:
    g, feeds, expected = scaled_graph(shape)
    z = g.outputs[0]
    statistics = Statistics(g)
    for key in (z, "x"):
        statistics.mean_abs(key, key)
        statistics.sum_squares(("squares", key), key)
    statistics.finish()
    found = statistics.read(Compiled(g).run(feeds))
    for key, exact in ((z, expected[z]), ("x", feeds["x"].astype(np.float64))):
        assert found[key] == pytest.approx(np.abs(exact).mean(), rel=2e-6)
        assert found["squares", key] == pytest.approx((exact**2).sum(), rel=2e-6)


def test_a_scaled_value_that_only_sums_read_is_not_computed() -> None:
    g, feeds, expected = scaled_graph((3, 5, 40, 50))
    z, *sums = g.outputs
    g.outputs = sums
    statistics = Statistics(g)
    statistics.mean_abs("z", z)
    statistics.mean_abs("x", "x")
    statistics.finish()
    ordinary = expand(g, g.outputs)
    assert not any(z in node.outputs for node in ordinary.nodes)
    viewed = {node.outputs[0]: node.inputs[0] for node in ordinary.nodes if node.info.reshapes}
    sizes = [node.inputs[0] for node in ordinary.nodes if node.op == "Abs"]
    assert len({viewed.get(name, name) for name in sizes}) == 2  # of x and of what u · v makes of it
    assert statistics.read(Compiled(g).run(feeds))["z"] == pytest.approx(np.abs(expected[z]).mean(), rel=2e-6)


def test_float16_rounds_scaled_values() -> None:
    g, feeds, _ = scaled_graph((3, 5, 40, 50))
    feeds["x"] *= np.float32(3e4)
    z = g.outputs[0]
    statistics = Statistics(g)
    statistics.mean_abs("z", z)
    statistics.finish()
    g.outputs = [Statistics.OUTPUT]
    assert statistics.read(Compiled(g, compute="float16").run(feeds))["z"] == np.inf
