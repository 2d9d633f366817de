"""Convolutions with their gradients, to be computed in one form and another."""

from __future__ import annotations

from typing import Any

import numpy as np

from caffestat.autodiff import backward
from caffestat.graph import Graph

Case = tuple[int, int, int, int, tuple[int, int], dict[str, Any]]
"""Batch, channels, filters, group, kernel, attributes."""


def build(case: Case) -> tuple[Graph, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the graph of y, dx, dw and db, its feeds and its params."""
    batch, channels, filters, group, kernel, attributes = case
    random = np.random.default_rng(5)
    g = Graph()
    x = g.input("x", (batch, channels, 13, 11))
    w, b = g.param("w", (filters, channels // group, *kernel)), g.param("b", (filters,))
    y = g.emit("Conv", x, w, b, kernel_shape=list(kernel), group=group, **attributes)
    g.infer()
    dy = g.input("dy", g.shape(y))
    grads = backward(g, {y: dy}, [x, w, b])
    g.outputs = [y, *(grads[name] or "" for name in (x, w, b))]
    arrays = {name: random.normal(size=spec.shape).astype(np.float32) for name, spec in (g.inputs | g.params).items()}
    return g, {name: arrays[name] for name in g.inputs}, {name: arrays[name] for name in g.params}
