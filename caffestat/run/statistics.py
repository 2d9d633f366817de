"""Statistics heads: a value's mean |x| and norms computed inside the graph, so that only scalars come out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np

from caffestat.graph import Graph

__all__ = ["Statistics", "sum_abs", "sum_squares"]

# One ReduceL1 over more elements than this loses digits (4e-5 at 6 M); adding up partial sums does not.
_DIRECT = 20_000


def _rows(count: int) -> int:
    """Return the divisor of `count` nearest below 1024: how many partial sums to take; 1 when there is none."""
    return next((rows for rows in range(min(1024, count), 0, -1) if count % rows == 0), 1)


def _padded_rows(g: Graph, value: str, count: int) -> str:
    """Return the flat value as [rows, columns], zeros added at the end where `count` has no good divisor."""
    rows = _rows(count)
    flat = g.reshape(value, count)
    if rows < 64:
        rows = 1024
        missing = -count % rows
        flat = g.emit("Pad", flat, g.ints(0, missing))
        count += missing
    return g.emit("Reshape", flat, g.ints(rows, count // rows))


def _total(g: Graph, op: str, value: str, count: int) -> str:
    """Sum |x| or x² over all elements in two steps; returns a value of shape [1]."""
    if count <= _DIRECT:
        return g.emit(op, g.reshape(value, count), g.ints(0), keepdims=1)
    partial = g.emit(op, _padded_rows(g, value, count), g.ints(1), keepdims=0)
    return g.emit("ReduceSum", partial, g.ints(0), keepdims=1)


def sum_abs(g: Graph, value: str) -> str:
    """Emit sum |x| of a value whose shape is known; shape [1]."""
    return _total(g, "ReduceL1", value, math.prod(g.shape(value)))


def sum_squares(g: Graph, value: str) -> str:
    """Emit sum x² of a value whose shape is known; shape [1]."""
    return _total(g, "ReduceSumSquare", value, math.prod(g.shape(value)))


class Statistics:
    """Collects scalars under keys and emits them as one output vector.

    Equal requests share one computation. `read` maps the keys to the numbers of a run.
    """

    OUTPUT = "statistics"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._columns: dict[tuple[str, str], int] = {}
        self._scalars: list[str] = []
        self._keys: dict[Hashable, tuple[int, float]] = {}

    def _add(self, key: Hashable, kind: str, value: str, divisor: float) -> None:
        if (kind, value) not in self._columns:
            self._columns[kind, value] = len(self._scalars)
            self._scalars.append((sum_abs if kind == "abs" else sum_squares)(self.graph, value))
        self._keys[key] = self._columns[kind, value], divisor

    def mean_abs(self, key: Hashable, value: str) -> None:
        """Ask for mean |x|."""
        self._add(key, "abs", value, max(math.prod(self.graph.shape(value)), 1))

    def sum_abs(self, key: Hashable, value: str) -> None:
        """Ask for sum |x|."""
        self._add(key, "abs", value, 1)

    def sum_squares(self, key: Hashable, value: str) -> None:
        """Ask for sum x²."""
        self._add(key, "squares", value, 1)

    def finish(self) -> None:
        """Emit the output vector; nothing when no one asked."""
        if self._scalars:
            self.graph.outputs.append(self.graph.emit("Concat", *self._scalars, axis=0, hint=self.OUTPUT))

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[Hashable, float]:
        """Return each key's number from the outputs of a run."""
        if not self._keys:
            return {}
        vector = outputs[self.OUTPUT]
        return {key: float(vector[column]) / divisor for key, (column, divisor) in self._keys.items()}
