"""`fold_integers`: shape arithmetic becomes constants, once shapes are known."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.graph import Graph, Node
from caffestat.graph.infer import fold_integers
from caffestat.graph.nodes import expand_function

from .models import model, normal, run

node = helper.make_node


def counted() -> tuple[Graph, str, str]:
    """Return a graph, min(4, rows of x), and x · rows: x [5, 3]."""
    graph = Graph()
    x = graph.input("x", (5, 3))
    rows = graph.emit("Gather", graph.emit("Shape", x), graph.constant(0, np.int64))
    fewer = graph.emit("Min", graph.constant(4, np.int64), rows)
    scaled = graph.emit("Mul", x, graph.emit("Cast", rows, to=1))
    graph.infer()
    return graph, fewer, scaled


def test_shape_arithmetic_becomes_constants_and_floats_stay() -> None:
    graph, fewer, scaled = counted()
    graph.outputs = [graph.emit("TopK", scaled, graph.reshape(fewer, 1), axis=0)]
    fold_integers(graph)
    assert [made.op for made in graph.nodes] == ["Cast", "Mul", "TopK"]
    assert graph.constants[graph.nodes[-1].inputs[1]].tolist() == [4]


def test_results_kept_values_and_unknown_shapes_stay() -> None:
    graph, fewer, _ = counted()
    graph.outputs = [fewer]
    fold_integers(graph)
    assert [made.op for made in graph.nodes] == ["Min", "Cast", "Mul"]
    graph, fewer, _ = counted()
    fold_integers(graph, kept=[graph.nodes[1].outputs[0]])
    assert [made.op for made in graph.nodes] == ["Gather", "Min", "Cast", "Mul"]
    graph, fewer, _ = counted()
    del graph.specs["x"]
    before = list(graph.nodes)
    fold_integers(graph)
    assert graph.nodes == before


def best() -> onnx.ModelProto:
    """The 3 largest of x where x > 0, or all of them where they are fewer."""
    nodes = [
        node("Greater", ["x", "zero"], ["mask"]),
        node("NonZero", ["mask"], ["places"]),
        node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        node("GatherND", ["x", "rows"], ["kept"]),
        node("Shape", ["kept"], ["count"]),
        node("Min", ["count", "three"], ["k"]),
        node("TopK", ["kept", "k"], ["top", "index"]),
        node("Mul", ["top", "top"], ["y"]),
    ]
    return model(nodes, {"x": (7,)}, ["y"], {"zero": np.float32(0), "three": np.array([3])})


def test_counts_that_data_decides_become_constants_where_shapes_were_settled() -> None:
    """Data that keeps another number is refused: what follows from the number would be wrong."""
    found = caffestat.gradient(best(), inputs={"x": np.array([1, -2, 3, 4, -5, 6, 7], np.float32)}, wrt=["x"])
    assert "Min" not in {made.op_type for made in found.graph.node}
    dy = normal(3)
    x = np.array([-3, 2, 5, 1, 3, 4, -9], np.float32)
    out = run(found, {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(out["y"], [25, 16, 9])
    np.testing.assert_allclose(out["grad/x"], [0, 0, 10 * dy[0], 0, 6 * dy[2], 8 * dy[1], 0], rtol=1e-6)
    for data in (-np.abs(x), np.abs(x)):
        with pytest.raises(Exception, match="Reshape"):
            run(found, {"x": data, "cotangent/y": dy})


def test_subgraphs_of_a_definition_read_what_its_nodes_compute() -> None:
    inner = expand_function(Node("AffineGrid", ("theta", "size"), ("grid",)), {}, Graph().unique)
    assert inner is not None
    known = {"theta", "size"}.union(*(n.outputs for n in inner))
    captured = set[str]().union(*(n.captured for n in inner))
    assert "theta" in captured
    assert captured <= known
