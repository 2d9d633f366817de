"""Gradients of RNN, GRU and LSTM. (ONNX operators; Hochreiter and Schmidhuber 1997, Cho et al. 2014)

Backward in time the gradients of the states follow a linear recurrence: each step multiplies them by numbers that the
forward pass has fixed. These coefficients, and the gradients of inputs and weights, are computed for all steps at once
in large products; only the recurrence itself runs in a Scan, with one small product a step. Per direction, arrays of
all steps are [T, batch, …], weights of the input [gates · H, inputs], of the state [gates · H, H].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Graph, Node
from caffestat.graph.bodies import close_body, with_captured
from caffestat.ops.recurrent import GATES, INITIAL, LENGTHS, PEEPHOLE, Activation, activations_of

from ..engine import Tape, vjp
from .common import Grads, input_of

_STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}


@vjp("RNN", "GRU", "LSTM")
def recurrent(t: Tape, node: Node, dy: str) -> Grads:
    count = t.shape(node.inputs[1])[0]
    found = [_PASSES[node.op](_cell(t, node, index, dy)) for index in range(count)]
    grads: list[str | None] = [None] * len(node.inputs)
    for position, name in enumerate(node.inputs):
        if name and t.needs(name) and position != LENGTHS:
            grads[position] = _joined(t, name, [direction[position] for direction in found], is_shared=position == 0)
    return grads


def _joined(t: Tape, name: str, parts: Sequence[str], is_shared: bool) -> str:
    """Join the directions' gradients of one input: X is read by all of them, the others have an axis for them."""
    if is_shared:
        return parts[0] if len(parts) == 1 else t.emit("Sum", *parts)
    shape = t.shape(name)
    rows = [t.reshape(part, 1, *shape[1:]) for part in parts]
    return rows[0] if len(rows) == 1 else t.emit("Concat", *rows, axis=0)


def _refuse(node: Node, what: str) -> GradientError:
    value = next(name for name in node.outputs if name)
    return GradientError(f"{node.op} (value {value}): {what} has no gradient rule")


