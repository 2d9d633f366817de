"""Chains of ops that run for one slice of the batch after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.engine import CPU, Compiled, Statistics, parts
from caffestat.engine.runtime import channel_block
from caffestat.graph import Graph, Node, slices
from caffestat.graph.channels import batch_gradient, channel_affine
from caffestat.graph.expand import expand
from caffestat.graph.winograd import Tiles

SHAPE = (6, 16, 8, 8)
RANDOM = np.random.default_rng(4)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let values of these sizes be large: each slice holds two samples."""
    for name in ("LARGE", "MEASURED_LARGE"):
        monkeypatch.setattr(slices, name, 1_000)
    monkeypatch.setattr(slices, "_SLICE", 2 * 16 * 8 * 8)


def scans(g: Graph) -> list[Node]:
    nodes = expand(g, g.outputs, block=channel_block(), fed=list(g.params), by_slices=True).nodes
    return [node for node in nodes if node.op == "Scan" and node.attributes["body"].name == "slice"]


def net(shape: tuple[int, ...] = SHAPE) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a graph with a residual block: convolutions, normalization, pooling, gradients and statistics."""
    g, channels = Graph(), shape[1]
    values = {
        "x": RANDOM.standard_normal(shape),
        "w": 0.2 * RANDOM.standard_normal((channels, channels, 3, 3)),
        "v": 0.3 * RANDOM.standard_normal((channels, channels, 1, 1)),
        "scale": 1 + 0.1 * RANDOM.standard_normal(channels),
        "bias": 0.5 * RANDOM.standard_normal(channels),
    }
    arrays = {name: value.astype(np.float32) for name, value in values.items()}
    x = g.input("x", shape)
    w, v, scale, bias = (g.param(name, arrays[name].shape) for name in ("w", "v", "scale", "bias"))
    y = g.emit("Relu", normalized(g, g.emit("Conv", x, w, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), scale, bias))
    y = g.emit("Add", g.emit("Conv", y, v, kernel_shape=[1, 1]), x)
    y = g.emit("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    loss = g.emit("ReduceSum", g.emit("Mul", y, y), keepdims=0)
    g.infer()
    found = backward(g, {loss: g.constant(1.0)}, [x, w, v, scale, bias])
    statistics = Statistics(g)
    statistics.mean_abs("y", y)
    statistics.mean_abs("dx", found[x] or "")
    g.outputs = [loss, y, *(found[name] or "" for name in (x, w, v, scale, bias))]
    statistics.finish()
    return g, arrays


def normalized(g: Graph, x: str, scale: str, bias: str) -> str:
    """Emit scale · x̂ + bias, x̂ normalized by the batch's statistics, whose gradient is of sums per channel."""
    g.infer()
    channels = g.shape(x)[1]
    ones, zeros = (g.constant(np.full(channels, number)) for number in (1, 0))

    def forward(value: str) -> list[str]:
        first = g.reshape(g.emit("Slice", value, g.ints(0, 0, 0, 0), g.ints(1, channels, 1, 1)), channels)
        scratch = [g.emit(op, first) for op in ("Neg", "Abs")]
        settings = {"epsilon": 1e-5, "training_mode": 1, "momentum": 0.0}
        found = g.emit_many("BatchNormalization", value, ones, zeros, *scratch, count=3, **settings)
        return [
            g.declare(name, shape) for name, shape in zip(found, (g.shape(x), (channels,), (channels,)), strict=True)
        ]

    def slope(graph: Graph) -> str:
        root = graph.emit("Sqrt", graph.emit("Add", variance, graph.constant(1e-5)))
        return graph.declare(graph.emit("Reciprocal", root), (channels,))

    y, _, variance = g.custom_vjp(
        [x], forward, lambda tape, dys: [batch_gradient(tape.graph, dys[0] or "", y, slope(tape.graph))]
    )
    return channel_affine(g, y, scale, bias)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("batch", [6, 4])
def test_slices_compute_what_the_whole_batch_does(
    batch: int, constant: bool, tiled: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    g, arrays = net((batch, *SHAPE[1:]))
    params = {name: array for name, array in arrays.items() if name != "x"}
    held = params if constant else None
    expected = Compiled(g, CPU, held).run({"x": arrays["x"]}, params)
    request.getfixturevalue("small")
    monkeypatch.setattr(Tiles, "pays", lambda *_: tiled)  # of which branches of an If have the slice's names
    assert len(scans(g)) >= 3
    found = Compiled(g, CPU, held).run({"x": arrays["x"]}, params)
    for name in g.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-5 * abs(expected[name]).max())


@pytest.mark.usefixtures("small")
def test_a_relu_behind_a_normalization_takes_no_pass_of_its_own() -> None:
    g, _ = net()
    nodes = expand(g, g.outputs, block=16, fed=list(g.params), by_slices=True).nodes
    inner = [node for scan in nodes if scan.op == "Scan" for node in scan.attributes["body"].node]
    assert not [node for node in inner if node.op_type == "Relu"]
    settings = [(setting.name, setting.s) for node in inner for setting in node.attribute]
    assert ("activation", b"Relu") in settings


