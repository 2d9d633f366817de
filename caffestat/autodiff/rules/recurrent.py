"""RNN, GRU and LSTM: unrolled into ordinary ops, whose rules then give the gradient. (ONNX operators)

Inside, states are [1, batch, H] and the weights of one direction are matrices [inputs or H, gates · H].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of

_ACTIVATIONS = ("Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu")
_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}

States = list[str]


@vjp("RNN", "GRU", "LSTM")
def recurrent(t: Tape, node: Node, dy: str) -> Grads:
    return t.through(node, dy, lambda: _unrolled(t, node))


def _unrolled(t: Tape, node: Node) -> list[str]:
    """Emit the op step by step and return its outputs: Y [T, directions, batch, H], then the last states."""
    if node.get("layout", 0):
        raise _refuse(node, "layout 1")
    runs = [_run(_cell(t, node, index), index) for index in range(t.shape(node.inputs[1])[0])]
    y = t.emit("Concat", *(t.emit("Unsqueeze", run[0], t.ints(1)) for run in runs), axis=1)
    last = [t.emit("Concat", *(run[1 + state] for run in runs), axis=0) for state in range(_STATES[node.op])]
    return [y, *last][: len(node.outputs)]


def _refuse(node: Node, what: str) -> GradientError:
    value = next(name for name in node.outputs if name)
    return GradientError(f"{node.op} (value {value}): {what} has no gradient rule")


@dataclass(frozen=True)
class _Cell:
    """What one direction of a node computes with at every place.

    w, r      weights [inputs, gates · H] and [H, gates · H]
    biases    of both, [gates · H] each, or "" without
    peephole  an LSTM's [H] for i, o and f, or none
    """

    t: Tape
    node: Node
    w: str
    r: str
    biases: Sequence[str]
    peephole: Sequence[str]
    activations: Sequence[str]

    def project(self, value: str, of_input: bool) -> str:
        """Return value · W (or R) + bias."""
        weight, bias = (self.w, self.biases[0]) if of_input else (self.r, self.biases[1])
        product = self.t.emit("MatMul", value, weight)
        return self.t.emit("Add", product, bias) if bias else product

    def gates(self, value: str, count: int) -> list[str]:
        """Split [1, batch, count · H] into its gates."""
        return [value] if count == 1 else self.t.emit_many("Split", value, count=count, axis=2, num_outputs=count)

    def activate(self, index: int, *terms: str) -> str:
        """Apply one of the node's activations to the clipped sum of the terms."""
        t, clip = self.t, self.node.get("clip")
        value = t.emit("Sum", *terms)
        if clip:
            low, high = (t.scalar(bound, like=self.node.inputs[0]) for bound in (-clip, clip))
            value = t.emit("Clip", value, low, high)
        return t.emit(self.activations[index], value)

    def peeped(self, index: int, state: str) -> list[str]:
        """Return what a peephole adds to a gate: nothing without one."""
        return [self.t.emit("Mul", self.peephole[index], state)] if self.peephole else []


def _cell(t: Tape, node: Node, index: int) -> _Cell:
    def row(position: int) -> str:
        return t.emit("Gather", node.inputs[position], t.constant(index, np.int64), axis=0)

    w, r = (t.transpose(row(position), 1, 0) for position in (1, 2))
    biases = t.emit_many("Split", row(3), count=2, axis=0, num_outputs=2) if input_of(node, 3) else ["", ""]
    peephole = t.emit_many("Split", row(7), count=3, axis=0, num_outputs=3) if input_of(node, 7) else []
    return _Cell(t, node, w, r, biases, peephole, _activations(node, index))


def _activations(node: Node, index: int) -> list[str]:
    default = _DEFAULTS[node.op]
    names = (node.get("activations") or default * 2)[index * len(default) :][: len(default)]
    found = [op for name in names for op in _ACTIVATIONS if op.lower() == name.lower()]
    if len(found) < len(default) or node.get("activation_alpha") or node.get("activation_beta"):
        raise _refuse(node, f"activations {', '.join(names)} with these settings")
    return found