@dataclass(frozen=True)
class _Cell:
    """One direction of a node.

    x, w, r    input [T, batch, inputs], weights [gates · H, inputs] and [gates · H, H]
    biases     of both, [gates · H] each, or "" without
    before     the state h before each step, [T, batch, H]
    dh         the gradient that each step's h gets from Y, [T, batch, H]
    last       the gradients of the last states, [batch, H] each
    inside     1 within a sample's length and 0 beyond, where states do not change: [T, batch, 1], or "" without lengths
    backwards  whether the forward pass goes from the last step to the first
    """

    t: Tape
    node: Node
    index: int
    x: str
    w: str
    r: str
    biases: Sequence[str]
    before: str
    dh: str
    last: Sequence[str]
    inside: str
    backwards: bool
    activations: Sequence[Activation]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """T, batch and H."""
        steps, batch, _ = self.t.shape(self.node.inputs[0])
        return steps, batch, self.t.shape(self.node.inputs[2])[2]

    def mul(self, *factors: str) -> str:
        """Emit a product."""
        result = factors[0]
        for factor in factors[1:]:
            result = self.t.emit("Mul", result, factor)
        return result

    def project(self, value: str, weight: str, bias: str) -> str:
        """Emit value · weightᵀ + bias."""
        product = self.t.emit("MatMul", value, self.t.transpose(weight, 1, 0))
        return self.t.emit("Add", product, bias) if bias else product

    def split(self, value: str, count: int, axis: int = 2) -> list[str]:
        """Split the gates of an array apart."""
        return [value] if count == 1 else self.t.emit_many("Split", value, count=count, axis=axis, num_outputs=count)

    def gates(self) -> tuple[list[str], list[str]]:
        """Return what input and state give to each gate, over all steps."""
        count = GATES[self.node.op]
        of_x, of_h = self.project(self.x, self.w, self.biases[0]), self.project(self.before, self.r, self.biases[1])
        return self.split(of_x, count), self.split(of_h, count)

    def activate(self, which: int, total: str) -> tuple[str, str]:
        """Return an activation and its derivative; what a gate or a candidate sums up is clipped before it."""
        t, clip = self.t, self.node.get("clip") if which < 2 else None

        def emit() -> str:
            bounds = [t.scalar(bound, like=self.node.inputs[0]) for bound in (-clip, clip)] if clip else []
            return self.emit_activation(t.graph, which, t.emit("Clip", total, *bounds) if clip else total)

        steps, batch, hidden = self.sizes
        t.declare(total, (steps, batch, hidden), t.specs[self.node.inputs[0]].dtype)
        return t.slope(total, emit)

    def emit_activation(self, g: Graph, which: int, x: str) -> str:
        """Emit an activation."""
        op, settings = self.activations[which]
        return g.emit(op, x, **settings)

    def one_minus(self, value: str) -> str:
        """Emit 1 - value."""
        return self.t.emit("Sub", self.t.scalar(1, like=self.node.inputs[0]), value)

    def within(self, coefficient: str) -> str:
        """Return a coefficient that is 0 beyond a sample's length."""
        return self.mul(coefficient, self.inside) if self.inside else coefficient

    def kept(self, coefficient: str) -> str:
        """Return a coefficient that is 1 beyond a sample's length: there the gradient of a state passes as it is."""
        if not self.inside:
            return coefficient
        return self.t.emit("Where", self.t.cast(self.inside, np.bool_), coefficient, self.one_minus(self.inside))

    def scan(
        self,
        step: Callable[..., tuple[Sequence[str], Sequence[str]]],
        states: Sequence[str],
        scanned: Sequence[str],
        widths: Sequence[int],
        reverse: bool,
    ) -> list[str]:
        """Run `step(graph, states, slices)` over time, backwards for `reverse`; return last states, then arrays.

        widths: of the last axis of what is scanned
        """
        t, (_, batch, hidden) = self.t, self.sizes
        dtype, inner = t.specs[self.node.inputs[0]].dtype, self.t.graph.inner()
        old = [inner.input("state", (batch, hidden), dtype) for _ in states]
        slices = [inner.input("slice", (batch, width), dtype) for width in widths]
        inner.specs[self.r] = t.specs[self.r]
        new, results = step(inner, old, slices)
        body = close_body(inner, t.graph, [*old, *slices], [*new, *results], f"{self.node.op}_step")
        direction = int(reverse != self.backwards)
        how: dict[str, Any] = {"scan_input_directions": [direction] * len(scanned), "num_scan_inputs": len(scanned)}
        how["scan_output_directions"] = [direction] * len(results)
        found = t.emit_many("Scan", *states, *scanned, count=len(new) + len(results), body=body, **how)
        t.graph.nodes[-1] = with_captured(t.graph.nodes[-1])
        return found

    def collect(self, of_x: str, of_h: str, of_r: str, d_states: Sequence[str]) -> dict[int, str]:
        """Return the gradients by position of input.

        of_x, of_h: those of what input and state give to the gates, [T, batch, gates · H]
        of_r:       that of R; d_states: those of the initial states
        """
        t, biased = self.t, self.node.inputs[3:4]
        found = {0: t.emit("MatMul", of_x, self.w), 1: self.outer(of_x, self.x), 2: of_r}
        if biased and biased[0]:
            sums = [t.emit("ReduceSum", value, t.ints(0, 1), keepdims=0) for value in (of_x, of_h)]
            found[3] = t.emit("Concat", *sums, axis=0)
        return found | {INITIAL + index: value for index, value in enumerate(d_states)}

    def outer(self, dy: str, x: str) -> str:
        """Emit Σ dyᵀ · x over steps and batch."""
        t, rows = self.t, prod(self.sizes[:2])
        return t.emit("MatMul", t.transpose(t.reshape(dy, rows, -1), 1, 0), t.reshape(x, rows, -1))


def _cell(t: Tape, node: Node, index: int, dy: str) -> _Cell:
    def row(value: str, axis: int = 0) -> str:
        return t.emit("Gather", value, t.constant(index, np.int64), axis=axis)

    steps, batch, _ = t.shape(node.inputs[0])
    hidden, dtype = t.shape(node.inputs[2])[2], t.specs[node.inputs[0]].dtype
    backwards = node.get("direction") == "reverse" or index == 1
    w, r = (row(node.inputs[position]) for position in (1, 2))
    t.declare(r, (GATES[node.op] * hidden, hidden), dtype)
    biases = ["", ""]
    if input_of(node, 3):
        biases = t.emit_many("Split", row(node.inputs[3]), count=2, axis=0, num_outputs=2)
    inside = _inside(t, node, steps, dtype)
    first = _initial(t, node, index, INITIAL)
    before = _shifted(t, row(node.outputs[0], 1), first, inside, steps, backwards)
    dh = row(dy, 1)
    if inside:
        dh = t.emit("Mul", dh, inside)
    zero = t.emit("Expand", t.scalar(0, like=node.inputs[0]), t.ints(batch, hidden))
    last = [row(d) if (d := _cotangent(t, node, 1 + state)) else zero for state in range(_STATES[node.op])]
    settings = (inside, backwards, _activations(node, index))
    return _Cell(t, node, index, node.inputs[0], w, r, biases, before, dh, last, *settings)


