"""Subgraphs of If, Loop and Scan: opened as Graphs, closed again, renamed, and inlined in the place of their node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from caffestat.ops import Role

from .check import all_nodes
from .convert import spec_of, value_info
from .flow import Flow
from .graph import Graph, Node, Spec, flow_of
from .infer import FOLDED, infer_node
from .late import for_provider
from .nodes import captured_by, from_proto, subgraphs, to_proto

__all__ = [
    "close_body",
    "compute_outputs",
    "computed_names",
    "either",
    "is_scannable",
    "open_body",
    "over_slices",
    "scan_body",
    "slices_that_fit",
    "trip_count",
    "with_captured",
]

_CACHED = 300_000
_MOST_TRIPS = 1 << 14  # of a loop whose end is found by running what decides about it


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


def close_body(
    graph: Graph, outer: Graph, inputs: Sequence[str], outputs: Sequence[str], name: str, copies: bool = True
) -> onnx.GraphProto:
    """Return a Graph as a subgraph of `outer`.

    copies: give every output a node of its own; without it, each is computed by another node of the graph's own
    """
    ends = [graph.emit("Identity", output) for output in outputs] if copies else outputs
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


def slices_that_fit(count: int, elements: int) -> int:
    """Return into how many equal slices to cut `count` items of so many elements, so that the caches hold a slice.

    One op of the runtime takes 0.1 ns an element where its operands are in the caches, and 0.2 to 0.4 where not; slices
    of less than 300,000 elements keep two cores no longer busy.
    """
    most = max(count * elements // _CACHED, 1)
    return next(number for number in range(min(most, count), 0, -1) if count % number == 0)


def over_slices(g: Graph, values: Sequence[str], build: Callable[..., str], name: str) -> str:
    """Emit what `build(graph, *slices)` makes of the slices along the values' first axes, side by side along a new one.

    A Scan, whose slices are no copies. What is made in between is small: it stays in the caches. Other values of `g`
    may be read whole.
    """
    count = g.shape(values[0])[0]
    inner = g.inner()
    inner.block = g.block
    slices = [inner.input("slice", g.shape(value)[1:], g.specs[value].dtype) for value in values]
    result = build(inner, *slices)
    spec = inner.specs[result]
    body = close_body(inner, g, slices, [result], name)
    scan = g.emit("Scan", *values, body=body, num_scan_inputs=len(values))
    g.nodes[-1] = with_captured(g.nodes[-1])
    return g.declare(scan, (count, *spec.shape), spec.dtype)


def either(
    g: Graph,
    condition: str,
    first: Callable[[Graph], str],
    second: Callable[[Graph], str],
    copies: bool = True,
) -> str:
    """Emit what `first(graph)` makes where the condition holds, else what `second(graph)` makes, of the same shape.

    copies: see `close_body`
    """
    bodies: dict[str, Any] = {}
    for name, build in (("then_branch", first), ("else_branch", second)):
        inner = g.inner()
        inner.specs, inner.threads, inner.block = dict(g.specs), g.threads, g.block
        inner.spread, inner.changing = g.spread, g.changing
        result = build(inner)
        bodies[name] = close_body(inner, g, (), [result], name, copies)
    output = g.emit("If", condition, **bodies)
    g.nodes[-1] = with_captured(g.nodes[-1])
    return g.declare(output, inner.shape(result), inner.specs[result].dtype)


def computed_names(body: onnx.GraphProto) -> list[str]:
    """Return the names of what the body's nodes compute, and of its initializers."""
    computed = [name for node in body.node for name in node.output if name]
    return [*computed, *(tensor.name for tensor in body.initializer)]


def is_scannable(loop: onnx.GraphProto, states: Sequence[Spec | None], outer: Graph, opset: int) -> bool:
    """Tell whether a Loop's states may be those of a Scan, as far as that is known: tensors that keep their shapes.

    states: what they are at first, None for unknown shapes
    """
    given = dict(zip((value.name for value in loop.input[2:]), states, strict=True))
    if not _sequences(loop).isdisjoint((*given, *(value.name for value in loop.output))):
        return False
    found = _inferred(loop, given, outer, opset)
    after = (found.get(value.name) for value in loop.output[1:])
    return all(old is None or new is None or old == new for old, new in zip(states, after, strict=False))


