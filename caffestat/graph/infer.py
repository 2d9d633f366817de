"""Shapes and constants, node by node: shape arithmetic, with which exporters surround a Reshape, becomes constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from caffestat.ops import Bodies, Call, Role, UnknownShapeError

from .convert import spec_of
from .graph import IR_VERSION, OPSET, Graph, Node, Shape, Spec
from .nodes import expand_function, subgraphs, to_proto, type_of

__all__ = ["FOLDED", "branch_taken", "evaluate", "fold_integers", "follows", "infer_node", "infer_nodes"]

FOLDED = 1 << 16
"""The most elements of a value that is computed ahead of a run."""

_INFERENCE_ERRORS = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)


def infer_nodes(graph: Graph, nodes: Iterable[Node]) -> None:
    """Record shapes, types and constant values of what the nodes compute, as far as they can be inferred."""
    for node in nodes:
        infer_node(graph, node)


def infer_node(graph: Graph, node: Node) -> bool:
    """Record what can be inferred of a node's outputs; return whether all are now constants of the graph."""
    for name, spec in (_output_specs(graph, node) or _specs_by_definition(graph, node)).items():
        graph.specs.setdefault(name, spec)
    return _fold(graph, node)


def follows(graph: Graph, node: Node) -> bool:
    """Tell whether the shapes of a node's outputs follow from what the graph knows of its inputs."""
    alone = Graph()
    read = {*node.inputs, *node.captured}
    alone.specs = {name: graph.specs[name] for name in read & graph.specs.keys()}
    alone.constants = {name: graph.constants[name] for name in read & graph.constants.keys()}
    infer_node(alone, node)
    return alone.specs.keys() >= {name for name in node.outputs if name}