def _cotangent(t: Tape, node: Node, position: int) -> str | None:
    return t.cotangent(node.outputs[position]) if len(node.outputs) > position else None


def _activations(node: Node, index: int) -> list[Activation]:
    found = activations_of(node.op, node.attributes, index)
    if not all(op for op, _ in found):
        raise _refuse(node, f"activations {', '.join(node.get('activations'))}")
    return found


def _initial(t: Tape, node: Node, index: int, position: int) -> str:
    """Return an initial state: [batch, H]."""
    given = input_of(node, position)
    if given:
        return t.emit("Gather", given, t.constant(index, np.int64), axis=0)
    batch, hidden = t.shape(node.inputs[0])[1], t.shape(node.inputs[2])[2]
    return t.emit("Expand", t.scalar(0, like=node.inputs[0]), t.ints(batch, hidden))


def _inside(t: Tape, node: Node, steps: int, dtype: Any) -> str:
    lengths = input_of(node, LENGTHS)
    if not lengths:
        return ""
    numbers = t.constant(np.arange(steps).reshape(-1, 1), t.specs[lengths].dtype)
    return t.reshape(t.cast(t.emit("Less", numbers, lengths), dtype), steps, -1, 1)


def _shifted(t: Tape, values: str, first: str, inside: str, steps: int, backwards: bool) -> str:
    """Return, for each step, the value of the step before it; `first` where there is none."""
    first = t.emit("Unsqueeze", first, t.ints(0))
    if not backwards:
        return t.emit("Concat", first, t.emit("Slice", values, t.ints(0), t.ints(steps - 1), t.ints(0)), axis=0)
    if inside:  # a sample begins at its last step
        values = t.emit("Where", t.cast(inside, np.bool_), values, first)
    return t.emit("Concat", t.emit("Slice", values, t.ints(1), t.ints(steps), t.ints(0)), first, axis=0)


def _rnn(cell: _Cell) -> dict[int, str]:
    """h' = f(x + h·R): dx = dh' ∘ f', dh = dx·R."""
    t, hidden = cell.t, cell.sizes[2]
    (x,), (h,) = cell.gates()
    _, slope = cell.activate(0, t.emit("Add", x, h))
    slope = cell.within(slope)
    resting = [cell.one_minus(cell.inside)] if cell.inside else []

    def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
        dh = g.emit("Add", states[0], slices[0])
        d = g.emit("Mul", dh, slices[1])
        new = g.emit("MatMul", d, cell.r)
        new = g.emit("Add", new, g.emit("Mul", dh, slices[2])) if resting else new
        return [new], [d]

    widths = [hidden, hidden, *[1] * len(resting)]
    first, d = cell.scan(step, cell.last, [cell.dh, slope, *resting], widths, reverse=True)
    return cell.collect(d, d, cell.outer(d, cell.before), [first])


