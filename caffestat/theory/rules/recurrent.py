"""RNN, GRU and LSTM, step by step: each step is a node of products, sums and activations. (ONNX operators)

Weights count as independent of the state that they meet, as in other nets: across steps they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from caffestat.graph import Graph, Node
from caffestat.ops.recurrent import GATES, INITIAL, LENGTHS, PEEPHOLE, activations_of

from ..engine import decomposition

_STEPS = 32  # the most that are walked one by one: a step takes a tenth of a second


@decomposition("RNN", "GRU", "LSTM")
def recurrent(graph: Graph, node: Node) -> Sequence[Node]:
    """Return the steps of all directions; the node as it is where there are many, or settings without a rule."""
    lengths_or_peepholes = {LENGTHS, PEEPHOLE}.intersection(i for i, name in enumerate(node.inputs) if name)
    odd = ("clip", "activation_alpha", "activation_beta", "input_forget")
    is_long = graph.shape(node.inputs[0])[0] > _STEPS
    count = graph.shape(node.inputs[1])[0]
    names = [[name for name, _ in activations_of(node.op, node.attributes, index)] for index in range(count)]
    if is_long or lengths_or_peepholes or any(node.get(name) for name in odd) or not all(map(all, names)):
        return (node,)
    return _unrolled(graph, node, names)


@dataclass
class _Cell:
    """One direction of a node while its steps are emitted into `nodes`.

    r, bias      weights of the state [H, gates · H], and what the state's products add, [gates · H], or ""
    activations  ops of the gates, the candidate, and an LSTM's output
    """

    graph: Graph
    node: Node
    nodes: list[Node]
    activations: Sequence[str]
    r: str = ""
    bias: str = ""
    shape: tuple[int, ...] = field(default=())

    def emit(self, op: str, *inputs: str, shape: Sequence[int] = (), **attributes: object) -> str:
        """Emit a node with an output of the given shape, by default [batch, H]."""
        return self.several(op, *inputs, shapes=[shape or self.shape], **attributes)[0]

    def several(self, op: str, *inputs: str, shapes: Sequence[Sequence[int]], **attributes: object) -> list[str]:
        """Emit a node with an output of each shape."""
        g, dtype = self.graph, self.graph.specs[self.node.inputs[0]].dtype
        outputs = [g.declare(g.unique(f"{self.node.op}/{op}"), tuple(shape), dtype) for shape in shapes]
        self.nodes.append(Node(op, inputs, tuple(outputs), dict(attributes)))
        return outputs

    def split(self, value: str, count: int, axis: int) -> list[str]:
        """Split a value into equal parts."""
        shape = list(self.graph.shape(value))
        shape[axis] //= count
        if count == 1:
            return [value]
        return self.several("Split", value, shapes=[shape] * count, axis=axis, num_outputs=count)

    def row(self, value: str, index: int) -> str:
        """Return one of the directions of a param."""
        shape = self.graph.shape(value)
        rows = self.split(value, shape[0], 0)
        return self.emit("Squeeze", rows[index], self.graph.ints(0), shape=shape[1:])

    def of_state(self, h: str) -> str:
        """Return what a state gives to the gates, [batch, gates · H]; "" where there is nothing."""
        if not h:
            return self.bias
        batch, hidden = self.shape
        wide = (batch, GATES[self.node.op] * hidden)
        product = self.emit("MatMul", h, self.r, shape=wide)
        return self.emit("Add", product, self.bias, shape=wide) if self.bias else product

    def sum(self, a: str, b: str) -> str:
        """Return the sum of two terms, of which the second may be missing."""
        return self.emit("Add", a, b) if b else a

    def product(self, a: str, b: str) -> str:
        """Return the product of two factors; "" for zero where the second is missing."""
        return self.emit("Mul", a, b) if b else ""

    def gates(self, total: str) -> list[str]:
        """Return the parts of each gate; "" for each where there is nothing."""
        count = GATES[self.node.op]
        return self.split(total, count, min(len(self.graph.shape(total)) - 1, 1)) if total else [""] * count


def _rnn(c: _Cell, x: str, h: str, _: str) -> tuple[str, str]:
    """h' = f(x + R h)."""
    return c.emit(c.activations[0], c.sum(x, c.of_state(h))), ""


