"""Einstein summation."""

from __future__ import annotations

import string
from collections.abc import Sequence

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, sum_to


@vjp("Einsum")
def einsum(t: Tape, node: Node, dy: str) -> Grads:
    terms, result = _terms(node.attributes["equation"], [len(t.shape(x)) for x in node.inputs])
    for term in terms:
        if len(set(term)) < len(term):
            raise GradientError(f"Einsum (value {node.outputs[0]}): a repeated index ({term}) has no gradient rule")
    sizes = _sizes(terms, [t.shape(x) for x in node.inputs])
    return [_grad(t, node, dy, i, terms, result, sizes) if t.needs(x) else None for i, x in enumerate(node.inputs)]


def _terms(equation: str | bytes, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return one string of indices per operand, and the result's; an ellipsis becomes letters not in use."""
    text = equation.decode() if isinstance(equation, bytes) else equation
    left, arrow, right = text.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    hidden = max((rank - len(term) + 1 for term, rank in zip(terms, ranks, strict=True) if "." in term), default=0)
    letters = [c for c in string.ascii_letters if c not in left][:hidden]
    if not arrow:
        right = "." + "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
    lengths = [rank - len(term) + 1 for term, rank in zip(terms, ranks, strict=True)]
    full = [term.replace(".", "".join(letters[hidden - n :])) for term, n in zip(terms, lengths, strict=True)]
    return full, right.replace(".", "".join(letters))


def _sizes(terms: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return sizes


def _grad(t: Tape, node: Node, dy: str, position: int, terms: list[str], result: str, sizes: dict[str, int]) -> str:
    """Sum dy times the other operands; an index that only this operand has is one the result does not depend on."""
    term = terms[position]
    others = [i for i in range(len(terms)) if i != position]
    known = set(result).union(*(terms[i] for i in others))
    found = "".join(index for index in term if index in known)
    equation = ",".join([result, *(terms[i] for i in others)]) + "->" + found
    grad = t.emit("Einsum", dy, *(node.inputs[i] for i in others), equation=equation)
    full = [sizes[index] for index in term]
    if found != term:
        column = t.reshape(grad, *(sizes[index] if index in found else 1 for index in term))
        grad = t.emit("Expand", column, t.ints(*full))
    return sum_to(t, grad, full, t.shape(node.inputs[position]))
