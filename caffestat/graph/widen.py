"""bfloat16 computed as float32: the stock runtimes have few CPU kernels for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .graph import FLOAT, Graph, Node, Spec
from .nodes import renamed

__all__ = ["widened", "with_wide_ends"]

_NARROW = "bfloat16"
_TYPE_ATTRIBUTES = ("to", "dtype")


def widened(graph: Graph) -> Graph:
    """Return a graph whose nodes read and write float32 in the place of bfloat16; the values stay bfloat16.

    A Cast stands before and behind each node, and subgraphs are float32; the graph itself when it has no such value.
    """
    narrow = {name for name, spec in graph.specs.items() if spec.dtype.name == _NARROW}
    if not narrow:
        return graph
    result = copy(graph)
    result.nodes, result.specs = [], dict(graph.specs)
    wide: dict[str, str] = {}
    for node in graph.nodes:
        is_cast = node.info.converts and len(node.inputs) == 1
        if is_cast or narrow.isdisjoint((*node.inputs, *node.outputs, *node.captured)):
            result.nodes.append(node)
        else:
            _wrap(result, node, narrow, wide)
    return result


def with_wide_ends(graph: Graph, names: Sequence[str]) -> tuple[Graph, list[str]]:
    """Return a widened graph that is also fed float32 in the place of bfloat16, and the given values in float32.

    For callers whose arrays have no such type. The numbers are those of bfloat16.
    """
    result = widened(graph)
    if result is graph:
        return graph, list(names)
    result.inputs, result.params = (
        {name: replace(spec, dtype=FLOAT) if spec.dtype.name == _NARROW else spec for name, spec in table.items()}
        for table in (graph.inputs, graph.params)
    )
    result.specs |= result.inputs | result.params
    narrow = [name for name in names if result.specs[name].dtype.name == _NARROW]
    wide = {name: _cast(result, name) for name in narrow}
    return result, [wide.get(name, name) for name in names]


def _cast(graph: Graph, name: str) -> str:
    return graph.declare(graph.emit("Cast", name, to=int(TensorProto.FLOAT)), graph.shape(name), FLOAT)


def _wrap(graph: Graph, node: Node, narrow: set[str], wide: dict[str, str]) -> None:
    """Append a node between Casts; `wide` holds the values that are float32 already."""
    for name in (*node.inputs, *node.captured):
        if name in narrow and name not in wide:
            wide[name] = _cast(graph, name)
    outputs = [graph.unique(f"{name}/float32") if name in narrow else name for name in node.outputs]
    inputs, captured = (tuple(wide.get(name, name) for name in names) for names in (node.inputs, node.captured))
    attributes = {
        name: _wide_body(value, wide) if isinstance(value, onnx.GraphProto) else value
        for name, value in node.attributes.items()
    }
    graph.nodes.append(replace(node, inputs=inputs, outputs=tuple(outputs), attributes=attributes, captured=captured))
    for name, output in zip(node.outputs, outputs, strict=True):
        if output != name:
            graph.specs[output] = Spec(graph.shape(name), FLOAT)
            graph.nodes.append(Node("Cast", (output,), (name,), {"to": int(TensorProto.BFLOAT16)}))


def _wide_body(body: onnx.GraphProto, wide: Mapping[str, str]) -> onnx.GraphProto:
    """Return a subgraph that computes in float32 what it computes in bfloat16, from the values of these names."""
    result = renamed(body, wide)
    for value in (*result.input, *result.output, *result.value_info):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in result.initializer:
        _widen_tensor(tensor)
    for attribute in (attribute for node in result.node for attribute in node.attribute):
        if attribute.HasField("g"):
            attribute.g.CopyFrom(_wide_body(attribute.g, {}))
        elif attribute.HasField("t"):
            _widen_tensor(attribute.t)
        elif attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.BFLOAT16:
            attribute.i = TensorProto.FLOAT
    return result


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.BFLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
