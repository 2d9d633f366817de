"""Statistics of the elements of values: mean, extremes, zeros, NaN and infinity, and what float16 makes of them.

They are computed in the graph; only partial sums, at most 1,024 of each, leave the runtime.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from caffestat.float32 import FLT_MIN
from caffestat.graph import Graph, Spec
from caffestat.options import STATS

from .statistics import TINY, chunks, origins, rows_of

__all__ = ["FLOAT16_MAX", "FLOAT16_NORMAL", "ElementStatistics", "ElementStats", "of_array", "of_zeros"]

FLOAT16_MAX = 65504.0
FLOAT16_NORMAL = 2.0**-14  # the smallest normal number; below it float16 loses digits, below 2⁻²⁵ everything
_UNDERFLOW = 0.1  # share of the nonzero elements that are smaller, from which on a value is said to underflow

_ALWAYS = ("nan", "max", "min", "zeros", "below")  # what the remarks on float16 need
_CHUNK = 1 << 18
_TOGETHER = 64  # inputs of one Concat: one of thousands makes the runtime's set-up slow

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class ElementStats:
    """Statistics of the elements of one value.

    wanted         the names that were asked for, those of `caffestat.options.STATS`, in that order
    count          how many elements there are
    mean, std      as numpy has them: NaN where an element is NaN; std is that of the population
    max, min       of the elements that are not NaN; NaN where all are
    zeros, inf, nan  how many elements are 0, ±infinity, NaN
    below_normal   how many elements are not 0 and below float16's smallest normal number
    """

    wanted: tuple[str, ...]
    count: int
    mean: float
    max: float
    min: float
    std: float
    zeros: int
    inf: int
    nan: int
    below_normal: int

    @property
    def largest(self) -> float:
        """Return max |x| of the elements that are not NaN."""
        return max(abs(self.max), abs(self.min))

    @property
    def small_share(self) -> float:
        """Return the share of the nonzero elements that is below float16's smallest normal number."""
        nonzero = self.count - self.zeros - self.nan
        return self.below_normal / nonzero if nonzero else 0.0

    @property
    def float16(self) -> str:
        """Return "overflow" where max |x| exceeds float16's largest number, "underflow" where a tenth of the nonzero
        elements or more is below its smallest normal number, else "".
        """
        if self.largest > FLOAT16_MAX:
            return "overflow"
        return "underflow" if self.small_share >= _UNDERFLOW else ""


def _in_order(wanted: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in STATS if name in wanted)


@dataclass(frozen=True)
class _Block:
    """Values of one shape that are reduced together: `rows` partial results for each of `values`."""

    values: tuple[str, ...]
    rows: int
    count: int


