"""What stands in for data that is not available: N(0, 1) values, and labels drawn from their reader's classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffestat.errors import NetError
from caffestat.graph.flow import Key
from caffestat.layers import Layer, Shape
from caffestat.lazy import np
from caffestat.net import Net, Node

__all__ = ["classes_of", "synthetic_tops"]


def classes_of(net: Net, top: Key) -> int | None:
    """Return how many classes the readers of a (node, top) index, also behind layers that only pass values on."""
    found = (layer.classes(index, shapes) for layer, index, shapes in _readers(net, top))
    return next((count for count in found if count is not None), None)


def _readers(net: Net, top: Key) -> Iterator[tuple[Layer, int, list[Shape]]]:
    """Yield the layers that read a (node, top), by which bottom and all bottoms' shapes; see `classes_of`."""

    def passes(index: int, bottom: int) -> bool:
        return net.nodes[index].layer.passes_values and None not in net.nodes[index].bottom_shapes

    for index, bottom in net.flow.through(top, passes):
        shapes = [shape for shape in net.nodes[index].bottom_shapes if shape is not None]
        if len(shapes) == len(net.nodes[index].bottoms):
            yield net.nodes[index].layer, bottom, shapes


def synthetic_tops(net: Net, node: Node, random: np.random.Generator) -> Sequence[np.ndarray]:
    """Return one float32 array per top of a data layer."""
    return [_synthetic(net, node, index, random) for index in range(len(node.tops))]


def _synthetic(net: Net, node: Node, index: int, random: np.random.Generator) -> np.ndarray:
    shape = node.top_shapes[index] or ()
    if (own := _example(node, index, shape, random)) is not None:
        return own
    for layer, bottom, shapes in _readers(net, (node.index, index)):
        values = layer.stand_in(bottom, shapes, random)
        if values is not None:
            return _shaped(node, index, values, shape)
    classes = classes_of(net, (node.index, index))
    if classes is None:
        return random.standard_normal(shape, np.float32)
    return random.integers(0, classes, shape).astype(np.float32)


def _example(node: Node, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
    """Return the values that a data layer gives itself; a shape that the user gives may be none of its own."""
    try:
        own = node.layer.example(index, shape, random)
    except (IndexError, ValueError) as error:
        raise _unfit(node, index, shape) from error
    return None if own is None else _shaped(node, index, own, shape)


def _shaped(node: Node, index: int, values: np.ndarray, shape: Shape) -> np.ndarray:
    """Return values in the shape of a top. Raises NetError for a shape that cannot hold them."""
    array = np.asarray(values, np.float32)
    if array.size != math.prod(shape):
        raise _unfit(node, index, shape)
    return array.reshape(shape)


def _unfit(node: Node, index: int, shape: Shape) -> NetError:
    name = node.layer.proto.top[index]
    return node.layer.error(
        f"top {name!r} of shape {shape} cannot hold what the layer makes; leave --shape {name}=… out, or correct it"
    )
