"""bfloat16 computed as float32: the stock runtimes have few CPU kernels for it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from onnx import TensorProto

from .graph import FLOAT, Graph, Node, Spec

__all__ = ["widened", "with_wide_ends"]

_NARROW = "bfloat16"


def widened(graph: Graph) -> Graph:
    """Return a graph whose nodes read and write float32 in the place of bfloat16; the values stay bfloat16.

    A Cast stands before and behind each node; the graph itself when it has no such value.
    """
    narrow = {name for name, spec in graph.specs.items() if spec.dtype.name == _NARROW}
    if not narrow:
        return graph
    result = copy(graph)
    result.nodes, result.specs = [], dict(graph.specs)
    wide: dict[str, str] = {}
    for node in graph.nodes:
        is_cast = node.info.converts and len(node.inputs) == 1
        if is_cast or node.captured or narrow.isdisjoint((*node.inputs, *node.outputs)):
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
    for name in node.inputs:
        if name in narrow and name not in wide:
            wide[name] = _cast(graph, name)
    outputs = [graph.unique(f"{name}/float32") if name in narrow else name for name in node.outputs]
    graph.nodes.append(replace(node, inputs=tuple(wide.get(n, n) for n in node.inputs), outputs=tuple(outputs)))
    for name, output in zip(node.outputs, outputs, strict=True):
        if output != name:
            graph.specs[output] = Spec(graph.shape(name), FLOAT)
            graph.nodes.append(Node("Cast", (output,), (name,), {"to": int(TensorProto.BFLOAT16)}))
