"""A Net said in ONNX: forward, node by node, then its backward half by autodiff."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from caffestat.autodiff import backward
from caffestat.errors import NetError
from caffestat.graph import Graph
from caffestat.layers import Layer, Unrolled

from .aliasing import Memory, adds_up
from .model import Net, Node
from .unroll import build_unrolled

__all__ = [
    "Gradients",
    "Inner",
    "Lowered",
    "behind_unknown",
    "differentiate",
    "lower",
    "lower_decided",
    "lower_unrolled",
]

Key = tuple[int, int]


@dataclass
class Lowered:
    """The forward graph and which value is which blob.

    memory         which values share memory in Caffe
    tops, bottoms  the value of (node, top) and (node, bottom); an in-place blob has one value per writer
    params         the graph's param for each owner, by its index in `Net.params`
    uses           the value that (node, param) reads: its own name for each reader of a shared param
    feeds          the graph inputs that a node declared, in order
    layers         the first and last (exclusive) ONNX node of each layer's forward pass
    inner          the nets inside of recurrent layers, by node: their layers' values in the same graph
    """

    graph: Graph
    memory: Memory
    tops: dict[Key, str] = field(default_factory=dict)
    bottoms: dict[Key, str] = field(default_factory=dict)
    params: dict[int, str] = field(default_factory=dict)
    uses: dict[Key, str] = field(default_factory=dict)
    feeds: dict[int, tuple[str, ...]] = field(default_factory=dict)
    layers: dict[int, tuple[int, int]] = field(default_factory=dict)
    inner: dict[int, Inner] = field(default_factory=dict)

    def layer_of(self, value: str) -> int | None:
        """Return the layer whose forward pass computes a value, None for other values."""
        for index, (first, last) in self.layers.items():
            if any(value in node.outputs for node in self.graph.nodes[first:last]):
                return index
        return None


@dataclass(frozen=True)
class Inner:
    """The net that a recurrent layer runs, and its values; `prints` tells whether Caffe prints its lines."""

    net: Net
    lowered: Lowered
    prints: bool

    @property
    def owners(self) -> list[int]:
        """The inner params that own their values, by index: the params of the layer around, in order."""
        return [number for number, param in enumerate(self.net.params) if param.owner is None]


@dataclass(frozen=True)
class Gradients:
    """Values of the gradients by (node, bottom) and (node, param); None is zero, an absent key is unknown.

    A shared param's is the sum so far in the backward pass. `owners` holds the whole gradient by index in `Net.params`.
    `inner` holds those inside of recurrent layers, by node, where they are printed.
    """

    bottoms: dict[Key, str | None]
    params: dict[Key, str | None]
    owners: dict[int, str | None]
    inner: dict[int, Gradients] = field(default_factory=dict)


def lower(net: Net, carries: bool = False) -> Lowered:
    """Emit the forward pass of every layer that can be computed.

    Layers of unknown type, and those behind them, are left out. Raises NetError when that is all of them.

    carries: the graph keeps the states of recurrent layers from run to run
    """
    lowered = lower_decided(net, lambda layer: layer.lowers_undecided, carries)
    _refuse_nothing(net, lowered)
    return lowered


def lower_decided(
    net: Net, also: Callable[[Layer], bool] = lambda layer: False, carries: bool = False
) -> Lowered:
    """Emit the forward pass of every layer that can be computed, but for those whose decisions are due (`decides`).

    also: tells which of these are emitted nevertheless.
    """
    graph = Graph()
    memory = Memory(graph, net.nodes)
    lowered = Lowered(graph, memory)
    graph.carries = carries
    readers = Counter(net.owner(number) for node in net.nodes for number in node.params)
    for node in net.nodes:
        if node.is_known and all(blob in memory for blob in node.bottoms):
            if node.is_undecided and not also(node.layer):
                for index, blob in enumerate(node.bottoms):
                    lowered.bottoms[node.index, index] = memory[blob]
                memory.forget(node.tops)
            else:
                _lower_node(net, node, lowered, memory, readers)
    return lowered


def _refuse_nothing(net: Net, lowered: Lowered) -> None:
    """Raise NetError when every layer that has bottoms is behind an unknown shape."""
    unknown = [node.layer for node in net.nodes if node.layer.why_unknown]
    if unknown and all(net.nodes[index].bottoms == () for index, _ in lowered.tops):
        raise NetError(f"nothing can be run: {unknown[0].why_unknown}", unknown[0].place)


def _lower_node(net: Net, node: Node, lowered: Lowered, memory: Memory, readers: Counter[int]) -> None:
    g = lowered.graph
    bottoms = [_bottom(net, node, index, lowered, memory[blob]) for index, blob in enumerate(node.bottoms)]
    params = [_param(net, node, index, lowered, readers) for index in range(len(node.params))]
    before, first = len(g.inputs), len(g.nodes)
    unrolled = node.layer.unrolled([g.shape(bottom) for bottom in bottoms])
    tops: Sequence[str]
    if unrolled:
        lowered.inner[node.index], tops = lower_unrolled(memory, node.layer, unrolled, bottoms, params)
    else:
        tops = node.layer.lower(g, bottoms, params)
    if not type(node.layer).__module__.startswith("caffestat."):
        _check_outsider(node, g, first, tops)
    lowered.feeds[node.index] = tuple(g.inputs)[before:]
    lowered.layers[node.index] = first, len(g.nodes)
    for index, value in enumerate(memory.write(node, tops, bottoms)):
        lowered.tops[node.index, index] = value


def lower_unrolled(
    outer: Memory, layer: Layer, unrolled: Unrolled, bottoms: Sequence[str], params: Sequence[str]
) -> tuple[Inner, list[str]]:
    """Emit the net inside of a recurrent layer, between the values of the layer's bottoms and params; return its tops.

    Source: recurrent_layer.cpp, Forward.
    """
    net = build_unrolled(layer, unrolled)
    owners = [number for number, param in enumerate(net.params) if param.owner is None]
    g, memory = outer.graph, outer.inside(net)
    part = Lowered(g, memory, params=dict(zip(owners, params, strict=True)))
    given = _inner_inputs(g, layer, unrolled, net, bottoms)
    readers = Counter(net.owner(number) for node in net.nodes for number in node.params)
    for node in net.nodes[: len(net.nodes) - len(unrolled.outputs)]:  # the last are only there to force backward
        if node.bottoms:
            _lower_node(net, node, part, memory, readers)
            continue
        for top, blob in enumerate(node.tops):
            part.tops[node.index, top] = memory.hold(blob, given[net.blobs[blob].name])
    last = {blob.name: memory[number] for number, blob in enumerate(net.blobs) if number in memory}
    for first, end in unrolled.states.items():
        g.carry(given[first], last[end])
    tops = [last[name] for name in unrolled.outputs]
    if unrolled.exposed:
        tops += [g.detach(last[end]) for end in unrolled.states.values()]
    return Inner(net, part, unrolled.debug_info), tops


def _inner_inputs(g: Graph, layer: Layer, unrolled: Unrolled, net: Net, bottoms: Sequence[str]) -> dict[str, str]:
    """Return the values of the inner net's inputs; no gradient leaves by those that it needs none of."""
    needed = {
        net.blobs[blob].name
        for node in net.nodes
        for blob, needed in zip(node.bottoms, node.bottom_need_backward, strict=True)
        if needed
    }
    given = {}
    for name, value in zip(unrolled.inputs, bottoms, strict=True):
        given[name] = g.emit("Identity", value) if name in needed else g.detach(value)
        g.declare(given[name], g.shape(value))
    shapes = {net.blobs[blob].name: net.blobs[blob].shape or () for node in net.nodes for blob in node.tops}
    for name in unrolled.states:
        if name not in given:
            given[name] = g.state(f"{layer.name}/{name}", shapes[name])
    return given


