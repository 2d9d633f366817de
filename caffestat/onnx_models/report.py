"""From an ONNX model and what was measured of it to a Report: one row per node of the model's file."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffestat.errors import Finding, Place
from caffestat.fillers import VARIANCE_NORMS, msra_std, xavier_spread
from caffestat.graph import Graph
from caffestat.graph.costs import macs
from caffestat.graph.fans import Use, find_uses, is_passing
from caffestat.graph.load import Model, ModelNode
from caffestat.report import BottomDiff, LayerRow, ParamRow, Report, Spread, TopRow, Totals
from caffestat.rewriting.onnx_steps import onnx_step

from .measure import Measurement

__all__ = ["build"]

_STATISTICS = frozenset([("BatchNormalization", 3), ("BatchNormalization", 4)])  # inputs that training only tracks

_CHUNK = 1 << 18


def build(
    model: Model, measured: Measurement | None = None, *, source: str, seed: int, notes: Sequence[str] = ()
) -> Report:
    """Return the Report of a model; without a measurement its measured values are None.

    A layer is a node, a blob a value. Fans are those of the op that uses the weight; in a filler's place stand the mean
    and the standard deviation of what is stored.
    """
    view = _View(model, measured or Measurement())
    rows = tuple(view.row(node) for node in model.nodes)
    return Report(
        source=source,
        net=model.name,
        phase="TRAIN" if any(node.get("training_mode") for node in model.graph.nodes) else "TEST",
        seed=seed,
        device=measured.device if measured else None,
        layers=rows,
        totals=_totals(model, rows),
        norms=measured.norms if measured else None,
        findings=tuple(view.stops(source)),
        notes=tuple(notes),
    )


@dataclass
class _View:
    """What the rows are made from: which node owns which params, and what each param is for."""

    model: Model
    measured: Measurement
    uses: dict[str, Use] = field(default_factory=dict)
    statistics: set[str] = field(default_factory=set)
    owned: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    readers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    node_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        graph = self.graph
        shapes = {name: spec.shape for name, spec in graph.specs.items()}
        self.node_of = {i: index for index, node in enumerate(self.model.nodes) for i in range(node.first, node.last)}
        nodes = graph.nodes[: len(self.node_of)]  # behind the model's own lie those of the loss and its gradient
        self.uses = find_uses(nodes, shapes, graph.params)
        for index, node in enumerate(nodes):
            for position, name in enumerate(node.inputs):
                self.readers[name].append(index)
                if (node.op, position) in _STATISTICS:
                    self.statistics.add(name)
            for name in node.captured:
                self.readers[name].append(index)
        for name in graph.params:
            place = self.uses[name].node if name in self.uses else self._first_reader(name)
            if place is not None:
                self.owned[self.node_of[place]].append(name)

    def _first_reader(self, name: str) -> int | None:
        """Return the first node that does more with a value than to hand it on."""
        place = None
        while self.readers[name]:
            place = self.readers[name][0]
            node = self.graph.nodes[place]
            if not is_passing(node) or node.inputs[0] != name:
                break
            name = node.outputs[0]
        return place

    @property
    def graph(self) -> Graph:
        return self.model.graph

    def row(self, node: ModelNode) -> LayerRow:
        index = self.node_of[node.first]
        bottoms = [name for name in node.inputs if name and name in self.graph.specs and not self._is_stored(name)]
        gradients = self.measured.gradients
        costs = [macs(self.graph, inner) for inner in self.graph.nodes[node.first : node.last]]
        return LayerRow(
            name=node.name,
            type=node.op,
            line=0,
            bottoms=tuple(bottoms),
            tops=tuple(self._top(name) for name in node.outputs if name),
            bottom_diffs=tuple(BottomDiff(name, gradients[name]) for name in bottoms if name in gradients),
            params=tuple(self._param(name, position) for position, name in enumerate(self._ordered(index))),
            macs=None if None in costs else sum(cost or 0 for cost in costs),
            need_backward=bool(gradients),
            followed_by=self._nonlinearity(node) if index in self.owned else None,
        )

    def _is_stored(self, name: str) -> bool:
        return name in self.graph.params or name in self.graph.constants

    def _top(self, name: str) -> TopRow:
        spec = self.graph.specs.get(name)
        return TopRow(name, spec.shape if spec else None, self.measured.values.get(name))

    def _ordered(self, index: int) -> list[str]:
        """Return a node's params, weights first."""
        return sorted(self.owned.get(index, ()), key=lambda name: self._role(name) != "weight")

    def _role(self, name: str) -> str:
        if name in self.uses:
            return self.uses[name].role
        return "statistic" if name in self.statistics else "param"

    def _param(self, name: str, index: int) -> ParamRow:
        shape, use = self.graph.shape(name), self.uses.get(name)
        fans = (use.fan_in, use.fan_out) if use and use.role == "weight" else None
        stored = _stored(self.model.arrays[name])
        return ParamRow(
            index=index,
            name=name,
            role=self._role(name),
            shape=shape,
            count=math.prod(shape),
            filler_type="stored",
            filler=f"std {stored['std']:.3g}",
            filler_settings=dict(stored),
            filler_origin="file",
            caffe_fan_in=fans[0] if fans else None,
            caffe_fan_out=fans[1] if fans else None,
            fan_in=fans[0] if fans else 0,
            fan_out=fans[1] if fans else 0,
            variance_norm="FAN_IN",
            spreads=_spreads(*fans) if fans else {},
            lr_mult=1.0,
            decay_mult=1.0,
            is_statistic=name in self.statistics,
            gets_diff=name in self.measured.gradients,
            mean_abs=self.measured.values.get(name),
            diff_mean_abs=None if name in self.statistics else self.measured.gradients.get(name),
        )

    def _nonlinearity(self, node: ModelNode) -> str | None:
        """Return the op of the first nonlinearity that the node's values meet."""
        waiting = list(self._readers(node.outputs))
        for index in waiting:
            inner = self.graph.nodes[index]
            step = onnx_step(inner, {name: np.zeros(0) for name in inner.inputs if self._is_stored(name)})
            if step.nonlinearity is not None:
                return inner.op
            if step.passes:
                waiting.extend(reader for reader in self._readers(inner.outputs) if reader not in waiting)
        return None

    def _readers(self, values: Iterable[str]) -> Iterable[int]:
        return (index for name in values for index in self.readers[name])

    def stops(self, source: str) -> Iterable[Finding]:
        """Yield a warning about each node that no gradient passes."""
        for stop in self.measured.stops:
            index = self.node_of.get(next(i for i, node in enumerate(self.graph.nodes) if node is stop.node))
            name = "" if index is None else f" at node {self.model.nodes[index].name!r}"
            message = f"the gradient stops{name}: {stop.reason}; that of {stop.behind} values before it is unknown"
            yield Finding(Place(source), message)


