"""The two walks over a graph, and the registries of what each op does to moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from caffestat.errors import InputError
from caffestat.graph import CONTRIB, Graph, Node
from caffestat.ops import Combines, Role

from .memo import Asked, Memo, Numbers
from .quadrature import NODES, quantiles_of
from .signal import UNKNOWN, Gradient, Moments, Signal

__all__ = [
    "Gap",
    "Walk",
    "advance",
    "backward_moments",
    "begin",
    "decomposition",
    "has_rule",
    "moments",
    "propagate",
    "propagate_back",
    "unsupported",
]

Shape = tuple[int, ...]
Forward = Callable[["Walk", Node], "Sequence[Signal | None]"]
Decomposition = Callable[[Graph, Node], "Sequence[Node]"]
Backward = Callable[["Walk", Node, "Sequence[Gradient | None]"], "Sequence[Gradient | None]"]

_OVERFLOW = float(np.finfo(np.float32).max) ** 2  # the second moment from which on a run holds infinities

_FORWARD: dict[str, Forward] = {}
_BACKWARD: dict[str, Backward] = {}
_DECOMPOSITIONS: dict[str, Decomposition] = {}
_UNSUPPORTED: set[str] = set()
_WINDOWED: set[str] = set()

_LARGEST = 20_000_000  # elements of a matrix of windows
_LOWEST = float(np.finfo(np.float32).min)


def moments(*ops: str, windows: bool = False) -> Callable[[Forward], Forward]:
    """Register what ops make of their inputs: `rule(walk, node)` returns one Signal, or None for unknown, per output.

    windows: the rule makes a matrix [places, elements] per axis, so that it is not asked about very long axes

    Raises ValueError when an op has a rule already.
    """

    def register(rule: Forward) -> Forward:
        for op in ops:
            _enter(_FORWARD, op, rule)
        _WINDOWED.update(ops if windows else ())
        return rule

    return register


def backward_moments(*ops: str) -> Callable[[Backward], Backward]:
    """Register what ops make of their gradients: `rule(walk, node, dys)` returns one Gradient, or None for zero, per
    input.

    `dys` holds one entry per output, None for zero. Raises ValueError when an op has a rule already.
    """

    def register(rule: Backward) -> Backward:
        for op in ops:
            _enter(_BACKWARD, op, rule)
        return rule

    return register


def decomposition(*ops: str) -> Callable[[Decomposition], Decomposition]:
    """Register what ops are made of: `decompose(graph, node)` returns nodes that compute the same.

    They are not decomposed themselves. It returns the node as it is for its own rule, and declares the shapes of values
    in between in the graph. Raises ValueError when an op has a decomposition already.
    """

    def register(decompose: Decomposition) -> Decomposition:
        _register_own()
        for op in ops:
            if op in _DECOMPOSITIONS:
                raise ValueError(f"op {op!r} already has a decomposition")
            _DECOMPOSITIONS[op] = decompose
        return decompose

    return register


def unsupported(*ops: str) -> None:
    """Declare ops whose outputs, and whose inputs' gradients, are not predicted: indices, sorting."""
    _register_own()
    for op in ops:
        if op in _FORWARD or op in _UNSUPPORTED:
            raise ValueError(f"op {op!r} is declared already")
        _UNSUPPORTED.add(op)


def _register_own() -> None:
    """Register the package's own rules, so that one from outside of the same op is the one that is refused."""
    from . import rules  # noqa: F401  imported here because they import this module


def _enter(
    rules: dict[str, Callable[..., object]] | dict[str, Forward] | dict[str, Backward], op: str, rule: object
) -> None:
    _register_own()
    if op in rules or op in _UNSUPPORTED:
        raise ValueError(f"op {op!r} already has a moments rule")
    rules[op] = rule  # type: ignore[assignment]


def has_rule(op: str) -> bool:
    """Tell whether an op has a moments rule or is declared unsupported."""
    return op in _FORWARD or op in _DECOMPOSITIONS or op in _UNSUPPORTED


