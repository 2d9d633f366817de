"""Layer types of R-CNN and its kin, the detectors that work on regions of interest."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.schema.forks import rcnn_pb2

from ..base import Shape, layer, of_four_axes
from ..loss import FLT_MIN, Loss, SoftmaxWithLoss, class_index, total, weigh
from ..math import emit_softmax
from ..reread import without_gradient
from .boxes import suppress
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "BoxAnnotatorOHEM",
    "Nms",
    "OHEMDataLayer",
    "SmoothL1Loss",
    "SmoothL1LossOHEM",
    "SoftmaxWithLossOHEM",
    "SoftmaxWithLossPerLabel",
]


@layer("SmoothL1Loss", dialect="rcnn")
class SmoothL1Loss(Loss):
    """y = Σ w_out · f(d) / N, d = w_in · (x₀ - x₁), f(d) = (σd)² / 2 below |d| = 1 / σ², above |d| - ½ / σ².

    Bottoms: x₀, x₁, then w_in and w_out, or w_in alone as SSD has it. dx₀ = -dx₁ = w_in · w_out · f'(d) / N; with three
    bottoms the factor w_in is missing, as in the reference. A second top [N, 1, H, W] has the loss of each region.
    (rbgirshick/caffe-fast-rcnn, smooth_L1_loss_layer.cu; zhaoweicai/cascade-rcnn)
    """

    adds = rcnn_pb2.LayerParameter
    num_bottoms = (2, 4)
    num_tops = (1, 2)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        height, width = (*bottoms[0][2:4], 1, 1)[:2]
        return (super().tops(bottoms)[0], (bottoms[0][0], 1, height, width))[: self.top_count]

    def check(self, bottoms: Sequence[Shape]) -> None:
        if max(map(len, bottoms)) > 4:
            raise self.error(f"expected bottoms of at most 4 axes (N, C, H, W), found {list(bottoms)}")
        for index, shape in enumerate(bottoms[1:], 1):
            if of_four_axes(shape) != of_four_axes(bottoms[0]):
                raise self.error(f"bottom {index} has shape {shape}; expected {bottoms[0]}, that of bottom 0")

    def divisor(self, shape: Shape) -> float:
        """Return what the sum is divided by."""
        return shape[0]

    def sums(self, g: Graph, losses: str) -> list[str]:
        """Emit the second top, where there is one: the loss of each region."""
        shape = g.shape(losses)
        sums = g.emit("ReduceSum", losses, g.ints(1), keepdims=1)
        height, width = (*shape[2:4], 1, 1)[:2]
        return [g.reshape(sums, shape[0], 1, height, width)][: self.top_count - 1]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        divisor = self.divisor(shapes[0])
        shape, sigma2 = shapes[0], self.added.smooth_l1_loss_param.sigma**2
        made: dict[str, str] = {}

        def forward(a: str, b: str, *weights: str) -> Sequence[str]:
            weights = tuple(g.reshape(weight, *shape) for weight in weights)
            d = g.emit("Sub", a, g.reshape(b, *shape))
            for inside in weights[:1]:
                d = g.emit("Mul", d, inside)
            loss, slope = _smooth_l1(g, d, sigma2)
            for outside in weights[1:]:
                loss, slope = g.emit("Mul", loss, outside), g.emit("Mul", g.emit("Mul", slope, weights[0]), outside)
            made["slope"] = slope
            y = g.emit("Div", total(g, loss), g.constant(divisor))
            return [y, *self.sums(g, g.declare(loss, shape))]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None] * len(bottoms)
            dx = tape.emit("Mul", made["slope"], tape.emit("Div", dys[0], tape.constant(divisor)))
            return dx, tape.reshape(tape.emit("Neg", dx), *shapes[1]), *[None] * (len(bottoms) - 2)

        return g.custom_vjp(bottoms, forward, backward)


class _Mined(Loss):
    """A loss that also says each region's part in it, for online hard example mining."""

    adds = rcnn_pb2.LayerParameter

    def mode(self) -> str:
        """Return the name of the normalization."""
        proto, p = self.added.loss_param, self.proto.loss_param
        if not proto.HasField("normalization") and p.HasField("normalize"):
            return "VALID" if p.normalize else "BATCH_SIZE"
        return str(rcnn_pb2.LossParameter.NormalizationMode.Name(proto.normalization))


@layer("SmoothL1LossOHEM", dialect="rcnn")
class SmoothL1LossOHEM(_Mined, SmoothL1Loss):
    """SmoothL1Loss with σ = 1, weights w as third bottom, and a loss per region as second top [N, 1, H, W].

    Divided as loss_param says: by all positions, the batch, pre_fixed_normalizer or nothing.
    (daijifeng001/caffe-rfcn, smooth_L1_loss_layer.cu)
    """

    num_bottoms = (2, 3)

    def divisor(self, shape: Shape) -> float:
        positions = shape[0] * math.prod(shape[2:])
        fixed = float(self.added.loss_param.pre_fixed_normalizer)
        counts = {"FULL": positions, "VALID": positions, "BATCH_SIZE": shape[0], "PRE_FIXED": fixed, "NONE": 1}
        return max(counts[self.mode()], 1.0)


