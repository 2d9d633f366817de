"""Stand-ins for data that is not at hand: N(0, 1) values, and labels drawn from the classes that their reader sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from caffestat.net import Net, Node

__all__ = ["classes_of", "synthetic_tops"]


def classes_of(net: Net, blob: int, start: int) -> int | None:
    """Return how many classes the readers of a blob index, followed through layers that only pass values on."""
    blobs = {blob}
    for node in net.nodes[start:]:
        for index, bottom in enumerate(node.bottoms):
            if bottom not in blobs or None in node.bottom_shapes:
                continue
            count = node.layer.classes(index, [shape for shape in node.bottom_shapes if shape is not None])
            if count is not None:
                return count
            if node.layer.passes_values:
                blobs.update(node.tops)
    return None


def synthetic_tops(net: Net, node: Node, random: np.random.Generator) -> Sequence[np.ndarray]:
    """Return one float32 array per top of a data layer."""
    return [_synthetic(net, node, index, random) for index in range(len(node.tops))]


def _synthetic(net: Net, node: Node, index: int, random: np.random.Generator) -> np.ndarray:
    shape = node.top_shapes[index] or ()
    classes = classes_of(net, node.tops[index], node.index + 1)
    if classes is None:
        return random.standard_normal(shape, np.float32)
    return random.integers(0, classes, shape).astype(np.float32)