def _sequences(body: onnx.GraphProto) -> set[str]:
    """Return the values that nodes of a subgraph, or of subgraphs in it, take or make as sequences."""
    found = {value.name for value in body.input if value.type.HasField("sequence_type")}
    for proto in all_nodes(body.node):
        if not proto.domain and onnx.defs.has(proto.op_type):
            schema = onnx.defs.get_schema(proto.op_type)
            pairs = [*zip(schema.inputs, proto.input, strict=False), *zip(schema.outputs, proto.output, strict=False)]
            found.update(name for formal, name in pairs if all(kind.startswith("seq(") for kind in formal.types))
    return found


def _inferred(
    body: onnx.GraphProto, given: Mapping[str, Spec | None], outer: Graph, opset: int
) -> dict[str, Spec | None]:
    """Return what ONNX infers of a subgraph's values, in the opset of the file."""
    captured = captured_by([body])
    known = {name: spec for name, spec in ((n, outer.specs.get(n)) for n in captured - outer.constants.keys()) if spec}
    specs = {**known, **{name: spec for name, spec in given.items() if spec}}
    stored = [numpy_helper.from_array(outer.constants[name], name) for name in captured & outer.constants.keys()]
    graph = onnx.GraphProto(name="trip", node=body.node, initializer=[*body.initializer, *stored])
    graph.input.extend([*body.input[:2], *(value_info(name, spec) for name, spec in specs.items())])
    versions = [helper.make_opsetid(domain, version) for domain, version in {"": opset, **outer.domains}.items()]
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=versions), data_prop=True)
    return {value.name: spec_of(value.type) for value in (*graph.input, *inferred.graph.value_info)}


def scan_body(loop: onnx.GraphProto) -> onnx.GraphProto:
    """Return the body of a Loop as that of a Scan over the trip's number; its condition holds in every trip."""
    trip, condition, *states = loop.input
    body = onnx.GraphProto()
    body.CopyFrom(loop)
    del body.input[:], body.output[:]
    body.input.extend([*states, trip])
    body.output.extend(loop.output[1:])
    true = numpy_helper.from_array(np.array(True), condition.name)
    body.initializer.append(true)
    compute_outputs(body)
    return body


def compute_outputs(body: onnx.GraphProto) -> None:
    """Give a subgraph nodes for the outputs that none of it computes, in place.

    The runtime's Scan leaves the memory of such outputs as it is, and its If takes no values from outside for them.
    """
    computed = {name for node in body.node for name in node.output}
    for index, value in enumerate(body.output):
        if value.name not in computed:
            body.node.append(helper.make_node("Identity", [value.name], [f"{value.name}/passed_{index}"]))
            value.name = body.node[-1].output[0]


def trip_count(loop: onnx.GraphProto, states: Sequence[str], outer: Graph, most: int | None, opset: int) -> int | None:
    """Return how many trips a Loop takes whose condition holds at first; None where that is not known.

    states: the names of what its states hold at first; most: the count that the node is given

    The part of the body that decides about the next trip is run until it ends the loop, with zeros for values of which
    only the shape counts.
    """
    if _stays_true(loop):
        return most
    decisive = _decisive_part(loop)
    own = {value.name for value in loop.input}
    given = dict(zip((value.name for value in loop.input[2:]), states, strict=True))
    by_value = _decisive_part(loop, of_shapes=False).read
    first = {
        name: _known(outer, given.get(name, name), name in by_value)
        for name in decisive.read
        if name != loop.input[0].name
    }
    first[loop.input[1].name] = np.array(True)
    if any(array is None for array in first.values()):
        return None
    values = {name: array for name, array in first.items() if name in own}
    try:
        return decisive.trips(decisive.evaluator(first, opset), values, most)
    except Exception:  # the evaluator raises what numpy or its own kernels raise; then the runtime has to count
        return None


