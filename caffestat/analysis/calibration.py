"""Ranges of a model's values over batches of data: extremes and percentiles, for quantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffestat.engine import CPU, Compiled, Device
from caffestat.engine.ranges import BINS, Extremes, Histograms
from caffestat.engine.statistics import origins
from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.graph import Graph
from caffestat.graph.load import Model
from caffestat.program.feeds import Feeds
from caffestat.program.from_onnx import from_onnx, settle_drawn

__all__ = ["Calibration", "CalibrationMethod", "Range", "calibrate"]

Batch = Mapping[str, np.ndarray]
_TYPES = ("float16", "float32")


@dataclass(frozen=True)
class CalibrationMethod:
    """What becomes the range of a value.

    name         "minmax": the extremes; "percentile": all but the outer (100 - percentile) / 2 % on either side
    symmetric    the range is -a to a
    percentiles  that are told beside the range, in percent
    """

    name: str = "minmax"
    percentile: float = 99.999
    symmetric: bool = False
    percentiles: tuple[float, ...] = (0.1, 1, 50, 99, 99.9)


@dataclass(frozen=True)
class Range:
    """Of the finite elements of one value, over all batches.

    lowest, highest  what the method makes of them
    low, high        the smallest and the largest
    percentiles      by percent, from a histogram of `engine.ranges.BINS` bins, linear within a bin
    dtype            of the value: "float32" or "float16"
    """

    lowest: float
    highest: float
    low: float
    high: float
    percentiles: dict[float, float]
    dtype: str


@dataclass(frozen=True)
class Calibration:
    """The ranges of a model's values by name; values without a finite element have none."""

    method: CalibrationMethod
    ranges: dict[str, Range]
    batches: int
    notes: tuple[str, ...] = ()


@dataclass
class _Found:
    """What is known of a value: its extremes over all batches, then how its elements lie between -limit and limit."""

    dtype: str
    low: float = math.inf
    high: float = -math.inf
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def limit(self) -> float:
        """Return max |x|, 0 where no element is finite."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    def widen(self, low: float, high: float) -> None:
        """Take in the extremes of a batch."""
        self.low, self.high = min(self.low, low), max(self.high, high)


def calibrate(
    load: Callable[[Batch], Model],
    batches: Callable[[], Iterable[Batch]],
    method: CalibrationMethod,
    seed: int,
    device: Device = CPU,
    compute: str = "float32",
) -> Calibration:
    """Run a model on all batches, for the extremes of its values, and again for what lies between where that is asked.

    load:    returns the model for batches of the shapes of the one that it is given
    compute: the type to compute in, see `engine.Compiled`
    batches: yields the same batches, arrays by names of inputs, whenever it is called; other inputs are drawn once

    Values are the float32 and float16 inputs and results of nodes, by name, constants among them; initializers are not.
    """
    models = _Models(load, seed, device, compute)
    found: dict[str, _Found] = {}
    count = 0
    for batch in batches():
        count += 1
        for name, (dtype, low, high) in models.of(batch).extremes(batch).items():
            found.setdefault(name, _Found(dtype)).widen(low, high)
    limits = {name: one.limit for name, one in found.items() if one.limit}
    needs_counts = bool(method.percentiles) or method.name == "percentile"
    for batch in batches() if needs_counts and limits else ():
        for name, counts in models.of(batch).histograms(batch, limits).items():
            found[name].counts += counts
    ranges = {name: _range(one, method) for name, one in found.items() if one.low <= one.high}
    return Calibration(method, ranges, count, tuple(dict.fromkeys(models.notes)))


class _Models:
    """The model for each set of shapes that batches have."""

    def __init__(self, load: Callable[[Batch], Model], seed: int, device: Device, compute: str) -> None:
        self._load, self._seed, self._device, self._compute = load, seed, device, compute
        self._known: dict[Sequence[object], _Run] = {}
        self.notes: list[str] = []

    def of(self, batch: Batch) -> _Run:
        """Return what runs batches of the shapes of one."""
        key = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if key not in self._known:
            self._known[key] = _Run(self._load(batch), batch, self._seed, self._device, self._compute, self.notes)
        return self._known[key]


class _Run:
    """A model whose inputs have fixed shapes, and its values."""

    def __init__(self, model: Model, batch: Batch, seed: int, device: Device, compute: str, notes: list[str]) -> None:
        forward = from_onnx(model, "").forward()
        feeds = Feeds(Stream(seed), np.random.default_rng(seed), model.unpinned(batch), notes=notes)
        self._drawn = feeds.of(forward)
        settle_drawn(model, self._drawn)
        self._model, self._device, self._compute = model, device, compute
        found = origins(model.graph, model.graph.flow())
        self._origins = {name: found.get(name, name) for name in _values(model)}
        if not self._origins:
            raise InputError(f"no value with elements is of {' or '.join(_TYPES)}: there are no ranges to find")
        self._constants = dict(_constants(model))
        self._extremes: tuple[Extremes, Compiled] | None = None
        self._histograms: tuple[Histograms, Compiled] | None = None

    def _compiled(self, graph: Graph, outputs: Sequence[str]) -> Compiled:
        graph.outputs = list(outputs)
        return Compiled(graph, self._device, self._model.arrays, self._compute)

    def _feeds(self, batch: Batch) -> dict[str, np.ndarray]:
        given = self._model.unpinned(batch)
        inputs = self._model.graph.inputs
        return self._drawn | {name: np.asarray(array, inputs[name].dtype) for name, array in given.items()}

    def _dtype(self, name: str) -> str:
        return self._model.graph.specs[name].dtype.name

    def extremes(self, batch: Batch) -> dict[str, tuple[str, float, float]]:
        """Return the type, the smallest and the largest finite element of each value."""
        if self._extremes is None:
            graph = self._model.graph.fork()
            asked = Extremes(graph, dict.fromkeys(self._origins.values()))
            self._extremes = asked, self._compiled(graph, asked.outputs)
        asked, compiled = self._extremes
        found = asked.read(compiled.run(self._feeds(batch)))
        own = {name: (self._dtype(name), *found[root]) for name, root in self._origins.items()}
        finite = {name: array[np.isfinite(array)] for name, array in self._constants.items()}
        return own | {
            name: (array.dtype.name, float(array.min(initial=math.inf)), float(array.max(initial=-math.inf)))
            for name, array in finite.items()
        }

    def histograms(self, batch: Batch, limits: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Return the counts of each value that has a limit."""
        names = {name: root for name, root in self._origins.items() if name in limits}
        if self._histograms is None:
            graph = self._model.graph.fork()
            asked = Histograms(graph, {root: limits[name] for name, root in names.items()})
            self._histograms = asked, self._compiled(graph, asked.outputs)
        asked, compiled = self._histograms
        found = asked.read(compiled.run(self._feeds(batch)))
        own = {name: found[root] for name, root in names.items()}
        return own | {
            name: np.histogram(array[np.isfinite(array)], BINS, (-limits[name], limits[name]))[0]
            for name, array in self._constants.items()
            if name in limits
        }


