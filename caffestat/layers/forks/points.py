"""Losses and layers for segmentation from little supervision: points, classes of an image, corners of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Shape, layer
from ..loss import FLT_MIN
from ..reread import emit_closed
from .evaluated import EvaluatedLoss
from .flow import check_images
from .squash import softmax
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["CornerCrop", "CreateMaskVector", "SoftmaxWithLossExpectation"]

LEVELS = 257.0  # of objectness, none of which is 0 or 1


@layer("SoftmaxWithLossExpectation", dialect="points")
class SoftmaxWithLossExpectation(EvaluatedLoss):
    """Loss of clicked pixels, of the classes that an image has or lacks, and of what looks like an object.

    Bottoms: scores of one image [1, C, H, W], and labels [1, 3, H, W]: the class of a pixel, or ignore_label; how much
    it looks like an object, 0 to 255; and the image's classes, up to a 0 that also counts as one. A fourth channel
    weighs the clicks unless ignore_rank. The terms, each over its number unless its normalize_ is false: -log p of
    clicked pixels; -log p of a class that is there, and -log(1 - p) of one that is not, where p is largest; and the
    cross-entropy of background. is_siftflow: classes count from 1, and background is none. A second top is p.
    (abearman/whats-the-point1, softmax_loss_expectation_layer.cu; Bearman et al. 2016)
    """

    adds = segmentation_pb2.PointsLayerParameter
    num_tops = (1, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, h, w = check_images(self, bottoms[0])
        channels = 3 if self.added.loss_param.ignore_rank else 4
        if n != 1 or math.prod(bottoms[1]) != channels * h * w:
            raise self.error(f"expected one image and {channels} channels of labels for it, found shapes {bottoms}")
        return ((), bottoms[0])[: self.top_count]

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        classes, places = bottoms[0][1], math.prod(bottoms[0][2:])
        labels = np.zeros((math.prod(bottoms[1]) // places, places), np.float32)
        labels[0] = self.proto.loss_param.ignore_label
        labels[1] = random.integers(0, 256, places)
        labels[2, 0] = labels[0, random.integers(places)] = classes - 1
        labels[3:] = 255
        return labels.reshape(bottoms[1])

    def present(self, row: np.ndarray, classes: int) -> np.ndarray:
        """Return which classes the image has. Raises NetError for one that there is not."""
        first = int(self.added.loss_param.is_siftflow)
        end = np.flatnonzero(row == 0)
        listed = row[: end[0] + 1 - first] if len(end) else row
        if len(listed) and not first <= listed.min() <= listed.max() < classes + first:
            raise self.error(f"expected classes of the image from {first} to {classes - 1 + first}")
        has = np.zeros(classes, bool)
        has[listed - first] = True
        return has

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        shape, p = bottoms[0].shape, self.added.loss_param
        scores = bottoms[0].reshape(shape[1], -1).astype(float)
        q = softmax(scores, 0)
        labels = bottoms[1].reshape(-1, scores.shape[1])
        clicked = np.full(scores.shape[1], self.proto.loss_param.HasField("ignore_label"))
        clicked &= labels[0].astype(int) != self.proto.loss_param.ignore_label
        weight = np.zeros(q.shape)  # of -log q, and of -log(1 - q)
        counter = np.zeros(q.shape)
        if not p.ignore_location:
            self.click(weight, labels, clicked)
        has = self.present(labels[2].astype(int), shape[1])
        best = np.argmax(q, 1)
        for is_there, into, ignored, divides in (
            (has, weight, p.ignore_classes, p.normalize_classes),
            (~has, counter, p.ignore_constraint, p.normalize_constraint),
        ):
            if not ignored:
                own = np.flatnonzero(is_there)
                np.add.at(into, (own, best[own]), 1 / max(len(own), 1) if divides else 1)
        if not p.ignore_objectness and self.proto.loss_param.HasField("ignore_label"):
            count = q.shape[1] - (0 if p.ignore_location else clicked.sum())
            background = 1 - (labels[1].astype(int) + 1) / LEVELS
            share = ~clicked / (count if p.normalize_objectness else 1)
            weight[0] += share * background
            counter[0] += share * (1 - background)
        held = np.clip(q, FLT_MIN, 1 - np.finfo(np.float32).eps)
        loss = -(weight * np.log(held) + counter * np.log(1 - held)).sum()
        pull = -weight + counter * held / (1 - held)  # times q, the slope along log q
        return [loss, q.reshape(shape)], (pull - q * pull.sum(0)).reshape(shape)

    def click(self, weight: np.ndarray, labels: np.ndarray, clicked: np.ndarray) -> None:
        """Add the weights of the clicked pixels' classes."""
        p = self.added.loss_param
        (places,) = np.nonzero(clicked)
        own = labels[0, places].astype(int) - int(p.is_siftflow)
        if len(own) and not 0 <= own.min() <= own.max() < len(weight):
            raise self.error(f"expected labels of up to {len(weight)} classes, found {own.min()} to {own.max()}")
        ranks = np.ones(len(places)) if p.ignore_rank else labels[3, places] / 255
        weight[own, places] += ranks / (ranks.sum() or 1) if p.normalize_supervised else ranks


