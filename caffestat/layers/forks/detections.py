"""Detections out of predicted boxes, and what they are worth: the numpy half of SSD's test layers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from caffestat.lazy import np

from .boxes import overlaps, suppress

__all__ = ["FAKE_ROW", "detect", "evaluate"]

FAKE_ROW = 7  # values of a detection: image, label, score, box


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
    for label, index in sorted(pairs, key=lambda pair: -scores[pair])[:keep_top_k]:
        kept.setdefault(label, []).append(index)
    return kept


def evaluate(detections: np.ndarray, truth: np.ndarray, p: Any) -> np.ndarray:
    """Return the rows [1, 1, classes + detections, 5] that say what was right.

    detections [rows, 7], truth [boxes, 8], p a DetectionEvaluateParameter.
    (weiliu89/caffe, detection_evaluate_layer.cpp Forward_cpu)
    """
    ends = np.flatnonzero(truth[:, 0] == -1)
    truth = truth[: ends[0]] if ends.size else truth
    counted = truth if p.evaluate_difficult_gt else truth[truth[:, 7] == 0]
    labels = [label for label in range(p.num_classes) if label != p.background_label_id]
    rows = [(-1, label, (counted[:, 1].astype(int) == label).sum(), -1, -1) for label in labels]
    found = detections[(detections[:, 0] != -1) & (detections[:, 1] != -1)]
    for image, label in sorted({(int(row[0]), int(row[1])) for row in found}):
        own = found[(found[:, 0].astype(int) == image) & (found[:, 1].astype(int) == label)]
        true = truth[(truth[:, 0].astype(int) == image) & (truth[:, 1].astype(int) == label)]
        rows += [(image, label, *verdict) for verdict in _verdicts(own, true, p)]
    return np.array(rows, np.float32).reshape(1, 1, -1, 5)


def _verdicts(found: np.ndarray, true: np.ndarray, p: Any) -> Iterator[tuple[float, int, int]]:
    """Yield score, whether it is a true positive, and whether a false one, of one image's detections of one class."""
    if not len(true):
        yield from ((row[2], 0, 1) for row in found)
        return
    seen: set[int] = set()
    found = found[np.argsort(-found[:, 2], kind="stable")]
    for row, overlap in zip(found, overlaps(found[:, 3:], true[:, 3:7]), strict=True):
        best = int(overlap.argmax())
        if overlap[best] < np.float32(p.overlap_threshold):
            yield row[2], 0, 1
        elif not p.evaluate_difficult_gt and true[best, 7]:
            yield row[2], 0, 0
        else:
            yield row[2], int(best not in seen), int(best in seen)
            seen.add(best)
