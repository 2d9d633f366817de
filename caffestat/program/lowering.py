"""A Net in ONNX, node by node: its forward graph, and the gradients that are wanted of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from caffestat.errors import NetError
from caffestat.graph import Graph
from caffestat.layers import Layer, Unrolled
from caffestat.net import TRAIN, Net, Node
from caffestat.net.aliasing import Memory

from .feeds import DrawnFeed, LayerFeed
from .from_net import from_net
from .program import Forward, Inner, Key
from .unroll import build_unrolled, part_timesteps

if TYPE_CHECKING:
    from caffestat.autodiff import Tape

__all__ = ["lower", "lower_decided", "lower_unrolled"]


def lower(net: Net, carries: bool = False, shards: int = 1, strict: bool = False) -> Forward:
    """Emit the forward pass of every layer that can be computed.

    Layers of unknown type, and those behind them, are left out. Raises NetError when that is all of them.

    carries: the graph keeps the states of recurrent layers from run to run
    shards:  of how many shards of a batch the net is that of one (`net.shards`)
    strict:  see `Graph.is_strict`
    """
    forward = lower_decided(net, lambda layer: layer.lowers_undecided, carries, strict)
    forward.shards = shards
    _refuse_nothing(net, forward)
    _complete(net, forward)
    return forward


def lower_decided(
    net: Net, also: Callable[[Layer], bool] = lambda layer: False, carries: bool = False, strict: bool = False
) -> Forward:
    """Emit the forward pass of every layer that can be computed, but for those whose decisions are due (`decides`).

    also: tells which of these are emitted nevertheless.
    """
    graph = Graph()
    graph.carries, graph.is_strict = carries, strict
    memory, forward = Memory(graph, net.nodes), Forward(graph)
    readers = Counter(net.owner(number) for node in net.nodes for number in node.params)
    for node in net.nodes:
        if node.is_known and all(blob in memory for blob in node.bottoms):
            if node.is_undecided and not also(node.layer):
                for index, blob in enumerate(node.bottoms):
                    forward.bottoms[node.index, index] = memory[blob]
                memory.forget(node.tops)
            else:
                _lower_node(net, node, forward, memory, readers)
                _write_lent(forward, memory)
        else:
            memory.forget(node.tops)
    for state in graph.updates.keys() & set(graph.states):
        graph.carry(state, memory.stored(graph.updates[state]))
    forward.stored = memory.all_stored()
    forward.left = dict(_left_inputs(net, forward))
    return forward


def _write_lent(forward: Forward, memory: Memory) -> None:
    """Let params hold what layers in place have written over the tops that are their memory."""
    for key in forward.lent:
        value = forward.tops[key]
        if memory.stored(value) != value:
            forward.graph.updates[forward.uses[key]] = memory.stored(value)


def _left_inputs(net: Net, forward: Forward) -> Iterator[tuple[str, str]]:
    """Yield the inputs that no pass fills anew and layers write over, and what is there in the end."""
    for feed in forward.feeds:
        if not isinstance(feed, LayerFeed) or feed.row is None:
            continue
        for index, name in enumerate(feed.names):
            value = forward.tops.get((feed.row, index))
            if value in forward.stored and net.nodes[feed.row].layer.fills_once(index):
                yield name, forward.stored[value]


def _refuse_nothing(net: Net, forward: Forward) -> None:
    """Raise NetError when every layer that has bottoms is behind an unknown shape."""
    unknown = [node.layer for node in net.nodes if node.layer.why_unknown and not node.layer.why_uncomputed]
    if unknown and all(net.nodes[index].bottoms == () for index, _ in forward.tops):
        raise NetError(f"the net cannot be run: {unknown[0].why_unknown}", unknown[0].place)


def _lower_node(net: Net, node: Node, forward: Forward, memory: Memory, readers: Counter[int]) -> None:
    g = forward.graph
    bottoms = [_bottom(net, node, index, forward, memory[blob]) for index, blob in enumerate(node.bottoms)]
    params = [_param(net, node, index, forward, readers) for index in range(len(node.params))]
    before, first = len(g.inputs), len(g.nodes)
    unrolled = node.layer.unrolled([g.shape(bottom) for bottom in bottoms])
    tops: Sequence[str]
    lent: Sequence[tuple[Memory, int]] = ()
    if unrolled:
        shared = [
            index
            for index, number in enumerate(node.params)
            if net.params[number].owner is not None or index in node.layer.own_draws
        ]
        inner, tops, lent = lower_unrolled(memory, node.layer, unrolled, bottoms, params, shared)
        forward.inner[node.index] = inner
        forward.feeds += [DrawnFeed(node, index, inner.forward.params[number]) for number, index in inner.kept.items()]
    else:
        try:
            tops = node.layer.lower(g, bottoms, params)
        except OverflowError as error:
            raise node.layer.error(f"cannot work with its settings: {error}") from error
    if not type(node.layer).__module__.startswith("caffestat."):
        _check_outsider(node, g, first, tops)
    drawn = {name for feed in forward.feeds if isinstance(feed, DrawnFeed) for name in feed.names}
    names = tuple(name for name in tuple(g.inputs)[before:] if name not in drawn)
    if names:
        forward.feeds.append(LayerFeed(net, node, names))
    detached = [index for index in range(len(bottoms)) if _is_detached(net, node, index)]
    left = node.layer.left_diffs(g, bottoms) if detached else {}
    forward.seeds.update({memory[node.bottoms[index]]: left[index] for index in detached if index in left})
    tops = [
        _passing(g, memory[node.bottoms[index]], top) if index in detached and node.layer.is_in_place(index) else top
        for index, top in enumerate(tops)
    ]
    forward.spans[node.index] = first, len(g.nodes)
    if node.layer.output_file:
        forward.written[node.index] = tuple(bottoms)
    if node.layer.lends_param:
        forward.lent.add((node.index, 0))
    for index, value in enumerate(memory.write(node, tops, bottoms)):
        forward.tops[node.index, index] = value
    for top, (owner, blob) in zip(node.tops, lent, strict=False):
        memory.share(top, owner, blob)


def lower_unrolled(
    outer: Memory,
    layer: Layer,
    unrolled: Unrolled,
    bottoms: Sequence[str],
    params: Sequence[str],
    shared: Sequence[int] = (),
) -> tuple[Inner, list[str], list[tuple[Memory, int]]]:
    """Emit the net inside of a recurrent layer, between the values of the layer's bottoms and params.

    Returns it, the layer's tops, and the blobs inside whose memory these are.

    shared: the indices of the params that it shares with other layers, of this net or another

    Source: recurrent_layer.cpp, Forward.
    """
    net = build_unrolled(layer, unrolled)
    kept = part_timesteps(net, shared) if layer.keeps_drawn and layer.phase == TRAIN else {}
    g, memory = outer.graph, outer.inside(net)
    part = Forward(g)
    inner = Inner(from_net(net), part, unrolled.debug_info, kept)
    part.params = dict(zip(inner.owners, params, strict=True))
    for number, index in kept.items():
        part.params[number] = g.input(f"{layer.name}/{index}/drawn", net.params[number].param.shape)
    given = _inner_inputs(g, layer, unrolled, net, bottoms)
    for name, value in zip(unrolled.inputs, bottoms, strict=True):
        outer.view(value, given[name])
    readers = Counter(net.owner(number) for node in net.nodes for number in node.params)
    for node in net.nodes[: len(net.nodes) - len(unrolled.outputs)]:  # the last are only there to force backward
        if node.bottoms:
            _lower_node(net, node, part, memory, readers)
            continue
        for top, blob in enumerate(node.tops):
            part.tops[node.index, top] = memory.hold(blob, given[net.blobs[blob].name])
    last = {blob.name: number for number, blob in enumerate(net.blobs) if number in memory}
    for first, end in unrolled.states.items():
        g.carry(given[first], memory[last[end]])
    tops = [memory[last[name]] for name in unrolled.outputs]
    ends = [last[end] for end in unrolled.states.values()] if unrolled.exposed else []
    tops += [memory[end] if unrolled.passes else g.detach(memory[end]) for end in ends]
    return inner, tops, [(memory, blob) for blob in (*(last[name] for name in unrolled.outputs), *ends)]


def _inner_inputs(g: Graph, layer: Layer, unrolled: Unrolled, net: Net, bottoms: Sequence[str]) -> dict[str, str]:
    """Return the values of the inner net's inputs; no gradient leaves by those that it needs none of."""
    needed = {
        net.blobs[blob].name
        for node in net.nodes
        for blob, needed in zip(node.bottoms, node.bottom_need_backward, strict=True)
        if needed
    }
    needed.update(unrolled.states if unrolled.passes else ())
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
    if not fault and (not isinstance(tops, Sequence) or isinstance(tops, str)):
        fault = f"it returns {tops!r}, not a sequence of values"
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