def _gru(c: _Cell, x: str, h: str, _: str) -> tuple[str, str]:
    """h' = (1 - z) ∘ n + z ∘ h, n = g(x + r ∘ (R h)) or, as the op is by default, g(x + R (r ∘ h))."""
    of_x, of_h = c.gates(x), c.gates(c.of_state(h))
    z, r = (c.emit(c.activations[0], c.sum(of_x[gate], of_h[gate])) for gate in range(2))
    resets_last = c.node.get("linear_before_reset", 0)
    reset = c.product(r, of_h[2]) if resets_last else c.gates(c.of_state(c.product(r, h)))[2]
    n = c.emit(c.activations[1], c.sum(of_x[2], reset))
    one_minus = c.emit("Sub", c.graph.constant(1), z)
    return c.sum(c.product(one_minus, n), c.product(z, h)), ""


def _lstm(c: _Cell, x: str, h: str, state: str) -> tuple[str, str]:
    """c' = f ∘ c + i ∘ n, h' = o ∘ g(c'); the gates lie in the order i, o, f, n."""
    total = c.emit("Add", x, found, shape=c.graph.shape(x)) if (found := c.of_state(h)) else x
    i, o, f, n = c.gates(total)
    i, o, f = (c.emit(c.activations[0], gate) for gate in (i, o, f))
    new = c.sum(c.product(i, c.emit(c.activations[1], n)), c.product(f, state))
    return c.product(o, c.emit(c.activations[2], new)), new


_CELLS: dict[str, Callable[[_Cell, str, str, str], tuple[str, str]]] = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def _unrolled(graph: Graph, node: Node, activations: Sequence[Sequence[str]]) -> list[Node]:
    nodes: list[Node] = []
    runs = [_direction(_Cell(graph, node, nodes, names), index) for index, names in enumerate(activations)]
    (steps, batch, _), hidden, count = graph.shape(node.inputs[0]), graph.shape(node.inputs[2])[2], len(runs)
    c = _Cell(graph, node, nodes, (), shape=(batch, hidden))
    if node.outputs[0]:
        rows = [
            c.emit("Unsqueeze", found[step], graph.ints(0, 1), shape=(1, 1, batch, hidden))
            for step in range(steps)
            for found, _ in runs
        ]
        per_step = [rows[first : first + count] for first in range(0, len(rows), count)]
        wide = [r[0] if count == 1 else c.emit("Concat", *r, shape=(1, count, batch, hidden), axis=1) for r in per_step]
        nodes.append(Node("Concat", tuple(wide), (node.outputs[0],), {"axis": 0}))
    for output, states in zip(node.outputs[1:], zip(*(last for _, last in runs), strict=True), strict=False):
        if output:
            rows = [c.emit("Unsqueeze", state, graph.ints(0), shape=(1, batch, hidden)) for state in states]
            nodes.append(Node("Concat", tuple(rows), (output,), {"axis": 0}))
    return nodes


def _direction(c: _Cell, index: int) -> tuple[list[str], list[str]]:
    """Emit the steps of one direction; return h of each step, in the order of time, and the last states."""
    graph, node = c.graph, c.node
    (steps, batch, inputs), hidden = graph.shape(node.inputs[0]), graph.shape(node.inputs[2])[2]
    c.shape, width = (batch, hidden), GATES[node.op] * hidden
    w, r = (c.row(node.inputs[position], index) for position in (1, 2))
    w = c.emit("Transpose", w, shape=(inputs, width), perm=[1, 0])
    c.r = c.emit("Transpose", r, shape=(hidden, width), perm=[1, 0])
    of_x = c.emit("MatMul", node.inputs[0], w, shape=(steps, batch, width))
    if len(node.inputs) > 3 and node.inputs[3]:
        of_w, c.bias = c.split(c.row(node.inputs[3], index), 2, 0)
        of_x = c.emit("Add", of_x, of_w, shape=(steps, batch, width))
    parts = [c.emit("Squeeze", x, graph.ints(0), shape=(batch, width)) for x in c.split(of_x, steps, 0)]
    given = [node.inputs[i] if len(node.inputs) > i else "" for i in (INITIAL, INITIAL + 1)]
    h, state = (c.row(name, index) if name else "" for name in given)
    found = [""] * steps
    backwards = node.get("direction") == "reverse" or index == 1
    for step in range(steps)[:: -1 if backwards else 1]:
        h, state = _CELLS[node.op](c, parts[step], h, state)
        found[step] = h
    return found, [h, state] if node.op == "LSTM" else [h]
