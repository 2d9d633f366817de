"""Sums per channel against numpy in float64, and values that nobody needs any more."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.autodiff import rules  # noqa: F401  defines the late ops of convolutions
from caffestat.engine import CPU, Compiled, Statistics
from caffestat.graph import Graph, convolution_of
from caffestat.graph.channels import batch_gradient, channel_dot, channel_scale, channel_sum
from caffestat.graph.expand import expand
from caffestat.graph.graph import Node

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


def convolution_behind_a_normalization(
    side: int, kernel: int, strides: int
) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray], str]:
    """Return a graph of the gradients dx and dw of x ∗ w, dy being that of a scaled normalization of x ∗ w.

    Also what it reads, what it should compute, and dy's name. w and gamma, its factors, change.
    """
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(7)
    pads = kernel // 2
    out = (side + 2 * pads - kernel) // strides + 1
    shapes = {"x": (2, 3, side, side), "w": (5, 3, kernel, kernel), "gamma": (5,), "dz": (2, 5, out, out)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    x, w, gamma = (torch.tensor(arrays[n], dtype=torch.float64, requires_grad=True) for n in ("x", "w", "gamma"))
    y = torch.nn.functional.conv2d(x, w, stride=strides, padding=pads)
    y.retain_grad()
    normal = torch.nn.functional.batch_norm(y, None, None, training=True, eps=1e-5)
    (normal * gamma[:, None, None] * torch.tensor(arrays["dz"])).sum().backward()
    arrays["normal"] = normal.detach().numpy().astype(np.float32)
    arrays["slope"] = (1 / torch.sqrt(y.var((0, 2, 3), correction=0) + 1e-5)).detach().numpy().astype(np.float32)
    g = Graph()
    names = {n: g.param(n, a.shape) if n in ("w", "gamma") else g.input(n, a.shape) for n, a in arrays.items()}
    dy = batch_gradient(g, channel_scale(g, names["dz"], names["gamma"]), names["normal"], names["slope"])
    node = Node("Conv", ("x", "w"), ("y",), {"strides": [strides] * 2, "pads": [pads] * 4})
    of = convolution_of(node, shapes["x"], shapes["dz"], shapes["w"])
    dx = g.emit_late("ConvImage", names["w"], dy, shape=shapes["x"], like=dy, of=of)
    dw = g.emit_late("ConvWeights", names["x"], dy, shape=shapes["w"], like=dy, of=of)
    g.outputs = [dx, dw, dy]
    expected = {dx: x.grad.numpy(), dw: w.grad.numpy(), dy: y.grad.numpy()}
    return g, arrays, expected, dy


@pytest.mark.parametrize("is_constant", [False, True])
@pytest.mark.parametrize(("side", "kernel", "strides"), [(9, 3, 1), (10, 3, 2), (12, 1, 1), (3, 3, 1)])
def test_convolutions_behind_a_normalization(side: int, kernel: int, strides: int, is_constant: bool) -> None:
    g, arrays, expected, dy = convolution_behind_a_normalization(side, kernel, strides)
    params = {name: arrays[name] for name in g.params}
    feeds = {name: arrays[name] for name in g.inputs}
    compiled = Compiled(g, CPU, params) if is_constant else Compiled(g)
    for outputs in (g.outputs, [name for name in g.outputs if name != dy]):
        found = compiled.run(feeds, {} if is_constant else params, outputs)
        for name in outputs:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=2e-5)


def test_filters_take_up_the_slope_of_a_normalization_where_they_are_the_smaller() -> None:
    def computes(side: int, fed: set[str]) -> bool:
        g, _, _, dy = convolution_behind_a_normalization(side, 3, 1)
        return any(dy in node.outputs for node in expand(g, g.outputs[:2], fed=fed).nodes)

    assert not computes(9, {"w", "gamma"})
    assert computes(9, set())  # constant filters are laid out beforehand
    assert computes(3, {"w", "gamma"})
