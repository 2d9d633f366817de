"""Where the sizes of two bottoms that should fit each other parted: the layers behind a shape error."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.layers import Shape

from .model import Blob, Node

__all__ = ["explained"]


def explained(message: str, nodes: Sequence[Node], blobs: Sequence[Blob]) -> str:
    """Return the message of a shape error of the last node, with the file's blob names and where the sizes parted."""
    node = nodes[-1]
    for bottom, name in zip(node.bottoms, node.layer.proto.bottom, strict=False):
        message = message.replace(repr(name), repr(_written(bottom, nodes, blobs)))
    first = node.bottom_shapes[0] if node.bottom_shapes else None
    for index, shape in enumerate(node.bottom_shapes[1:], 1):
        if first and shape and len(first) == len(shape) > 2 and first[2:] != shape[2:]:
            return message + _parting(*(_changes(node, bottom, nodes) for bottom in (0, index)))
    return message


def _written(blob: int, nodes: Sequence[Node], blobs: Sequence[Blob]) -> str:
    """Return the name in the file of a blob: that in front of the Split layers that Caffe inserts."""
    for node in reversed(nodes):
        if blob in node.tops and node.layer.is_inserted:
            return _written(node.bottoms[0], nodes, blobs)
    return blobs[blob].name


Change = tuple[Node, Shape, Shape]  # a layer, and the sizes that it makes of others


def _changes(node: Node, bottom: int, nodes: Sequence[Node]) -> list[Change]:
    """Return the layers on the way to a bottom that change the size of images, the first one first."""
    found: list[Change] = []
    blob, before = node.bottoms[bottom], node.index
    while True:
        writer = next((n for n in reversed(nodes[:before]) if blob in n.tops), None)
        if writer is None or not writer.bottoms:
            return found[::-1]
        sizes = [shape[2:] for shape in (writer.bottom_shapes[0], writer.top_shapes[writer.tops.index(blob)]) if shape]
        if len(sizes) == 2 and sizes[0] != sizes[1]:
            found.append((writer, sizes[0], sizes[1]))
        blob, before = writer.bottoms[0], writer.index


def _parting(one: Sequence[Change], other: Sequence[Change]) -> str:
    """Say at which layers two ways part: the first that make different sizes of one size."""
    for (a, before, left), (b, same, right) in zip(one, other, strict=False):
        if left != right and before == same and a is not b:
            made = f"layer {a.name!r} at {a.place} makes {_size(left)} of {_size(before)}{_rounding(a)}"
            return f"; the sizes part where {made}, and layer {b.name!r} at {b.place} {_size(right)}{_rounding(b)}"
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
