"""From an ONNX model and what was measured of it to a Report: one row per node of the model's file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.errors import Finding, Place
from caffestat.fillers import VARIANCE_NORMS, msra_std, xavier_spread
from caffestat.graph import Graph
from caffestat.graph.costs import macs
from caffestat.graph.load import Model, ModelNode
from caffestat.report import BottomDiff, LayerGain, LayerRow, ParamRow, Report, Spread, TopRow, Totals
from caffestat.rewriting.onnx_steps import onnx_step
from caffestat.theory import Moments

from .gains import gains
from .layout import Layout
from .measure import Measurement
from .predict import Prediction

__all__ = ["build"]

_CHUNK = 1 << 18


def build(
    model: Model,
    measured: Measurement | None = None,
    predicted: Prediction | None = None,
    *,
    source: str,
    seed: int,
    notes: Sequence[str] = (),
) -> Report:
    """Return the Report of a model; without a measurement its measured values are None, without a prediction its
    predicted ones.

    A layer is a node, a blob a value. Fans are those of the op that uses the weight; in a filler's place stand the mean
    and the standard deviation of what is stored.
    """
    layout = Layout(model)
    view = _View(layout, measured or Measurement(), predicted or Prediction(), _gains(layout, predicted))
    rows = tuple(view.row(node) for node in model.nodes)
    read = {number for row in rows for number in row.reads}
    return Report(
        source=source,
        net=model.name,
        phase="TRAIN" if any(node.get("training_mode") for node in model.graph.nodes) else "TEST",
        seed=seed,
        device=measured.device if measured else None,
        layers=rows,
        inputs=tuple(view.top(name) for name in model.graph.inputs if layout.ids[name] in read),
        totals=_totals(model, rows),
        norms=measured.norms if measured else None,
        findings=tuple(view.stops(source)),
        notes=tuple(notes),
    )


def _gains(layout: Layout, predicted: Prediction | None) -> dict[int, LayerGain]:
    found = gains(layout, predicted) if predicted else []
    return {gain.node: LayerGain(gain.forward, gain.product, gain.backward, gain.product_backward) for gain in found}


@dataclass
class _View:
    """What the rows are made from."""

    layout: Layout
    measured: Measurement
    predicted: Prediction
    gains: dict[int, LayerGain]

    @property
    def model(self) -> Model:
        return self.layout.model

    @property
    def graph(self) -> Graph:
        return self.layout.graph

    def row(self, node: ModelNode) -> LayerRow:
        index, bottoms = self.layout.node_of[node.first], self.layout.bottoms(node)
        costs = [macs(self.graph, inner) for inner in self.graph.nodes[node.first : node.last]]
        return LayerRow(
            name=node.name,
            type=node.op,
            line=0,
            bottoms=tuple(bottoms),
            reads=tuple(self.layout.ids[name] for name in bottoms),
            tops=tuple(self.top(name) for name in node.outputs if name),
            bottom_diffs=tuple(self._diff(name, i) for i, name in enumerate(bottoms) if self._gets_diff(name)),
            params=tuple(self._param(name, position) for position, name in enumerate(self.layout.params(index))),
            macs=None if None in costs else sum(cost or 0 for cost in costs),
            need_backward=bool(self.measured.gradients or self.predicted.gradients),
            followed_by=self._nonlinearity(node) if index in self.layout.owned else None,
            gain=self.gains.get(index),
        )

    def top(self, name: str) -> TopRow:
        """Return a value by its name."""
        spec = self.graph.specs.get(name)
        shape, number = spec.shape if spec else None, self.layout.ids[name]
        return TopRow(name, shape, number, self.measured.values.get(name), _mean_abs(self.predicted.values, name))

    def _gets_diff(self, name: str) -> bool:
        return name in self.measured.gradients or name in self.predicted.gradients

    def _diff(self, name: str, bottom: int) -> BottomDiff:
        return BottomDiff(name, bottom, self.measured.gradients.get(name), _mean_abs(self.predicted.gradients, name))

    def _param(self, name: str, index: int) -> ParamRow:
        shape, use = self.graph.shape(name), self.layout.uses.get(name)
        is_statistic = name in self.layout.statistics
        fans = (use.fan_in, use.fan_out) if use and use.role == "weight" else None
        stored = _stored(self.model.arrays[name])
        return ParamRow(
            index=index,
            name=name,
            role=self.layout.role(name),
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
            is_statistic=is_statistic,
            gets_diff=self._gets_diff(name),
            mean_abs=self.measured.values.get(name),
            diff_mean_abs=None if is_statistic else self.measured.gradients.get(name),
            predicted=_mean_abs(self.predicted.values, name),
            diff_predicted=None if is_statistic else _mean_abs(self.predicted.gradients, name),
        )

    def _nonlinearity(self, node: ModelNode) -> str | None:
        """Return the op of the first nonlinearity that the node's values meet."""
        waiting = list(self._readers(node.outputs))
        for index in waiting:
            inner = self.graph.nodes[index]
            step = onnx_step(inner, {name: np.zeros(0) for name in inner.inputs if self.layout.is_stored(name)})
            if step.nonlinearity is not None:
                return inner.op
            if step.passes:
                waiting.extend(reader for reader in self._readers(inner.outputs) if reader not in waiting)
        return None

    def _readers(self, values: Iterable[str]) -> Iterable[int]:
        return (index for name in values for index in self.layout.readers[name])

    def stops(self, source: str) -> Iterable[Finding]:
        """Yield a warning about each node that no gradient passes."""
        for stop in self.measured.stops:
            index = self.layout.node_of.get(next(i for i, node in enumerate(self.graph.nodes) if node is stop.node))
            name = "" if index is None else f" at node {self.model.nodes[index].name!r}"
            message = f"the gradient stops{name}: {stop.reason}; that of {stop.behind} values before it is unknown"
            yield Finding(Place(source), message)


def _mean_abs(found: Mapping[str, Moments], name: str) -> float | None:
    return found[name].mean_abs if name in found else None


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