def _gru(cell: _Cell) -> dict[int, str]:
    """h' = (1 - z) ∘ n + z ∘ h with n = g(x_n + (r ∘ h)·R_n), or g(x_n + r ∘ (h·R_n)) with linear_before_reset."""
    t, hidden = cell.t, cell.sizes[2]
    if not cell.node.get("linear_before_reset", 0):
        return _gru_reset_first(cell)
    x, h = cell.gates()
    (z, dz), (r, dr) = (cell.activate(0, t.emit("Add", x[gate], h[gate])) for gate in (0, 1))
    n, dn = cell.activate(1, t.emit("Add", x[2], cell.mul(r, h[2])))
    of_z = cell.within(cell.mul(t.emit("Sub", cell.before, n), dz))
    of_n = cell.within(cell.mul(cell.one_minus(z), dn))
    of_r = cell.mul(of_n, h[2], dr)
    by_state = t.emit("Concat", of_z, of_r, cell.mul(of_n, r), axis=2)

    def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
        dh = g.emit("Add", states[0], slices[0])
        d = g.emit("Mul", g.emit("Concat", dh, dh, dh, axis=1), slices[1])
        return [g.emit("Add", g.emit("Mul", dh, slices[2]), g.emit("MatMul", d, cell.r))], [dh]

    widths = [hidden, 3 * hidden, hidden]
    first, dh = cell.scan(step, cell.last, [cell.dh, by_state, cell.kept(z)], widths, reverse=True)
    d_x = t.emit("Concat", cell.mul(dh, of_z), cell.mul(dh, of_r), cell.mul(dh, of_n), axis=2)
    d_h = cell.mul(t.emit("Concat", dh, dh, dh, axis=2), by_state)
    return cell.collect(d_x, d_h, cell.outer(d_h, cell.before), [first])


def _gru_reset_first(cell: _Cell) -> dict[int, str]:
    """d(r ∘ h) = dn·R_n, and from there dr and a part of dh."""
    t, (_, _, hidden) = cell.t, cell.sizes
    r_parts = cell.split(cell.r, 3, axis=0)
    biases = cell.split(cell.biases[1], 3, axis=0) if cell.biases[1] else [""] * 3
    x = cell.split(cell.project(cell.x, cell.w, cell.biases[0]), 3)
    states = [cell.project(cell.before, r_parts[gate], biases[gate]) for gate in (0, 1)]
    (z, dz), (r, dr) = (cell.activate(0, t.emit("Add", x[gate], states[gate])) for gate in (0, 1))
    reset = cell.mul(r, cell.before)
    n, dn = cell.activate(1, t.emit("Add", x[2], cell.project(reset, r_parts[2], biases[2])))
    of_z = cell.within(cell.mul(t.emit("Sub", cell.before, n), dz))
    of_n = cell.within(cell.mul(cell.one_minus(z), dn))
    of_r = cell.mul(cell.before, dr)
    r_zr = t.emit("Concat", *r_parts[:2], axis=0)

    def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
        of_y, of_z, of_n, of_r, r, kept = slices
        dh = g.emit("Add", states[0], of_y)
        d_reset = g.emit("MatMul", g.emit("Mul", dh, of_n), r_parts[2])
        gates = g.emit("Concat", g.emit("Mul", dh, of_z), g.emit("Mul", d_reset, of_r), axis=1)
        through = g.emit("MatMul", gates, r_zr)
        return [g.emit("Sum", g.emit("Mul", dh, kept), g.emit("Mul", d_reset, r), through)], [dh]

    scanned = [cell.dh, of_z, of_n, of_r, r, cell.kept(z)]
    first, dh = cell.scan(step, cell.last, scanned, [hidden] * 6, reverse=True)
    d_n = cell.mul(dh, of_n)
    d_zr = t.emit("Concat", cell.mul(dh, of_z), cell.mul(t.emit("MatMul", d_n, r_parts[2]), of_r), axis=2)
    d = t.emit("Concat", d_zr, d_n, axis=2)
    of_weights = t.emit("Concat", cell.outer(d_zr, cell.before), cell.outer(d_n, reset), axis=0)
    return cell.collect(d, d, of_weights, [first])


