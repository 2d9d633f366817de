"""The ops for which a device has float16 kernels, found by asking the runtime with models of one node."""

from __future__ import annotations

import tempfile
from collections.abc import Hashable, Sequence
from pathlib import Path

from caffestat.errors import RunError
from caffestat.graph import Graph, Node, Spec
from caffestat.graph.expand import DECOMPOSED
from caffestat.graph.late import branch, for_provider
from caffestat.graph.order import live

from .device import Device
from .runtime import onnxruntime, open_session, runtime_errors, session_options

__all__ = ["Kernels"]


class Kernels:
    """The float16 kernels of a device; each op is asked for once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._found: dict[Hashable, bool] = {}

    def narrowed(self, graph: Graph, outputs: Sequence[str]) -> tuple[Graph, set[str]]:
        """Return a graph that computes some outputs in float16, and the ops that are computed in float32."""
        from caffestat.graph.narrow import narrowed  # imports onnx

        ordinary = for_provider(graph, self._device.kind)
        whole = branch(ordinary)
        whole.nodes = live(ordinary.nodes, outputs)
        whole.infer()
        return narrowed(whole, self.have)

    def have(self, node: Node, graph: Graph) -> bool:
        """Tell whether the device computes a node in float16 whose inputs `graph` has in float16."""
        adds_up = node.get("reduction", "none") != "none"  # the CPU has a kernel, which refuses to run
        specs = [graph.specs.get(name) for name in node.inputs]
        is_known = all(spec or not name for spec, name in zip(specs, node.inputs, strict=True))
        if (node.op in DECOMPOSED and not node.domain) or (adds_up and self._device.kind == "cpu") or not is_known:
            return False
        key = node.op, node.domain, tuple(spec and (spec.dtype.str, len(spec.shape)) for spec in specs)
        if key not in self._found:
            self._found[key] = self._ask(_alone(node, graph))
        return self._found[key]

    def _ask(self, graph: Graph) -> bool:
        """Tell whether the runtime opens a model without casting."""
        ort = onnxruntime()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            options = session_options()
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.optimized_model_filepath = str(path)
            try:
                with runtime_errors():
                    open_session(graph.to_onnx(), options, self._device.providers)
            except RunError:
                return False
            return b"InsertedPrecisionFreeCast" not in path.read_bytes()


def _alone(node: Node, graph: Graph) -> Graph:
    """Return a graph of one node, with the constants that it reads and all else as inputs."""
    alone = Graph()
    alone.domains = graph.domains
    for name in dict.fromkeys(filter(None, node.inputs)):
        spec: Spec = graph.specs[name]
        if name in graph.constants:
            alone.constants[name] = graph.constants[name]
            alone.specs[name] = spec
        else:
            alone.input(name, spec.shape, spec.dtype)
    alone.nodes.append(node)
    alone.outputs = [name for name in node.outputs if name]
    return alone
