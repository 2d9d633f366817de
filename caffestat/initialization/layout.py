"""How the nodes of a graph read weights: as matrices of outputs by the inputs that they sum over."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from caffestat.engine import CPU, Compiled
from caffestat.graph import Graph, Node
from caffestat.graph.fans import find_uses
from caffestat.graph.flow import Flow
from caffestat.program import Forward

__all__ = ["Layout", "layouts"]

_EXACT = 1 << 20  # below 2**24, up to which float32 counts


@dataclass(frozen=True)
class Layout:
    """How a node reads one weight.

    node      that has it as a weight
    position  of the weight among the node's inputs
    shape     of the weight as the node reads it
    order     the positions in the stored array of the elements that the node reads; None where it is as stored
    """

    node: Node
    position: int
    shape: tuple[int, ...]
    order: np.ndarray | None = None

    @property
    def is_linear(self) -> bool:
        """Whether what the node computes is linear in the weight, and each output has a place of its own on `axis`."""
        info = self.node.info
        return info.is_product and (info.window is not None or len(self.shape) == 2)

    @property
    def axis(self) -> int:
        """The axis of the node's output along which the outputs lie."""
        is_left = self.node.info.is_matrix_product and self.position == 0
        return 1 if self.node.info.window else -2 if is_left else -1

    def matrix(self, stored: np.ndarray) -> np.ndarray:
        """Return the weight as [groups, outputs, inputs…]: a view where the node reads it as it is stored."""
        read = (stored if self.order is None else stored.reshape(-1)[self.order]).reshape(self.shape)
        info, get = self.node.info, self.node.get
        if info.window:
            groups = get("group", 1)
            split = read.reshape(groups, self.shape[0] // groups, *self.shape[1:])
            return split.swapaxes(1, 2) if info.upsamples else split
        if info.is_recurrent:
            _, units = info.fans[self.position](self.node.attributes, self.shape)
            return read.reshape(-1, units, self.shape[-1])  # a group per gate
        if not info.is_matrix_product:  # rows that are picked
            return read.reshape(1, self.shape[0], -1).swapaxes(1, 2)
        is_turned = bool(get("transA" if self.position == 0 else "transB", 0))
        flat = read.reshape(-1, *self.shape[-2:])
        return flat if is_turned == (self.position != 0) else flat.swapaxes(1, 2)

    def store(self, stored: np.ndarray, matrix: np.ndarray) -> None:
        """Write a matrix into the stored array."""
        if self.order is None:
            self.matrix(stored)[...] = matrix
            return
        read = np.empty(self.shape, stored.dtype)
        Layout(self.node, self.position, self.shape).matrix(read)[...] = matrix
        stored.reshape(-1)[self.order] = read.reshape(-1)


def layouts(forward: Forward, numbers: Collection[int]) -> dict[int, Layout]:
    """Return the layout of each of some params, by number, that a node has as a weight. The first such node decides."""
    graph = forward.graph
    graph.infer()
    shapes = {name: spec.shape for name, spec in graph.specs.items()}
    uses = find_uses(graph.nodes, shapes, graph.params)
    flow, found = graph.flow(), {}
    for number in numbers:
        use = uses.get(forward.params.get(number, ""))
        if use is not None and use.role == "weight":
            found[number] = _layout(graph, flow, use.node, forward.params[number])
    return found


def _layout(graph: Graph, flow: Flow[str], index: int, param: str) -> Layout:
    nodes = graph.nodes
    uses = flow.through(param, lambda other, position: nodes[other].info.passes_weight and position == 0)
    node = nodes[index]
    position = next(position for other, position in uses if other == index and position in node.info.fans)
    read = node.inputs[position]
    order = None if read == param else _order(graph, param, read)
    return Layout(node, position, graph.shape(read), order)


def _order(graph: Graph, param: str, read: str) -> np.ndarray | None:
    """Return the positions in a param of the elements of a value that is a rearrangement of it."""
    size = int(np.prod(graph.shape(param)))
    low, high = (part.reshape(graph.shape(param)).astype(np.float32) for part in _digits(size))
    compiled = Compiled(graph, CPU)
    found = [compiled.run({}, {param: part}, [read])[read].reshape(-1).astype(np.int64) for part in (low, high)]
    order = np.asarray(found[0] + _EXACT * found[1])
    return None if np.array_equal(order, np.arange(size)) else order


def _digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    high, low = np.divmod(np.arange(size), _EXACT)
    return low, high
