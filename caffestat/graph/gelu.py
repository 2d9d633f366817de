"""GELU by the error function: models of single ops as one, and that one for gradients that share its values.

gelu(x) = x · Φ(x),  Φ(x) = (1 + erf(x / √2)) / 2
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.ops import Combines

from .graph import Node

if TYPE_CHECKING:
    from .flow import Flow
    from .graph import Graph

__all__ = ["fold_gelus", "gelu", "normal_distribution"]

_CLOSE = 1e-5  # relative: exporters write √2 with few digits


def normal_distribution(g: Graph, x: str) -> tuple[str, str]:
    """Emit (x / √2, Φ(x)). HardSigmoid is erf / 2 + 1 / 2 in one pass; its kernel is of float32 alone."""
    dtype = g.specs[x].dtype
    scaled = g.emit("Mul", x, g.constant(math.sqrt(0.5), dtype))
    erf = g.emit("Erf", scaled)
    if dtype == np.float32:
        return scaled, g.emit("HardSigmoid", erf, alpha=0.5, beta=0.5)
    half = g.constant(0.5, dtype)
    return scaled, g.emit("Add", g.emit("Mul", erf, half), half)


def gelu(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Gelu by ops that its gradient computes, too: 0.8 of the time of both, for the runtime shares them."""
    x = node.inputs[0]
    spec = g.specs.get(x)
    if spec is None or spec.dtype != np.float32 or node.get("approximate", "none") != "none":
        return None
    return [g.emit("Mul", x, normal_distribution(g, x)[1])]


@dataclass
class _Found:
    """Nodes that compute a GELU of x, the last one's result."""

    x: str
    steps: list[int] = field(default_factory=list)


def fold_gelus(graph: Graph, kept: Collection[str]) -> int:
    """Replace the single ops that compute a GELU by one, in place; return how many there are.

    kept: values that have to stay, beside the graph's outputs
    """
    search = _Search(graph, {*kept, *graph.outputs, *graph.detached})
    found = {gelu.steps[-1]: gelu for gelu in search.found()}
    gone = {step for gelu in found.values() for step in gelu.steps}
    nodes, graph.nodes = graph.nodes, []
    for step, node in enumerate(nodes):
        if step in found:
            graph.nodes.append(Node("Gelu", (found[step].x,), node.outputs))
        elif step not in gone:
            graph.nodes.append(node)
    return len(found)


class _Search:
    """The search for x · (1 + erf(x / √2)) / 2, its factors in any order, in a graph."""

    def __init__(self, graph: Graph, fixed: Collection[str]) -> None:
        self._graph, self._nodes, self._fixed = graph, graph.nodes, fixed
        self._flow: Flow[str] = graph.flow()

    def found(self) -> Iterator[_Found]:
        for step, node in enumerate(self._nodes):
            factor = node.info.gelu
            gelu = self._behind(step, factor) if factor is not None else None
            if gelu is not None:
                yield gelu

    def _behind(self, erf: int, factor: float) -> _Found | None:
        """Return the GELU that an error function belongs to."""
        scaled = self._scaled(self._nodes[erf].inputs[0])
        total = self._only_reader(erf)
        if total is None or not _is_close(scaled[1], factor):
            return None
        if self._nodes[total].info.combines is not Combines.SUM or not _is_close(self._constant(total, erf), 1):
            return None
        return self._times(_Found(scaled[0], [erf, total]))

    def _times(self, gelu: _Found) -> _Found | None:
        """Follow the products behind 1 + erf until they make x / 2 of the other factors."""
        factor, is_times_x = 1.0, False
        while not (is_times_x and _is_close(factor, 0.5)):
            last = gelu.steps[-1]
            step = self._only_reader(last)
            if step is None or self._nodes[step].info.combines is not Combines.PRODUCT:
                return None
            constant, scaled = self._constant(step, last), self._scaled(self._other(step, last))
            if constant is not None:
                factor *= constant
            elif scaled[0] == gelu.x and not is_times_x:
                factor, is_times_x = factor * scaled[1], True
            else:
                return None
            gelu.steps.append(step)
        return gelu

    def _only_reader(self, step: int) -> int | None:
        """Return the node that alone reads what a node computes, of the same shape, where nobody asks for it."""
        (value, *_), specs = self._nodes[step].outputs, self._graph.specs
        readers = {reader for reader, _ in self._flow.readers(value)}
        if value in self._fixed or len(readers) != 1:
            return None
        (reader,) = readers
        node = self._nodes[reader]
        is_pair = len(node.inputs) == 2 and node.inputs[0] != node.inputs[1]
        return reader if is_pair and specs.get(node.outputs[0]) == specs.get(value) is not None else None

    def _other(self, step: int, front: int) -> str:
        """Return the operand of a node that the node in front does not compute."""
        a, b = self._nodes[step].inputs
        return b if a in self._nodes[front].outputs else a

    def _constant(self, step: int, front: int) -> float | None:
        return self._number(self._other(step, front))

    def _number(self, value: str) -> float | None:
        """Return the one number of a constant."""
        array = self._graph.constants.get(value)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def _scaled(self, value: str) -> tuple[str, float]:
        """Return (x, factor) of a value: where a node multiplies by a constant, what it multiplies."""
        step = self._flow.writer(value)
        node = self._nodes[step] if step is not None else None
        if node is None or node.info.combines not in (Combines.PRODUCT, Combines.QUOTIENT) or len(node.inputs) != 2:
            return value, 1.0
        a, b = node.inputs
        divides = node.info.combines is Combines.QUOTIENT
        number = self._number(b)
        if number:
            return a, 1 / number if divides else number
        number = None if divides else self._number(a)
        return (b, number) if number is not None else (value, 1.0)


def _is_close(number: float | None, expected: float) -> bool:
    return number is not None and math.isclose(number, expected, rel_tol=_CLOSE)
