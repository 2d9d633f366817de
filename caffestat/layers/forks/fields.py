"""What MS-CNN and Cascade R-CNN learn of maps of fields: their data, losses, accuracies and outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import cascade_pb2

from ..base import Shape, layer
from ..data import Count, Images
from ..loss import FLT_MIN, Loss, total
from .boxes import overlaps, suppress
from .cascade import Regression
from .rois import random_boxes
from .squash import softmax
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "BoxOutput",
    "DetectionAccuracy",
    "DetectionData",
    "DetectionGroupAccuracy",
    "DetectionGroupLoss",
    "DetectionLoss",
    "EvalData",
    "FrcnnOutput",
    "GroupDetectionEvaluate",
    "HardMining",
    "ImageGtData",
]

OUTSIDE = 1 << 20  # a size that no image has


# ---- data ------------------------------------------------------------------------------------------------------------


class _Fielded(Images):
    """Images, for each field a map [N, 6, H, W] of label, x, y, width, height and overlap, and the true boxes.

    The images are not read: their numbers stand in for them.
    """

    adds = cascade_pb2.LayerParameter
    num_tops: ClassVar[Count] = (1, None)
    why_unread = "its images are not read"
    width = 8  # of a true box

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def batch_size(self) -> int:
        return int(self.settings.batch_size)

    def strides(self) -> Sequence[int]:
        """Return the stride of each map of labels."""
        return ()

    def side(self, size: int, stride: int) -> int:
        """Return how long a map of labels is along an axis of the image."""
        return math.floor(size / stride + 0.5)

    def size(self) -> tuple[int, int] | None:
        """Return height and width of the images where the file tells."""
        p = self.settings
        pairs = [(p.crop_height, p.crop_width)] if hasattr(p, "crop_height") else []
        if hasattr(p, "crop_long_size"):
            pairs.append((p.crop_long_size, p.crop_short_size))
        pairs.append((p.resize_height, p.resize_width))
        if hasattr(p, "long_size"):
            pairs.append((p.long_size, p.short_size))
        return next((pair for pair in pairs if all(pair)), None)

    def image_shape(self) -> Shape | None:
        size = self.size()
        return (self.batch_size(), self.channels(), *size) if size else None

    def top_shape(self, index: int, name: str) -> Shape | None:
        images = super(Images, self).top_shape(0, self.proto.top[0])
        if not index or not images:
            return images
        return self.shape_overrides.get(name) or self.further_shape(index, images)

    def written_shape(self, index: int) -> Shape | None:
        return self.image_shape()

    def further_shape(self, index: int, images: Shape) -> Shape:
        """Return the shape of a top behind the images."""
        strides = self.strides()
        if index <= len(strides):
            return (images[0], 6, *(self.side(size, strides[index - 1]) for size in images[2:]))
        return (1, self.width, 1, 1)

    def example(self, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if not index:
            return None
        images = self.top_shape(0, self.proto.top[0]) or (1, 3, OUTSIDE, OUTSIDE)
        if index > len(self.strides()):
            boxes = random_boxes(shape[0], images[2], images[3], random)
            row = np.zeros((shape[0], max(math.prod(shape[1:]), 6)), np.float32)
            row[:, 1:5], row[:, 5] = boxes, 1
            return row[:, : math.prod(shape[1:])]
        stride = self.strides()[index - 1]
        maps = np.zeros(shape, np.float32)
        maps[:, 5] = random.uniform(0, 0.5, maps[:, 5].shape)
        item, y, x = (random.integers(0, size, 2) for size in (shape[0], shape[2], shape[3]))
        p = self.settings
        values = [np.ones(2), (x + 0.5) * stride, (y + 0.5) * stride, p.field_w[index - 1], p.field_h[index - 1], 0.8]
        for channel, value in enumerate(values):
            maps[item, channel, y, x] = value
        return maps

    def shape_source(self) -> str:
        return f"in the images that {self.settings.source!r} lists"


@layer("ImageGtData", dialect="mscnn")
class ImageGtData(_Fielded):
    """Images, a map of labels per downsample_rate and, with output_gt_boxes, true boxes [1, 7] of MS-CNN.

    (zhaoweicai/mscnn, image_gt_data_layer.cpp)
    """

    width = 7

    @property
    def settings(self) -> Any:
        return self.added.image_gt_data_param

    def strides(self) -> Sequence[int]:
        return tuple(self.settings.downsample_rate)

    def side(self, size: int, stride: int) -> int:
        return size // stride  # integers are divided before they are rounded


@layer("DetectionData", dialect="cascade")
class DetectionData(_Fielded):
    """Images, a map of labels per stride and, with output_gt_boxes, true boxes [1, 8] of Cascade R-CNN.

    The image has short_size x long_size until the first batch. (zhaoweicai/cascade-rcnn, detection_data_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.detection_data_param

    def strides(self) -> Sequence[int]:
        return tuple(self.settings.stride)


@layer("EvalData", dialect="cascade")
class EvalData(_Fielded):
    """Images, true boxes [1, 8], and the images' heights and widths [N, 2]. (zhaoweicai/cascade-rcnn,
    eval_data_layer.cpp)
    """

    num_tops = (2, 3)

    @property
    def settings(self) -> Any:
        return self.added.eval_data_param

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (1, 8, 1, 1) if index == 1 else (images[0], 2, 1, 1)

    def example(self, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        images = self.top_shape(0, self.proto.top[0])
        if index == 2 and images:
            return np.full(shape, np.array(images[2:], np.float32).reshape(2, 1, 1))
        return super().example(index, shape, random)


# ---- losses and accuracies -------------------------------------------------------------------------------------------


class _Fields(Regression):
    """A layer that reads scores and deltas of fields [N, ·, H, W], and what they should be."""

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    @property
    def stride(self) -> int:
        return int(self.settings.stride or self.settings.downsample_rate)

    @property
    def ignored(self) -> int | None:
        """The label that does not count."""
        p = self.proto.loss_param
        return p.ignore_label if p.HasField("ignore_label") else None

    def parted(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return scores, deltas and truth."""
        raise NotImplementedError

    def fields(self, count: int) -> np.ndarray:
        """Return width and height of the field of each item [N, 2, 1, 1]."""
        sizes = np.array([self.settings.field_w, self.settings.field_h], np.float32).T
        return np.tile(sizes, (count // len(sizes), 1))[:, :, None, None]

    def centers(self, shape: Sequence[int]) -> np.ndarray:
        """Return x and y of the centers of the fields [2, H, W]."""
        y, x = np.indices(shape[-2:])
        return ((np.stack([x, y]) + 0.5) * self.stride).astype(np.float32)

    def encoded(self, boxes: np.ndarray) -> np.ndarray:
        """Return the normalized deltas [N, 4, H, W] of boxes [N, 4, H, W]: centers and sizes."""
        fields, (mean, deviation) = self.fields(len(boxes)), self.statistics()
        shift = (boxes[:, :2] - self.centers(boxes.shape)) / fields
        growth = np.log(np.maximum(boxes[:, 2:], 2) / fields)
        deltas = np.concatenate([shift, growth], 1)
        return ((deltas - mean[:, None, None]) / deviation[:, None, None]).astype(np.float32)

    def check_maps(self, maps: Sequence[Shape], channels: Sequence[int]) -> None:
        p, count = self.settings, len(self.settings.field_w)
        first = maps[0]
        wanted = [(*first[:1], width, *first[2:]) for width in channels]
        if len(first) != 4 or list(maps) != wanted:
            raise self.error(f"expected bottoms of {', '.join(map(str, channels))} channels, found shapes {maps}")
        if not count or len(p.field_h) != count or maps[0][0] % count:
            raise self.error(f"expected as many field_h as field_w ({count}) and a multiple of them as first axis")
        if p.objectness and p.cls_num != 2:
            raise self.error(f"expected cls_num: 2 with objectness, found {p.cls_num}")
        self.statistics()


class _Single(_Fields):
    """Of MS-CNN: one bottom [N, cls_num + 4, H, W] has scores and deltas."""

    num_bottoms = (2, 2)

    def parted(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        classes = self.settings.cls_num
        return bottoms[0][:, :classes], bottoms[0][:, classes:], bottoms[1]

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_maps(bottoms, (self.settings.cls_num + self.settings.coord_num, 6))


class _Group(_Fields):
    """Of Cascade R-CNN: the fields of a group follow each other on the first axis."""

    num_bottoms = (3, 3)

    def parted(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return bottoms[0], bottoms[1], bottoms[2]

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_maps(bottoms, (self.settings.cls_num, 4, 6))


class _FieldLoss(_Fields, Loss):
    """A softmax loss of some fields and λ times one of the deltas of those with an object; top [both, deltas'].

    The gradient is that of the first value.
    """

    decides = True
    is_squared = False  # the loss of deltas is half the square

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom < self.num_bottoms[0] - 1

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 1, 1, 2),)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and largest deltas [4]."""
        p, (mean, deviation) = self.settings, self.statistics()
        shift, growth = 1 / (p.field_xyr or 2), math.log(p.field_whr or 2)
        most = np.array([shift, shift, growth, growth])
        middle = np.repeat([mean[:2].mean(), mean[2:].mean()], 2)
        spread = np.repeat([np.sqrt(deviation[:2].prod()), np.sqrt(deviation[2:].prod())], 2)
        return (-most - middle) / spread, (most - middle) / spread

    def is_bounded(self) -> bool:
        """Tell whether deltas are bounded before they are compared."""
        return bool(self.settings.HasField("field_xyr") and self.settings.HasField("field_whr"))

    def sampled(
        self, scores: np.ndarray, label: np.ndarray, free: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return which fields count [N, H, W], of labels, and `free`: background that overlaps no object much."""
        raise NotImplementedError

    def weights(self, label: np.ndarray, kept: np.ndarray, overlap: np.ndarray) -> np.ndarray:
        """Return the weights of fields."""
        weights = np.ones(label.shape, np.float32)
        if self.settings.iou_weighted:
            weights[label != 0] = overlap[label != 0]
        if self.settings.pos_neg_weighted:
            part, count = 1 / (1 + self.settings.bg_multiple), kept.sum()
            objects, rest = weights[kept & (label != 0)].sum(), weights[kept & (label == 0)].sum()
            if objects:
                weights[label != 0] *= part * count / objects
            if rest and self.weighs_rest(objects):
                weights[label == 0] *= (1 - part) * count / rest
        return weights

    def weighs_rest(self, objects: float) -> bool:
        """Tell whether the background is weighed although no object is."""
        return True

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        scores, _, truth = self.parted(bottoms)
        label = truth[:, 0].astype(int)
        free = (label == 0) & (truth[:, 5] < np.float32(self.settings.bg_threshold))
        shown = np.minimum(label, 1) if self.settings.objectness else label
        if shown.min() < 0 or shown.max() >= scores.shape[1]:
            raise self.error(f"expected labels from 0 to {scores.shape[1] - 1}, found {shown.min()} to {shown.max()}")
        kept = self.sampled(scores, shown, free, random)
        # with objectness the label that is ignored is one of two for scores, but one of all for boxes
        counted, boxes = (kept if self.ignored is None else kept & (of != self.ignored) for of in (shown, label))
        weights = np.where(counted, self.weights(label, kept, truth[:, 5]), 0)
        objects = boxes & (label != 0)
        targets = np.where(objects[:, None], self.encoded(truth[:, 1:5]), 0)
        return (
            shown[:, None].astype(np.int64),
            (weights / max(counted.sum(), 1))[:, None].astype(np.float32),
            targets.astype(np.float32),
            (objects / max(4 * objects.sum(), 1))[:, None].astype(np.float32),
        )

    def emit_parts(self, g: Graph, bottoms: Sequence[str]) -> tuple[str, str]:
        """Emit scores and deltas."""
        return bottoms[0], bottoms[1]

    def gradients(self, tape: Tape, scores: str, deltas: str) -> list[str | None]:
        """Emit the bottoms' gradients of those of scores and deltas."""
        return [scores, deltas, None]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        labels, weights, targets, parts = self.input_decisions(g)
        made: dict[str, str] = {}

        def forward(*bottoms: str) -> Sequence[str]:
            scores, deltas = self.emit_parts(g, bottoms)
            p = g.emit("Softmax", scores, axis=1)
            chosen = g.emit("GatherElements", p, labels, axis=1)
            logs = g.emit("Neg", g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN))))
            error = g.emit("ScatterElements", p, labels, g.emit("Sub", chosen, g.constant(1)), axis=1)
            made["scores"] = g.emit("Mul", error, weights)
            if self.is_bounded():
                low, high = (g.constant(np.asarray(bound, np.float32).reshape(4, 1, 1)) for bound in self.bounds())
                deltas = g.emit("Min", g.emit("Max", deltas, low), high)
            difference = g.emit("Sub", deltas, targets)
            loss, slope = _box_loss(g, difference, self.is_squared)
            made["deltas"] = g.emit("Mul", slope, parts)  # bounds let the gradient through
            box = g.emit("Mul", total(g, g.emit("Mul", loss, parts)), g.constant(getattr(self.settings, "lambda")))
            both = g.emit("Add", total(g, g.emit("Mul", logs, weights)), box)
            return [g.reshape(g.emit("Concat", g.reshape(both, 1), g.reshape(box, 1), axis=0), 1, 1, 1, 2)]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            dy = tape.emit("Gather", tape.reshape(dys[0], 2), tape.ints(0), axis=0)
            box = tape.emit("Mul", dy, tape.constant(getattr(self.settings, "lambda")))
            return self.gradients(tape, tape.emit("Mul", made["scores"], dy), tape.emit("Mul", made["deltas"], box))

        return g.custom_vjp(bottoms, forward, backward)


def _box_loss(g: Graph, d: str, squared: bool) -> tuple[str, str]:
    """Emit f(d) and f'(d): half the square, or smooth L1."""
    half = g.emit("Mul", g.emit("Mul", d, d), g.constant(0.5))
    if squared:
        return half, d
    size = g.emit("Abs", d)
    loss = g.emit("Where", g.emit("Less", size, g.constant(1)), half, g.emit("Sub", size, g.constant(0.5)))
    return loss, g.emit("Clip", d, g.constant(-1), g.constant(1))


@layer("DetectionLoss", dialect="mscnn")
class DetectionLoss(_Single, _FieldLoss):
    """Loss of the classes and boxes of the fields of one map, of all objects and some background; see sample_mode.

    Background is drawn at random, from other numbers than the reference draws, or is what scores highest.
    (zhaoweicai/mscnn, detection_loss_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.detection_loss_param

    @property
    def is_squared(self) -> bool:  # type: ignore[override]
        return not self.settings.bb_smooth

    def is_bounded(self) -> bool:
        return True

    def weighs_rest(self, objects: float) -> bool:
        return bool(objects)

    def sampled(
        self, scores: np.ndarray, label: np.ndarray, free: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        p, kept = self.settings, label != 0
        flat, open_ = kept.reshape(len(kept), -1), free.reshape(len(free), -1)
        if p.sample_mode not in ("random", "bootstrap", "mixture"):
            return kept | free
        part = 0.5 if p.sample_mode == "mixture" else 1.0
        for item in range(len(label)):
            count = np.bincount(label[item].ravel(), minlength=p.cls_num)
            if p.sample_mode != "bootstrap":
                wanted = max(int(count[1:].sum() * p.bg_multiple * part), 4 * (p.cls_num - 1))
                drawn = random.integers(0, flat.shape[1], wanted)
                flat[item, drawn[open_[item, drawn]]] = True
            if p.sample_mode != "random":
                at = np.flatnonzero(open_[item])[::-1]  # of two with one score the later one goes first
                for index in range(1, p.cls_num):
                    wanted = max(4, int(count[index] * p.bg_multiple * part))
                    order = np.argsort(-scores[item, index].ravel()[at], kind="stable")
                    flat[item, at[order[:wanted]]] = True
        return kept

    def emit_parts(self, g: Graph, bottoms: Sequence[str]) -> tuple[str, str]:
        classes, channels = self.settings.cls_num, g.shape(bottoms[0])[1]
        ends = ((0, classes), (classes, channels))
        scores, deltas = (g.emit("Slice", bottoms[0], g.ints(start), g.ints(end), g.ints(1)) for start, end in ends)
        return scores, deltas

    def gradients(self, tape: Tape, scores: str, deltas: str) -> list[str | None]:
        return [tape.emit("Concat", scores, deltas, axis=1), None]


@layer("DetectionGroupLoss", dialect="cascade")
class DetectionGroupLoss(_Group, _FieldLoss):
    """Loss of the classes and boxes of groups of fields: bottoms scores, deltas and maps of labels.

    Objects and background are drawn at random, from other numbers than the reference draws; see neg_mining_type.
    (zhaoweicai/cascade-rcnn, detection_group_loss_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.detection_group_loss_param

    @property
    def is_squared(self) -> bool:  # type: ignore[override]
        return bool(self.settings.bbox_loss_type == "Euclidean_L2")

    def sampled(
        self, scores: np.ndarray, label: np.ndarray, free: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        p, count = self.settings, len(self.settings.field_w)
        ranks = self.ranks(scores, label).reshape(len(label) // count, -1)
        kept = np.zeros(ranks.shape, bool)
        for item, (labels, open_) in enumerate(zip(label.reshape(ranks.shape), free.reshape(ranks.shape), strict=True)):
            objects, rest = np.flatnonzero(labels > 0), np.flatnonzero(open_)
            if p.batch_size > 0:
                wanted = min(math.floor(p.batch_size / (1 + p.bg_multiple) + 0.5), len(objects))
                others = p.batch_size - wanted
            else:
                wanted, others = len(objects), max(len(objects) * p.bg_multiple, p.min_num_neg)
            objects = random.permutation(objects)[:wanted]
            hard = {"random": 0, "bootstrap": others, "mixture": math.floor(others * 0.5 + 0.5)}
            if p.neg_mining_type not in hard:
                raise self.error(f"expected a neg_mining_type of {', '.join(hard)}, found {p.neg_mining_type!r}")
            hardest = rest[np.argsort(-ranks[item, rest], kind="stable")]
            first = hardest[: hard[p.neg_mining_type]]
            last = random.permutation(hardest[len(first) :])[: others - len(first)]
            kept[item, np.concatenate([objects, first, last]).astype(int)] = True
        return kept.reshape(label.shape)

    def ranks(self, scores: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Return how hard each field is."""
        p = softmax(scores, 1)
        if self.settings.neg_ranking_type == "conf_prob":
            return 1 - p[:, 0]
        chosen = np.take_along_axis(p, label[:, None], 1)[:, 0]
        return -np.log(np.maximum(chosen, FLT_MIN))


class _Accuracy(Computed, _Fields):
    """The part of fields that are right, and of those with an object; as second top the mean overlap of boxes.

    -1 where there is none.
    """

    num_tops = (1, 2)

    def check(self, bottoms: Sequence[Shape]) -> None:
        raise NotImplementedError

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 1, 1, 2), (1, 1, 1, 1))[: self.top_count]

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        scores, deltas, truth = self.parted(bottoms)
        label = truth[:, 0].astype(int)
        shown = np.minimum(label, 1) if self.settings.objectness else label
        counts = (label != 0) | (truth[:, 5] < np.float32(self.settings.bg_threshold))
        if self.ignored is not None:
            counts &= shown != self.ignored
        right = self.is_right(scores, shown)
        boxes = self.placed(deltas)
        objects = (label != 0) if self.ignored is None else (label != 0) & (label != self.ignored)
        found = [_mean(right[counts]), _mean(right[counts & (shown != 0)])]
        pairs = [np.moveaxis(_corners(each), 1, -1)[objects] for each in (boxes, truth[:, 1:5])]
        met = [overlaps(a[None], b[None])[0, 0] for a, b in zip(*pairs, strict=True)]
        tops = (np.array(found, np.float32).reshape(1, 1, 1, 2), np.full((1, 1, 1, 1), _mean(met), np.float32))
        return tops[: self.top_count]

    def is_right(self, scores: np.ndarray, label: np.ndarray) -> np.ndarray:
        """Tell for each field whether its label is among the best top_k classes; of two equal ones the later is."""
        own = np.take_along_axis(scores, np.clip(label, 0, scores.shape[1] - 1)[:, None], 1)
        later = np.arange(scores.shape[1])[:, None, None] > label[:, None]
        better = ((scores > own) | ((scores == own) & later)).sum(1)
        return np.asarray(better < getattr(self.settings, "top_k", 1))

    def placed(self, deltas: np.ndarray) -> np.ndarray:
        """Return the boxes [N, 4, H, W], centers and sizes, that deltas describe."""
        p, fields, (mean, deviation) = self.settings, self.fields(len(deltas)), self.statistics()
        deltas = deltas * deviation[:, None, None] + mean[:, None, None]
        shift, growth = 1 / p.field_xyr, math.log(p.field_whr)
        center = np.clip(deltas[:, :2], -shift, shift) * fields + self.centers(deltas.shape)
        return np.concatenate([center, np.exp(np.clip(deltas[:, 2:], -growth, growth)) * fields], 1)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else -1.0


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


@layer("DetectionAccuracy", dialect="mscnn")
class DetectionAccuracy(_Single, _Accuracy):
    """How many fields' classes are right, of all and of objects, and how well boxes overlap.

    (zhaoweicai/mscnn, detection_accuracy_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.detection_accuracy_param


@layer("DetectionGroupAccuracy", dialect="cascade")
class DetectionGroupAccuracy(_Group, _Accuracy):
    """DetectionAccuracy of groups of fields. (zhaoweicai/cascade-rcnn, detection_group_accuracy_layer.cpp)"""

    @property
    def settings(self) -> Any:
        return self.added.detection_group_accuracy_param

    def is_right(self, scores: np.ndarray, label: np.ndarray) -> np.ndarray:
        return np.asarray(scores.argmax(1) == label)


# ---- outputs ---------------------------------------------------------------------------------------------------------


@layer("BoxOutput", dialect="mscnn")
class BoxOutput(Computed, Regression):
    """Proposals [n, 5] (and with scores [n, 6]) out of maps [N, classes + 4, H, W], after suppression.

    The score is the best class's less the background's; one box (1, 1, 10, 10) where none is left.
    (zhaoweicai/mscnn, box_output_layer.cpp)
    """

    num_bottoms = (1, None)
    num_tops = (1, 2)

    @property
    def settings(self) -> Any:
        return self.added.box_output_param

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, count = self.settings, len(bottoms)
        if {len(p.field_w), len(p.field_h), len(p.downsample_rate)} != {count}:
            raise self.error(f"expected a field_w, field_h and downsample_rate per bottom ({count})")
        if any(len(shape) != 4 or shape[1] < 6 or shape[0] != bottoms[0][0] for shape in bottoms):
            raise self.error(f"expected bottoms (N, 2 or more classes + 4, H, W), found shapes {bottoms}")
        self.statistics()
        return ((1, 5, 1, 1), (1, 6, 1, 1))[: self.top_count]

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p, rows = self.settings, []
        for item in range(len(bottoms[0])):
            found = [self.candidates(bottom[item], index) for index, bottom in enumerate(bottoms)]
            boxes, scores = (np.concatenate(each) for each in zip(*found, strict=True))
            at = np.arange(len(scores))[::-1]  # of two with one score the later one goes first
            order = at[np.argsort(-scores[at], kind="stable")][: p.max_nms_num or None]
            left = list(suppress(boxes, order, p.iou_thr))[: p.max_post_nms_num or None]
            rows += [(item, *boxes[index], scores[index]) for index in left]
        with_scores = np.array(rows, np.float32) if rows else np.zeros((1, 6), np.float32)
        plain = with_scores[:, :5] if rows else np.array([[0, 1, 1, 10, 10]], np.float32)
        return [part[:, :, None, None] for part in (plain, with_scores)[: self.top_count]]

    def candidates(self, bottom: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and scores of a map that are likely and large enough."""
        p, (mean, deviation) = self.settings, self.statistics()
        stride, field = p.downsample_rate[index], np.array([p.field_w[index], p.field_h[index]], np.float32)
        flat = bottom.reshape(len(bottom), -1)
        score = flat[1:-4].max(0) - flat[0]
        deltas = flat[-4:].T * deviation + mean
        shift, growth = 1 / p.field_xyr, math.log(p.field_whr)
        y, x = np.indices(bottom.shape[1:]).reshape(2, -1)
        center = np.clip(deltas[:, :2], -shift, shift) * field + (np.stack([x, y], 1) + 0.5) * stride
        size = field * np.exp(np.clip(deltas[:, 2:], -growth, growth))
        corner = np.maximum(center - size / 2, 0)
        size = np.minimum(size, np.array(bottom.shape[:0:-1]) * stride - corner)
        kept = (size >= p.min_size).all(1) & (score >= np.float32(p.fg_thr))
        return np.concatenate([corner, corner + size], 1)[kept].astype(np.float32), score[kept]


@layer("FrcnnOutput", dialect="cascade")
class FrcnnOutput(Computed, Regression):
    """Detections [n, 7] of item, box, class and score: moved regions above conf_thr, after suppression in each class.

    Bottoms: probabilities [R, classes], deltas, regions [R, 5 or 6], the image's height and width. A row of -1 goes
    before them. Files are not written. (zhaoweicai/cascade-rcnn, frcnn_output_layer.cpp)
    """

    num_bottoms = (4, 4)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, deltas, rois, _ = bottoms
        if min(map(len, (scores, deltas, rois))) < 2:
            raise self.error(f"expected probabilities, deltas and regions of 2 axes or more, found shapes {bottoms}")
        width = 4 * scores[1] if self.added.bbox_reg_param.cls_aware else 8
        if deltas[:2] != (scores[0], width) or rois[0] != scores[0] or rois[1] not in (5, 6):
            raise self.error(f"expected probabilities, deltas of width {width} and regions, found shapes {bottoms}")
        self.statistics()
        return ((1, 7, 1, 1),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return np.full(bottoms[3], 600, np.float32) if bottom == 3 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p, aware = self.added.frcnn_output_param, self.added.bbox_reg_param.cls_aware
        scores, deltas, rois = (bottom.reshape(len(bottom), -1) for bottom in bottoms[:3])
        height, width = bottoms[3].ravel()[:2]
        rows: list[tuple[float, ...]] = []
        for index in range(1, scores.shape[1]):
            start = 4 * index if aware else 4
            boxes = self.decoded(deltas[:, start : start + 4], rois[:, 1:5])
            boxes[:, :2], boxes[:, 2:] = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], (width, height))
            own = scores[:, index]
            order = np.argsort(-own, kind="stable")
            left = suppress(boxes, order[own[order] >= np.float32(p.conf_thr)], p.iou_thr, extra=1)
            rows += [(0, *boxes[at], index, own[at]) for at in left]
        if p.max_det_num and len(rows) > p.max_det_num:
            best = sorted(range(len(rows)), key=lambda row: -rows[row][6])[: p.max_det_num]
            rows = sorted((rows[row] for row in best), key=lambda row: row[5])
        return (np.array([(0, -1, -1, -1, -1, -1, -1), *rows], np.float32)[:, :, None, None],)


@layer("HardMining", dialect="cascade")
class HardMining(Computed):
    """The rows of the bottoms behind the first whose score, bottom 0, is largest: num_roi_per_image of each image.

    Where an image has fewer, the best of the others' rest fill up num_image times as many.
    (zhaoweicai/cascade-rcnn, hard_mining_layer.cpp)
    """

    adds = cascade_pb2.LayerParameter
    num_bottoms = (2, None)
    num_tops = (1, None)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, counts = self.added.hard_mining_param, {shape[:1] for shape in bottoms}
        if len(bottoms) != self.top_count + 1 or len(counts) != 1 or bottoms[1][1:2] != (5,):
            raise self.error(
                f"expected scores (R), regions (R, 5) and one top for each bottom but the first: {bottoms}"
            )
        if not p.num_roi_per_image or not p.num_image:
            raise self.error("expected num_roi_per_image and num_image in hard_mining_param")
        kept = min(p.num_roi_per_image * p.num_image, bottoms[0][0])
        return tuple((kept, *(*shape[1:], 1, 1, 1)[:3]) for shape in bottoms[1:])

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.hard_mining_param
        shapes = self.tops_at_setup([bottom.shape for bottom in bottoms])
        image = bottoms[1].reshape(len(bottoms[1]), -1)[:, 0].astype(int)
        at = np.arange(len(image))[::-1]  # of two with one score the later one goes first
        order = at[np.argsort(-bottoms[0].ravel()[at], kind="stable")]
        first = np.concatenate([order[image[order] == item][: p.num_roi_per_image] for item in range(p.num_image)])
        rest = order[~np.isin(order, first)]
        kept = np.sort(np.concatenate([first, rest[: shapes[0][0] - len(first)]]))
        return [bottom[kept].reshape(shape) for bottom, shape in zip(bottoms[1:], shapes, strict=True)]


@layer("DetectionEvaluate", dialect="cascade")
class GroupDetectionEvaluate(Computed):
    """Rows [image, label, score, true, false positive] of detections [n, 7] against true boxes [m, 8].

    First a row [-1, label, true boxes, -1, -1] per class; top [classes + detections, 5]. The sizes of
    name_size_file, which only change how much larger than its corners a box is, are not read.
    (zhaoweicai/cascade-rcnn, detection_evaluate_layer.cpp)
    """

    adds = cascade_pb2.LayerParameter
    num_bottoms = (3, 3)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if [shape[1:2] for shape in bottoms] != [(7,), (8,), (2,)]:
            raise self.error(f"expected bottoms (n, 7), (m, 8) and (N, 2), found shapes {bottoms}")
        p = self.added.detection_evaluate_param
        if not p.num_classes:
            raise self.error("expected num_classes in detection_evaluate_param, found none")
        return ((p.num_classes - 1 + bottoms[0][0], 5, 1, 1),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.detection_evaluate_param
        found, true = (bottom.reshape(len(bottom), -1) for bottom in bottoms[:2])
        found, true = found[found[:, 5] != -1], true[true[:, 0] != -1]
        counted = true if p.evaluate_difficult_gt else true[true[:, 7] == 0]
        rows = [(-1, label, (counted[:, 5] == label).sum(), -1, -1) for label in range(1, p.num_classes)]
        for image, label in sorted({(int(row[0]), int(row[5])) for row in found}):
            own = found[(found[:, 0] == image) & (found[:, 5] == label)]
            truth = true[(true[:, 0] == image) & (true[:, 5] == label)]
            own = own[np.argsort(-own[:, 6], kind="stable")] if len(truth) else own
            table = overlaps(own[:, 1:5], truth[:, 1:5], 1)
            rows += [(image, label, *verdict) for verdict in self.verdicts(own[:, 6], table, truth[:, 7] != 0)]
        return (np.array(rows, np.float32)[:, :, None, None],)

    def verdicts(self, scores: np.ndarray, table: np.ndarray, difficult: np.ndarray) -> list[tuple[float, int, int]]:
        """Return score, whether it is a true positive, and whether a false one, of one image's boxes of one class."""
        p = self.added.detection_evaluate_param
        seen: set[int] = set()
        result = []
        for score, row in zip(scores, table, strict=True):
            best = int(row.argmax()) if len(row) else -1
            if best < 0 or row[best] < np.float32(p.overlap_threshold):
                result.append((score, 0, 1))
            elif difficult[best] and not p.evaluate_difficult_gt:
                result.append((score, 0, 0))
            else:
                result.append((score, int(best not in seen), int(best in seen)))
                seen.add(best)
        return result
