"""YOLO's losses and outputs, of its three versions."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from caffestat.errors import Place
from caffestat.lazy import np
from caffestat.schema.forks import yolo_pb2

from ..base import Layer, Shape, layer
from .darknet import DIOU, MSE, intersection_over_union, keep_best, overlap, overlap_within, pull_of_overlap
from .evaluated import EvaluatedLoss
from .squash import sigmoid, softmax
from .staged import Computed

__all__ = [
    "DetectionEvaluateOfYolov2",
    "DetectionLoss",
    "DetectionOutputOfYolov2",
    "EvalDetection",
    "EvalDetectionOfIntel",
    "EvalDetectionOfYolov2",
    "GaussianYolov3",
    "RegionLoss",
    "RegionLossOfIntel",
    "RegionLossOfMobilenet",
    "YoloDetectionOutput",
    "Yolov3",
    "Yolov3DetectionOutput",
]

BOX = 4  # values of a box
WARM_UP = 12800  # images until which anchors are learned
OBJ, PROB, MULTIPLY = range(3)
ROW = 7  # values of a detection
LEAST_SCORE = 0.005  # of what EvalDetection looks at
FOCAL = 0.5
WIDENED = 0.3  # what is added to deviations
MOST_BOXES = 300  # in an image, of MobileNet-YOLO
FEW_BOXES = 30  # in an image, of caffe-yolov2
LEAST_BIASES = 10  # that MobileNet-YOLO reads
SSD_ROW = 8  # image, label, instance, x1, y1, x2, y2, difficult


def random_truth(items: int, boxes: int, classes: int, random: np.random.Generator) -> np.ndarray:
    """Return up to three true boxes an image: rows of label, x, y, width and height, [items, boxes, 5]."""
    truth = np.zeros((items, boxes, BOX + 1), np.float32)
    for item in truth:
        count = random.integers(1, min(boxes, 3) + 1)
        item[:count, 0] = random.integers(0, max(classes, 1), count)
        item[:count, 1:3] = random.uniform(0.2, 0.8, (count, 2))
        item[:count, 3:] = random.uniform(0.1, 0.4, (count, 2))
    return truth


@dataclass(frozen=True)
class _Grid:
    """What a map predicts: values [N, anchors, 5 + classes, H, W], and the anchors' sizes in cells [anchors, 2].

    Boxes are rows of x, y, width and height in parts of the image.
    """

    values: np.ndarray
    anchors: np.ndarray

    @property
    def cells(self) -> tuple[int, int]:
        """How many cells there are across and down."""
        return self.values.shape[4], self.values.shape[3]

    def boxes(self, centers: np.ndarray) -> np.ndarray:
        """Return the predicted boxes [N, anchors, H, W, 4]; centers [N, anchors, 2, H, W] within their cells."""
        wide, high = self.cells
        y, x = np.indices((high, wide))
        with np.errstate(over="ignore"):
            powers = np.exp(self.values[:, :, 2:4])
        sizes = powers * self.anchors[:, :, None, None] / np.array([wide, high])[:, None, None]
        places = [(x + centers[:, :, 0]) / wide, (y + centers[:, :, 1]) / high, sizes[:, :, 0], sizes[:, :, 1]]
        return np.stack(places, -1)

    def shapes(self) -> np.ndarray:
        """Return boxes of the anchors' sizes around 0, [anchors, 4]."""
        return np.concatenate([np.zeros((len(self.anchors), 2)), self.anchors / np.array(self.cells)], 1)


def _pairs(biases: Sequence[float]) -> np.ndarray:
    return np.array(biases, float).reshape(-1, 2)


