"""RRPN's layers on turned boxes, against clipped polygons and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer
from caffestat.layers.forks.turned import anchors, from_deltas, to_deltas, turned_overlaps

from ..harness import TEST, TRAIN, make

RANDOM = np.random.default_rng(50)


def corners(box: np.ndarray) -> list[tuple[float, float]]:
    x, y, high, wide, angle = box
    c, s = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
    ends = [(-wide / 2, -high / 2), (-wide / 2, high / 2), (wide / 2, high / 2), (wide / 2, -high / 2)]
    return [(x + c * u - s * v, y + s * u + c * v) for u, v in ends]


def area(polygon: list[tuple[float, float]]) -> float:
    pairs = zip(polygon, [*polygon[1:], *polygon[:1]], strict=True)
    return sum(a * d - b * c for (a, b), (c, d) in pairs) / 2


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Clip one polygon by the sides of the other, one after the other."""
    left, ring = corners(a), corners(b)
    ring = ring if area(ring) > 0 else ring[::-1]
    for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True):
        side = [(x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) for x, y in left]
        kept = []
        for i, point in enumerate(left):
            j = (i + 1) % len(left)
            if side[i] >= 0:
                kept.append(point)
            if side[i] * side[j] < 0:
                t = side[i] / (side[i] - side[j])
                kept.append(tuple(p + t * (q - p) for p, q in zip(point, left[j], strict=True)))
        left = kept
    shared = abs(area(left)) if left else 0.0
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def boxes(count: int) -> np.ndarray:
    center, size = RANDOM.uniform(0, 60, (count, 2)), RANDOM.uniform(8, 50, (count, 2))
    return np.concatenate([center, size, RANDOM.uniform(-45, 135, (count, 1))], 1)


def test_overlaps_are_those_of_polygons() -> None:
    a, b = boxes(9), boxes(7)
    b[0], b[1] = a[0], [*a[1, :2], *a[1, 3:1:-1], a[1, 4] - 90]  # the same box, and said in another way
    b[2] = [*a[2, :2], *(a[2, 2:4] / 2), a[2, 4]]
    found = turned_overlaps(a, b)
    np.testing.assert_allclose(found, [[overlap(x, y) for y in b] for x in a], atol=1e-9)
    np.testing.assert_allclose([found[0, 0], found[1, 1], found[2, 2]], [1, 1, 0.25], atol=1e-9)
    assert (found == 0).any()


def test_anchors_have_ratios_scales_and_angles() -> None:
    found = anchors((8, 16))
    assert found.shape == (36, 5)
    np.testing.assert_array_equal(found[0], [7, 7, 56, 288, -30])  # 36 · 0.2 is 7, and both times 8
    np.testing.assert_array_equal(found[6 + 1], [7, 7, 112, 576, 0])
    np.testing.assert_array_equal(found[-1], [7, 7, 256, 256, 120])


def test_deltas_move_turned_boxes_to_their_targets() -> None:
    first, second = boxes(8), boxes(8)
    first[0, 4], second[0, 4] = 130, -40  # a small turn across the end of the range
    deltas = to_deltas(first, second)
    assert deltas[0, 4] == pytest.approx(math.radians(10))
    np.testing.assert_allclose(from_deltas(first, deltas), second, rtol=1e-9)


def python(module: str, code: str, settings: str, bottoms: int, tops: int, phase: int = TRAIN) -> Layer:
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    param = f'python_param {{ module: "rotation.{module}" layer: "{code}" param_str: "{settings}" }}'
    return make(f'name: "p" type: "Python" {blobs} {param}', phase)


def test_proposals_are_the_best_turned_boxes() -> None:
    settings = r"'feat_stride': 16 \n'scales': [1, 2]"
    layer = python("rproposal_layer", "ProposalLayer", settings, 3, 2, TEST)
    scores = RANDOM.random((1, 72, 2, 3)).astype(np.float32)
    deltas = RANDOM.normal(0, 0.1, (1, 180, 2, 3)).astype(np.float32)
    bottoms = [scores, deltas, np.array([[32, 48, 0.5]], np.float32)]
    shapes = [b.shape for b in bottoms]
    assert layer.tops(shapes) == ((1, 6), (1, 1, 1, 1, 1))
    found = []
    for y, x, a in np.ndindex(2, 3, 36):
        box = anchors((1, 2))[a] + np.array([16 * x, 16 * y, 0, 0, 0])
        dx, dy, dw, dh, turn = deltas[0, 5 * a : 5 * a + 5, y, x].astype(float)
        angle = box[4] + math.degrees(turn)
        angle += 180 if angle < -45 else -180 if angle > 135 else 0
        moved = [box[0] + dx * box[3], box[1] + dy * box[2], box[2] * np.exp(dh), box[3] * np.exp(dw), angle]
        if min(moved[2:4]) >= 8:
            found.append((scores[0, 36 + a, y, x], np.array(moved)))
    kept: list[np.ndarray] = []
    for _, box in sorted(found, key=lambda pair: -pair[0]):
        if all(overlap(box, other) <= 0.7 for other in kept):
            kept.append(box)
    rows, values = layer.decide(bottoms, RANDOM)
    assert len(kept) < len(found)
    np.testing.assert_allclose(rows[:, 1:], kept, rtol=1e-3, atol=1e-3)
    assert (np.diff(values[:, 0]) <= 0).all()
    with pytest.raises(NetError, match=r"deltas \(1, 180, H, W\) for 36 anchors"):
        layer.tops([shapes[0], (1, 144, 2, 3), shapes[2]])


