"""Checks of an ONNX model's nodes before anything uses them: some invalid nodes make the runtime end the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import google.protobuf.message
import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from caffestat.errors import InputError
from caffestat.ops import Bodies, op_info

from .graph import OPSET

__all__ = ["MAX_NODES", "all_nodes", "as_damage", "check_model", "infer_shapes"]

MAX_NODES = 50_000
"""The most nodes of a model, its functions inlined."""

_Opsets = dict[str, int]


_DAMAGE = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    onnx.shape_inference.InferenceError,
    google.protobuf.message.Error,
)


@contextmanager
def as_damage() -> Iterator[None]:
    """Raise InputError for what the onnx and protobuf packages raise of a damaged model."""
    try:
        yield
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"the model is damaged, or cannot be used: {type(error).__name__}: {reason}") from error


def infer_shapes(model: ModelProto) -> ModelProto:
    """Return the model with the shapes and types that ONNX can tell. Raises InputError for a damaged model."""
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # what its C++ code raises comes as any of Python's
        raise InputError(f"the model is damaged: {(str(error).splitlines() or [''])[0]}") from error


def check_model(model: ModelProto) -> None:
    """Raise InputError for too many nodes, functions that call themselves, and nodes that do not fit their op's schema.

    Nodes of unknown ops are not looked at, but their domains must be known.
    """
    functions = {(function.domain, function.name): function for function in model.functions}
    _Sizes(functions).check(model.graph.node)
    opsets = _opsets(model.opset_import)
    for node in all_nodes(model.graph.node):
        _check_references(node)
        _check_node(node, opsets, model.ir_version)
    for function in model.functions:
        for node in all_nodes(function.node):
            _check_node(node, _opsets(function.opset_import), model.ir_version)


def _opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> _Opsets:
    return {"": OPSET, **{"" if item.domain == "ai.onnx" else item.domain: item.version for item in imports}}


def _check_references(node: NodeProto) -> None:
    """Raise InputError for an attribute that refers to one of a function, outside of any."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            what = f"attribute {attribute.name!r} refers to {attribute.ref_attr_name!r} of a function, but is in none"
            raise InputError(f"{_name(node)} is damaged: {what}")


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else attribute.graphs


def all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Yield nodes and those of their subgraphs; protobuf limits how deep these are nested."""
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from all_nodes(graph.node)


class _Sizes:
    """Counts nodes with every call of a function replaced by its body."""

    def __init__(self, functions: Mapping[tuple[str, str], FunctionProto]) -> None:
        self._functions = functions
        self._counts: dict[tuple[str, str], int] = {}
        self._open: set[tuple[str, str]] = set()

    def check(self, nodes: Iterable[NodeProto]) -> None:
        count = self._count(nodes)
        if count > MAX_NODES:
            raise InputError(f"the model has {_many(count)} nodes; expected at most {MAX_NODES:,}")

    def _count(self, nodes: Iterable[NodeProto]) -> int:
        return sum(self._of_call((node.domain, node.op_type)) for node in all_nodes(nodes))

    def _of_call(self, name: tuple[str, str]) -> int:
        if name not in self._functions:
            return 1
        if name in self._open or len(self._open) > 100:
            raise InputError(f"the model's function {name[1]!r} calls itself, or calls are nested too deep")
        if name not in self._counts:
            self._open.add(name)
            self._counts[name] = self._count(self._functions[name].node)
            self._open.remove(name)
        return self._counts[name]


def _many(count: int) -> str:
    return f"{count:,}" if count < 10**12 else "more than 10^12"


def _check_node(node: NodeProto, opsets: _Opsets, ir_version: int) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in opsets:
        raise InputError(f"{_name(node)} is damaged: the model does not import its domain {domain!r}")
    if not any(node.output):
        raise InputError(f"{_name(node)} is damaged: it has no output")
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: a version that no int of C++ holds
        if not domain and onnx.defs.has(node.op_type):
            what = f"its op is not in the model's opset {opsets[domain]}"
            raise InputError(f"{_name(node)} is damaged: {what}") from None
        return
    if schema.deprecated:
        return
    try:
        context = onnx.checker.C.CheckerContext()
        context.ir_version = ir_version
        context.opset_imports = opsets
        onnx.checker.check_node(_bare(node), context)
    except Exception as error:  # it raises the checker's own and what its C++ code raises
        raise InputError(f"{_name(node)} is damaged: {str(error).splitlines()[0]}") from error
    _check_variadic(node, schema)
    if not domain:
        _check_branches(node)
        _check_loop(node)
        _check_count(node)


def _check_branches(node: NodeProto) -> None:
    """Raise InputError when an If has another number of outputs than one of its branches."""
    graphs = _subgraphs(node) if op_info(node.op_type).bodies is Bodies.BRANCHES else ()
    for graph in graphs:
        if len(graph.output) != len(node.output):
            what = f"branch {graph.name!r} has {len(graph.output)} outputs, the node {len(node.output)}"
            raise InputError(f"{_name(node)} is damaged: {what}")


def _check_loop(node: NodeProto) -> None:
    """Raise InputError when the body of a Loop takes or makes another number of values than the node."""
    graphs = _subgraphs(node) if op_info(node.op_type).bodies is Bodies.LOOP else ()
    for graph in graphs:
        taken, made = max(len(node.input), 2), max(len(node.output), len(node.input) - 2) + 1
        if len(graph.input) != taken or len(graph.output) < made:
            what = f"body {graph.name!r} has {len(graph.input)} inputs and {len(graph.output)} outputs"
            raise InputError(f"{_name(node)} is damaged: {what}, expected {taken} and {made}")


def _check_count(node: NodeProto) -> None:
    """Raise InputError when a node counts other outputs than it has: shape inference would end the process."""
    for attribute in node.attribute:
        count = attribute.i if attribute.name == "num_outputs" else len(attribute.ints)
        if attribute.name in ("num_outputs", "split") and count != len(node.output):
            what = f"{attribute.name} is for {count} outputs, the node has {len(node.output)}"
            raise InputError(f"{_name(node)} is damaged: {what}")


def _check_variadic(node: NodeProto, schema: onnx.defs.OpSchema) -> None:
    """Raise InputError for an absent input among those of which there may be many: the runtime reads it."""
    last = len(schema.inputs) - 1
    is_variadic = last >= 0 and schema.inputs[last].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    if is_variadic and not all(node.input[last:]):
        raise InputError(f"{_name(node)} is damaged: input {last + list(node.input[last:]).index('')} has no name")


def _name(node: NodeProto) -> str:
    return f"node {node.name or next(iter(node.output), '')!r} ({node.op_type})"


def _bare(node: NodeProto) -> NodeProto:
    """Return the node without the contents of tensors and graphs, which are checked where they are used."""
    if not any(a.type in (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
        return node
    bare = NodeProto(op_type=node.op_type, domain=node.domain, name=node.name)
    bare.input.extend(node.input)
    bare.output.extend(node.output)
    for attribute in node.attribute:
        kept = bare.attribute.add(name=attribute.name, type=attribute.type, ref_attr_name=attribute.ref_attr_name)
        if attribute.type == AttributeProto.TENSOR and attribute.HasField("t"):
            kept.t.CopyFrom(onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, raw_data=bytes(4)))
        elif attribute.type == AttributeProto.GRAPH and attribute.HasField("g"):
            kept.g.name = "bare"
        else:
            kept.CopyFrom(attribute)
    return bare