def _lstm(cell: _Cell) -> dict[int, str]:
    """c' = f ∘ c + i ∘ n, h' = o ∘ g(c'); the gates lie in the order i, o, f, n, and o's peephole sees c'."""
    t, hidden = cell.t, cell.sizes[2]
    x, h = cell.gates()
    totals = [t.emit("Add", a, b) for a, b in zip(x, h, strict=True)]
    peephole = _peephole(cell)
    n, dn = cell.activate(1, totals[3])
    before = _cell_states(cell, totals, n, peephole)
    i, di = cell.activate(0, _peeped(cell, totals[0], peephole, 0, before))
    coupled = bool(cell.node.get("input_forget", 0))
    if coupled:
        f = cell.one_minus(i)
    else:
        f, df = cell.activate(0, _peeped(cell, totals[2], peephole, 2, before))
    after = t.emit("Add", cell.mul(f, before), cell.mul(i, n))
    o, do = cell.activate(0, _peeped(cell, totals[1], peephole, 1, after))
    y, dy = cell.activate(2, after)
    of_i = cell.mul(t.emit("Sub", n, before) if coupled else n, di)
    of_f = cell.mul(before, t.scalar(0, like=cell.node.inputs[0])) if coupled else cell.mul(before, df)
    of_o = cell.mul(y, do)
    to_c, keep_c = cell.mul(o, dy), f
    if peephole:
        to_c = t.emit("Add", to_c, cell.mul(of_o, peephole[1]))
        keep_c = t.emit("Sum", keep_c, cell.mul(of_i, peephole[0]), cell.mul(of_f, peephole[2]))
    by_gate = cell.within(t.emit("Concat", of_i, of_o, of_f, cell.mul(i, dn), axis=2))
    scanned = [cell.dh, cell.within(to_c), by_gate, cell.kept(keep_c)]
    first, first_c, d = _lstm_back(cell, scanned)
    found = cell.collect(d, d, cell.outer(d, cell.before), [first, first_c])
    if peephole:
        parts = cell.split(d, 4)
        seen = [cell.mul(parts[gate], c) for gate, c in ((0, before), (1, after), (2, before))]
        found[PEEPHOLE] = t.emit("Concat", *(t.emit("ReduceSum", s, t.ints(0, 1), keepdims=0) for s in seen), axis=0)
    t.declare(d, (*cell.sizes[:2], 4 * hidden), t.specs[cell.node.inputs[0]].dtype)
    return found


def _lstm_back(cell: _Cell, scanned: Sequence[str]) -> list[str]:
    hidden = cell.sizes[2]
    resting = [cell.one_minus(cell.inside)] if cell.inside else []

    def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
        dh = g.emit("Add", states[0], slices[0])
        dc = g.emit("Add", states[1], g.emit("Mul", dh, slices[1]))
        d = g.emit("Mul", g.emit("Concat", dc, dh, dc, dc, axis=1), slices[2])
        new = g.emit("MatMul", d, cell.r)
        new = g.emit("Add", new, g.emit("Mul", dh, slices[4])) if resting else new
        return [new, g.emit("Mul", dc, slices[3])], [d]

    widths = [hidden, hidden, 4 * hidden, hidden, *[1] * len(resting)]
    return cell.scan(step, cell.last, [*scanned, *resting], widths, reverse=True)


def _peephole(cell: _Cell) -> list[str]:
    """Return an LSTM's peepholes for i, o and f, [H] each; none without."""
    given = input_of(cell.node, PEEPHOLE)
    if not given:
        return []
    row = cell.t.emit("Gather", given, cell.t.constant(cell.index, np.int64), axis=0)
    return cell.split(row, 3, axis=0)


def _peeped(cell: _Cell, total: str, peephole: Sequence[str], gate: int, state: str) -> str:
    return cell.t.emit("Add", total, cell.mul(peephole[gate], state)) if peephole else total


def _cell_states(cell: _Cell, totals: Sequence[str], n: str, peephole: Sequence[str]) -> str:
    """Return an LSTM's c before each step, which is no output of the op: [T, batch, H]."""
    hidden, clip, coupled = cell.sizes[2], cell.node.get("clip"), cell.node.get("input_forget", 0)
    dtype = cell.t.specs[cell.node.inputs[0]].dtype

    def gate(g: Graph, total: str, c: str, which: int) -> str:
        value = g.emit("Add", total, g.emit("Mul", peephole[which], c)) if peephole else total
        if clip:
            value = g.emit("Clip", value, g.constant(-clip, dtype), g.constant(clip, dtype))
        return cell.emit_activation(g, 0, value)

    def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
        (c,), (of_i, of_f, n, *inside) = states, slices
        i = gate(g, of_i, c, 0)
        f = g.emit("Sub", g.constant(1, dtype), i) if coupled else gate(g, of_f, c, 2)
        new = g.emit("Add", g.emit("Mul", f, c), g.emit("Mul", i, n))
        return [g.emit("Where", g.cast(inside[0], np.bool_), new, c) if inside else new], [c]

    first = _initial(cell.t, cell.node, cell.index, INITIAL + 1)
    masks = [cell.inside] if cell.inside else []
    scanned, widths = [totals[0], totals[2], n, *masks], [hidden] * 3 + [1] * len(masks)
    _, before = cell.scan(step, [first], scanned, widths, reverse=False)
    return before


_PASSES: dict[str, Callable[[_Cell], dict[int, str]]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
