"""Gradients of LRN and BatchNormalization against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.graph import Graph
from caffestat.graph.expand import expand

from .support import difference, largest_constant, op_gradients, run, torch_gradients

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("beta", [0.75, 0.6])
@pytest.mark.parametrize("size", [1, 3, 5, 11])
def test_lrn(size: int, beta: float) -> None:
    x, dy = normal(2, 7, 4, 3), normal(2, 7, 4, 3)
    how = {"alpha": 0.9, "beta": beta, "bias": 1.3, "size": size}
    actual = op_gradients(lambda g, x: g.emit("LRN", x, **how), [x], dy)
    expected = torch_gradients(lambda x: torch.nn.functional.local_response_norm(x, size, 0.9, beta, 1.3), [x], dy)
    for ours, theirs in zip(actual, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_expanded_lrn_computes_the_same(beta: float) -> None:
    graph = Graph()
    x = graph.input("x", (2, 7, 4, 3))
    graph.outputs = [graph.emit("LRN", x, alpha=0.9, beta=beta, bias=1.3, size=3)]
    expanded, feeds = expand(graph, graph.outputs), {"x": normal(2, 7, 4, 3)}
    assert [node.op for node in graph.nodes] == ["LRN"]
    assert "LRN" not in [node.op for node in expanded.nodes]
    assert difference(run(expanded, feeds)[0], run(graph, feeds)[0]) < 1e-6


def test_lrn_of_large_images_works_on_some_after_the_others() -> None:
    x, dy = normal(4, 24, 90, 71), normal(4, 24, 90, 71)
    graph = Graph()
    values = [graph.input(name, x.shape) for name in ("x", "dy")]
    y = graph.declare(graph.emit("LRN", values[0], size=5, alpha=0.9, bias=1.3), x.shape)
    graph.outputs = [y, backward(graph, {y: values[1]}, values[:1])["x"] or ""]
    expanded = expand(graph, graph.outputs, block=8)
    assert [node.op for node in expanded.nodes].count("Scan") == 2
    assert max(array.size for array in expanded.constants.values()) < 1000
    actual = run(expanded, {"x": x, "dy": dy})
    expected = torch_gradients(lambda x: torch.nn.functional.local_response_norm(x, 5, 0.9, 0.75, 1.3), [x], dy)
    for ours, theirs in zip(actual, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def test_lrn_of_unknown_shape_stays() -> None:
    graph = Graph()
    graph.outputs = [graph.emit("LRN", graph.emit("Relu", graph.input("x", (2, 7, 4, 3))), size=3)]
    assert [node.op for node in expand(graph, graph.outputs).nodes] == ["Relu", "LRN"]


def test_nodes_that_no_output_needs_are_left_out() -> None:
    graph = Graph()
    y = graph.emit("Relu", graph.input("x", (2, 3)))
    graph.emit("Exp", graph.emit("Neg", y))
    graph.outputs = [graph.emit("Abs", y)]
    assert [node.op for node in expand(graph, graph.outputs).nodes] == ["Relu", "Abs"]


def statistics(channels: int) -> list[np.ndarray]:
    return [normal(channels), normal(channels), normal(channels), RANDOM.random(channels).astype(np.float32) + 0.1]


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 5), (2, 3, 4), (2, 3, 4, 5, 2)], ids=str)
def test_batch_normalization_with_given_statistics(shape: tuple[int, ...]) -> None:
    inputs, dy = [normal(*shape), *statistics(shape[1])], normal(*shape)

    def reference(x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
        scale, bias, mean, var = (t.view(-1, *[1] * (len(shape) - 2)) for t in (scale, bias, mean, var))
        return scale * (x - mean) / torch.sqrt(var + 0.01) + bias

    actual = op_gradients(lambda g, *names: g.emit("BatchNormalization", *names, epsilon=0.01), inputs, dy)
    for ours, theirs in zip(actual, torch_gradients(reference, inputs, dy), strict=True):
        assert difference(ours, theirs) < 1e-5


def training(graph: Graph, *names: str) -> list[str]:
    outputs = graph.emit_many("BatchNormalization", *names, count=3, training_mode=1, epsilon=0.01)
    like = (names[0], *names[3:])
    return [graph.declare(value, graph.shape(name)) for value, name in zip(outputs, like, strict=True)]


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 5), (2, 3, 4)], ids=str)
def test_batch_normalization_in_training(shape: tuple[int, ...]) -> None:
    inputs, dy = [normal(*shape) + 2, *statistics(shape[1])], normal(*shape)
    running = inputs[3:]
    graph = Graph()
    names = [graph.input(name, array.shape) for name, array in zip("xsbmv", inputs, strict=True)]
    y = training(graph, *names)[0]
    grads = backward(graph, {y: graph.input("dy", dy.shape)}, names)
    assert grads["m"] is grads["v"] is None

    def reference(x: Any, scale: Any, bias: Any) -> Any:
        mean, var = (torch.tensor(array, dtype=torch.float64) for array in running)
        return torch.nn.functional.batch_norm(x, mean, var, scale, bias, training=True, eps=0.01)

    def ours(graph: Graph, x: str, scale: str, bias: str) -> str:
        return training(graph, x, scale, bias, graph.constant(running[0]), graph.constant(running[1]))[0]

    actual = op_gradients(ours, inputs[:3], dy)
    for mine, theirs in zip(actual, torch_gradients(reference, inputs[:3], dy), strict=True):
        assert difference(mine, theirs) < 1e-5


def test_running_statistics_have_gradients() -> None:
    """momentum · given + (1 - momentum) · that of the batch, with the variance over n."""
    inputs = [normal(4, 3, 5) + 2, *statistics(3)]
    dys = normal(3), normal(3)
    graph = Graph()
    names = [graph.input(name, array.shape) for name, array in zip("xsbmv", inputs, strict=True)]
    tops = graph.emit_many("BatchNormalization", *names, count=3, training_mode=1, momentum=0.7)
    seeds = {graph.declare(top, (3,)): graph.constant(dy) for top, dy in zip(tops[1:], dys, strict=True)}
    graph.declare(tops[0], inputs[0].shape)
    grads = backward(graph, seeds, names)
    graph.outputs = [grads[name] or "" for name in (names[0], *names[3:])]
    x = torch.tensor(inputs[0], dtype=torch.float64, requires_grad=True)
    mean, var = (torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in inputs[3:])
    batch = x.transpose(0, 1).flatten(1)
    new = 0.7 * mean + 0.3 * batch.mean(1), 0.7 * var + 0.3 * batch.var(1, unbiased=False)
    sum((y * torch.tensor(dy)).sum() for y, dy in zip(new, dys, strict=True)).backward()
    for ours, theirs in zip(run(graph, dict(zip("xsbmv", inputs, strict=True))), (x, mean, var), strict=True):
        assert difference(ours, theirs.grad) < 1e-5


def test_lrn_of_many_channels_has_linear_constants() -> None:
    """A band matrix of 700 channels would have half a million elements."""
    x = np.random.default_rng(2).normal(size=(2, 700, 1, 3)).astype(np.float32)
    dy = np.random.default_rng(3).normal(size=x.shape).astype(np.float32)

    def build(g: Graph, name: str) -> str:
        return g.emit("LRN", name, size=5, alpha=0.3, beta=0.6, bias=1.5)

    def reference(x: Any) -> Any:
        return torch.nn.functional.local_response_norm(x, 5, 0.3, 0.6, 1.5)

    for ours, theirs in zip(op_gradients(build, [x], dy), torch_gradients(reference, [x], dy), strict=True):
        assert difference(ours, theirs) < 1e-5
    assert largest_constant(build, [x]) <= 2 * x.size
