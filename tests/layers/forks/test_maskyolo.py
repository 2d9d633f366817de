"""MaskYolo: its loss against the reference's loops, the regions that it decodes, their masks and key points."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import make, run

RANDOM = np.random.default_rng(31)
HIGH, WIDE, ANCHORS, CLASSES = 3, 4, 2, 3
SIZES = [(1.5, 0.7), (0.6, 1.2)]
FIELDS = "num_object: 2 anchor_x: 1.5 anchor_x: 0.6 anchor_y: 0.7 anchor_y: 1.2 "
LOSS = 'name: "l" type: "RegionLoss" bottom: "x" bottom: "t" top: "y" region_loss_param { %s }'


def iou(a, b) -> float:
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    inner = 0.0 if min(sides) < 0 else sides[0] * sides[1]
    return inner / (a[2] * a[3] + b[2] * b[3] - inner)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def reference(x, labels, classes, p, mask=None, row=5):
    """Return loss and pulls by the loops of region_loss_layer.cpp."""
    count, size, area = len(x), 5 + classes, HIGH * WIDE
    flat = x.ravel().copy()
    diff = np.zeros_like(flat)
    each = ANCHORS * size * area

    def box(b, n, j, i):
        at = b * each + n * size * area + j * WIDE + i
        return (
            (i + logistic(x.ravel()[at])) / WIDE,
            (j + logistic(x.ravel()[at + area])) / HIGH,
            math.exp(x.ravel()[at + 2 * area]) * SIZES[n][0] / WIDE,
            math.exp(x.ravel()[at + 3 * area]) * SIZES[n][1] / HIGH,
        )

    places = [(b, j, i, n) for b in range(count) for j in range(HIGH) for i in range(WIDE) for n in range(ANCHORS)]
    for b, j, i, n in places:
        at = b * each + (n * size + 4) * area + j * WIDE + i
        flat[at] = logistic(flat[at])
    if p["softmax"]:
        for b, j, i, n in places:
            at = b * each + (n * size + 5) * area + j * WIDE + i
            e = np.exp(flat[at : at + classes] - flat[at : at + classes].max())
            flat[at : at + classes] = e / e.sum()
    losses, objects = dict.fromkeys(("class", "box", "object", "nothing"), 0.0), 0
    for b in range(count):
        rows = []
        for values in labels[b]:
            if values[0] == 0:
                break
            rows.append(values)
        for _, j, i, n in [place for place in places if place[0] == b]:
            if (
                mask is not None
                and mask[b][int((j + 0.5) * mask.shape[1] / HIGH)][int((i + 0.5) * mask.shape[2] / WIDE)] == 255
            ):
                continue
            at = b * each + (n * size + 4) * area + j * WIDE + i
            if max([iou(box(b, n, j, i), values) for values in rows], default=0) <= p["thresh"]:
                losses["nothing"] += p["noobject"] * flat[at] ** 2
                diff[at] = p["noobject"] * flat[at] * flat[at] * (1 - flat[at])
        for values in rows:
            i, j = int(values[0] * WIDE), int(values[1] * HIGH)
            sizes = [
                (width / WIDE, height / HIGH) if p["match"] else box(b, n, j, i)[2:]
                for n, (width, height) in enumerate(SIZES)
            ]
            found = [iou((0, 0, *size_of), (0, 0, *values[2:4])) for size_of in sizes]
            n = int(np.argmax(found))
            at = b * each + n * size * area + j * WIDE + i
            wanted = (
                values[0] * WIDE - i,
                values[1] * HIGH - j,
                math.log(values[2] * WIDE / SIZES[n][0]),
                math.log(values[3] * HIGH / SIZES[n][1]),
            )
            for k in range(4):
                is_center = k < 2
                own = logistic(flat[at + k * area]) if is_center else flat[at + k * area]
                diff[at + k * area] = -p["coord"] * (wanted[k] - own) * (own * (1 - own) if is_center else 1)
                losses["box"] += p["coord"] * (wanted[k] - own) ** 2
            sure = flat[at + 4 * area]
            losses["object"] += p["object"] * (1 - sure) ** 2
            diff[at + 4 * area] = -p["object"] * (1 - sure) * sure * (1 - sure)
            for k in range(classes):
                off = float(k == int(values[4])) - flat[at + (5 + k) * area]
                diff[at + (5 + k) * area] = -p["class"] * off
                losses["class"] += p["class"] * off**2
            objects += 1
    per_box = (losses["class"] + losses["box"] + losses["object"]) / (objects + 0.01)
    return per_box + losses["nothing"] / (area * ANCHORS * count - objects - 0.01), diff.reshape(x.shape) / count


def truths(count: int, row: int = 5) -> np.ndarray:
    labels = np.zeros((2, count, row))
    for item, boxes in enumerate((2, 1)):
        labels[item, :boxes, :2] = RANDOM.uniform(0.1, 0.9, (boxes, 2))
        labels[item, :boxes, 2:4] = RANDOM.uniform(0.1, 0.5, (boxes, 2))
        labels[item, :boxes, 4] = RANDOM.integers(0, CLASSES, boxes)
        labels[item, :boxes, 5:] = 1 + np.arange(boxes)[:, None]
    return labels


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("match", [True, False])
def test_the_loss_is_the_references(softmax: bool, match: bool) -> None:
    flags = f"softmax: {str(softmax).lower()} bias_match: {str(match).lower()}"
    layer = make(LOSS % (FIELDS + f"num_class: 3 object_scale: 2 coord_scale: 3 class_scale: 1.5 thresh: 0.2 {flags}"))
    assert layer.dialect == "maskyolo"
    x = RANDOM.normal(size=(2, 16, HIGH, WIDE)).astype(np.float32).astype(float)
    labels = truths(4).astype(np.float32)
    p = {"softmax": softmax, "match": match, "thresh": 0.2, "noobject": 0.5, "object": 2, "coord": 3, "class": 1.5}
    loss, slope = reference(x, labels, CLASSES, p)
    result = run(layer, [x, labels.reshape(2, 20)], dys=[np.array(2.0, np.float32)])
    np.testing.assert_allclose(result.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], 2 * slope, rtol=1e-4, atol=1e-6)


def test_masked_places_are_not_learned_and_no_class_is_none() -> None:
    layer = make(
        LOSS % (FIELDS + "num_class: 0 softmax: false with_mask: true mask_w: 8 mask_h: 9 thresh: 0.6 bias_match: true")
    )
    x = RANDOM.normal(size=(2, 10, HIGH, WIDE)).astype(np.float32).astype(float)
    rows = truths(3, 6)
    rows[..., 4] = 0
    mask = RANDOM.choice([0, 1, 255], (2, 9, 8))
    labels = np.concatenate([rows.reshape(2, -1), mask.reshape(2, -1)], 1).astype(np.float32)
    p = {"softmax": False, "match": True, "thresh": 0.6, "noobject": 0.5, "object": 1, "coord": 5, "class": 1}
    loss, slope = reference(x, rows.astype(np.float32), 0, p, mask)
    result = run(layer, [x, labels])
    np.testing.assert_allclose(result.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], slope, rtol=1e-4, atol=1e-6)


TOPS = " ".join(f'top: "t{index}"' for index in range(7))


def decoding(fields: str) -> Layer:
    text = f'name: "l" type: "DecodeRois" bottom: "x" bottom: "g" {TOPS} decode_rois_param {{ {FIELDS} {fields} }}'
    return make(text)


def test_shapes_of_what_is_decoded() -> None:
    layer = decoding("num_class: 3 prop_num: 6 target_size: 5 sigma: 1 mask_w: 4 mask_h: 3")
    assert layer.tops([(1, 16, 7, 9), (1, 2 * 41 + 12)]) == (
        (6, 5), (6,), (6, 12), (6, 12), (6, 12), (6, 5, 5), (6, 18, 5, 5)
    )  # fmt: skip
    stand_in = layer.stand_in(1, [(1, 16, 7, 9), (1, 94)], RANDOM)
    assert stand_in is not None
    assert stand_in[0, 0] > 0


def predicted(boxes: list[tuple[int, int, int, float]]) -> np.ndarray:
    """Return a map that is sure of boxes of the anchors' sizes at the centers of cells: anchor, row, column, logit."""
    x = np.zeros((1, ANCHORS, 5, HIGH, WIDE), np.float32)
    x[:, :, 4] = -9
    for anchor, row, column, logit in boxes:
        x[0, anchor, 4, row, column] = logit
    return x.reshape(1, -1, HIGH, WIDE)