def _output_specs(graph: Graph, node: Node) -> dict[str, Spec]:
    if not node.domain and node.info.bodies in _BY_BODIES:
        return _BY_BODIES[node.info.bodies](graph, node)
    if node.info.output_shape:
        return _own_specs(graph, node, node.info.output_shape)
    known = {name: type_of(graph.specs[name]) for name in node.inputs if name in graph.specs}
    if node.domain or node.captured or len(known) < len({name for name in node.inputs if name}):
        return {}
    values = {
        name: numpy_helper.from_array(graph.constants[name], name)
        for name in node.inputs
        if name in graph.constants and graph.constants[name].size <= FOLDED
    }
    try:
        schema = onnx.defs.get_schema(node.op, OPSET, node.domain)
        types = onnx.shape_inference.infer_node_outputs(
            schema, to_proto(node), known, values, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
    except _INFERENCE_ERRORS:
        return {}
    found = ((name, spec_of(kind)) for name, kind in types.items())
    return {name: spec for name, spec in found if spec is not None}


def _own_specs(graph: Graph, node: Node, rule: Callable[[Call], Shape]) -> dict[str, Spec]:
    """Return what an op of the runtime's own makes, whose schema ONNX does not have."""
    try:
        shape = rule(graph.call(node))
    except (UnknownShapeError, ValueError):  # operands that do not fit: the runtime says so
        return {}
    typed = graph.specs.get(node.inputs[node.info.typed_by])
    return {node.outputs[0]: Spec(shape, typed.dtype)} if typed else {}


def _branch_specs(graph: Graph, node: Node) -> dict[str, Spec]:
    """Return what both branches of an If make alike; where its condition is known, what the taken branch makes."""
    taken = branch_taken(graph, node)
    outputs = zip(node.outputs, *(_made(graph, body) for body in ([taken] if taken else subgraphs(node))), strict=False)
    return {name: specs[0] for name, *specs in outputs if specs[0] is not None and len(set(specs)) == 1}


def branch_taken(graph: Graph, node: Node) -> onnx.GraphProto | None:
    """Return the branch that an If takes, None where that depends on data."""
    condition = graph.constants.get(node.inputs[0])
    return None if condition is None else node.get("then_branch" if condition.item() else "else_branch")


def _scan_specs(graph: Graph, node: Node) -> dict[str, Spec]:
    """Return the states as they are at first, and the body's other outputs stacked."""
    if any(name not in graph.specs for name in node.inputs):
        return {}
    count = node.get("num_scan_inputs")
    specs = [graph.specs[name] for name in node.inputs]
    states, scanned = specs[:-count], specs[-count:]
    axes = [axis % len(s.shape) for axis, s in zip(node.get("scan_input_axes") or [0] * count, scanned, strict=True)]
    steps = scanned[0].shape[axes[0]]
    slices = [Spec((*s.shape[:axis], *s.shape[axis + 1 :]), s.dtype) for axis, s in zip(axes, scanned, strict=True)]
    made = _made(graph, node.get("body"), [*states, *slices])[len(states) :]
    along = node.get("scan_output_axes") or [0] * len(made)
    stacked = [spec and _stacked(spec, axis, steps) for spec, axis in zip(made, along, strict=True)]
    return {name: spec for name, spec in zip(node.outputs, [*states, *stacked], strict=False) if name and spec}


def _stacked(spec: Spec, axis: int, steps: int) -> Spec:
    axis %= len(spec.shape) + 1
    return Spec((*spec.shape[:axis], steps, *spec.shape[axis:]), spec.dtype)


def _made(graph: Graph, body: onnx.GraphProto, inputs: Sequence[Spec] = ()) -> list[Spec | None]:
    """Return the specs of a subgraph's outputs: those that its nodes make, else those that the file says."""
    from .bodies import open_body  # which imports this module

    inner = open_body(graph, body, inputs)
    return [inner.specs.get(value.name) or spec_of(value.type) for value in body.output]


_BY_BODIES = {Bodies.BRANCHES: _branch_specs, Bodies.SCAN: _scan_specs}


def _specs_by_definition(graph: Graph, node: Node) -> dict[str, Spec]:
    """Return what can be inferred from the ops that define this one: inference stops at some of them."""
    scratch = Graph()
    scratch.specs = {name: graph.specs[name] for name in node.inputs if name in graph.specs}
    scratch.constants = {name: graph.constants[name] for name in node.inputs if name in graph.constants}
    infer_nodes(scratch, expand_function(node, scratch.specs, scratch.unique) or ())
    return {name: scratch.specs[name] for name in node.outputs if name in scratch.specs}


def _fold(graph: Graph, node: Node) -> bool:
    if node.domain or node.captured or node.info.is_random or not _is_small(graph, node):
        return False
    inputs: dict[str, np.ndarray] = {}
    for position, name in enumerate(node.inputs):
        if name in graph.constants:
            inputs[name] = graph.constants[name]
        elif node.info.role(position) is Role.TYPE and name in graph.specs:
            spec = graph.specs[name]
            inputs[name] = np.broadcast_to(np.zeros((), spec.dtype), spec.shape)
        elif name:
            return False
    return evaluate(graph, node, inputs)


def fold_integers(graph: Graph, kept: Collection[str] = ()) -> None:
    """Make constants of the integers that follow from constants and known shapes, in place.

    kept: values that have to stay computed, beside the graph's outputs
    """
    captured = (name for node in graph.nodes for name in node.captured)
    fixed = {*kept, *graph.outputs, *graph.detached, *captured}
    graph.nodes[:] = [
        node
        for node in graph.nodes
        if not (_are_integers(graph, node) and fixed.isdisjoint(node.outputs) and _fold(graph, node))
    ]


def _are_integers(graph: Graph, node: Node) -> bool:
    return all(name in graph.specs and graph.specs[name].dtype.kind in "biu" for name in node.outputs)


def _is_small(graph: Graph, node: Node) -> bool:
    """Tell whether the results are known to be small: the ConstantOfShape of an untrusted file may have any size."""
    sizes = [math.prod(graph.shape(name)) if name in graph.specs else FOLDED + 1 for name in node.outputs if name]
    return bool(sizes) and max(sizes) <= FOLDED


def evaluate(graph: Graph, node: Node, inputs: dict[str, np.ndarray]) -> bool:
    """Make constants of a graph of what a node computes from known inputs, and tell whether that was possible."""
    from onnx.reference import ReferenceEvaluator

    try:
        evaluator = ReferenceEvaluator(to_proto(node), opsets={"": OPSET})
        results: Any = evaluator.run(None, inputs)
    except Exception:  # it raises what numpy or its own kernels raise; then the runtime has to compute the node
        return False
    arrays = dict(zip((name for name in node.outputs), results, strict=False))
    if not all(isinstance(array, (np.ndarray, np.generic)) for array in arrays.values()):
        return False
    for name, array in arrays.items():
        graph.constants[name] = np.ascontiguousarray(array).reshape(np.shape(array))
        graph.specs[name] = Spec(np.shape(array), np.asarray(array).dtype)
    return True
