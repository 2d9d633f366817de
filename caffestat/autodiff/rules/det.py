"""Determinants of square matrices."""

from __future__ import annotations

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads

_LARGEST = 64  # rows; the minors of one matrix are then 64 MB


@vjp("Det")
def det(t: Tape, node: Node, dy: str) -> Grads:
    """The slope by an element is its cofactor, of matrices without an inverse, too.

    Raises GradientError for matrices whose minors would take too much memory.
    """
    (x,) = node.inputs
    *batch, size, _ = t.shape(x)
    if size > _LARGEST:
        what = f"matrices of more than {_LARGEST} rows"
        raise GradientError(f"Det (value {node.outputs[0]}): {what} have no gradient rule")
    scale = t.reshape(dy, *batch, 1, 1)
    if size == 1:
        return [scale]
    return [t.emit("Mul", scale, _cofactors(t, x, size))]


def _cofactors(t: Tape, x: str, size: int) -> str:
    """Emit the determinants of what is left of matrices without one row and one column, with their signs."""
    rank, spec = len(t.shape(x)), t.specs[x]
    lead = spec.shape[:-2]
    others = t.constant([[j for j in range(size) if j != i] for i in range(size)], np.int64)
    rows = t.declare(t.emit("Gather", x, others, axis=rank - 2), (*lead, size, size - 1, size), spec.dtype)
    both = (*lead, size, size - 1, size, size - 1)
    minors = t.declare(t.emit("Gather", rows, others, axis=rank), both, spec.dtype)
    found = t.emit("Det", t.transpose(minors, *range(rank - 2), rank - 2, rank, rank - 1, rank + 1))
    signs = (-1.0) ** np.add.outer(np.arange(size), np.arange(size))
    return t.emit("Mul", found, t.constant(signs, spec.dtype))
