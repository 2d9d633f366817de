"""Detections out of predicted boxes, and what they are worth: the numpy half of SSD's test layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from caffestat.lazy import np

from .boxes import areas, overlaps, suppress
from .sorting import descending

__all__ = ["FAKE_ROW", "Size", "detect", "evaluate", "in_pixels"]

FAKE_ROW = 7  # values of a detection: image, label, score, box

Size = tuple[int, int]  # height and width of an image
Overlaps = Callable[[np.ndarray, np.ndarray], np.ndarray]  # of boxes [N, 4] with others [M, 4]: [N, M]

_FIT_SMALL_SIZE, _FIT_LARGE_SIZE_AND_PAD = 2, 3


def detect(boxes: np.ndarray, scores: np.ndarray, p: Any) -> np.ndarray:
    """Return the detections [1, 1, rows, 7] that p, a DetectionOutputParameter, leaves.

    boxes [N, classes or 1, priors, 4], scores [N, classes, priors].
    (weiliu89/caffe, detection_output_layer.cpp Forward_cpu)
    """
    rows = []
    for image in range(len(scores)):
        kept = _keep(dict(_suppressed(boxes[image], scores[image], p)), scores[image], p.keep_top_k)
        for label, indices in sorted(kept.items()):
            of_label = boxes[image, 0 if p.share_location else label]
            rows += [(image, label, scores[image, label, index], *of_label[index]) for index in indices]
    if not rows:
        rows = [(image, *(-1,) * (FAKE_ROW - 1)) for image in range(len(scores))]
    return np.array(rows, np.float32).reshape(1, 1, -1, FAKE_ROW)


def _suppressed(boxes: np.ndarray, scores: np.ndarray, p: Any) -> Iterator[tuple[int, list[int]]]:
    """Yield label and indices, the best first, of what suppression leaves of each class."""
    least = p.confidence_threshold if p.HasField("confidence_threshold") else -np.finfo(np.float32).max
    top_k = p.nms_param.top_k if p.nms_param.HasField("top_k") else -1
    for label in range(p.num_classes):
        if label != p.background_label_id:
            of_label = scores[label]
            order = np.argsort(-of_label, kind="stable")
            order = order[of_label[order] > np.float32(least)]
            order = order[:top_k] if top_k > -1 else order
            chosen = boxes[0 if p.share_location else label]
            yield label, list(suppress(chosen, order, p.nms_param.nms_threshold, eta=p.nms_param.eta))


def _keep(found: dict[int, list[int]], scores: np.ndarray, keep_top_k: int) -> dict[int, list[int]]:
    """Return the best of an image's detections, by label."""
    pairs = [(label, index) for label, indices in found.items() for index in indices]
    if keep_top_k < 0 or len(pairs) <= keep_top_k:
        return found
    kept: dict[int, list[int]] = {}
    order = descending(np.array([scores[pair] for pair in pairs]))
    for label, index in (pairs[place] for place in order[:keep_top_k]):
        kept.setdefault(label, []).append(index)
    return kept


def evaluate(detections: np.ndarray, truth: np.ndarray, p: Any, sizes: Iterator[Size] | None = None) -> np.ndarray:
    """Return the rows [1, 1, classes + detections, 5] that say what was right.

    detections [rows, 7], truth [boxes, 8], p a DetectionEvaluateParameter; sizes: one for each image with detections,
    in whose pixels boxes are compared.
    (weiliu89/caffe, detection_evaluate_layer.cpp Forward_cpu)
    """
    ends = np.flatnonzero(truth[:, 0] == -1)
    truth = truth[: ends[0]] if ends.size else truth
    counted = truth if p.evaluate_difficult_gt else truth[truth[:, 7] == 0]
    labels = [label for label in range(p.num_classes) if label != p.background_label_id]
    rows = [(-1, label, (counted[:, 1].astype(int) == label).sum(), -1, -1) for label in labels]
    found = detections[detections[:, 0] != -1]
    for image, own in _groups(found, 0):
        measure: Overlaps = partial(_pixel_overlaps, size=next(sizes), p=p) if sizes else overlaps
        true = truth[truth[:, 0].astype(int) == image]
        for label, of_label in _groups(own[own[:, 1] != -1], 1):
            verdicts = _verdicts(of_label, true[true[:, 1].astype(int) == label], p, measure)
            rows += [(image, label, *verdict) for verdict in verdicts]
    return np.array(rows, np.float32).reshape(1, 1, -1, 5)


