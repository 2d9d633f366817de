"""Where the sizes of two bottoms that should fit begin to differ: the layers behind a shape error."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.graph.flow import Flow, Key
from caffestat.layers import Shape

from .model import Blob, Node, flow_of

__all__ = ["explained"]


def explained(message: str, nodes: Sequence[Node], blobs: Sequence[Blob]) -> str:
    """Return the message of an error of the last node, with the file's blob names and the layers behind it."""
    node, flow = nodes[-1], flow_of(nodes)
    for bottom, name in enumerate(node.layer.proto.bottom[: len(node.bottoms)]):
        message = message.replace(repr(name), repr(blobs[_written(nodes, flow, (node.index, bottom))].name))
    first = node.bottom_shapes[0] if node.bottom_shapes else None
    for index, shape in enumerate(node.bottom_shapes[1:], 1):
        if first and shape and _should_fit(message, first, shape):
            return message + _parting(*(_changes(nodes, flow, (node.index, bottom)) for bottom in (0, index)))
    return message


def _should_fit(message: str, one: Shape, other: Shape) -> bool:
    """Return whether a message compares two shapes, by showing both, whose sizes of images differ."""
    return len(one) == len(other) > 2 and one[2:] != other[2:] and str(one) in message and str(other) in message


Change = tuple[Node, Shape, Shape]  # a layer, and the sizes that it makes of others


def _written(nodes: Sequence[Node], flow: Flow[Key], bottom: Key) -> int:
    """Return the blob of the file behind a bottom: that in front of the Split layers that Caffe inserts."""
    *_, (node, top) = flow.chain(flow.source(bottom), lambda node: nodes[node].layer.is_inserted)
    return nodes[node].tops[top]


def _changes(nodes: Sequence[Node], flow: Flow[Key], bottom: Key) -> list[Change]:
    """Return the layers on the way to a bottom that change the size of images, the first one first."""
    found: list[Change] = []
    for index, top in flow.chain(flow.source(bottom), lambda node: True):
        node = nodes[index]
        sizes = [shape[2:] for shape in (*node.bottom_shapes[:1], node.top_shapes[top]) if shape]
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            found.append((node, sizes[0], sizes[1]))
    return found[::-1]


def _parting(one: Sequence[Change], other: Sequence[Change]) -> str:
    """Return in words at which layers two paths diverge: the first that make different sizes of one size."""
    for (a, before, left), (b, same, right) in zip(one, other, strict=False):
        if left != right and before == same and a is not b:
            made = f"layer {a.name!r} at {a.place} makes {_size(left)} of {_size(before)}{_rounding(a)}"
            also = f"layer {b.name!r} at {b.place} {_size(right)}{_rounding(b)}"
            return f"; the sizes differ from here on: {made}, and {also}"
    longer = max(one, other, key=len)
    if len(one) == len(other):
        return ""
    node, before, after = longer[min(len(one), len(other))]
    return f"; layer {node.name!r} at {node.place} makes {_size(after)} of {_size(before)} on one way only"


def _size(size: Shape) -> str:
    return "x".join(map(str, size))


def _rounding(node: Node) -> str:
    rounds = node.layer.rounding()
    return f" (rounds {rounds})" if rounds else ""
