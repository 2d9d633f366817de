"""Gradients through subgraphs: If, and Scan (to which Loops with a fixed trip count are converted on load).

The gradient of a subgraph is a subgraph again: it computes the forward values again and then goes backwards.
Source: the ONNX operators If, Loop and Scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from caffestat.errors import GradientError
from caffestat.graph import Graph, Node, Spec
from caffestat.graph.bodies import close_body, open_body, with_captured
from caffestat.graph.infer import branch_taken
from caffestat.ops import Role

from ..engine import Tape, backward, vjp
from .common import Grads, input_of


@vjp("If")
def branch(t: Tape, node: Node, dy: str) -> Grads:
    """Take, in an If of the same condition, the gradients of what the branch reads; those of the other are zero.

    Of a branch that is never taken they are zero, whatever it computes.
    """
    wanted = _wanted(t, node)
    dys = [dy, *map(t.cotangent, node.outputs[1:])]
    taken = branch_taken(t.graph, node)
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        body = node.attributes[name]
        bodies[name] = _branch_gradient(t, body, dys if taken in (None, body) else [None] * len(dys), wanted)
    grads = t.emit_many("If", node.inputs[0], count=len(wanted), **bodies)
    t.graph.nodes[-1] = with_captured(t.graph.nodes[-1])
    for name, grad in zip(wanted, grads, strict=True):
        t.accumulate(name, grad)
    return [None]


def _wanted(t: Tape, node: Node) -> list[str]:
    """Return the floats from outside that the node's subgraphs read and whose gradient is needed.

    Raises GradientError for a value of unknown shape: that its gradient is zero would be a guess.
    """
    needed = [name for name in node.captured if t.needs(name)]
    for name in needed:
        if name not in t.specs:
            raise GradientError(f"{node.op} (value {node.outputs[0]}): the shape of {name} is not known")
    return [name for name in needed if t.specs[name].is_float]


def _branch_gradient(
    t: Tape, body: onnx.GraphProto, dys: Sequence[str | None], wanted: Sequence[str]
) -> onnx.GraphProto:
    inner = _open(t, body, (), wanted)
    pairs = []
    for name, dy in zip(inner.outputs, dys, strict=True):
        if dy:
            inner.specs.setdefault(dy, t.specs.get(dy) or inner.specs[name])
            pairs.append((name, _of_this_branch(inner, name, dy)))
    seeds = _gather_seeds(inner, pairs)
    grads = _backward(inner, seeds, wanted)
    return close_body(inner, t.graph, (), grads, f"{body.name}_gradient")


def _of_this_branch(inner: Graph, name: str, dy: str) -> str:
    """Return the gradient of a branch's output; where the other branch's has another shape, the runtime refuses it."""
    shape = inner.specs[name].shape if name in inner.specs else inner.shape(dy)
    return dy if inner.shape(dy) == shape else inner.reshape(dy, *shape)


def _open(t: Tape, body: onnx.GraphProto, inputs: Sequence[Spec], wanted: Sequence[str]) -> Graph:
    """Return a subgraph as a Graph that knows the values from outside whose gradients are wanted."""
    inner = open_body(t.graph, body, inputs)
    inner.specs.update((name, t.specs[name]) for name in wanted)
    _refuse_draws(inner)
    return inner


def _refuse_draws(inner: Graph) -> None:
    """Raise GradientError where a subgraph draws: computed again for the gradient, it would draw other numbers."""
    for node in inner.nodes:
        if _draws(inner, node):
            raise GradientError(f"{node.op} (value {node.outputs[0]}): what a subgraph draws is not drawn again alike")


def _draws(g: Graph, node: Node) -> bool:
    """Tell whether a node draws; one that reads data, a Dropout, draws in training only."""
    if not node.info.is_random or node.info.role(0) is not Role.DATA:
        return node.info.is_random
    mode = input_of(node, 2)
    return bool(mode) and bool(g.constants.get(mode, True))


def _backward(inner: Graph, seeds: dict[str, str], wanted: Sequence[str]) -> list[str]:
    """Append the backward half of a subgraph and return the gradients of the wanted values, zeros for none."""
    found = backward(inner, seeds, wanted)
    grads = []
    for name in wanted:
        grad = found[name] or _zeros(inner, inner.specs[name])
        inner.specs.setdefault(grad, inner.specs[name])
        grads.append(grad)
    return grads


def _zeros(g: Graph, spec: Spec) -> str:
    zeros = g.emit("Expand", g.constant(0, spec.dtype), g.ints(*spec.shape))
    return g.declare(zeros, spec.shape, spec.dtype)


@dataclass(frozen=True)
class _Scan:
    """The parts of a Scan node; axes and directions have one number per scanned value.

    specs: of the body's inputs: the states, then one slice of each scanned input
    """

    node: Node
    body: onnx.GraphProto
    states: int
    specs: Sequence[Spec]
    in_axes: Sequence[int]
    in_backwards: Sequence[int]
    out_axes: Sequence[int]
    out_backwards: Sequence[int]

    @property
    def scanned(self) -> tuple[str, ...]:
        """The inputs that are scanned."""
        return self.node.inputs[self.states :]


def _take_apart(t: Tape, node: Node) -> _Scan:
    body, count = node.attributes["body"], node.attributes["num_scan_inputs"]
    states = len(node.inputs) - count
    outputs = len(node.outputs) - states
    ranks = [len(t.shape(name)) for name in node.inputs[states:]]
    in_axes = [a % r for a, r in zip(node.get("scan_input_axes") or [0] * count, ranks, strict=True)]
    specs = [t.specs[name] for name in node.inputs[:states]]
    for name, axis in zip(node.inputs[states:], in_axes, strict=True):
        shape = t.shape(name)
        specs.append(Spec((*shape[:axis], *shape[axis + 1 :]), t.specs[name].dtype))
    inner = open_body(t.graph, body, specs)
    out_ranks = [len(inner.shape(name)) + 1 for name in inner.outputs[states:]]
    out_axes = [a % r for a, r in zip(node.get("scan_output_axes") or [0] * outputs, out_ranks, strict=True)]
    in_backwards = node.get("scan_input_directions") or [0] * count
    out_backwards = node.get("scan_output_directions") or [0] * outputs
    return _Scan(node, body, states, specs, in_axes, in_backwards, out_axes, out_backwards)


@vjp("Scan")
def scan(t: Tape, node: Node, dy: str) -> Grads:
    """Scan backwards: the gradients of the states are the states, those of values from outside are added up."""
    s = _take_apart(t, node)
    dys = {name: grad for name, grad in ((name, t.cotangent(name)) for name in node.outputs if name) if grad}
    dys.setdefault(node.outputs[0], dy)
    saved = _saved_states(t, s)
    wanted = _wanted(t, node)
    grads = _scan_back(t, s, saved, dys, wanted)
    for name, grad in zip(wanted, grads[len(node.inputs) :], strict=True):
        t.accumulate(name, grad)
    return grads[: len(node.inputs)]


def _emit_scan(t: Tape, body: onnx.GraphProto, states: Sequence[str], scanned: Sequence[str], **how: Any) -> list[str]:
    given = {name: values for name, values in how.items() if values}
    count, number = len(body.output), len(scanned)
    names = t.emit_many("Scan", *states, *scanned, count=count, body=body, num_scan_inputs=number, **given)
    t.graph.nodes[-1] = with_captured(t.graph.nodes[-1])
    return names


def _saved_states(t: Tape, s: _Scan) -> list[str]:
    """Scan once more, and return the states before each step: [steps, …] each, in the order of the steps."""
    if not s.states:
        return []
    inner = open_body(t.graph, s.body, s.specs)
    inputs = list(inner.inputs)
    outputs = [*inner.outputs[: s.states], *inputs[: s.states]]
    body = close_body(inner, t.graph, inputs, outputs, f"{s.body.name}_states")
    how = {"scan_input_axes": list(s.in_axes), "scan_input_directions": list(s.in_backwards)}
    found = _emit_scan(t, body, s.node.inputs[: s.states], s.scanned, **how)[s.states :]
    steps = t.shape(s.scanned[0])[s.in_axes[0]]
    return [t.declare(name, (steps, *spec.shape), spec.dtype) for name, spec in zip(found, s.specs, strict=False)]


def _scan_back(t: Tape, s: _Scan, saved: Sequence[str], dys: dict[str, str], wanted: Sequence[str]) -> list[str | None]:
    """Return the gradients of the node's inputs and of the wanted values from outside, None for integers."""
    inner = _open(t, s.body, s.specs, wanted)
    given = list(inner.inputs)
    float_states = [index for index in range(s.states) if s.specs[index].is_float]
    d_states = [inner.input(f"d_{given[index]}", *_of(s.specs[index])) for index in float_states]
    d_outputs = {
        index: inner.input(f"d_{inner.outputs[index]}", *_of(inner.specs[inner.outputs[index]]))
        for index, name in enumerate(s.node.outputs)
        if index >= s.states and name in dys
    }
    sums = [inner.input(f"d_{name}", *_of(t.specs[name])) for name in wanted]
    pairs = [*zip([inner.outputs[i] for i in float_states], d_states, strict=True)]
    seeds = _gather_seeds(inner, [*pairs, *((inner.outputs[i], dy) for i, dy in d_outputs.items())])
    float_scanned = [index for index in range(s.states, len(given)) if s.specs[index].is_float]
    asked = [given[index] for index in (*float_states, *float_scanned)]
    grads = _backward(inner, seeds, [*asked, *wanted])
    new_sums = [
        inner.declare(inner.emit("Add", old, new), *_of(t.specs[name]))
        for name, old, new in zip(wanted, sums, grads[len(asked) :], strict=True)
    ]
    states, slices = grads[: len(float_states)], grads[len(float_states) : len(asked)]
    order = [*d_states, *sums, *given[: s.states], *given[s.states :], *d_outputs.values()]
    body = close_body(inner, t.graph, order, [*states, *new_sums, *slices], f"{s.body.name}_gradient")
    how = _reversed(s, [*d_outputs], float_scanned)
    begin = [dys.get(s.node.outputs[i]) or _zeros(t.graph, s.specs[i]) for i in float_states]
    begin += [_zeros(t.graph, t.specs[name]) for name in wanted]
    found = _emit_scan(t, body, begin, [*saved, *s.scanned, *(dys[s.node.outputs[i]] for i in d_outputs)], **how)
    by_input: list[str | None] = [None] * len(given)
    for index, name in zip(float_states, found, strict=False):
        by_input[index] = name
    for index, name in zip(float_scanned, found[len(float_states) + len(wanted) :], strict=True):
        by_input[index] = name
    return [*by_input, *found[len(float_states) :][: len(wanted)]]


