"""Ops whose kernels in the runtime are slow, said in faster ones when the model is made."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["expand", "lrn_base", "lrn_power", "sum_channels"]

_SMALL = 1 << 16  # elements of a band matrix that never matter


def _band(channels: int, size: int) -> np.ndarray:
    """Return 1 where two channels are at most (size - 1) / 2 apart: [C, C]."""
    position = np.arange(channels)
    return (abs(position - position[:, None]) <= (size - 1) // 2).astype(np.float64)


def sum_channels(g: Graph, x: str, shape: tuple[int, ...], size: int, factor: float, dtype: Any) -> str:
    """Emit factor · Σ x over `size` channels around each, for x of [N, C, places].

    A product with a band matrix takes a third of the time of AveragePool with a (size, 1) kernel, which serves where
    the matrix would be larger than x.
    """
    batch, channels, places = shape
    if channels**2 <= _SMALL + prod(shape):
        return g.emit("MatMul", g.constant(_band(channels, size) * factor, dtype), x)
    reach = (size - 1) // 2
    columns = g.reshape(x, batch, 1, channels, places)
    pads: dict[str, Any] = {"kernel_shape": [size, 1], "pads": [reach, 0, reach, 0], "count_include_pad": 1}
    sums = g.emit("Mul", g.emit("AveragePool", columns, **pads), g.constant(size * factor, dtype))
    return g.reshape(sums, batch, channels, places)


def lrn_base(g: Graph, x: str, shape: tuple[int, ...], node: Node, dtype: Any) -> str:
    """Emit s = k + α/n Σ x² of an LRN node, the sum over n channels: [N, C, places]."""
    size, alpha = node.attributes["size"], node.get("alpha", 1e-4)
    flat_shape = (*shape[:2], prod(shape[2:]))
    flat = g.reshape(x, *flat_shape)
    mean = sum_channels(g, g.emit("Mul", flat, flat), flat_shape, size, alpha / size, dtype)
    return g.emit("Add", mean, g.constant(node.get("bias", 1.0), dtype))


def lrn_power(g: Graph, base: str, node: Node, dtype: Any) -> str:
    """Emit s^β; the usual β = 3/4 as √s · √√s, a third of Pow's time."""
    beta = node.get("beta", 0.75)
    if beta != 0.75:
        return g.emit("Pow", base, g.constant(beta, dtype))
    root = g.emit("Sqrt", base)
    return g.emit("Mul", root, g.emit("Sqrt", root))


def _lrn(g: Graph, node: Node) -> None:
    """y = x / s^β: a sixth of the time of the LRN kernel, and the runtime shares s with the gradient."""
    spec = g.specs[node.inputs[0]]
    power = lrn_power(g, lrn_base(g, node.inputs[0], spec.shape, node, spec.dtype), node, spec.dtype)
    flat = g.reshape(node.inputs[0], *spec.shape[:2], prod(spec.shape[2:]))
    g.reshape(g.emit("Div", flat, power), *spec.shape)


def _live(nodes: Sequence[Node], outputs: Collection[str]) -> list[Node]:
    """Return the nodes that the outputs depend on: the runtime would compute the others too."""
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.outputs):
            needed.update(node.inputs, node.captured)
            live.append(node)
    return live[::-1]


def expand(g: Graph, outputs: Sequence[str]) -> Graph:
    """Return the graph of some outputs as the runtime should get it; `g` stays as it is.

    Every LRN of known shape is replaced; what no output needs is left out: nodes, params, inputs, constants.
    """
    result = copy(g)
    result.nodes, result.outputs = [], list(outputs)
    for node in _live(g.nodes, outputs):
        if node.op == "LRN" and node.inputs[0] in g.specs:
            _lrn(result, node)
            result.nodes[-1].outputs = node.outputs
        else:
            result.nodes.append(node)
    read = {name for node in result.nodes for name in (*node.inputs, *node.captured)}.union(outputs)
    result.params = {name: spec for name, spec in g.params.items() if name in read}
    result.inputs = {name: spec for name, spec in g.inputs.items() if name in read}
    result.constants = {name: array for name, array in g.constants.items() if name in read}
    return result