def _run(cell: _Cell, index: int) -> list[str]:
    """Emit all steps of a direction and return its h [T, batch, H], then its last states."""
    t, node = cell.t, cell.node
    places, gates = t.shape(node.inputs[0])[0], _GATES[node.op]
    projected = cell.project(node.inputs[0], of_input=True)
    xs = t.emit_many("Split", projected, count=places, axis=0, num_outputs=places)
    states = [_initial(cell, index, 5 + state) for state in range(_STATES[node.op])]
    outputs = [""] * places
    backwards = node.get("direction") == "reverse" or index == 1
    for place in reversed(range(places)) if backwards else range(places):
        new = _STEPS[node.op](cell, cell.gates(xs[place], gates), states)
        states, outputs[place] = _rested(cell, place, new, states)
    return [t.emit("Concat", *outputs, axis=0), *states]


def _initial(cell: _Cell, index: int, position: int) -> str:
    t, given = cell.t, input_of(cell.node, position)
    if given:
        return t.emit("Gather", given, t.ints(index), axis=0)
    batch, hidden = t.shape(cell.node.inputs[0])[1], t.shape(cell.node.inputs[2])[2]
    return t.emit("Expand", t.scalar(0, like=cell.node.inputs[0]), t.ints(1, batch, hidden))


def _rested(cell: _Cell, place: int, new: States, old: States) -> tuple[States, str]:
    """Return the states after a place and its h: beyond a sample's length the states rest and h is 0."""
    t, lengths = cell.t, input_of(cell.node, 4)
    if not lengths:
        return new, new[0]
    inside = t.emit("Greater", t.reshape(lengths, 1, -1, 1), t.constant(place, t.specs[lengths].dtype))
    states = [t.emit("Where", inside, after, before) for after, before in zip(new, old, strict=True)]
    return states, t.emit("Where", inside, new[0], t.scalar(0, like=cell.node.inputs[0]))


def _rnn(cell: _Cell, x: Sequence[str], states: States) -> States:
    """h' = f(x + h·R)"""
    return [cell.activate(0, *x, cell.project(states[0], of_input=False))]


def _gru(cell: _Cell, x: Sequence[str], states: States) -> States:
    """h' = (1 - z) ∘ n + z ∘ h with n = g(x_n + (r ∘ h)·R_n), or g(x_n + r ∘ (h·R_n)) with linear_before_reset."""
    t, (h,) = cell.t, states
    parts = cell.gates(cell.project(h, of_input=False), 3)
    z, r = (cell.activate(0, x[gate], parts[gate]) for gate in (0, 1))
    if cell.node.get("linear_before_reset", 0):
        reset = t.emit("Mul", r, parts[2])
    else:
        reset = cell.gates(cell.project(t.emit("Mul", r, h), of_input=False), 3)[2]
    n = cell.activate(1, x[2], reset)
    return [t.emit("Add", n, t.emit("Mul", z, t.emit("Sub", h, n)))]


def _lstm(cell: _Cell, x: Sequence[str], states: States) -> States:
    """c' = f ∘ c + i ∘ n, h' = o ∘ tanh(c'); the gates lie in the order i, o, f, n, and o's peephole sees c'."""
    t, (h, c) = cell.t, states
    parts = cell.gates(cell.project(h, of_input=False), 4)
    i = cell.activate(0, x[0], parts[0], *cell.peeped(0, c))
    n = cell.activate(1, x[3], parts[3])
    if cell.node.get("input_forget", 0):
        f = t.emit("Sub", t.scalar(1, like=cell.node.inputs[0]), i)
    else:
        f = cell.activate(0, x[2], parts[2], *cell.peeped(2, c))
    new = t.emit("Add", t.emit("Mul", f, c), t.emit("Mul", i, n))
    o = cell.activate(0, x[1], parts[1], *cell.peeped(1, new))
    return [t.emit("Mul", o, t.emit(cell.activations[2], new)), new]


_STEPS: dict[str, Callable[[_Cell, Sequence[str], States], States]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}