def test_regions_near_to_true_boxes_come_first_with_their_targets() -> None:
    layer = decoding(
        "num_class: 0 prop_num: 5 target_size: 4 net_w: 40 net_h: 30 with_mask: false with_kps: false thresh: 0.3"
    )
    size = (1.5 / WIDE, 0.7 / HIGH)
    center = (2.5 / WIDE, 1.5 / HIGH)
    labels = np.zeros((1, 3, 5), np.float32)
    labels[0, 0] = [center[0] + 0.02, center[1] - 0.01, size[0], size[1] * 1.2, 0]
    x = predicted([(1, 0, 0, 3.0), (0, 1, 2, 2.0), (0, 2, 0, 1.0)])
    regions, classes, targets, inside, outside, masks, points = layer.decide([x, labels], RANDOM)
    np.testing.assert_array_equal(classes, [1, 0, 0, 0, 0])
    low, high = np.subtract(center, np.divide(size, 2)), np.add(center, np.divide(size, 2))
    high = np.minimum(high, 1)
    np.testing.assert_allclose(regions[0], [0, *(low * [40, 30]), *(high * [40, 30])], rtol=1e-5)
    # of those away from the true box in the order of anchors
    np.testing.assert_allclose(regions[1, 1:3], [0, (2.5 - 0.35) / HIGH * 30], atol=1e-4)
    np.testing.assert_allclose(regions[2, 3:], [(0.5 + 0.3) / WIDE * 40, (0.5 + 0.6) / HIGH * 30], atol=1e-4)
    assert (regions[3:, 3:] > regions[3:, 1:3]).all()
    middle, whole = (low + high) / 2, high - low
    expected = [*((labels[0, 0, :2] - middle) / whole), *np.log(labels[0, 0, 2:4] / whole)]
    np.testing.assert_allclose(targets[0], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(inside, [[1] * 4] + [[0] * 4] * 4)
    np.testing.assert_array_equal(outside, inside)
    assert not masks.any()
    assert not points.any()


def test_less_likely_boxes_are_suppressed_without_classes_only() -> None:
    x = predicted([(0, 1, 1, 3.0), (0, 1, 2, 2.0)])
    x = x.reshape(1, ANCHORS, 5, HIGH, WIDE)
    x[0, 0, 0, 1, 1], x[0, 0, 0, 1, 2] = 3, -3  # both move to the edge between them
    x = x.reshape(1, -1, HIGH, WIDE)
    layer = decoding("num_class: 0 prop_num: 5 with_mask: false with_kps: false thresh: 0.3")
    assert len(layer.found(x[0])) == 1
    classes = decoding("num_class: 2 prop_num: 5 with_mask: false with_kps: false thresh: 0.3")
    assert len(classes.found(np.concatenate([x[0], np.zeros((4, HIGH, WIDE))]))) == 2


def test_masks_and_key_points_of_a_region() -> None:
    fields = "num_class: 0 prop_num: 1 target_size: 3 mask_w: 12 mask_h: 9 net_w: 12 net_h: 9 thresh: 0.3 "
    center, size = (1.5 / WIDE, 1.5 / HIGH), (1.5 / WIDE, 0.7 / HIGH)
    rows = np.array([[*center, *size, 0, 4]], np.float32)
    mask = np.zeros((9, 12), np.float32)
    mask[:, 5:] = 4
    points = np.zeros((1, 35), np.float32)
    points[0, :3] = [4, center[0], center[1]]
    labels = np.concatenate([rows.ravel(), mask.ravel(), points.ravel()])[None]
    tops = decoding(fields).decide([predicted([(0, 1, 1, 3.0)]), labels], RANDOM)
    # the region is columns 2.25 to 6.75 and rows 3.45 to 5.55 of the mask: columns 2 to 5 of which the last is marked
    np.testing.assert_array_equal(tops[5][0], [[0, 0, 1]] * 3)
    expected = np.zeros((3, 3))
    expected[2, 2] = 1  # 1.5 is rounded to 2
    np.testing.assert_array_equal(tops[6][0], expected)
    maps = decoding(fields + "sigma: 0.5").decide([predicted([(0, 1, 1, 3.0)]), labels], RANDOM)[6][0]
    y, x = np.indices((3, 3))
    exponent = ((x - 1.5) ** 2 + (y - 1.5) ** 2) / 2 / 0.25
    gaussian = np.where(exponent > 4.6052, 0, np.exp(-exponent))
    np.testing.assert_allclose(maps[0], gaussian, rtol=1e-4)
    np.testing.assert_allclose(maps[17], 1 - gaussian, rtol=1e-4)
    assert not maps[1:17].any()


@pytest.mark.parametrize(
    ("fields", "shapes", "message"),
    [
        (FIELDS, [(1, 11, 3, 4), (1, 10)], "a map of 50 channels"),
        (FIELDS + "num_class: 0 anchor_x: 1", [(1, 10, 3, 4), (1, 10)], "num_object times .2., found 3 and 2"),
        (FIELDS + "num_class: 0", [(1, 10, 3, 4), (1, 11)], "whole rows of 5 values"),
    ],
)
def test_what_does_not_fit(fields: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(LOSS % fields).tops(shapes)


def test_roi_gen_gives_the_likely_boxes() -> None:
    fields = f"{FIELDS} num_class: 0 prop_num: 5 thresh: 0.6 net_w: 40 net_h: 30"
    layer = make(f'name: "l" type: "RoiGen" bottom: "x" top: "r" top: "c" roi_gen_param {{ {fields} }}')
    x = RANDOM.normal(size=(2, ANCHORS * 5, HIGH, WIDE))
    expected = []
    for b in range(2):
        values = x[b].reshape(ANCHORS, 5, HIGH, WIDE)
        boxes = []
        for n, j, i in np.ndindex(ANCHORS, HIGH, WIDE):
            v = values[n, :, j, i]
            size = (math.exp(v[2]) * SIZES[n][0] / WIDE, math.exp(v[3]) * SIZES[n][1] / HIGH)
            boxes.append((logistic(v[4]), ((i + logistic(v[0])) / WIDE, (j + logistic(v[1])) / HIGH, *size)))
        kept = {k for k, (sure, _) in enumerate(boxes) if sure > np.float32(0.6)}
        for k in sorted(range(len(boxes)), key=lambda k: -boxes[k][0]):
            if k in kept:
                kept -= {
                    m for m in kept if m != k and boxes[m][0] < boxes[k][0] and iou(boxes[k][1], boxes[m][1]) > 0.4
                }
        for k in sorted(kept):
            a, c, w, h = boxes[k][1]
            corners = [max(a - w / 2, 0) * 40, max(c - h / 2, 0) * 30, min(a + w / 2, 1) * 40, min(c + h / 2, 1) * 30]
            expected.append([b, *corners])
    regions, classes = run(layer, [x]).tops
    count = min(len(expected), 5)
    assert count > 2
    np.testing.assert_allclose(regions[:count], expected[:count], rtol=1e-4, atol=1e-5)
    assert not regions[count:].any()
    np.testing.assert_array_equal(classes, [1] * count + [0] * (5 - count))


def test_labels_of_masks_and_key_points_have_their_sizes() -> None:
    text = (
        'name: "l" type: "%s" top: "data" top: "label" transform_param { resize_w: 24 resize_h: 16 jitter: 0.2 } '
        'data_param { source: "x" batch_size: 3 backend: LMDB max_box_num: 7 min_size_or: 0.1 }'
    )
    layer = make(text % "MaskBoxData")
    assert layer.tops([]) == ((3, 3, 16, 24), (3, 7 * 6 + 16 * 24))
    assert layer.example(1, (3, 7 * 6 + 16 * 24), RANDOM).shape == (3, 426)
    assert make(text % "KpsBoxData").tops([])[1] == (3, 7 * 6 + 16 * 24 + 7 * 35)