@dataclass(frozen=True)
class Gap:
    """A node at which the prediction stops: what it reads is known, what it computes is not.

    node    of the graph as it was given
    reason  why, as a sentence without a full stop
    """

    node: Node
    reason: str


class Walk:
    """What is known while a graph is walked: the signals of its values, and afterwards the gradients.

    memo: holds what walks before this one have found out
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Signal | None], memo: Memo | None = None) -> None:
        self.graph, self.numbers = graph, Numbers(memo or Memo(), graph)
        self.signals: dict[str, Signal | None] = {}
        for value, signal in inputs.items():
            self.give(value, signal)
        self.gradients: dict[str, Gradient] = {}
        self.gaps: list[Gap] = []
        self.steps = [(inner, node) for node in _steps(graph) for inner in _decomposed(graph, node)]

    def give(self, value: str, signal: Signal | None) -> None:
        """Let an input have this signal, in the place of any other."""
        self.signals[value] = self.numbers.start(value, _in_range(signal))

    def shape(self, value: str) -> Shape:
        """Return the value's shape; () when it is unknown."""
        spec = self.graph.specs.get(value)
        return spec.shape if spec else ()

    def constant(self, value: str) -> np.ndarray | None:
        """Return the array of a constant, None for any other value."""
        return self.graph.constants.get(value)

    def signal(self, value: str) -> Signal | None:
        """Return what is known of a value; a constant is what it is."""
        if value not in self.signals and value in self.graph.constants:
            self.signals[value] = self.numbers.constant(value, partial(_of_array, self.graph.constants[value]))
        return self.signals.get(value)

    def knows(self, *values: str) -> bool:
        """Tell whether something is known of all these values; an input that is left out counts for nothing."""
        return all(self._is_known(value) for value in values if value)

    def _is_known(self, value: str) -> bool:
        """Tell whether a value has a signal; that of a constant is not made for it: few rules read indices."""
        if value in self.signals:
            return self.signals[value] is not None
        return value in self.graph.constants and _has_numbers(self.graph.constants[value])

    def gradient(self, value: str) -> Gradient | None:
        """Return the value's whole gradient, None for zero."""
        return self.gradients.get(value)

    def gradient_moments(self, value: str) -> Moments | None:
        """Return the moments of a value's gradient: zeros where none flows into it, None where they are unknown."""
        found = self.gradients.get(value)
        if found is None:
            return Moments(0.0, 0.0, 0.0)
        return found.moments if found.known else None

    def accumulate(self, value: str, dy: Gradient | None, asked: Asked) -> None:
        """Add one contribution, of this number, to a value's gradient."""
        if dy is not None and value and value not in self.graph.constants:
            work = partial(_plus, self.gradients.get(value), dy)
            self.gradients[value] = self.numbers.sum(value, asked, work)


def _plus(before: Gradient | None, dy: Gradient) -> Gradient:
    dy = dy if dy.second < _OVERFLOW else UNKNOWN
    return before.plus(dy) if before else dy


def _of_array(array: np.ndarray) -> Signal | None:
    """Return the signal of a constant; the infinity of a mask is as good as the largest number of float32."""
    if not _has_numbers(array):
        return None
    flat = np.clip(array.astype(np.float64).ravel(), _LOWEST, -_LOWEST)
    if flat.size == 0:
        return Signal(np.zeros_like(NODES))
    if np.ptp(flat) == 0:
        return Signal(np.full_like(NODES, flat[0]), 1.0, 1.0)
    return Signal(quantiles_of(flat), 0.0, 1.0)


