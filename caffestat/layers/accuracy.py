"""Layers that judge or pick the highest scores; no gradient passes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np

from .base import Layer, Shape, layer
from .loss import FLOAT, INT64, class_index, total, weigh
from .reread import without_gradient

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Accuracy", "ArgMax"]


@layer("Accuracy", by_sample=True)
class Accuracy(Layer):
    """y = share of the labels whose score is among the top_k; of equal scores none counts as better, all as worse.

    Labels that equal ignore_label count nowhere; a share of nothing is 0. A second top holds the share per class.
    (accuracy_layer.cpp)
    """

    num_bottoms = (2, 2)
    num_tops = (1, 2)
    foreign_tops = (3, None)
    keeps_shapes = True

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return any(needed)

    def axis(self, shape: Shape) -> int:
        """Return the class axis, counted from the front."""
        return self.canonical_axis(self.proto.accuracy_param.axis, len(shape))

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        counts_all = self.top_count == 1 and not self.proto.accuracy_param.HasField("ignore_label")
        return super().is_by_sample(bottoms) and counts_all and self.axis(bottoms[0]) > 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, labels = bottoms[:2]
        axis = self.axis(scores)
        expected = math.prod(scores) // max(scores[axis], 1)
        if math.prod(labels) != expected:
            raise self.error(
                f"expected {expected} labels for scores of shape {scores} with classes on axis {axis}, "
                f"found shape {labels}"
            )
        if self.proto.accuracy_param.top_k > scores[axis]:
            raise self.error(
                f"expected top_k of at most {scores[axis]}, the number of classes, "
                f"found {self.proto.accuracy_param.top_k}"
            )
        return ((), (scores[axis],))[: self.top_count]

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][self.axis(bottoms[0])] if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda *values: self.shares(g, *values))

    def shares(self, g: Graph, scores: str, labels: str, *others: str) -> Sequence[str]:
        """Emit the tops."""
        shape = g.shape(scores)
        axis = self.axis(shape)
        labels = g.reshape(labels, *shape[:axis], 1, *shape[axis + 1 :])
        index = class_index(g, labels, shape[axis])
        counts = self.counts(g, labels, *others)
        hits = weigh(g, self.hits(g, scores, index, axis), counts)
        if self.top_count == 1:
            return (self.share(g, total(g, hits), total(g, counts)),)
        column = [1] * axis + [shape[axis]] + [1] * (len(shape) - axis - 1)
        is_class = g.emit("Equal", index, g.constant(np.arange(shape[axis]).reshape(column), np.int64))
        member = g.emit("Cast", is_class, to=FLOAT)
        outside = g.ints(*(i for i in range(len(shape)) if i != axis))
        per_class = [
            g.emit("ReduceSum", g.emit("Mul", member, v), outside, keepdims=0, noop_with_empty_axes=1)
            for v in (hits, counts)
        ]
        return self.share(g, total(g, hits), total(g, counts)), self.share(g, *per_class)

    def hits(self, g: Graph, scores: str, index: str, axis: int) -> str:
        """Emit 1 where the label's score is among the top_k, else 0."""
        truth = g.emit("GatherElements", scores, index, axis=axis)
        not_worse = g.emit("Cast", g.emit("GreaterOrEqual", scores, truth), to=FLOAT)
        rank = g.emit("ReduceSum", not_worse, g.ints(axis), keepdims=1)
        return g.emit("Cast", g.emit("LessOrEqual", rank, g.constant(self.proto.accuracy_param.top_k)), to=FLOAT)

    def counts(self, g: Graph, labels: str, *others: str) -> str:
        """Emit 1 for each label that counts, else 0."""
        proto = self.proto.accuracy_param
        if not proto.HasField("ignore_label"):
            return g.constant(np.ones(g.shape(labels), np.float32))
        ignored = g.emit("Equal", g.emit("Cast", labels, to=INT64), g.constant(proto.ignore_label, np.int64))
        return g.emit("Cast", g.emit("Not", ignored), to=FLOAT)

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        proto = self.proto.accuracy_param
        return np.equal(values, proto.ignore_label if proto.HasField("ignore_label") else np.nan)

    def share(self, g: Graph, part: str, whole: str) -> str:
        """Emit part / whole, 0 where the whole is 0 and so the part."""
        return g.emit("Div", part, g.emit("Max", whole, g.constant(1)))


@layer("ArgMax")
class ArgMax(Layer):
    """y = indices of the top_k highest values, or the values (out_max_val); of equal values the later comes first.

    With `axis` along that axis, which gets size top_k. Without it over everything but axis 0: [N, 1, top_k], or
    [N, 2, top_k] with indices and values (out_max_val). (argmax_layer.cpp)
    """

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return True

    def search(self, shape: Shape) -> tuple[Shape, int]:
        """Return the shape in which to search and the axis along which."""
        if not self.proto.argmax_param.HasField("axis"):
            return (shape[self.canonical_axis(0, len(shape))], math.prod(shape[1:])), 1
        return shape, self.canonical_axis(self.proto.argmax_param.axis, len(shape))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        proto, (shape,) = self.proto.argmax_param, bottoms
        searched, axis = self.search(shape)
        if not 1 <= proto.top_k <= searched[axis]:
            raise self.error(f"expected top_k from 1 to {searched[axis]}, found {proto.top_k}")
        if proto.HasField("axis"):
            return ((*shape[:axis], proto.top_k, *shape[axis + 1 :]),)
        return ((shape[0], 1 + proto.out_max_val, proto.top_k, *[1] * (len(shape) - 3)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda x: (self.highest(g, x),))

    def highest(self, g: Graph, x: str) -> str:
        """Emit the top."""
        shape = g.shape(x)
        proto, (searched, axis) = self.proto.argmax_param, self.search(shape)
        # TopK puts the earlier of equal values first, so it is given the axis reversed
        low = np.iinfo(np.int64).min
        turned = g.emit("Slice", g.reshape(x, *searched), g.ints(-1), g.ints(low), g.ints(axis), g.ints(-1))
        values, places = g.emit_many("TopK", turned, g.ints(proto.top_k), count=2, axis=axis)
        indices = g.emit("Sub", g.constant(searched[axis] - 1), g.emit("Cast", places, to=FLOAT))
        if proto.HasField("axis"):
            return values if proto.out_max_val else indices
        found = g.emit("Concat", indices, values, axis=1) if proto.out_max_val else indices
        return g.reshape(found, *self.tops([shape])[0])
