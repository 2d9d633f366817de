"""Fourier transforms as products with a matrix of waves. (ONNX operators DFT and STFT)"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffestat.graph import Graph, Node

from ..engine import decomposition
from ..quadrature import Array

_LARGEST = 1 << 22  # elements of a matrix of waves


class _Steps:
    """Collects the nodes that stand for one, with the shapes of what they make."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node, self.nodes = graph, node, list[Node]()
        self.dtype = graph.specs[node.inputs[0]].dtype

    def emit(self, op: str, *inputs: str, shape: Sequence[int], to: str = "", **attributes: object) -> str:
        """Append a node; `to` names its output, where it is the node's own."""
        output = to or self.graph.declare(self.graph.unique(f"{self.node.op}/{op}"), tuple(shape), self.dtype)
        self.nodes.append(Node(op, inputs, (output,), attributes))
        return output

    def reshape(self, value: str, *shape: int, to: str = "") -> str:
        """Append a Reshape."""
        return self.emit("Reshape", value, self.graph.ints(*shape), shape=shape, to=to)

    def transform(self, x: str, shape: Sequence[int], axis: int, waves: Array, to: str) -> None:
        """Append the product of an axis of x, its complex numbers on the last one, with waves [N, parts, bins, 2]."""
        _, parts, bins, _ = waves.shape
        order = [i for i in range(len(shape)) if i != axis]
        order = [*order[:-1], axis, order[-1]]
        moved = [shape[i] for i in order]
        x = self.emit("Transpose", x, shape=moved, perm=order)
        lead = moved[:-2]
        matrix = self.graph.constant(waves.reshape(-1, bins * 2), self.dtype)
        product = self.emit("MatMul", self.reshape(x, *lead, moved[-2] * parts), matrix, shape=[*lead, bins * 2])
        pairs = self.reshape(product, *lead, bins, 2)
        back = [order.index(i) for i in range(len(shape))]
        self.emit("Transpose", pairs, shape=(), to=to, perm=back)


def _waves(size: int, length: int, parts: int, bins: int, inverse: bool) -> Array:
    """Return what `size` real or complex numbers, cut or padded to a length, are multiplied by: [N, parts, bins, 2]."""
    angles = 2 * math.pi * np.outer(np.arange(size), np.arange(bins)) / length
    wave = np.exp((1j if inverse else -1j) * angles) / (length if inverse else 1)
    wave[length:] = 0
    real = np.stack([wave.real, wave.imag], -1)
    return np.stack([real, np.stack([-wave.imag, wave.real], -1)][:parts], 1)


def _constant(graph: Graph, node: Node, position: int, default: int) -> int | None:
    """Return a setting that an input gives, None where it is not known."""
    name = node.inputs[position] if position < len(node.inputs) else ""
    if not name:
        return default
    return int(graph.constants[name].item()) if name in graph.constants else None


@decomposition("DFT")
def dft(graph: Graph, node: Node) -> Sequence[Node]:
    """Return the product with waves; the node as it is where it is large, or a one-sided inverse."""
    shape, made = graph.shape(node.inputs[0]), graph.shape(node.outputs[0])
    along = _constant(graph, node, 2, -2)
    inverse = bool(node.get("inverse", 0))
    if along is None or (inverse and node.get("onesided", 0)):
        return (node,)
    axis = along % len(shape)
    size, parts, bins = shape[axis], shape[-1], made[axis]
    length = _constant(graph, node, 1, size)
    if length is None or size * parts * bins * 2 > _LARGEST:
        return (node,)
    steps = _Steps(graph, node)
    steps.transform(node.inputs[0], shape, axis, _waves(size, length, parts, bins, inverse), node.outputs[0])
    return steps.nodes


@decomposition("STFT")
def stft(graph: Graph, node: Node) -> Sequence[Node]:
    """Return frames, times the window, times waves; the node as it is where that is large or the window is short."""
    signal, window = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else ""
    shape, made = graph.shape(signal), graph.shape(node.outputs[0])
    step = _constant(graph, node, 1, 1)
    length = _constant(graph, node, 3, graph.shape(window)[0] if window else 0)
    parts, bins = shape[2] if len(shape) == 3 else 1, made[2]
    if step is None or length is None or length * parts * bins * 2 > _LARGEST:
        return (node,)
    if window and graph.shape(window) != (length,):
        return (node,)
    steps = _Steps(graph, node)
    places = np.arange(made[1])[:, None] * step + np.arange(length)
    column = signal if len(shape) == 3 else steps.reshape(signal, *shape, 1)
    frame = (shape[0], made[1], length, parts)
    frames = steps.emit("Gather", column, graph.constant(places, np.int64), shape=frame, axis=1)
    if window:
        frames = steps.emit("Mul", frames, steps.reshape(window, length, 1), shape=frame)
    steps.transform(frames, frame, 2, _waves(length, length, parts, bins, False), node.outputs[0])
    return steps.nodes
