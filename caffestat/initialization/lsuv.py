"""Layer-sequential unit variance: weights scaled until the measured variance behind each layer is 1.

D. Mishkin, J. Matas, *All you need is a good init*, 2016, algorithm 1: start from orthonormal weights; layer by layer,
from the data on, divide W by √Var(B), B the layer's output on a batch, until |Var(B) - 1| < tolerance or a number of
iterations is reached. The authors' script (ducha-aiki/LSUVinit, lsuv_init.py) has a tolerance of 0.02 and 20
iterations; LSUV-pytorch also moves the bias so that the mean of B is 0.

Here one pass over the net does it (see `linear`). With B = Z + b, the variance at a scale σ is

    Var(Z) / σ² + 2 Cov(Z, b) / σ + Var(b)

so that the iterations, which a bias makes necessary that differs from output to output, work on three numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.engine import CPU, Compiled
from caffestat.graph import Graph
from caffestat.program import Forward, Program

from .linear import Linear, linear_rows, replace_top, without_bias

__all__ = ["LsuvOptions", "lsuv"]

_SMALLEST = 1e-12  # of a variance: below, a layer's output is taken for constant and left alone
_MISSED = 0.01  # distance of a variance from 1 beyond which a note says so, where the tolerance is smaller


@dataclass(frozen=True)
class LsuvOptions:
    """The options of the authors' scripts.

    tolerance   a layer whose variance is this near to 1 is left as it is
    iterations  divisions by √Var(B) at most
    mean        move the bias so that the mean of B is 0
    """

    tolerance: float = 0.0
    iterations: int = 20
    mean: bool = False


@dataclass(frozen=True)
class _Found:
    """Values of the graph: the scale of a weight, the variance that it gives, and what is taken off the bias."""

    scale: str
    variance: str
    shift: str | None


def lsuv(
    program: Program,
    values: Sequence[np.ndarray],
    numbers: Collection[int],
    feeds: Mapping[str, np.ndarray],
    forward: Forward,
    options: LsuvOptions | None = None,
    notes: MutableSequence[str] | None = None,
) -> dict[int, float]:
    """Scale the weights in place so that the values behind their rows have variance 1 on these feeds.

    values   by number, as `program.values` returns them
    numbers  of the weights to scale; of a shared one the first row that reads it decides
    feeds    of `forward`, the program's forward graph, which is changed
    notes    gets a line about each layer that misses the variance or whose mean cannot be moved

    Returns what each weight was divided by. Raises a CaffestatError when the graph cannot be run.
    """
    options = options or LsuvOptions()
    graph, found = forward.graph, dict[int, tuple[Linear, _Found]]()
    graph.infer()
    for linear in linear_rows(program, forward, numbers):
        known = found[linear.weight][1] if linear.weight in found else None
        scaled = _scale(graph, forward, linear, values, options, known)
        found.setdefault(linear.weight, (linear, scaled))
    graph.outputs = sorted({n for _, f in found.values() for n in (f.scale, f.variance, f.shift) if n})
    if not graph.outputs:
        return {}
    params = {name: values[number] for number, name in forward.params.items()}
    numbers_of = {name: float(array) for name, array in Compiled(graph, CPU, params).run(feeds).items()}
    for number, (linear, scaled) in found.items():
        values[number][...] = values[number] / np.float32(numbers_of[scaled.scale])
        if scaled.shift and linear.bias is not None:
            values[linear.bias][...] -= np.float32(numbers_of[scaled.shift])
        if notes is not None:
            notes += _notes(program, linear, options, numbers_of[scaled.variance])
    return {number: numbers_of[scaled.scale] for number, (_, scaled) in found.items()}


def _notes(program: Program, linear: Linear, options: LsuvOptions, variance: float) -> list[str]:
    name, notes = program.rows[linear.row].name, []
    if abs(variance - 1) > max(options.tolerance, _MISSED):
        notes.append(f"{name}: the variance after lsuv is {variance:.4g}, not 1")
    if options.mean and not linear.has_own_bias:
        notes.append(f"{name}: lsuv does not change the mean: the layer has no bias")
    return notes


def _scale(
    graph: Graph,
    forward: Forward,
    linear: Linear,
    values: Sequence[np.ndarray],
    options: LsuvOptions,
    known: _Found | None,
) -> _Found:
    """Put Z / σ + b in the place of a row's top Z + b; σ is `known` where an earlier row has decided it."""
    found = known

    def emit() -> str:
        nonlocal found
        z, bias = without_bias(graph, forward, linear)
        varies = bias is not None and linear.bias is not None and np.ptp(values[linear.bias]) > 0
        scale, variance = (
            (found.scale, found.variance) if found else _solve(graph, z, bias if varies else None, options)
        )
        scaled = graph.emit("Div", z, scale)
        top = graph.emit("Add", scaled, bias) if bias else scaled
        shift = found.shift if found else _mean(graph, top) if bias and options.mean else None
        found = found or _Found(scale, variance, shift)
        return graph.emit("Sub", top, shift) if shift else top

    replace_top(graph, forward, linear, emit)
    assert found is not None
    return found


def _mean(graph: Graph, value: str) -> str:
    return graph.declare(graph.emit("ReduceMean", value, keepdims=0), ())


def _covariance(graph: Graph, one: str, other: str) -> str:
    """Emit the covariance over all elements of two values that are centred, the one as large as a row's top."""
    return _mean(graph, graph.emit("Mul", one, other))


def _solve(graph: Graph, z: str, bias: str | None, options: LsuvOptions) -> tuple[str, str]:
    """Emit σ with Var(Z / σ + b) = 1, and that variance; σ is 1 where Z is constant. `bias` is None where b is one."""
    one = graph.constant(1)
    centred = graph.emit("Sub", z, _mean(graph, z))
    of_z = _covariance(graph, centred, centred)
    off = graph.emit("Sub", bias, _mean(graph, bias)) if bias else None
    of_both = _covariance(graph, centred, off) if off else None
    of_bias = _covariance(graph, off, off) if off else None

    def variance(scale: str) -> str:
        total = graph.emit("Div", of_z, graph.emit("Mul", scale, scale))
        if of_both and of_bias:
            twice = graph.emit("Div", graph.emit("Add", of_both, of_both), scale)
            total = graph.emit("Add", graph.emit("Add", total, twice), of_bias)
        return graph.declare(total, ())

    scale, found = one, variance(one)
    is_constant = graph.emit("Less", of_z, graph.constant(_SMALLEST))
    for _ in range(options.iterations if bias else 1):
        distance = graph.emit("Abs", graph.emit("Sub", found, one))
        is_near = graph.emit("LessOrEqual", distance, graph.constant(options.tolerance))
        stays = graph.emit("Or", is_constant, is_near)
        scale = graph.emit("Where", stays, scale, graph.emit("Mul", scale, graph.emit("Sqrt", found)))
        graph.declare(scale, ())
        found = variance(scale)
    return scale, found
