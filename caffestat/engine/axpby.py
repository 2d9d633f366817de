"""y = a·x + b·y as Caffe computes it with a BLAS that fuses multiply and add, from a kernel of the runtime."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np

from caffestat.graph import Graph

from .runtime import onnxruntime, open_session, runtime_errors, session_options

__all__ = ["axpby", "fuses"]

_SESSIONS = 32  # pairs of factors whose sessions are kept: weight decays, and rates with momentum
_ANY = -1  # a size that each run decides


def axpby(a: np.float32, x: np.ndarray, b: np.float32, y: np.ndarray) -> None:
    """Compute y = round(a·x + round(b·y)) in place; x and y are float32 arrays [N] in one piece. Meant where `fuses`.

    Threads may compute on different arrays at once.
    """
    session, one, result = _session(float(a), float(b))
    wrap = onnxruntime().OrtValue.ortvalue_from_numpy  # copies nothing
    into = wrap(y.reshape(1, -1))
    binding = session.io_binding()
    for name, value in (("one", one), ("x", wrap(x.reshape(1, -1))), ("y", into)):
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output(result, into)
    with runtime_errors():
        session.run_with_iobinding(binding)


@cache
def fuses() -> bool:
    """Tell whether `axpby` rounds as it should here: its kernel does on processors with a fused multiply-add."""
    random, (a, b) = np.random.default_rng(0), np.array([0.3, 0.9], np.float32)
    x, y = random.standard_normal((2, 256)).astype(np.float32)
    expected = (np.float64(a) * x + b * y).astype(np.float32)
    axpby(a, x, b, y)
    return np.array_equal(y, expected)


@lru_cache(_SESSIONS)
def _session(a: float, b: float) -> tuple[Any, Any, str]:
    """Return a session for two factors, the matrix [[1]], and the result's name.

    The matrix product computes alpha · (1 · x) + beta · y: it rounds beta · y, and then once more.
    """
    graph = Graph()
    inputs = [graph.input(name, shape) for name, shape in (("one", (1, 1)), ("x", (1, _ANY)), ("y", (1, _ANY)))]
    graph.outputs.append(graph.emit("Gemm", *inputs, alpha=a, beta=b))
    options = session_options()
    options.intra_op_num_threads = 1
    with runtime_errors():
        session = open_session(graph.to_onnx(), options)
        one = onnxruntime().OrtValue.ortvalue_from_numpy(np.ones((1, 1), np.float32))
    return session, one, graph.outputs[0]
