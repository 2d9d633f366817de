"""MS-CNN's and Cascade R-CNN's fields, against loops; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(23)
REGRESSION = "bbox_reg_param { bbox_mean: [0, 0.1, 0, -0.1] bbox_std: [0.1, 0.1, 0.2, 0.2] }"
MEAN, DEVIATION = np.array([0, 0.1, 0, -0.1]), np.array([0.1, 0.1, 0.2, 0.2])
CLASSES, HEIGHT, WIDTH, STRIDE = 3, 4, 5, 8
FIELDS = ((24, 40), (30, 28))  # width, height


def truth(count: int) -> np.ndarray:
    """Maps of label, center, size and overlap, with an object of each class in every item."""
    maps = np.zeros((count, 6, HEIGHT, WIDTH))
    maps[:, 5] = RANDOM.uniform(0, 0.49, (count, HEIGHT, WIDTH))
    maps[:, 5, 0, 0] = 0.7  # no object, but too near to one
    for item in range(count):
        for label, (y, x) in enumerate([(1, 2), (3, 4)], 1):
            center = [(x + 0.4) * STRIDE, (y + 0.7) * STRIDE]
            maps[item, :, y, x] = [label, *center, *RANDOM.uniform(20, 40, 2), 0.8]
    return maps


def softmax(x: np.ndarray) -> np.ndarray:
    power = np.exp(x - x.max(1, keepdims=True))
    return power / power.sum(1, keepdims=True)


def smooth(d: float) -> float:
    return d * d / 2 if abs(d) < 1 else abs(d) - 0.5


def encoded(row: np.ndarray, x: int, y: int, field: tuple[int, int]) -> np.ndarray:
    shift = [(row[1] - (x + 0.5) * STRIDE) / field[0], (row[2] - (y + 0.5) * STRIDE) / field[1]]
    growth = [math.log(max(row[3 + axis], 2) / field[axis]) for axis in range(2)]
    return (np.array([*shift, *growth]) - MEAN) / DEVIATION


def loss(scores: np.ndarray, deltas: np.ndarray, maps: np.ndarray, kept: np.ndarray, factor: float) -> list[float]:
    """The loss of kept background and all objects, each weighing the same."""
    p, parts, boxes = softmax(scores), [], []
    for item, y, x in np.ndindex(kept.shape):
        label = int(maps[item, 0, y, x])
        if label or kept[item, y, x]:
            parts.append(-math.log(p[item, label, y, x]))
        if label:
            wanted = encoded(maps[item, :, y, x], x, y, FIELDS[item % len(FIELDS)])
            boxes += [smooth(d) for d in deltas[item, :, y, x] - wanted]
    box = factor * sum(boxes) / len(boxes)
    return [sum(parts) / len(parts) + box, box]


GROUP = (
    'name: "l" type: "DetectionGroupLoss" bottom: "s" bottom: "d" bottom: "t" top: "y" '
    + REGRESSION
    + " detection_group_loss_param { cls_num: 3 lambda: 0.7 stride: 8 field_w: [24, 30] field_h: [40, 28] %s }"
)
SINGLE = (
    'name: "l" type: "DetectionLoss" bottom: "x" bottom: "t" top: "y" '
    + REGRESSION
    + " detection_loss_param { cls_num: 3 lambda: 0.7 downsample_rate: 8 field_w: 24 field_h: 40 %s }"
)


def hardest(scores: np.ndarray, maps: np.ndarray, most: int) -> np.ndarray:
    """The background of largest loss, per image of two fields."""
    ranks = np.where((maps[:, 0] == 0) & (maps[:, 5] < 0.5), -np.log(softmax(scores)[:, 0]), -1)
    kept = np.zeros(ranks.shape, bool)
    for image in range(len(ranks) // 2):
        own = ranks[2 * image : 2 * image + 2].ravel()
        kept[2 * image : 2 * image + 2].reshape(-1)[np.argsort(-own)[:most]] = True
    return kept


def test_the_loss_of_groups_counts_the_hardest_background() -> None:
    scores, deltas = RANDOM.normal(0, 2, (4, CLASSES, HEIGHT, WIDTH)), RANDOM.normal(0, 1, (4, 4, HEIGHT, WIDTH))
    maps = truth(4)
    layer = make(GROUP % 'neg_mining_type: "bootstrap" bg_multiple: 3')
    result = run(layer, [scores, deltas, maps], dys=[np.array([[[[1.3, 9.0]]]], np.float32)])
    kept = hardest(scores, maps, 12)  # 3 for each of 4 objects
    np.testing.assert_allclose(result.tops[0].ravel(), loss(scores, deltas, maps, kept, 0.7), rtol=1e-5)
    for index, array in enumerate((scores, deltas)):  # only the first value of the top has a gradient
        direction = RANDOM.normal(size=array.shape)
        pair = [[array + step * direction if i == index else other for i, other in enumerate((scores, deltas))]
                for step in (1e-6, -1e-6)]  # fmt: skip
        first, second = (loss(*arrays, maps, kept, 0.7)[0] for arrays in pair)
        slope = 1.3 * (first - second) / 2e-6
        assert (result.bottoms[index] * direction).sum() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("mode", ["all", "bootstrap"])
def test_the_loss_of_one_map(mode: str) -> None:
    global FIELDS
    x, maps = RANDOM.normal(0, 0.5, (2, CLASSES + 4, HEIGHT, WIDTH)), truth(2)
    layer = make(SINGLE % f'sample_mode: "{mode}" bg_multiple: 5 field_whr: 9 field_xyr: 0.1')
    result = run(layer, [x, maps], dys=[np.array([[[[1.0, 0.0]]]], np.float32)])
    free = (maps[:, 0] == 0) & (maps[:, 5] < 0.5)
    kept = free.copy()
    if mode == "bootstrap":
        kept[:] = False
        for item in range(2):
            at = np.argwhere(free[item])
            for label in (1, 2):  # five for the one object of each class
                for y, x_ in sorted(map(tuple, at), key=lambda place: -x[item, label, place[0], place[1]])[:5]:
                    kept[item, y, x_] = True
    fields, saved = ((24, 40),), FIELDS
    FIELDS = fields  # type: ignore[assignment]
    try:
        expected = loss(x[:, :CLASSES], x[:, CLASSES:], maps, kept, 0.7)
        direction = RANDOM.normal(size=x.shape)
        first, second = (
            loss(moved[:, :CLASSES], moved[:, CLASSES:], maps, kept, 0.7)[0]
            for moved in (x + 1e-6 * direction, x - 1e-6 * direction)
        )
    finally:
        FIELDS = saved
    np.testing.assert_allclose(result.tops[0].ravel(), expected, rtol=1e-5)
    assert (result.bottoms[0] * direction).sum() == pytest.approx((first - second) / 2e-6, rel=1e-3)


def test_background_is_drawn_in_the_numbers_that_are_asked_for() -> None:
    scores, deltas = np.zeros((2, CLASSES, HEIGHT, WIDTH)), np.zeros((2, 4, HEIGHT, WIDTH))
    for text, objects, rest in (
        ("batch_size: 6 bg_multiple: 2", 2, 4),
        ("bg_multiple: 2", 4, 8),
        ('bg_multiple: 1 min_num_neg: 9 neg_mining_type: "mixture"', 4, 9),
    ):
        layer = make(GROUP % text)
        maps = truth(2)
        labels, weights, _, parts = layer.decide([scores, deltas, maps], np.random.default_rng(1))
        assert [(weights[labels > 0] > 0).sum(), (weights[labels == 0] > 0).sum()] == [objects, rest]
        assert parts.sum() == pytest.approx(0.25)
        assert not weights[:, 0, 0, 0].any()


def test_objects_and_background_can_weigh_the_same() -> None:
    layer = make(GROUP % "bg_multiple: 3 pos_neg_weighted: true")
    maps = truth(2)
    arrays = [np.zeros((2, CLASSES, HEIGHT, WIDTH)), np.zeros((2, 4, HEIGHT, WIDTH)), maps]
    _, weights, _, _ = layer.decide(arrays, np.random.default_rng(1))
    assert weights.sum() == pytest.approx(1)
    assert weights[:, 0][maps[:, 0] > 0].sum() == pytest.approx(1 / 4)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.parametrize("kind", ["DetectionAccuracy", "DetectionGroupAccuracy"])
def test_accuracy_of_fields(kind: str) -> None:
    count, fields = (4, FIELDS) if "Group" in kind else (2, FIELDS[:1])
    scores, deltas = RANDOM.normal(size=(count, CLASSES, HEIGHT, WIDTH)), RANDOM.normal(size=(count, 4, HEIGHT, WIDTH))
    maps = truth(count)
    param = "detection_group_accuracy_param" if "Group" in kind else "detection_accuracy_param"
    sizes = " ".join(f"field_w: {w} field_h: {h}" for w, h in fields)
    stride = "stride" if "Group" in kind else "downsample_rate"
    bottoms = [scores, deltas, maps] if "Group" in kind else [np.concatenate([scores, deltas], 1), maps]
    named = " ".join(f'bottom: "b{index}"' for index in range(len(bottoms)))
    settings = f"{param} {{ cls_num: 3 {stride}: 8 {sizes} }}"
    text = f'name: "a" type: "{kind}" {named} top: "y" top: "iou" {REGRESSION} {settings}'
    found = run(make(text), bottoms).tops
    right, objects, met = [], [], []
    for item, y, x in np.ndindex(count, HEIGHT, WIDTH):
        label, row = int(maps[item, 0, y, x]), maps[item, :, y, x]
        if not label and row[5] >= 0.5:
            continue
        right.append(scores[item, :, y, x].argmax() == label)
        if label:
            objects.append(right[-1])
            delta, field = deltas[item, :, y, x] * DEVIATION + MEAN, np.array(fields[item % len(fields)])
            center = np.clip(delta[:2], -0.25, 0.25) * field + (np.array([x, y]) + 0.5) * STRIDE
            size = np.exp(np.clip(delta[2:], -math.log(2), math.log(2))) * field
            box, true = (np.concatenate([c - s / 2, c + s / 2]) for c, s in ((center, size), (row[1:3], row[3:5])))
            met.append(iou(box, true))
    np.testing.assert_allclose(found[0].ravel(), [np.mean(right), np.mean(objects)], rtol=1e-6)
    np.testing.assert_allclose(found[1].ravel(), np.mean(met), rtol=1e-5)


def test_proposals_of_several_maps() -> None:
    maps = [RANDOM.normal(size=(2, 7, 6, 7)), RANDOM.normal(size=(2, 7, 3, 4))]
    text = (
        f'name: "b" type: "BoxOutput" bottom: "p" bottom: "q" top: "y" top: "scored" {REGRESSION} box_output_param '
        "{ fg_thr: 0.2 iou_thr: 0.5 field_w: [24, 50] field_h: [30, 44] downsample_rate: [8, 16] min_size: 6 "
        "max_nms_num: 40 max_post_nms_num: 12 }"
    )
    plain, scored = run(make(text), maps).tops
    rows = []
    for item in range(2):
        found = []
        for data, field, stride in zip(maps, [(24, 30), (50, 44)], [8, 16], strict=True):
            height, width = data.shape[2:]
            for y, x in np.ndindex(height, width):
                score = data[item, 1:3, y, x].max() - data[item, 0, y, x]
                delta = data[item, 3:, y, x] * DEVIATION + MEAN
                center = np.clip(delta[:2], -0.5, 0.5) * field + (np.array([x, y]) + 0.5) * stride
                size = np.array(field) * np.exp(np.clip(delta[2:], -math.log(2), math.log(2)))
                corner = np.maximum(center - size / 2, 0)
                size = np.minimum(size, np.array([width, height]) * stride - corner)
                if score >= 0.2 and (size >= 6).all():
                    found.append((score, [*corner, *(corner + size)]))
        found.sort(key=lambda pair: -pair[0])
        kept: list[tuple[float, list[float]]] = []
        for score, box in found[:40]:
            if all(iou(np.array(box), np.array(other)) <= 0.5 for _, other in kept):
                kept.append((score, box))
        rows += [[item, *box, score] for score, box in kept[:12]]
    np.testing.assert_allclose(scored[:, :, 0, 0], rows, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(plain, scored[:, :5])
    nothing = run(make(text.replace("fg_thr: 0.2", "fg_thr: 99")), maps).tops
    assert [top.ravel().tolist() for top in nothing] == [[0, 1, 1, 10, 10], [0] * 6]


def test_detections_are_the_moved_regions_of_each_class() -> None:
    corner = RANDOM.uniform(0, 60, (9, 2))
    rois = np.concatenate([np.zeros((9, 1)), corner, corner + RANDOM.uniform(10, 30, (9, 2))], 1)
    scores, deltas = softmax(RANDOM.normal(size=(9, 3))), RANDOM.normal(size=(9, 12))
    text = (
        f'name: "o" type: "FrcnnOutput" bottom: "s" bottom: "d" bottom: "r" bottom: "i" top: "y" {REGRESSION} '
        "frcnn_output_param { conf_thr: 0.25 iou_thr: 0.3 max_det_num: 4 }"
    )
    (top,) = run(make(text), [scores, deltas, rois, np.array([[70.0, 80.0]])]).tops
    rows = []
    for label in (1, 2):
        found = []
        for index in np.argsort(-scores[:, label]):
            x, y, w, h = deltas[index, 4 * label : 4 * label + 4] * DEVIATION + MEAN
            size = rois[index, 3:] - rois[index, 1:3] + 1
            center = np.array([x, y]) * size + (rois[index, 1:3] + rois[index, 3:]) / 2
            half = (np.exp([w, h]) * size - 1) / 2
            low, high = np.maximum(center - half, 0), np.minimum(center + half, [80, 70])
            if scores[index, label] >= 0.25 and all(
                iou(np.array([*low, *(high + 1)]), np.array([*box[:2], *(np.array(box[2:]) + 1)])) <= 0.3
                for box, _ in found
            ):
                found.append(([*low, *high], scores[index, label]))
        rows += [(score, label, box) for box, score in found]
    best = sorted(sorted(rows, key=lambda row: -row[0])[:4], key=lambda row: row[1])
    expected = [[0, -1, -1, -1, -1, -1, -1], *([0, *box, label, score] for score, label, box in best)]
    np.testing.assert_allclose(top[:, :, 0, 0], expected, rtol=1e-4, atol=1e-3)


def test_a_second_detection_of_a_box_is_wrong() -> None:
    found = [[0, -1, -1, -1, -1, -1, -1], [0, 10, 10, 30, 40, 1, 0.6], [0, 11, 10, 30, 41, 1, 0.9],
             [0, 50, 50, 60, 60, 2, 0.8], [0, 70, 10, 90, 30, 2, 0.7]]  # fmt: skip
    true = [[0, 10, 10, 30, 40, 1, 0, 0], [0, 70, 10, 90, 30, 2, 0, 1]]
    text = (
        'name: "e" type: "DetectionEvaluate" bottom: "f" bottom: "t" bottom: "i" top: "y" detection_evaluate_param '
        "{ num_classes: 3 overlap_threshold: 0.5 evaluate_difficult_gt: false }"
    )
    (top,) = run(make(text), [np.array(found), np.array(true), np.array([[100.0, 100.0]])]).tops
    expected = [[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.6, 0, 1], [0, 2, 0.8, 0, 1],
                [0, 2, 0.7, 0, 0]]  # fmt: skip
    np.testing.assert_allclose(top[:, :, 0, 0], expected)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (
            "ImageGtData",
            "image_gt_data_param { batch_size: 2 resize_height: 100 resize_width: 120 crop_height: 61 crop_width: 90 "
            "downsample_rate: [8, 16] field_w: [1, 2] field_h: [1, 2] output_gt_boxes: true }",
            [(2, 3, 61, 90), (2, 6, 7, 11), (2, 6, 3, 5), (1, 7, 1, 1)],
        ),
        (
            "DetectionData",
            "detection_data_param { batch_size: 2 short_size: 60 long_size: 100 stride: [8, 16] field_w: [1, 2] "
            "field_h: [1, 2] output_gt_boxes: true }",
            [(2, 3, 100, 60), (2, 6, 13, 8), (2, 6, 6, 4), (1, 8, 1, 1)],
        ),
        (
            "EvalData",
            "eval_data_param { batch_size: 1 short_size: 60 long_size: 100 }",
            [(1, 3, 100, 60), (1, 8, 1, 1), (1, 2, 1, 1)],
        ),
    ],
)
def test_images_come_with_maps_of_labels(kind: str, text: str, expected: list[tuple[int, ...]]) -> None:
    tops = " ".join(f'top: "t{index}"' for index in range(len(expected)))
    layer = make(f'name: "d" type: "{kind}" {tops} {text}')
    assert list(layer.tops([])) == expected
    random = np.random.default_rng(0)
    examples = [layer.example(index, shape, random) for index, shape in enumerate(expected)]
    assert examples[0] is None
    for example, shape in zip(examples[1:], expected[1:], strict=True):
        assert example is not None and example.size == math.prod(shape)
    larger = make(f'name: "d" type: "{kind}" {tops} {text.replace("size: 60", "size: 300")}')
    larger.shape_overrides = {"t0": (1, 3, 33, 49)}
    assert larger.tops([])[0] == (1, 3, 33, 49)


@pytest.mark.parametrize(("first", "expected"), [(4, [1, 2, 4, 5]), (1, [0, 1, 4, 5])])
def test_the_hardest_regions_of_each_image_are_kept(first: int, expected: list[int]) -> None:
    scores = np.array([0.3, 0.9, 0.5, 0.1, 0.8, 0.7])
    rois = np.zeros((6, 5))
    rois[first:, 0] = 1  # an image of one region, or of few, is filled up with the other's
    labels = np.arange(6.0)
    text = (
        'name: "h" type: "HardMining" bottom: "s" bottom: "r" bottom: "l" top: "rois" top: "labels" '
        "hard_mining_param { num_roi_per_image: 2 num_image: 2 }"
    )
    kept, chosen = run(make(text), [scores, rois, labels]).tops
    assert kept.shape == (4, 5, 1, 1)
    assert chosen.ravel().tolist() == expected
    np.testing.assert_array_equal(kept[:, :, 0, 0], rois[expected])


def test_what_does_not_fit_is_refused() -> None:
    scores, deltas, maps = (2, 3, 4, 5), (2, 4, 4, 5), (2, 6, 4, 5)
    with pytest.raises(NetError, match="expected bottoms of 3, 4, 6 channels"):
        make(GROUP % "").tops([scores, deltas, deltas])
    with pytest.raises(NetError, match="multiple"):
        make(GROUP % "").tops([(3, 3, 4, 5), (3, 4, 4, 5), (3, 6, 4, 5)])
    with pytest.raises(NetError, match="objectness"):
        make(GROUP % "objectness: true").tops([scores, deltas, maps])
    with pytest.raises(NetError, match="labels from 0 to 2, found 0 to 3"):
        wrong = truth(2)
        wrong[0, 0, 0, 0] = 3
        make(GROUP % "").decide([np.zeros(scores), np.zeros(deltas), wrong], np.random.default_rng(0))


def test_boxes_are_ignored_by_their_label_before_objectness() -> None:
    x, maps = RANDOM.normal(size=(2, 6, HEIGHT, WIDTH)), truth(2)
    text = (SINGLE % "objectness: true").replace("cls_num: 3", "cls_num: 2")
    ignoring = run(make(text + " loss_param { ignore_label: 1 }"), [x, maps]).tops[0].ravel()
    maps[:, 0] = np.where(maps[:, 0] == 1, 0, maps[:, 0])
    np.testing.assert_allclose(ignoring[1], run(make(text), [x, maps]).tops[0].ravel()[1], rtol=1e-6)
    assert ignoring[1] > 0
