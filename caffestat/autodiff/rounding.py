"""Where a gradient is zero because values are rounded to integers, and what can be done about it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from caffestat.errors import GradientWarning
from caffestat.graph import Graph, Node
from caffestat.graph.straight import quantized_pairs

from .engine import differentiable, needed

__all__ = ["rounding", "rounding_words", "warn_of_rounding"]


def rounding(graph: Graph, wrt: Collection[str], ends: Iterable[str]) -> list[Node]:
    """Return the nodes that convert floats to integers between the values `wrt` and the values `ends`.

    The gradient before them is zero, because their derivative is zero almost everywhere.
    """
    reached, leading, found = needed(graph, wrt), set(ends), []
    for node in reversed(graph.nodes):
        if any(name in leading and name not in graph.detached for name in node.outputs):
            leading.update((*node.inputs, *node.captured))
            if node.info.rounds and node.inputs[0] in reached:
                found.append(node)
    return found[::-1]


def rounding_words(graph: Graph, nodes: Sequence[Node]) -> str:
    """Return a line about the nodes that `rounding` returned: how many, which ops, and what lets gradients pass."""
    counts = ", ".join(f"{op} {count}" for op, count in Counter(node.op for node in nodes).items())
    which = f"{counts}; the first makes {nodes[0].outputs[0]!r}"
    places = "1 node that rounds" if len(nodes) == 1 else f"{len(nodes)} nodes that round"
    words = f"the gradient is zero before {places} to integers ({which})"
    made = {node.outputs[0] for node in nodes}
    if any(quantize.outputs[0] in made for quantize, _ in quantized_pairs(graph)):
        words += "; use straight-through gradients (--ste, straight_through=True)"
    ops = ", ".join(sorted(_integer_ops(graph, made)))
    if ops:
        words += f"; no gradient rule for {ops}: differentiate the model before quantization"
    return words


def _integer_ops(graph: Graph, made: Iterable[str]) -> set[str]:
    """Return the ops without a gradient that read integers that come from some values."""
    integers, found = set(made), set[str]()
    for node in graph.nodes:
        if not integers.isdisjoint(node.inputs):
            integers.update(name for name in node.outputs if name in graph.specs and not graph.specs[name].is_float)
            if node.domain or not differentiable(node.op):
                found.add(node.op)
    return found


def warn_of_rounding(graph: Graph, wrt: Collection[str], ends: Iterable[str]) -> None:
    """Issue a GradientWarning where gradients of `ends` by `wrt` are zero because values are rounded."""
    nodes = rounding(graph, wrt, ends)
    if nodes:
        warnings.warn(rounding_words(graph, nodes), GradientWarning, stacklevel=2)
