"""Shapes that no file states, but that are the only ones that fit the layers around them."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.errors import NetError
from caffestat.layers import Layer, Shape

__all__ = ["only_fits"]


def only_fits(layer: Layer, bottoms: Sequence[Shape], at: int) -> bool:
    """Tell whether a layer takes bottoms of these shapes, but not if any axis of the bottom `at` had another size."""
    shape = bottoms[at]

    def takes(other: Shape) -> bool:
        try:
            layer.tops([*bottoms[:at], other, *bottoms[at + 1 :]])
        except NetError:
            return False
        return True

    others = ((*shape[:axis], size + 1, *shape[axis + 1 :]) for axis, size in enumerate(shape))
    return bool(shape) and takes(tuple(shape)) and not any(takes(other) for other in others)
