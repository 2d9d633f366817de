"""Gradients of matrix products: MatMul, Gemm and the runtime's FusedMatMul."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of, sum_to

Ints = tuple[int, ...]


@dataclass(frozen=True)
class _Product:
    """y = alpha · op(a) · op(b) for matrices of at least two axes; the leading axes broadcast."""

    a: str
    b: str
    a_shape: Ints
    b_shape: Ints
    y_shape: Ints
    alpha: float = 1.0
    trans_a: bool = False
    trans_b: bool = False


def _matmul(tape: Tape, a: str, b: str, alpha: float, trans_a: bool, trans_b: bool) -> str:
    if alpha == 1 and not trans_a and not trans_b:
        return tape.emit("MatMul", a, b)
    return tape.fused_matmul(a, b, alpha=float(alpha), transA=int(trans_a), transB=int(trans_b))


def _a_grad(tape: Tape, p: _Product, dy: str) -> str:
    """da = α dy · op(b)ᵀ, or its transpose when the product takes aᵀ; summed over the broadcast axes."""
    if p.trans_a:
        grad = _matmul(tape, p.b, dy, p.alpha, p.trans_b, True)
    else:
        grad = _matmul(tape, dy, p.b, p.alpha, False, not p.trans_b)
    return sum_to(tape, grad, (*p.y_shape[:-2], *p.a_shape[-2:]), p.a_shape)


def _b_grad(tape: Tape, p: _Product, dy: str) -> str:
    """db = α op(a)ᵀ · dy, or its transpose when the product takes bᵀ; summed over the broadcast axes."""
    if p.trans_b:
        grad = _matmul(tape, dy, p.a, p.alpha, True, p.trans_a)
    else:
        grad = _matmul(tape, p.a, dy, p.alpha, not p.trans_a, False)
    return sum_to(tape, grad, (*p.y_shape[:-2], *p.b_shape[-2:]), p.b_shape)


def _as_matrices(tape: Tape, node: Node, **options: object) -> _Product:
    """Describe the node's product; vectors become a row (left) or a column (right)."""
    a, b = node.inputs[:2]
    a_shape, b_shape = tape.shape(a), tape.shape(b)
    rows = a_shape if len(a_shape) > 1 else (1, *a_shape)
    columns = b_shape if len(b_shape) > 1 else (*b_shape, 1)
    ends = (rows[-1] if options.get("trans_a") else rows[-2], columns[-2] if options.get("trans_b") else columns[-1])
    # the node's own shape says what the leading axes broadcast to; vectors' axes are missing there
    lead = tape.shape(node.outputs[0])
    batch = lead[: len(lead) - (len(a_shape) > 1) - (len(b_shape) > 1)]
    a, b = tape.reshape(a, *rows), tape.reshape(b, *columns)
    return _Product(a, b, rows, columns, (*batch, *ends), **options)  # type: ignore[arg-type]


def _flatten(tape: Tape, p: _Product) -> _Product:
    """Turn [batch…, m, k] · [k, n] into [batch · m, k] · [k, n]: one product, and no sum over the batch for db."""
    if len(p.b_shape) > 2 or p.trans_a:
        return p
    rows = prod(p.a_shape[:-1])
    a_shape, y_shape = (rows, p.a_shape[-1]), (rows, p.y_shape[-1])
    return _Product(tape.reshape(p.a, *a_shape), p.b, a_shape, p.b_shape, y_shape, p.alpha, False, p.trans_b)


def _grads(tape: Tape, node: Node, p: _Product, dy: str) -> Grads:
    a, b = node.inputs[:2]
    flat = _flatten(tape, p)
    dy = tape.reshape(dy, *flat.y_shape)
    da = tape.reshape(_a_grad(tape, flat, dy), *tape.shape(a)) if tape.needs(a) else None
    db = tape.reshape(_b_grad(tape, flat, dy), *tape.shape(b)) if tape.needs(b) else None
    return [da, db]


@vjp("MatMul")
def matmul(tape: Tape, node: Node, dy: str) -> Grads:
    """y = a · b: da = dy · bᵀ, db = aᵀ · dy. Vectors and broadcast leading axes as numpy.matmul has them."""
    return _grads(tape, node, _as_matrices(tape, node), dy)


@vjp("FusedMatMul")
def fused_matmul(tape: Tape, node: Node, dy: str) -> Grads:
    """y = α op(a) · op(b), op a transposition of the last two axes or nothing.

    Raises GradientError for transBatchA and transBatchB, which move the batch axes too.
    """
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise GradientError(f"FusedMatMul (value {node.outputs[0]}): transBatchA and transBatchB have no gradient rule")
    flags = {"trans_a": bool(node.get("transA", 0)), "trans_b": bool(node.get("transB", 0))}
    return _grads(tape, node, _as_matrices(tape, node, alpha=node.get("alpha", 1.0), **flags), dy)


@vjp("Gemm")
def gemm(tape: Tape, node: Node, dy: str) -> Grads:
    """y = α op(a) · op(b) + β c: as FusedMatMul, and dc = β dy summed to the shape of c."""
    flags = {"trans_a": bool(node.get("transA", 0)), "trans_b": bool(node.get("transB", 0))}
    grads = _grads(tape, node, _as_matrices(tape, node, alpha=node.get("alpha", 1.0), **flags), dy)
    return [*grads, *([_addend_grad(tape, node, dy)] if len(node.inputs) > 2 else [])]


def _addend_grad(tape: Tape, node: Node, dy: str) -> str | None:
    c, beta = input_of(node, 2), node.get("beta", 1.0)
    if not c or not tape.needs(c):
        return None
    summed = sum_to(tape, dy, tape.shape(node.outputs[0]), tape.shape(c))
    return summed if beta == 1 else tape.emit("Mul", summed, tape.scalar(beta, like=c))
