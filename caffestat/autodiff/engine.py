"""The reverse walk and the registry of vector-Jacobian products."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from caffestat.errors import GradientError
from caffestat.graph import CONTRIB, OPSET, Graph, Node, Region
from caffestat.graph.flow import Flow
from caffestat.graph.graph import flow_of
from caffestat.graph.late import LATE, define

from .sparse import Grad, Rows, Stretch, join_rows, whole

__all__ = ["Stop", "Tape", "backward", "differentiable", "gradient_free", "needed", "reach", "vjp", "vjp_of_rows"]

Rule = Callable[["Tape", Node, str], "Sequence[Grad]"]
RowRule = Callable[["Tape", Node, Rows], "Sequence[Grad] | None"]

_RULES: dict[str, Rule] = {}
_ROW_RULES: dict[str, RowRule] = {}
_FREE: set[str] = set()
_SMALL = 1 << 16  # elements of a value that may be kept from its first reader to its last


def vjp(*ops: str) -> Callable[[Rule], Rule]:
    """Register the gradient of ONNX ops: `rule(tape, node, dy)` returns one gradient name, or None for zero, per input.

    A gradient that is zero but for a part of the input may be a Stretch or Rows in the place of a name.

    `dy` is the gradient of the node's first output; `tape.cotangent(name)` gives that of any output. A rule may
    leave out (return None for) inputs for which `tape.needs(name)` is false. A gradient that is computed differently on
    CPU and CUDA is a late op (see `graph.late`).

    Raises ValueError when the op already has a rule.
    """

    def register(rule: Rule) -> Rule:
        _register_own()
        for op in ops:
            if op in _RULES or op in _FREE:
                raise ValueError(f"op {op!r} already has a gradient rule")
            _RULES[op] = rule
        return rule

    return register


def vjp_of_rows(*ops: str) -> Callable[[RowRule], RowRule]:
    """Register the gradient of ops whose output has a gradient in some rows only: `rule(tape, node, rows)`.

    It returns what other rules do, or None where rows are no help: the op's other rule then gets the whole gradient.
    """

    def register(rule: RowRule) -> RowRule:
        _ROW_RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def gradient_free(*ops: str) -> None:
    """Declare ops through which no gradient flows: their derivative is zero or their outputs are integers."""
    _register_own()
    for op in ops:
        if op in _RULES or op in _FREE:
            raise ValueError(f"op {op!r} is already declared")
        _FREE.add(op)


def _register_own() -> None:
    """Register the package's own rules, so that a duplicate from outside is the one that is refused."""
    from . import rules  # noqa: F401  imported here because they import this module


@dataclass(frozen=True)
class Stop:
    """A node that the reverse walk could not pass: why, and how many values before it have an unknown gradient."""

    node: Node
    reason: str
    behind: int


