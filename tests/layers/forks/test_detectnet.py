"""DetectNet's boxes, against OpenCV's grouping and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers.forks.detectnet import grouped

from ..harness import make, run

RANDOM = np.random.default_rng(59)
PYTHON = 'name: "p" type: "Python" %s python_param { module: "caffe.layers.detectnet.%s" layer: "%s" param_str: "%s" }'


def test_l1_loss() -> None:
    a, b = RANDOM.normal(size=(2, 3, 4, 2, 5)).astype(np.float32)
    b = np.where(RANDOM.uniform(size=a.shape) < 0.3, a, b)
    layer = make('name: "l" type: "L1Loss" bottom: "a" bottom: "b" top: "y"')
    assert layer.dialect == "nvidia"
    found = run(layer, [a, b.reshape(3, 8, 5)], dys=[np.float32(0.7)])
    difference = a - b
    np.testing.assert_allclose(found.tops[0], abs(difference).sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], np.sign(difference) * 0.7 / 3, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[1].reshape(a.shape), -found.bottoms[0])
    with pytest.raises(NetError, match="same count"):
        layer.tops([(3, 4), (3, 5)])


def alike(one: list[int], other: list[int], eps: float) -> bool:
    """OpenCV, cascadedetect.cpp, SimilarRects."""
    delta = eps * (min(one[2], other[2]) + min(one[3], other[3])) * 0.5
    sides = [(box[0], box[1], box[0] + box[2], box[1] + box[3]) for box in (one, other)]
    return all(abs(a - b) <= delta for a, b in zip(*sides, strict=True))


def reference(boxes: list[list[int]], least: int, eps: float) -> list[tuple[tuple[int, ...], int]]:
    """OpenCV, cascadedetect.cpp, groupRectangles."""
    groups: list[list[list[int]]] = []
    for box in boxes:
        near = [group for group in groups if any(alike(box, other, eps) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), box])
    means = [[int(np.rint(np.mean(column))) for column in zip(*group, strict=True)] for group in groups]
    found = []
    for i, (one, n1) in enumerate(zip(means, map(len, groups), strict=True)):
        within = False
        for j, (other, n2) in enumerate(zip(means, map(len, groups), strict=True)):
            dx, dy = (int(np.rint(side * eps)) for side in other[2:])
            inside = one[0] >= other[0] - dx and one[1] >= other[1] - dy
            inside = inside and one[0] + one[2] <= other[0] + other[2] + dx
            inside = inside and one[1] + one[3] <= other[1] + other[3] + dy
            within |= i != j and n2 > least and inside and (n2 > max(3, n1) or n1 < 3)
        if n1 > least and not within:
            found.append((tuple(one), n1))
    return found


def test_boxes_are_grouped_as_in_opencv() -> None:
    seen = set()
    for _ in range(30):
        centers = RANDOM.integers(0, 300, (5, 4)) + np.array([0, 0, 20, 20])
        boxes = np.concatenate([center + RANDOM.integers(-6, 7, (RANDOM.integers(1, 9), 4)) for center in centers])
        boxes[-3:] = [*boxes[0, :2] + 3, 9, 9]
        for least, tolerance in ((1, 0.2), (2, 0.5), (3, 0.05)):
            theirs = reference(boxes.tolist(), least, tolerance)
            assert sorted(grouped(boxes, least, tolerance)) == sorted(theirs)
            seen.add(len(theirs))
    assert len(seen) > 3
    assert grouped(boxes[:2], 0, 0.5) == [(tuple(box), 1) for box in boxes[:2].tolist()]


def test_true_boxes_are_listed_once() -> None:
    layer = make(PYTHON % ('bottom: "c" bottom: "b" top: "y"', "clustering", "ClusterGroundtruth", "48,32,16"))
    coverage, boxes = np.zeros((2, 1, 2, 3)), np.zeros((2, 4, 2, 3))
    coverage[0, 0, 0, 1:] = coverage[1, 0, 1, 0] = 1
    boxes[0, :, 0, 1], boxes[0, :, 0, 2] = (4, 5, 24, 25), (-12, 5, 8, 25)  # one box, seen from two cells
    boxes[1, :, 1, 0] = (1, 2, 3, 4.0625)
    found = run(layer, [coverage, boxes]).tops[0]
    assert found.shape == (2, 50, 5)
    np.testing.assert_array_equal(found[0, :2], [[20, 5, 40, 25, 0], [0] * 5])
    np.testing.assert_array_equal(found[1, :2], [[1, 18, 3, 20.0625, 0], [0] * 5])


def test_detections_vote() -> None:
    param = "64,64,16,0.5,1,0.2,10,2"
    layer = make(PYTHON % ('bottom: "c" bottom: "b" top: "y" top: "z"', "clustering", "ClusterDetections", param))
    coverage, boxes = np.zeros((1, 2, 4, 4)), np.zeros((1, 4, 4, 4))
    coverage[0, 0, 1, :3], coverage[0, 0, 3, 3], coverage[0, 1, 0, 0] = 0.7, 0.4, 0.9
    for column, shift in enumerate((0, 1, 2)):
        boxes[0, :, 1, column] = np.array([10, 4, 40, 44]) - 16 * column * np.array([1, 0, 1, 0]) + shift
    first, second = run(layer, [coverage, boxes]).tops
    np.testing.assert_allclose(first[0, 0], [11, 21, 41, 61, math.log(3)], rtol=1e-3)
    assert not first[0, 1:].any() and not second.any()
    with pytest.raises(NetError, match="expected 7 numbers"):
        make(PYTHON % ('bottom: "c" bottom: "b" top: "y"', "clustering", "ClusterDetections", "64,64,16")).tops(
            [(1, 1, 4, 4), (1, 4, 4, 4)]
        )


def test_boxes_are_scored() -> None:
    true, found = np.zeros((2, 50, 5)), np.zeros((2, 50, 5))
    true[0, :2, :4] = [[0, 0, 10, 10], [20, 20, 40, 40]]
    found[0, :3, :4] = [[1, 0, 11, 10], [0, 1, 10, 11], [100, 100, 120, 120]]
    true[1, 0, :4] = found[1, 0, :4] = [5, 5, 9, 9]
    layer = make(PYTHON % ('bottom: "t" bottom: "f" top: "y"', "mean_ap", "ScoreDetections", ""))
    marked = run(layer, [true, found]).tops[0]
    rows = [[1, 0, 11, 10, 1], [0, 1, 10, 11, 2], [100, 100, 120, 120, 2], [20, 20, 40, 40, 3], [0] * 5]
    np.testing.assert_array_equal(marked[0, :5], rows)
    means = make(PYTHON % ('bottom: "m" top: "a" top: "p" top: "r"', "mean_ap", "mAP", "64,64,16"))
    np.testing.assert_allclose(np.ravel(run(means, [marked]).tops), [100 / 3, 50, 200 / 3], rtol=1e-5)
    np.testing.assert_array_equal(np.ravel(run(means, [marked * 0]).tops), 0)