def _groups(rows: np.ndarray, column: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the integers of a column, in their order, each with its rows."""
    values = rows[:, column].astype(int)
    yield from ((int(value), rows[values == value]) for value in np.unique(values))


def _verdicts(found: np.ndarray, true: np.ndarray, p: Any, measure: Overlaps) -> Iterator[tuple[float, int, int]]:
    """Yield score, whether it is a true positive, and whether a false one, of one image's detections of one class."""
    if not len(true):
        yield from ((row[2], 0, 1) for row in found)
        return
    seen: set[int] = set()
    found = found[descending(found[:, 2])]
    for row, overlap in zip(found, measure(found[:, 3:], true[:, 3:7]), strict=True):
        best = int(overlap.argmax())
        if overlap[best] < np.float32(p.overlap_threshold):
            yield row[2], 0, 1
        elif not p.evaluate_difficult_gt and true[best, 7]:
            yield row[2], 0, 0
        else:
            yield row[2], int(best not in seen), int(best in seen)
            seen.add(best)


def _pixel_overlaps(a: np.ndarray, b: np.ndarray, size: Size, p: Any) -> np.ndarray:
    """Return intersection over union [N, M] in pixels of an image; boxes that do not meet share one pixel, as in Caffe.

    (bbox_util.cpp, JaccardOverlap)
    """
    (a, extra), (b, _) = (in_pixels(boxes, size, p) for boxes in (a, b))
    a, b = a[:, None], b[None]
    apart = ((b[..., :2] > a[..., 2:]) | (b[..., 2:] < a[..., :2])).any(-1, keepdims=True)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    sides = np.where(apart, np.float32(0), sides) + np.float32(1)
    shared = np.where((sides > 0).all(-1), sides.prod(-1), np.float32(0))
    union = areas(a, extra) + areas(b, extra) - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(shared / union, nan=-1, posinf=np.inf)  # no box is nearest by NaN


def in_pixels(boxes: np.ndarray, size: Size, p: Any) -> tuple[np.ndarray, int]:
    """Return boxes in pixels of an image that p.resize_param resized for the net, and what `areas` adds to their sides.

    (bbox_util.cpp, OutputBBox)
    """
    height, width = size
    resized = p.resize_param
    mode = resized.resize_mode if p.HasField("resize_param") else None
    if mode == _FIT_SMALL_SIZE and resized.height_scale and resized.width_scale:
        scaled = boxes * _corners(resized.width_scale, resized.height_scale)
        return np.clip(scaled, 0, _corners(width, height)), 0
    if mode == _FIT_LARGE_SIZE_AND_PAD:
        boxes = _without_padding(boxes, np.float32(width) / np.float32(height), resized)
    return np.clip(boxes, 0, 1) * _corners(width, height), int(width > 1 or height > 1)


def _corners(across: float, down: float) -> np.ndarray:
    """Return what a box's four values are multiplied with, or limited by."""
    return np.array([across, down, across, down], np.float32)


def _without_padding(boxes: np.ndarray, aspect: np.float32, resized: Any) -> np.ndarray:
    """Return boxes relative to the image within its padding; those that lie in the padding stay. (ProjectBBox)"""
    height, width = np.float32(resized.height), np.float32(resized.width)
    margin = np.zeros(2, np.float32)  # across and down, of a side
    if aspect > width / height:
        margin[1] = (height - width / aspect) / 2 / height
    else:
        margin[0] = (width - height * aspect) / 2 / width
    low, high = margin, 1 - margin
    inside = ((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(-1, keepdims=True)
    return np.where(inside, (boxes - np.tile(low, 2)) / np.tile(high - low, 2), boxes)
