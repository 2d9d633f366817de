"""The reverse walk and the registry of vector-Jacobian products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from caffestat.errors import GradientError
from caffestat.graph import Graph, Node, Region

__all__ = ["Tape", "backward", "gradient_free", "vjp"]

Rule = Callable[["Tape", Node, str], "Sequence[str | None]"]

_RULES: dict[tuple[str, str], Rule] = {}
_FREE: set[str] = set()


def vjp(*ops: str, provider: str = "") -> Callable[[Rule], Rule]:
    """Register the gradient of ONNX ops: `rule(tape, node, dy)` returns one gradient name, or None for zero, per input.

    `dy` is the gradient of the node's first output; `tape.cotangent(name)` gives that of any output. A rule may
    leave out (return None for) inputs for which `tape.needs(name)` is false. `provider` ("cuda") registers a rule
    for that runtime only, which then comes before the general one.

    Raises ValueError when the op already has a rule for that provider.
    """

    def register(rule: Rule) -> Rule:
        for op in ops:
            if (op, provider) in _RULES or op in _FREE:
                raise ValueError(f"op {op!r} already has a gradient rule for {provider or 'every provider'}")
            _RULES[op, provider] = rule
        return rule

    return register


def gradient_free(*ops: str) -> None:
    """Declare ops through which no gradient flows: their derivative is zero or their outputs are integers."""
    for op in ops:
        if (op, "") in _RULES or op in _FREE:
            raise ValueError(f"op {op!r} is already declared")
        _FREE.add(op)


class Tape:
    """What a gradient rule sees: the graph it emits into, and what the reverse walk knows.

    The `graph` methods that rules use all the time are on the tape itself.
    """

    def __init__(self, graph: Graph, needed: Collection[str], hidden: Collection[str]) -> None:
        self.graph = graph
        self.provider = graph.provider
        self.specs, self.constants = graph.specs, graph.constants
        self.shape, self.stored, self.unique, self.declare = graph.shape, graph.stored, graph.unique, graph.declare
        self.emit, self.emit_many, self.constant, self.ints = graph.emit, graph.emit_many, graph.constant, graph.ints
        self.reshape, self.transpose, self.cast = graph.reshape, graph.transpose, graph.cast
        self.fused_matmul = graph.fused_matmul
        self._needed = needed
        self._hidden = hidden
        self._parts: defaultdict[str, list[str]] = defaultdict(list)
        self._sums: dict[str, str] = {}

    def needs(self, value: str) -> bool:
        """Tell whether somebody asked for this value's gradient, or for that of something before it."""
        return value in self._needed

    def accumulate(self, value: str, dy: str | None) -> None:
        """Add one contribution to the value's gradient; it has the value's shape.

        Raises GradientError for a value inside a region that is none of the region's outputs.
        """
        if dy is None or not self.needs(value):
            return
        if value in self._hidden:
            raise _hidden_error(value)
        self._parts[value].append(dy)
        if value in self.specs:
            self.specs.setdefault(dy, self.specs[value])

    def cotangent(self, value: str) -> str | None:
        """Return the name of the value's whole gradient, None when nothing flowed into it."""
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
        return _rule(node, self.provider)(self, node, dy)

    def scalar(self, number: float, like: str) -> str:
        """Return a constant of no axes, of the same type as the value `like`."""
        return self.constant(number, self.specs[like].dtype)

    def zeros_like(self, value: str) -> str:
        """Emit zeros of the value's shape."""
        spec = self.specs[value]
        zeros = self.emit("Expand", self.scalar(0, like=value), self.ints(*spec.shape))
        return self.declare(zeros, spec.shape, spec.dtype)


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


def _needed(graph: Graph, wrt: Collection[str]) -> set[str]:
    """Return `wrt` and every value computed from it without a detach or a gradient-free op in between."""
    needed = set(wrt)
    for first, last, region in reversed(list(_steps(graph))):
        node = graph.nodes[first]
        if (region is None and node.op in _FREE) or needed.isdisjoint(region.inputs if region else node.inputs):
            continue
        computed = (name for inner in graph.nodes[first:last] for name in inner.outputs)
        needed.update(name for name in computed if name and name not in graph.detached)
    return needed


def _rule(node: Node, provider: str) -> Rule:
    rule = _RULES.get((node.op, provider)) or _RULES.get((node.op, ""))
    if rule is None:
        raise GradientError(f"no gradient rule for op {node.op} (value {node.outputs[0]}): register one with @vjp")
    return rule


def _step(tape: Tape, node: Node, region: Region | None) -> None:
    inputs, outputs = (region.inputs, region.outputs) if region else (node.inputs, node.outputs)
    if (region is None and node.op in _FREE) or not any(map(tape.needs, inputs)):
        return
    dys = tuple(None if name in tape.graph.detached else tape.cotangent(name) for name in outputs)
    if not any(dys):
        return
    grads = region.backward(tape, dys) if region else tape.pull(node, dys[0] or tape.zeros_like(outputs[0]))
    for name, grad in zip(inputs, grads, strict=True):
        tape.accumulate(name, grad)


def backward(graph: Graph, seeds: Mapping[str, str], wrt: Collection[str]) -> dict[str, str | None]:
    """Append the backward half to `graph`.

    seeds: the gradient (a value's name) of each value to start from, usually a loss and a constant.
    wrt:   the values whose gradients are wanted: inputs, params or anything in between.

    Returns the gradient's name for each value of `wrt`, None where no path leads to a seed.
    Raises GradientError for an op on the path without a rule, and for a value inside a region of `custom_vjp`.
    """
    from . import rules  # noqa: F401  registers the rules; imported here because they import this module

    graph.infer()
    steps = list(_steps(graph))
    hidden = _hidden(graph)
    for value in sorted(hidden.intersection(wrt)):
        raise _hidden_error(value)
    tape = Tape(graph, _needed(graph, wrt), hidden)
    for value, seed in seeds.items():
        tape.accumulate(value, seed)
    for first, _last, region in steps:
        _step(tape, graph.nodes[first], region)
    return {value: tape.cotangent(value) for value in wrt}
