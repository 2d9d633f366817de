"""Small ONNX models for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str] | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]] | Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    arrays: Mapping[str, np.ndarray] | None = None,
    opset: int = 22,
    **settings: Any,
) -> onnx.ModelProto:
    """A model whose inputs are float32 where they are given by shape, and whose outputs say no shape."""
    if isinstance(inputs, Mapping):
        inputs = [value(name, shape) for name, shape in inputs.items()]
    tensors = [numpy_helper.from_array(array, name) for name, array in (arrays or {}).items()]
    outs = [value(name, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "test", list(inputs), outs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **settings)


def run(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model in the stock runtime."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def normal(*shape: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
