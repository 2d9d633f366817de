"""Small graphs, their prediction, and the same graphs run many times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.autodiff import backward
from caffestat.engine import Compiled
from caffestat.graph import Graph
from caffestat.theory import Gradient, Moments, Signal, Source, Walk, normal, propagate
from caffestat.theory.quadrature import NODES

Build = Callable[[Graph, str, Sequence[str]], str]

__all__ = ["Case", "measure", "predict"]


@dataclass(frozen=True)
class Case:
    """A graph of one input N(mean, std²) of `shape` and params N(0, w_std²), and what `build` makes of them."""

    shape: tuple[int, ...]
    build: Build
    params: tuple[tuple[int, ...], ...] = ()
    w_std: float = 0.3
    mean: float = 0.0
    std: float = 1.0


def _graph(case: Case) -> tuple[Graph, str, list[str], str]:
    g = Graph()
    x = g.input("x", case.shape)
    params = [g.param(f"w{index}", shape) for index, shape in enumerate(case.params)]
    y = case.build(g, x, params)
    g.infer()
    return g, x, params, y


def predict(case: Case, seed: Source | None = None) -> tuple[Moments, Moments | None]:
    """Return the moments of the output and of the input's gradient, for a gradient N(0, 1) at the output."""
    g, x, params, y = _graph(case)
    inputs: dict[str, Signal | None] = {x: normal(case.mean, case.std**2)}
    inputs |= {name: Signal(case.w_std * NODES, 1.0, 1.0) for name in params}
    walk: Walk = propagate(g, inputs, {y: Gradient.of(seed or Source(1.0))})
    top, dx = walk.signal(y), walk.gradient(x)
    assert top is not None
    return top.moments, dx.moments if dx else None


def measure(case: Case, draws: int = 60, seed: int = 0) -> tuple[Moments, Moments]:
    """Return the same by running the graph and its gradient on random values."""
    g, x, params, y = _graph(case)
    dy = g.input("dy", g.shape(y))
    dx = backward(g, {y: dy}, [x])[x]
    assert dx is not None
    g.outputs = [y, dx]
    random = np.random.default_rng(seed)
    sums = np.zeros((2, 3))
    for _ in range(draws):
        arrays = {name: case.w_std * random.standard_normal(g.shape(name), np.float32) for name in params}
        feeds = {x: case.mean + case.std * random.standard_normal(case.shape, np.float32)}
        feeds[dy] = random.standard_normal(g.shape(y), np.float32)
        outputs: Mapping[str, np.ndarray] = Compiled(g).run(_typed(feeds), _typed(arrays))
        for row, name in enumerate((y, dx)):
            value = outputs[name].astype(np.float64)
            sums[row] += value.mean(), (value**2).mean(), np.abs(value).mean()
    return Moments(*sums[0] / draws), Moments(*sums[1] / draws)


def _typed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
