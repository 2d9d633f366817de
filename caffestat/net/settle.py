"""What the data decides, such as how many items a Filter lets pass: worked out stage by stage, before the net runs."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.engine import Compiled, Device
from caffestat.layers import Layer

from .model import Net, Node

if TYPE_CHECKING:
    from .measure import Feeds

__all__ = ["settle"]


def settle(
    net: Net, values: Sequence[np.ndarray], device: Device, feeds: Feeds, notes: MutableSequence[str] | None = None
) -> Net:
    """Return the net as it is for one batch: layers decided, shapes with it; the net itself when none is to be decided.

    The net is run in stages. Each computes what the layers read that can be decided next, those behind undecided ones
    later.
    values: one array per param of the net; they are not changed
    feeds:  of the pass, drawn as far as it takes
    notes:  lines that the layers tell about their decisions are appended
    Raises NetError when what follows cannot take what was decided. (net.cpp, Forward: reshaped before it runs)
    """
    while any(node.is_undecided for node in net.nodes):
        found = _stage(net, values, device, feeds)
        if not found:
            break  # the others are behind layers that cannot be computed
        for index in sorted(found):
            node = net.nodes[index]
            shapes = [shape or () for shape in node.bottom_shapes]
            layer = node.layer.deciding(found[index], shapes, feeds.random)
            if notes is not None and (line := layer.summary(shapes)):
                notes.append(f"{node.place}: layer {node.name!r} {line}")
            net = _with_layer(net, node, layer)
    return net


def _stage(net: Net, values: Sequence[np.ndarray], device: Device, feeds: Feeds) -> dict[int, list[np.ndarray]]:
    """Return the values of the decisive bottoms, by node, of the layers that can be decided now."""
    from .lower import lower_decided

    lowered = lower_decided(net, device.kind)
    wanted = {
        node.index: [lowered.bottoms[node.index, index] for index in range(len(node.bottoms))][node.layer.decisive]
        for node in net.nodes
        if node.is_undecided and (not node.bottoms or (node.index, 0) in lowered.bottoms)
    }
    lowered.graph.infer()
    found: dict[str, Any] = dict(feeds.of(net, lowered))
    computed = sorted({name for names in wanted.values() for name in names} - set(found))
    if computed:
        params = {name: values[number] for number, name in lowered.params.items()}
        found |= Compiled(lowered.graph, device).run(feeds.of(net, lowered), params, computed)
    return {index: [found[name] for name in names] for index, names in wanted.items()}


def _with_layer(net: Net, changed: Node, layer: Layer) -> Net:
    """Return the net with another layer in a node, and the shapes that follow from it; the params stay."""
    blobs = [replace(blob) for blob in net.blobs]
    nodes = list(net.nodes)
    for node in net.nodes[changed.index :]:
        bottoms = [blobs[blob].shape for blob in node.bottoms]
        new = replace(node, layer=layer if node is changed else node.layer, bottom_shapes=tuple(bottoms))
        if node.is_known:
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
        raise node.layer.error(f"its params have shapes {found}; the items selected before it would need {wanted}")
