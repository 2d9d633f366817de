"""Einsum: the nodes in its place against the runtime's kernel, and predictions against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.graph import Graph
from caffestat.theory import propagate
from caffestat.theory.rules.einsum import einsum
from caffestat.theory.rules.products import PRODUCT
from caffestat.theory.signal import normal

from .graphs import Case, measure, predict

SIZES = dict(zip("abhijkcd", (2, 3, 4, 5, 6, 7, 8, 9), strict=True))
EQUATIONS = [
    "bhic,bhjc->bhij", "bij,jk->bik", "ij,kj->ki", "bhij,bhjc->bihc", "cd,bijc->bijd", "ijb,kb", "ij,k->kij",
    "bi,bj->bij", "bij->jb", "ijk->ki", "b...j,jc->...cb", "bij,bij->b", "bij,bij->",
]  # fmt: skip


def graph_of(equation: str, weights: int = 0) -> Graph:
    """Return a graph of one node, of whose operands the first is a param with `weights` 1, the last with 2."""
    g = Graph()
    terms = [term.replace("...", "i") for term in equation.split("->")[0].split(",")]
    shapes = [tuple(SIZES[index] for index in term) for term in terms]
    is_weight = [weights == 1, weights == 2]
    names = [g.param("w", s) if w else g.input("x", s) for s, w in zip(shapes, is_weight, strict=False)]
    g.outputs = [g.emit("Einsum", *names, equation=equation)]
    g.infer()
    return g


@pytest.mark.parametrize("equation", EQUATIONS)
def test_the_nodes_compute_what_the_op_does(equation: str) -> None:
    for weights in range(3 if "," in equation else 1):
        g = graph_of(equation, weights)
        random = np.random.default_rng(1)
        specs = g.inputs | g.params
        feeds = {name: random.normal(size=spec.shape).astype(np.float32) for name, spec in specs.items()}
        plain = g.fork()
        plain.nodes = list(einsum(plain, g.nodes[0]))
        assert all(node.op != "Einsum" for node in plain.nodes)
        for node in plain.nodes:
            node.op = "MatMul" if node.op == PRODUCT else node.op
        expected, found = Compiled(g).run(feeds), Compiled(plain).run(feeds)
        np.testing.assert_allclose(found[g.outputs[0]], expected[g.outputs[0]], rtol=1e-4, atol=1e-4)


CASES = {
    "weight right": Case((12, 9, 40), lambda g, x, p: g.emit("Einsum", x, *p, equation="bij,jk->bik"), ((40, 30),)),
    "weight left": Case((12, 9, 40), lambda g, x, p: g.emit("Einsum", *p, x, equation="kj,bij->bik"), ((30, 40),)),
    "sum": Case((12, 9, 40), lambda g, x, p: g.emit("Einsum", x, equation="bij->jb")),
}


@pytest.mark.parametrize("name", CASES)
def test_predictions(name: str) -> None:
    for found, expected in zip(predict(CASES[name]), measure(CASES[name], draws=20), strict=True):
        assert found is not None
        assert found.second == pytest.approx(expected.second, rel=0.06)
        assert found.mean_abs == pytest.approx(expected.mean_abs, rel=0.04)


def test_scores_of_attention() -> None:
    """q kᵀ of two values apart, over eight elements: E[y²] = 8 E[q²] E[k²]."""
    g = Graph()
    q, k = g.input("q", (2, 4, 5, 8)), g.input("k", (2, 4, 6, 8))
    y = g.emit("Einsum", q, k, equation="bhic,bhjc->bhij")
    top = propagate(g, {q: normal(0, 1), k: normal(0, 4)}, {}).signal(y)
    assert top is not None and top.second == pytest.approx(32, rel=1e-3)


@pytest.mark.parametrize("equation", ["bii->bi", "ij,jk,kc->ic", "bij,jk->k"])
def test_what_is_not_predicted_is_named(equation: str) -> None:
    g = Graph()
    terms = equation.split("->")[0].split(",")
    names = [g.input("x", tuple(SIZES[index] for index in term)) for term in terms]
    g.emit("Einsum", *names, equation=equation)
    walk = propagate(g, {name: normal(0, 1) for name in names}, {})
    assert [gap.reason for gap in walk.gaps] == ["op Einsum is not predicted with these settings"]
