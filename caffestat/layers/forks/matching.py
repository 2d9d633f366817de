"""Features compared with stored ones, features at the places of detections, and maps compared with true ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.fillers import Filler
from caffestat.lazy import np
from caffestat.schema.forks import metric_pb2

from ..base import Layer, Param, Shape, layer
from ..loss import Loss
from ..reread import emit_closed, without_gradient

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["AnchorEmbeddingExtractor", "LabeledMatching", "UnlabeledMatching", "YoloSeg"]

MATCHED_ROW = 11  # values of a matched detection
ITEM, BOX, ANCHOR, TRACK, ACTION, PLACE = 0, slice(2, 6), 6, 7, 8, slice(9, 11)
INSTANCES = 1000  # numbers of tracks are this far apart, in the numbers of instances


class _Matching(Layer):
    """y = x · Wᵀ: products of features [N, K] and those of a table; dx = dy · W. The backward pass changes W."""

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)

    @property
    def left_out(self) -> str:
        return "its stored features are not updated"

    def rows(self) -> int:
        """Return how many features are stored."""
        raise NotImplementedError

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def mixes_channels(self) -> bool:
        return True

    def stored(self, shape: Shape) -> Param:
        """Return the table of features."""
        size = math.prod(shape[1:])
        return Param("weight", (self.rows(), size), Filler(), False, size, self.rows(), is_statistic=True)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return (self.stored(bottoms[0]),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return math.prod(bottoms[0]) * self.rows()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, labels = bottoms
        if self.rows() < 1:
            raise self.error("expected a positive number of stored features")
        if len(x) < 2 or math.prod(labels) != x[0]:
            raise self.error(f"expected features (N, …) and N labels, found shapes {x} and {labels}")
        return ((x[0], self.rows()),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        rows = g.reshape(bottoms[0], g.shape(bottoms[0])[0], -1)
        (table,) = without_gradient(g, params[:1], lambda w: [g.emit("Identity", w)])
        return [g.emit("Gemm", rows, table, transB=1, hint=self.name)]


@layer("LabeledMatching", dialect="person_search")
class LabeledMatching(_Matching):
    """y = x · Wᵀ [N, num_classes], and the labels, -1 for those outside of the classes; dx = dy · W.

    Params: W [num_classes, K], which begins at 0 and takes over features of its labels in the backward pass, and how
    long ago [num_classes]. (ShuangLI59/person_search and ZJUZQ/Net_caffe, labeled_matching_layer.cpp)
    """

    num_tops = (2, 2)

    def rows(self) -> int:
        return int(self.added.labeled_matching_param.num_classes)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        ages = Param("age", (self.rows(),), Filler(), False, 1, 1, is_statistic=True)
        return (self.stored(bottoms[0]), ages)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (*super().tops(bottoms), bottoms[1])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def known(labels: str) -> Sequence[str]:
            numbers = g.cast(labels, np.int64)
            low = g.emit("Less", numbers, g.constant(0, np.int64))
            high = g.emit("GreaterOrEqual", numbers, g.constant(self.rows(), np.int64))
            return [g.emit("Where", g.emit("Or", low, high), g.constant(-1), labels)]

        return [*super().lower(g, bottoms, params), *without_gradient(g, bottoms[1:], known)]


@layer("UnlabeledMatching", dialect="person_search")
class UnlabeledMatching(_Matching):
    """y = x · Wᵀ [N, queue_size]; dx = dy · W.

    W [queue_size, K] begins at 0 and takes over the features of label -1 in the backward pass, the oldest first.
    (ShuangLI59/person_search and ZJUZQ/Net_caffe, unlabeled_matching_layer.cpp)
    """

    def rows(self) -> int:
        return int(self.added.unlabeled_matching_param.queue_size)


@layer("AnchorEmbeddingExtractor", dialect="openvino")
class AnchorEmbeddingExtractor(Layer):
    """Features [K, C] at the places of detections, and one of their values [K]: label_src_pos tells which.

    Bottoms: rows [1, 1, R, 11] of image, label, box, anchor, track, action, column and row, and a map [N, C, H, W] for
    each of the four anchors. Rows of images below 0 and of actions from num_valid_actions on do not count; without any,
    top 0 is a row of 0 and top 1 is -1. Top 2: 1 / the number of rows of an image's track, or image and box.
    (openvinotoolkit/training_toolbox_caffe, anchor_embedding_extractor_layer.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (5, 5)
    num_tops = (2, 3)
    decides = True
    decisive = slice(0, 1)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom > 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (rows, first) = self.added.embedding_extractor_param, bottoms[:2]
        if p.num_anchors != 4 or not 0 <= p.label_src_pos < MATCHED_ROW:
            raise self.error(f"expected num_anchors: 4 and label_src_pos of 0 to {MATCHED_ROW - 1}")
        if len(first) != 4 or any(shape != first for shape in bottoms[1:]):
            raise self.error(f"expected maps (N, C, H, W) of one shape, found {list(bottoms[1:])}")
        if len(rows) != 4 or rows[3] != MATCHED_ROW:
            raise self.error(f"expected detections (1, 1, rows, {MATCHED_ROW}), found shape {rows}")
        if self.top_count == 3 and not (p.output_instance_weights or p.output_proposals):
            raise self.error("expected output_instance_weights or output_proposals, of three tops")
        count = 1 if self.decisions is None else len(self.decisions[0])
        further = (count, 5) if p.output_proposals and not p.output_instance_weights else (count,)
        return ((count, first[1]), (count,), further)[: self.top_count]

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom:
            return None
        rows, (batch, _, high, wide) = np.zeros(bottoms[0], np.float32), bottoms[1]
        for place, most in ((ITEM, batch), (ANCHOR, 4), (PLACE.start, wide), (PLACE.start + 1, high)):
            rows[..., place] = random.integers(0, most, rows.shape[:-1])
        return rows

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the row of each feature among all maps, labels, and the values of top 2."""
        p, (batch, _, high, wide) = self.added.embedding_extractor_param, self.decided_shapes[1]
        rows = bottoms[0].reshape(-1, MATCHED_ROW)
        item, action = rows[:, ITEM].astype(int), rows[:, ACTION].astype(int)
        most = p.num_valid_actions if p.HasField("num_valid_actions") else -1
        rows = rows[(item >= 0) & ((most < 0) | (action < most))]
        item, anchor, column, row = (rows[:, at].astype(int) for at in (ITEM, ANCHOR, *range(PLACE.start, PLACE.stop)))
        limits = ((item, batch), (anchor, 4), (column, wide), (row, high))
        if any((values < 0).any() or (values >= end).any() for values, end in limits):
            raise self.error("expected images, anchors and places within those of the maps")
        places = ((anchor * batch + item) * high + row) * wide + column
        labels = np.trunc(rows[:, p.label_src_pos])
        if not len(rows):  # one behind the last: a row of 0
            places, labels = np.array([4 * batch * high * wide]), np.array([-1.0])
        instances = [int(track) * INSTANCES + n for track, n in zip(rows[:, TRACK], item, strict=True)]
        counts = Counter(instances)
        further = np.array([1 / counts[instance] for instance in instances] or [-1.0])
        if p.output_proposals and not p.output_instance_weights:
            further = np.concatenate([item[:, None], rows[:, BOX]], 1) if len(rows) else np.full((1, 5), -1.0)
        return places, labels.astype(np.float32), further.astype(np.float32)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        places, *others = self.input_decisions(g)
        batch, channels, high, wide = g.shape(bottoms[1])
        rows = [g.reshape(g.transpose(x, 0, 2, 3, 1), batch * high * wide, channels) for x in bottoms[1:]]
        table = g.emit("Concat", *rows, g.constant(np.zeros((1, channels))), axis=0)
        g.declare(table, (4 * batch * high * wide + 1, channels))
        return [g.emit("Gather", table, places, axis=0), *others][: self.top_count]


@layer("YoloSeg", dialect="yolo")
class YoloSeg(Loss):
    """y = Σ d² / N, dx = d · dy / N, d = object_scale · (sigmoid(x) - t).

    Bottoms: a map [N, C, H, W], the true one and, to weigh classes, how many places of each item are of a class [N, C]:
    d is multiplied by 2 - r where t is above ½, r their sum over that of the other places.
    (eric612/MobileNet-YOLO, yolo_seg.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 3)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def check(self, bottoms: Sequence[Shape]) -> None:
        x, truth = bottoms[:2]
        if len(x) != 4 or len(truth) != 4 or math.prod(truth) != math.prod(x) or truth[1] != x[1]:
            raise self.error(f"expected maps (N, C, H, W) of one shape, found {x} and {truth}")
        if len(bottoms) == 3 and math.prod(bottoms[2]) != bottoms[2][0] * x[1]:
            raise self.error(f"expected a number for each of {x[1]} classes, found shape {bottoms[2]}")

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        scale, shape = self.added.yolo_seg_param.object_scale, g.shape(bottoms[0])
        truth = g.reshape(bottoms[1], *shape)
        weights = g.constant(scale)
        if len(bottoms) == 3:
            counts = g.reshape(bottoms[2], -1, shape[1], 1, 1)
            others = g.emit("Sub", g.constant(math.prod(shape[2:])), counts)
            own, rest = (g.emit("ReduceSum", name, g.ints(0), keepdims=1) for name in (counts, others))
            raised = g.emit("Sub", g.constant(2), g.emit("Div", own, rest))
            is_true = g.emit("Greater", truth, g.constant(0.5))
            weights = g.emit("Where", is_true, g.emit("Mul", raised, weights), weights)
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            off = made["off"] = g.emit("Mul", g.emit("Sub", g.emit("Sigmoid", x), truth), weights)
            return g.emit("Div", g.emit("ReduceSum", g.emit("Mul", off, off), keepdims=0), g.constant(shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return [tape.emit("Mul", made["off"], tape.emit("Div", dy, tape.constant(shape[0])))]

        return [emit_closed(g, [bottoms[0]], forward, gradient)]