def test_turned_anchors_are_objects_where_they_meet_a_true_box() -> None:
    settings = r"'feat_stride': 16 \n'scales': [2, 3]"
    layer = python("anchor_target_layer", "AnchorTargetLayer", settings, 4, 4)
    truth = np.array([[40, 30, 30, 34, 3, 1], [60, 60, 20, 45, 100, 1.0]])
    bottoms = [np.zeros((1, 72, 6, 7)), truth, np.array([[96, 112, 1.0]]), np.zeros((1, 3))]
    assert layer.tops([b.shape for b in bottoms])[1] == (1, 180, 6, 7)
    labels, targets, inside, outside = layer.decide(bottoms, RANDOM)
    counted = 0
    table = {}
    for a, y, x in np.ndindex(36, 6, 7):
        box = anchors((2, 3))[a] + np.array([16 * x, 16 * y, 0, 0, 0])
        c, s = math.cos(math.radians(box[4])), math.sin(math.radians(box[4]))
        ends = [(u * box[2] / 2, v * box[3] / 2) for u in (-1, 1) for v in (-1, 1)]
        places = [(box[0] + c * u - s * v, box[1] + s * u + c * v) for u, v in ends]
        if all(-24 < u < 120 and -28 < v < 140 for u, v in places):
            table[a, y, x] = box, [overlap(box, row[:5]) for row in truth]
    best = np.max([scores for _, scores in table.values()], 0)
    for at in np.ndindex(36, 6, 7):
        label = labels.reshape(36, 6, 7)[at]
        if at not in table:
            assert label == -1
            continue
        box, scores = table[at]
        turn = [min(abs(box[4] - row[4]), abs(180 - abs(box[4] - row[4]))) for row in truth]
        is_best = any(abs(v - b) < 1e-9 and t <= 15 for v, b, t in zip(scores, best, turn, strict=True))
        if max(scores) >= 0.7 or is_best:
            counted += 1
            assert label == 1
            part = slice(5 * at[0], 5 * at[0] + 5)
            wanted = to_deltas(box[None], truth[[int(np.argmax(scores))]])[0]
            np.testing.assert_allclose(targets[0, part, at[1], at[2]], wanted, rtol=1e-4, atol=1e-5)
            assert inside[0, part, at[1], at[2]].all()
        else:
            assert label == -1 or (label == 0 and max(scores) < 0.3)
    assert counted
    assert outside.sum() == pytest.approx(5)


def test_targets_of_turned_regions() -> None:
    layer = python("rproposal_target_layer", "ProposalTargetLayer", "'num_classes': 3", 2, 5)
    truth = np.array([[40, 30, 30, 40, 0, 2], [80, 80, 20, 60, 100, 1.0]], np.float32)
    rois = np.array([[0, 41, 30, 30, 40, 5], [0, 40, 30, 30, 40, 20], [0, 80, 79, 22, 58, 110], [0, 55, 30, 30, 40, 0]])
    tops = layer.decide([rois.astype(np.float32), truth], RANDOM)
    assert layer.tops([(4, 6), (2, 6)]) == ((1, 6), (1, 1), *[(1, 15)] * 3)
    labels = {tuple(np.round(row[1:])): label for row, label in zip(tops[0], tops[1], strict=True)}
    assert labels == {
        (41, 30, 30, 40, 5): 2,
        (40, 30, 30, 40, 20): 0,  # too far turned
        (80, 79, 22, 58, 110): 1,
        (55, 30, 30, 40, 0): 0,
        (40, 30, 30, 40, 0): 2,
        (80, 80, 20, 60, 100): 1,
    }
    for row, label, target, weight in zip(*tops[:4], strict=True):
        assert weight.sum() == (5 if label else 0)
        if label:
            nearest = truth[0 if label == 2 else 1, :5].astype(float)
            part = target.reshape(3, 5)[int(label)]
            np.testing.assert_allclose(part, to_deltas(row[None, 1:].astype(float), nearest[None])[0], atol=1e-5)


def test_true_boxes_of_turned_data_have_six_numbers() -> None:
    layer = python("rlayer", "RoIDataLayer", "'num_classes': 2", 0, 3)
    assert layer.tops([])[2] == (1, 6)
