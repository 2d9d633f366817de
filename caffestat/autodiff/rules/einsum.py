"""Einstein summation."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from caffestat.graph import Node
from caffestat.ops.einsum import sizes_of, terms_of

from ..engine import Tape, vjp
from .common import Grads, sum_to


@vjp("Einsum")
def einsum(t: Tape, node: Node, dy: str) -> Grads:
    shapes = [t.shape(x) for x in node.inputs]
    terms, result = terms_of(node.attributes["equation"], [len(shape) for shape in shapes])
    sizes = sizes_of(terms, shapes)
    return [_grad(t, node, dy, i, terms, result, sizes) if t.needs(x) else None for i, x in enumerate(node.inputs)]


def _grad(
    t: Tape, node: Node, dy: str, position: int, terms: Sequence[str], result: str, sizes: Mapping[str, int]
) -> str:
    """Sum dy times the other operands; an index that only this operand has is one the result does not depend on."""
    x, term = node.inputs[position], terms[position]
    others = [i for i in range(len(terms)) if i != position]
    known = [(result, [sizes[index] for index in result]), *((terms[i], t.shape(node.inputs[i])) for i in others)]
    reached = sizes_of([indices for indices, _ in known], [shape for _, shape in known])
    own = "".join(dict.fromkeys(term))
    found = "".join(index for index in own if index in reached)
    equation = ",".join(indices for indices, _ in known) + "->" + found
    grad = t.emit("Einsum", dy, *(node.inputs[i] for i in others), equation=equation)
    full = [sizes[index] for index in own]
    if [reached.get(index) for index in own] != full:
        column = t.reshape(grad, *(reached.get(index, 1) for index in own))
        grad = t.emit("Expand", column, t.ints(*full))
    kept = sizes_of([term], [t.shape(x)])
    return _on_diagonals(t, sum_to(t, grad, full, [kept[index] for index in own]), own, term, kept, x)


def _on_diagonals(t: Tape, grad: str, own: str, term: str, sizes: Mapping[str, int], like: str) -> str:
    """Put a gradient with each index once on the diagonals of an operand that repeats some."""
    free = iter(index for index in string.ascii_letters if index not in term)
    seen, axes, diagonals = set[str](), "", []
    for index in term:
        axis = next(free) if index in seen else index
        if index in seen:
            diagonals.append((index + axis, t.constant(np.eye(sizes[index]), t.specs[like].dtype)))
        seen.add(index)
        axes += axis
    if not diagonals:
        return grad
    equation = ",".join([own, *(pair for pair, _ in diagonals)]) + "->" + axes
    return t.emit("Einsum", grad, *(matrix for _, matrix in diagonals), equation=equation)