def _bottom(net: Net, node: Node, index: int, forward: Forward, value: str) -> str:
    """Return the value a bottom reads; cut off from the backward pass where Caffe does not propagate down."""
    if _is_detached(net, node, index):
        value = forward.graph.detach(value)
    forward.bottoms[node.index, index] = value
    return value


def _passing(g: Graph, bottom: str, top: str) -> str:
    """Emit a top in place whose layer computes no gradient of the bottom: its own stays in the memory of both."""

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        assert dys[0] is not None
        return tape.reshape(dys[0], *g.shape(bottom)), dys[0]

    (value,) = g.custom_vjp([bottom, top], lambda _, y: [g.emit("Identity", y)], backward)
    return value


def _is_detached(net: Net, node: Node, index: int) -> bool:
    """Tell whether a blob that needs a gradient gets none from a layer that reads it."""
    flows = node.need_backward and (node.bottom_need_backward[index] or node.layer.ignores_propagate_down)
    return net.blobs[node.bottoms[index]].need_backward and not flows


def _param(net: Net, node: Node, index: int, forward: Forward, readers: Counter[int]) -> str:
    """Return the value a layer reads its param from: the owner's, under a name of its own when several read it.

    Statistics that a layer in front shares and has updated are read as that one left them.
    """
    g = forward.graph
    owner = net.owner(node.params[index])
    shape = net.params[node.params[index]].param.shape
    if owner not in forward.params:
        first = net.params[owner]
        forward.params[owner] = g.param(f"{net.nodes[first.node].name}/{first.index}", first.param.shape)
    value = forward.params[owner]
    if readers[owner] > 1:
        left = _left(net, owner, forward)
        value = g.detach(left) if left else value
        value = g.emit("Identity", value) if g.shape(value) == shape else g.reshape(value, *shape)
        g.declare(value, shape)
    forward.uses[node.index, index] = value
    return value


