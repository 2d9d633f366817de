"""Einstein summation."""

from __future__ import annotations

from caffestat.errors import GradientError
from caffestat.graph import Node
from caffestat.ops.einsum import sizes_of, terms_of

from ..engine import Tape, vjp
from .common import Grads, sum_to


@vjp("Einsum")
def einsum(t: Tape, node: Node, dy: str) -> Grads:
    terms, result = terms_of(node.attributes["equation"], [len(t.shape(x)) for x in node.inputs])
    for term in terms:
        if len(set(term)) < len(term):
            raise GradientError(f"Einsum (value {node.outputs[0]}): a repeated index ({term}) has no gradient rule")
    sizes = sizes_of(terms, [t.shape(x) for x in node.inputs])
    return [_grad(t, node, dy, i, terms, result, sizes) if t.needs(x) else None for i, x in enumerate(node.inputs)]


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
