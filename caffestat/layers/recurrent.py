"""Recurrent layers: Caffe unrolls each into a net of inner products, one per timestep."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from caffestat.fillers import Stream, fill

from .base import Layer, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["LSTM", "RNN", "LSTMUnit"]


class _Recurrent(Layer):
    """What LSTM and RNN share: bottoms x [T, N, …], cont [T, N], optionally static [N, …], and the exposed state.

    Without expose_hidden the state starts at zero (later iterations start where the one before ended). With it, Caffe
    takes the first state from bottoms and gives the last as tops, and passes no gradient through either.
    (recurrent_layer.cpp)
    """

    num_bottoms = (2, None)
    num_tops = (1, None)
    states: ClassVar[int]  # blobs that a timestep hands to the next
    gates: ClassVar[int]  # hidden vectors that the products give: num_output times this
    shares_diff = True

    @property
    def param(self) -> Any:
        return self.proto.recurrent_param

    def exposed(self) -> int:
        """Return how many state blobs come in as bottoms and go out as tops."""
        return self.states if self.param.expose_hidden else 0

    def has_static(self, bottoms: Sequence[Any]) -> bool:
        return len(bottoms) > 2 + self.exposed()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        steps, streams, size = *bottoms[0][:2], self.param.num_output
        return ((steps, streams, size), *((1, streams, size),) * self.exposed())

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError for bottoms that do not fit each other."""
        exposed, size = self.exposed(), self.param.num_output
        if size == 0:
            raise self.error("num_output must be positive; found 0 or none")
        if not 0 <= len(bottoms) - 2 - exposed <= 1 or self.top_count != 1 + exposed:
            expected = f"{2 + exposed} bottoms (one more with a static input) and {1 + exposed} tops"
            raise self.error(f"takes {expected}; found {len(bottoms)} and {self.top_count}")
        x, cont, *others = bottoms
        if len(x) < 3:
            raise self.error(f"expected a bottom 0 of at least 3 axes (timesteps, streams, …), found shape {x}")
        if cont != x[:2]:
            raise self.error(
                f"bottom 1, the continuation marks, must have shape {x[:2]} (timesteps, streams); found {cont}"
            )
        if self.has_static(bottoms) and (len(others[0]) < 2 or others[0][0] != x[1]):
            raise self.error(f"bottom 2, the static input, must have shape ({x[1]}, …) (streams, …); found {others[0]}")
        for shape in others[len(others) - exposed :]:
            if shape != (1, x[1], size):
                raise self.error(f"the first state must have shape {(1, x[1], size)}; found {shape}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def weight(self, inputs: int, outputs: int) -> Param:
        return read_param("weight", (outputs, inputs), self.param, "weight_filler", inputs, outputs)

    def bias(self, size: int) -> Param:
        return read_param("bias", (size,), self.param, "bias_filler", 1, 1)

    def input_params(self, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the params of the products with the inputs, which stand before the timesteps'."""
        outputs = self.gates * self.param.num_output
        params = [self.weight(prod(bottoms[0][2:]), outputs), self.bias(outputs)]
        return [*params, self.weight(prod(bottoms[2][1:]), outputs)] if self.has_static(bottoms) else params

    def step_params(self) -> list[Param]:
        """Return the params that each timestep uses."""
        raise NotImplementedError

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return (*self.input_params(bottoms), *self.step_params())

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        """Fill the params, those of the timesteps once for each: a copy that is only shared draws as well."""
        values = super().draw_params(stream, params, bottoms)
        for _ in range(bottoms[0][0] - 1):
            for param in params[len(params) - len(self.step_params()) :]:
                fill(stream, param.filler, param.shape)
        return values

    def macs(self, bottoms: Sequence[Shape]) -> int:
        (steps, streams, *_), inputs = bottoms[0], self.input_params(bottoms)
        each_step = sum(prod(p.shape) for p in (inputs[0], *self.step_params()) if p.role == "weight")
        return streams * (steps * each_step + sum(prod(p.shape) for p in inputs[2:]))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        steps, streams, size = self.tops([g.shape(bottom) for bottom in bottoms])[0]
        first = [g.reshape(g.detach(b), streams, size) for b in bottoms[len(bottoms) - self.exposed() :]]
        states = first if self.exposed() else [g.constant(np.zeros((streams, size)))] * self.states
        static = [bottoms[2], params[2]] if self.has_static(bottoms) else []
        inputs = self.products(g, bottoms[0], params[:2], static)
        marks = g.reshape(g.detach(bottoms[1]), steps, streams, 1)
        conts = [g.reshape(mark, streams, 1) for mark in _unstack(g, marks, steps)]
        hidden = []
        weights = params[len(params) - len(self.step_params()) :]
        for x, cont in zip(inputs, conts, strict=True):
            states = self.step(g, states, x, cont, weights)
            hidden.append(states[0])
        stacked = g.emit("Concat", *hidden, axis=0)
        top = self.output(g, g.declare(stacked, (steps * streams, size)), weights)
        exposed = [g.detach(g.reshape(state, 1, streams, size)) for state in states[: self.exposed()]]
        return [g.reshape(top, steps, streams, size), *exposed]

    def products(self, g: Graph, x: str, params: Sequence[str], static: Sequence[str]) -> list[str]:
        """Emit W·x + b, and the static input's product, for all timesteps at once; return one [N, size] for each."""
        (steps, streams), width = g.shape(x)[:2], self.gates * self.param.num_output
        y = _product(g, g.reshape(x, steps * streams, prod(g.shape(x)[2:])), *params)
        y = g.reshape(y, steps, streams, width)
        if static:
            shape = g.shape(static[0])
            once = _product(g, g.reshape(static[0], shape[0], prod(shape[1:])), static[1])
            y = g.declare(g.emit("Add", y, once), g.shape(y))
        return [g.reshape(step, streams, width) for step in _unstack(g, y, steps)]

    def step(self, g: Graph, states: Sequence[str], x: str, cont: str, weights: Sequence[str]) -> list[str]:
        """Emit one timestep from the states before it and its input's product; return the states after it, h first."""
        raise NotImplementedError

    def output(self, g: Graph, hidden: str, weights: Sequence[str]) -> str:
        """Emit the top from the hidden states of all timesteps, [T · N, num_output]."""
        return hidden


def _product(g: Graph, x: str, weight: str, *bias: str) -> str:
    """Emit x·Wᵀ + b."""
    y = g.emit("Gemm", x, weight, *bias, transB=1)
    return g.declare(y, (g.shape(x)[0], g.shape(weight)[0]))


def _unstack(g: Graph, value: str, count: int) -> list[str]:
    parts = g.emit_many("Split", value, count=count, axis=0, num_outputs=count)
    return [g.declare(part, (1, *g.shape(value)[1:])) for part in parts]


@layer("RNN")
class RNN(_Recurrent):
    """h = tanh(W_hh·(cont · h') + W_xh·x + b_h), top o = tanh(W_ho·h + b_o), h' being h one timestep before.

    A static input s adds W_s·s to each timestep. Params: W_xh, b_h, W_s if any, W_hh, W_ho, b_o. (rnn_layer.cpp)
    """

    states = 1
    gates = 1

    def step_params(self) -> list[Param]:
        size = self.param.num_output
        return [self.weight(size, size), self.weight(size, size), self.bias(size)]

    def step(self, g: Graph, states: Sequence[str], x: str, cont: str, weights: Sequence[str]) -> list[str]:
        before = g.declare(g.emit("Mul", states[0], cont), g.shape(states[0]))
        total = g.emit("Add", _product(g, before, weights[0]), x)
        return [g.declare(g.emit("Tanh", total), g.shape(before))]

    def output(self, g: Graph, hidden: str, weights: Sequence[str]) -> str:
        return g.declare(g.emit("Tanh", _product(g, hidden, *weights[1:])), g.shape(hidden))


@layer("LSTM")
class LSTM(_Recurrent):
    """(i, f, o, g) = W_hc·(cont · h') + W_xc·x + b_c, then LSTMUnit gives c and the top h; h' is h one timestep before.

    A static input s adds W_s·s to each timestep. Params: W_xc, b_c, W_s if any, W_hc. (lstm_layer.cpp)
    """

    states = 2
    gates = 4

    def step_params(self) -> list[Param]:
        size = self.param.num_output
        return [self.weight(size, 4 * size)]

    def step(self, g: Graph, states: Sequence[str], x: str, cont: str, weights: Sequence[str]) -> list[str]:
        hidden, cell = states
        before = g.declare(g.emit("Mul", hidden, cont), g.shape(hidden))
        total = g.emit("Add", _product(g, before, weights[0]), x)
        cell, hidden = emit_unit(g, cell, g.declare(total, g.shape(x)), cont)
        return [hidden, cell]


@layer("LSTMUnit")
class LSTMUnit(Layer):
    """c = cont · σ(f) · c' + σ(i) · tanh(g), h = σ(o) · tanh(c), with i, f, o, g the quarters of bottom 1.

    Bottoms c' [1, N, D], gates [1, N, 4 D], cont [1, N]; tops c and h [1, N, D]. (lstm_unit_layer.cpp)
    """

    num_bottoms = (3, 3)
    num_tops = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        cell, gates, cont = bottoms
        expected = f"(1, N, D), (1, N, 4 D) and (1, N); found {cell}, {gates} and {cont}"
        if len(cell) != 3 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
            raise self.error(f"expected bottoms of shapes {expected}")
        return (cell, cell)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        cell, gates, cont = bottoms
        return emit_unit(g, cell, gates, g.reshape(g.detach(cont), *g.shape(cont), 1))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 2 else None

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 2


def emit_unit(g: Graph, before: str, gates: str, cont: str) -> Sequence[str]:
    """Emit (c, h) from the cell before, the gates' inputs and cont [N, 1].

    Caffe's forget gate f holds cont already, also in its gradient f · (1 - f): the derivative where cont is 0 or 1.
    """
    inner: dict[str, str] = {}

    def forward(before: str, gates: str) -> Sequence[str]:
        inner.update(_emit_gates(g, gates, cont))
        kept = g.emit("Mul", inner["f"], before)
        cell = g.emit("Add", kept, g.emit("Mul", inner["i"], inner["g"]))
        return [g.declare(v, g.shape(before)) for v in (cell, g.emit("Mul", inner["o"], g.emit("Tanh", cell)))]

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        # Caffe computes the gates once more, from what an in-place layer may have written over their inputs
        held = tape.stored(gates)
        at = inner if held == gates else _emit_gates(tape.graph, held, cont)
        dh = dys[1] or tape.zeros_like(hidden)
        squashed = tape.emit("Tanh", tape.stored(cell))
        through = tape.emit("Mul", tape.emit("Mul", dh, at["o"]), _tanh_slope(tape, squashed))
        dc = tape.emit("Add", through, dys[0]) if dys[0] else through
        sides = {"i": (dc, at["g"]), "f": (dc, tape.stored(before)), "o": (dh, squashed)}
        parts = [_gate_grad(tape, *sides[gate], at[gate]) for gate in "ifo"]
        inward = tape.emit("Mul", tape.emit("Mul", dc, at["i"]), _tanh_slope(tape, at["g"]))
        return [tape.emit("Mul", dc, at["f"]), tape.emit("Concat", *parts, inward, axis=-1)]

    cell, hidden = g.custom_vjp([before, gates], forward, backward)
    return cell, hidden


def _emit_gates(g: Graph, inputs: str, cont: str) -> dict[str, str]:
    """Emit the gates i, cont · f, o and g from the quarters of their inputs."""
    i, f, o, g_ = g.emit_many("Split", inputs, count=4, axis=-1, num_outputs=4)
    i, f, o = (g.emit("Sigmoid", value) for value in (i, f, o))
    return {"i": i, "f": g.emit("Mul", f, cont), "o": o, "g": g.emit("Tanh", g_)}


def _tanh_slope(tape: Tape, y: str) -> str:
    """Emit 1 - y²."""
    return tape.emit("Sub", tape.constant(1), tape.emit("Mul", y, y))


def _gate_grad(tape: Tape, dy: str, factor: str, gate: str) -> str:
    """Emit dy · factor · s · (1 - s), s being a gate that multiplies `factor`."""
    slope = tape.emit("Mul", gate, tape.emit("Sub", tape.constant(1), gate))
    return tape.emit("Mul", tape.emit("Mul", dy, factor), slope)
