"""Where a blob lies on another, as AutoCrop and others ask. (yun-liu/rcf, auto_crop_layer.cpp and util/coords.hpp)"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from caffestat.graph.flow import Flow
from caffestat.layers import Move, Shape

from .model import Node

__all__ = ["cut_of", "map_of"]

_UNMOVED: Move = ((Fraction(1), Fraction(0)),) * 2


def cut_of(node: Node, before: Sequence[Node]) -> tuple[int, int]:
    """Return how many rows and columns of bottom 0 lie before the first of bottom 1, along the way to a common blob.

    before: the nodes of the net up to this one
    Raises NetError where the bottoms have no common source, differ in scale, or lie between pixels.
    """
    moves = [_move(node, layers) for layers in _makers(node, before)]
    cuts = []
    for (scale, shift), (other_scale, other_shift) in zip(*moves, strict=True):
        cut = shift * other_scale / scale - other_shift
        if scale != other_scale or cut < 0 or cut.denominator != 1:
            raise node.layer.error(
                f"bottom 0 is scaled by {float(scale):g} and bottom 1 by {float(other_scale):g}, with {float(cut):g} "
                "pixels to cut; expected equal scales and a whole number of 0 or more: pad or crop differently"
            )
        cuts.append(int(cut))
    return cuts[0], cuts[1]


def map_of(node: Node, before: Sequence[Node]) -> Move | None:
    """Return where the places of bottom 1 lie on bottom 0, along the way to a common blob; None where it is unknown.

    before: the nodes of the net up to this one
    Raises NetError where the bottoms have no common source.
    """
    makers = _makers(node, before)
    if any(maker.layer.place_map(_shapes(maker)) is None for path in makers for maker in path):
        return None
    own, other = (_move(node, path) for path in makers)
    return tuple((a / b, shift - a / b * start) for (a, shift), (b, start) in zip(own, other, strict=True))


def _makers(node: Node, before: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes that make bottom 0, and those that make bottom 1, out of a common blob, the last ones first."""
    flow = Flow((other.bottoms, other.tops) for other in before)  # a blob's first writer counts, no in-place layer
    own, theirs = (list(flow.chain(blob, lambda index: True)) for blob in node.bottoms[:2])
    common = next((blob for blob in theirs if blob in own), None)
    if common is None:
        raise node.layer.error("its bottoms come from different data layers, so their alignment is unknown")
    return [[before[flow.writer(blob) or 0] for blob in path[: path.index(common)]] for path in (own, theirs)]


def _shapes(node: Node) -> list[Shape]:
    return [shape or () for shape in node.bottom_shapes]


def _move(node: Node, makers: Sequence[Node]) -> Move:
    """Return where the places of a blob go by way of some layers, the last one first."""
    found = _UNMOVED
    for maker in makers:
        move = maker.layer.place_map(_shapes(maker))
        if move is None:
            raise node.layer.error(f"the alignment of layer {maker.name!r} ({maker.type}) with its bottom is unknown")
        found = tuple((a * b, a * c + d) for (a, d), (b, c) in zip(found, move, strict=True))
    return found
