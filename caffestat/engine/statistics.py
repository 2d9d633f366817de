"""Statistics heads: a value's mean |x| and norms computed inside the graph, so that only scalars come out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from caffestat.graph import Graph, Node, Spec, early, late
from caffestat.graph.flow import Flow
from caffestat.graph.graph import Normal
from caffestat.graph.normalized import normalize, only_scales
from caffestat.ops import Elements, Role, Sign

__all__ = ["TINY", "Statistics", "chunks", "origins", "rows_of"]

# Up to here values of the same shape are summed up together: the nodes cost more than the copies.
TINY = 4_096
# Up to here one sum over all elements is exact enough; over 6 M elements it would be off by 4e-5.
_DIRECT = 20_000
# Above it |x| no longer fits the caches, and one thread that does not write it down is faster than two that do.
_CACHED = 1 << 22
# The same where an op has one thread anyway: 0.95 of the time of GoogLeNet's pass.
_CACHED_BY_ONE = 200_000
# A slice has at least so many elements: one step of a Scan takes as long as the sum of 2,000.
_SLICE = 4_000

# A channel of an image has at least so many places where sums over channels are as fast as those over other rows.
_LONG_ROW = 32

# Up to this inner size the squares of a matrix product are cheaper to add up from its factors' Gram matrices, and the
# elements of a large one are computed faster than read.
_THIN = 128

# A slice of a product has at least so many elements: fewer do not keep two cores busy.
_PRODUCT_SLICE = 600_000
# Up to here a sum of one of its rows is exact enough.
_LONGEST_ROW = 75_000


_DIRECTLY = {"abs": "ReduceL1", "squares": "ReduceSumSquare"}

Sum = tuple[str, str]  # "abs" or "squares", and of which value
T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def rows_of(count: int) -> int:
    """Return the divisor of `count` nearest below 1024: how many partial sums to take."""
    return next(rows for rows in range(min(1024, count), 0, -1) if count % rows == 0)


def origins(graph: Graph, flow: Flow[str]) -> dict[str, str]:
    """Return the first value of known shape with the same elements as each computed one: renamed, in another order.

    flow: the graph's index
    """
    nodes = graph.nodes
    return flow.origins(lambda index: nodes[index].info.elements is Elements.MOVED, graph.specs.__contains__)


def _non_negative(nodes: Sequence[Node]) -> set[str]:
    """Return the values of which the ops in front leave no negative element."""
    found: set[str] = set()
    for node in nodes:
        data = (name for index, name in enumerate(node.inputs) if node.info.role(index) is Role.DATA)
        if node.info.sign is Sign.NON_NEGATIVE or (node.info.sign is Sign.KEPT and found.issuperset(data)):
            found.update(node.outputs)
    return found


@early("LongSum")
def _sum_of_others(g: Graph, node: Node, provider: str) -> list[str] | None:
    """From the factors of a product, or from sums of other values per channel, where there are such."""
    if provider == "cuda" or node.attributes["kind"] != "abs":
        return None
    first, (value, *factors) = len(g.nodes), node.inputs
    is_large = math.prod(g.shape(value)) > _CACHED
    non_negative = node.attributes["non_negative"]
    total = _sum_product(g, node) if factors and is_large else _sum_of_scaled(g, value, non_negative)
    g.statistics.update(name for emitted in g.nodes[first:] for name in emitted.outputs)
    return [total] if total else None


def _sum_of_scaled(g: Graph, value: str, non_negative: bool) -> str:
    """Emit Σ |x| from sums of other values per channel; nothing where there are none."""
    assert g.scaled
    if not _has_long_rows(g, value):
        return ""
    if value in g.scaled.normal:
        return _sum_normal(g, g.scaled.normal[value])
    if value in g.scaled.values or value in g.scaled.others:
        return _sum_of(g, _sum_scaled(g, *g.scaled.values.get(value, (value, "")), non_negative))
    return ""


def _sum_product(g: Graph, node: Node) -> str:
    """Emit Σ |x| of a large product from its factors, of as many columns at a time as the caches hold.

    An inner product's weight gradient, the largest value of many nets, is never in memory as a whole where nothing else
    reads it. Of 4096 x 9216 elements and 16 items: 18 to 9.4 ms; of 4096 x 25088 and 4 items: 33 to 14. By rows each op
    would divide a slice among the threads in another way: 11.2 and 17.
    """
    from caffestat.graph.bodies import over_slices

    value, a, b = node.inputs
    (rows, columns), dtype = g.shape(value), g.specs[value].dtype
    slices = next(count for count in range(rows * columns // _PRODUCT_SLICE, 0, -1) if columns % count == 0)
    part = columns // slices
    if part > _LONGEST_ROW or part * rows > _CACHED:
        return ""
    a = g.transpose(a, 1, 0) if node.attributes["transA"] else a
    b = b if node.attributes["transB"] else g.transpose(b, 1, 0)
    inner = g.shape(a)[1]

    def sum_rows(body: Graph, factor: str) -> str:
        product = body.declare(body.fused_matmul(a, factor, transB=1), (rows, part), dtype)
        return body.declare(_sum_rows(body, body.emit("Abs", product)), (rows,), dtype)

    sums = over_slices(g, [g.reshape(b, slices, part, inner)], sum_rows, "product")
    return _sum_of(g, _sum_rows(g, sums))


@late("LongSum")
def _long_sum(g: Graph, node: Node, provider: str) -> list[str]:
    """Σ |x| or Σ x² over so many elements that one sum on the CPU would not be exact, one element."""
    first, value, settings = len(g.nodes), node.inputs[0], node.attributes
    at_once = provider == "cuda"
    total = _sum_at_once(g, node) if at_once else _sum_all(g, value, settings["kind"], settings["non_negative"])
    g.statistics.update(name for emitted in g.nodes[first:] for name in emitted.outputs)
    return [total]


def _sum_at_once(g: Graph, node: Node) -> str:
    """Emit the sum by one reduction: cuDNN adds up in pairs, in one pass. Sums of rows take it 30 times as long."""
    value = node.inputs[0]
    return g.emit(
        _DIRECTLY[node.attributes["kind"]], g.reshape(value, math.prod(g.shape(value))), g.ints(0), keepdims=1
    )


def _has_long_rows(g: Graph, value: str) -> bool:
    return _LONG_ROW <= math.prod(g.shape(value)[2:]) <= _DIRECT


def _sum_all(g: Graph, value: str, kind: str, non_negative: bool = False) -> str:
    """Emit sums over parts of a value, whatever it is, and the sum of these."""
    if non_negative:
        partial = _sum_rows(g, _in_rows(g, value))
    elif math.prod(g.shape(value)) > (_CACHED_BY_ONE if g.threads == 1 else _CACHED):
        partial = _sum_slices(g, _in_slices(g, value), _DIRECTLY[kind])
    else:
        rows = _in_rows(g, value)
        partial = _sum_rows(g, g.emit("Abs", rows) if kind == "abs" else g.emit("Mul", rows, rows))
    return _sum_of(g, partial)


def _sum_of(g: Graph, partial: str) -> str:
    return g.declare(g.emit("ReduceSum", partial, g.ints(0), keepdims=1), (1,))


def _sum_normal(g: Graph, normal: Normal) -> str:
    """Emit Σ |x| of a normalization: from the sums of what scales it where nothing is added, else of itself.

    Where nothing is added, as in the first iteration of most nets, it need not be computed.
    """
    from caffestat.graph.bodies import either

    sums = _sum_scaled(g, normal.affine, "")
    return either(
        g,
        only_scales(g, normal),
        lambda inner: _sum_of(inner, inner.emit("Div", sums, normal.scale)),
        lambda inner: _sum_all(inner, normalize(inner, normal), "abs"),
    )


def _sum_scaled(g: Graph, value: str, vector: str, non_negative: bool = False) -> str:
    """Emit the sums of |vector · x| per channel, from sums of |x|: [C]."""
    assert g.scaled
    if value not in g.scaled.sums:
        g.scaled.sums[value] = _sum_by_channels(g, value, non_negative)
    sums = g.scaled.sums[value]
    return g.emit("Abs", g.emit("Mul", sums, vector)) if vector else sums


def _sum_by_channels(g: Graph, value: str, non_negative: bool) -> str:
    """Emit Σ |x| per channel, of a normalization with shifts from the max(x, 0) behind it: 2 Σ max(x, 0) - Σ x: [C].

    The normalization's Σ x follows from the shifts, and the sum of the other is asked for anyway.
    """
    assert g.scaled
    shape, dtype = g.shape(value)[1:2], g.specs[value].dtype
    if value not in g.scaled.rectified:
        return g.emit_late("ChannelAbs", value, shape=shape, like=value, non_negative=non_negative)
    y, shifts = g.scaled.rectified[value]
    count = g.constant(math.prod(g.shape(value)) / shape[0], dtype)
    twice = g.emit("Mul", _sum_scaled(g, y, "", non_negative=True), g.constant(2, dtype))
    return g.declare(g.emit("Sub", twice, g.emit("Mul", count, shifts)), shape, dtype)


@late("ChannelAbs")
def _sum_channels(g: Graph, node: Node, provider: str) -> list[str]:
    """Σ |x| per channel: [C]."""
    first, (value,) = len(g.nodes), node.inputs
    n, channels, *space = g.shape(value)
    rows = g.reshape(value, n * channels, math.prod(space))
    if not node.attributes["non_negative"]:
        rows = g.declare(g.emit("Abs", rows), g.shape(rows))
    total = g.emit("ReduceSum", g.reshape(_sum_rows(g, rows), n, channels), g.ints(0), keepdims=0)
    g.statistics.update(name for emitted in g.nodes[first:] for name in emitted.outputs)
    return [total]


def _sum_rows(g: Graph, rows: str) -> str:
    return g.emit("ReduceSum", rows, g.ints(1), keepdims=0)


def _sum_slices(g: Graph, slices: str, op: str) -> str:
    """Emit the sums of [slices, elements] by an op that takes all elements of a value: [slices].

    It reads each element once and writes nothing down; Abs and ReduceSum take three passes. On one thread, that takes
    less than half of the time; it is one thread, though. Sums of rows, without a Scan, take five times as long: only
    those over all of a value use the processor's vectors. The slices of a Scan are no copies.
    """
    from caffestat.graph.bodies import over_slices

    dtype = g.specs[slices].dtype
    return over_slices(g, [slices], lambda inner, one: inner.declare(inner.emit(op, one, keepdims=0), (), dtype), "sum")


def _in_slices(g: Graph, value: str) -> str:
    """Return the flat value as [slices, elements], zeros added at the end where its size has no good divisor."""
    count = math.prod(g.shape(value))
    fewest = -(-count // _DIRECT)
    fits = (number for number in range(fewest, count // _SLICE + 1) if count % number == 0)
    return _cut(g, value, next(fits, fewest))


def _in_rows(g: Graph, value: str) -> str:
    """Return the flat value as [rows, columns], zeros added at the end where its size has no good divisor."""
    rows = rows_of(math.prod(g.shape(value)))
    return _cut(g, value, rows if rows >= 64 else 1024)


def _cut(g: Graph, value: str, rows: int) -> str:
    """Emit the value as [rows, columns], zeros added at the end of the last row."""
    count = math.prod(g.shape(value))
    missing = -count % rows
    flat = g.reshape(value, count)
    if missing:
        flat = g.declare(g.emit("Pad", flat, g.ints(0, missing)), (count + missing,), g.specs[value].dtype)
    return g.reshape(flat, rows, (count + missing) // rows)


class Statistics:
    """Collects scalars under keys and emits them as one output vector.

    Equal requests share one computation. `read` maps the keys to the numbers of a run.

    output: the name of the vector
    """

    OUTPUT = "statistics"

    def __init__(self, graph: Graph, output: str = OUTPUT) -> None:
        self.graph, self.output = graph, output
        self._first = len(graph.nodes)
        self._flow, self._nodes = graph.flow(), tuple(graph.nodes)
        self._origins, self._non_negative = origins(graph, self._flow), _non_negative(graph.nodes)
        self._scalars: dict[Sum, str] = {}  # one element each
        self._tiny: defaultdict[tuple[str, Spec], list[Sum]] = defaultdict(list)  # to be summed up together
        self._asked: set[Sum] = set()
        self._order: list[Sum] = []
        self._keys: dict[Hashable, tuple[Sum, float]] = {}

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
        # one node of thousands of inputs makes the runtime's set-up slow
        parts = [part for sums in self._tiny.values() for chunk in chunks(sums, 64) for part in self._sum_tiny(chunk)]
        for rank in sorted({len(g.shape(scalar)) for scalar in self._scalars.values()}):
            same = [wanted for wanted, scalar in self._scalars.items() if len(g.shape(scalar)) == rank]
            parts += [self._joined(chunk) for chunk in chunks(same, 64)]
        if parts:
            g.outputs.append(g.emit("Concat", *parts, axis=0, hint=self.output))
        g.statistics.update(name for node in g.nodes[self._first :] for name in node.outputs)

    def _joined(self, sums: Sequence[Sum]) -> str:
        g = self.graph
        self._order += sums
        scalars = [self._scalars[wanted] for wanted in sums]
        return g.declare(g.reshape(g.emit("Concat", *scalars, axis=0), -1), (len(sums),))

    def _sum_tiny(self, sums: Sequence[Sum]) -> list[str]:
        """Emit sums of the same kind over values of the same shape: [sums]."""
        g = self.graph
        kind, first = sums[0]
        if len(sums) == 1:
            self._scalars[sums[0]] = self._sum_directly(_DIRECTLY[kind], first)
            return []
        self._order += sums
        rows = g.emit("Reshape", g.emit("Concat", *(value for _, value in sums), axis=0), g.ints(len(sums), -1))
        return [g.declare(g.emit(_DIRECTLY[kind], rows, g.ints(1), keepdims=0), (len(sums),))]

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[Hashable, float]:
        """Return each key's number from the outputs of a run."""
        if not self._keys:
            return {}
        found = dict(zip(self._order, outputs[self.output].tolist(), strict=True))
        return {key: found[wanted] / divisor for key, (wanted, divisor) in self._keys.items()}

    def _add(self, key: Hashable, kind: str, value: str, divisor: float) -> None:
        wanted = kind, self._origins.get(value, value)
        self._keys[key] = wanted, divisor
        if wanted not in self._asked:
            self._asked.add(wanted)
            self._ask(*wanted)

    def _ask(self, kind: str, value: str) -> None:
        spec = self.graph.specs[value]
        count = math.prod(spec.shape)
        if spec.shape and 0 < count <= TINY:
            self._tiny[kind, spec].append((kind, value))
        else:
            sum_up = self._sum_abs if kind == "abs" else self._sum_squares
            self._scalars[kind, value] = sum_up(value, count)

    def _sum_abs(self, value: str, count: int) -> str:
        """Emit sum |x|, one element."""
        if count <= _DIRECT:
            return self._sum_directly(_DIRECTLY["abs"], value)
        return self._sum_long("abs", value, value in self._non_negative)

    def _sum_squares(self, value: str, count: int) -> str:
        """Emit sum x², one element."""
        if count <= _DIRECT:
            return self._sum_directly(_DIRECTLY["squares"], value)
        if product := self._thin_product(value):
            return self._sum_directly("ReduceSum", self._gram_product(product))
        return self._sum_long("squares", value)

    def _sum_long(self, kind: str, value: str, non_negative: bool = False) -> str:
        product = self._thin_product(value)
        factors = product.inputs if product else ()
        turned = {name: product.get(name, 0) if product else 0 for name in ("transA", "transB")}
        settings = {"kind": kind, "non_negative": non_negative, **turned}
        return self.graph.emit_late("LongSum", value, *factors, shape=(1,), like=value, **settings)

    def _thin_product(self, value: str) -> Node | None:
        """Return the node that makes `value` as a product of two thin matrices: an inner product's weight gradient."""
        writer = self._flow.writer(value)
        node = None if writer is None else self._nodes[writer]
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

    def _scalar(self, value: str, rank: int) -> str:
        return self.graph.declare(value, (1,) * rank)
