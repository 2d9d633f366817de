"""Activations that true boxes raise while a net learns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np

from ..base import Layer, Shape, layer
from ..reread import emit_closed
from .yolo import BOX, MOST_BOXES, random_truth

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["AssistedExcitation"]


@layer("AssistedExcitation", dialect="mobilenet-yolo")
class AssistedExcitation(Layer):
    """y = x + alpha · m in the true boxes of the first image, elsewhere y = x; dx = dy, dm = 0.

    Bottoms: x [N, C, H, W], 300 true boxes an image (rows of label, x, y, width and height, up to the first whose x is
    0) and m, H · W values an image. A box has at least one place. The reference adds nothing to further images. alpha
    is cos(π/2 · iteration / (0.75 · max_iter)), at least 0: 1 in the first iteration, and here in all.
    (eric612/MobileNet-YOLO, assisted_excitation_layer.cpp; Derakhshani et al. 2019)
    """

    num_bottoms = (3, 3)
    decides = True
    decisive = slice(1, 2)
    passes_signal = True
    left_out = "alpha stays 1, as in the first iteration; the reference lowers it to 0 while it trains"

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, truth, added = bottoms
        if len(x) != 4 or not all(x):
            raise self.error(f"expected a map (N, C, H, W), found shape {x}")
        if truth[:1] != x[:1] or math.prod(truth[1:]) != MOST_BOXES * (BOX + 1):
            raise self.error(f"expected true boxes of shape ({x[0]}, 1, {MOST_BOXES}, 5), found {truth}")
        if added[:1] != x[:1] or math.prod(added[1:]) != x[2] * x[3]:
            raise self.error(f"expected values to add of shape ({x[0]}, {x[2]}, {x[3]}), found {added}")
        return (x,)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random_truth(bottoms[1][0], MOST_BOXES, 1, random).reshape(bottoms[1]) if bottom == 1 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return which places [N, 1, H, W] lie in true boxes, of the first image alone."""
        items, _, high, wide = self.decided_shapes[0]
        inside = np.zeros((items, 1, high, wide), np.float32)
        rows = bottoms[0].astype(np.float32).reshape(items, MOST_BOXES, BOX + 1)[0, :, 1:]
        ends = np.flatnonzero(rows[:, 0] == 0)
        for x, y, width, height in rows[: ends[0]] if ends.size else rows:
            inside[0, 0, _places(y, height, high), _places(x, width, wide)] = 1
        return (inside,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (inside,) = self.input_decisions(g)
        items, _, high, wide = g.shape(bottoms[0])
        added = g.emit("Mul", g.reshape(bottoms[2], items, 1, high, wide), inside)
        return [emit_closed(g, [bottoms[0]], lambda x: g.emit("Add", x, added), lambda tape, dy: [dy])]


def _places(center: np.float32, size: np.float32, count: int) -> slice:
    """Return the places of a side that a box covers: at least one."""
    low, high = (center - size / 2) * np.float32(count), (center + size / 2) * np.float32(count)
    first = min(max(int(low), 0), count - 1)
    return slice(first, min(max(int(float(high) + 0.95), first + 1), count))
