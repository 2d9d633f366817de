"""Krähenbühl's initialisation: outputs of mean β and variance 1 on the data, and layers that learn at one rate.

P. Krähenbühl, C. Doersch, J. Donahue, T. Darrell, *Data-dependent Initializations of Convolutional Neural Networks*,
2016.

Algorithm 1, within a layer: W ~ N(0, 1), b = 0; from the mean μₖ and the deviation σₖ of each output over the data,
Wₖ ← Wₖ / σₖ, bₖ ← β - μₖ / σₖ, layer by layer. Here one pass over the net does it (see `linear`).

Algorithm 2, between layers: the rate of a layer is rₙ = √(E[(∂ℓ/∂W)²] / E[W²]), for a loss ℓ that is a random sum of
the outputs. Each layer is multiplied by √(rₙ / r), r the geometric mean, again and again until all rates are r within a
hundredth: where what stands between the layers is homogeneous of degree 1, the first time is exact. The biases of a
layer follow the size of what it reads. Where it is not homogeneous, r is multiplied by the deviation of the net's
outputs to the power of 1 / layers, as in the authors' script (philkr/magic_init, magic_init.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.engine import CPU, Compiled
from caffestat.graph import Graph
from caffestat.program import Forward, Program
from caffestat.program.gradients import differentiate

from .linear import Linear, linear_rows, replace_bias, replace_top, spread, without_bias
from .patches import kmeans_filters, patches_of, pca_filters

__all__ = ["KrahenbuhlOptions", "Rates", "krahenbuhl"]

_SMALLEST = 1e-6  # of a deviation: below, an output is taken for constant
_TIMES = 10
_CLOSE = 0.01  # of log rates
_MAKERS = {"pca": pca_filters, "kmeans": kmeans_filters}


@dataclass(frozen=True)
class KrahenbuhlOptions:
    """The options of the authors' script.

    first    what the layers that read the data start from: "gaussian", "pca" or "kmeans"
    bias     β, the mean of every output
    between  whether the rates are made equal
    """

    first: str = "gaussian"
    bias: float = 0.1
    between: bool = True


def krahenbuhl(
    program: Program,
    values: Sequence[np.ndarray],
    numbers: Collection[int],
    feeds: Mapping[str, np.ndarray],
    random: np.random.Generator,
    options: KrahenbuhlOptions | None = None,
    notes: MutableSequence[str] | None = None,
) -> list[int]:
    """Fill the weights, and the biases of their layers, in place.

    values   by number, as `program.values` returns them
    numbers  of the weights; of a shared one the first row that reads it decides
    feeds    of the program's forward graph
    random   draws the weights and the loss
    notes    gets lines about layers that could not be treated

    Returns the numbers of the params that were filled. Raises a CaffestatError when the graph cannot be run.
    """
    options, notes = options or KrahenbuhlOptions(), notes if notes is not None else []
    forward = program.forward()
    forward.graph.infer()
    linears = linear_rows(program, forward, numbers)
    for linear in _owners(linears):
        values[linear.weight][...] = random.standard_normal(values[linear.weight].shape)
        if linear.bias is not None:
            values[linear.bias][...] = 0
    if options.first in _MAKERS:
        _first(program, forward, _owners(linears), values, feeds, random, options.first, notes)
    _within(forward, linears, values, feeds, options.bias)
    if options.between:
        notes += Rates(program, numbers, random).equalize(values, feeds)
    return [number for linear in _owners(linears) for number in (linear.weight, linear.bias) if number is not None]


def _owners(linears: Sequence[Linear]) -> list[Linear]:
    """Return the first row of each weight."""
    return list({linear.weight: linear for linear in reversed(linears)}.values())[::-1]


# ---- the first layers ----


def _first(
    program: Program,
    forward: Forward,
    linears: Sequence[Linear],
    values: Sequence[np.ndarray],
    feeds: Mapping[str, np.ndarray],
    random: np.random.Generator,
    first: str,
    notes: MutableSequence[str],
) -> None:
    """Fill the weights of the layers with no other in front of them with filters made of what they read."""
    behind = program.flow.behind(linear.row for linear in linears)
    graph = forward.graph
    for linear in linears:
        if linear.row in behind:
            continue
        node, name = linear.layout.node, program.rows[linear.row].name
        data = node.inputs[0]
        params = {param: values[number] for number, param in forward.params.items()}
        x = feeds[data] if data in feeds else Compiled(graph, CPU, params).run(feeds, outputs=[data])[data]
        patches = patches_of(graph, linear, np.asarray(x), random)
        filters = (
            None if patches is None else [_MAKERS[first](part, _outputs(linear, values), random) for part in patches]
        )
        if filters is None or any(part is None for part in filters):
            notes.append(f"{name}: too little data for {first}, or no window: gaussian weights are used instead")
            continue
        matrix = linear.layout.matrix(values[linear.weight])
        linear.layout.store(values[linear.weight], np.stack([np.asarray(f) for f in filters]).reshape(matrix.shape))


def _outputs(linear: Linear, values: Sequence[np.ndarray]) -> int:
    return int(linear.layout.matrix(values[linear.weight]).shape[1])


# ---- within layers ----


def _within(
    forward: Forward,
    linears: Sequence[Linear],
    values: Sequence[np.ndarray],
    feeds: Mapping[str, np.ndarray],
    beta: float,
) -> None:
    """Give every output mean β and variance 1: W / σ, and the bias β - μ / σ."""
    graph, found = forward.graph, dict[int, tuple[Linear, str, str | None]]()
    for linear in linears:
        known = found[linear.weight][1:] if linear.weight in found else None
        statistics = _normalize(graph, forward, linear, beta, known)
        found.setdefault(linear.weight, (linear, *statistics))
    graph.outputs = sorted({name for _, *names in found.values() for name in names if name})
    params = {name: values[number] for number, name in forward.params.items()}
    results = Compiled(graph, CPU, params).run(feeds) if graph.outputs else {}
    for linear, deviation, bias in found.values():
        weight = values[linear.weight]
        matrix = linear.layout.matrix(weight)
        sigma = results[deviation].reshape(*matrix.shape[:2], *[1] * (matrix.ndim - 2))
        linear.layout.store(weight, matrix / sigma)
        if bias and linear.bias is not None:
            values[linear.bias][...] = results[bias].reshape(values[linear.bias].shape)


def _normalize(
    graph: Graph, forward: Forward, linear: Linear, beta: float, known: tuple[str, str | None] | None
) -> tuple[str, str | None]:
    """Put Z / σ in the place of what the row's weight gives, and β - μ / σ in that of its bias; return σ and that."""
    deviation, bias = known or ("", None)
    top = graph.shape(forward.tops[linear.row, 0])
    rank = len(top)

    def emit() -> str:
        nonlocal deviation, bias
        z, _ = without_bias(graph, forward, linear)
        if not deviation:
            mean, deviation = _statistics(graph, z, linear, top)
            if linear.bias is not None:
                bias = graph.emit("Sub", graph.constant(beta), graph.emit("Div", mean, deviation))
        count = graph.shape(deviation)
        scaled = graph.emit("Div", z, spread(graph, deviation, count, linear, rank))
        is_own = bias and linear.has_own_bias
        return graph.emit("Add", scaled, spread(graph, bias, count, linear, rank)) if is_own and bias else scaled

    replace_top(graph, forward, linear, emit)
    if bias and not linear.has_own_bias and linear.bias_use:
        shape = graph.shape(forward.uses[linear.bias_use])
        replace_bias(graph, forward, linear, lambda: graph.reshape(str(bias), *shape))
    return deviation, bias


