"""Shapes that the data decides: how many items a Filter lets pass is known once its selector is computed."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

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
    """Return the net with the shapes that it has for one batch; the net itself when none depends on the data.

    values: one array per param of the net; they are not changed
    feeds:  of the pass, drawn as far as it takes
    notes:  a line about each layer that selects is appended to it
    Raises NetError when what follows cannot take as few items. (net.cpp, Forward: a layer is reshaped before it runs)
    """
    for index in range(len(net.nodes)):
        node = net.nodes[index]  # as the selections before it have left it
        if node.layer.selects and node.is_known:
            selector = _selector(net, index, values, device, feeds)
            if selector is not None:
                net = _with_layer(net, node, node.layer.selecting(selector))
                if notes is not None:
                    notes.append(_line(node, int(np.count_nonzero(selector)), selector.size))
    return net


def _line(node: Node, chosen: int, count: int) -> str:
    which = f"{chosen} of the {count} items" if chosen else f"none of the {count} items"
    follows = "those" if chosen else "as many zeros"
    return f"{node.place}: layer {node.name!r} selects {which} of this batch; what follows it is run on {follows}"


def _selector(net: Net, index: int, values: Sequence[np.ndarray], device: Device, feeds: Feeds) -> np.ndarray | None:
    """Compute the last bottom of a node; None when what it depends on is unknown."""
    from .lower import lower_until

    lowered = lower_until(net, index, device.kind)
    value = lowered.bottoms.get((index, len(net.nodes[index].bottoms) - 1))
    if value is None:
        return None
    lowered.graph.infer()
    params = {name: values[number] for number, name in lowered.params.items()}
    selector: np.ndarray = Compiled(lowered.graph, device).run(feeds.of(net, lowered), params, [value])[value]
    return selector


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
