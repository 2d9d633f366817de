"""Where the sizes of two bottoms that should fit each other parted: the layers behind a shape error."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.layers import Shape

from .model import Blob, Node

__all__ = ["explained"]


def explained(message: str, nodes: Sequence[Node], blobs: Sequence[Blob]) -> str:
    """Return the message of a shape error of the last node, with the file's blob names and where the sizes parted."""
    node, writers = nodes[-1], _Writers(nodes)
    for bottom, name in zip(node.bottoms, node.layer.proto.bottom, strict=False):
        message = message.replace(repr(name), repr(blobs[writers.written(bottom)].name))
    first = node.bottom_shapes[0] if node.bottom_shapes else None
    for index, shape in enumerate(node.bottom_shapes[1:], 1):
        if first and shape and len(first) == len(shape) > 2 and first[2:] != shape[2:]:
            return message + _parting(*(writers.changes(node, bottom) for bottom in (0, index)))
    return message


Change = tuple[Node, Shape, Shape]  # a layer, and the sizes that it makes of others


class _Writers:
    """The layer that each bottom of a net holds the top of."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._copied = {top: node.bottoms[0] for node in nodes if node.layer.is_inserted for top in node.tops}
        self._sources: dict[tuple[int, int], Node | None] = {}
        latest: dict[int, Node] = {}
        for node in nodes:
            self._sources.update({(node.index, blob): latest.get(blob) for blob in node.bottoms})
            latest.update(dict.fromkeys(node.tops, node))

    def written(self, blob: int) -> int:
        """Return the blob of the file behind one: that in front of the Split layers that Caffe inserts."""
        while blob in self._copied:
            blob = self._copied[blob]
        return blob

    def changes(self, node: Node, bottom: int) -> list[Change]:
        """Return the layers on the way to a bottom that change the size of images, the first one first."""
        found: list[Change] = []
        blob = node.bottoms[bottom]
        while (writer := self._sources.get((node.index, blob))) and writer.bottoms:
            shapes = writer.bottom_shapes[0], writer.top_shapes[writer.tops.index(blob)]
            sizes = [shape[2:] for shape in shapes if shape]
            if len(sizes) == 2 and sizes[0] != sizes[1]:
                found.append((writer, sizes[0], sizes[1]))
            node, blob = writer, writer.bottoms[0]
        return found[::-1]


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
