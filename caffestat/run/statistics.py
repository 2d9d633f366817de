"""Statistics heads: a value's mean |x| and norms computed inside the graph, so that only scalars come out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import numpy as np

from caffestat.graph import Graph, Node

__all__ = ["Statistics"]

# Up to here one sum over all elements is exact enough; over 6 M elements it would be off by 4e-5.
_DIRECT = 20_000
# Above it |x| no longer fits the caches, and ReduceL1, which does not write it down, is the faster one.
_CACHED = 1 << 21

_SAME_ELEMENTS = {"Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"}
_NON_NEGATIVE = {"Abs", "Exp", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt"}
_KEEPS_SIGN = {"AveragePool", "Concat", "GlobalAveragePool", "MaxPool"}


def _rows(count: int) -> int:
    """Return the divisor of `count` nearest below 1024: how many partial sums to take."""
    return next(rows for rows in range(min(1024, count), 0, -1) if count % rows == 0)


def _in_rows(g: Graph, value: str, count: int) -> str:
    """Return the flat value as [rows, columns], zeros added at the end where `count` has no good divisor."""
    rows = _rows(count)
    flat = g.reshape(value, count)
    if rows < 64:
        rows = 1024
        flat = g.emit("Pad", flat, g.ints(0, -count % rows))
        count += -count % rows
    return g.emit("Reshape", flat, g.ints(rows, count // rows))


class Statistics:
    """Collects scalars under keys and emits them as one output vector.

    Equal requests share one computation. `read` maps the keys to the numbers of a run.
    """

    OUTPUT = "statistics"

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
        self._columns: dict[tuple[str, str], int] = {}
        self._scalars: list[str] = []
        self._keys: dict[Hashable, tuple[int, float]] = {}

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

    def _add(self, key: Hashable, kind: str, value: str, divisor: float) -> None:
        root = self._root(value)
        if (kind, root) not in self._columns:
            self._columns[kind, root] = len(self._scalars)
            count = math.prod(self.graph.shape(value))
            self._scalars.append((self._sum_abs if kind == "abs" else self._sum_squares)(root, count))
        self._keys[key] = self._columns[kind, root], divisor

    def _root(self, value: str) -> str:
        """Return the value that this one only renames, reshapes or transposes."""
        while (node := self._producers.get(value)) and node.op in _SAME_ELEMENTS:
            value = node.inputs[0]
        return value

    def _is_non_negative(self, value: str) -> bool:
        """Tell whether the ops in front leave no negative element."""
        values = [value]
        while values:
            node = self._producers.get(self._root(values.pop()))
            if node is None or node.op not in _NON_NEGATIVE | _KEEPS_SIGN:
                return False
            values.extend(node.inputs if node.op in _KEEPS_SIGN else ())
        return True

    def _sum_abs(self, value: str, count: int) -> str:
        """Emit sum |x|, of shape [1]."""
        g = self.graph
        if count <= _DIRECT:
            return g.emit("ReduceL1", g.reshape(value, count), g.ints(0), keepdims=1)
        rows = _in_rows(g, value, count)
        if self._is_non_negative(value):
            return self._sum_rows("ReduceSum", rows)
        return self._sum_rows("ReduceSum", g.emit("Abs", rows)) if count <= _CACHED else self._sum_rows("ReduceL1", rows)

    def _sum_squares(self, value: str, count: int) -> str:
        """Emit sum x², of shape [1]."""
        g = self.graph
        if count <= _DIRECT:
            return g.emit("ReduceSumSquare", g.reshape(value, count), g.ints(0), keepdims=1)
        rows = _in_rows(g, value, count)
        return self._sum_rows("ReduceSum", g.emit("Mul", rows, rows))

    def _sum_rows(self, op: str, rows: str) -> str:
        partial = self.graph.emit(op, rows, self.graph.ints(1), keepdims=0)
        return self.graph.emit("ReduceSum", partial, self.graph.ints(0), keepdims=1)