def _reversed(s: _Scan, d_outputs: Sequence[int], float_scanned: Sequence[int]) -> dict[str, list[int]]:
    """Return axes and directions of the Scan that goes from the last step to the first.

    It reads the saved states, what the Scan scans, and the gradients of its outputs; it writes those of what it scans.
    """
    return {
        "scan_input_axes": [*[0] * s.states, *s.in_axes, *(s.out_axes[i - s.states] for i in d_outputs)],
        "scan_input_directions": [
            *[1] * s.states,
            *(1 - d for d in s.in_backwards),
            *(1 - s.out_backwards[i - s.states] for i in d_outputs),
        ],
        "scan_output_axes": [s.in_axes[i - s.states] for i in float_scanned],
        "scan_output_directions": [1 - s.in_backwards[i - s.states] for i in float_scanned],
    }


def _of(spec: Spec) -> tuple[tuple[int, ...], Any]:
    return spec.shape, spec.dtype


def _gather_seeds(inner: Graph, pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the gradient that each output of a subgraph starts with; a value that is two outputs gets their sum."""
    seeds: dict[str, str] = {}
    for name, dy in pairs:
        if name in seeds:
            dy = inner.declare(inner.emit("Add", seeds[name], dy), *_of(inner.specs[name]))
        seeds[name] = dy
    return seeds