@layer("SoftmaxWithLossOHEM", dialect="rcnn")
class SoftmaxWithLossOHEM(_Mined, SoftmaxWithLoss):
    """SoftmaxWithLoss with a loss per label as third top, of the labels' shape, without gradient.

    (daijifeng001/caffe-rfcn, softmax_loss_layer.cu)
    """

    num_tops = (1, 3)

    def normalization(self) -> int:
        modes = {"FULL": 0, "VALID": 1, "BATCH_SIZE": 2, "NONE": 3}
        if self.mode() not in modes:
            raise self.error(f"expected a normalization of {', '.join(modes)}, found {self.mode()}")
        return modes[self.mode()]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((), bottoms[0], bottoms[1])[: len(super().tops(bottoms))]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.top_count < 3:
            return super().lower(g, bottoms, params)
        plain = copy.copy(self)
        plain.top_count = 2
        tops = plain.lower(g, bottoms, params)
        return [*tops, *without_gradient(g, bottoms, lambda x, labels: (self.per_label(g, x, labels),))]

    def per_label(self, g: Graph, scores: str, labels: str) -> str:
        """Emit the loss of each label, in the labels' shape."""
        shape, of_labels = g.shape(scores), g.shape(labels)
        axis = self.axis(shape)
        aligned = g.reshape(labels, *shape[:axis], 1, *shape[axis + 1 :])
        index = class_index(g, aligned, shape[axis])
        chosen = g.emit("GatherElements", emit_softmax(g, scores, axis), index, axis=axis)
        logs = g.emit("Neg", g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN))))
        return g.reshape(weigh(g, logs, self.valid(g, aligned)), *of_labels)


@layer("SoftmaxWithLoss", dialect="rcnn")
class SoftmaxWithLossPerLabel(SoftmaxWithLossOHEM):
    """SoftmaxWithLossOHEM by its older name, with three tops. (zhaoweicai/cascade-rcnn, softmax_loss_layer.cpp)"""

    num_tops = (3, 3)
    auto_tops = False


@layer("BoxAnnotatorOHEM", dialect="rcnn")
class BoxAnnotatorOHEM(Computed):
    """Labels and box weights of the roi_per_img regions of each image with the largest loss; of others ignore_label, 0.

    Bottoms: regions [R, 5, …], losses [R, 1, …], labels [R, 1, …], weights [R, C, …]; tops [R, 1, H, W], [R, C, H, W].
    (daijifeng001/caffe-rfcn, box_annotator_ohem_layer.cu)
    """

    adds = rcnn_pb2.LayerParameter
    num_bottoms = (4, 4)
    num_tops = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        rois, losses, labels, weights = bottoms
        positions = math.prod(rois[:1]) * math.prod(rois[2:])
        fits = math.prod(losses) == math.prod(labels) == positions and weights[:1] == rois[:1] and len(weights) > 1
        if rois[1:2] != (5,) or not fits:
            raise self.error(f"expected regions (R, 5), and losses, labels and weights of R, found shapes {bottoms}")
        height, width = (*rois[2:4], 1, 1)[:2]
        return ((rois[0], 1, height, width), (rois[0], weights[1], height, width))

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.box_annotator_ohem_param
        shapes = self.tops_at_setup([bottom.shape for bottom in bottoms])
        items = bottoms[0].reshape(shapes[0][0], 5, -1)[:, 0].ravel().astype(int)
        losses, labels = bottoms[1].ravel(), bottoms[2].ravel()
        weights = bottoms[3].reshape(shapes[1][0], shapes[1][1], -1)
        order = np.argsort(-losses, kind="stable")
        kept = np.zeros(len(losses), bool)
        for item in np.unique(items):
            kept[order[items[order] == item][: p.roi_per_img]] = True
        chosen = np.where(kept, labels, np.float32(p.ignore_label))
        shown = weights * kept.reshape(shapes[0][0], 1, -1)
        return chosen.astype(np.float32).reshape(shapes[0]), shown.astype(np.float32).reshape(shapes[1])