def _has_numbers(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or (array.dtype.kind not in "OSU" and not np.isnan(array.astype(np.float64)).any())


def _steps(graph: Graph) -> Iterator[Node]:
    """Yield the nodes in order; a region that says what it is as a whole stands for its nodes."""
    wholes = {region.first: region for region in graph.regions if region.whole and region.last > region.first}
    position = 0
    while position < len(graph.nodes):
        region = wholes.get(position)
        yield region.whole if region and region.whole else graph.nodes[position]
        position = region.last if region else position + 1


def _decomposed(graph: Graph, node: Node) -> Sequence[Node]:
    is_known = node.op in _DECOMPOSITIONS and node.domain in ("", CONTRIB)
    return _DECOMPOSITIONS[node.op](graph, node) if is_known and _has_shapes(graph, node) else (node,)


def _has_shapes(graph: Graph, node: Node) -> bool:
    """Tell whether the shapes of a node's values are known, and all have elements."""
    values = [value for value in (*node.inputs, *node.outputs) if value]
    return all(value in graph.specs and 0 not in graph.shape(value) for value in values)


def begin(graph: Graph, inputs: Mapping[str, Signal | None], memo: Memo | None = None) -> Walk:
    """Return a walk that has not taken a step; the arguments are those of `propagate`."""
    _register_own()
    graph.infer()
    return Walk(graph, inputs, memo)


@np.errstate(all="ignore")  # what overflows is taken care of, signal by signal
def advance(walk: Walk, step: tuple[Node, Node]) -> None:
    """Take one of the walk's steps forward; a step may be taken again after a change of what it reads."""
    node, origin = step
    signals = walk.numbers.forward(node, partial(_forward, walk, node))
    walk.signals.update(zip(node.outputs, signals, strict=False))
    if signals[:1] in ([], [None]) and walk.knows(*node.inputs):
        walk.gaps.append(Gap(origin, _reason(walk, node, signals)))


def propagate(
    graph: Graph,
    inputs: Mapping[str, Signal | None],
    seeds: Mapping[str, Gradient],
    stop: Collection[str] = (),
    memo: Memo | None = None,
) -> Walk:
    """Walk the graph forward, then backward from the seeds, and return what is known of every value.

    inputs: the signals of the graph's inputs and params; what is missing is unknown, and so is what depends on it
    seeds:  the gradients to start from, by value
    stop:   values whose gradient is not wanted, so that the walk need not go past them
    memo:   what it shares with walks before it: equal parts of graphs are worked out once

    Where the prediction stops, and why, is in the walk's `gaps`.
    """
    walk = begin(graph, inputs, memo)
    for step in walk.steps:
        advance(walk, step)
    propagate_back(walk, seeds, stop)
    return walk


@np.errstate(all="ignore")
def propagate_back(walk: Walk, seeds: Mapping[str, Gradient], stop: Collection[str] = ()) -> None:
    """Walk back from the seeds over a graph that was walked forward; the arguments are those of `propagate`."""
    for value, seed in seeds.items():
        walk.accumulate(value, seed, walk.numbers.seed(seed))
    for node in _backward_steps(walk):
        number, dxs = walk.numbers.backward(node, stop, partial(_backward, walk, node, stop))
        for place, (value, dx) in enumerate(zip(node.inputs, dxs, strict=True)):
            if value not in stop:
                walk.accumulate(value, dx, (number, place))


def _backward_steps(walk: Walk) -> Iterator[Node]:
    """Yield the steps backward; the op that a region's gradient is the derivative of stands for its nodes."""
    graph = walk.graph
    slopes = {
        id(node): region.slope
        for region in graph.regions
        for node in graph.nodes[region.first : region.last]
        if region.slope
    }
    for node, origin in reversed(walk.steps):
        slope = slopes.get(id(origin))
        if slope is None:
            yield node
        elif set(slope.outputs) & set(node.outputs):
            yield slope


def _is_predictable(walk: Walk, node: Node) -> bool:
    """Tell whether a rule can say something about a node: it is of an op that we know, on values of known shape."""
    is_known = node.op in _FORWARD and node.domain in ("", CONTRIB) and _has_shapes(walk.graph, node)
    return is_known and (node.op not in _WINDOWED or _is_short(walk, node))


def _reason(walk: Walk, node: Node, signals: Sequence[Signal | None]) -> str:
    """Say why nothing is known of what a node computes, although all that it reads is known."""
    op = node.op if node.domain in ("", CONTRIB) else f"{node.domain}.{node.op}"
    if op != node.op or not has_rule(node.op):
        return f"there is no moments rule for op {op}"
    if node.op in _UNSUPPORTED:
        return f"the values of op {op} are not predicted"
    if node.op not in _FORWARD:
        return f"op {op} is not predicted with these settings"
    if not _has_shapes(walk.graph, node):
        return f"op {op} reads or computes a value without elements or of unknown shape"
    if not _is_predictable(walk, node):
        return f"the axes of op {op} are too long for sums over its windows"
    if not signals:
        return f"the moments rule of op {op} says nothing of its outputs"
    return f"op {op} is not predicted with these settings, or its values are not finite"


def _is_short(walk: Walk, node: Node) -> bool:
    """Tell whether the windows of a node are few enough; those of a sound, say, are not."""
    axes = zip(walk.shape(node.inputs[0])[2:], walk.shape(node.outputs[0])[2:], strict=False)
    return all(size * places <= _LARGEST for size, places in axes)


def _forward(walk: Walk, node: Node) -> list[Signal | None]:
    branch = _branch(walk, node)
    if branch:
        return [walk.signal(branch)]
    if not _is_predictable(walk, node) or not walk.knows(*node.inputs):
        return [None] * len(node.outputs)
    return [_with_finite_width(walk, node, _in_range(signal)) for signal in _FORWARD[node.op](walk, node)]


def _branch(walk: Walk, node: Node) -> str:
    """Return the input that a choice takes everywhere, whatever the other one is: 1 / 0 behind a guard; else ""."""
    is_choice = node.info.moves and node.info.role(0) is Role.CONDITION
    condition = walk.signal(node.inputs[0]) if is_choice else None
    if condition is None or not condition.is_constant:
        return ""
    return node.inputs[1 if condition.mean else 2]


def _in_range(signal: Signal | None) -> Signal | None:
    """Return the signal, no larger than what a run can hold; None for NaN."""
    if signal is None or signal.second < _OVERFLOW:
        return signal
    factor = math.sqrt(_OVERFLOW / signal.second)
    return replace(signal, values=signal.values * factor, channel_values=None) if factor > 0 else None


def _with_finite_width(walk: Walk, node: Node, signal: Signal | None) -> Signal | None:
    """Give a signal the finite_width of what it is computed from, where its rule says nothing else.

    That of a product is their product, else it is their mean by second moments.
    """
    if signal is None or signal.finite_width is not None:
        return signal
    computed = [value for value in node.inputs if value and value not in walk.graph.constants]
    inputs = [x for x in map(walk.signal, computed) if x and not x.is_constant]
    if node.info.combines is Combines.PRODUCT:
        return replace(signal, finite_width=math.prod(x.finite_width or 1.0 for x in inputs))
    weight = sum(x.second for x in inputs)
    mean = sum(x.second * (x.finite_width or 1.0) for x in inputs) / weight if weight > 0 else 1.0
    return replace(signal, finite_width=mean)


def _backward(walk: Walk, node: Node, stop: Collection[str]) -> Sequence[Gradient | None]:
    zeros: list[Gradient | None] = [None] * len(node.inputs)
    detached = walk.graph.detached
    dys = [None if value in detached else walk.gradient(value) for value in node.outputs]
    if not any(dys) or all(value in stop for value in node.inputs):
        return zeros
    if not _is_predictable(walk, node):
        return [UNKNOWN] * len(node.inputs)
    if node.op not in _BACKWARD:
        return zeros
    is_known = all(dy is None or dy.known for dy in dys) and walk.knows(*node.inputs, *node.outputs)
    if not is_known:
        return [UNKNOWN] * len(node.inputs)
    found = _BACKWARD[node.op](walk, node, dys)
    if len(found) != len(node.inputs):
        what = f"{len(found)} gradients for {len(node.inputs)} inputs"
        raise InputError(f"the backward moments rule of op {node.op} returns {what}")
    return found
