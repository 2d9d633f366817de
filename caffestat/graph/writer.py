"""Definitions of ops by other ops, applied when a model is loaded, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from .graph import CONTRIB, Node
from .upgrade import AdapterContext

__all__ = ["Writer", "defined_ops", "definition", "is_defined", "written"]


class Writer:
    """Collects the nodes that replace one."""

    def __init__(self, context: AdapterContext, node: Node) -> None:
        self.context, self.node, self.nodes = context, node, list[Node]()
        spec = context.spec(node.inputs[0])
        self.dtype = spec.dtype if spec else np.dtype(np.float32)

    def input(self, position: int) -> str:
        """Return the name of an input, empty for an absent one."""
        return self.node.inputs[position] if position < len(self.node.inputs) else ""

    def output(self, position: int) -> str:
        """Return the name of an output, empty for one that the node leaves out."""
        return self.node.outputs[position] if position < len(self.node.outputs) else ""

    def emit(self, op: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node and return its output's name."""
        output = to or self.context.unique(f"{self.node.outputs[0]}/{op}")
        self.nodes.append(Node(op, inputs, (output,), attributes))
        return output

    def number(self, value: float) -> str:
        """Return a constant of the data's type."""
        return self.context.constant(value, self.dtype)

    def sum(self, *terms: str, to: str = "") -> str:
        """Emit the sum of the terms that are not absent; `to` names it."""
        total, *others = filter(None, terms)
        for index, term in enumerate(others):
            total = self.emit("Add", total, term, to=to if index == len(others) - 1 else "")
        return total

    def shape(self, position: int) -> tuple[int, ...]:
        """Return the shape of an input, which has to be known."""
        return self.context.spec(self.input(position)).shape  # type: ignore[union-attr]

    def ints(self, *values: int) -> str:
        """Return a constant vector of int64."""
        return self.context.constant(list(values), np.int64)

    def cast(self, value: str, kind: Any) -> str:
        """Emit a Cast to a numpy type."""
        output = self.context.unique(f"{value}/Cast")
        to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.nodes.append(Node("Cast", (value,), (output,), {"to": int(to)}))
        return output

    def reshape(self, value: str, *shape: int, to: str = "") -> str:
        """Emit a Reshape."""
        return self.emit("Reshape", value, self.ints(*shape), to=to)

    def transpose(self, value: str, *perm: int, to: str = "") -> str:
        """Emit a Transpose."""
        return self.emit("Transpose", value, to=to, perm=list(perm))

    def parts(self, value: str, axis: int, *sizes: int) -> list[str]:
        """Emit a Split along an axis, without empty parts; return a name for each size, empty for 0."""
        outputs = [self.context.unique(f"{value}/part") if size else "" for size in sizes]
        if sum(map(bool, sizes)) == 1:
            return [value if size else "" for size in sizes]
        split = self.ints(*(size for size in sizes if size))
        self.nodes.append(Node("Split", (value, split), tuple(filter(None, outputs)), {"axis": axis}))
        return outputs

    def concat(self, axis: int, *values: str, to: str = "") -> str:
        """Emit a Concat of the values that are not absent."""
        return self.emit("Concat", *filter(None, values), to=to, axis=axis)


Define = Callable[[Writer, Node, str], None]
Fits = Callable[[AdapterContext, Node], bool]


@dataclass(frozen=True)
class _Definition:
    """write: appends the nodes of a node to a writer; fits: tells whether it can express this one."""

    write: Define
    fits: Fits


_DEFINITIONS: dict[tuple[str, str], _Definition] = {}


def definition(*ops: str, fits: Fits = lambda context, node: True, domain: str = CONTRIB) -> Callable[[Define], Define]:
    """Register a definition of these ops of a domain in ops of opset 22."""

    def register(write: Define) -> Define:
        for op in ops:
            if (domain, op) in _DEFINITIONS:
                raise ValueError(f"op {op!r} of {domain!r} already has a definition")
            _DEFINITIONS[domain, op] = _Definition(write, fits)
        return write

    return register


def defined_ops(domain: str) -> list[str]:
    """Return the ops of a domain that have a definition."""
    return sorted(op for found, op in _DEFINITIONS if found == domain)


def is_defined(context: AdapterContext, node: Node) -> bool:
    """Tell whether a node's op has a definition."""
    found = _DEFINITIONS.get((node.domain, node.op))
    return found is not None and found.fits(context, node)


def written(context: AdapterContext, node: Node) -> list[Node]:
    """Return the nodes that define a node; the node itself where its op has no definition."""
    if not is_defined(context, node):
        return [node]
    writer = Writer(context, node)
    _DEFINITIONS[node.domain, node.op].write(writer, node, node.outputs[0])
    return writer.nodes
