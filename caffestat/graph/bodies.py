"""Subgraphs of If, Loop and Scan: opened as Graphs, closed again, renamed, and put in the place of their node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from .convert import spec_of, value_info
from .graph import Graph, Node, Spec
from .infer import infer_node
from .late import for_provider
from .nodes import captured_by, from_proto, subgraphs, to_proto

__all__ = ["close_body", "computed_names", "open_body", "renamed", "scan_body", "with_captured"]


def with_captured(node: Node) -> Node:
    """Return the node with the list of values that its subgraphs read from outside."""
    graphs = subgraphs(node)
    return replace(node, captured=tuple(sorted(captured_by(graphs)))) if graphs else node


def open_body(outer: Graph, body: onnx.GraphProto, inputs: Sequence[Spec | None] = ()) -> Graph:
    """Return a subgraph as a Graph of its own, which knows shapes and constants of the values it reads from outside.

    inputs: shape and type of the body's own inputs, where they are known better than the body says
    """
    graph = outer.inner()
    captured = captured_by([body])
    graph.specs = {name: outer.specs[name] for name in captured if name in outer.specs}
    graph.constants = {name: outer.constants[name] for name in captured if name in outer.constants}
    for index, value in enumerate(body.input):
        spec = (inputs[index] if index < len(inputs) else None) or spec_of(value.type)
        if spec is not None:
            graph.inputs[value.name] = graph.specs[value.name] = spec
    for tensor in body.initializer:
        array = numpy_helper.to_array(tensor)
        graph.constants[tensor.name] = array
        graph.specs[tensor.name] = Spec(array.shape, array.dtype)
    for proto in body.node:
        node = from_proto(proto)
        if not infer_node(graph, node):
            graph.nodes.append(node)
    graph.outputs = [value.name for value in body.output]
    return graph


def close_body(graph: Graph, outer: Graph, inputs: Sequence[str], outputs: Sequence[str], name: str) -> onnx.GraphProto:
    """Return a Graph as a subgraph of `outer`; every output gets a node of its own."""
    ends = [graph.emit("Identity", output) for output in outputs]
    graph = for_provider(graph)
    read = {name for node in graph.nodes for name in (*node.inputs, *node.captured)}
    own = [found for found in graph.constants if found in read and found not in outer.constants]
    return helper.make_graph(
        [to_proto(node) for node in graph.nodes],
        name,
        [value_info(found, graph.specs[found]) for found in inputs],
        [
            value_info(end, graph.specs[output]) if output in graph.specs else onnx.ValueInfoProto(name=end)
            for end, output in zip(ends, outputs, strict=True)
        ],
        [numpy_helper.from_array(np.asarray(graph.constants[found]), found) for found in own],
    )


def computed_names(body: onnx.GraphProto) -> list[str]:
    """Return the names of what the body's nodes compute, and of its initializers."""
    computed = [name for node in body.node for name in node.output if name]
    return [*computed, *(tensor.name for tensor in body.initializer)]


def scan_body(loop: onnx.GraphProto) -> onnx.GraphProto | None:
    """Return the body of a Loop as that of a Scan over the trip's number, None where its condition may become false."""
    trip, condition, *states = loop.input
    if not _stays_true(loop, loop.output[0].name, condition.name):
        return None
    body = onnx.GraphProto()
    body.CopyFrom(loop)
    del body.input[:], body.output[:]
    body.input.extend([*states, trip])
    body.output.extend(loop.output[1:])
    true = numpy_helper.from_array(np.array(True), condition.name)
    body.initializer.append(true)
    return body


def _stays_true(loop: onnx.GraphProto, name: str, given: str) -> bool:
    """Tell whether a value of a Loop's body is true whenever the condition that it is given is."""
    producers = {output: node for node in loop.node for output in node.output}
    while name != given:
        node = producers.get(name)
        if node is None:
            return any(t.name == name and bool(numpy_helper.to_array(t).all()) for t in loop.initializer)
        if node.op_type == "Constant":
            return bool(numpy_helper.to_array(node.attribute[0].t).all())
        if node.op_type not in ("Identity", "Cast"):
            return False
        name = node.input[0]
    return True


def renamed(body: onnx.GraphProto, names: Mapping[str, str]) -> onnx.GraphProto:
    """Return the subgraph with other names for some values, in the subgraphs of its nodes too."""
    result = onnx.GraphProto()
    result.CopyFrom(body)
    _rename(result, lambda name: names.get(name, name))
    return result


def _rename(body: onnx.GraphProto, new: Callable[[str], str]) -> None:
    for value in (*body.input, *body.output, *body.value_info):
        value.name = new(value.name)
    for tensor in body.initializer:
        tensor.name = new(tensor.name)
    for node in body.node:
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _rename(inner, new)
