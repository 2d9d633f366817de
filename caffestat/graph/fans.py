"""The true fans of weights by the ONNX op that uses them, straight or behind a change of their shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from .graph import Node, Shape

__all__ = ["Use", "find_uses", "is_passing", "weight_ops"]


@dataclass(frozen=True)
class Use:
    """What a value is for: `node` (its index) has it as a weight or a bias, with these fans; a bias has 1 and 1."""

    node: int
    role: str
    fan_in: int
    fan_out: int


Fans = tuple[int, int]
Rule = Callable[[Node, Shape], Fans]

_WEIGHTS: dict[tuple[str, int], Rule] = {}
_BIASES = {("Conv", 2), ("ConvTranspose", 2), ("Gemm", 2), ("LSTM", 3), ("GRU", 3), ("RNN", 3)}
_GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
_PASSING = frozenset(["Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze"])
_PASSING |= {"Transpose", "Unsqueeze"}
_ADDED_TO = frozenset(["Conv", "ConvTranspose", "FusedMatMul", "Gemm", "MatMul"])


def _rule(op: str, *inputs: int) -> Callable[[Rule], Rule]:
    """Make the decorated function the rule for weights at these inputs of an op."""

    def enter(rule: Rule) -> Rule:
        for index in inputs:
            if (op, index) in _WEIGHTS:
                raise ValueError(f"the fans of input {index} of {op} have a rule already")
            _WEIGHTS[op, index] = rule
        return rule

    return enter


def weight_ops() -> tuple[str, ...]:
    """The ops whose weights have rules, sorted."""
    return tuple(sorted({op for op, _ in _WEIGHTS}))


@_rule("Conv", 1)
def _conv(node: Node, shape: Shape) -> Fans:
    """[outputs, inputs / group, taps…]"""
    taps = prod(shape[2:])
    return shape[1] * taps, shape[0] // node.get("group", 1) * taps


@_rule("ConvTranspose", 1)
def _conv_transpose(node: Node, shape: Shape) -> Fans:
    """[inputs, outputs / group, taps…]; on average, kernels overlap on a stride-th of the taps per axis."""
    taps = prod(shape[2:])
    overlapping = shape[0] // node.get("group", 1) * taps / prod(node.get("strides", (1,)))
    return max(round(overlapping), 1), shape[1] * taps


@_rule("MatMul", 1)
def _matmul_right(node: Node, shape: Shape) -> Fans:
    """[…, K, N], or the vector [K]"""
    return (shape[-2], shape[-1]) if len(shape) > 1 else (shape[0], 1)


@_rule("MatMul", 0)
def _matmul_left(node: Node, shape: Shape) -> Fans:
    """[…, M, K], or the vector [K]"""
    return (shape[-1], shape[-2]) if len(shape) > 1 else (shape[0], 1)


@_rule("FusedMatMul", 1)
@_rule("Gemm", 1)
def _gemm_right(node: Node, shape: Shape) -> Fans:
    """[…, K, N], with transB [N, K]"""
    k, n = shape[-2:]
    return (n, k) if node.get("transB", 0) else (k, n)


@_rule("FusedMatMul", 0)
@_rule("Gemm", 0)
def _gemm_left(node: Node, shape: Shape) -> Fans:
    """[…, M, K], with transA [K, M]"""
    m, k = shape[-2:]
    return (m, k) if node.get("transA", 0) else (k, m)


@_rule("Gather", 0)
def _gather(node: Node, shape: Shape) -> Fans:
    """[rows, N]: one row is picked, nothing is summed."""
    return 1, prod(shape[1:])


@_rule("LSTM", 1, 2)
@_rule("GRU", 1, 2)
@_rule("RNN", 1, 2)
def _recurrent(node: Node, shape: Shape) -> Fans:
    """[directions, gates · H, inputs]: each gate is a layer of its own."""
    return shape[-1], shape[-2] // _GATES[node.op]


def is_passing(node: Node) -> bool:
    """Whether the node hands its first input, or a part of it, on in another shape or type."""
    return node.op in _PASSING


def find_uses(nodes: Sequence[Node], shapes: Mapping[str, Shape], values: Collection[str]) -> dict[str, Use]:
    """What each of `values` (params, initializers) is used for first; those that no rule knows are left out.

    shapes: of the values, and of what Reshape, Transpose and the like make of them; a use of unknown shape is left out.
    """
    producers = {output: node for node in nodes for output in node.outputs}
    uses: dict[str, Use] = {}
    for index, node in enumerate(nodes):
        for value, use in _uses_by(index, node, producers, shapes, values):
            root = _root(value, producers)
            if root in values:
                uses.setdefault(root, use)
    return uses


def _uses_by(
    index: int, node: Node, producers: Mapping[str, Node], shapes: Mapping[str, Shape], values: Collection[str]
) -> Iterator[tuple[str, Use]]:
    for position, value in enumerate(node.inputs):
        rule = _WEIGHTS.get((node.op, position))
        if rule is not None and len(shapes.get(value, ())) > 1:
            yield value, Use(index, "weight", *rule(node, shapes[value]))
        elif (node.op, position) in _BIASES or (node.op == "Add" and _is_added(node, 1 - position, producers, values)):
            yield value, Use(index, "bias", 1, 1)


def _is_added(node: Node, other: int, producers: Mapping[str, Node], values: Collection[str]) -> bool:
    """Whether the other term of a sum is what a layer with a weight made: then this one is its bias."""
    producer = producers.get(_root(node.inputs[other], producers))
    if producer is None or producer.op not in _ADDED_TO:
        return False
    return any(_root(name, producers) in values for name in producer.inputs)  # a mask is added to a product of two


def _root(value: str, producers: Mapping[str, Node]) -> str:
    """Where a value comes from, behind what only changes its shape."""
    while value in producers and is_passing(producers[value]):
        value = producers[value].inputs[0]
    return value
