"""What the data decides, such as how many items a Filter lets pass: worked out stage by stage, before the net runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, MutableSequence, Sequence
from dataclasses import replace
from typing import Any

from caffestat.engine import Compiled, Device
from caffestat.engine.resident import fed
from caffestat.layers import Layer
from caffestat.lazy import np
from caffestat.net import Net, Node

from .feeds import Feeds
from .lowering import lower_decided

__all__ = ["Settler", "decided", "settle"]

_KEPT = 3  # compiled stages, beside the one that is made


def settle(
    net: Net, values: Sequence[np.ndarray], device: Device, feeds: Feeds, notes: MutableSequence[str] | None = None
) -> Net:
    """Return the net as it is for one batch; see `Settler.settle`."""
    return Settler(device).settle(net, values, feeds, notes)


def decided(net: Net) -> Hashable:
    """Return the shapes and types of what was decided in a net: where they are the same, so is its graph."""
    layers = (node.layer for node in net.nodes)
    return tuple(tuple((a.shape, a.dtype.str) for a in made) for made in (layer.decisions for layer in layers) if made)


class Settler:
    """Settles a net, again and again; what it compiles for a stage is kept as long as the shapes stay the same."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stages: dict[Hashable, _Stage] = {}

    def settle(
        self, net: Net, values: Sequence[np.ndarray], feeds: Feeds, notes: MutableSequence[str] | None = None
    ) -> Net:
        """Return the net as it is for one batch: layers decided, shapes with it; itself when none is to be decided.

        The net is run in stages. Each computes what the layers read that can be decided next, those behind undecided
        ones later.
        values: one array per param of the net; they are not changed
        feeds:  of the pass, drawn as far as it takes
        notes:  lines that the layers tell about their decisions are appended
        Raises NetError when what follows cannot take what was decided. (net.cpp, Forward: reshaped before it runs)
        """
        while any(node.is_undecided for node in net.nodes):
            stage = self._stage(net)
            if not stage.wanted:
                break  # the others are behind layers that cannot be computed
            found = stage.run(net, values, feeds)
            net = _with_layers(net, {i: _decide(net.nodes[i], found[i], feeds, notes) for i in sorted(found)})
        return net

    def _stage(self, net: Net) -> _Stage:
        key = (decided(net), tuple(node.index for node in net.nodes if node.is_undecided))
        if key not in self._stages:
            self._stages = dict(list(self._stages.items())[-_KEPT:])
            self._stages[key] = _Stage(net, self._device)
        return self._stages[key]


class _Stage:
    """A net as far as its layers are decided. `wanted`: the values of the decisive bottoms of those that come next."""

    def __init__(self, net: Net, device: Device) -> None:
        self._forward = lower_decided(net)
        bottoms = self._forward.bottoms
        self.wanted = {
            node.index: [bottoms[node.index, index] for index in range(len(node.bottoms))][node.layer.decisive]
            for node in net.nodes
            if node.is_undecided and (not node.bottoms or (node.index, 0) in bottoms)
        }
        self._forward.graph.infer()
        self._compiled = Compiled(self._forward.graph, device)

    def run(self, net: Net, values: Sequence[np.ndarray], feeds: Feeds) -> dict[int, list[np.ndarray]]:
        """Return what is wanted, by node."""
        inputs = feeds.of(self._forward, net)
        found: dict[str, Any] = dict(inputs)
        computed = sorted({name for names in self.wanted.values() for name in names} - set(inputs))
        if computed:
            params = {name: fed(values, number) for number, name in self._forward.params.items()}
            found |= self._compiled.run(inputs, params, computed)
        return {index: [found[name] for name in names] for index, names in self.wanted.items()}


def _decide(node: Node, found: Sequence[np.ndarray], feeds: Feeds, notes: MutableSequence[str] | None) -> Layer:
    """Return a node's layer decided by the values of its decisive bottoms."""
    shapes = [shape or () for shape in node.bottom_shapes]
    layer = node.layer.deciding(found, shapes, feeds.random)
    if notes is not None and (line := layer.summary(shapes)):
        notes.append(f"{node.place}: layer {node.name!r} {line}")
    return layer


def _with_layers(net: Net, layers: Mapping[int, Layer]) -> Net:
    """Return the net with other layers in some nodes, and the shapes that follow from them; the params stay."""
    blobs = [replace(blob) for blob in net.blobs]
    nodes = list(net.nodes)
    for node in net.nodes[min(layers) :]:
        bottoms = [blobs[blob].shape for blob in node.bottoms]
        new = replace(node, layer=layers.get(node.index, node.layer), bottom_shapes=tuple(bottoms))
        if node.has_shapes:
            known = [shape for shape in bottoms if shape is not None]
            new.top_shapes = new.layer.tops(known)
            _check_params(net, new, known)
        for blob, shape in zip(new.tops, new.top_shapes, strict=True):
            blobs[blob].shape = shape
        nodes[node.index] = new
    return replace(net, nodes=nodes, blobs=blobs)


def _check_params(net: Net, node: Node, bottoms: Sequence[tuple[int, ...]]) -> None:
    wanted = [param.shape for param in node.layer.params(bottoms)]
    found = [net.params[number].param.shape for number in node.params]
    if wanted != found:
        raise node.layer.error(f"its params have shapes {found}; what the data decides before it would need {wanted}")