def _known(outer: Graph, name: str, by_value: bool) -> np.ndarray | None:
    """Return a constant's value, zeros of another value's shape where only that counts, None for what is not known."""
    found, spec = outer.constants.get(name), outer.specs.get(name)
    if found is not None or by_value or spec is None or prod(spec.shape) > FOLDED:
        return found
    return np.zeros(spec.shape, spec.dtype)


@dataclass(frozen=True)
class _DecisivePart:
    """The nodes of a Loop's body that its condition follows from.

    read     the names of what they read from elsewhere: states, the trip's number, values from outside
    states   those of states; `results` has the condition, then what the states become
    """

    body: onnx.GraphProto
    nodes: Sequence[onnx.NodeProto]
    read: set[str]
    states: Sequence[str]
    results: Sequence[str]

    def trips(self, step: Callable[[Mapping[str, Any]], Any], first: Mapping[str, Any], most: int | None) -> int | None:
        """Return how many trips are taken, from what the first one reads; `step` computes the results of one."""
        values = dict(first)
        for trip in range(_MOST_TRIPS if most is None else min(most, _MOST_TRIPS)):
            values[self.body.input[0].name] = np.array(trip, np.int64)
            goes_on, *after = step(values)
            if not np.all(goes_on):
                return trip + 1
            values |= dict(zip(self.states, after, strict=True))
        return most if most is not None and most <= _MOST_TRIPS else None

    def evaluator(self, given: Mapping[str, Any], opset: int) -> Callable[[Mapping[str, Any]], Any]:
        """Return what computes the results of one trip; values that are no inputs of the body stay as given."""
        from onnx.reference import ReferenceEvaluator

        own = {value.name for value in self.body.input}
        outside = [numpy_helper.from_array(np.asarray(a), name) for name, a in given.items() if name not in own]
        graph = onnx.GraphProto(name="trip", node=self.nodes, initializer=[*self.body.initializer, *outside])
        graph.input.extend(value for value in self.body.input if value.name in self.read)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.results)
        runner = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))
        wanted = {value.name for value in graph.input}
        return lambda values: runner.run(None, {name: a for name, a in values.items() if name in wanted})


def _decisive_part(loop: onnx.GraphProto, of_shapes: bool = True) -> _DecisivePart:
    """Return what the condition follows from; without `of_shapes`, not through values whose shape alone counts."""
    nodes = [from_proto(proto) for proto in loop.node]
    reads = [node.inputs if of_shapes else _read_by_value(node) for node in nodes]
    steps = [((*names, *node.captured), node.outputs) for names, node in zip(reads, nodes, strict=True)]
    becomes = dict(zip((v.name for v in loop.input[2:]), (v.name for v in loop.output[1:]), strict=False))
    condition = loop.output[0].name
    turns = [((after,), (state,)) for state, after in becomes.items()]  # of a trip to the next one
    flow = Flow([*steps, *turns, ((condition,), ())])
    before = flow.in_front([len(nodes) + len(turns)])
    inner = sorted(index for index in before if index < len(nodes))
    states = [state for index, state in enumerate(becomes, len(nodes)) if index in before]
    results = [condition, *(becomes[state] for state in states)]
    made = {name for index in inner for name in nodes[index].outputs}
    read = {*results, *(name for index in inner for name in flow.reads(index))}
    stored = {tensor.name for tensor in loop.initializer}
    return _DecisivePart(loop, [loop.node[i] for i in inner], read - made - stored - {""}, states, results)


def _read_by_value(node: Node) -> tuple[str, ...]:
    return tuple(name for position, name in enumerate(node.inputs) if node.info.role(position) is not Role.TYPE)


def _stays_true(loop: onnx.GraphProto) -> bool:
    """Tell whether the condition of a Loop's body is true whenever the one that it is given is."""
    nodes = [from_proto(proto) for proto in loop.node]
    flow = flow_of(nodes)
    *_, root = flow.chain(loop.output[0].name, lambda index: nodes[index].info.renames or nodes[index].info.converts)
    maker = flow.writer(root)
    stated = [tensor for tensor in loop.initializer if tensor.name == root]
    if maker is not None and nodes[maker].info.is_constant:
        stated.append(loop.node[maker].attribute[0].t)
    return root == loop.input[1].name or any(bool(numpy_helper.to_array(tensor).all()) for tensor in stated)
