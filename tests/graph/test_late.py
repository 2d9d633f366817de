"""Late ops: one graph for all providers, ordinary ops in every model that leaves it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.engine import Compiled
from caffestat.graph import Graph, Node, late
from caffestat.graph.expand import expand
from caffestat.graph.late import _DEFINITIONS, LATE, for_provider

X = np.float32([[1, 2, -3], [4, 0, 5]])


@pytest.fixture
def square(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A late op: x² by Mul on the CPU and by Pow on CUDA."""

    def definition(g: Graph, node: Node, provider: str) -> Sequence[str]:
        (x,) = node.inputs
        return [g.emit("Mul", x, x) if provider == "cpu" else g.emit("Pow", x, g.constant(2))]

    monkeypatch.setitem(_DEFINITIONS, "Square", definition)
    yield "Square"


def graph_of(op: str) -> tuple[Graph, str, str]:
    g = Graph()
    x = g.input("x", X.shape)
    y = g.emit_late(op, x, shape=X.shape, like=x)
    g.outputs = [y]
    return g, x, y


@pytest.mark.parametrize(("provider", "op"), [("cpu", "Mul"), ("cuda", "Pow")])
def test_the_provider_chooses_when_the_graph_is_compiled(square: str, provider: str, op: str) -> None:
    g, _, y = graph_of(square)
    for found in (for_provider(g, provider), expand(g, [y], provider)):
        assert [(node.op, node.outputs) for node in found.nodes] == [(op, (y,))]
    assert g.nodes[0].domain == LATE


def test_models_hold_ordinary_ops_alone(square: str) -> None:
    g, _, _ = graph_of(square)
    assert [node.domain for node in g.to_onnx().graph.node] == [""]
    np.testing.assert_array_equal(Compiled(g).run({"x": X})[g.outputs[0]], X * X)


def test_shapes_behind_a_late_op_are_inferred(square: str) -> None:
    g, _, y = graph_of(square)
    z = g.emit("Transpose", y, perm=[1, 0])
    g.infer()
    assert g.shape(z) == (3, 2)


def test_the_gradient_of_a_late_op_is_that_of_its_definition(square: str) -> None:
    g, x, y = graph_of(square)
    g.outputs = [backward(g, {y: g.constant(np.ones(X.shape))}, [x])[x] or ""]
    np.testing.assert_array_equal(Compiled(g).run({"x": X})[g.outputs[0]], 2 * X)


def test_a_definition_may_use_late_ops_and_return_an_input(square: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fourth(g: Graph, node: Node, provider: str) -> Sequence[str]:
        inner = g.emit_late(square, node.inputs[0], shape=X.shape, like=node.inputs[0])
        return [g.emit_late(square, inner, shape=X.shape, like=inner)]

    monkeypatch.setitem(_DEFINITIONS, "Fourth", fourth)
    monkeypatch.setitem(_DEFINITIONS, "Same", lambda g, node, provider: node.inputs)
    g, _, y = graph_of("Fourth")
    g.outputs = [g.emit_late("Same", y, shape=X.shape, like=y)]
    np.testing.assert_array_equal(Compiled(g).run({"x": X})[g.outputs[0]], X**4)


def test_a_late_op_has_one_definition(square: str) -> None:
    with pytest.raises(ValueError, match="late op 'Square' already has a definition"):
        late("Square")(lambda g, node, provider: node.inputs)


@pytest.mark.parametrize(("epsilon", "momentum"), [(0.0, 0.0), (1e-6, 0.25), (0.5, 0.9)])
@pytest.mark.parametrize("training", [0, 1])
@pytest.mark.parametrize("size", [5, 11])  # short rows, and such as are normalized by themselves
def test_batch_normalization_for_cuda_computes_what_the_kernel_does(
    epsilon: float, momentum: float, training: int, size: int
) -> None:
    random = np.random.default_rng(4)
    g = Graph()
    x = g.input("x", (2, 3, 4, size))
    vectors = [g.input(name, (3,)) for name in ("scale", "bias", "mean", "variance")]
    outputs = g.emit_many(
        "BatchNormalization",
        x,
        *vectors,
        count=3 if training else 1,
        epsilon=epsilon,
        training_mode=training,
        momentum=momentum,
    )
    g.outputs = list(outputs)
    feeds = {name: random.uniform(0.5, 2, spec.shape).astype(np.float32) for name, spec in g.inputs.items()}
    of_cuda = expand(g, outputs, "cuda")
    left = [node for node in of_cuda.nodes if node.op == "BatchNormalization"]
    assert all(node.get("epsilon") >= 1e-5 and not node.get("training_mode", 0) for node in left)
    expected, found = Compiled(g).run({k: v.copy() for k, v in feeds.items()}), Compiled(of_cuda).run(feeds)
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5)