def _stored(array: np.ndarray) -> dict[str, float]:
    """Mean and standard deviation, chunk by chunk so that no large temporary is made."""
    flat = array.reshape(-1)
    total = square = 0.0
    for first in range(0, flat.size, _CHUNK):
        chunk = flat[first : first + _CHUNK].astype(np.float64)
        total += float(chunk.sum())
        square += float(np.dot(chunk, chunk))
    mean = total / max(flat.size, 1)
    return {"mean": mean, "std": math.sqrt(max(square / max(flat.size, 1) - mean * mean, 0.0))}


def _spreads(fan_in: int, fan_out: int) -> dict[str, Spread]:
    sizes = dict(zip(VARIANCE_NORMS, (fan_in, fan_out, (fan_in + fan_out) / 2), strict=True))
    return {norm: _spread(np.float32(max(n, 1))) for norm, n in sizes.items()}


def _spread(n: np.float32) -> Spread:
    scale, std = xavier_spread(n)
    return Spread(float(n), float(scale), std, float(msra_std(n)))


def _totals(model: Model, rows: Sequence[LayerRow]) -> Totals:
    params = [param for row in rows for param in row.params]
    tops = [top.shape for row in rows for top in row.tops]
    return Totals(
        params=sum(param.count for param in params if not param.is_statistic),
        statistics=sum(param.count for param in params if param.is_statistic),
        macs=sum(row.macs or 0 for row in rows),
        activations=sum(math.prod(shape) for shape in tops if shape is not None),
        is_complete=None not in tops and all(row.macs is not None for row in rows),
    )
