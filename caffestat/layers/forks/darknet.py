"""Boxes as YOLO has them, rows of x, y, width and height: how much they overlap, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

from caffestat.lazy import np

__all__ = [
    "DIOU",
    "MSE",
    "Measure",
    "intersection_over_union",
    "keep_best",
    "overlap",
    "overlap_within",
    "pull_of_overlap",
]

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""How much boxes [..., 4] overlap others."""

IOU, GIOU, MSE, DIOU, CIOU = range(5)


def intersection_over_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the overlap of boxes [..., 4], broadcast against each other; 0 where they do not meet."""
    sizes = [
        np.minimum(a[..., axis] + a[..., axis + 2] / 2, b[..., axis] + b[..., axis + 2] / 2)
        - np.maximum(a[..., axis] - a[..., axis + 2] / 2, b[..., axis] - b[..., axis + 2] / 2)
        for axis in (0, 1)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where((sizes[0] < 0) | (sizes[1] < 0), 0, sizes[0] * sizes[1])
        return np.asarray(inner / (a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - inner))


def overlap_within(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the overlap of what lies of boxes [..., 4] within the image; 0 where they do not meet.

    (gklz1982/caffe-yolov2, bbox_util.hpp, Calc_iou)
    """
    low, high = zip(*(_inside(box) for box in (a, b)), strict=True)
    first, second = (np.where((y < x).any(-1), 0, (y - x).prod(-1)) for x, y in zip(low, high, strict=True))
    shared = np.minimum(*high) - np.maximum(*low)
    meets = (shared > 0).all(-1)
    inner = np.where(meets, shared.prod(-1), 0)
    return np.where(meets, inner / np.where(meets, first + second - inner, 1), 0)


def _inside(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of boxes, moved into the image where they lie outside on their side."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.maximum(center - half, 0), np.minimum(center + half, 1)


def _hull(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Return width and height of the smallest boxes around both."""
    return [
        np.maximum(a[..., axis] + a[..., axis + 2] / 2, b[..., axis] + b[..., axis + 2] / 2)
        - np.minimum(a[..., axis] - a[..., axis + 2] / 2, b[..., axis] - b[..., axis + 2] / 2)
        for axis in (0, 1)
    ]


def overlap(a: np.ndarray, b: np.ndarray, kind: int) -> np.ndarray:
    """Return the overlap of boxes less what `kind` takes off it. (eric612/MobileNet-YOLO, bbox_util.cpp box_iou)"""
    iou = intersection_over_union(a, b)
    if kind in (IOU, MSE):
        return iou
    width, height = _hull(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == GIOU:
            hull = width * height
            united = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3]
            united = united - iou * united / (1 + iou)
            return np.where(hull == 0, iou, iou - (hull - united) / hull)
        diagonal = width * width + height * height
        apart = ((a[..., :2] - b[..., :2]) ** 2).sum(-1) / diagonal
        if kind == DIOU:
            return np.where(diagonal == 0, iou, iou - apart**0.6)
        shape = _shape_loss(a, b)
        return np.where(diagonal == 0, iou, iou - apart - shape / (1 - iou + shape + 1e-6) * shape)


def _shape_loss(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(4 / math.pi**2 * (np.arctan(b[..., 2] / b[..., 3]) - np.arctan(a[..., 2] / a[..., 3])) ** 2)


def pull_of_overlap(box: np.ndarray, truth: np.ndarray, kind: int) -> np.ndarray:
    """Return what the loss calls the gradient of the overlap for a box's x, y, width and height.

    It is that of the corners' positions, summed up: for width and height twice the derivative.
    (eric612/MobileNet-YOLO, yolov3_layer.cpp dx_box_iou)
    """
    low, high = _corners(box)
    true_low, true_high = _corners(truth)
    inner = np.minimum(high, true_high) - np.maximum(low, true_low)
    size = high - low
    shared = inner[0] * inner[1]
    united = size[0] * size[1] + np.prod(true_high - true_low) - shared
    hull = np.maximum(high, true_high) - np.minimum(low, true_low)
    # by each corner's x and y, of the lower left and the upper right one
    of_size = np.array([-size[::-1], size[::-1]])
    of_shared = np.array([np.where(low > true_low, -inner[::-1], 0), np.where(high < true_high, inner[::-1], 0)])
    of_united = of_size - of_shared
    of_hull = np.array([np.where(low < true_low, -hull[::-1], 0), np.where(high > true_high, hull[::-1], 0)])
    pull = (united * of_shared - shared * of_united) / united**2 if united > 0 else np.zeros((2, 2))
    is_apart = inner[0] <= 0 or inner[1] <= 0
    if kind == GIOU:
        area = hull[0] * hull[1]
        around = (area * of_united - united * of_hull) / area**2
        pull = around if is_apart else pull + around
    found = np.concatenate([pull[0] + pull[1], pull[1] - pull[0]])
    if kind not in (DIOU, CIOU):
        return found
    more = _pull_of_distance(box, truth, low < true_low, high > true_high, hull)
    if kind == CIOU:
        more[2:] += _pull_of_shape(box, truth, shared / united)
    return more if is_apart else found + more


def _corners(box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    center, size = box[:2], box[2:]
    ends = center - size / 2, center + size / 2
    return np.minimum(*ends), np.maximum(*ends)


def _pull_of_distance(
    box: np.ndarray, truth: np.ndarray, low: np.ndarray, high: np.ndarray, hull: np.ndarray
) -> np.ndarray:
    """Return the part of the distance of the centers; low and high tell where the box reaches out of the true one."""
    diagonal = (hull**2).sum()
    step = truth[:2] - box[:2]
    apart = (step**2).sum()
    by_center = high.astype(float) - low
    by_size = 0.5 * (high.astype(float) + low)
    center = (2 * step * diagonal - 2 * hull * by_center * apart) / diagonal**2
    return np.concatenate([center, 2 * hull * by_size * apart / diagonal**2])


def _pull_of_shape(box: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    loss = float(_shape_loss(box, truth))
    weight = loss / (1 - iou + loss + 1e-6)
    turn = 8 / math.pi**2 * (math.atan(truth[2] / truth[3]) - math.atan(box[2] / box[3]))
    return weight * turn * np.array([box[3], -box[2]])


def keep_best(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, measure: Measure = intersection_over_union
) -> np.ndarray:
    """Return the rows left, the best first, when boxes that overlap a better one by `threshold` are dropped."""
    order = np.argsort(-scores, kind="stable")
    kept = []
    while order.size:
        kept.append(order[0])
        order = order[1:][~(measure(boxes[order[0]], boxes[order[1:]]) >= np.float32(threshold))]
    return np.array(kept, int)
