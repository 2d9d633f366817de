"""Boxes at each place of a map, against the loops of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(5)
HIGH, WIDE = 5, 7


def logistic(x):
    return 1 / (1 + math.exp(-x))


def smooth(d):
    return (d * d / 2, d) if abs(d) < 1 else (abs(d) - 0.5, math.copysign(1, d))


def reference_loss(x, truth, softmax, points, scale, low, up, net, once=1.0):
    """Return the loss and its slope by the loops of center_bbox_util.cpp, normalization VALID, dy = once."""
    first = 14 if points else 4
    count, _, high, wide = x.shape
    slope, label = np.zeros_like(x), np.full((count, high, wide), 0.5)
    loss = {"box": 0.0, "class": 0.0, "point": 0.0}
    matches = faces = 0
    ratio, k = net / high, 1 if softmax else 2
    for b in range(count):
        taken = np.zeros((high, wide))
        for row in truth[b, 0]:
            if row[0] == -1:
                continue
            x1, y1, x2, y2 = row[3] * wide, row[4] * high, row[5] * wide, row[6] * high
            inner = [(h, w) for h in range(int(y1), int(y2)) for w in range(int(x1), int(x2))]
            for h, w in inner:
                label[b, h, w] = -10
            if not low <= max(int((x2 - x1) * ratio), int((y2 - y1) * ratio)) < up:
                continue
            for h, w in inner:
                if taken[h, w]:
                    continue
                for c, (place, side) in enumerate(((w, x1), (h, y1), (w, x2), (h, y2))):
                    part, slope[b, c, h, w] = smooth(x[b, c, h, w] - (place + 0.5 - side) * ratio * k / scale)
                    loss["box"] += part
                if points and row[8] > 0 and (row[9:] > 0).all():
                    for c in range(10):
                        place, size = ((w, wide), (h, high))[c % 2]
                        goal = (place + 0.5 - row[9 + c] * size) * ratio / scale
                        part, slope[b, 4 + c, h, w] = smooth(x[b, 4 + c, h, w] - goal)
                        loss["point"] += part
                    faces += 1
                label[b, h, w] = taken[h, w] = 1
                matches += 1
        for h in range(high):
            for w in range(wide):
                if label[b, h, w] == -10:
                    continue
                chosen = int(label[b, h, w] == 1)
                if softmax:
                    e = np.exp(x[b, first:, h, w])
                    p = e[chosen] / e.sum()
                    loss["class"] -= 0.25 * (1 - p) ** 2 * math.log(p)
                    change = 0.25 * (1 - p) ** 2 * (2 * math.log(p) * p - (1 - p))
                    slope[b, first + chosen, h, w], slope[b, first + 1 - chosen, h, w] = change, -change
                else:
                    p = logistic(x[b, 4, h, w])
                    q = p if chosen else 1 - p
                    loss["class"] -= 2 * (1 - q) ** 4 * math.log(q)
                    if chosen:
                        slope[b, 4, h, w] = 2 * (1 - p) ** 4 * (4 * p * math.log(p) + p - 1)
                    else:
                        slope[b, 4, h, w] = 2 * p**4 * (p - 4 * (1 - p) * math.log(1 - p))
    divisor, of_points = max(matches or count, 1), max(faces or count, 1)
    slope *= once / divisor
    slope[:, 4:first] *= 0.1 * once * divisor / of_points
    return (loss["box"] + loss["class"]) / divisor + 0.1 * loss["point"] / of_points, slope


LOSS = (
    'name: "l" type: "CenterGridLoss" bottom: "x" bottom: "t" top: "y" loss_param { normalization: VALID } '
    "center_object_loss_param { bias_num: 1 bias_scale: 24 net_width: 56 net_height: 40 low_bbox_scale: 12 "
    "up_bbox_scale: 40 num_class: %d class_type: %s has_lm: %s }"
)


@pytest.mark.parametrize(("softmax", "points"), [(False, False), (True, False), (True, True)])
def test_grid_loss_is_that_of_the_loops(softmax, points) -> None:
    truth = np.zeros((2, 1, 3, 19 if points else 8), np.float32)
    truth[:, 0, :, 0] = [[0, 0, 0], [1, -1, 1]]
    truth[0, 0, :, 3:7] = [[0.1, 0.15, 0.7, 0.8], [0.4, 0.3, 0.95, 0.9], [0.0, 0.0, 1.0, 1.0 - 1e-3]]
    truth[1, 0, :, 3:7] = [[0.3, 0.2, 0.8, 0.7], [0, 0, 0, 0], [0.5, 0.1, 0.6, 0.2]]
    if points:
        truth[..., 8:] = RANDOM.uniform(0.1, 0.9, truth[..., 8:].shape)
        truth[0, 0, 1, 12] = -1
    x = RANDOM.normal(size=(2, 4 + 10 * points + 1 + softmax, HIGH, WIDE))
    classes = "SOFTMAX" if softmax else "SIGMOID"
    layer = make(LOSS % (1 + softmax, classes, str(points).lower()))
    dy = 0.5
    expected, slope = reference_loss(x, truth, softmax, points, 24, 12, 40, 40, dy)
    found = run(layer, [x, truth], dys=[np.array(dy, np.float32)])
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], slope, rtol=1e-4, atol=1e-7)
    if not points:
        moved = RANDOM.normal(size=x.shape)
        ahead, behind = (
            reference_loss(x + step * moved, truth, softmax, points, 24, 12, 40, 40)[0] for step in (1e-6, -1e-6)
        )
        np.testing.assert_allclose((found.bottoms[0] * moved).sum() / dy, (ahead - behind) / 2e-6, rtol=1e-4)


def test_grid_loss_is_nothing_without_boxes_and_refuses_those_outside() -> None:
    layer = make(LOSS % (1, "SIGMOID", "false"))
    x, truth = RANDOM.normal(size=(1, 5, HIGH, WIDE)), np.full((1, 1, 2, 8), -1, np.float32)
    found = run(layer, [x, truth])
    assert found.tops[0] == 0
    assert not found.bottoms[0].any()
    truth[0, 0, 0] = [0, 1, 0, 0.2, 0.3, 1.4, 0.6, 0]
    with pytest.raises(NetError, match="boxes of image 0 within 0 to 1"):
        run(layer, [x, truth])
    with pytest.raises(NetError, match="true boxes of shape"):
        layer.tops([(1, 5, HIGH, WIDE), (1, 1, 2, 19)])


def suppress(rows, areas, threshold):
    """Return the rows that are left, the best first: loops of hard_nms."""
    kept = []
    for i in sorted(range(len(rows)), key=lambda i: -rows[i][1]):
        for j in kept:
            a, b = rows[i][2:6], rows[j][2:6]
            sides = [max(min(a[n + 2], b[n + 2]) - max(a[n], b[n]) + 1, 0) for n in (0, 1)]
            shared = sides[0] * sides[1]
            if shared / (areas[i] + areas[j] - shared) > threshold:
                break
        else:
            kept.append(i)
    return [rows[i] for i in kept]


@pytest.mark.parametrize(("softmax", "points"), [(False, False), (True, True)])
def test_grid_output_is_that_of_the_loops(softmax, points) -> None:
    classes = "SOFTMAX" if softmax else "SIGMOID"
    layer = make(
        'name: "l" type: "CenterGridOutput" bottom: "a" bottom: "b" bottom: "c" top: "y" detection_output_param { '
        f"num_classes: {1 + softmax} class_type: {classes} has_lm: {str(points).lower()} nms_thresh: 0.2 keep_top_k: 9 "
        "bias_scale: 10 bias_scale: 14 bias_scale: 20 confidence_threshold: 0.55 net_width: 48 net_height: 40 }"
    )
    first = 14 if points else 4
    channels = first + 1 + softmax
    maps = [RANDOM.normal(size=(2, channels, s, s + 1)).astype(np.float32) for s in (3, 4, 6)]
    expected = []
    for b in range(2):
        rows, areas = [], []
        for x, scale in zip(maps, (10, 14, 20), strict=True):
            high, wide = x.shape[2:]
            ratio = 48 / wide
            for h in range(high):
                for w in range(wide):
                    k = 1 if softmax else 2
                    at = [
                        (place + 0.5 - x[b, c, h, w] * scale / (k * ratio)) * ratio
                        for c, place in enumerate([w, h, w, h] + [w] * (first - 4))
                    ]
                    at = [min(max(v, 0), (wide, high)[c % 2] * ratio) for c, v in enumerate(at)]
                    last = x[b, first:, h, w].astype(float)
                    score = logistic(last[1] - last[0] if softmax else last[0])
                    if at[2] > at[0] and at[3] > at[1] and score >= 0.55:
                        rows.append([1, score, *at])
                        areas.append((at[2] - at[0]) * (at[3] - at[1]))
        for row in suppress(rows, areas, 0.2)[:9]:
            expected.append([b, *row[:2], *(v / (48, 40)[c % 2] for c, v in enumerate(row[2:]))])
    (found,) = run(layer, maps).tops
    assert len(expected) > 4
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-6)


def test_centernet_output_decodes_and_suppresses_within_an_image() -> None:
    layer = make(
        'name: "l" type: "CenternetDetectionOutput" bottom: "a" bottom: "b" top: "y" detection_output_param { '
        "num_classes: 3 has_lm: true nms_thresh: 0.3 keep_top_k: 6 confidence_threshold: 0.3 }"
    )
    x = RANDOM.normal(size=(2, 14, HIGH, WIDE)).astype(np.float32)
    scores = RANDOM.uniform(0, 1.2, (2, 2, HIGH, WIDE)).astype(np.float32)
    expected = []
    most = (4 * WIDE, 4 * HIGH)
    for b in range(2):
        rows, areas = [], []
        for c in range(2):
            for h in range(HIGH):
                for w in range(WIDE):
                    if 0.3 < scores[b, c, h, w] < 1:
                        v = x[b, :, h, w].astype(float)
                        center, size = ((w + v[0]) * 4, (h + v[1]) * 4), (math.exp(v[2]) * 4, math.exp(v[3]) * 4)
                        ends = [min(max(center[n] + s * size[n] / 2, 0), most[n]) for s in (-1, 1) for n in (0, 1)]
                        own = (ends[2] - ends[0], ends[3] - ends[1])
                        marks = [
                            min(max((center[n % 2] + v[4 + n] * own[n % 2]) * 4, 0), most[n % 2]) for n in range(10)
                        ]
                        rows.append([c + 1, scores[b, c, h, w], *ends, *marks])
                        areas.append(size[0] * size[1])
        for row in suppress(rows, areas, 0.3)[:6]:
            expected.append([b, *row[:2], *(row[2 + n] / most[n % 2] for n in range(4)), *row[6:]])
    (found,) = run(layer, [x, scores]).tops
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-5)
    (nothing,) = run(layer, [x, scores * 0]).tops
    assert nothing.shape == (1, 1, 2, 17)
    np.testing.assert_array_equal(nothing[0, 0, :, 0], [0, 1])
    assert (nothing[0, 0, :, 1:] == -1).all()