class _GridLoss(EvaluatedLoss):
    """A loss of a map [N, anchors · (5 + classes), H, W] and true boxes, rows of label, x, y, width and height."""

    adds = yolo_pb2.LayerParameter
    num_bottoms = (2, 2)
    most_boxes = MOST_BOXES
    values_without_classes = 5  # of an anchor beside its classes

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, x = self.settings, bottoms[0]
        values = self.values_without_classes + p.num_class
        if len(x) != 4 or not math.prod(x) or x[1] != p.num * values:
            raise self.error(f"expected a map of {p.num} x {values} channels, found shape {x}")
        self.check_truth(x, bottoms[1])
        self.check_anchors()
        return ((),) * self.top_count

    def check_truth(self, x: Shape, labels: Shape) -> None:
        """Raise NetError unless the true boxes have a shape that goes with the map's."""
        if len(labels) < 1 or labels[0] != x[0] or math.prod(labels[1:]) != self.most_boxes * (BOX + 1):
            wanted = f"({x[0]}, {self.most_boxes}, 5)"
            raise self.error(f"expected true boxes of shape {wanted} or as many values, found {labels}")

    def check_anchors(self) -> None:
        """Raise NetError unless there are sizes for all anchors."""
        if len(self.settings.biases) < 2 * self.settings.num:
            raise self.error(f"expected {2 * self.settings.num} biases, found {len(self.settings.biases)}")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        return random_truth(bottoms[0][0], self.most_boxes, self.settings.num_class, random).reshape(bottoms[1])

    def split(self, x: np.ndarray) -> np.ndarray:
        """Return the map as [N, anchors, 5 + classes, H, W]."""
        return x.reshape(len(x), self.settings.num, -1, *x.shape[2:]).astype(float)

    def truths(self, labels: np.ndarray, cells: tuple[int, int]) -> Iterator[tuple[int, int, np.ndarray, int, int]]:
        """Yield image, label, box and cell (row, column) of each true box, up to the first without a width."""
        for image, rows in self.rows(labels, end=3):
            for row in rows:
                column, line = int(row[1] * cells[0]), int(row[2] * cells[1])
                if not (0 <= column < cells[0] and 0 <= line < cells[1]):
                    raise self.error(f"expected centers of true boxes within the image, found {row[1]:g}, {row[2]:g}")
                self.check_label(row[0])
                yield image, int(row[0]), row[1:].astype(float), line, column

    def rows(self, labels: np.ndarray, end: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield images and their true boxes [n, 5], those before the first whose value at `end` is 0."""
        for image, rows in enumerate(labels.reshape(len(labels), -1, BOX + 1)):
            ends = np.flatnonzero(rows[:, end] == 0)
            yield image, rows[: ends[0]] if ends.size else rows

    def check_label(self, label: float) -> None:
        """Raise NetError for the label of a true box that is none of the classes."""
        if not 0 <= label < max(self.settings.num_class, 1):
            raise self.error(f"expected labels of 0 to {self.settings.num_class - 1}, found {label:g}")

    def best(self, boxes: np.ndarray, labels: np.ndarray, kind: int) -> np.ndarray:
        """Return how much predicted boxes [N, anchors, H, W, 4] overlap the true box that they overlap most."""
        found = np.zeros(boxes.shape[:-1])
        for image, rows in self.rows(labels, end=1):
            for row in rows:
                found[image] = np.fmax(found[image], self.measure(boxes[image], row[1:].astype(float), kind))
        return found

    def measure(self, boxes: np.ndarray, box: np.ndarray, kind: int) -> np.ndarray:
        """Return how much boxes overlap a true one."""
        return overlap(boxes, box, kind)


# ---- version 1 -------------------------------------------------------------------------------------------------------


def _check_counts(layer: Layer, bottoms: Sequence[Shape], wanted: Sequence[int]) -> None:
    """Raise NetError unless the items of the bottoms have these numbers of values."""
    for shape, count in zip(bottoms, wanted, strict=False):
        if not shape or not shape[0] or shape[0] != bottoms[0][0] or math.prod(shape[1:]) != count:
            raise layer.error(f"expected bottoms with {' and '.join(map(str, wanted))} values an item, found {bottoms}")


def _cell_boxes(x: np.ndarray, p: Any) -> np.ndarray:
    """Return the boxes that coordinates [..., 4, side²] mean, as [..., side², 4]."""
    boxes = np.moveaxis(x, -2, -1).copy()
    cell = np.arange(p.side**2)
    if p.constriant:
        boxes[..., 0] = (cell % p.side + boxes[..., 0]) / p.side
        boxes[..., 1] = (cell // p.side + boxes[..., 1]) / p.side
    if p.sqrt:
        boxes[..., 2:] **= 2
    return boxes


@dataclass(frozen=True)
class _CellTruth:
    """True objects of version 1's cells: whether they are difficult, whether there is one, its label and its box."""

    difficult: np.ndarray
    is_object: np.ndarray
    label: np.ndarray
    box: np.ndarray

    @classmethod
    def read(cls, values: np.ndarray, cells: int) -> _CellTruth:
        """Read what a row of 7 · cells values says."""
        parts = values[: 3 * cells].reshape(3, cells)
        return cls(parts[0] == 1, parts[1] != 0, parts[2].astype(int), values[3 * cells :].reshape(cells, BOX))


def _cell_truth(shape: Shape, p: Any, random: np.random.Generator) -> np.ndarray:
    """Return plausible values of version 1's labels: one object an image."""
    cells = p.side**2
    values = np.zeros((shape[0], 7 * cells), np.float32)
    for row in values:
        at = random.integers(0, cells)
        row[cells + at], row[2 * cells + at] = 1, random.integers(0, p.num_class)
        place = (np.array([at % p.side, at // p.side]) + random.uniform(0, 1, 2)) / p.side
        row[3 * cells + at * BOX :][:BOX] = [*place, *random.uniform(0.1, 0.5, 2)]
    return values.reshape(shape)


@layer("DetectionLoss", dialect="yolov1")
class DetectionLoss(EvaluatedLoss):
    """YOLO's first loss: squares of classes, objects and boxes of cells with an object, of no objects elsewhere.

    Bottoms: class_num · side² classes, num_object · side² confidences and num_object · 4 · side² coordinates an item;
    difficult, object, label and box of each cell, 7 · side². Of a cell's boxes the one that overlaps the true box most
    is responsible. Each sum is divided by the number of objects (or of other confidences); dx is not: it is the
    difference times its scale times dy / N, of confidences that of the overlap.
    (yeahkun/caffe-yolo, detection_loss_layer.cpp; Redmon et al. 2016)
    """

    adds = yolo_pb2.FirstLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.detection_loss_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        _check_counts(self, bottoms, (p.side**2 * (p.num_class + 5 * p.num_object), p.side**2 * 7))
        return ((),) * self.top_count

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return _cell_truth(bottoms[1], self.settings, random) if bottom else None

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, items = self.settings, len(bottoms[0])
        cells, objects = p.side**2, p.num_object
        x = bottoms[0].reshape(items, -1).astype(float)
        slope = np.zeros_like(x)
        sums, count = np.zeros(4), 0  # classes, boxes, objects, no objects
        for row, pull, labels in zip(x, slope, bottoms[1].reshape(items, -1), strict=True):
            truth = _CellTruth.read(labels, cells)
            at = np.flatnonzero(truth.is_object)
            if at.size and not 0 <= truth.label[at].min() <= truth.label[at].max() < p.num_class:
                raise self.error(f"expected labels of 0 to {p.num_class - 1}, found {truth.label[at].max()}")
            classes, confidences, coordinates = np.split(row, [p.num_class * cells, (p.num_class + objects) * cells])
            parts = np.split(pull, [p.num_class * cells, (p.num_class + objects) * cells])
            confidence, pulls = confidences.reshape(objects, cells), parts[1].reshape(objects, cells)
            pulls[:] = p.noobject_scale * confidence
            sums[3] += p.noobject_scale * (confidence**2).sum()
            count += len(at)
            error = classes.reshape(-1, cells)[:, at] - (np.arange(p.num_class)[:, None] == truth.label[at])
            parts[0].reshape(-1, cells)[:, at] = p.class_scale * error
            sums[0] += p.class_scale * (error**2).sum()
            boxes = _cell_boxes(coordinates.reshape(objects, BOX, cells), p)
            for cell in at:
                best, iou = self.responsible(boxes[:, cell], truth.box[cell].astype(float))
                sums[3] -= p.noobject_scale * confidence[best, cell] ** 2
                sums[2] += p.object_scale * (confidence[best, cell] - 1) ** 2
                pulls[best, cell] = p.object_scale * (confidence[best, cell] - iou)
                wanted = self.encoded(truth.box[cell].astype(float), int(cell))
                apart = coordinates.reshape(objects, BOX, cells)[best, :, cell] - wanted
                parts[2].reshape(objects, BOX, cells)[best, :, cell] = p.coord_scale * apart
                sums[1] += p.coord_scale * (apart**2).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = sums[:3].sum() / np.float64(count) + sums[3] / np.float64(cells * objects * items - count)
        return [loss], (slope / items).reshape(bottoms[0].shape)

    def responsible(self, boxes: np.ndarray, truth: np.ndarray) -> tuple[int, float]:
        """Return the box that is responsible for a true one, and how much it overlaps it."""
        ious = intersection_over_union(boxes, truth)
        if (ious > 0).any():
            return int(ious.argmax()), float(ious.max())
        apart = np.sqrt(((boxes - truth) ** 2).sum(1))
        return (int(apart.argmin()) if apart.min() < 20 else 0), 0.0

    def encoded(self, box: np.ndarray, cell: int) -> np.ndarray:
        """Return what the coordinates of a box in a cell should be."""
        p = self.settings
        found = box.copy()
        if p.constriant:
            found[:2] = box[:2] * p.side - [cell % p.side, cell // p.side]
        if p.sqrt:
            found[2:] = np.sqrt(box[2:])
        return found


@dataclass(frozen=True)
class _Found:
    """Predicted boxes of one image: labels, scores and boxes [n, 4], in the order in which they are judged."""

    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


class _EvalDetection(Computed):
    """Per image: how many true boxes each class has, then label, score, true and false positive of each prediction.

    Top [N, num_class + side² · num_object · 4]; what is not predicted is 0.
    """

    num_bottoms = (2, 3)
    judges_rest = False  # a prediction that overlaps too little is a false positive

    def measure(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return how much boxes overlap others."""
        return intersection_over_union(a, b)

    @property
    def settings(self) -> Any:
        return self.added.eval_detection_param

    def counts(self) -> tuple[int, int]:
        """Return how many values an image has in the map, and how many labels."""
        raise NotImplementedError

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless the shapes of predictions and labels fit."""
        _check_counts(self, bottoms, self.counts())

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        self.check(bottoms[:2])
        return ((bottoms[0][0], p.num_class + p.side**2 * p.num_object * 4),)

    def by_item(self, labels: np.ndarray, items: int) -> Iterable[np.ndarray]:
        """Return the values that tell the true boxes of each image."""
        return labels

    def truth(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels, boxes and which are difficult of the true boxes of an image."""
        raise NotImplementedError

    def predicted(self, x: np.ndarray) -> _Found:
        """Return the predictions for an image."""
        raise NotImplementedError

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.settings
        (shape,) = self.tops_at_setup([bottom.shape for bottom in bottoms])
        top = np.zeros(shape, np.float32)
        for row, x, labels in zip(top, bottoms[0], self.by_item(bottoms[1], len(top)), strict=True):
            label, box, difficult = self.truth(labels.ravel())
            if label.size and not 0 <= label.min() <= label.max() < p.num_class:
                raise self.error(f"expected labels of 0 to {p.num_class - 1}, found {label.max()}")
            np.add.at(row, label[~difficult], 1)
            rows = list(self.judged(self.predicted(x.astype(float)), label, box, difficult))
            row[p.num_class :][: 4 * len(rows)] = np.array(rows, np.float32).reshape(-1)
        return (top,)

    def judged(
        self, found: _Found, label: np.ndarray, box: np.ndarray, difficult: np.ndarray
    ) -> Iterator[tuple[float, ...]]:
        """Yield label, score, true and false positive of each prediction, by label."""
        seen: set[int] = set()
        for index in np.argsort(found.label, kind="stable"):
            of_label = np.flatnonzero(label == found.label[index])
            verdict = (0, 1)
            if of_label.size:
                ious = np.nan_to_num(self.measure(found.box[index], box[of_label]), nan=-1)
                best = int(of_label[ious.argmax()])
                verdict = (0, int(self.judges_rest))
                if ious.max() >= np.float32(self.settings.threshold):
                    verdict = (0, 0) if difficult[best] else (0, 1) if best in seen else (1, 0)
                    seen |= {best} - set(np.flatnonzero(difficult).tolist())
            yield (found.label[index], found.score[index], *verdict)

    def ranked(self, found: _Found) -> _Found:
        """Return the predictions, the best first: those that suppression leaves, or all where it is not asked for."""
        order = np.argsort(-found.score, kind="stable")
        if self.settings.nms >= 0:
            order = keep_best(found.box, found.score, self.settings.nms, self.measure)
        return _Found(found.label[order], found.score[order], found.box[order])

    def score(self, confidence: np.ndarray, probability: np.ndarray) -> np.ndarray:
        """Return the scores that score_type asks for."""
        kind = self.settings.score_type
        return confidence if kind == OBJ else probability if kind == PROB else confidence * probability


@layer("EvalDetection", dialect="yolov1")
class EvalDetection(_EvalDetection):
    """Verdicts about predictions of YOLO's first version: how many true boxes each class has, then label, score, true
    and false positive of each prediction, difficult ones aside.

    Top [N, num_class + side² · num_object · 4]; what is not predicted is 0.
    (yeahkun/caffe-yolo, eval_detection_layer.cpp)
    """

    adds = yolo_pb2.FirstLayerParameter
    judges_rest = True

    def counts(self) -> tuple[int, int]:
        p = self.settings
        return p.side**2 * (p.num_class + 5 * p.num_object), p.side**2 * 7

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return _cell_truth(bottoms[1], self.settings, random) if bottom == 1 else None

    def truth(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        truth = _CellTruth.read(labels, self.settings.side**2)
        at = np.flatnonzero(truth.is_object)
        return truth.label[at], truth.box[at].astype(float), truth.difficult[at]

    def predicted(self, x: np.ndarray) -> _Found:
        p, cells = self.settings, self.settings.side**2
        classes, confidence, coordinates = np.split(
            x.ravel(), [p.num_class * cells, (p.num_class + p.num_object) * cells]
        )
        classes = classes.reshape(-1, cells)
        label, probability = classes.argmax(0), classes.max(0)
        boxes = _cell_boxes(coordinates.reshape(p.num_object, BOX, cells), p)
        score = self.score(confidence.reshape(-1, cells), probability)
        score = np.broadcast_to(score, (p.num_object, cells))
        labels = np.broadcast_to(label, score.shape)
        return self.ranked(_Found(labels.T.ravel(), score.T.ravel(), boxes.transpose(1, 0, 2).reshape(-1, BOX)))


# ---- version 2 -------------------------------------------------------------------------------------------------------


class _RegionLoss(_GridLoss):
    """What the kinds of RegionLoss share."""

    @property
    def settings(self) -> Any:
        return self.added.region_loss_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if p.softmax_tree or p.class_map:
            raise self.error("softmax_tree and class_map: files of classes are not read; remove them")
        if p.coords != BOX:
            raise self.error(f"expected {BOX} coords, found {p.coords}")
        return super().tops(bottoms)

    def of_object(self, iou: float, confidence: float) -> float:
        """Return what the confidence of a responsible box should be."""
        return 1.0

    def box_scale(self, box: np.ndarray) -> float:
        return float(self.settings.coord_scale)

    def learns_anchors(self, items: int) -> bool:
        """Tell whether boxes without an object are pulled to their anchor."""
        return False

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, x = self.settings, self.split(bottoms[0])
        grid = _Grid(x, _pairs(p.biases)[: p.num])
        centers, confidence, classes = sigmoid(x[:, :, :2]), sigmoid(x[:, :, 4]), softmax(x[:, :, 5:], 2)
        boxes, pull = grid.boxes(centers), np.zeros_like(x)
        steep = confidence * (1 - confidence)
        no_object = self.best(boxes, bottoms[1], MSE) <= np.float32(p.thresh)
        pull[:, :, 4] = np.where(no_object, p.noobject_scale * confidence * steep, 0)
        if self.learns_anchors(len(x)):
            pull[:, :, :2] = 0.01 * (centers - 0.5) * centers * (1 - centers)
            pull[:, :, 2:4] = 0.01 * x[:, :, 2:4]
        for image, label, box, line, column in self.truths(bottoms[1], grid.cells):
            at = (image, self.matched(grid, boxes[image, :, line, column], box), slice(None), line, column)
            n = at[1]
            iou = float(intersection_over_union(boxes[image, n, line, column], box))
            with np.errstate(divide="ignore"):
                sizes = np.log(box[2:] * grid.cells / grid.anchors[n])
            wanted = np.concatenate([box[:2] * grid.cells - [column, line], sizes])
            near, scale = centers[at], self.box_scale(box)
            pull[at][:2] = scale * self.limited(near - wanted[:2]) * near * (1 - near)
            pull[at][2:4] = scale * self.limited(x[at][2:4] - wanted[2:])
            sure = confidence[image, n, line, column]
            pull[at][4] = -p.object_scale * (self.of_object(iou, sure) - sure) * sure * (1 - sure)
            pull[at][5:] = p.class_scale * (classes[at] - (np.arange(p.num_class) == label))
        return [self.loss(pull, len(x))], (pull / len(x)).reshape(bottoms[0].shape)

    def limited(self, apart: np.ndarray) -> np.ndarray:
        """Return the differences of a box from the true one as they pull it."""
        return apart

    def loss(self, pull: np.ndarray, items: int) -> float:
        return float((pull**2).sum())

    def matched(self, grid: _Grid, boxes: np.ndarray, box: np.ndarray) -> int:
        """Return the anchor whose size overlaps a true box most; without bias_match the predicted size."""
        shapes = grid.shapes() if self.settings.bias_match else np.concatenate([0 * boxes[:, :2], boxes[:, 2:]], 1)
        return int(np.nan_to_num(self.measure(shapes, np.array([0, 0, *box[2:]]), MSE)).argmax())


@layer("RegionLoss", dialect="yolo")
class RegionLoss(_RegionLoss):
    """y = Σ pull², dx = pull · dy / N: YOLO's second loss, whose pulls are the differences times scales and slopes.

    Bottoms: a map [N, num · (5 + num_class), H, W] and 30 true boxes an image, rows of label, x, y, width and height,
    up to the first without a width. A true box pulls the anchor of its size in its cell; other confidences are pulled
    to 0 unless the box overlaps a true one by more than thresh, within the image. In the first 12800 images all boxes
    are pulled to their anchors too. (gklz1982/caffe-yolov2, region_loss_layer.cpp; Redmon, Farhadi 2017)
    """

    most_boxes = FEW_BOXES

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and {"AnnotatedData", "YoloAnnotatedData"}.isdisjoint(types)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.earlier = [0]  # passes

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, x = self.settings, bottoms[0]
        if len(x) == 4 and (x[2], x[3]) != (p.side, p.side):
            raise self.error(f"expected a map of {p.side} x {p.side} (side), found shape {x}")
        if p.num != 5:
            raise self.error(f"expected num: 5, for which the reference reads whole boxes, found {p.num}")
        return super().tops(bottoms)

    def measure(self, boxes: np.ndarray, box: np.ndarray, kind: int) -> np.ndarray:
        return overlap_within(boxes, box)

    def learns_anchors(self, items: int) -> bool:
        self.earlier[0] += 1
        return self.earlier[0] - 1 < WARM_UP // items


@layer("RegionLoss", dialect="mobilenet-yolo")
class RegionLossOfMobilenet(_RegionLoss):
    """y = Σ pull² / N, dx = pull · dy / N: YOLO's second loss, whose pulls are the differences times scales and slopes.

    Bottoms: a map [N, num · (5 + num_class), H, W] and 300 true boxes an image, rows of label, x, y, width and height,
    up to the first without a width. A true box pulls the anchor of its size in its cell, with rescore its confidence to
    the overlap, else to 1 and its box 2 - width · height times as much; other confidences are pulled to 0 unless the
    box overlaps a true one by more than thresh. The first values of a map with more lines than columns are read as
    those of a square one, and fewer lines stop the reference. (eric612/MobileNet-YOLO, region_loss_layer.cpp)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and "BoxData" not in types

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        tops, (_, _, height, width) = super().tops(bottoms), bottoms[0]
        if height < width:
            raise self.error(f"expected a map with at least as many lines as columns, found shape {bottoms[0]}")
        return tops

    def departs(self, bottoms: Sequence[Shape]) -> str:
        _, _, height, width = bottoms[0]
        return (
            "" if height == width else f"its {height} x {width} maps are read as if they had {width} x {width} values"
        )

    def check_anchors(self) -> None:
        super().check_anchors()
        if len(self.settings.biases) < LEAST_BIASES:
            raise self.error(f"expected {LEAST_BIASES} biases or more, without which all are 0")

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        n, channels, _, width = bottoms[0].shape
        flat = bottoms[0].reshape(n, -1)
        used = channels * width**2
        square = flat[:, :used].reshape(n, channels, width, width)
        losses, slope = super().evaluate([square, *bottoms[1:]], random)
        slopes = np.zeros(flat.shape)
        slopes[:, :used] = slope.reshape(n, -1)
        return losses, slopes.reshape(bottoms[0].shape)

    def of_object(self, iou: float, confidence: float) -> float:
        return iou if self.settings.rescore else 1.0

    def box_scale(self, box: np.ndarray) -> float:
        scale = float(self.settings.coord_scale)
        return scale if self.settings.rescore else scale * (2 - box[2] * box[3])

    def loss(self, pull: np.ndarray, items: int) -> float:
        return super().loss(pull, items) / items


@layer("RegionLoss", dialect="intel")
class RegionLossOfIntel(_RegionLoss):
    """y = Σ pull², dx = pull · dy / N: YOLO's second loss, whose pulls are limited differences times scales and slopes.

    Bottoms: a map [N, num · (5 + num_class), H, W] and SSD's true boxes [1, 1, boxes, 8]. A true box pulls the anchor
    of its size in its cell: its values by at most their scale, its confidence p by 2 (1 - p)³; other confidences are
    pulled to 0 unless the box overlaps a true one by more than thresh. (intel/caffe, region_loss_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, x = self.settings, bottoms[0]
        if len(x) == 4 and (x[2], x[3]) != (p.side, p.side):
            raise self.error(f"expected a map of {p.side} x {p.side} (side), found shape {x}")
        return super().tops(bottoms)

    def check_truth(self, x: Shape, labels: Shape) -> None:
        _check_ssd(self, labels)

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        if bottoms[1].size and (last := bottoms[1].reshape(-1, SSD_ROW)[:, 0].max()) >= len(bottoms[0]):
            raise self.error(f"expected true boxes of images 0 to {len(bottoms[0]) - 1}, found one of {last:g}")
        return super().evaluate(bottoms, random)

    def check_label(self, label: float) -> None:
        """Let all pass: a label that is no class pulls all of them to 0."""

    def rows(self, labels: np.ndarray, end: int) -> Iterator[tuple[int, np.ndarray]]:
        return _by_image(labels)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return _random_ssd(bottoms, self.settings.num_class, random) if bottom else None

    def of_object(self, iou: float, confidence: float) -> float:
        return confidence + 2 * (1 - confidence) ** 3

    def limited(self, apart: np.ndarray) -> np.ndarray:
        return np.clip(apart, -1, 1)


def _check_ssd(layer: Layer, labels: Shape) -> None:
    """Raise NetError unless true boxes have the shape of SSD's."""
    if len(labels) != 4 or labels[:2] != (1, 1) or labels[3] != SSD_ROW:
        raise layer.error(f"expected true boxes of shape (1, 1, boxes, {SSD_ROW}), found {labels}")


def _by_image(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield images that have some of SSD's true boxes, and these as rows of label - 1, x, y, width and height."""
    rows = labels.reshape(-1, SSD_ROW).astype(float)
    corners = rows[:, 3:5], rows[:, 5:7]
    boxes = np.concatenate([rows[:, 1:2] - 1, (corners[0] + corners[1]) / 2, corners[1] - corners[0]], 1)
    for image in np.unique(rows[rows[:, 0] >= 0, 0]).astype(int):
        yield int(image), boxes[rows[:, 0] == image]


def _random_ssd(bottoms: Sequence[Shape], classes: int, random: np.random.Generator) -> np.ndarray:
    """Return plausible true boxes of SSD, of images in turn."""
    rows = np.zeros((bottoms[1][2], SSD_ROW), np.float32)
    rows[:, 0] = np.arange(len(rows)) % bottoms[0][0]
    rows[:, 1] = random.integers(1, max(classes, 1) + 1, len(rows))
    rows[:, 3:5] = random.uniform(0.1, 0.4, (len(rows), 2))
    rows[:, 5:7] = rows[:, 3:5] + random.uniform(0.1, 0.5, (len(rows), 2))
    return rows.reshape(bottoms[1])


@layer("EvalDetection", dialect="yolo")
class EvalDetectionOfYolov2(_EvalDetection):
    """Verdicts about predictions of YOLO's second version: how many true boxes each class has, then label, score, true
    and false positive of each prediction; neither where it overlaps the true boxes of its class too little.

    Without nms nothing is predicted. Boxes overlap within the image. Top [N, num_class + side² · num_object · 4]; what
    is not predicted is 0. (gklz1982/caffe-yolov2, eval_detection_layer.cpp)
    """

    adds = yolo_pb2.LayerParameter

    def measure(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return overlap_within(a, b)

    def counts(self) -> tuple[int, int]:
        p = self.settings
        return p.side**2 * p.num_object * (p.num_class + 5), FEW_BOXES * (BOX + 1)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 1:
            return None
        return random_truth(bottoms[0][0], FEW_BOXES, self.settings.num_class, random).reshape(bottoms[1])

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if p.num_object != 5 or len(p.biases) < 10:
            raise self.error(f"expected num_object: 5 and 10 biases, found {p.num_object} and {len(p.biases)}")
        tops = super().tops_at_setup(bottoms)
        if len(bottoms[0]) != 4 or bottoms[0][2:] != (p.side, p.side):
            raise self.error(f"expected a map of {p.side} x {p.side} (side), found shape {bottoms[0]}")
        return tops

    def truth(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = labels.reshape(-1, BOX + 1)
        ends = np.flatnonzero(rows[:, 1] == 0)
        rows = rows[: ends[0]] if ends.size else rows
        return rows[:, 0].astype(int), rows[:, 1:].astype(float), np.zeros(len(rows), bool)

    def predicted(self, x: np.ndarray) -> _Found:
        if self.settings.nms < 0:
            return _Found(np.zeros(0, int), np.zeros(0), np.zeros((0, BOX)))
        label, score, box = _predictions(x[None], 5, _pairs(self.settings.biases), self.score)
        found = self.ranked(_Found(label, score, box))
        kept = found.score >= LEAST_SCORE
        return _Found(found.label[kept], found.score[kept], found.box[kept])


@layer("EvalDetection", dialect="intel")
class EvalDetectionOfIntel(EvalDetectionOfYolov2):
    """Verdicts about predictions of YOLO's second version, as those of dialect yolo, by SSD's true boxes [1, 1, n, 8].

    Boxes of label 0 are left out; whole boxes overlap. (intel/caffe, eval_detection_layer.cpp)
    """

    def measure(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return intersection_over_union(a, b)

    def check(self, bottoms: Sequence[Shape]) -> None:
        _check_counts(self, bottoms[:1], self.counts())
        _check_ssd(self, bottoms[1])

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return _random_ssd(bottoms, self.settings.num_class, random) if bottom == 1 else None

    def by_item(self, labels: np.ndarray, items: int) -> Iterable[np.ndarray]:
        found = dict(_by_image(labels))
        none = np.zeros((0, BOX + 1))
        return (rows[rows[:, 0] >= 0] for rows in (found.get(item, none) for item in range(items)))

    def truth(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = labels.reshape(-1, BOX + 1)
        return rows[:, 0].astype(int), rows[:, 1:], np.zeros(len(rows), bool)


def _predictions(
    x: np.ndarray, count: int, anchors: np.ndarray, score: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return label, score and box of each prediction of version 2: by image, cell and anchor."""
    values = x.reshape(len(x), count, -1, *x.shape[2:])
    grid = _Grid(values, anchors[:count])
    classes = np.moveaxis(softmax(values[:, :, 5:], 2), (3, 4), (1, 2))
    confidence = np.moveaxis(sigmoid(values[:, :, 4]), 1, -1)
    boxes = np.moveaxis(grid.boxes(sigmoid(values[:, :, :2])), 1, 3)
    scores = score(confidence, classes.max(-1))
    return classes.argmax(-1).ravel(), scores.ravel(), boxes.reshape(-1, BOX)


class _Detections(Computed):
    """Rows [1, 1, n, 7] of image, label, score and box; a label below 0 where nothing is found."""

    adds = yolo_pb2.LayerParameter

    def summary(self, bottoms: Sequence[Shape]) -> str:
        assert self.decisions
        return f"finds {int((self.decisions[0][0, 0, :, 1] >= 0).sum())} boxes in this batch"


@layer("DetectionOutput", dialect="yolo")
class DetectionOutputOfYolov2(_Detections):
    """Detections of YOLO's second version in one image: rows [0, label, score, x, y, width, height].

    The score is confidence times the most likely class's. A box suppresses those of later cells that it overlaps by
    nms_threshold within the image, whatever their scores. Top [1, 1, rows, 7]; a row [0, -1, …] where nothing is found.
    (gklz1982/caffe-yolov2, detection_output_layer.cpp)
    """

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, x = self.added.detection_output_param, bottoms[0]
        wanted = (1, p.num_box * (5 + p.num_classes), p.side, p.side)
        if x != wanted or len(p.biases) < 2 * p.num_box:
            found = f"found {x} and {len(p.biases)}"
            raise self.error(f"expected a map of shape {wanted}, one image, and {2 * p.num_box} biases, {found}")
        return ((1, 1, 1, ROW),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.detection_output_param
        label, score, box = _predictions(bottoms[0].astype(float), p.num_box, _pairs(p.biases), np.multiply)
        enough = score >= np.float32(p.confidence_threshold)
        label, score, box = label[enough], score[enough], box[enough]
        kept = keep_best(box, np.zeros(len(box)), p.nms_threshold, overlap_within)
        rows = np.concatenate([0 * score[kept, None], label[kept, None], score[kept, None], box[kept]], 1)
        found = rows if len(rows) else np.array([[0.0, *[-1] * (ROW - 1)]])
        return (found.astype(np.float32).reshape(1, 1, -1, ROW),)


@layer("DetectionEvaluate", dialect="yolo")
class DetectionEvaluateOfYolov2(Computed):
    """Rows [0, label, score, true, false positive] of detections [1, 1, n, 7] against 30 true boxes [1, 150].

    First a row [-1, label, true boxes, -1, -1] per class: top [1, 1, classes + detections, 5]. Boxes overlap within the
    image. (gklz1982/caffe-yolov2, detection_evaluate_layer.cpp)
    """

    adds = yolo_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (found, labels) = self.added.detection_evaluate_param, bottoms
        if found[:2] != (1, 1) or found[3:] != (ROW,) or not labels or labels[0] != 1:
            raise self.error(f"expected detections (1, 1, n, {ROW}) and true boxes of one image, found {bottoms}")
        if math.prod(labels) != FEW_BOXES * (BOX + 1) or not p.num_classes:
            raise self.error(f"expected num_classes and {FEW_BOXES} true boxes of 5 values, found shape {labels}")
        return ((1, 1, p.num_classes + found[2], 5),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 1:
            return None
        return random_truth(1, FEW_BOXES, self.added.detection_evaluate_param.num_classes, random).reshape(bottoms[1])

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.detection_evaluate_param
        found, true = bottoms[0].reshape(-1, ROW), bottoms[1].reshape(-1, BOX + 1)
        ends = np.flatnonzero(true[:, 3] == 0)
        true = true[: ends[0]] if ends.size else true
        rows: list[tuple[float, ...]] = [(-1, c, (true[:, 0] == c).sum(), -1, -1) for c in range(p.num_classes)]
        for label in np.unique(found[found[:, 1] != -1, 1]):
            own, truth = found[found[:, 1] == label], true[true[:, 0] == label, 1:].astype(float)
            own = own[np.argsort(-own[:, 2], kind="stable")] if len(truth) else own
            seen: set[int] = set()
            for row in own:
                shares = overlap_within(row[3:].astype(float), truth)
                best = int(shares.argmax()) if len(truth) else -1
                right = best >= 0 and best not in seen and shares[best] >= np.float32(p.overlap_threshold)
                seen |= {best} if right else set()
                rows.append((0, label, row[2], int(right), int(not right)))
        return (np.array(rows, np.float32).reshape(1, 1, -1, 5),)


class _Output(_Detections):
    """Rows [0, label + 1, score, x1, y1, x2, y2] of what suppression leaves, all images and classes together.

    Top [1, 1, rows, 7]; a row of -1 per image where nothing is found.
    """

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def found(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return label, score and box of all predictions."""
        raise NotImplementedError

    def is_enough(self, scores: np.ndarray) -> np.ndarray:
        """Tell which scores count."""
        raise NotImplementedError

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if not p.HasField("num_classes"):
            raise self.error("expected num_classes, found none")
        for shape in bottoms:
            if len(shape) != 4 or not math.prod(shape) or shape[1] != p.num_box * (5 + p.num_classes):
                raise self.error(f"expected a map of {p.num_box} x {5 + p.num_classes} channels, found shape {shape}")
        return ((1, 1, 1, ROW),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        label, score, box = self.found([bottom.astype(float) for bottom in bottoms])
        enough = self.is_enough(score)
        label, score, box = label[enough], score[enough], box[enough]
        kept = keep_best(box, score, self.settings.nms_threshold)
        if not kept.size:
            rows = np.full((len(bottoms[0]), ROW), -1.0)
            rows[:, 0] = np.arange(len(rows))
            return (rows.astype(np.float32).reshape(1, 1, -1, ROW),)
        corners = np.concatenate([box[kept, :2] - box[kept, 2:] / 2, box[kept, :2] + box[kept, 2:] / 2], 1)
        rows = np.concatenate([np.zeros((len(kept), 1)), label[kept, None] + 1, score[kept, None], corners], 1)
        return (rows.astype(np.float32).reshape(1, 1, -1, ROW),)


@layer("YoloDetectionOutput", dialect="mobilenet-yolo")
class YoloDetectionOutput(_Output):
    """Detections of YOLO's second version: rows [0, label + 1, score, x1, y1, x2, y2] that suppression leaves.

    The score is confidence times the most likely class's. Classes and images suppress each other. Of a map as many
    lines count as it has columns, and fewer stop the reference. (eric612/MobileNet-YOLO,
    yolo_detection_output_layer.cpp)
    """

    num_bottoms = (1, 2)

    @property
    def settings(self) -> Any:
        return self.added.yolo_detection_output_param

    def is_enough(self, scores: np.ndarray) -> np.ndarray:
        return scores >= np.float32(self.settings.confidence_threshold)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if len(p.biases) < 2 * p.num_box:
            raise self.error(f"expected {2 * p.num_box} biases, found {len(p.biases)}")
        tops = super().tops_at_setup(bottoms)
        for shape in bottoms:
            if shape[2] < shape[3]:
                raise self.error(f"expected a map with as many lines as columns, found shape {shape}")
        return tops

    def found(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = self.settings
        square = [x[:, :, : x.shape[3]] for x in bottoms]
        parts = [_predictions(x, p.num_box, _pairs(p.biases), np.multiply) for x in square]
        label, score, box = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return label, score, box


# ---- version 3 -------------------------------------------------------------------------------------------------------


@layer("Yolov3", dialect="mobilenet-yolo")
class Yolov3(_GridLoss):
    """y = Σ pull² / N, dx = pull · dy / N: YOLO's third loss; with an iou_loss boxes are pulled by their overlap.

    Bottoms: a map [N, num · (5 + num_class), H, W] and 300 true boxes an image, rows of label, x, y, width and height,
    up to the first without a width. A true box pulls the anchor of its size in its cell, if `mask` has it, and others
    that overlap it by more than iou_thresh; other confidences are pulled to 0 unless the box overlaps a true one by
    more than thresh. use_logic_gradient multiplies pulls with the slopes of the sigmoids. With an iou_loss y counts
    1 - overlap in place of the pulls of boxes. (eric612/MobileNet-YOLO, yolov3_layer.cpp; Redmon, Farhadi 2018)
    """

    means: ClassVar[Sequence[int]] = (0, 1, 2, 3)  # where x, y, width and height are among an anchor's values
    plain: ClassVar[Sequence[int]] = (2, 3)  # values that the sigmoid is not applied to

    @property
    def settings(self) -> Any:
        return self.added.yolov3_param

    @property
    def kind(self) -> int:
        """How overlaps are measured."""
        return int(self.settings.iou_loss)

    @property
    def counts_boxes(self) -> bool:
        """Whether y counts the pulls of boxes, in place of their overlaps."""
        return self.kind == MSE

    def check_anchors(self) -> None:
        p = self.settings
        if len(p.mask) < p.num or not p.biases or len(p.biases) % 2 or max(p.mask) >= len(p.biases) // 2:
            found = f"{list(p.mask)} and {len(p.biases)}"
            raise self.error(f"expected {p.num} numbers of anchors as mask, and biases for all, found {found}")
        if not p.anchors_scale:
            raise self.error("expected an anchors_scale of at least 1")

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, x, confidence = self.settings, self.split(bottoms[0]), self.values_without_classes - 1
        mask, sizes, plain = list(p.mask[: p.num]), _pairs(p.biases) / p.anchors_scale, list(self.plain)
        grid = _Grid(x[:, :, list(self.means)], sizes[mask])
        seen = sigmoid(x)
        seen[:, :, plain] = x[:, :, plain]
        boxes, pull = grid.boxes(seen[:, :, list(self.means[:2])]), np.zeros_like(x)
        no_object = self.best(boxes, bottoms[1], self.kind) <= np.float32(p.thresh)
        pull[:, :, confidence] = np.where(no_object, seen[:, :, confidence], 0)
        missed, count = 0.0, 0
        for image, label, box, line, column in self.truths(bottoms[1], grid.cells):
            for n in self.matched(_Grid(x, sizes).shapes(), box, mask):
                at = (image, n, slice(None), line, column)
                missed += 1 - self.pull_box(
                    pull[at], seen[at], boxes[image, n, line, column], box, grid, n, (line, column)
                )
                count += 1
                scale = p.object_scale if p.use_logic_gradient else 1
                pull[at][confidence] = -(1 - seen[at][confidence]) * scale
                self.pull_classes(pull[at][confidence + 1 :], seen[at][confidence + 1 :], label)
        if self.counts_boxes:
            loss = (pull**2).sum()
        else:
            loss = (pull[:, :, confidence:] ** 2).sum() + (p.iou_normalizer * missed / count if count else 0)
            seen[:, :, :confidence] = x[:, :, :confidence]
        if p.use_logic_gradient:
            steep = seen * (1 - seen)
            steep[:, :, plain] = 1
            pull *= steep
        return [loss / len(x)], (pull / len(x)).reshape(bottoms[0].shape)

    def matched(self, shapes: np.ndarray, box: np.ndarray, mask: Sequence[int]) -> list[int]:
        """Return the places in the mask of the anchors that a true box pulls."""
        p = self.settings
        ious = overlap(shapes, np.array([0, 0, *box[2:]]), self.kind)
        best = int(ious.argmax()) if ious.max() > 0 else -1
        found = []
        if best in mask:
            best = mask.index(best)  # the reference compares places with numbers from here on
            found.append(best)
        others = [n for n in range(len(shapes)) if n in mask and n != best and p.iou_thresh < 1]
        return found + [mask.index(n) for n in others if ious[n] > np.float32(p.iou_thresh)]

    def pull_box(
        self,
        pull: np.ndarray,
        seen: np.ndarray,
        predicted: np.ndarray,
        box: np.ndarray,
        grid: _Grid,
        n: int,
        cell: tuple[int, int],
    ) -> float:
        """Write the pulls of a box's four values; return how much it overlaps the true box."""
        p = self.settings
        if p.iou_loss == MSE:
            wanted = self.wanted(box, grid, n, cell)
            pull[:4] = p.coord_scale * (2 - box[2] * box[3]) * (seen[:4] - wanted)
            return float(intersection_over_union(predicted, box))
        more = pull_of_overlap(predicted, box, p.iou_loss)
        more[2:] *= np.exp(seen[2:4])
        more = np.nan_to_num(more * p.iou_normalizer, nan=0, posinf=0, neginf=0)
        more = np.clip(more, -p.max_delta, p.max_delta)
        pull[:4] = (pull[:4] if p.accumulate else 0) - more
        return float(overlap(predicted, box, p.iou_loss if p.iou_loss else DIOU))

    def wanted(self, box: np.ndarray, grid: _Grid, n: int, cell: tuple[int, int]) -> np.ndarray:
        """Return the four values of an anchor at a cell that make the box."""
        return np.concatenate([box[:2] * grid.cells - cell[::-1], np.log(box[2:] * grid.cells / grid.anchors[n])])

    def pull_classes(self, pull: np.ndarray, seen: np.ndarray, label: int) -> None:
        """Write the pulls of the classes of an anchor; of one that was pulled before, only that of the label."""
        p = self.settings
        is_label = np.arange(p.num_class) == label
        smooth = is_label * (1 - p.label_smooth_eps) + 0.5 * p.label_smooth_eps
        if pull[label]:
            pull[label] = -p.class_scale * (smooth[label] - seen[label])
        else:
            self.pull_all_classes(pull, seen, label, smooth)

    def pull_all_classes(self, pull: np.ndarray, seen: np.ndarray, label: int, wanted: np.ndarray) -> None:
        """Write the pulls of the classes: towards what is wanted, or those of the focal loss."""
        p = self.settings
        if p.use_focal_loss:
            sure = seen[label] + 1e-15
            slope = -(1 - sure) * (2 * sure * math.log(sure) + sure - 1)
            pull[:] = -p.class_scale * ((np.arange(p.num_class) == label) - seen) * FOCAL * slope
        else:
            pull[:] = -p.class_scale * (wanted - seen)


@layer("GaussianYolov3", dialect="mobilenet-yolo")
class GaussianYolov3(Yolov3):
    """y = (Σ pull² + iou_normalizer · mean (1 - overlap)) / N, dx = pull · dy / N: Yolov3 with boxes that are normal.

    Bottoms: a map [N, num · (9 + num_class), H, W], of an anchor x, y, width and height, each followed by its
    deviation s, and true boxes as Yolov3's. y counts the pulls of confidences and classes alone. A box is pulled along
    the gradient of log N(t; x, s) / 2, N's factor 1 / (s + 0.3). use_logic_gradient multiplies the pulls of boxes by
    x (1 - x) of the values before the sigmoid, as the reference does. Labels are not smoothed.
    (eric612/MobileNet-YOLO, gaussian_yolov3_layer.cpp; Choi et al. 2019)
    """

    values_without_classes = 9
    means = (0, 2, 4, 6)
    plain = (4, 6)
    kind = MSE
    counts_boxes = False

    def pull_box(
        self,
        pull: np.ndarray,
        seen: np.ndarray,
        predicted: np.ndarray,
        box: np.ndarray,
        grid: _Grid,
        n: int,
        cell: tuple[int, int],
    ) -> float:
        p = self.settings
        wanted = self.wanted(box, grid, n, cell)
        means, deviations = seen[0:8:2], seen[1:8:2]
        with np.errstate(all="ignore"):
            off, wide = (wanted - means) / deviations, deviations + WIDENED
            density = np.exp(-(off**2) / 2) / (math.sqrt(2 * math.pi) * wide)
            share = 0.5 * density / (density + 1e-9) * p.coord_scale * (2 - box[2] * box[3]) * p.iou_normalizer
            more = np.stack([share * off / deviations, share * (off**2 / deviations - 1 / wide)], 1).ravel()
        more = np.clip(np.nan_to_num(more, nan=0, posinf=0, neginf=0), -p.max_delta, p.max_delta)
        pull[:8] = (pull[:8] if p.accumulate else 0) - more
        return float(intersection_over_union(predicted, box))

    def pull_classes(self, pull: np.ndarray, seen: np.ndarray, label: int) -> None:
        """Write the pulls of the classes of an anchor; of one that was pulled before, only that of the label."""
        if pull[0]:
            pull[label] = seen[label] - 1
        else:
            self.pull_all_classes(pull, seen, label, np.arange(len(pull)) == label)


@layer("Yolov3DetectionOutput", dialect="mobilenet-yolo")
class Yolov3DetectionOutput(_Output):
    """Detections of YOLO's third version: rows [0, label + 1, score, x1, y1, x2, y2] that suppression leaves.

    Bottoms: mask_group_num maps, each with its part of `mask` and its anchors_scale. The score is confidence times the
    class's, every class above confidence_threshold counts. Classes and images suppress each other.
    (eric612/MobileNet-YOLO, yolov3_detection_output_layer.cpp)
    """

    num_bottoms = (1, None)

    @property
    def settings(self) -> Any:
        return self.added.yolov3_detection_output_param

    @property
    def has_deviations(self) -> bool:
        """Whether the maps hold deviations of the boxes too."""
        return bool(self.settings.gaussian_box)

    def is_enough(self, scores: np.ndarray) -> np.ndarray:
        return scores > np.float32(self.settings.confidence_threshold)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        if self.has_deviations:
            raise self.error("gaussian_box is not supported")
        groups = p.mask_group_num
        if len(bottoms) != groups or len(p.anchors_scale) < groups:
            found = f"{len(bottoms)} and {len(p.anchors_scale)}"
            raise self.error(f"expected {groups} bottoms and values of anchors_scale (mask_group_num), found {found}")
        wanted = (groups - 1) * (len(p.mask) // groups) + p.num_box
        if len(p.mask) < wanted or (p.mask and max(p.mask) >= len(p.biases) // 2):
            raise self.error(f"expected {wanted} numbers of anchors as mask, and biases for all, found {list(p.mask)}")
        return super().tops_at_setup(bottoms)

    def found(self, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        p = self.settings
        parts = []
        for group, (x, scale) in enumerate(zip(bottoms, p.anchors_scale, strict=False)):
            start = group * (len(p.mask) // p.mask_group_num)
            anchors = _pairs(p.biases)[list(p.mask[start : start + p.num_box])] / scale
            values = x.reshape(len(x), p.num_box, -1, *x.shape[2:])
            grid = _Grid(values, anchors)
            scores = np.moveaxis(sigmoid(values[:, :, 4:5]) * sigmoid(values[:, :, 5:]), (3, 4), (1, 2))
            boxes = np.moveaxis(grid.boxes(sigmoid(values[:, :, :2])), 1, 3)
            labels = np.broadcast_to(np.arange(p.num_classes), scores.shape)
            boxes = np.broadcast_to(boxes[..., None, :], (*scores.shape, BOX))
            parts.append((labels.ravel(), scores.ravel(), boxes.reshape(-1, BOX)))
        label, score, box = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return label, score, box