class Tape:
    """What a gradient rule sees: the graph it emits into, and what the reverse walk knows.

    The `graph` methods that rules use all the time are on the tape itself.
    """

    def __init__(
        self, graph: Graph, needed: Collection[str], hidden: Collection[str], stored: Mapping[str, str] | None = None
    ) -> None:
        self.graph = graph
        self.specs, self.constants = graph.specs, graph.constants
        self.shape, self.unique, self.declare = graph.shape, graph.unique, graph.declare
        self.emit, self.emit_many, self.constant, self.ints = graph.emit, graph.emit_many, graph.constant, graph.ints
        self.reshape, self.transpose, self.cast = graph.reshape, graph.transpose, graph.cast
        self.fused_matmul, self.emit_late = graph.fused_matmul, graph.emit_late
        self._needed = needed
        self._hidden = hidden
        self._stored = stored or {}
        self._parts: defaultdict[str, list[str]] = defaultdict(list)
        self._sparse: defaultdict[str, list[Stretch | Rows]] = defaultdict(list)
        self._sums: dict[str, str] = {}
        self._splits: dict[tuple[int, tuple[str, ...]], str] = {}
        self._once: dict[Hashable, str] = {}
        self.unknown: dict[str, int] = {}
        self._forward = len(graph.nodes)

    @cached_property
    def flow(self) -> Flow[str]:
        """Who computes and who reads each value of the forward pass: what the walk started with."""
        return flow_of(self.graph.nodes[: self._forward])

    def needs(self, value: str) -> bool:
        """Tell whether this value's gradient is asked for, or that of a value before it."""
        return value in self._needed

    def stored(self, value: str) -> str:
        """Return what the backward pass finds in the place of a value of the forward pass."""
        return self._stored.get(value, value)

    def accumulate(self, value: str, dy: Grad) -> None:
        """Add one contribution to the value's gradient; it has the value's shape. Nothing flows into an empty value.

        Raises GradientError for a value inside a region that is none of the region's outputs.
        """
        if dy is None or not self.needs(value) or (value in self.specs and 0 in self.shape(value)):
            return
        if value in self._hidden:
            raise _hidden_error(value)
        if not isinstance(dy, str):
            self._sparse[value].append(dy)
            return
        self._parts[value].append(dy)
        if value in self.specs:
            self.specs.setdefault(dy, self.specs[value])

    def rows(self, value: str) -> Rows | None:
        """Return the value's gradient as rows, where it is nothing else and their form is one."""
        found = self._sparse.get(value, [])
        rows = [part for part in found if isinstance(part, Rows)]
        if not rows or self._parts.get(value) or len(rows) < len(found) or len({part.form for part in rows}) > 1:
            return None
        joined = join_rows(self, value, rows)
        self._sparse[value] = [joined]
        return joined

    def cotangent(self, value: str) -> str | None:
        """Return the name of the value's whole gradient, None when nothing flowed into it."""
        for dy in whole(self, value, self._sparse.pop(value, ())):
            self.accumulate(value, dy)
        parts = self._parts.get(value)
        if not parts:
            return None
        if value not in self._sums:
            self._sums[value] = parts[0] if len(parts) == 1 else self.emit("Sum", *parts)
            if value in self.specs:
                self.specs.setdefault(self._sums[value], self.specs[value])
        return self._sums[value]

    def pull(self, node: Node, dy: str) -> Sequence[str | None]:
        """Apply the rule of the node's op: one gradient name (or None) per input. The node need not be in the graph."""
        grads = zip(node.inputs, self.apply(node, dy), strict=True)
        return [self._whole(name, grad) for name, grad in grads]

    def apply(self, node: Node, dy: str) -> Sequence[Grad]:
        """Apply the rule of the node's op, as `pull` does; gradients may be a Stretch or Rows."""
        rule = _rule(node)
        return rule(self, node, dy) if rule else self.by_definition(node, dy)

    def _whole(self, value: str, grad: Grad) -> str | None:
        return grad if grad is None or isinstance(grad, str) else next(whole(self, value, [grad]))

    def pull_op(self, op: str, x: str, y: str, dy: str, **attributes: Any) -> Sequence[str | None]:
        """Apply the rule of y = op(x), which need not be in the graph."""
        return self.pull(Node(op, (x,), (y,), attributes), dy)

    def by_definition(self, node: Node, dy: str) -> list[str | None]:
        """Return the gradients of a node's inputs by way of the ops that ONNX defines the op by.

        Raises GradientError where it is not defined by others.
        """
        return self.through(node, dy, lambda: _by_definition(self.graph, node))

    def through(self, node: Node, dy: str, emit: Callable[[], Sequence[str]]) -> list[str | None]:
        """Return the gradients of a node's inputs by way of the nodes that `emit` appends.

        They compute from the node's inputs what the node computes; `emit` returns their names of its outputs.
        """
        first = len(self.graph.nodes)
        outputs = emit()
        nodes = _unfolded(self.graph, first)
        inner = Tape(self.graph, reach(nodes, filter(self.needs, node.inputs)), ())
        dys = [dy, *map(self.cotangent, node.outputs[1:])]
        for output, grad in zip(outputs, dys, strict=False):
            inner.accumulate(output, grad)
        for step in reversed(nodes):
            _step(inner, step, None)
        return [inner.cotangent(name) if name and self.needs(name) else None for name in node.inputs]

    def slope(self, x: str, emit: Callable[[], str]) -> tuple[str, str]:
        """Return the value y that `emit` computes elementwise from x, and the derivative dy/dx of each element."""
        first = len(self.graph.nodes)
        y = emit()
        nodes = self.graph.nodes[first:]
        inner = Tape(self.graph, reach(nodes, [x]), ())
        self.specs.setdefault(y, self.specs[x])
        inner.accumulate(y, self.emit("Expand", self.scalar(1, like=x), self.ints(*self.shape(x))))
        for step in reversed(nodes):
            _step(inner, step, None)
        return y, inner.cotangent(x) or self.zeros_like(x)

    def scalar(self, number: float, like: str) -> str:
        """Return a constant of no axes, of the same type as the value `like`."""
        return self.constant(number, self.specs[like].dtype)

    def zeros_like(self, value: str) -> str:
        """Emit zeros of the value's shape."""
        return self.zeros(self.shape(value), self.specs[value].dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> str:
        """Emit zeros; small ones of a shape are emitted once."""
        size = math.prod(shape)
        emit = self.once if size <= _SMALL else self.emit
        return self.declare(emit("Expand", self.constant(0, dtype), self.ints(*shape)), tuple(shape), dtype)

    def once(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Emit a node of one output, or return the one that was emitted with the same inputs and attributes."""
        key = op, inputs, tuple(sorted(attributes.items()))
        if key not in self._once:
            self._once[key] = self.emit(op, *inputs, **attributes)
        return self._once[key]

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Emit the parts of a value along an axis, counted from the front."""
        parts = self.emit_many("Split", value, self.ints(*sizes), count=len(sizes), axis=axis)
        self._splits[axis, tuple(parts)] = value
        return parts

    def concat(self, parts: Sequence[str], axis: int) -> str:
        """Emit values side by side along an axis, counted from the front; nothing where `split` made them of one."""
        if len(parts) == 1:
            return parts[0]
        return self._splits.get((axis, tuple(parts))) or self.emit("Concat", *parts, axis=axis)

    def forget(self, first: int) -> None:
        """Drop the nodes from `first` on."""
        dropped = {name for node in self.graph.nodes[first:] for name in node.outputs}
        self._once = {key: name for key, name in self._once.items() if name not in dropped}
        del self.graph.nodes[first:]


def _steps(graph: Graph) -> Iterator[tuple[int, int, Region | None]]:
    """Yield (first, last, region) backwards: single nodes, and regions as a whole (the outermost where they nest)."""
    by_length = sorted(graph.regions, key=lambda region: region.last - region.first)
    ends = {region.last: region for region in by_length if region.last > region.first}
    position = len(graph.nodes)
    while position:
        region = ends.get(position)
        first = region.first if region else position - 1
        yield first, position, region
        position = first


def _hidden(graph: Graph) -> set[str]:
    """Return the values computed inside a region that are none of its outputs."""
    return {
        name
        for first, last, region in _steps(graph)
        if region
        for node in graph.nodes[first:last]
        for name in node.outputs
        if name not in region.outputs
    }


def _hidden_error(value: str) -> GradientError:
    return GradientError(f"value {value} has no gradient of its own: make it an output of its custom_vjp, or detach it")


def _unfolded(graph: Graph, first: int) -> list[Node]:
    """Drop the graph's nodes from `first` on whose values are constants, and return the others."""
    from caffestat.graph.infer import infer_node

    nodes = graph.nodes[first:]
    del graph.nodes[first:]
    kept = [node for node in nodes if not infer_node(graph, node)]
    graph.nodes += kept
    return kept


def _by_definition(graph: Graph, node: Node) -> Sequence[str]:
    """Emit the ops by which ONNX, or a late op's definition, defines this one. Raises GradientError where none does."""
    from caffestat.graph.nodes import expand_function

    if node.domain == LATE:
        return define(graph, node)
    outputs = tuple(graph.unique(f"{name}/again") if name else "" for name in node.outputs)
    nodes = expand_function(replace(node, outputs=outputs), graph.specs, graph.unique)
    if nodes is None:
        value = next(filter(None, node.outputs), "")
        if node.domain:
            raise GradientError(f"no gradient rule for op {node.op} of {node.domain} (value {value})")
        raise GradientError(f"no gradient rule for op {node.op} (value {value}): register one with @vjp")
    graph.nodes += nodes
    return outputs


def reach(nodes: Iterable[Node], wrt: Iterable[str]) -> set[str]:
    """Return `wrt` and what the nodes compute from it, except by gradient-free ops."""
    needed = set(wrt)
    for node in nodes:
        if node.op not in _FREE and not needed.isdisjoint((*node.inputs, *node.captured)):
            needed.update(filter(None, node.outputs))
    return needed


def needed(graph: Graph, wrt: Collection[str]) -> set[str]:
    """Return `wrt` and every value computed from it without a detach or a gradient-free op in between."""
    found = set(wrt)
    for first, last, region in reversed(list(_steps(graph))):
        node = graph.nodes[first]
        inputs = region.inputs if region else (*node.inputs, *node.captured)
        if (region is None and node.op in _FREE) or found.isdisjoint(inputs):
            continue
        computed = (name for inner in graph.nodes[first:last] for name in inner.outputs)
        found.update(name for name in computed if name and name not in graph.detached)
    return found


def differentiable(op: str) -> str:
    """Return how an op's gradient is known: "rule", "zero", "by definition" (ONNX defines it by other ops) or ""."""
    import onnx

    _register_own()
    if op in _RULES or op in _FREE:
        return "zero" if op in _FREE else "rule"
    schema: Any = onnx.defs.get_schema(op, OPSET)  # its type stubs leave functions out
    return "by definition" if schema.has_function or schema.has_context_dependent_function else ""


def _rule(node: Node) -> Rule | None:
    return _RULES.get(node.op) if node.domain in ("", CONTRIB) else None


def _step(
    tape: Tape, node: Node, region: Region | None, stops: MutableSequence[tuple[Node, str]] | None = None
) -> None:
    inputs, outputs = (region.inputs, region.outputs) if region else (node.inputs, node.outputs)
    reads = (*inputs, *node.captured)
    if (region is None and node.op in _FREE) or not any(map(tape.needs, reads)):
        return
    behind = [tape.unknown[name] for name in outputs if name in tape.unknown and name not in tape.graph.detached]
    if behind:
        _block(tape, reads, behind[0])
        return
    flowing = [name for name in outputs if name not in tape.graph.detached]
    grads = None if region else _pull_rows(tape, node, flowing)
    if grads is None:
        dys = tuple(tape.cotangent(name) if name in flowing else None for name in outputs)
        if not any(dys):
            return
        end = len(tape.graph.nodes)
        try:
            grads = region.backward(tape, dys) if region else _pull(tape, _as_stored(tape, node), dys[0])
        except GradientError as error:
            if stops is None:
                raise
            tape.forget(end)
            _block(tape, reads, len(stops))
            stops.append((node, str(error)))
            return
    if len(grads) != len(inputs):
        what = "of a custom_vjp" if region else f"rule of op {node.op}"
        raise GradientError(f"the gradient {what} returns {len(grads)} values for {len(inputs)} inputs")
    for name, grad in zip(inputs, grads, strict=True):
        tape.accumulate(name, grad)


def _pull_rows(tape: Tape, node: Node, flowing: Sequence[str]) -> Sequence[Grad] | None:
    """Apply the op's rule for rows; None when it has none, or when the gradient is something else."""
    rule = None if node.domain else _ROW_RULES.get(node.op)
    if rule is None or node.outputs[0] not in flowing or not tape.specs.keys() >= {*node.inputs, node.outputs[0]}:
        return None
    rows = tape.rows(node.outputs[0])
    return rule(tape, _as_stored(tape, node), rows) if rows else None


def _has_body(node: Node) -> bool:
    from caffestat.graph.nodes import subgraphs

    return bool(node.captured or subgraphs(node))


def _inner_names(node: Node) -> set[str]:
    """Return the names of what the node's subgraphs are given and compute."""
    from caffestat.graph.nodes import given_names, subgraphs

    graphs = subgraphs(node)
    return {name for body in graphs for name in (*given_names(body), *(n for inner in body.node for n in inner.output))}


def _as_stored(tape: Tape, node: Node) -> Node:
    inputs = tuple(map(tape.stored, node.inputs))
    return node if inputs == node.inputs else replace(node, inputs=inputs)  # a rule may ask its node for more outputs


def _pull(tape: Tape, node: Node, dy: str | None) -> Sequence[Grad]:
    if _has_body(node) and _rule(node) is None:
        raise GradientError(f"no gradient flows through the subgraphs of {node.op} (value {node.outputs[0]})")
    try:
        return tape.apply(node, dy or tape.zeros_like(node.outputs[0]))
    except KeyError as error:
        if error.args[0] not in {*node.inputs, *node.outputs, *_inner_names(node)}:
            raise
        unknown = f"the shape of {error.args[0]} is not known"
        raise GradientError(f"{node.op} (value {node.outputs[0]}): {unknown}") from error


def _block(tape: Tape, values: Iterable[str], stop: int) -> None:
    for name in filter(tape.needs, values):
        tape.unknown.setdefault(name, stop)


def backward(
    graph: Graph,
    seeds: Mapping[str, str],
    wrt: Collection[str],
    stops: MutableSequence[Stop] | None = None,
    stored: Mapping[str, str] | None = None,
) -> dict[str, str | None]:
    """Append the backward half to `graph`.

    seeds: the gradient (a value's name) of each value to start from, usually a loss and a constant.
    wrt:   the values whose gradients are wanted: inputs, params or anything in between.
    stops: gets the nodes without a rule, instead of an error; values before them are left out of what is returned.
    stored: what the gradients are computed from in the place of some values: what the memory of these holds by then, in
            a framework that works in place.

    Returns the gradient's name for each value of `wrt`, None where no path leads to a seed.
    Raises GradientError for an op on the path without a rule, and for a value inside a region of `custom_vjp`.
    """
    _register_own()
    graph.infer()
    steps = list(_steps(graph))
    hidden = _hidden(graph)
    for value in sorted(hidden.intersection(wrt)):
        raise _hidden_error(value)
    tape = Tape(graph, needed(graph, wrt), hidden, stored)
    for value, seed in seeds.items():
        tape.accumulate(value, seed)
    found: list[tuple[Node, str]] | None = None if stops is None else []
    for first, _last, region in steps:
        _step(tape, graph.nodes[first], region, found)
    if stops is not None:
        counts = Counter(tape.unknown.values())
        stops.extend(Stop(node, reason, counts[index]) for index, (node, reason) in enumerate(found or ()))
    return {value: tape.cotangent(value) for value in wrt if value not in tape.unknown}