def _check_outsider(node: Node, g: Graph, first: int, tops: Sequence[str]) -> None:
    """Raise NetError when a layer type from a plugin emits what cannot be computed, or not of the shapes it says."""
    from caffestat.graph.faults import find_fault  # imports onnx

    fault = find_fault(g, g.nodes[first:])
    if not fault and len(tops) != len(node.tops):
        fault = f"it returns {len(tops)} values for {len(node.tops)} tops"
    fault = fault or _shape_fault(node, g, tops)
    if fault:
        raise node.layer.error(f"`lower` of its class {type(node.layer).__qualname__}: {fault}")


def _shape_fault(node: Node, g: Graph, tops: Sequence[str]) -> str | None:
    g.infer()
    for value, shape in zip(tops, node.top_shapes, strict=True):
        found = g.specs.get(value)
        if found is None or found.shape != shape:
            made = f"a value of shape {found.shape}" if found else f"{value!r}, which nothing computes"
            return f"it returns {made} for a top of shape {shape} by its `tops`"
    return None


def _bottom(net: Net, node: Node, index: int, lowered: Lowered, value: str) -> str:
    """Return the value a bottom reads; cut off from the backward pass where Caffe does not propagate down."""
    flows = node.need_backward and node.bottom_need_backward[index]
    if net.blobs[node.bottoms[index]].need_backward and not flows:
        value = lowered.graph.detach(value)
    lowered.bottoms[node.index, index] = value
    return value


def _param(net: Net, node: Node, index: int, lowered: Lowered, readers: Counter[int]) -> str:
    """Return the value a layer reads its param from: the owner's, under a name of its own when several read it."""
    g = lowered.graph
    owner = net.owner(node.params[index])
    shape = net.params[node.params[index]].param.shape
    if owner not in lowered.params:
        first = net.params[owner]
        lowered.params[owner] = g.param(f"{net.nodes[first.node].name}/{first.index}", first.param.shape)
    value = lowered.params[owner]
    if readers[owner] > 1:
        value = g.emit("Identity", value) if g.shape(value) == shape else g.reshape(value, *shape)
        g.declare(value, shape)
    lowered.uses[node.index, index] = value
    return value


