"""Detectors whose boxes are predicted at each place of a map: their loss, and their detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import centers_pb2

from ..base import Shape, layer
from ..loss import BATCH_SIZE, FLT_MIN, FULL, NONE, VALID, Normalized
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["CenterGridLoss", "CenterGridOutput", "CenternetDetectionOutput"]

SIDES = 4  # values of a box: its distances to a place
POINTS = 10  # coordinates of five points of a face: x and y of each
ROW = 7  # values of a detection: image, label, score, box
TRUTH = 8  # values of a true box: image, label, instance, box, whether it is difficult
ROUNDING = 1e-6  # of coordinates, which end at 1
STRIDE = 4  # pixels of the image to a place of CenterNet's map
INSIDE, OUTSIDE, LEARNED = -10.0, 0.5, 1.0  # what the class of a place is learned to be: nothing, 0 or 1


def _suppressed(boxes: np.ndarray, areas: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Return the indices of the boxes [K, 4] that are left, the best first; 1 is added to shared widths and heights.

    (yuqj1991/caffe_train, center_bbox_util.cpp hard_nms)
    """
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        sides = np.minimum(boxes[index, 2:], boxes[kept, 2:]) - np.maximum(boxes[index, :2], boxes[kept, :2])
        shared = np.maximum(sides + 1, 0).prod(1)
        if (shared / (areas[index] + areas[kept] - shared) <= np.float32(threshold)).all():
            kept.append(int(index))
    return np.array(kept, int)


