"""One check for every gradient rule: against finite differences in double precision, and against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import onnxruntime
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as state

from caffestat.autodiff import backward
from caffestat.graph import Graph

try:
    import torch
except ImportError:
    torch = None

Arrays = list[np.ndarray]
Function = Callable[[Arrays], Arrays]
Build = Callable[..., "str | Sequence[str]"]

STEP = 1e-3  # the five-point difference below is off by STEP⁴/30 of the fifth derivative
DIRECTIONS = 3
SINGLE, DOUBLE = 1e-5, 1e-8  # tolerances, relative to the largest value


def check_grads(
    build: str | Build,
    *inputs: Any,
    outputs: Sequence[int] | None = None,
    torch: Callable[..., Any] | None = None,
    reference: Callable[..., Any] | None = None,
    single: float = SINGLE,
    double: float = DOUBLE,
    **attributes: Any,
) -> None:
    """Assert that the gradients of an op (or of what `build(graph, *names)` emits) are right.

    inputs     float64 arrays are differentiated; others become constants of their own type, Python's floats ones of the
               type that the graph is built in; None is an absent input
    outputs    which outputs get a (random) gradient: all by default
    torch      the same function of the float64 inputs, in torch
    reference  the same function of all arrays in numpy, where no float64 evaluator of the op exists
    single, double   tolerances of the float32 run and of the float64 one

    The gradients come from onnxruntime in float32, and from a float64 evaluator: of all inputs together, and of each
    one alone, where a rule that mistakes which input is needed would show.
    """
    if isinstance(build, str):
        op, build = build, lambda g, *names: g.emit(op, *names, **attributes)
    case = _Case(build, inputs, outputs, reference)
    every = range(len(case.arrays))
    exact = case.gradients(every, np.float64)
    _compare("float32", case.gradients(every, np.float32), exact, single)
    for i in every if len(every) > 1 else ():
        _compare(f"input {i} alone", case.gradients([i], np.float64), [exact[i]], double)
    _compare_differences(case, exact, double)
    if torch:
        _compare_torch(case, torch, exact, double)


class _Case:
    """A function of float64 arrays, as a graph of either precision."""

    def __init__(self, build: Build, inputs: Sequence[Any], outputs: Sequence[int] | None, reference: Any) -> None:
        self.build, self.inputs = build, inputs
        self.arrays: Arrays = [x for x in inputs if _differentiable(x)]
        self.function = self._of_numpy(reference) if reference else self._of_graph()
        ys = self.function(self.arrays)
        picked = range(len(ys)) if outputs is None else outputs
        rng = np.random.default_rng(5)
        self.dys = {i: np.asarray(rng.normal(size=ys[i].shape)) for i in picked if ys[i].dtype == np.float64}

    def graph(self, dtype: Any) -> tuple[Graph, list[str]]:
        graph = Graph()
        names = [self._declare(graph, x, dtype) for x in self.inputs]
        built = self.build(graph, *names)
        return graph, [built] if isinstance(built, str) else list(built)

    def _declare(self, graph: Graph, x: Any, dtype: Any) -> str:
        if x is None:
            return ""
        if _differentiable(x):
            return graph.input("x", x.shape, dtype)
        array = np.asarray(x)
        return graph.constant(array, dtype if array.dtype == np.float64 else array.dtype)

    def _of_graph(self) -> Function:
        graph, names = self.graph(np.float64)
        graph.outputs = names
        return evaluator(graph)

    def _of_numpy(self, reference: Callable[..., Any]) -> Function:
        def function(arrays: Arrays) -> Arrays:
            given = iter(arrays)
            return _as_arrays(reference(*(next(given) if _differentiable(x) else x for x in self.inputs)))

        return function

    def gradients(self, wrt: Sequence[int], dtype: Any) -> Arrays:
        graph, ys = self.graph(dtype)
        xs = list(graph.inputs)
        seeds = {ys[i]: graph.constant(dy, dtype) for i, dy in self.dys.items()}
        grads = backward(graph, seeds, [xs[i] for i in wrt])
        graph.outputs = [name or graph.constant(np.zeros(graph.shape(x)), dtype) for x, name in grads.items()]
        graph.outputs = [graph.emit("Identity", name) for name in graph.outputs]
        return evaluator(graph)([x.astype(dtype) for x in self.arrays])


def _differentiable(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float64


def _as_arrays(value: Any) -> Arrays:
    return [np.asarray(y) for y in _as_list(value)]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def evaluator(graph: Graph) -> Function:
    """Return the graph as a function: of onnxruntime where it has all kernels, else of onnx's own evaluator."""
    model = _pruned(graph).to_onnx()
    names = list(graph.inputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except (state.NotImplemented, state.InvalidGraph):
        if any(spec.dtype == np.float32 for spec in graph.inputs.values()):
            raise
        session = ReferenceEvaluator(model)
    return lambda arrays: _as_arrays(session.run(None, dict(zip(names, arrays, strict=True))))


def _pruned(graph: Graph) -> Graph:
    """Return the graph without the nodes that no output depends on."""
    wanted, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    result = copy(graph)
    result.nodes = kept[::-1]
    return result


def _compare(what: str, actual: Arrays, expected: Arrays, tolerance: float) -> None:
    for i, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        assert found.shape == wanted.shape, f"{what}, gradient {i}: shape {found.shape}, expected {wanted.shape}"
        scale = np.abs(wanted).max(initial=0.0) or 1.0
        error = np.abs(found - wanted).max(initial=0.0) / scale
        assert error <= tolerance, f"{what}, gradient {i}: off by {error:.2g}\nfound\n{found}\nexpected\n{wanted}"


def _compare_differences(case: _Case, grads: Arrays, tolerance: float) -> None:
    """Compare <gradient, v> with the derivative along v, for random v."""
    rng = np.random.default_rng(7)
    for i, (x, grad) in enumerate(zip(case.arrays, grads, strict=True)):
        assert grad.shape == x.shape, f"gradient {i}: shape {grad.shape}, expected {x.shape}"
        for _ in range(DIRECTIONS):
            v = np.asarray(rng.uniform(-1, 1, x.shape))
            found, expected = np.vdot(grad, v), _derivative(case, i, v)
            scale = np.abs(grad).sum() or 1.0
            error = abs(found - expected) / scale
            assert error <= tolerance, f"gradient {i} along a direction: {found}, finite difference {expected}\n{grad}"


def _derivative(case: _Case, position: int, v: np.ndarray) -> float:
    """(8·(f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h."""

    def value(h: float) -> float:
        arrays = list(case.arrays)
        arrays[position] = np.asarray(arrays[position] + h * v)
        ys = case.function(arrays)
        return float(sum(np.vdot(ys[i], dy) for i, dy in case.dys.items()))

    near, far = (value(h) - value(-h) for h in (STEP, 2 * STEP))
    return (8 * near - far) / (12 * STEP)


def _compare_torch(case: _Case, function: Callable[..., Any], grads: Arrays, tolerance: float) -> None:
    if torch is None:
        return
    tensors = [torch.tensor(x, requires_grad=True) for x in case.arrays]
    ys = _as_list(function(*tensors))
    total = sum((ys[i] * torch.tensor(dy)).sum() for i, dy in case.dys.items())
    expected = torch.autograd.grad(total, tensors, allow_unused=True)
    zeros = [np.zeros_like(x) for x in case.arrays]
    _compare("torch", grads, [z if g is None else g.numpy() for g, z in zip(expected, zeros, strict=True)], tolerance)