def behind_unknown(net: Net, lowered: Lowered) -> set[int]:
    """Return the blobs whose gradient depends on a layer that cannot be computed."""
    unknown: set[int] = set()
    for node in reversed(net.nodes):
        left_out = not all((node.index, top) in lowered.tops for top in range(len(node.tops)))
        if node.need_backward and (left_out or not unknown.isdisjoint(node.tops)):
            unknown.update(node.bottoms, node.tops)
    return unknown


def differentiate(net: Net, lowered: Lowered) -> Gradients:
    """Append the backward half to the lowered graph and return the gradients that Caffe computes.

    Raises GradientError for an op without a rule.
    """
    unknown = behind_unknown(net, lowered)
    nodes = [node for node in net.nodes if node.need_backward and unknown.isdisjoint(node.tops)]
    nodes = [node for node in nodes if all((node.index, top) in lowered.tops for top in range(len(node.tops)))]
    asked = _Asked.of(lowered, nodes)
    shown = [node.index for node in nodes if node.index in lowered.inner and lowered.inner[node.index].prints]
    inner = {index: _Asked.of_inner(lowered.inner[index]) for index in shown}
    wanted = [value for part in (asked, *inner.values()) for value in part.values()]
    stored = lowered.memory.all_stored()
    found = backward(lowered.graph, _seeds(net, lowered, nodes), wanted, stored=stored)
    gradients = _gather(net, lowered, *asked.found(found))
    for index, part in inner.items():
        inside = lowered.inner[index]
        before = dict(zip(inside.owners, _gathered_before(net, gradients, index), strict=True))
        gradients.inner[index] = _gather(inside.net, inside.lowered, *part.found(found), before)
    return gradients


def _gathered_before(net: Net, gradients: Gradients, node: int) -> list[str | None]:
    """Return what stands in the gradient of each param of a node when its backward pass begins."""
    found = []
    for number in net.nodes[node].params:
        owner = net.owner(number)
        later = [k for k in gradients.params if k[0] > node and net.owner(net.nodes[k[0]].params[k[1]]) == owner]
        found.append(gradients.params[min(later)] if later else None)
    return found


@dataclass(frozen=True)
class _Asked:
    """The values whose gradients are wanted, by (node, bottom) and (node, param)."""

    bottoms: dict[Key, str]
    params: dict[Key, str]

    @classmethod
    def of(cls, lowered: Lowered, nodes: Iterable[Node]) -> _Asked:
        nodes = list(nodes)
        return cls(
            {
                (node.index, index): lowered.bottoms[node.index, index]
                for node in nodes
                for index, needed in enumerate(node.bottom_need_backward)
                if needed
            },
            {
                (node.index, index): lowered.uses[node.index, index]
                for node in nodes
                for index, needed in enumerate(node.param_propagate_down)
                if needed
            },
        )

    @classmethod
    def of_inner(cls, inner: Inner) -> _Asked:
        ran = {index for index, _ in inner.lowered.bottoms}
        return cls.of(inner.lowered, (node for node in inner.net.nodes if node.need_backward and node.index in ran))

    def values(self) -> list[str]:
        return [*self.bottoms.values(), *self.params.values()]

    def found(self, found: Mapping[str, str | None]) -> tuple[dict[Key, str | None], dict[Key, str | None]]:
        """Return the gradients in the place of the values."""
        return {k: found[v] for k, v in self.bottoms.items()}, {k: found[v] for k, v in self.params.items()}


def _seeds(net: Net, lowered: Lowered, nodes: list[Node]) -> dict[str, str]:
    """Return the gradient that some tops start with, everywhere: the loss weight, or 0 where any dy will do."""
    g = lowered.graph
    seeds = {}
    for node in nodes:
        for top, weight in enumerate(node.loss_weights):
            if weight or node.layer.ignores_dy:
                shape = node.top_shapes[top] or ()
                scalar = g.constant(weight)
                seeds[lowered.tops[node.index, top]] = g.emit("Expand", scalar, g.ints(*shape)) if shape else scalar
    return seeds


def _gather(
    net: Net,
    lowered: Lowered,
    bottoms: dict[Key, str | None],
    params: dict[Key, str | None],
    before: Mapping[int, str | None] | None = None,
) -> Gradients:
    """Add up the gradients of shared params in the order of the backward pass, but for those that are written over.

    before: what they start with, by owner
    """
    g = lowered.graph
    owners: dict[int, str | None] = dict(before or {})
    so_far: dict[Key, str | None] = {}
    for node, index in sorted(params, key=lambda key: (-key[0], key[1])):
        number = net.nodes[node].params[index]
        owner = net.owner(number)
        value = params[node, index]
        if value is not None and net.params[number].param.shape != net.params[owner].param.shape:
            value = g.reshape(value, *net.params[owner].param.shape)
        earlier = owners.get(owner) if adds_up(net.nodes[node], index) else None
        total = g.emit("Add", earlier, value) if earlier and value else earlier or value
        owners[owner] = so_far[node, index] = total
    return Gradients(bottoms, so_far, owners)
