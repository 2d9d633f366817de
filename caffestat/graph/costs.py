"""Multiply-adds of ONNX ops: convolutions and matrix products, one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from .graph import Graph, Node

__all__ = ["macs"]

Rule = Callable[[Graph, Node], int]


def macs(graph: Graph, node: Node) -> int | None:
    """Return the multiply-adds of a node, 0 for an op that is not counted, None where a shape is not known."""
    rule = None if node.domain and node.op != "FusedMatMul" else _RULES.get(node.op)
    try:
        return rule(graph, node) if rule else 0
    except KeyError:
        return None


def _conv(graph: Graph, node: Node) -> int:
    return prod(graph.shape(node.outputs[0])) * prod(graph.shape(node.inputs[1])[1:])


def _conv_transpose(graph: Graph, node: Node) -> int:
    return prod(graph.shape(node.inputs[0])) * prod(graph.shape(node.inputs[1])[1:])


def _matmul(graph: Graph, node: Node) -> int:
    return prod(graph.shape(node.outputs[0])) * graph.shape(node.inputs[0])[-2 if node.get("transA") else -1]


def _einsum(graph: Graph, node: Node) -> int:
    """One multiply-add per combination of all indices; none for a single operand."""
    if len(node.inputs) < 2:
        return 0
    terms = node.attributes["equation"].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        shape = graph.shape(value)
        head, dots, tail = term.partition("...")
        rest = shape[len(head) : len(shape) - len(tail)] if dots else ()
        named = [*zip(head, shape, strict=False), *zip(reversed(tail), reversed(shape), strict=False)]
        named += [(f"...{index}", size) for index, size in enumerate(reversed(rest))]
        sizes |= {name: max(size, sizes.get(name, 1)) for name, size in named}
    return prod(sizes.values())


def _recurrent(graph: Graph, node: Node) -> int:
    places, batch = graph.shape(node.inputs[0])[:2]
    return places * batch * sum(prod(graph.shape(weight)) for weight in node.inputs[1:3])


_RULES: dict[str, Rule] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "FusedMatMul": _matmul,
    "GRU": _recurrent,
    "Gemm": _matmul,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "RNN": _recurrent,
}
