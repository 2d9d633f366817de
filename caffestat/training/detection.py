"""Average precision by class, the score of a detector's test net. (weiliu89/caffe, branch ssd: solver.cpp)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

__all__ = ["AP_VERSIONS", "Detections", "average_precision"]

ELEVEN, MAX_INTEGRAL, INTEGRAL = AP_VERSIONS = ("11point", "MaxIntegral", "Integral")
ROW = 5  # image, label, score, true positive, false positive; or -1, label, number of true boxes, -1, -1
LEAST_STEP = 1e-6  # of the recall, below which an integral does not count it

_F = np.float32


class Detections:
    """The rows of DetectionEvaluate's top, collected over the batches of a test."""

    def __init__(self) -> None:
        self._scores: dict[int, list[tuple[float, bool]]] = {}
        self._true_boxes: dict[int, int] = {}

    def add(self, rows: np.ndarray) -> None:
        """Add a batch's rows [..., 5]."""
        for image, label, score, right, wrong in rows.reshape(-1, ROW):
            if image == -1:
                self._true_boxes[int(label)] = self._true_boxes.get(int(label), 0) + int(score)
            elif right or wrong:  # else it met a difficult box
                self._scores.setdefault(int(label), []).append((float(score), bool(right)))

    def by_class(self, version: str) -> dict[int, float | None]:
        """Return the average precision of each class, None for one without a detection."""
        return {
            label: average_precision(self._scores[label], count, version) if label in self._scores else None
            for label, count in sorted(self._true_boxes.items())
        }

    def mean(self, by_class: Mapping[int, float | None]) -> float | None:
        """Return the mean over all classes; None when nothing was detected."""
        total = _F(0)
        for value in by_class.values():
            total = total + _F(value or 0)
        return float(total / _F(len(by_class))) if self._scores else None


def average_precision(found: Iterable[tuple[float, bool]], count: int, version: str) -> float:
    """Return the average precision of detections (score, whether right) of `count` true boxes, in float32.

    version: one of AP_VERSIONS. (bbox_util.cpp, ComputeAP)
    """
    ranked = sorted(found, key=lambda pair: -pair[0])
    if not ranked or not count:
        return 0.0
    right = np.cumsum([is_right for _, is_right in ranked])
    precision = (right.astype(_F) / np.arange(1, len(ranked) + 1, dtype=_F)).astype(_F)
    recall = (right.astype(_F) / _F(count)).astype(_F)
    if version == ELEVEN:
        return _eleven_points(precision, recall)
    if version == MAX_INTEGRAL:
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    return _integral(precision, recall)


def _eleven_points(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the mean, over recalls of 0, 0.1, … 1, of the best precision from there on.

    As in the reference, once all detections reach a recall, lower ones do not look at those that came before.
    """
    best, last = np.zeros(11, _F), len(recall) - 1
    for tenth in range(10, -1, -1):
        below = np.flatnonzero(recall[: last + 1].astype(np.float64) < tenth / 10)
        first = below[-1] + 1 if below.size else 0
        best[tenth] = max(best[tenth], precision[first : last + 1].max(initial=0))
        if below.size:
            last = int(below[-1])
            best[max(tenth - 1, 0)] = best[tenth]
    total = _F(0)
    for value in best[::-1]:
        total = total + value / _F(11)
    return float(total)


def _integral(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area below the precision, over the recall."""
    total, before = _F(0), _F(0)
    for height, at in zip(precision, recall, strict=True):
        if abs(at - before) > LEAST_STEP:
            total = total + height * abs(at - before)
        before = at
    return float(total)