def _values(model: Model) -> Iterator[str]:
    """Yield the values of the file that are fed or computed, of known shape, with elements of a type that is read."""
    graph = model.graph
    computed = {name for node in graph.nodes for name in node.outputs}
    named = (name for node in model.nodes for name in node.outputs if name in computed)
    for name in dict.fromkeys((*graph.inputs, *named)):
        spec = graph.specs.get(name)
        if spec and spec.dtype.name in _TYPES and 0 not in spec.shape:
            yield name


def _constants(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the values that Constant nodes of the file hold, and those that are computed from constants alone."""
    stored = {**model.graph.constants, **model.arrays}
    for name in dict.fromkeys((*model.held, *(name for node in model.folded for name in node.outputs))):
        if name in stored and stored[name].dtype.name in _TYPES and stored[name].size:
            yield name, stored[name]


def _range(found: _Found, method: CalibrationMethod) -> Range:
    lowest, highest = found.low, found.high
    if method.name == "percentile" and found.limit:
        lowest, highest = _cut(found, method)
    if method.symmetric:
        highest = max(abs(lowest), abs(highest))
        lowest = -highest
    told = {percent: _percentile(found, percent) for percent in method.percentiles}
    return Range(lowest, highest, found.low, found.high, told, found.dtype)


def _cut(found: _Found, method: CalibrationMethod) -> tuple[float, float]:
    """Return the edges of the bins that hold all but a share of the elements.

    Source: onnxruntime/quantization/calibrate.py, HistogramCollector.compute_percentile.
    """
    edges = np.linspace(-found.limit, found.limit, BINS + 1)
    counts = found.counts
    if method.symmetric:
        counts, edges = counts[BINS // 2 :] + counts[: BINS // 2][::-1], edges[BINS // 2 :]
        high = edges[np.searchsorted(np.cumsum(counts / counts.sum()), method.percentile / 100)]
        return -float(high), float(high)
    share, outside = np.cumsum(counts / counts.sum()), (100 - method.percentile) / 200
    low, high = (edges[np.searchsorted(share, part)] for part in (outside, 1 - outside))
    return max(float(low), found.low), min(float(high), found.high)


def _percentile(found: _Found, percent: float) -> float:
    """Return a percentile, linear within the bin that it falls into."""
    if not found.limit:
        return 0.0
    share = np.concatenate([[0.0], np.cumsum(found.counts / found.counts.sum())])
    edges = np.linspace(-found.limit, found.limit, BINS + 1)
    place = float(np.interp(percent / 100, share, edges))
    return min(max(place, found.low), found.high)
