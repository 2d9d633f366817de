"""The net that one of equal shards of a batch passes through: cores then divide the samples of a batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from caffestat.errors import NetError
from caffestat.layers import Layer, Shape

from .model import Blob, Net, Node

__all__ = ["batch_of", "shard"]


def batch_of(net: Net) -> int:
    """Return how many samples a batch of the net has: the first axis of all its data; 0 where these differ."""
    tops = [shape for node in net.nodes if not node.bottoms for shape in node.top_shapes]
    sizes = {shape[0] if shape else 0 for shape in tops}
    return sizes.pop() if len(sizes) == 1 else 0


def shard(net: Net, count: int) -> Net | None:
    """Return the net for one of `count` equal shards of the batch, with the layers and params of the whole net.

    Each of its values holds the samples of the shard, or is a scalar whose mean over the shards is the whole net's.
    None where the batch does not divide, or where a layer mixes samples otherwise.
    """
    batch = batch_of(net)
    if not batch or batch % count:
        return None
    shapes: dict[int, Shape] = {}
    nodes = []
    for node in net.nodes:
        own = _shard_of(node, [shapes[blob] for blob in node.bottoms], batch, batch // count)
        if own is None:
            return None
        shapes.update((blob, shape or ()) for blob, shape in zip(own.tops, own.top_shapes, strict=True))
        nodes.append(own)
    blobs = [Blob(blob.name, shapes.get(number), blob.need_backward) for number, blob in enumerate(net.blobs)]
    return replace(net, nodes=nodes, blobs=blobs)


def _shard_of(node: Node, bottoms: Sequence[Shape], batch: int, size: int) -> Node | None:
    """Return a layer as it works on a shard of `size` samples; None where it mixes samples, or works on a loss."""
    whole, tops = ([shape for shape in shapes if shape is not None] for shapes in (node.bottom_shapes, node.top_shapes))
    if not node.is_known or not node.layer.is_by_sample(whole) or () in whole:
        return None
    if any(shape[:1] != (batch,) and (shape or not node.bottoms) for shape in tops):
        return None
    tops = [(size, *shape[1:]) if shape else () for shape in tops]
    layer = node.layer if node.bottoms else _source(node.layer, tops)
    if not _fits(layer, whole, bottoms, tops):
        return None
    return replace(node, layer=layer, bottom_shapes=tuple(bottoms), top_shapes=tuple(tops))


def _source(layer: Layer, tops: Sequence[Shape]) -> Layer:
    """Return a layer without bottoms whose tops have these shapes."""
    own = copy.copy(layer)
    own.reader, own.shape_overrides = None, dict(zip(layer.proto.top, tops, strict=True))
    return own


def _fits(layer: Layer, whole: Sequence[Shape], bottoms: Sequence[Shape], tops: Sequence[Shape]) -> bool:
    """Tell whether a layer makes these tops of a shard's bottoms, with params of the same shapes as of the whole."""
    try:
        params = [[param.shape for param in layer.params(shapes)] for shapes in (whole, bottoms)]
        return list(layer.tops(bottoms)) == list(tops) and params[0] == params[1]
    except NetError:
        return False
