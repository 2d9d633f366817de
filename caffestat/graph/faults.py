"""Faults of nodes that plugins emit, found before the runtime gets them."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import defs

from .graph import OPSET, Graph, Node

__all__ = ["find_fault"]


def find_fault(g: Graph, nodes: Iterable[Node]) -> str | None:
    """Return a message for the first fault: an unknown op, too many or too few inputs, one that nothing computes."""
    known = {"", *g.inputs, *g.params, *g.constants, *(output for node in g.nodes for output in node.outputs)}
    for node in nodes:
        unknown = [name for name in node.inputs if name not in known]
        if unknown:
            return f"op {node.op} reads {unknown[0]!r}, which nothing computes"
        if node.domain and node.domain not in g.domains:
            return f"op {node.op} is of domain {node.domain!r}, which the runtime lacks"
        if not node.domain and (fault := _schema_fault(node)):
            return fault
    return None


def _schema_fault(node: Node) -> str | None:
    if not defs.has(node.op, OPSET):
        return f"opset {OPSET} has no op {node.op!r}"
    schema = defs.get_schema(node.op, OPSET)
    least, most, found = schema.min_input, schema.max_input, len(node.inputs)
    if not least <= found <= most:
        return f"op {node.op} takes {least if least == most else f'{least} to {most}'} inputs, found {found}"
    required = [name for name, attribute in schema.attributes.items() if attribute.required]
    missing = [name for name in required if name not in node.attributes]
    return f"op {node.op} needs the attribute {missing[0]!r}" if missing else None
