"""From a Graph to an onnx.ModelProto. Only here is the onnx package imported."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import copy
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caffestat.ops import op_info

from . import blocked
from .graph import IR_VERSION, OPSET, Graph, Node, Spec
from .late import LATE
from .nodes import to_proto

__all__ = ["infer_specs", "spec_of", "to_onnx", "value_info"]

EXTERNAL = "weights"  # the location name that a session resolves through add_external_initializers


def value_info(name: str, spec: Spec) -> onnx.ValueInfoProto:
    """Return name, type and shape of a value as protobuf."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(spec.dtype), spec.shape)


def _external(name: str, spec: Spec) -> TensorProto:
    tensor = TensorProto(
        name=name,
        dims=spec.shape,
        data_type=helper.np_dtype_to_tensor_dtype(spec.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=EXTERNAL)
    return tensor


def _kernel_opset(nodes: Iterable[onnx.NodeProto]) -> int:
    """Return the opset for which the stock runtimes have a kernel for every node, those in subgraphs included.

    Between it and OPSET ops have got new element types and nothing else; the shape inference of older ceil-mode pooling
    is wrong, though, so it is used for models that need it only.
    """
    opset = OPSET
    for node in nodes:
        opset = min(opset, op_info(node.op_type, node.domain).kernel_opset or OPSET)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                opset = min(opset, _kernel_opset(attribute.g.node))
    return opset


def _model(graph: Graph, inputs: Mapping[str, Spec], tensors: list[TensorProto], newest: int) -> onnx.ModelProto:
    proto = helper.make_graph(
        [to_proto(node) for node in graph.nodes],
        "caffestat",
        [value_info(name, spec) for name, spec in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in graph.outputs],
        tensors,
    )
    versions = {"": min(newest, _kernel_opset(proto.node)), **graph.domains}
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(proto, opset_imports=opsets, ir_version=IR_VERSION, producer_name="caffestat")


def _constants(graph: Graph) -> list[TensorProto]:
    """Return the constants that are read; the runtime warns of others."""
    read = {*graph.outputs, *(name for node in graph.nodes for name in (*node.inputs, *node.captured))}
    return [numpy_helper.from_array(array, name) for name, array in graph.constants.items() if name in read]


def to_onnx(graph: Graph, arrays: Mapping[str, np.ndarray], fed: Collection[str], newest: int) -> onnx.ModelProto:
    """Return the model; params in `arrays` are embedded, those in `fed` are inputs, the others external.

    newest: the newest opset that serves
    """
    tensors = _constants(graph)
    held = {name: spec for name, spec in graph.params.items() if name not in fed}
    for name, spec in held.items():
        tensors.append(numpy_helper.from_array(arrays[name], name) if name in arrays else _external(name, spec))
    model = _model(graph, {**graph.inputs, **{name: graph.params[name] for name in fed}}, tensors, newest)
    if graph.is_kept and any(node.domain == blocked.NCHWC for node in graph.nodes):
        model.functions.extend(blocked.functions())
    if graph.is_settled:
        computed = {name for node in graph.nodes for name in node.outputs}.difference(graph.outputs)
        known = sorted(computed.intersection(graph.specs) - graph.decided)
        model.graph.value_info.extend(value_info(name, graph.specs[name]) for name in known)
    for value in model.graph.output:
        if value.name in graph.specs:
            value.CopyFrom(value_info(value.name, graph.specs[value.name]))
    return model


def spec_of(kind: onnx.TypeProto) -> Spec | None:
    """Return shape and type, None unless both are known."""
    tensor = kind.tensor_type
    dims = tensor.shape.dim
    is_known = tensor.elem_type in helper.get_all_tensor_dtypes() and tensor.HasField("shape")
    if not is_known or any(not dim.HasField("dim_value") for dim in dims):
        return None
    dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return Spec(tuple(dim.dim_value for dim in dims), dtype)


def infer_specs(graph: Graph) -> dict[str, Spec]:
    """Return shape and type of every value that ONNX shape inference finds and that is not declared.

    Params count as inputs, and so does what is known already; integers may be shapes, which inference computes anew.
    """
    open_ends = copy(graph)
    open_ends.nodes = [node for node in graph.nodes if node.domain != LATE and _is_open(graph, node)]
    computed = {name for node in open_ends.nodes for name in node.outputs}
    read = {name for node in open_ends.nodes for name in (*node.inputs, *node.captured)}
    open_ends.outputs = []
    known = {name: graph.specs[name] for name in read - computed - graph.constants.keys() if name in graph.specs}
    model = _model(open_ends, known, _constants(open_ends), OPSET)
    model.graph.value_info.extend(value_info(name, graph.specs[name]) for name in computed if name in graph.specs)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    specs = ((info.name, spec_of(info.type)) for info in inferred.graph.value_info)
    return {name: spec for name, spec in specs if spec is not None}


def _is_open(graph: Graph, node: Node) -> bool:
    specs = [graph.specs.get(name) for name in node.outputs if name]
    return any(spec is None or spec.dtype.kind in "iu" for spec in specs)
