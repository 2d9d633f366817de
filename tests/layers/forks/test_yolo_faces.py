"""YOLO's third version for faces, against the loops of the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(31)
SIZES = [(8, 12), (20, 16), (30, 44), (60, 25)]
MASK, CLASSES, NET = [2, 0], 3, 64
FIELDS = f"""num_class: 3 bias_num: 4 bias_mask: 2 bias_mask: 0 net_width: 64 net_height: 64 ignore_thresh: 0.3
  {" ".join(f"bias_scale: {side}" for size in SIZES for side in size)}"""
LOSS = 'name: "l" type: "Yolov3Loss" bottom: "x" bottom: "t" top: "y" center_object_loss_param { %s }'


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def overlap(a: Any, b: Any) -> float:
    """Return the overlap of boxes of corners."""
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    area = w * h if w >= 0 and h >= 0 else 0
    return area / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - area)


def loss(x: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The loops of EncodeYoloObject and of the backward pass, for dy = 1."""
    items, _, high, wide = x.shape
    x = x.reshape(items, len(MASK), 5 + CLASSES, high, wide)
    p = np.vectorize(sigmoid)(x)
    p[:, :, 2:4] = x[:, :, 2:4]
    diff, count = np.zeros_like(x), 0
    for b in range(items):
        boxes = [row for row in truth[b, 0] if row[0] != -1]
        for h, w, m in np.ndindex(high, wide, len(MASK)):
            cx, cy = (p[b, m, 0, h, w] + w) / wide, (p[b, m, 1, h, w] + h) / high
            bw, bh = (math.exp(p[b, m, 2 + k, h, w]) * SIZES[MASK[m]][k] / NET for k in (0, 1))
            corners = (cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2)
            best = max([0.0, *(overlap(corners, row[3:7]) for row in boxes)])
            diff[b, m, 4, h, w] = 0 if best > 0.3 else p[b, m, 4, h, w]
        for row in boxes:
            w, h = row[5] - row[3], row[6] - row[4]
            shares = [overlap((-w / 2, -h / 2, w / 2, h / 2), (-a / 128, -c / 128, a / 128, c / 128)) for a, c in SIZES]
            best = shares.index(max(shares))
            if best not in MASK:
                continue
            count += 1
            cx, cy = (row[3] + row[5]) / 2 * wide, (row[4] + row[6]) / 2 * high
            at = (b, MASK.index(best), slice(None), int(cy), int(cx))
            scale = 2 - w * h
            diff[at][0] = -scale * (cx - int(cx) - p[at][0])
            diff[at][1] = -scale * (cy - int(cy) - p[at][1])
            diff[at][2] = -scale * (math.log(w * NET / SIZES[best][0]) - p[at][2])
            diff[at][3] = -scale * (math.log(h * NET / SIZES[best][1]) - p[at][3])
            diff[at][4] = -(1 - p[at][4])
            label = 5 + int(row[1]) - 1
            if diff[at][5]:
                diff[at][label] = 1 - p[at][label]
            else:
                for c in range(5, 5 + CLASSES):
                    diff[at][c] = -((c == label) - p[at][c])
    count = count or items
    y = (diff**2).sum() / count
    for c in (0, 1, *range(4, 5 + CLASSES)):
        diff[:, :, c] *= p[:, :, c] * (1 - p[:, :, c])
    return y, (diff / count).reshape(items, -1, high, wide)


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    """Make true boxes of three images: rows of image, label, x, y, width and height; free rows are -1."""
    truth = np.full((3, 1, 4, 8), -1.0)
    for image, label, x, y, w, h in rows:
        free = np.flatnonzero(truth[int(image), 0, :, 0] == -1)[0]
        truth[int(image), 0, free] = [image, label, 0, x - w / 2, y - h / 2, x + w / 2, y + h / 2, 0]
    return truth


LARGE, SMALL, OTHER = (0.45, 0.7), (0.13, 0.18), (0.9, 0.4)
SOME = boxes((0, 2, 0.4, 0.62, *LARGE), (0, 1, 0.71, 0.21, *SMALL), (1, 3, 0.5, 0.5, *OTHER), (2, 3, 0.9, 0.05, *SMALL))
X = RANDOM.normal(size=(3, 16, 5, 7))


