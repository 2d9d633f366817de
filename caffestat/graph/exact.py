"""Convolutions of models that are kept whose results rounding may not move.

Minimal filtering makes ±1e-7 of a 0 where the filters see nothing but zeros, as on a black background. Without a bias
ReLU then passes gradients that it should not, and of values that are equal MAX pooling takes any for the largest. A
pass of a net looks for such places while it runs (`winograd`); a model that leaves the package holds no If for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from caffestat.ops import Elements

from .flow import Flow
from .graph import Graph
from .infer import evaluate

__all__ = ["exact_convolutions"]

_LEAST_BIAS = 1e-5  # well above what rounding makes of 0


def exact_convolutions(graph: Graph, arrays: Mapping[str, np.ndarray]) -> set[str]:
    """Return the outputs of convolutions that a pooling by MAX reads, or that have no bias far from 0.

    arrays: the values of the graph's params
    """
    found = _Finder(graph, graph.flow(), {**graph.constants, **arrays})
    return {
        node.outputs[0]
        for step, node in enumerate(graph.nodes)
        if node.info.is_product and node.info.window and (found.is_pooled(step) or not found.is_shifted(step))
    }


@dataclass(frozen=True)
class _Finder:
    graph: Graph
    flow: Flow[str]
    arrays: Mapping[str, np.ndarray]

    def is_shifted(self, step: int) -> bool:
        """Tell whether a convolution has a known bias no element of which is near 0."""
        bias = dict(enumerate(self.graph.nodes[step].inputs)).get(2, "")
        array = self._array(bias)
        return array is not None and bool((abs(array) >= _LEAST_BIAS).all())

    def is_pooled(self, step: int) -> bool:
        """Tell whether a pooling by MAX reads what a convolution makes, or a function of its elements."""
        nodes = self.graph.nodes

        def mixes(other: int) -> bool:
            return other != step and nodes[other].info.elements is not Elements.EACH

        return any(nodes[other].info.picks_largest for other in self.flow.behind([step], mixes))

    def _array(self, name: str) -> np.ndarray | None:
        """Return what a value is where it follows from params alone, as a bias with a normalization in it does."""
        writer = self.flow.writer(name)
        if writer is None:
            return self.arrays.get(name)
        scratch = Graph()
        for step in sorted({*self.flow.in_front([writer]), writer}):
            reads = {read: scratch.constants.get(read, self.arrays.get(read)) for read in self.flow.reads(step) if read}
            known = {read: array for read, array in reads.items() if array is not None}
            if len(known) < len(reads) or not evaluate(scratch, self.graph.nodes[step], known):
                return None
        return scratch.constants[name]
