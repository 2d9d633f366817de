"""Conversion between onnx.NodeProto and Node, and the function bodies of ops that ONNX defines by other ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, helper

from .graph import OPSET, Node, Spec

__all__ = [
    "bodies_of",
    "captured_by",
    "default_of",
    "expand_function",
    "from_proto",
    "given_names",
    "renamed",
    "subgraphs",
    "to_proto",
    "type_of",
]


def from_proto(proto: onnx.NodeProto) -> Node:
    """Return a Node; text attributes become str, and values read by subgraphs from outside are listed."""
    attributes = {a.name: _value(a) for a in proto.attribute if not a.ref_attr_name}
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    node = Node(proto.op_type, tuple(proto.input), tuple(proto.output), attributes, domain)
    return replace(node, captured=tuple(sorted(captured_by(subgraphs(node)))))


def _value(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode(errors="replace") for text in value]
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def subgraphs(node: Node) -> list[onnx.GraphProto]:
    """Return the graphs among the node's attributes: branches and bodies."""
    return list(bodies_of(node).values())


def bodies_of(node: Node) -> dict[str, onnx.GraphProto]:
    """Return the graphs among the node's attributes by the attributes' names."""
    return {name: value for name, value in node.attributes.items() if isinstance(value, onnx.GraphProto)}


def given_names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the graph's inputs and initializers."""
    return {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def captured_by(graphs: Sequence[onnx.GraphProto]) -> set[str]:
    """Return the names of the values that subgraphs read from outside."""
    found: set[str] = set()
    for graph in graphs:
        own = given_names(graph)
        read = {value.name for value in graph.output}
        for proto in graph.node:
            own.update(proto.output)
            read.update(proto.input)
            read.update(captured_by([a.g for a in proto.attribute if a.type == AttributeProto.GRAPH]))
        found |= read - own - {""}
    return found


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


def to_proto(node: Node) -> onnx.NodeProto:
    """Return the node as protobuf."""
    return helper.make_node(node.op, node.inputs, node.outputs, domain=node.domain, **node.attributes)


def type_of(spec: Spec) -> onnx.TypeProto:
    """Return a spec as protobuf."""
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(spec.dtype), spec.shape)


def expand_function(
    node: Node, specs: Mapping[str, Spec], unique: Callable[[str], str], opset: int = OPSET
) -> list[Node] | None:
    """Return the nodes that ONNX defines the op by, None when it is defined by itself.

    specs: shape and type of the node's inputs; unique: gives names that no value has.
    """
    body = None if node.domain else _body(node, specs, opset)
    return None if body is None else list(_instantiate(node, body, unique, opset))


def _body(node: Node, specs: Mapping[str, Spec], opset: int) -> FunctionProto | None:
    try:
        schema: Any = onnx.defs.get_schema(node.op, opset, node.domain)  # its type stubs leave functions out
    except onnx.defs.SchemaError:
        return None
    versions = schema.context_dependent_function_opset_versions
    if versions and all(name in specs for name in node.inputs if name):
        types = [type_of(specs[name]) if name else onnx.TypeProto() for name in node.inputs]
        version = max((v for v in versions if v <= opset), default=versions[0])
        text = schema.get_context_dependent_function_with_opset_version(
            version, to_proto(node).SerializeToString(), [t.SerializeToString() for t in types]
        )
        return FunctionProto.FromString(text) if text else None
    versions = schema.function_opset_versions
    if not versions:
        return None
    version = max((v for v in versions if v <= opset), default=versions[0])
    return FunctionProto.FromString(schema.get_function_with_opset_version(version))


def _instantiate(node: Node, body: FunctionProto, unique: Callable[[str], str], opset: int) -> Iterator[Node]:
    attributes = onnx.defs.get_schema(node.op, opset, node.domain).attributes
    given = {name: default_of(a) for name, a in attributes.items() if a.default_value.type} | node.attributes
    names = dict.fromkeys(body.input, "")
    names.update(zip(body.input, node.inputs, strict=False))
    names.update((formal, actual) for formal, actual in zip(body.output, node.outputs, strict=False) if actual)
    for proto in body.node:
        for name in proto.output:
            if name and name not in names:
                names[name] = unique(f"{node.outputs[0]}/{name}")
        inner = from_proto(proto)
        inputs, outputs = (tuple(names.get(n, n) for n in values) for values in (inner.inputs, inner.outputs))
        bodies = {n: renamed(v, names) for n, v in inner.attributes.items() if isinstance(v, onnx.GraphProto)}
        settings = inner.attributes | bodies | _references(proto, given)
        captured = tuple(sorted(captured_by(list(bodies.values()))))
        yield replace(inner, inputs=inputs, outputs=outputs, attributes=settings, captured=captured)


def default_of(attribute: onnx.defs.OpSchema.Attribute) -> Any:
    """Return the value that a node without the attribute has, None when the attribute is required or has no default."""
    return _value(attribute.default_value) if attribute.default_value.type else None


def _references(proto: onnx.NodeProto, given: Mapping[str, Any]) -> dict[str, Any]:
    return {a.name: given[a.ref_attr_name] for a in proto.attribute if a.ref_attr_name and a.ref_attr_name in given}
