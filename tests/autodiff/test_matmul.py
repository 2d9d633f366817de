"""Gradients of matrix products against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.errors import GradientError
from caffestat.graph import Graph

from .support import difference, op_gradients, torch_gradients

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def compare(build: Any, reference: Any, inputs: list[np.ndarray]) -> None:
    with torch.no_grad():
        y = reference(*map(torch.tensor, inputs))
    dy = normal(*y.shape)
    actual = op_gradients(build, inputs, dy)
    for ours, theirs in zip(actual, torch_gradients(reference, inputs, dy), strict=True):
        assert difference(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((2, 3, 4), (4, 5)),
        ((2, 6, 3, 4), (6, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (1, 6, 4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((4,), (4,)),
        ((4,), (2, 4, 5)),
        ((2, 3, 4), (4,)),
    ],
    ids=str,
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    compare(lambda g, a, b: g.emit("MatMul", a, b), torch.matmul, [normal(*a), normal(*b)])


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize(("lead_a", "lead_b"), [((), ()), ((2,), ()), ((2, 6), (6,)), ((), (2,))], ids=str)
def test_fused_matmul(lead_a: tuple[int, ...], lead_b: tuple[int, ...], trans_a: int, trans_b: int) -> None:
    a = normal(*lead_a, *((4, 3) if trans_a else (3, 4)))
    b = normal(*lead_b, *((5, 4) if trans_b else (4, 5)))

    def reference(a: Any, b: Any) -> Any:
        return 1.5 * (a.transpose(-1, -2) if trans_a else a) @ (b.transpose(-1, -2) if trans_b else b)

    compare(lambda g, a, b: g.fused_matmul(a, b, transA=trans_a, transB=trans_b, alpha=1.5), reference, [a, b])


@pytest.mark.parametrize("c", [(3, 5), (5,), (3, 1), (1,), ()], ids=str)
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm(trans_a: int, trans_b: int, c: tuple[int, ...]) -> None:
    a, b = normal(*((4, 3) if trans_a else (3, 4))), normal(*((5, 4) if trans_b else (4, 5)))

    def reference(a: Any, b: Any, c: Any) -> Any:
        return 0.5 * (a.T if trans_a else a) @ (b.T if trans_b else b) - 2 * c

    how = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": -2.0}
    compare(lambda g, a, b, c: g.emit("Gemm", a, b, c, **how), reference, [a, b, normal(*c)])


def test_gemm_without_addend() -> None:
    compare(lambda g, a, b: g.emit("Gemm", a, b), torch.matmul, [normal(3, 4), normal(4, 5)])


def test_only_what_is_needed_is_computed() -> None:
    graph = Graph()
    a, b = graph.input("a", (3, 4)), graph.input("b", (4, 5))
    y = graph.emit("MatMul", a, b)
    grads = backward(graph, {y: graph.input("dy", (3, 5))}, [b])
    assert [node.op for node in graph.nodes].count("FusedMatMul") == 1
    assert grads[b] is not None


def test_moved_batch_axes_are_refused() -> None:
    graph = Graph()
    a, b = graph.input("a", (3, 2, 4)), graph.input("b", (2, 4, 5))
    y = graph.declare(graph.emit("FusedMatMul", a, b, domain="com.microsoft", transBatchA=1), (2, 3, 5))
    with pytest.raises(GradientError, match="transBatchA"):
        backward(graph, {y: graph.input("dy", (2, 3, 5))}, [a])
