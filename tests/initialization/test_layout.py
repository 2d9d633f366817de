"""How nodes read weights: outputs by inputs, wherever the model stores them."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.initialization.layout import layouts
from caffestat.program import Forward

X = np.random.default_rng(1).standard_normal((3, 8, 6, 5)).astype(np.float32)


def single(emit) -> tuple[Forward, Graph]:  # type: ignore[no-untyped-def]
    graph = Graph()
    graph.outputs = [emit(graph)]
    return Forward(graph, params={0: next(iter(graph.params))}), graph


CASES = {
    "conv": lambda g: g.emit("Conv", g.input("x", (3, 8, 6, 5)), g.param("w", (12, 4, 3, 2)), group=2),
    "transposed conv": lambda g: g.emit(
        "ConvTranspose", g.input("x", (3, 8, 6, 5)), g.param("w", (8, 3, 2, 3)), group=4
    ),
    "gemm": lambda g: g.emit("Gemm", g.input("x", (3, 7)), g.param("w", (7, 5))),
    "turned gemm": lambda g: g.emit("Gemm", g.input("x", (3, 7)), g.param("w", (5, 7)), transB=1),
    "weight on the left": lambda g: g.emit("MatMul", g.param("w", (4, 6)), g.input("x", (3, 6, 5))),
    "behind a transpose": lambda g: g.emit(
        "Conv", g.input("x", (3, 8, 6, 5)), g.emit("Transpose", g.param("w", (3, 2, 8, 9)), perm=[3, 2, 0, 1])
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_scaled_is_one_output(name: str) -> None:
    """The matrix's output k times 2 doubles what the node gives for it, and nothing else."""
    from caffestat.engine import Compiled

    forward, graph = single(CASES[name])
    layout = layouts(forward, [0])[0]
    shape = graph.params["w"].shape
    stored = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    matrix = layout.matrix(stored).copy()
    factors = 1 + np.arange(matrix.shape[0] * matrix.shape[1])
    scaled = stored.copy()
    layout.store(scaled, matrix * factors.reshape(*matrix.shape[:2], *[1] * (matrix.ndim - 2)))
    feeds = {"x": np.random.default_rng(3).standard_normal(graph.inputs["x"].shape).astype(np.float32)}
    compiled = Compiled(graph)
    before, after = (next(iter(compiled.run(feeds, {"w": w}).values())) for w in (stored, scaled))
    axis = layout.axis % before.ndim
    assert before.shape[axis] == factors.size
    assert after == pytest.approx(before * factors.reshape(-1, *[1] * (before.ndim - 1 - axis)), rel=1e-4, abs=1e-4)
