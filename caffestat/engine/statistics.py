"""Statistics heads: a value's mean |x| and norms computed inside the graph, so that only scalars come out."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from caffestat.graph import Graph, Node
from caffestat.ops import Elements, Role, Sign

__all__ = ["Statistics"]

# Up to here one sum over all elements is exact enough; over 6 M elements it would be off by 4e-5.
_DIRECT = 20_000
# Above it |x| no longer fits the caches, and ReduceL1, which does not write it down, is the faster one.
_CACHED = 1 << 21

# Up to this inner size the squares of a matrix product are cheaper to add up from its factors' Gram matrices.
_THIN = 128


def _chunks(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


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
        self._first = len(graph.nodes)
        self._producers: dict[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
        self._sums: dict[tuple[str, str], str] = {}
        self._scalars: dict[str, int] = {}  # one element each, and of how many axes
        self._order: list[str] = []
        self._keys: dict[Hashable, tuple[str, float]] = {}

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
        g = self.graph
        parts = []
        for rank in sorted(set(self._scalars.values())):
            same = [name for name, found in self._scalars.items() if found == rank]
            self._order += same
            # one node of thousands of inputs makes the runtime's set-up slow
            parts += [self._joined(chunk) for chunk in _chunks(same, 64)]
        if parts:
            g.outputs.append(g.emit("Concat", *parts, axis=0, hint=self.OUTPUT))
        g.soon.update(name for node in g.nodes[self._first :] for name in node.outputs)

    def _joined(self, scalars: Sequence[str]) -> str:
        g = self.graph
        return g.declare(g.reshape(g.emit("Concat", *scalars, axis=0), -1), (len(scalars),))

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[Hashable, float]:
        """Return each key's number from the outputs of a run."""
        if not self._keys:
            return {}
        found = dict(zip(self._order, outputs[self.OUTPUT].tolist(), strict=True))
        return {key: found[name] / divisor for key, (name, divisor) in self._keys.items()}

    def _add(self, key: Hashable, kind: str, value: str, divisor: float) -> None:
        root = self._root(value)
        if (kind, root) not in self._sums:
            sum_up = self._sum_abs if kind == "abs" else self._sum_squares
            self._sums[kind, root] = sum_up(root, math.prod(self.graph.shape(value)))
        self._keys[key] = self._sums[kind, root], divisor

    def _root(self, value: str) -> str:
        """Return the value that this one only renames, reshapes or transposes."""
        root = value
        while (node := self._producers.get(value)) and node.info.elements is Elements.MOVED:
            value = node.inputs[0]
            root = value if value in self.graph.specs else root
        return root

    def _is_non_negative(self, value: str) -> bool:
        """Tell whether the ops in front leave no negative element."""
        values, seen = [value], {value}
        while values:
            node = self._producers.get(self._root(values.pop()))
            if node is None or node.info.sign is Sign.ANY:
                return False
            if node.info.sign is Sign.KEPT:
                data = {name for index, name in enumerate(node.inputs) if node.info.role(index) is Role.DATA} - seen
                seen |= data
                values.extend(data)
        return True

    def _sum_abs(self, value: str, count: int) -> str:
        """Emit sum |x|, one element."""
        g = self.graph
        if count <= _DIRECT:
            return self._sum_directly("ReduceL1", value)
        rows = _in_rows(g, value, count)
        if self._is_non_negative(value):
            return self._sum_rows("ReduceSum", rows)
        return (
            self._sum_rows("ReduceSum", g.emit("Abs", rows)) if count <= _CACHED else self._sum_rows("ReduceL1", rows)
        )

    def _sum_squares(self, value: str, count: int) -> str:
        """Emit sum x², one element."""
        if count <= _DIRECT:
            return self._sum_directly("ReduceSumSquare", value)
        if product := self._thin_product(value):
            return self._sum_directly("ReduceSum", self._gram_product(product))
        rows = _in_rows(self.graph, value, count)
        return self._sum_rows("ReduceSum", self.graph.emit("Mul", rows, rows))

    def _thin_product(self, value: str) -> Node | None:
        """Return the node that makes `value` as a product of two thin matrices: an inner product's weight gradient."""
        node = self._producers.get(value)
        if node is None or not node.info.is_matrix_product or len(node.inputs) > 2 or node.get("alpha", 1.0) != 1.0:
            return None
        shapes = [self.graph.shape(name) for name in node.inputs]
        inner = shapes[0][0 if node.get("transA", 0) else -1]
        return node if all(len(shape) == 2 for shape in shapes) and inner <= _THIN else None

    def _gram_product(self, node: Node) -> str:
        """Emit (AᵀA) ∘ (BBᵀ) of a product A·B; its elements add up to the sum of squares of the product's own."""
        g = self.graph
        a, b = node.inputs
        of_a = g.fused_matmul(a, a, transB=1) if node.get("transA", 0) else g.fused_matmul(a, a, transA=1)
        of_b = g.fused_matmul(b, b, transA=1) if node.get("transB", 0) else g.fused_matmul(b, b, transB=1)
        return g.declare(g.emit("Mul", of_a, of_b), g.shape(of_a))

    def _sum_directly(self, op: str, value: str) -> str:
        rank = len(self.graph.shape(value))
        result = self.graph.emit(op, value if rank else self.graph.reshape(value, 1), keepdims=1)
        return self._scalar(result, max(rank, 1))

    def _sum_rows(self, op: str, rows: str) -> str:
        partial = self.graph.emit(op, rows, self.graph.ints(1), keepdims=0)
        return self._scalar(self.graph.emit("ReduceSum", partial, self.graph.ints(0), keepdims=1), 1)

    def _scalar(self, value: str, rank: int) -> str:
        self._scalars[value] = rank
        return self.graph.declare(value, (1,) * rank)
