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
from caffestat.graph import Graph
from caffestat.net import Node
from caffestat.ops import Elements, Role
from caffestat.program import NetProgram, Program

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
    """Return the curve of each activation of a net, by row; those of models are not drawn.

    values: the params; tops: the distribution of each
    """
    if not isinstance(program, NetProgram):
        return {}
    net, rows = program.net, [row for row in program.rows if row.reads and row.reads[0] in tops]
    inputs = {row.index: tops[row.reads[0]] for row in rows}
    found: dict[int, Curve] = {}
    known: dict[Hashable, Curve | None] = {}
    for node in net.nodes:
        if node.index not in inputs or not _may_be(node):
            continue
        given, graph = inputs[node.index], Graph()
        arrays = [values[net.owner(number)] for number in node.params]
        try:
            x, y = _lowered(node, graph, [array.shape for array in arrays])
        except CaffestatError:  # a layer that cannot work on a batch of points is no activation
            continue
        params = dict(zip(graph.params, arrays, strict=True))
        reach = axis_of(given)
        key = (str([(n.op, n.attributes) for n in graph.nodes]), reach, *(array.tobytes() for array in arrays))
        if key not in known:
            known[key] = curve(graph, x, y, params, reach)
        one = known[key]
        if one is not None:
            found[node.index] = weighted(one, given)
    return found


def _may_be(node: Node) -> bool:
    """Whether a layer reads one blob and makes one of its shape."""
    is_single = len(node.bottoms) == len(node.tops) == 1 and node.is_known
    return is_single and node.bottom_shapes[0] == node.top_shapes[0] and bool(node.top_shapes[0])


def _lowered(node: Node, graph: Graph, shapes: Sequence[tuple[int, ...]]) -> tuple[str, str]:
    """Emit the layer for a batch of points, and return its input and output."""
    shape = node.bottom_shapes[0] or ()
    x = graph.input("x", (_POINTS, *shape[1:2], *(1 for _ in shape[2:])))
    params = [graph.param(f"p{index}", shape) for index, shape in enumerate(shapes)]
    (y,) = node.layer.lower(graph, [x], params)
    return x, y


def axis_of(given: Histogram) -> float:
    """Return half the length of the axis: a power of two that holds all inputs."""
    largest = max(abs(given.low), abs(given.high), _LEAST)
    return 2.0 ** math.ceil(math.log2(largest)) if math.isfinite(largest) else _LEAST


def curve(graph: Graph, x: str, y: str, params: Mapping[str, np.ndarray], reach: float) -> Curve | None:
    """Return f and f' of a graph from x to y over ±reach, of its first channel; None where it is no activation.

    An activation works element by element, and is not linear.
    """
    if any(not _is_pointwise(graph, index) for index in range(len(graph.nodes))) or len(graph.inputs) > 1:
        return None
    graph.infer()
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
