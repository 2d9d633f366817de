"""`merge_repeats`: what computes the same is computed once."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from caffestat.autodiff import gradient
from caffestat.graph import Graph
from caffestat.graph.repeats import merge_repeats

from .models import model, normal, run

node = helper.make_node


def start() -> tuple[Graph, str]:
    graph = Graph()
    return graph, graph.input("x", (2, 3))


def merged(graph: Graph, *outputs: str, **options: Any) -> list[str]:
    graph.outputs = list(outputs)
    merge_repeats(graph, **options)
    return [node.op for node in graph.nodes]


def test_equal_chains_are_one() -> None:
    graph, x = start()
    ends = [graph.emit("Relu", graph.emit("Neg", x)) for _ in range(3)]
    assert merged(graph, graph.emit("Sum", *ends)) == ["Neg", "Relu", "Sum"]
    assert graph.nodes[-1].inputs == (ends[0],) * 3


def test_other_attributes_inputs_or_outputs_are_something_else() -> None:
    graph, x = start()
    parts = [graph.emit("Softmax", x, axis=axis) for axis in (0, 1)]
    parts += [graph.emit("Softmax", graph.emit("Neg", x), axis=1), graph.emit("LogSoftmax", x, axis=1)]
    top = [graph.emit_many("TopK", x, graph.ints(2), count=2)[0], graph.emit("TopK", x, graph.ints(2))]
    before = len(graph.nodes)
    assert len(merged(graph, graph.emit("Sum", *parts), graph.emit("Sum", *top))) == before + 2


def test_what_is_drawn_twice_stays_twice() -> None:
    graph, x = start()
    drawn = [graph.emit("RandomNormalLike", x) for _ in range(2)]
    assert merged(graph, graph.emit("Sub", *drawn)).count("RandomNormalLike") == 2


def test_results_and_kept_values_stay() -> None:
    graph, x = start()
    a, b, c = (graph.emit("Neg", x) for _ in range(3))
    assert merged(graph, b, graph.emit("Sum", a, b, c), kept=[c]) == ["Neg", "Neg", "Neg", "Sum"]


def test_equal_small_constants_are_one() -> None:
    graph, x = start()
    for name, value in (("one", 1.0), ("again", 1.0), ("integer", 1)):
        graph.constants[name] = np.array(value, np.int32 if name == "integer" else np.float32)
    parts = [graph.emit("Add", x, name) for name in ("one", "again")]
    wide = graph.emit("Cast", graph.emit("Add", "integer", "integer"), to=1)
    assert merged(graph, graph.emit("Sum", *parts, wide)) == ["Add", "Add", "Cast", "Sum"]
    assert graph.nodes[0].inputs == (x, "one")


def test_a_model_with_gradients_computes_nothing_twice_and_nothing_for_nobody() -> None:
    """Both branches are one, and of what is asked for one by one each has its own gradient."""
    nodes = [
        node("Tanh", ["x"], ["a"]),
        node("Tanh", ["x"], ["b"]),
        node("Exp", ["x"], ["unread"]),
        node("Mul", ["a", "b"], ["y"]),
    ]
    proto, x = model(nodes, {"x": (2, 3)}, ["y"], {}), normal(2, 3)
    found = gradient(proto)
    assert [made.op_type for made in found.graph.node].count("Tanh") == 1
    assert "Exp" not in [made.op_type for made in found.graph.node]
    dy, y = normal(2, 3, seed=1), np.tanh(x)
    out = run(found, {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(out["grad/x"], 2 * dy * y * (1 - y * y), rtol=1e-4)
    apart = run(gradient(proto, wrt=["a", "b"]), {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(apart["grad/a"], dy * y, rtol=1e-5)
    np.testing.assert_allclose(apart["grad/b"], dy * y, rtol=1e-5)
