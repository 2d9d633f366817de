"""YOLO's third version for faces and plates: its loss of SSD's true boxes, and its detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from caffestat.lazy import np
from caffestat.schema.forks import centers_pb2

from ..base import Shape, layer
from .centers import TRUTH, random_corners
from .darknet import intersection_over_union
from .evaluated import EvaluatedLoss
from .squash import sigmoid
from .yolo import BOX, Yolov3DetectionOutput

__all__ = ["Yolov3Detection", "Yolov3Loss"]


@layer("Yolov3Detection", dialect="centers")
class Yolov3Detection(Yolov3DetectionOutput):
    """Detections of YOLO's third version: rows [0, label + 1, score, x1, y1, x2, y2] that suppression leaves.

    Bottoms: mask_group_num square maps, each with its part of `mask` and its anchors_scale. The score is confidence
    times the class's, every class above confidence_threshold counts. Classes and images suppress each other.
    (yuqj1991/caffe_train, Yolov3DetectionLayer.cpp)
    """

    adds = centers_pb2.LayerParameter
    has_deviations = False

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        tops = super().tops_at_setup(bottoms)
        if any(shape[2] != shape[3] for shape in bottoms):
            raise self.error(f"expected square maps, found {list(bottoms)}")
        return tops


@layer("Yolov3Loss", dialect="centers")
class Yolov3Loss(EvaluatedLoss):
    """y = Σ pull² / n, dx = pull · σ'(x) · dy / n (pull · dy / n for widths and heights): YOLO's third loss.

    Bottoms: a map [N, masks · (5 + num_class), H, W] and true boxes [N, 1, boxes, 8] (image, label from 1, instance,
    corners, difficult). A true box pulls the values of its cell for the anchor of bias_scale that fits its size best,
    if bias_mask has it; n is how many do, N if none does. Other confidences are pulled to 0 where the box overlaps no
    true one by more than ignore_thresh. At a place that has been pulled before, the pull of the label alone is written,
    with the reference's sign: 1 - σ(x). The reference also writes σ(x) over its bottom.
    (yuqj1991/caffe_train, Yolov3Loss.cpp, center_bbox_util.cpp EncodeYoloObject)
    """

    adds = centers_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.center_object_loss_param

    @property
    def anchors(self) -> np.ndarray:
        """The sizes of all anchors in parts of the image, [anchors, 2]."""
        return np.array(self.settings.bias_scale, float).reshape(-1, 2) / self.settings.net_width

    def check(self, bottoms: Sequence[Shape]) -> None:
        p, (x, truth) = self.settings, bottoms
        if not p.HasField("bias_num") or len(p.bias_scale) != 2 * p.bias_num:
            raise self.error(f"expected bias_num and twice as many of bias_scale, found {len(p.bias_scale)} of these")
        if not p.bias_mask or not 0 <= min(p.bias_mask) <= max(p.bias_mask) < p.bias_num:
            raise self.error(f"expected bias_mask of 0 to {p.bias_num - 1}, found {list(p.bias_mask)}")
        if p.net_width != p.net_height or not p.net_width > 0:
            raise self.error(f"expected net_width equal to net_height, found {p.net_width} and {p.net_height}")
        channels = len(p.bias_mask) * (BOX + 1 + p.num_class)
        if len(x) != 4 or x[1] != channels or not all(x) or not p.num_class:
            raise self.error(f"expected a num_class of at least 1 and a map of {channels} channels, found shape {x}")
        if len(truth) != 4 or (truth[0], truth[1], truth[3]) != (x[0], 1, TRUTH):
            raise self.error(f"expected true boxes of shape ({x[0]}, 1, boxes, {TRUTH}), found {truth}")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random_corners(bottoms[1], random) if bottom else None

    def truths(self, rows: np.ndarray, item: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield class and box (x, y, width, height) of an image's objects."""
        for row in rows[rows[:, 0].astype(int) != -1].astype(float):
            low, high = row[3:5], row[5:7]
            center = (low + high) / 2
            if int(row[0]) != item or not 1 <= int(row[1]) <= self.settings.num_class:
                wanted = f"true boxes of image {item} with labels of 1 to {self.settings.num_class}"
                raise self.error(f"expected {wanted}, found {row[:2].tolist()}")
            if not ((center >= 0) & (center < 1)).all():
                raise self.error(f"expected centers of true boxes within the image, found {center.tolist()}")
            yield int(row[1]) - 1, np.concatenate([center, high - low])

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        x = bottoms[0].astype(float).reshape(len(bottoms[0]), len(self.settings.bias_mask), -1, *bottoms[0].shape[2:])
        truths = [list(self.truths(rows, item)) for item, rows in enumerate(bottoms[1][:, 0])]
        if not any(truths):
            return [0.0], np.zeros(bottoms[0].shape)
        seen = sigmoid(x)
        steep = seen * (1 - seen)
        seen[:, :, 2:BOX], steep[:, :, 2:BOX] = x[:, :, 2:BOX], 1
        pull, count = np.zeros_like(x), 0
        for values, pulls, boxes in zip(seen, pull, truths, strict=True):
            pulls[:, BOX] = np.where(self.is_free(values, boxes), values[:, BOX], 0)
            count += sum(self.learn(values, pulls, label, box) for label, box in boxes)
        count = count or len(x)
        return [(pull**2).sum() / count], (pull * steep / count).reshape(bottoms[0].shape)

    def is_free(self, seen: np.ndarray, truths: Sequence[tuple[int, np.ndarray]]) -> np.ndarray:
        """Tell which predicted boxes [masks, H, W] of an image overlap no true one by more than ignore_thresh."""
        high, wide = seen.shape[2:]
        y, x = np.indices((high, wide))
        with np.errstate(over="ignore"):
            sizes = np.exp(seen[:, 2:BOX]) * self.anchors[list(self.settings.bias_mask)][:, :, None, None]
        boxes = np.stack([(seen[:, 0] + x) / wide, (seen[:, 1] + y) / high, sizes[:, 0], sizes[:, 1]], -1)
        best = np.zeros(boxes.shape[:-1])
        for _, box in truths:
            best = np.fmax(best, intersection_over_union(boxes, box))
        return best <= np.float32(self.settings.ignore_thresh)

    def learn(self, seen: np.ndarray, pulls: np.ndarray, label: int, box: np.ndarray) -> bool:
        """Write the pulls of a true box into an image's; return whether bias_mask has its anchor."""
        anchors, mask = self.anchors, list(self.settings.bias_mask)
        shapes = np.concatenate([np.zeros_like(anchors), anchors], 1)
        best = int(np.fmax(intersection_over_union(shapes, np.array([0, 0, *box[2:]])), 0).argmax())
        if best not in mask:
            return False
        place = box[:2] * seen.shape[:1:-1]
        column, row = place.astype(int)
        values, pull = (array[mask.index(best), :, row, column] for array in (seen, pulls))
        with np.errstate(divide="ignore", invalid="ignore"):
            goal = np.concatenate([place - (column, row), np.log(box[2:] / anchors[best])])
        pull[:BOX] = (2 - box[2] * box[3]) * (values[:BOX] - goal)
        pull[BOX] = values[BOX] - 1
        classes, learned = values[BOX + 1 :], pull[BOX + 1 :]
        if learned[0]:
            learned[label] = 1 - classes[label]
        else:
            learned[:] = classes - (np.arange(len(classes)) == label)
        return True
