"""Layers that attend to windows of features where scores say that there is an object. (Wilms and Frintrop 2018)

Flags are rows [1, 1, 1, n] of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Shape, layer
from ..loss import Loss, cross_entropies, total
from ..reread import emit_closed, without_gradient
from .flow import check_images
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "ArgMaxAll",
    "ArgMaxMy",
    "CheckAtt",
    "ConvertIndices",
    "FlagsToIndices",
    "NormalizedSigmoidCrossEntropyLoss",
    "SlidingWindowIndex",
    "SplitIndices",
    "TileProduct",
    "TopK",
    "TopKOld",
]

LEAST = 1000  # how many places ArgMaxAll returns at least


def row_length(layer: Layer, shape: Shape) -> int:
    """Return how long a row [1, 1, 1, n] is. Raises NetError for another shape."""
    if len(shape) != 4 or shape[:3] != (1, 1, 1):
        raise layer.error(f"expected a row (1, 1, 1, n), found shape {shape}")
    return shape[3]


@layer("CheckAtt", dialect="attention-mask")
class CheckAtt(Layer):
    """Two blobs of scores as they are; where no first exceeds its second, the first pair becomes 0.51 and 0.49.

    No gradient. (chwilms/AttentionMask, check_att_layer.cpp)
    """

    num_bottoms = (2, 2)
    num_tops = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if bottoms[0] != bottoms[1] or len(bottoms[0]) != 4:
            raise self.error(f"expected two bottoms (N, C, H, W) of one shape, found {bottoms[0]} and {bottoms[1]}")
        return tuple(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        first = np.zeros(g.shape(bottoms[0]), bool)
        first.flat[0] = True

        def forward(a: str, b: str) -> Sequence[str]:
            most = g.emit("ReduceMax", g.emit("Sub", a, b), keepdims=0)
            none = g.emit("LessOrEqual", most, g.constant(0))
            given = g.emit("And", none, g.constant(first, np.bool_))
            return [g.emit("Where", given, g.constant(value), x) for x, value in ((a, 0.51), (b, 0.49))]

        return without_gradient(g, bottoms, forward)


class _Attended(Computed):
    """The places of the largest values of a row where it exceeds the other one, the largest first."""

    num_bottoms = (2, 2)

    def number(self, above: int, length: int) -> int:
        """Return how many places there are when so many values exceed those of the other row."""
        raise NotImplementedError

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        length = row_length(self, bottoms[0])
        if bottoms[1] != bottoms[0] or length < 1:
            raise self.error(f"expected two rows of one length, found shapes {bottoms[0]} and {bottoms[1]}")
        return ((1, 1, 1, min(self.number(0, length), length)),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        row = bottoms[0].ravel()
        count = min(self.number(int((row > bottoms[1].ravel()).sum()), len(row)), len(row))
        best = np.lexsort((-np.arange(len(row)), -row))[:count]  # of equal values the later one goes first
        values = row[best] if self.proto.argmax_param.out_max_val else best
        return (values.astype(np.float32).reshape(1, 1, 1, -1),)


@layer("ArgMaxMy", dialect="attention-mask")
class ArgMaxMy(_Attended):
    """The places, or with out_max_val the values, of all that exceed the other row's, the largest first.

    The rows lie along `axis`, which is the last one. (chwilms/AttentionMask, argmax_layer_2.cpp)
    """

    def number(self, above: int, length: int) -> int:
        return above


@layer("ArgMaxAll", dialect="attention-mask")
class ArgMaxAll(_Attended):
    """The places, or with out_max_val the values, of the largest of a row: as many as exceed the other, 1000 at least.

    The rows lie along `axis`, which is the last one. (chwilms/AttentionMask, argmax_layer_all.cpp)
    """

    def number(self, above: int, length: int) -> int:
        return max(above, LEAST)


@layer("ConvertIndices", dialect="attention-mask")
class ConvertIndices(Layer):
    """Flags [1, 1, 1, n] of the places in bottom 0 [1, 1, 1, k], and the values of bottom 1 there [k, 1, 1, 1].

    No gradient. (chwilms/AttentionMask, convertIndices.cpp)
    """

    num_bottoms = (2, 2)
    num_tops = (2, 2)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[1][3] if bottom == 0 else None

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        count, length = (row_length(self, shape) for shape in bottoms)
        return ((1, 1, 1, length), (count, 1, 1, 1))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        flags, values = self.tops([g.shape(bottom) for bottom in bottoms])

        def forward(places: str, row: str) -> Sequence[str]:
            index = g.cast(g.reshape(places, values[0]), np.int64)
            ones = g.constant(np.ones(values[0]))
            marked = g.emit("ScatterElements", g.constant(np.zeros(flags[3])), index, ones, axis=0)
            picked = g.emit("Gather", g.reshape(row, flags[3]), index, axis=0)
            return [
                g.reshape(g.declare(marked, (flags[3],)), *flags),
                g.reshape(g.declare(picked, (values[0],)), *values),
            ]

        return without_gradient(g, bottoms, forward)


@layer("FlagsToIndices", dialect="attention-mask")
class FlagsToIndices(Computed):
    """The places of the flags that are 1 [k, 1, 1, 1]. (chwilms/AttentionMask, flagsToIndices_layer.cpp)"""

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        row_length(self, bottoms[0])
        return ((1, 1, 1, 1),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return (random.uniform(size=bottoms[0]) < 0.5).astype(np.float32)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        return (np.flatnonzero(bottoms[0].ravel() == 1).astype(np.float32).reshape(-1, 1, 1, 1),)


@layer("SplitIndices", dialect="attention-mask")
class SplitIndices(Layer):
    """Bottom 0 [1, 1, 1, n] in parts as long as the other bottoms; no gradient. (chwilms/AttentionMask,
    splitIndices.cpp)
    """

    num_bottoms = (2, None)
    num_tops = (1, None)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        whole, *parts = (row_length(self, shape) for shape in bottoms)
        if whole != sum(parts) or len(parts) != self.top_count:
            what = "a top for each bottom but the first, and these bottoms together as long as the first"
            raise self.error(f"expected {what}: {bottoms}")
        return tuple((1, 1, 1, part) for part in parts)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        parts = [g.shape(bottom)[3] for bottom in bottoms[1:]]
        x = g.detach(bottoms[0])
        return list(g.emit_many("Split", x, g.ints(*parts), count=len(parts), axis=3))


@layer("SlidingWindowIndex", dialect="attention-mask")
class SlidingWindowIndex(Layer):
    """Windows [k, C, window_h, window_w] of features [1, C, H, W] around the places that flags name, 0 outside.

    Flags [1, 1, 1, (H + 1) · (W + 1)]; without any there is one window of zeros.
    (chwilms/AttentionMask, sliding_window_index_layer.cu)
    """

    adds = segmentation_pb2.LayerParameter
    num_bottoms = (2, 2)
    decides = True
    decisive = slice(1, 2)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return (random.uniform(size=bottoms[1]) < 0.1).astype(np.float32) if bottom else None

    def window(self) -> tuple[int, int]:
        """Return height and width of a window."""
        p = self.added.sliding_window_param
        if min(p.window_h, p.window_w) <= 0 or p.window_h % 2 or p.window_w % 2:
            raise self.error(f"expected even window_h and window_w, found {p.window_h} and {p.window_w}")
        return p.window_h, p.window_w

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        if n != 1 or row_length(self, bottoms[1]) != (h + 1) * (w + 1):
            raise self.error(f"expected one item and {(h + 1) * (w + 1)} flags, found shapes {bottoms}")
        count = len(self.decisions[0]) if self.decisions else 1
        return ((count, c, *self.window()),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (_, _, height, width), (tall, wide) = self.decided_shapes[0], self.window()
        y, x = np.divmod(np.flatnonzero(bottoms[0].ravel() > 0), width + 1)
        rows = (y[:, None] + np.arange(tall) - tall // 2)[:, :, None]
        columns = (x[:, None] + np.arange(wide) - wide // 2)[:, None]
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = np.where(inside, rows * width + columns, 0)
        if not len(index):
            return np.zeros((1, tall, wide), np.int64), np.zeros((1, tall, wide), np.float32)
        return index.astype(np.int64), inside.astype(np.float32)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, inside = self.input_decisions(g)
        _, c, h, w = g.shape(bottoms[0])
        shape = g.shape(index)
        picked = g.emit("Gather", g.reshape(bottoms[0], c, h * w), index, axis=1)
        windows = g.declare(g.emit("Mul", picked, inside), (c, *shape))
        return (g.transpose(windows, 1, 0, 2, 3),)


@layer("TileProduct", dialect="attention-mask")
class TileProduct(Layer):
    """y = x [N, C, H, W] · t [N, 1, H, W]; dx = dy · t, dt = Σ over the channels of dy · x.

    (chwilms/AttentionMask, tile_product_layer.cu, whose code reads wrong lines where C is above 1)
    """

    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, t = (check_images(self, shape) for shape in bottoms)
        if t != (x[0], 1, *x[2:]):
            raise self.error(f"expected a second bottom {(x[0], 1, *x[2:])}, found shape {t}")
        return (x,)

    def multiplies(self) -> bool:
        return True

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.emit("Mul", *bottoms),)


@layer("NormalizedSigmoidCrossEntropyLoss", dialect="attention-mask")
class NormalizedSigmoidCrossEntropyLoss(Loss):
    """y = -Σ (t log σ(x) + (1 - t) log(1 - σ(x))) / (N · H · W); dx = (σ(x) - t) · dy / (N · H · W).

    Bottoms x and t [N, C, H, W]. (chwilms/AttentionMask, normalized_sigmoid_cross_entropy_loss_layer.cpp)
    """

    takes_targets = True

    def check(self, bottoms: Sequence[Shape]) -> None:
        check_images(self, bottoms[0])
        self.check_counts(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        places = shape[0] * math.prod(shape[2:])

        def forward(x: str, t: str) -> str:
            return g.emit("Div", total(g, cross_entropies(g, x, g.reshape(t, *shape))), g.constant(places))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            error = tape.emit("Sub", tape.emit("Sigmoid", bottoms[0]), tape.reshape(bottoms[1], *shape))
            return [tape.emit("Mul", error, tape.emit("Div", dy, tape.constant(places))), None]

        return (emit_closed(g, bottoms, forward, gradient),)


class _Best(Layer):
    """The items of x whose scores are highest, in their order; a second top has their numbers.

    A score is bottom 1's value for the item, or of several its largest but the first, 0 at least. As many as bottom 2
    has items. dx goes to the items.
    """

    num_bottoms = (3, 3)
    num_tops = (1, 2)
    decides = True
    decisive = slice(1, 2)
    pads = False  # with zeros, where there are fewer items

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, scores, like = bottoms
        if not x or not like or scores[:1] != x[:1]:
            raise self.error(f"expected items, scores of each, and a third bottom; found shapes {bottoms}")
        count = like[0] if self.pads else min(like[0], x[0])
        return ((count, *x[1:]), (like[0], 1, 1, 1))[: self.top_count]

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (items, *_), _, (wanted, *_) = self.decided_shapes
        scores = bottoms[0].reshape(items, -1)
        best = scores[:, 0] if scores.shape[1] == 1 else np.maximum(scores[:, 1:].max(1), 0)
        order = np.argsort(-best, kind="stable")
        kept = [*np.sort(order[: min(wanted, items)]), *order[min(wanted, items) :]]
        numbers = np.zeros(wanted)
        numbers[: len(kept)] = kept[:wanted]
        count = wanted if self.pads else min(wanted, items)
        there = (np.arange(count) < items).astype(np.float32)
        return numbers[:count].astype(np.int64), there, numbers.astype(np.float32).reshape(-1, 1, 1, 1)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, there, numbers = self.input_decisions(g)
        rank = len(g.shape(bottoms[0]))
        picked = g.emit("Gather", bottoms[0], index, axis=0)
        y = g.emit("Mul", picked, g.reshape(there, -1, *(1,) * (rank - 1))) if self.pads else picked
        return [y, g.emit("Identity", numbers)][: self.top_count]


@layer("TopK", dialect="attention-mask")
class TopK(_Best):
    """The items of x whose scores are highest, as many as bottom 2 has, in their order; and their numbers.

    A score is bottom 1's value, or of several the largest but the first. (chwilms/AttentionMask, top_k_layer.cu)
    """


@layer("TopKOld", dialect="attention-mask")
class TopKOld(_Best):
    """TopK with zeros for items that are missing, which the reference leaves as they were.

    (chwilms/AttentionMask, top_k_old_layer.cu)
    """

    pads = True