class ElementStatistics(Generic[K]):
    """Computes statistics of values in the graph under keys, and returns them from the outputs of a run.

    Values that others only rename, reshape or transpose are looked at once.

    wanted: names of `caffestat.options.STATS`; nothing is computed without any
    """

    def __init__(self, graph: Graph, wanted: Collection[str]) -> None:
        self.graph = graph
        self.wanted = _in_order(wanted)
        optional = {"inf": "inf" in wanted, "mean": "mean" in wanted or "std" in wanted, "std": "std" in wanted}
        self._columns = (*_ALWAYS, *(name for name, asked in optional.items() if asked))
        self._origins = origins(graph, graph.flow()) if self.wanted else {}
        self._keys: dict[K, str] = {}
        self._blocks: list[tuple[str, list[_Block]]] = []

    def ask(self, key: K, value: str) -> None:
        """Ask for the statistics of a float value of known shape; one without elements has none."""
        if self.wanted and 0 not in self.graph.shape(value):
            self._keys[key] = self._origins.get(value, value)

    def finish(self) -> None:
        """Emit the statistics; `outputs` are the values that a run has to return."""
        first = len(self.graph.nodes)
        for blocks in chunks(list(self._grouped()), _TOGETHER):
            parts = [self._emit(block) for block in blocks]
            self._blocks.append((self.graph.emit("Concat", *parts, axis=0, hint="elements"), list(blocks)))
        self.graph.statistics.update(name for node in self.graph.nodes[first:] for name in node.outputs)

    @property
    def outputs(self) -> list[str]:
        """The values that a run has to return."""
        return [name for name, _ in self._blocks]

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[K, ElementStats]:
        """Return the statistics from the outputs of a run."""
        found: dict[str, ElementStats] = {}
        for name, blocks in self._blocks:
            sizes = [len(block.values) * block.rows * len(self._columns) for block in blocks]
            for block, flat in zip(blocks, np.split(outputs[name], np.cumsum(sizes)[:-1]), strict=True):
                table = flat.astype(np.float64).reshape(len(block.values), block.rows, -1)
                found |= {value: self._stats(one, block) for value, one in zip(block.values, table, strict=True)}
        return {key: found[root] for key, root in self._keys.items()}

    def _grouped(self) -> Iterator[_Block]:
        """Yield the blocks: small values of the same shape share one."""
        tiny: defaultdict[Spec, list[str]] = defaultdict(list)
        for value in dict.fromkeys(self._keys.values()):
            spec = self.graph.specs[value]
            count = math.prod(spec.shape)
            if count <= TINY:
                tiny[spec].append(value)
            else:
                yield _Block((value,), rows_of(count), count)
        for spec, values in tiny.items():
            for chunk in chunks(values, _TOGETHER):
                yield _Block(tuple(chunk), 1, math.prod(spec.shape))

    def _emit(self, block: _Block) -> str:
        """Emit the columns of a block: [values · rows · columns]."""
        g, shape = self.graph, (len(block.values) * block.rows, block.count // block.rows)
        x = block.values[0]
        if len(block.values) > 1:
            flat = [g.reshape(value, block.count) for value in block.values]
            x = g.declare(g.emit("Concat", *flat, axis=0), (math.prod(shape),), g.specs[x].dtype)
        x = g.cast(g.reshape(x, *shape), np.float32)
        columns = g.emit("Concat", *_Columns(g, x).emit(self._columns), axis=1)
        return g.declare(g.emit("Reshape", columns, g.ints(-1)), (shape[0] * len(self._columns),))

    def _stats(self, table: np.ndarray, block: _Block) -> ElementStats:
        """Return the statistics of a value from those of its rows: [rows, columns]."""
        sizes = np.full(block.rows, block.count / block.rows)
        return _combined(self.wanted, sizes, dict(zip(self._columns, table.T, strict=True)))


class _Columns:
    """Emits the reductions of the rows of a matrix x, each [rows, 1]."""

    def __init__(self, graph: Graph, x: str) -> None:
        self.g, self.x = graph, x

    def emit(self, names: Sequence[str]) -> list[str]:
        """Emit what some names stand for; the std is the norm of (x - mean) / max |x|."""
        made: dict[str, str] = {}
        self.is_nan = self.g.emit("IsNaN", self.x)
        for name in names:
            made[name] = getattr(self, f"_{name}")(made)
        return list(made.values())

    def _reduced(self, op: str, value: str) -> str:
        return self.g.emit(op, value, self.g.ints(1), keepdims=1)

    def _counted(self, mask: str) -> str:
        return self._reduced("ReduceSum", self.g.emit("Cast", mask, to=1))

    def _without_nan(self, instead: float) -> str:
        return self.g.emit("Where", self.is_nan, self.g.constant(instead), self.x)

    def _nan(self, made: Mapping[str, str]) -> str:
        return self._counted(self.is_nan)

    def _max(self, made: Mapping[str, str]) -> str:
        return self._reduced("ReduceMax", self._without_nan(-math.inf))

    def _min(self, made: Mapping[str, str]) -> str:
        return self._reduced("ReduceMin", self._without_nan(math.inf))

    def _zeros(self, made: Mapping[str, str]) -> str:
        return self._counted(self.g.emit("Equal", self.x, self.g.constant(0)))

    def _below(self, made: Mapping[str, str]) -> str:
        return self._counted(self.g.emit("Less", self.g.emit("Abs", self.x), self.g.constant(FLOAT16_NORMAL)))

    def _inf(self, made: Mapping[str, str]) -> str:
        return self._counted(self.g.emit("IsInf", self.x))

    def _mean(self, made: Mapping[str, str]) -> str:
        return self._reduced("ReduceMean", self.x)

    def _std(self, made: Mapping[str, str]) -> str:
        """Scaled by max |x|, for squares of numbers above 2⁶⁴ are infinite; `_combined` takes the scale off."""
        largest = self.g.emit("Max", made["max"], self.g.emit("Neg", made["min"]), self.g.constant(FLT_MIN))
        scaled = self.g.emit("Div", self.g.emit("Sub", self.x, made["mean"]), largest)
        return self._reduced("ReduceL2", scaled)


def _combined(wanted: Sequence[str], sizes: np.ndarray, rows: Mapping[str, np.ndarray]) -> ElementStats:
    """Return the statistics of rows of some sizes together, the variance by that within and that between them.

    rows: the columns; what is not wanted may be absent. Source: Chan, Golub, LeVeque 1983, eq. 2.1.
    """
    zero, count = np.zeros_like(sizes), int(sizes.sum())
    nan, zeros = int(rows["nan"].sum()), int(rows["zeros"].sum())
    means = rows.get("mean", zero)
    with np.errstate(invalid="ignore", over="ignore"):
        scale = np.maximum(np.maximum(rows["max"], -rows["min"]), FLT_MIN)
        mean = float((sizes * means).sum() / count)
        square = float(((rows.get("std", zero) * scale) ** 2).sum() + (sizes * (means - mean) ** 2).sum())
    return ElementStats(
        wanted=tuple(wanted),
        count=count,
        mean=mean,
        max=float(rows["max"].max()) if nan < count else math.nan,
        min=float(rows["min"].min()) if nan < count else math.nan,
        std=math.sqrt(square / count),
        zeros=zeros,
        inf=int(rows.get("inf", zero).sum()),
        nan=nan,
        below_normal=int(rows["below"].sum()) - zeros,
    )


def of_array(array: np.ndarray, wanted: Collection[str]) -> ElementStats | None:
    """Return the statistics of an array that is in memory, chunk by chunk; None where it has no elements."""
    flat = array.reshape(-1)
    pieces = [flat[start : start + _CHUNK].astype(np.float64) for start in range(0, flat.size, _CHUNK)]
    if not pieces:
        return None
    rows = [_of_chunk(piece) for piece in pieces]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    sizes = np.array([float(piece.size) for piece in pieces])
    return _combined(_in_order(wanted), sizes, columns)


def _of_chunk(x: np.ndarray) -> dict[str, float]:
    """Return the columns of a row."""
    is_nan = np.isnan(x)
    high = float(x.max(initial=-math.inf, where=~is_nan))
    low = float(x.min(initial=math.inf, where=~is_nan))
    with np.errstate(invalid="ignore"):
        mean = float(x.mean())
        norm = float(np.linalg.norm((x - mean) / max(high, -low, FLT_MIN)))
    counts = {"nan": is_nan, "zeros": x == 0, "below": np.abs(x) < FLOAT16_NORMAL, "inf": np.isinf(x)}
    return {name: float(mask.sum()) for name, mask in counts.items()} | {
        "max": high,
        "min": low,
        "mean": mean,
        "std": norm,
    }


def of_zeros(count: int, wanted: Collection[str]) -> ElementStats | None:
    """Return the statistics of a value that is zero everywhere; None where it has no elements."""
    return ElementStats(_in_order(wanted), count, 0.0, 0.0, 0.0, 0.0, count, 0, 0, 0) if count else None