def _left(net: Net, owner: int, forward: Forward) -> str | None:
    """Return what the last layer so far that updates a param has left in it, None when none does."""
    updates = forward.graph.updates
    left = [
        updates[value]
        for (row, index), value in forward.uses.items()
        if value in updates and net.owner(net.nodes[row].params[index]) == owner
    ]
    return left[-1] if left else None


def _complete(net: Net, forward: Forward) -> None:
    """Record where the backward pass starts, which gradients Caffe computes, and what a run returns.

    A loss is the mean of those of all shards, so the gradient of each starts with its share of the weight. It starts
    with nothing where a layer reads the loss: in Caffe the weight stands in the diff that this one writes.
    """
    read = set(forward.bottoms.values())
    tops = [(node, top, forward.tops.get((node.index, top))) for node in net.nodes for top in range(len(node.tops))]
    computed = [(node, top, value) for node, top, value in tops if value]
    for node, top, value in computed:
        is_cleared = node.layer.lends_param and net.phase == TRAIN  # as the diff of its param, before each iteration
        weight = 0.0 if is_cleared else node.loss_weights[top]
        if weight:
            forward.losses[value] = weight
            weight = 0.0 if value in read else weight
        if node.need_backward and (weight or node.layer.ignores_dy):
            forward.seeds[value] = weight if forward.graph.shape(value) else weight / forward.shards
    forward.unwanted.update(value for node, top, value in computed if not net.blobs[node.tops[top]].need_backward)
    writers = {node.tops[top]: value for node, top, value in computed}
    forward.outputs = {
        blob: forward.stored.get(writers[blob], writers[blob]) for blob in net.outputs if blob in writers
    }
    unknown = _behind_unknown(net, forward)
    nodes = [node for node in net.nodes if node.need_backward and unknown.isdisjoint(node.tops)]
    nodes = [node for node in nodes if _is_computed(node, forward)]
    _want(forward, nodes)
    shown = (forward.inner[node.index] for node in nodes if node.index in forward.inner)
    for inner in (inner for inner in shown if inner.prints):
        ran = {index for index, _ in inner.forward.bottoms}
        _want(inner.forward, [node for node in inner.program.net.nodes if node.need_backward and node.index in ran])


def _is_computed(node: Node, forward: Forward) -> bool:
    has_tops = all((node.index, top) in forward.tops for top in range(len(node.tops)))
    return has_tops and all(key in forward.bottoms for key in _flagged(node, node.bottom_need_backward))


def _behind_unknown(net: Net, forward: Forward) -> set[int]:
    """Return the blobs whose gradient depends on a layer that cannot be computed."""
    unknown: set[int] = set()
    for node in reversed(net.nodes):
        if node.need_backward and not (_is_computed(node, forward) and unknown.isdisjoint(node.tops)):
            unknown.update(node.bottoms, node.tops)
    return unknown


def _want(forward: Forward, nodes: Iterable[Node]) -> None:
    for node in nodes:
        wanted = [flag or node.layer.writes_all_diffs for flag in node.param_propagate_down]
        bottoms, params = (list(_flagged(node, flags)) for flags in (node.bottom_need_backward, wanted))
        forward.wanted.update({key: forward.bottoms[key] for key in bottoms})
        forward.wanted_params.update({key: forward.uses[key] for key in params})


def _flagged(node: Node, flags: Sequence[bool]) -> Iterator[Key]:
    return ((node.index, index) for index, flag in enumerate(flags) if flag)