def _statistics(graph: Graph, z: str, linear: Linear, top: Sequence[int]) -> tuple[str, str]:
    """Emit mean and deviation of each output, [outputs]; the deviation of a constant is 1."""
    rank, axis = len(top), linear.layout.axis % len(top)
    count = (top[axis],)
    axes = graph.ints(*(other for other in range(rank) if other != axis))
    mean = graph.emit("ReduceMean", z, axes, keepdims=1)
    centred = graph.emit("Sub", z, mean)
    variance = graph.emit("ReduceMean", graph.emit("Mul", centred, centred), axes, keepdims=0)
    deviation = graph.emit("Sqrt", variance)
    is_constant = graph.emit("Less", deviation, graph.constant(_SMALLEST))
    safe = graph.declare(graph.emit("Where", is_constant, graph.constant(1), deviation), count)
    return graph.declare(graph.emit("Squeeze", mean, axes), count), safe


# ---- between layers ----


@dataclass(frozen=True)
class _Measured:
    """Rates by weight, mean |x| of what each layer reads, the biases that follow it, the deviation of the outputs."""

    rates: dict[int, float]
    reads: dict[int, float]
    biases: dict[int, np.ndarray]
    output: float


class Rates:
    """A program whose loss is a random sum of its last layers' outputs, compiled once to give the rates of layers.

    numbers  of the weights
    random   draws the loss
    """

    def __init__(self, program: Program, numbers: Collection[int], random: np.random.Generator) -> None:
        self.forward = program.forward()
        graph = self.forward.graph
        graph.infer()
        self.linears = _owners(linear_rows(program, self.forward, numbers))
        self._noise = self._start(program, random)
        self._olds: dict[int, str] = {}
        self._reads: dict[int, str] = {}
        for linear in self.linears:
            self._follow(graph, linear)
        uses = ((row, index) for row, index in self.forward.uses)
        owners = {linear.weight for linear in self.linears}
        self.forward.wanted = {}
        self.forward.wanted_params = {
            key: self.forward.uses[key] for key in uses if program.owner(program.rows[key[0]].params[key[1]]) in owners
        }
        diffs = differentiate(program, self.forward).owners
        self._squares = {
            number: graph.emit("ReduceMean", graph.emit("Mul", name, name), keepdims=0)
            for number, name in diffs.items()
            if name and number in owners
        }
        self._biases = {
            one.bias: self.forward.uses[one.bias_use] for one in self.linears if one.bias is not None and one.bias_use
        }
        graph.outputs = sorted({*self._squares.values(), *self._reads.values(), *self._biases.values(), *self._ends})
        self._compiled = Compiled(graph, CPU)

    def _start(self, program: Program, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Let the backward pass begin behind the last layers, with noise; return the noise."""
        graph, rows = self.forward.graph, {linear.row for linear in self.linears}
        in_front = program.flow.in_front(rows)
        self._ends = [self.forward.tops[row, 0] for row in sorted(rows - in_front)]
        names = {top: graph.input(f"noise/{top}", graph.shape(top)) for top in self._ends}
        self.forward.seeds = dict(names)
        return {name: random.standard_normal(graph.shape(top)).astype(np.float32) for top, name in names.items()}

    def _follow(self, graph: Graph, linear: Linear) -> None:
        """Multiply a layer's bias by how much larger what the layer reads is than it was."""
        data = linear.layout.node.inputs[1 if linear.layout.position == 0 else 0]
        if linear.bias is None:
            return
        old = self._olds[linear.weight] = graph.input(f"read before/{linear.weight}", ())

        def emit() -> str:
            size = graph.declare(graph.emit("ReduceMean", graph.emit("Abs", graph.detach(data)), keepdims=0), ())
            self._reads[linear.weight] = size
            is_known = graph.emit("Greater", old, graph.constant(0))
            ratio = graph.emit("Where", is_known, graph.emit("Div", size, old), graph.constant(1))
            assert linear.bias_use is not None
            return graph.emit("Mul", self.forward.uses[linear.bias_use], ratio)

        replace_bias(graph, self.forward, linear, emit)

    def of(self, values: Sequence[np.ndarray], feeds: Mapping[str, np.ndarray]) -> dict[int, float]:
        """Return √(E[(∂ℓ/∂W)²] / E[W²]) of the weights that a gradient reaches, by number."""
        return self._measure(values, feeds, {}).rates

    def equalize(self, values: Sequence[np.ndarray], feeds: Mapping[str, np.ndarray]) -> list[str]:
        """Scale weights and biases in place until the rates are equal; return a line when they cannot be made so."""
        reads: Mapping[int, float] = {}
        for times in range(_TIMES + 1):
            found = self._measure(values, feeds, reads)
            for number, bias in found.biases.items():
                values[number][...] = bias
            reads = found.reads
            if not found.rates:
                return ["the rates of the layers are not equalized: no gradient reaches a weight"]
            mean = math.exp(float(np.mean(np.log(list(found.rates.values())))))
            target = mean * found.output ** (1 / len(found.rates))
            if all(abs(math.log(rate / target)) < _CLOSE for rate in found.rates.values()):
                return []
            if times < _TIMES:
                _multiply(self.linears, values, {n: math.sqrt(rate / target) for n, rate in found.rates.items()})
        return [f"the rates of the layers are not equal after {_TIMES} iterations: the net is not homogeneous"]

    def _measure(
        self, values: Sequence[np.ndarray], feeds: Mapping[str, np.ndarray], reads: Mapping[int, float]
    ) -> _Measured:
        """Run forward and backward; `reads` is what the layers read when the biases were right, 0 for now."""
        params = {name: values[number] for number, name in self.forward.params.items()}
        olds = {name: np.array(reads.get(number, 0.0), np.float32) for number, name in self._olds.items()}
        found = self._compiled.run({**feeds, **self._noise, **olds}, params)
        squares = {n: float(found[name]) / float(np.square(values[n]).mean()) for n, name in self._squares.items()}
        outputs = [found[name].astype(np.float64) for name in self._ends]
        return _Measured(
            {number: math.sqrt(square) for number, square in squares.items() if square > 0},
            {number: float(found[name]) for number, name in self._reads.items()},
            {number: found[name] for number, name in self._biases.items()},
            float(np.mean([y.reshape(y.shape[0], -1).std(axis=0).mean() for y in outputs])),
        )


def _multiply(linears: Sequence[Linear], values: Sequence[np.ndarray], scales: Mapping[int, float]) -> None:
    for linear in linears:
        scale = np.float32(scales.get(linear.weight, 1.0))
        values[linear.weight][...] *= scale
        if linear.bias is not None:
            values[linear.bias][...] *= scale
