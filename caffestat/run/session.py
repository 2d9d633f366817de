"""onnxruntime sessions with the settings that were measured to be fast for one forward and backward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from caffestat.graph import Graph, expand

from .runtime import onnxruntime

__all__ = ["Session"]

# From here on a net is deep, and the order of execution is chosen for memory: it saves 40 % on ResNet-50 and a fifth on
# MobileNet. On nets of few, large layers (AlexNet, VGG-16) it costs time, and memory too.
_DEEP_NODES = 2_000

# The runtime's optimizers take a time that grows faster than the square of the nodes: 30 s for 16,000 of them.
_MANY_NODES = 12_000

_LARGE_MATRIX = 1 << 22  # elements
_PRODUCTS = {"Gemm", "MatMul", "FusedMatMul"}

_CUDA_OPTIONS = {
    "use_tf32": "0",  # parity with Caffe's float32
    "cudnn_conv_algo_search": "HEURISTIC",  # one pass does not pay for an exhaustive search
}


def _options(graph: Graph) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if len(graph.nodes) < _MANY_NODES else level.ORT_DISABLE_ALL
    options.enable_mem_pattern = False  # on, it takes 45 to 75 % more memory and no less time
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # from opset 21 on, moving a Transpose past an int8 DequantizeLinear makes a node that the runtime itself refuses
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if len(graph.nodes) > _DEEP_NODES:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return options


def large_matrices(graph: Graph) -> list[str]:
    """Return the large params that only matrix products read.

    The runtime copies what a session holds, and packs it once more for its kernels: that pays for convolutions and for
    small matrices, not for one that a pass reads twice.
    """
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.op)
    return [
        name
        for name, spec in graph.params.items()
        if math.prod(spec.shape) >= _LARGE_MATRIX and readers.get(name, set()) <= _PRODUCTS
    ]


class Session:
    """A graph ready to run.

    arrays: the value of each of the graph's params; they are handed to the runtime without a copy into the model.
    """

    def __init__(self, graph: Graph, arrays: Mapping[str, np.ndarray], device: str = "cpu") -> None:
        ort = onnxruntime()
        options = _options(graph)
        graph = expand(graph)
        self._fed = {name: arrays[name] for name in large_matrices(graph)} if device == "cpu" else {}
        held = [name for name in graph.params if name not in self._fed]
        values = {name: ort.OrtValue.ortvalue_from_numpy(np.asarray(arrays[name], order="C")) for name in held}
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        providers: list[Any] = ["CPUExecutionProvider"]
        if device == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", _CUDA_OPTIONS))
        self._keep = values  # the runtime reads them as long as the session lives
        model = graph.to_onnx(fed=self._fed)
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
        self._outputs = list(graph.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run once and return every output by name."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {**feeds, **self._fed}), strict=True))