@pytest.mark.parametrize(
    "truth",
    [
        SOME,
        boxes((0, 2, 0.4, 0.62, *LARGE), (0, 3, 0.41, 0.63, *LARGE), (0, 1, 0.42, 0.64, *LARGE)),  # all in one cell
        boxes((1, 3, 0.5, 0.5, *OTHER)),  # no anchor of the mask
    ],
)
def test_loss(truth: np.ndarray) -> None:
    y, slope = loss(X, truth)
    found = run(make(LOSS % FIELDS), [X, truth], dys=[np.float32(3)])
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-4)
    np.testing.assert_allclose(found.bottoms[0], 3 * slope, rtol=1e-3, atol=1e-6)
    assert 0 < (loss(X, truth)[1].reshape(3, 2, 8, 5, 7)[:, :, 4] == 0).sum() < 210 // 2


def test_slopes_of_confidences_and_classes_are_half_of_differences() -> None:
    direction = RANDOM.normal(size=X.shape).reshape(3, 2, 8, 5, 7)
    direction[:, :, :4] = 0
    direction = direction.reshape(X.shape)
    change = (loss(X + 1e-6 * direction, SOME)[0] - loss(X - 1e-6 * direction, SOME)[0]) / 2e-6
    found = run(make(LOSS % FIELDS), [X, SOME])
    np.testing.assert_allclose((found.bottoms[0] * direction).sum(), change / 2, rtol=1e-3)


def test_without_true_boxes_nothing_is_learned() -> None:
    found = run(make(LOSS % FIELDS), [X, boxes()])
    assert found.tops[0] == 0
    assert not found.bottoms[0].any()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("bias_num: 4", "bias_num: 5", "expected bias_num and twice as many of bias_scale, found 8"),
        ("bias_num: 4", "", "expected bias_num"),
        ("bias_mask: 0", "bias_mask: 4", "expected bias_mask of 0 to 3"),
        ("net_width: 64", "net_width: 32", "found 32 and 64"),
        ("num_class: 3", "num_class: 2", "a map of 14 channels"),
    ],
)
def test_what_the_loss_does_not_take(old: str, new: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(LOSS % FIELDS.replace(old, new)).tops([X.shape, (3, 1, 4, 8)])


@pytest.mark.parametrize(
    ("row", "message"),
    [((0, 4, 0.5, 0.5, 0.1, 0.1), "labels of 1 to 3"), ((0, 1, 1.01, 0.5, 0.1, 0.1), "centers of true boxes")],
)
def test_true_boxes_the_loss_does_not_take(row: tuple[float, ...], message: str) -> None:
    with pytest.raises(NetError, match=message):
        run(make(LOSS % FIELDS), [X, boxes(row)])


OUTPUT = f"""num_classes: 3 num_box: 2 mask: 3 mask: 1 mask: 2 mask: 0 anchors_scale: 8 anchors_scale: 16
  {" ".join(f"biases: {side}" for size in SIZES for side in size)} confidence_threshold: 0.3"""
DETECTION = """name: "l" type: "Yolov3Detection" bottom: "a" bottom: "b" top: "y"
  yolov3_detection_output_param { %s }"""


def test_detections() -> None:
    maps = [RANDOM.normal(size=(2, 16, side, side)) for side in (5, 3)]
    (found,) = run(make(DETECTION % OUTPUT), maps).tops
    rows = []
    for group, (x, scale) in enumerate(zip(maps, (8, 16), strict=True)):
        side = x.shape[3]
        for i, h, w, n in np.ndindex(2, side, side, 2):
            v = x.reshape(2, 2, 8, side, side)[i, n, :, h, w]
            size = [math.exp(v[2 + k]) * SIZES[(3, 1, 2, 0)[2 * group + n]][k] / (side * scale) for k in (0, 1)]
            cx, cy = (w + sigmoid(v[0])) / side, (h + sigmoid(v[1])) / side
            corners = [cx - size[0] / 2, cy - size[1] / 2, cx + size[0] / 2, cy + size[1] / 2]
            scores = [sigmoid(v[4]) * sigmoid(v[5 + c]) for c in range(3)]
            rows += [[0, c + 1, score, *corners] for c, score in enumerate(scores) if score > 0.3]
    rows.sort(key=lambda row: -row[2])
    kept: list[list[float]] = []
    for row in rows:
        if all(overlap(row[3:], other[3:]) < 0.4 for other in kept):
            kept.append(row)
    assert 3 < len(kept) < len(rows)
    np.testing.assert_allclose(found[0, 0], kept, rtol=1e-4, atol=1e-6)


def test_detections_need_square_maps() -> None:
    with pytest.raises(NetError, match="expected square maps"):
        make(DETECTION % OUTPUT).tops([(2, 16, 5, 5), (2, 16, 3, 4)])
