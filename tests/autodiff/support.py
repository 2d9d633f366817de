"""Run the gradients of one op through onnxruntime, to compare them with torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime

from caffestat.autodiff import backward
from caffestat.graph import Graph
from caffestat.graph.late import for_provider

Build = Callable[..., str]


def run(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    params: Mapping[str, np.ndarray] | None = None,
    provider: str = "cpu",
) -> list[np.ndarray]:
    """Return the graph's outputs, computed on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    model = graph.to_onnx(params or {}, provider=provider).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def op_gradients(
    build: Build, inputs: Sequence[np.ndarray], dy: np.ndarray, provider: str = "cpu", constants: Sequence[int] = ()
) -> list[np.ndarray]:
    """Return y and the gradient of each input for `y = build(graph, *names)`; those in `constants` are params."""
    graph = Graph()
    arrays = {f"x{i}": array for i, array in enumerate(inputs)}
    names = []
    for i, (name, array) in enumerate(arrays.items()):
        names.append(graph.param(name, array.shape) if i in constants else graph.input(name, array.shape, array.dtype))
    seed = graph.input("dy", dy.shape, dy.dtype)
    y = build(graph, *names)
    grads = backward(graph, {y: seed}, names)
    graph.outputs = [y, *(grads[name] or "" for name in names)]
    params = {name: array for name, array in arrays.items() if name in graph.params}
    feeds = {name: array for name, array in arrays.items() if name in graph.inputs}
    return run(graph, {**feeds, "dy": dy}, params, provider)


def largest_constant(build: Build, inputs: Sequence[np.ndarray]) -> int:
    """Return the elements of the largest constant in the graph of an op and of its gradients, indices included."""
    graph = Graph()
    names = [graph.input(f"x{i}", array.shape, array.dtype) for i, array in enumerate(inputs)]
    y = build(graph, *names)
    graph.infer()
    backward(graph, {y: graph.input("dy", graph.shape(y))}, names)
    return max(array.size for array in for_provider(graph).constants.values())


def difference(actual: np.ndarray, expected: Any) -> float:
    """Return the largest deviation, relative to the largest value expected; the shapes must agree."""
    wanted = np.asarray(expected, np.float64)
    assert actual.shape == wanted.shape
    scale = float(np.abs(wanted).max(initial=0.0)) or 1.0
    return float(np.abs(actual.astype(np.float64) - wanted).max(initial=0.0)) / scale


def torch_gradients(function: Callable[..., Any], inputs: Sequence[np.ndarray], dy: np.ndarray) -> list[np.ndarray]:
    """Return y and the gradient of each input, by torch in double precision."""
    import torch

    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in inputs]
    y = function(*tensors)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    return [y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]
