"""Shapes that shape inference cannot tell: the model is run once, and they are read off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffestat.engine import CPU, Compiled
from caffestat.graph import Spec
from caffestat.graph.load import Model

from .feeds import draw_feeds

__all__ = ["settle", "settle_drawn"]


def settle(model: Model, feeds: Mapping[str, np.ndarray]) -> None:
    """Complete the specs of the model's graph: behind subgraphs, custom ops, and ops whose shape the data decides.

    Nothing is run when all shapes are known. Raises InputError when the model cannot be run.
    """
    graph = model.graph
    unknown = [name for node in graph.nodes for name in node.outputs if name and name not in graph.specs]
    if not unknown:
        return
    arrays = Compiled(graph, CPU, model.arrays).run(feeds, outputs=unknown)
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            graph.specs[name] = Spec(array.shape, array.dtype)


def settle_drawn(model: Model, inputs: Mapping[str, np.ndarray]) -> None:
    """Do what `settle` does with the given inputs, the others drawn as for a measurement."""
    settle(model, draw_feeds(model.graph, np.random.default_rng(0), model.unpinned(inputs), []))