@layer("CreateMaskVector", dialect="tgpnet")
class CreateMaskVector(Computed):
    """Whether each of num_label classes is among the labels [N, 1, H, W], or AVE their share: [N, num_label, 1, 1].

    The labels of the items before count as well. (curious999/TGPnet, create_mask_vector_layer.cpp)
    """

    adds = segmentation_pb2.TgpLayerParameter

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return int(self.added.create_mask_vector_param.num_label)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, _, _ = check_images(self, bottoms[0])
        count = self.added.create_mask_vector_param.num_label
        if c != 1 or count < 1:
            raise self.error(f"expected one channel and a positive num_label, found shape {bottoms[0]} and {count}")
        return ((n, count, 1, 1),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p, labels = self.added.create_mask_vector_param, bottoms[0].astype(int)
        counts = [[(item == label).sum() for label in range(p.num_label)] for item in labels]
        whole = np.cumsum(counts, 0)
        found = whole / labels[0].size if p.pool == p.AVE else whole > 0
        return (found.astype(np.float32)[:, :, None, None],)


@layer("CornerCrop", dialect="splitnet")
class CornerCrop(Layer):
    """Crops of crop_h x crop_w, or crop_size, at the `position`s: upperleft, upperright, lowerleft, lowerright, center.

    dx is the mean of the crops that have the place. (ZJULearning/SplitNet, corner_crop_layer.cpp)
    """

    adds = segmentation_pb2.CornerLayerParameter
    num_tops = (1, None)
    passes_values = True
    CORNERS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "upperleft": (0, 0),
        "upperright": (0, 1),
        "lowerleft": (1, 0),
        "lowerright": (1, 1),
        "center": (0.5, 0.5),
    }

    def size(self) -> tuple[int, int]:
        """Return height and width of the crops."""
        p = self.added.corner_crop_param
        return (p.crop_size, p.crop_size) if p.HasField("crop_size") else (p.crop_h, p.crop_w)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        names, (high, wide) = self.added.corner_crop_param.position, self.size()
        unknown = [name for name in names if name not in self.CORNERS]
        if unknown or len(names) != self.top_count:
            raise self.error(f"expected a position of {', '.join(self.CORNERS)} for each top, found {list(names)}")
        if not 0 < high < h or not 0 < wide < w or (h - high) % 2 or (w - wide) % 2:
            raise self.error(f"expected crops that leave an even margin of {h} x {w}, found {high} x {wide}")
        return ((n, c, high, wide),) * len(names)

    def starts(self, shape: Shape) -> list[tuple[int, int]]:
        """Return the first line and column of each crop."""
        (high, wide), names = self.size(), self.added.corner_crop_param.position
        shares = [self.CORNERS[name] for name in names]
        return [(int(down * (shape[2] - high)), int(across * (shape[3] - wide))) for down, across in shares]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (high, wide) = g.shape(bottoms[0]), self.size()
        counts = np.zeros(shape[2:])
        for y, x in self.starts(shape):
            counts[y : y + high, x : x + wide] += 1
        share = g.constant(1 / np.maximum(counts, 1))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return [tape.emit("Mul", dy, share)]

        whole = g.declare(emit_closed(g, bottoms, lambda x: g.emit("Identity", x), gradient), shape)
        return [
            g.emit("Slice", whole, g.ints(y, x), g.ints(y + high, x + wide), g.ints(2, 3))
            for y, x in self.starts(shape)
        ]
