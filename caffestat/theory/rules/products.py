"""Products of two values, both with axes of their own beside the matrix: attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffestat.graph import Graph, Node

from ..engine import Walk, backward_moments, decomposition, moments
from ..signal import Gradient, Signal, Source, normal
from .linear import known

Gradients = Sequence[Gradient | None]

PRODUCT = "caffestat.Product"


@decomposition("MatMul", "FusedMatMul")
def matmul(graph: Graph, node: Node) -> Sequence[Node]:
    """A right operand of more than two axes is no weight that all samples share, but a value with rows of its own."""
    if len(graph.shape(node.inputs[1])) < 3:
        return (node,)
    return (Node(PRODUCT, node.inputs, node.outputs, node.attributes),)


def _sizes(walk: Walk, node: Node) -> tuple[int, int, int]:
    """Return M, K, N of matrices [M, K] and [K, N]."""
    a, tops = walk.shape(node.inputs[0]), walk.shape(node.outputs[0])
    inner = a[-2 if node.get("transA", 0) and len(a) > 1 else -1]
    return tops[-2] if len(a) > 1 else 1, inner, tops[-1]


def _of_one_sample(walk: Walk, node: Node, rows: int) -> float:
    """Return which share of all other rows belongs to the same sample."""
    return (rows - 1) / max(walk.shape(node.outputs[0])[0] * rows - 1, 1)


def _is_weight(b: Signal) -> bool:
    """Tell whether an operand is the same for all samples, so that its rows have nothing in common."""
    return b.rho_other == 1


@moments(PRODUCT)
def product(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = Σ a·b over K: E[y²] = K E[a²] E[b²] + K (K - 1) E[a]² E[b b'], rows of b as correlated as two samples.

    So a mean over rows, which attention at its start is, keeps what the rows share.
    """
    a, b = (known(walk.signal(name)) for name in node.inputs)
    m, k, _ = _sizes(walk, node)
    scale = node.get("alpha", 1.0)
    cross = b.mean**2 if _is_weight(b) else b.cross_sample
    mean, pairs = k * a.mean * b.mean, k * (k - 1) * a.mean**2 * cross
    variance = k * a.second * b.second + pairs - mean**2
    same, other = (k * of_a * of_b + pairs for of_a, of_b in ((a.cross_sample, b.second), (a.mean**2, cross)))
    share = 1.0 if _is_weight(b) else _of_one_sample(walk, node, m)
    batch = share * same + (1 - share) * other - mean**2
    return [normal(scale * mean, scale**2 * variance, 0.0, scale**2 * batch)]


@backward_moments(PRODUCT)
def product_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """da = Σ dy·b over N, db = Σ a·dy over M; an operand that all samples share gets the sum over them."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    a, b = (known(walk.signal(name)) for name in node.inputs)
    m, k, n = _sizes(walk, node)
    samples = math.prod(walk.shape(node.outputs[0])[:-2])
    sums = [samples / max(math.prod(walk.shape(name)[:-2]), 1) for name in node.inputs]
    scale, batch = node.get("alpha", 1.0) ** 2, dy.cross_sample(y.rho_sample)
    rows = m * sums[1]
    others = rows * (rows - 1) * batch
    da = Source(
        scale * sums[0] * n * b.second * dy.second,
        cross_sample=scale * n * b.second * batch,
        finite_width=dy.finite_width,
    )
    db = Source(
        scale * (rows * a.second * dy.second + others * a.cross_sample),
        cross_sample=scale * a.mean**2 * (rows * dy.second + others) * _of_one_sample(walk, node, k),
        finite_width=dy.finite_width,
    )
    return [Gradient.of(da), Gradient.of(db)]
