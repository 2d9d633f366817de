"""f and f' of the layers that work element by element, computed by their own graphs and gradients."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.autodiff import backward
from caffestat.engine import Compiled
from caffestat.engine.histogram import Histogram
from caffestat.errors import CaffestatError
from caffestat.float32 import FLT_MAX
from caffestat.graph import Graph
from caffestat.ops import Elements, Role
from caffestat.program import Program
from caffestat.program.program import Alone

__all__ = ["Curve", "curve", "curves"]

_POINTS = 161  # of an axis that is symmetric around 0, 0 among them
_LEAST = 4.0  # half of the shortest axis: where tanh and sigmoid bend
_FLAT = 0.05  # of the largest slope


@dataclass(frozen=True)
class Curve:
    """An activation.

    x, f, slope  points, f there and its derivative
    mean_slope   mean |f'| at the inputs that were measured
    flat         the share of these at which |f'| is below a twentieth of its largest value
    """

    x: tuple[float, ...]
    f: tuple[float, ...]
    slope: tuple[float, ...]
    mean_slope: float | None = None
    flat: float | None = None


def curves(
    program: Program, values: Sequence[np.ndarray], tops: Mapping[tuple[int, int], Histogram]
) -> dict[int, Curve]:
    """Return the curve of each activation, by row.

    values: the params; tops: the distribution of each
    """
    found: dict[int, Curve] = {}
    known: dict[Hashable, Curve | None] = {}
    for row in program.rows:
        given = tops.get(row.reads[0]) if len(row.reads) == len(row.tops) == 1 else None
        alone = program.alone(row, _points(row.shapes[0]), values) if given and row.shapes[0] else None
        if given is None or alone is None:
            continue
        reach = axis_of(given)
        key = (_key(alone), reach)
        if key not in known:
            known[key] = curve(alone.graph, alone.x, alone.y, alone.params, reach)
        one = known[key]
        if one is not None:
            found[row.index] = weighted(one, given)
    return found


def _key(alone: Alone) -> Hashable:
    """Return what is the same for rows with the same curve."""
    nodes = str([(node.op, node.attributes) for node in alone.graph.nodes])
    return nodes, *(array.tobytes() for array in (*alone.params.values(), *alone.graph.constants.values()))


def _points(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a batch of points, with the channels of a value's shape."""
    return (_POINTS, *shape[1:2], *(1 for _ in shape[2:]))


def axis_of(given: Histogram) -> float:
    """Return half the length of the axis: a power of two that holds all inputs, or the largest float32."""
    largest = max(abs(given.low), abs(given.high), _LEAST)
    return min(2.0 ** math.ceil(math.log2(largest)), FLT_MAX) if math.isfinite(largest) else _LEAST


def curve(graph: Graph, x: str, y: str, params: Mapping[str, np.ndarray], reach: float) -> Curve | None:
    """Return f and f' of a graph from x to y over ±reach, of its first channel; None where it is no activation.

    An activation works element by element, and is not linear.
    """
    if any(not _is_pointwise(graph, index) for index in range(len(graph.nodes))) or len(graph.inputs) > 1:
        return None
    graph.infer()
    if y not in graph.specs or graph.shape(y) != graph.shape(x):  # a Reshape of a model asks for the model's own shape
        return None
    try:
        found = backward(graph, {y: graph.emit("Expand", graph.constant(1.0), graph.ints(*graph.shape(x)))}, [x])
    except CaffestatError:  # an op without a gradient has no slope to show
        return None
    slope = found[x]
    if slope is None:
        return None
    graph.outputs = [y, slope]
    points = np.linspace(-reach, reach, _POINTS, dtype=np.float32)
    feed = np.broadcast_to(points.reshape(-1, *(1 for _ in graph.shape(x)[1:])), graph.shape(x)).copy()
    outputs = Compiled(graph, constant=dict(params)).run({x: feed})
    f, slopes = (np.asarray(outputs[name], np.float64).reshape(_POINTS, -1)[:, 0] for name in (y, slope))
    if np.ptp(slopes[np.isfinite(slopes)], axis=0) < 1e-6 if np.isfinite(slopes).any() else True:
        return None
    return Curve(tuple(points.tolist()), tuple(f.tolist()), tuple(slopes.tolist()))


def _is_pointwise(graph: Graph, index: int) -> bool:
    """Whether a node works element by element, or prepares a param or a constant for one that does."""
    node = graph.nodes[index]
    info = node.info
    is_moved = info.elements is Elements.MOVED and info.role(0) in (Role.DATA, Role.WEIGHT)
    return (info.elements is Elements.EACH or is_moved) and not info.is_random


def weighted(one: Curve, given: Histogram) -> Curve:
    """Return the curve with its slope weighted by the inputs' distribution."""
    counts = np.asarray(given.counts, np.float64)
    edges = np.linspace(given.low, given.high, counts.size + 1)
    slopes = np.abs(np.interp((edges[:-1] + edges[1:]) / 2, one.x, one.slope))
    total = counts.sum()
    largest = np.nanmax(np.abs(one.slope))
    flat = float(counts[slopes < _FLAT * largest].sum() / total)
    return Curve(one.x, one.f, one.slope, float((counts * slopes).sum() / total), flat)