def test_small_batches_stay_whole() -> None:
    g, _ = net()
    assert not scans(g)


@pytest.mark.usefixtures("small")
def test_a_batch_is_cut_into_equal_slices() -> None:
    chain = slices.Chain(5, largest=5 * slices._SLICE)
    assert chain.count() == 5
    assert slices.Chain(5, largest=4 * slices._SLICE).count() == 1
    assert slices.Chain(6, largest=4 * slices._SLICE).count() == 3


@pytest.mark.usefixtures("small")
def test_what_waits_for_a_sum_is_in_the_next_chain() -> None:
    """y = x - Σ x needs all slices of x first; the sum of the result another pass."""
    g = Graph()
    x = g.input("x", SHAPE)
    doubled = g.emit("Add", x, x)
    g.infer()
    total = g.emit_late("ChannelSum", doubled, shape=SHAPE[1:2], like=x)
    y = g.emit("Relu", g.emit("Sub", doubled, g.reshape(total, -1, 1, 1)))
    g.infer()
    g.outputs = [g.emit_late("ChannelSum", y, shape=SHAPE[1:2], like=x)]
    assert len(scans(g)) == 2
    values = RANDOM.standard_normal(SHAPE).astype(np.float32)
    (found,) = Compiled(g).run({"x": values}).values()
    exact = 2 * values.astype(np.float64)
    expected = np.maximum(exact - exact.sum((0, 2, 3))[:, None, None], 0).sum((0, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("small")
def test_a_value_is_not_read_whole_and_by_slices_in_one_chain() -> None:
    """The filters are the image of another convolution: as filters every slice reads all of them."""
    g = Graph()
    x, w = g.input("x", (16, 16, 8, 8)), g.input("w", (16, 16, 3, 3))
    filters = g.emit("Relu", w)
    g.infer()
    y = g.emit("Conv", x, filters, kernel_shape=[3, 3])
    g.outputs = [g.emit("Relu", y), g.emit("Conv", filters, w, kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    g.infer()
    arrays = {name: RANDOM.standard_normal(g.shape(name)).astype(np.float32) for name in (x, w)}
    found = Compiled(g).run(arrays)
    expected = Compiled(g, once=True).run(arrays)
    for name in g.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-3)


def spread_out(images: np.ndarray) -> np.ndarray:
    return images * 0.01 + 3.0  # 300 deviations from 0


def dead(images: np.ndarray) -> np.ndarray:
    images[:, 3] = 0
    images[:, 5] = 0.25
    return images


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("change", [lambda images: images, spread_out, dead])
def test_statistics_of_the_batch_keep_their_digits(change: Callable[[np.ndarray], np.ndarray]) -> None:
    g = Graph()
    x = g.input("x", SHAPE)
    channels = SHAPE[1]
    ones, zeros, scratch, other = (g.constant(np.full(channels, number)) for number in (1, 0, 2, 3))
    copies = [g.emit("Abs", name) for name in (scratch, other)]
    settings = {"epsilon": 1e-5, "training_mode": 1, "momentum": 0.0}
    y, mean, variance = g.emit_many("BatchNormalization", x, ones, zeros, *copies, count=3, **settings)
    g.infer()
    g.outputs = [y, mean, variance]
    images = change(RANDOM.standard_normal(SHAPE)).astype(np.float32)
    found = Compiled(g).run({"x": images})
    assert "If" in [node.op for node in expand(g, g.outputs, block=channel_block(), by_slices=True).nodes]
    exact = images.astype(np.float64)
    np.testing.assert_allclose(found[mean], exact.mean((0, 2, 3)), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found[variance], exact.var((0, 2, 3)), rtol=1e-5, atol=1e-12)
    assert found[y].shape == SHAPE


@pytest.mark.usefixtures("small")
def test_matrices_hold_no_images() -> None:
    """Gradients of inner products are added up where they are made: two at once would take twice the memory."""
    g = Graph()
    x, w = g.input("x", (64, 32)), g.input("w", (32, 64))
    y = g.emit("Relu", g.emit("MatMul", x, w))
    g.infer()
    g.outputs = [g.emit("Add", y, y)]
    g.infer()
    assert not scans(g)


@pytest.mark.usefixtures("small")
def test_nodes_of_bodies_count_where_a_graph_is_cut() -> None:
    g, _ = net()
    nodes = expand(g, g.outputs, block=channel_block(), fed=list(g.params), by_slices=True)
    assert parts.count_nodes(nodes) > len(nodes.nodes) + 20
    assert parts.cut(nodes, parts.count_nodes(nodes) - 1) != [nodes]
    assert parts.cut(nodes, parts.count_nodes(nodes)) == [nodes]