class _Detections(Computed):
    """Detections [1, 1, rows, 7]: image, label, score and box; 17 with has_lm, with five points."""

    adds = centers_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.detection_output_param

    @property
    def width(self) -> int:
        """How many values a row has."""
        return ROW + POINTS * self.settings.has_lm

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.settings.HasField("num_classes"):
            raise self.error("expected num_classes in detection_output_param")
        self.check(bottoms)
        return ((1, 1, 1, self.width),)

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError when the bottoms do not fit."""
        raise NotImplementedError

    def found(self, bottoms: Sequence[np.ndarray], item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of an image's boxes in pixels, without image, [K, values], and their areas."""
        raise NotImplementedError

    @property
    def least_score(self) -> float:
        p = self.settings
        return float(p.confidence_threshold) if p.HasField("confidence_threshold") else -np.inf

    def kept(self, rows: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Return the rows that suppression and keep_top_k leave."""
        p = self.settings
        rows = rows[_suppressed(rows[:, 2 : 2 + SIDES], areas, rows[:, 1], p.nms_thresh)]
        return rows[: p.keep_top_k] if p.keep_top_k > 0 else rows

    def scaled(self, rows: np.ndarray, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        """Return the rows with boxes in parts of the image."""
        raise NotImplementedError

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        parts = []
        for item in range(len(bottoms[0])):
            rows = self.scaled(self.kept(*self.found(bottoms, item)), bottoms)
            parts.append(np.insert(rows, 0, item, axis=1))
        all_rows = np.concatenate(parts)
        if not len(all_rows):
            all_rows = np.full((len(bottoms[0]), self.width), -1)
            all_rows[:, 0] = np.arange(len(all_rows))
        return (all_rows.astype(np.float32).reshape(1, 1, -1, self.width),)


@layer("CenterGridOutput", dialect="centers")
class CenterGridOutput(_Detections):
    """Detections [1, 1, rows, 7] of maps [N, 4 + classes, H, W]; no gradient.

    A box's sides lie at (place + ½ - x · bias_scale / (k · r)) · r, r = net_width / W, k = 2 with SIGMOID and 1 with
    SOFTMAX, where the first class is the background. has_lm: five points follow the sides, whose y the reference counts
    from the column as well. Overlapping boxes are suppressed over all maps. Labels are 1.
    (yuqj1991/caffe_train, CenterGridDetectionLayer.cpp)
    """

    num_bottoms = (3, None)

    @property
    def has_background(self) -> bool:
        return bool(self.settings.class_type == centers_pb2.DetectionOutputParameter.SOFTMAX)

    @property
    def places(self) -> int:
        """How many values of a place come before its classes."""
        return SIDES + (POINTS if self.has_background and self.settings.has_lm else 0)

    def check(self, bottoms: Sequence[Shape]) -> None:
        p = self.settings
        if p.num_classes != 1 + self.has_background:
            raise self.error(f"expected num_classes: {1 + self.has_background}, found {p.num_classes}")
        if len(p.bias_scale) != len(bottoms):
            raise self.error(f"expected bias_scale {len(bottoms)} times, found {len(p.bias_scale)}")
        if p.has_lm and not self.has_background:
            raise self.error("has_lm needs class_type: SOFTMAX")
        channels = self.places + p.num_classes
        if any(len(shape) != 4 or shape[:2] != (bottoms[0][0], channels) for shape in bottoms):
            raise self.error(f"expected maps of {channels} channels and as many images, found {list(bottoms)}")

    def found(self, bottoms: Sequence[np.ndarray], item: int) -> tuple[np.ndarray, np.ndarray]:
        parts = [self.of_map(map[item], scale) for map, scale in zip(bottoms, self.settings.bias_scale, strict=True)]
        rows = np.concatenate(parts)
        return rows, (rows[:, 4] - rows[:, 2]) * (rows[:, 5] - rows[:, 3])

    def of_map(self, x: np.ndarray, scale: int) -> np.ndarray:
        """Return label, score, box and points in pixels of what is sure enough in a map [channels, H, W]."""
        classes, (high, wide) = x[self.places :].astype(np.float32), x.shape[1:]
        ratio = np.float32(self.settings.net_width / wide)
        row, column = np.indices((high, wide))
        factor = scale / ((1 if self.has_background else 2) * ratio)
        origin = np.stack([column, row] * 2 + [column] * (self.places - SIDES)) + 0.5
        values = ((origin - x[: self.places] * factor) * ratio).astype(np.float32)
        values = np.clip(values, 0, np.array([wide * ratio, high * ratio] * (self.places // 2))[:, None, None])
        with np.errstate(over="ignore"):
            odds = classes[0] - classes[1] if self.has_background else -classes[0]
            score = 1 / (1 + np.exp(odds))
        sure = (score >= np.float32(self.least_score)) & (values[2:SIDES] > values[:2]).all(0)
        return np.stack([np.ones(sure.sum()), score[sure], *values[:, sure]], 1).astype(np.float32)

    def scaled(self, rows: np.ndarray, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        p = self.settings
        rows[:, 2:] /= np.array([p.net_width, p.net_height] * (self.places // 2), np.float32)
        return rows


@layer("CenternetDetectionOutput", dialect="centers")
class CenternetDetectionOutput(_Detections):
    """Detections [1, 1, rows, 7] of boxes [N, 4, H, W] and scores [N, classes - 1, H, W]; no gradient.

    A box has its center at 4 · (place + x), and the size 4 · exp(x). has_lm: 10 channels follow, of five points at
    4 · (center + x · size of the box) in pixels. Scores of 1 and above do not count, as in the reference.
    (yuqj1991/caffe_train, detection_centernet_output_layer.cpp)
    """

    num_bottoms = (2, 2)

    def check(self, bottoms: Sequence[Shape]) -> None:
        boxes, scores = bottoms
        channels = (SIDES + POINTS * self.settings.has_lm, self.settings.num_classes - 1)
        if len(boxes) != 4 or len(scores) != 4 or (boxes[1], scores[1]) != channels or boxes[2:] != scores[2:]:
            raise self.error(f"expected maps of {channels[0]} and {channels[1]} channels, found {boxes} and {scores}")
        if boxes[0] != scores[0]:
            raise self.error(f"expected as many images in both maps, found {boxes[0]} and {scores[0]}")

    def found(self, bottoms: Sequence[np.ndarray], item: int) -> tuple[np.ndarray, np.ndarray]:
        x, scores = bottoms[0][item], bottoms[1][item]
        sure = (scores > np.float32(self.least_score)) & (scores < 1)
        label, row, column = np.nonzero(sure)
        values, most = x[:, row, column], np.array([x.shape[2], x.shape[1]]) * STRIDE
        with np.errstate(over="ignore"):
            sizes = np.exp(values[2:SIDES].T) * np.float32(STRIDE)
        centers = (np.stack([column, row], 1) + values[:2].T) * np.float32(STRIDE)
        low, high = np.clip(centers - sizes / 2, 0, most), np.clip(centers + sizes / 2, 0, most)
        moved = (
            centers[:, None] + values[SIDES:].T.reshape(len(label), (len(x) - SIDES) // 2, 2) * (high - low)[:, None]
        )
        points = np.clip(moved * STRIDE, 0, most).reshape(len(label), len(x) - SIDES)
        rows = np.concatenate([label[:, None] + 1, scores[sure][:, None], low, high, points], 1)
        return rows.astype(np.float32), sizes.prod(1)

    def scaled(self, rows: np.ndarray, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        high, wide = bottoms[0].shape[2:]
        rows[:, 2 : 2 + SIDES] /= np.array([wide, high, wide, high], np.float32) * STRIDE
        return rows


def random_corners(shape: Shape, random: np.random.Generator) -> np.ndarray:
    """Return true boxes [N, 1, boxes, values] of the first class, rows of image, label, instance and corners."""
    truth = np.zeros(shape, np.float32)
    low = random.uniform(0, 0.7, (*truth.shape[:3], 2))
    truth[..., 0] = np.arange(len(truth))[:, None, None]
    truth[..., 1] = 1
    truth[..., 3:5], truth[..., 5:7] = low, low + random.uniform(0.05, 0.3, low.shape)
    return truth


@dataclass
class _Learned:
    """What the places of a map are learned to be.

    classes  [N, H, W]: INSIDE, OUTSIDE or LEARNED
    slopes   of the losses for the map [N, channels, H, W], not yet divided
    loss     sums of the losses of boxes and points; `matches` and `faces` count their places
    """

    classes: np.ndarray
    slopes: np.ndarray
    box_loss: float = 0.0
    point_loss: float = 0.0
    matches: int = 0
    faces: int = 0


def _smooth(difference: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the sum of smooth L1 losses and their slopes."""
    size = abs(difference)
    losses = np.where(size < 1, difference**2 / 2, size - 0.5)
    return float(losses.sum()), np.clip(difference, -1, 1)


@layer("CenterGridLoss", dialect="centers")
class CenterGridLoss(Normalized):
    """y = (Σ box loss + Σ focal loss of the classes) / normalizer + 0.1 · Σ loss of points / normalizer of these.

    Bottoms: a map [N, 4 + classes, H, W], 14 + classes with has_lm, and true boxes [N, 1, boxes, 8], or 19 values each.
    The places within a box whose larger side in pixels is from low_bbox_scale to below up_bbox_scale learn the
    distances to its sides, those in no box to be background. SIGMOID has no points. The gradient of the points is
    multiplied twice by the loss's own, as in the reference. The normalizer VALID counts places within boxes.
    (yuqj1991/caffe_train, CenterGridLossLayer.cpp)
    """

    adds = centers_pb2.LayerParameter
    decides = True

    @property
    def settings(self) -> Any:
        return self.added.center_object_loss_param

    @property
    def has_background(self) -> bool:
        return bool(self.settings.class_type == centers_pb2.CenterObjectLossParameter.SOFTMAX)

    @property
    def places(self) -> int:
        """How many values of a place come before its classes."""
        return SIDES + POINTS * self.settings.has_lm

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (x, truth) = self.settings, bottoms
        if p.bias_num != 1 or not p.HasField("bias_num") or len(p.bias_scale) != 1 or not p.bias_scale[0] > 0:
            raise self.error("expected bias_num: 1 and one positive bias_scale in center_object_loss_param")
        if p.has_lm and not self.has_background:
            raise self.error("has_lm needs class_type: SOFTMAX")
        if p.num_class != 1 + self.has_background:
            raise self.error(f"expected num_class: {1 + self.has_background}, found {p.num_class}")
        channels, row = self.places + p.num_class, TRUTH + (POINTS + 1) * p.has_lm
        if len(x) != 4 or x[1] != channels or not all(x):
            raise self.error(f"expected a map of {channels} channels, found shape {x}")
        if len(truth) != 4 or (truth[0], truth[1], truth[3]) != (x[0], 1, row):
            raise self.error(f"expected true boxes of shape ({x[0]}, 1, boxes, {row}), found {truth}")
        return ((),) * self.top_count

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        truth = random_corners(bottoms[1], random)
        if self.settings.has_lm:
            truth[..., TRUTH] = 1
            truth[..., TRUTH + 1 :] = np.tile((truth[..., 3:5] + truth[..., 5:7]) / 2, POINTS // 2)
        return truth

    def boxes(self, rows: np.ndarray, item: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yield box and points of an image's objects. Raises NetError for rows of other images and boxes outside."""
        for row in rows[rows[:, 0].astype(int) != -1]:
            if int(row[0]) != item or not ((row[3:7] >= 0) & (row[3:7] < 1 + ROUNDING)).all():
                raise self.error(f"expected boxes of image {item} within 0 to 1, found {row[:7].tolist()}")
            points = row[TRUTH + 1 :] if self.settings.has_lm and row[TRUTH] > 0 else np.array([-1.0])
            yield row[3:7], points if (points > 0).all() else None

    def learned(self, x: np.ndarray, truth: np.ndarray) -> _Learned:
        """Return what the places of a map learn from the boxes."""
        found = _Learned(np.full((len(x), *x.shape[2:]), OUTSIDE), np.zeros_like(x))
        for item, rows in enumerate(truth[:, 0]):
            taken = np.zeros(x.shape[2:], bool)
            for box, points in self.boxes(rows, item):
                self.learn(found, item, x[item], taken, box, points)
        return found

    def learn(
        self, found: _Learned, item: int, x: np.ndarray, taken: np.ndarray, box: np.ndarray, points: np.ndarray | None
    ) -> None:
        """Let the places within a box learn it, unless another one has them."""
        p, size = self.settings, np.array([x.shape[2], x.shape[1]] * 2, np.float32)
        ratio = float(np.float32(p.net_height / x.shape[1]))
        sides = box * size
        if self.has_background and not (sides[2:] > sides[:2]).all():
            return
        left, top, right, bottom = sides.astype(int)
        within = (slice(top, bottom), slice(left, right))
        found.classes[(item, *within)] = INSIDE
        largest = ((sides[2:] - sides[:2]) * ratio).astype(int).max()
        if not p.low_bbox_scale <= largest < p.up_bbox_scale:
            return
        free = np.zeros_like(taken)
        free[within] = ~taken[within]
        row, column = np.nonzero(free)
        scale = ratio * (1 if self.has_background else 2) / int(p.bias_scale[0])
        place = np.stack([column, row, column, row]) + 0.5
        loss, found.slopes[item, :SIDES, row, column] = self.distances(x[:SIDES, row, column], place, sides, scale)
        found.box_loss += loss
        if points is not None and self.places > SIDES:
            goal = points * np.tile(size[:2], POINTS // 2)
            place = np.tile(place[:2], (POINTS // 2, 1))
            loss, slopes = self.distances(x[SIDES : self.places, row, column], place, goal, scale)
            found.slopes[item, SIDES : self.places, row, column] = slopes
            found.point_loss += loss
            found.faces += len(row)
        found.classes[item, row, column] = LEARNED
        taken |= free
        found.matches += len(row)

    @staticmethod
    def distances(x: np.ndarray, place: np.ndarray, goal: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
        """Return the loss of predicted distances [values, K] from places to a goal, and its slopes [K, values]."""
        loss, slopes = _smooth(x - (place - goal[:, None]) * scale)
        return loss, slopes.T

    def class_losses(self, x: np.ndarray, classes: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the sum of the focal losses of the classes and its slopes, for maps [N, 1 or 2, H, W]."""
        counts = classes != INSIDE
        is_object = classes == LEARNED
        odds = x[:, 1] - x[:, 0] if self.has_background else x[:, 0]
        with np.errstate(over="ignore"):
            p = 1 / (1 + np.exp(np.where(is_object, -odds, odds)))  # of what it is
        alpha, gamma = (0.25, 2) if self.has_background else (2, 4)
        log = np.log(np.maximum(p, FLT_MIN))
        weight = np.where(counts, alpha * (1 - p) ** gamma, 0)
        slope = weight * (gamma * log * p - (1 - p)) * np.where(is_object, 1, -1)
        return float(-(weight * log).sum()), np.stack([-slope, slope] if self.has_background else [slope], 1)

    def divisor(self, images: int, count: int) -> float:
        """Return the normalizer of losses over so many places."""
        counts = {FULL: images, VALID: count or images, BATCH_SIZE: images, NONE: 1}
        return float(max(counts[self.normalization()], 1))

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        x = bottoms[0].astype(float)
        if not (bottoms[1][..., 0].astype(int) != -1).any():
            return np.zeros((), np.float32), *(np.zeros(x.shape, np.float32) for _ in range(2))
        found = self.learned(x, bottoms[1])
        loss, found.slopes[:, self.places :] = self.class_losses(x[:, self.places :], found.classes)
        divisor, of_points = (self.divisor(len(x), count) for count in (found.matches, found.faces))
        y = (found.box_loss + loss) / divisor + 0.1 * found.point_loss / of_points
        twice = np.zeros_like(found.slopes)
        twice[:, SIDES : self.places] = 0.1 * found.slopes[:, SIDES : self.places] / of_points
        once = found.slopes / divisor
        once[:, SIDES : self.places] = 0
        return tuple(np.asarray(array, np.float32) for array in (y, once, twice))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        y, once, twice = self.input_decisions(g)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            slope = tape.emit("Add", once, tape.emit("Mul", twice, dys[0]))
            return [tape.emit("Mul", slope, dys[0])]

        return g.custom_vjp(bottoms[:1], lambda _: [g.emit("Identity", y)], backward)
