"""A graph of float32 as float16 computes it: every value is rounded, and nodes run in float16 where a kernel exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from .graph import FLOAT, OPSET, Graph, Node
from .late import branch

__all__ = ["HALF", "HasKernel", "narrowed"]

HALF = np.dtype(np.float16)
_LARGEST, _LEAST = 65504.0, 2.0**-24
_TYPED = ("to", "dtype", "output_dtype")  # attributes that name the type of the result

HasKernel = Callable[[Node, Graph], bool]
"""Tell whether a node, whose inputs the graph has in float16, can be computed in float16."""


def narrowed(graph: Graph, has_kernel: HasKernel) -> tuple[Graph, set[str]]:
    """Return the graph computed in float16, and the ops that are computed in float32 for want of a kernel.

    Every value keeps its name and float32, but holds numbers of float16: behind each node stands a Cast to float32.
    Nodes without a kernel compute in float32 and have their results rounded. Statistics stay in float32, and so do
    inputs up to the first node that computes with them; labels and other data that only become integers stay whole.
    Constants beyond float16 become its largest numbers, those that would become 0 its least, as converters do.
    """
    narrower = _Narrower(graph, has_kernel)
    for node in graph.nodes:
        narrower.add(node)
    return narrower.graph, narrower.wide


class _Narrower:
    """A graph under construction.

    halves   the float16 form of values, by name
    rounded  what nodes that compute in float32 read in the place of values that come from outside
    raw      values from outside, which are not rounded yet, and what only moves their elements or makes indices of them
    indices  values of which only integers and booleans are computed
    wide     ops without a kernel
    """

    def __init__(self, graph: Graph, has_kernel: HasKernel) -> None:
        self.graph, self._has_kernel = branch(graph), has_kernel
        self.halves: dict[str, str] = {}
        self.rounded: dict[str, str] = {}
        self.raw = {*graph.inputs, *graph.params, *graph.constants}
        self.indices = self._only_indices(graph)
        self.wide: set[str] = set()

    def _only_indices(self, graph: Graph) -> set[str]:
        made, read, into_floats = set[str](), set[str](), set(graph.outputs)
        for node in reversed(graph.nodes):
            if graph.statistics.isdisjoint(node.outputs):
                floats = {name for name in node.outputs if self._is_float(name)}
                made |= floats
                if not floats <= read or not into_floats.isdisjoint(floats):
                    into_floats.update(node.inputs, node.captured)
                    into_floats |= floats
                read.update(node.inputs, node.captured)
        return made - into_floats

    def add(self, node: Node) -> None:
        """Append a node as float16 computes it."""
        made = {name for name in node.outputs if self._is_float(name)}
        floats = {name for name in node.inputs if self._is_float(name)}
        if floats and floats <= self.raw and (node.info.moves or made <= self.indices):
            self.raw |= made
            self.graph.nodes.append(node)
        elif made and self.graph.statistics.isdisjoint(made):
            self._round(node)
        else:
            self.graph.nodes.append(node)

    def _is_float(self, name: str) -> bool:
        spec = self.graph.specs.get(name)
        return spec is not None and spec.dtype == FLOAT

    def _round(self, node: Node) -> None:
        types = _Types(node)
        inputs = [self._half(n) if self._is_float(n) and types.allow(i) else n for i, n in enumerate(node.inputs)]
        half = replace(node, inputs=tuple(inputs))
        if types.follow_inputs and tuple(inputs) != node.inputs and self._has_kernel(half, self.graph):
            kept = types.of_outputs([i for i, name in enumerate(inputs) if name != node.inputs[i]])
            self._append(half, "float16", [i for i, n in enumerate(node.outputs) if self._is_float(n) and kept(i)])
            return
        if types.follow_inputs:
            self.wide.add(node.op)
        wide = replace(node, inputs=tuple(self._rounded(n) if self._is_float(n) else n for n in node.inputs))
        self._append(wide, "float32", [i for i, n in enumerate(node.outputs) if self._is_float(n)])

    def _append(self, node: Node, kind: str, positions: list[int]) -> None:
        """Append a node whose outputs at some positions get names of their own, then Casts to the names they had."""
        g, outputs = self.graph, list(node.outputs)
        for position in positions:
            outputs[position] = g.unique(f"{node.outputs[position]}/{kind}")
            g.declare(outputs[position], g.shape(node.outputs[position]), HALF if kind == "float16" else FLOAT)
        g.nodes.append(replace(node, outputs=tuple(outputs)))
        for position in positions:
            name, output = node.outputs[position], outputs[position]
            self.halves[name] = output if kind == "float16" else self._cast(output, HALF)
            g.nodes.append(Node("Cast", (self.halves[name],), (name,), {"to": int(onnx.TensorProto.FLOAT)}))

    def _half(self, name: str) -> str:
        """Return the float16 form of a value."""
        if name not in self.halves:
            array = self.graph.constants.get(name)
            self.halves[name] = self._cast(name, HALF) if array is None else self.graph.constant(_within(array), HALF)
        return self.halves[name]

    def _rounded(self, name: str) -> str:
        """Return a value in float32, rounded to float16."""
        if name not in self.raw:
            return name
        if name not in self.rounded:
            self.rounded[name] = self._cast(self._half(name), FLOAT)
        return self.rounded[name]

    def _cast(self, name: str, dtype: np.dtype[Any]) -> str:
        return self.graph.declare(self.graph.cast(name, dtype), self.graph.shape(name), dtype)


def _within(array: np.ndarray) -> np.ndarray:
    """Return finite numbers within the range of float16, those that are not 0 still not 0."""
    kept = np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), array)
    return np.where((kept != 0) & (np.abs(kept) < _LEAST), np.copysign(_LEAST, kept), kept)


class _Types:
    """What the schema of a node's op says of the types of its inputs and outputs; ops of the runtime have one type.

    follow_inputs: whether the type of the result is that of an input
    """

    def __init__(self, node: Node) -> None:
        self._node, self._schema = node, None
        if not node.domain:
            self._schema = onnx.defs.get_schema(node.op, OPSET, "")
        typed = any(name in node.attributes for name in _TYPED)
        self.follow_inputs = not (typed or node.info.bodies or node.captured or not node.inputs)

    def allow(self, position: int) -> bool:
        """Tell whether an input may be float16."""
        if self._schema is None:
            return True
        return "tensor(float16)" in self._formal(self._schema.inputs, position).types

    def of_outputs(self, positions: list[int]) -> Callable[[int], bool]:
        """Return what tells whether an output has the type of one of the inputs at some positions."""
        if self._schema is None:
            return lambda output: True
        inputs, outputs = self._schema.inputs, self._schema.outputs
        names = {self._formal(inputs, position).type_str for position in positions}
        return lambda output: self._formal(outputs, output).type_str in names

    @staticmethod
    def _formal(formals: Any, position: int) -> Any:
        return formals[min(position, len(formals) - 1)]
