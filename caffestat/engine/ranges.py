"""Ranges of values over several runs: extremes first, then histograms between them; both are computed in the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from caffestat.graph import Graph

from .statistics import chunks, rows_of

__all__ = ["BINS", "Extremes", "Histograms"]

BINS = 2_048  # as many as onnxruntime's calibration has

_TOGETHER = 64  # inputs of one Concat: one of thousands makes the runtime's set-up slow


def _finite(g: Graph, x: str) -> str:
    """Emit whether elements are neither NaN nor infinite."""
    return g.emit("Less", g.emit("Abs", x), g.constant(math.inf))


def _joined(g: Graph, parts: Sequence[str], sizes: Sequence[int], dtype: object = np.float32) -> list[tuple[str, int]]:
    """Emit vectors one behind the other, some together; return their names and how many vectors each holds."""
    found = []
    for some, lengths in zip(chunks(parts, _TOGETHER), chunks(sizes, _TOGETHER), strict=True):
        name = g.declare(g.emit("Concat", *some, axis=0, hint="ranges"), (sum(lengths),), dtype)
        found.append((name, len(some)))
    return found


class Extremes:
    """Asks a graph for the largest and the smallest finite element of values, of known shape and with elements."""

    def __init__(self, graph: Graph, values: Iterable[str]) -> None:
        self._values = list(values)
        first = len(graph.nodes)
        self._rows = [rows_of(math.prod(graph.shape(value))) for value in self._values]
        parts = [self._emit(graph, value, rows) for value, rows in zip(self._values, self._rows, strict=True)]
        self._names = _joined(graph, parts, [2 * rows for rows in self._rows])
        graph.statistics.update(name for node in graph.nodes[first:] for name in node.outputs)

    def _emit(self, g: Graph, value: str, rows: int) -> str:
        x = g.cast(g.reshape(value, rows, math.prod(g.shape(value)) // rows), np.float32)
        finite = _finite(g, x)
        high = g.emit("ReduceMax", g.emit("Where", finite, x, g.constant(-math.inf)), g.ints(1), keepdims=0)
        low = g.emit("ReduceMin", g.emit("Where", finite, x, g.constant(math.inf)), g.ints(1), keepdims=0)
        return g.declare(g.emit("Concat", low, high, axis=0), (2 * rows,))

    @property
    def outputs(self) -> list[str]:
        """The values that a run has to return."""
        return [name for name, _ in self._names]

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
        """Return (smallest, largest) by value; (inf, -inf) of one without a finite element."""
        flat = np.concatenate([outputs[name] for name in self.outputs]) if self._names else np.zeros(0)
        parts = np.split(flat, np.cumsum([2 * rows for rows in self._rows])[:-1]) if self._rows else []
        split = zip(self._values, self._rows, parts, strict=True)
        return {value: (float(part[:rows].min()), float(part[rows:].max())) for value, rows, part in split}


class Histograms:
    """Asks a graph for histograms of values in `BINS` bins of equal width between -limit and limit.

    limits: of each value, positive; elements that are not finite are left out
    """

    def __init__(self, graph: Graph, limits: Mapping[str, float]) -> None:
        self._values = list(limits)
        first = len(graph.nodes)
        parts = [self._emit(graph, value, limit) for value, limit in limits.items()]
        self._names = _joined(graph, parts, [BINS + 1] * len(parts), np.int32)
        graph.statistics.update(name for node in graph.nodes[first:] for name in node.outputs)

    def _emit(self, g: Graph, value: str, limit: float) -> str:
        count = math.prod(g.shape(value))
        x = g.cast(g.reshape(value, count), np.float32)
        place = g.emit("Floor", g.emit("Mul", g.emit("Add", g.emit("Div", x, g.constant(limit)), g.constant(1)),
                                       g.constant(BINS / 2)))  # fmt: skip
        kept = g.emit("Clip", place, g.constant(0), g.constant(BINS - 1))
        index = g.cast(g.emit("Where", _finite(g, x), kept, g.constant(BINS)), np.int64)
        ones = g.emit("Expand", g.constant([1], np.int32), g.ints(count))
        empty = g.emit("Expand", g.constant([0], np.int32), g.ints(BINS + 1))
        counts = g.emit("ScatterElements", empty, index, ones, axis=0, reduction="add")
        return g.declare(counts, (BINS + 1,), np.int32)

    @property
    def outputs(self) -> list[str]:
        """The values that a run has to return."""
        return [name for name, _ in self._names]

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the counts of the bins by value, int64."""
        rows = [outputs[name].reshape(-1, BINS + 1)[:, :BINS].astype(np.int64) for name in self.outputs]
        return dict(zip(self._values, np.concatenate(rows), strict=True)) if rows else {}