@layer("Nms", dialect="rtpose")
class Nms(Computed):
    """Local maxima above a threshold of num_parts maps: their number, then x, y and score of each, up to max_peaks.

    x and y are the mean of the places around, weighed by the scores. Top [N, num_parts, max_peaks + 1, 3].
    (CMU-Perceptual-Computing-Lab/caffe_rtpose, src/caffe/cpm/layers/nms_layer.cu)
    """

    adds = rcnn_pb2.LayerParameter

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, shape = self.added.nms_param, bottoms[0]
        if len(shape) != 4 or shape[1] < p.num_parts:
            raise self.error(f"expected maps (N, {p.num_parts} or more, H, W), found shape {shape}")
        return ((shape[0], p.num_parts, p.max_peaks + 1, 3),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (shape,) = self.tops_at_setup([bottoms[0].shape])
        top = np.zeros(shape, np.float32)
        for item, part in np.ndindex(*shape[:2]):
            peaks = _peaks(bottoms[0][item, part], self.added.nms_param.threshold)
            top[item, part, 0, 0] = len(peaks)
            kept = peaks[: shape[2] - 1]
            top[item, part, 1 : len(kept) + 1] = [_refined(bottoms[0][item, part], y, x) for y, x in kept] or 0
        return (top,)


def _peaks(heat: np.ndarray, threshold: float) -> np.ndarray:
    """Return the places [n, 2] of a map that are larger than all eight around them; none on the border."""
    inner = heat[1:-1, 1:-1]
    height, width = heat.shape
    around = [
        heat[1 + y : height - 1 + y, 1 + x : width - 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)
    ]
    is_peak = inner > np.float32(threshold)
    for other in around:
        is_peak &= inner > other
    return np.argwhere(is_peak) + 1


def _refined(heat: np.ndarray, y: int, x: int) -> tuple[float, float, float]:
    """Return x, y and score of a peak: the mean of the places within 3 that have a positive score, by score."""
    rows, columns = (np.arange(max(at - 3, 1), min(at + 4, size)) for at, size in zip((y, x), heat.shape, strict=True))
    near = np.maximum(heat[np.ix_(rows, columns)], 0)
    whole = near.sum()
    return (near * columns).sum() / whole, (near * rows[:, None]).sum() / whole, heat[y, x]


def _smooth_l1(g: Graph, d: str, sigma2: float) -> tuple[str, str]:
    """Emit f(d) and f'(d) of smooth L1."""
    size = g.emit("Abs", d)
    near = g.emit("Less", size, g.constant(1 / sigma2))
    square = g.emit("Mul", g.emit("Mul", d, d), g.constant(sigma2 / 2))
    loss = g.emit("Where", near, square, g.emit("Sub", size, g.constant(0.5 / sigma2)))
    return loss, g.emit("Clip", g.emit("Mul", d, g.constant(sigma2)), g.constant(-1), g.constant(1))


@layer("roi_data_layer.layer.OHEMDataLayer", dialect="ohem")
class OHEMDataLayer(Computed):
    """The 128 regions with the highest loss, after suppression among those of one image and label.

    Bottoms: probabilities [R, K], deltas [R, 4K], regions [R, 5], labels [R], and targets, inside and outside weights
    [R, 4K]; without the last three the loss is that of the labels alone. Tops: bottoms 2 to the last, of those regions.
    (abhi2610/ohem, lib/roi_data_layer/layer.py and minibatch.py)
    """

    num_bottoms = (4, 7)
    num_tops = (2, 5)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) not in (4, 7) or self.top_count != len(bottoms) - 2:
            raise self.error(f"takes 4 bottoms and 2 tops, or 7 and 5; found {len(bottoms)} and {self.top_count}")
        probabilities, _, rois, labels, *targets = bottoms
        wide: Shape = (probabilities[0], 4 * probabilities[1]) if len(probabilities) == 2 else ()
        fits = bool(wide) and rois == (wide[0], 5) and math.prod(labels) == wide[0]
        if not fits or any(shape != wide for shape in (*bottoms[1:2], *targets)):
            raise self.error(f"expected (R, K), (R, 4K), (R, 5), (R) and (R, 4K) of one R and K, found {bottoms}")
        return ((1, 5), (1,), *((1, wide[1]) for _ in targets))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][1] if bottom == 3 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, labels = bottoms[2], bottoms[3].reshape(-1)
        loss = self.losses(bottoms)
        kept: list[int] = []
        for image in np.unique(rois[:, 0]):
            for label in np.unique(labels):
                own = np.flatnonzero((labels == label) & (rois[:, 0] == image))
                order = own[np.argsort(-loss[own], kind="stable")]
                kept += suppress(rois[:, 1:], order, 0.7, extra=1)
        hardest = np.array(kept, int)[np.argsort(-loss[kept], kind="stable")[:128]]
        return [rois[hardest], labels[hardest], *(target[hardest] for target in bottoms[4:])]

    def losses(self, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        """Return the loss of each region [R]."""
        probabilities, deltas, _, labels, *targets = (bottom.astype(np.float64) for bottom in bottoms)
        label = labels.reshape(-1).astype(int)
        if label.size and not 0 <= label.min() <= label.max() < probabilities.shape[1]:
            raise self.error(f"expected labels of 0 to {probabilities.shape[1] - 1}, found {label.max()}")
        loss = -np.log(np.maximum(probabilities[np.arange(len(label)), label], np.finfo(float).eps))
        if not targets:
            return loss
        target, inside, outside = targets
        off = np.abs(inside * (deltas - target))
        terms = outside * np.where(off < 1, off * off / 2, off - 0.5) * (inside != 0)
        return loss + np.where(label > 0, terms.sum(1), 0)
