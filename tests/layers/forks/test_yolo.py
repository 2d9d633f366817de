"""YOLO's losses and outputs, against loops written from their references."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers.forks.darknet import overlap, pull_of_overlap

from ..harness import Result, make, run

BIASES = (1.1, 0.9, 2.3, 2.6, 0.6, 1.7, 3.1, 1.2, 1.6, 1.9)
WRITTEN = " ".join(f"biases: {bias}" for bias in BIASES)
DY = [np.full((), 3, np.float32)]
Box = Sequence[float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou(a: Box, b: Box) -> float:
    w, h = (
        min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    )
    return 0 if w < 0 or h < 0 else w * h / (a[2] * a[3] + b[2] * b[3] - w * h)


def iou_within(a: Box, b: Box) -> float:
    """The overlap of what lies of two boxes within the image."""
    a, b = (
        [*(max(0, c[k] - c[k + 2] / 2) for k in (0, 1)), *(min(1, c[k] + c[k + 2] / 2) for k in (0, 1))] for c in (a, b)
    )
    w, h = (min(a[k + 2], b[k + 2]) - max(a[k], b[k]) for k in (0, 1))
    if w <= 0 or h <= 0:
        return 0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def text(kind: str, fields: str, bottoms: int = 2) -> str:
    param = {"Yolov3": "yolov3_param", "GaussianYolov3": "yolov3_param", "RegionLoss": "region_loss_param"}.get(kind)
    names = {
        "DetectionLoss": "detection_loss_param",
        "EvalDetection": "eval_detection_param",
        "DetectionOutput": "detection_output_param",
        "DetectionEvaluate": "detection_evaluate_param",
        "YoloDetectionOutput": "yolo_detection_output_param",
        "Yolov3DetectionOutput": "yolov3_detection_output_param",
    }
    read = " ".join(f'bottom: "b{i}"' for i in range(bottoms))
    return f'name: "l" type: "{kind}" {read} top: "y" {param or names[kind]} {{ {fields} }}'


def check(found: Result, loss: float, slope: np.ndarray) -> None:
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-4)
    np.testing.assert_allclose(found.bottoms[0], 3 * slope, rtol=1e-3, atol=1e-5)


# ---- version 1 -------------------------------------------------------------------------------------------------------

SIDE, CLASSES, OBJECTS, ITEMS = 3, 4, 2, 2
CELLS = SIDE**2


def first_truth() -> np.ndarray:
    """Make labels: of items 0 and 1, objects in three and two cells, one difficult."""
    labels = np.zeros((ITEMS, 7 * CELLS))
    for item, cell, label in ((0, 1, 2), (0, 4, 0), (0, 8, 2), (1, 3, 3), (1, 5, 1)):
        labels[item, CELLS + cell], labels[item, 2 * CELLS + cell] = 1, label
        place = [(cell % SIDE + 0.3) / SIDE, (cell // SIDE + 0.6) / SIDE, 0.3 + 0.02 * cell, 0.5 - 0.03 * cell]
        labels[item, 3 * CELLS + 4 * cell :][:4] = place
    labels[0, 4] = 1
    return labels


def first_map() -> np.ndarray:
    x = np.random.default_rng(19).uniform(0.1, 0.9, (ITEMS, CELLS * (CLASSES + 5 * OBJECTS)))
    x[1, CELLS * (CLASSES + OBJECTS) + 5] = -9  # a box that overlaps nothing
    x[1, CELLS * (CLASSES + OBJECTS) + 4 * CELLS + 5] = 8
    return x


def first_box(x: np.ndarray, k: int, cell: int, root: bool, within: bool) -> list[float]:
    box = [float(x[(CLASSES + OBJECTS + 4 * k + o) * CELLS + cell]) for o in range(4)]
    if within:
        box[:2] = [(cell % SIDE + box[0]) / SIDE, (cell // SIDE + box[1]) / SIDE]
    return [*box[:2], *((box[2] ** 2, box[3] ** 2) if root else box[2:])]


@pytest.mark.parametrize(("root", "within"), [(True, False), (False, True), (True, True)])
def test_first_loss(root: bool, within: bool) -> None:
    x, labels = first_map(), first_truth()
    fields = f"""side: {SIDE} num_class: {CLASSES} num_object: {OBJECTS} object_scale: 1.5 noobject_scale: 0.4
      class_scale: 0.7 coord_scale: 3 sqrt: {str(root).lower()} constriant: {str(within).lower()}"""
    found = run(make(text("DetectionLoss", fields)), [x, labels], dys=DY)
    slope = np.zeros_like(x)
    sums = dict.fromkeys(("class", "none", "some", "box"), 0.0)
    count = 0
    for i, cell in np.ndindex(ITEMS, CELLS):
        for k in range(OBJECTS):
            at = (CLASSES + k) * CELLS + cell
            sums["none"] += 0.4 * x[i, at] ** 2
            slope[i, at] = 0.4 * x[i, at]
        if not labels[i, CELLS + cell]:
            continue
        count += 1
        for c in range(CLASSES):
            error = x[i, c * CELLS + cell] - (c == labels[i, 2 * CELLS + cell])
            sums["class"] += 0.7 * error**2
            slope[i, c * CELLS + cell] = 0.7 * error
        truth = list(labels[i, 3 * CELLS + 4 * cell :][:4])
        best, most, least = 0, 0.0, 20.0
        for k in range(OBJECTS):
            box = first_box(x[i], k, cell, root, within)
            apart = math.dist(box, truth)
            if most > 0 or iou(box, truth) > 0:
                if iou(box, truth) > most:
                    best, most = k, iou(box, truth)
            elif apart < least:
                best, least = k, apart
        at = (CLASSES + best) * CELLS + cell
        sums["none"] -= 0.4 * x[i, at] ** 2
        sums["some"] += 1.5 * (x[i, at] - 1) ** 2
        slope[i, at] = 1.5 * (x[i, at] - most)
        if within:
            truth[:2] = [truth[0] * SIDE - cell % SIDE, truth[1] * SIDE - cell // SIDE]
        if root:
            truth[2:] = [math.sqrt(size) for size in truth[2:]]
        for o in range(4):
            at = (CLASSES + OBJECTS + 4 * best + o) * CELLS + cell
            slope[i, at] = 3 * (x[i, at] - truth[o])
            sums["box"] += 3 * (x[i, at] - truth[o]) ** 2
    assert count == 5
    loss = (sums["class"] + sums["some"] + sums["box"]) / count + sums["none"] / (CELLS * OBJECTS * ITEMS - count)
    check(found, loss, slope / ITEMS)


def test_no_objects_make_the_first_loss_undefined() -> None:
    fields = f"side: {SIDE} num_class: {CLASSES}"
    assert np.isnan(run(make(text("DetectionLoss", fields)), [first_map(), 0 * first_truth()]).tops[0])
    labels = first_truth()
    labels[0, 2 * CELLS + 1] = 4
    with pytest.raises(NetError, match="labels of 0 to 3, found 4"):
        run(make(text("DetectionLoss", fields)), [first_map(), labels])
    with pytest.raises(NetError, match="with 126 and 63 values an item"):
        make(text("DetectionLoss", fields)).tops([(2, 126), (2, 62)])


def suppressed(boxes: list[tuple[int, float, Box]], threshold: float, iou: Any = iou) -> list[tuple[int, float, Box]]:
    """Drop what overlaps a better box; labels, scores and boxes."""
    boxes = sorted(boxes, key=lambda box: -box[1])
    dropped: set[int] = set()
    for i, j in itertools.combinations(range(len(boxes)), 2):
        if i not in dropped and j not in dropped and iou(boxes[i][2], boxes[j][2]) >= threshold:
            dropped.add(j)
    return [box for i, box in enumerate(boxes) if i not in dropped]


def verdicts(
    boxes: list[tuple[int, float, Box]],
    truth: list[tuple[int, Box, bool]],
    threshold: float,
    judges_rest: bool,
    iou: Any = iou,
) -> list[list[float]]:
    rows = []
    seen = set()
    for label, score, box in sorted(boxes, key=lambda box: (box[0], -box[1])):
        others = [(iou(box, true), -i, i) for i, (kind, true, _) in enumerate(truth) if kind == label]
        right = wrong = 0
        if not others:
            wrong = 1
        elif max(others)[0] >= threshold:
            best = max(others)[2]
            if not truth[best][2]:
                right, wrong = int(best not in seen), int(best in seen)
                seen.add(best)
        else:
            wrong = int(judges_rest)
        rows.append([label, score, right, wrong])
    return rows


@pytest.mark.parametrize("kind", ["OBJ", "PROB", "MULTIPLY"])
@pytest.mark.parametrize("nms", [-1, 0.3])
def test_first_verdicts(kind: str, nms: float) -> None:
    x, labels = first_map(), first_truth()
    for cell in (1, 4, 8):  # close to the truth, twice in cell 1
        label = int(labels[0, 2 * CELLS + cell])
        x[0, label * CELLS + cell] = 0.95
        for k in range(OBJECTS):
            for o, value in enumerate([0.31, 0.58, *np.sqrt(labels[0, 3 * CELLS + 4 * cell :][2:4])]):
                x[0, (CLASSES + OBJECTS + 4 * k + o) * CELLS + cell] = value + 0.01 * k
    fields = f"side: {SIDE} num_class: {CLASSES} num_object: {OBJECTS} score_type: {kind} nms: {nms} threshold: 0.4"
    layer = make(text("EvalDetection", fields))
    assert layer.dialect == "yolov1"
    (found,) = run(layer, [x, labels]).tops
    assert found.shape == (ITEMS, CLASSES + CELLS * OBJECTS * 4)
    for i, row in enumerate(found):
        boxes = []
        for cell, k in np.ndindex(CELLS, OBJECTS):
            classes = [x[i, c * CELLS + cell] for c in range(CLASSES)]
            sure, most = x[i, (CLASSES + k) * CELLS + cell], max(classes)
            score = {"OBJ": sure, "PROB": most, "MULTIPLY": sure * most}[kind]
            boxes.append((classes.index(most), score, first_box(x[i], k, cell, True, True)))
        if nms >= 0:
            boxes = suppressed(boxes, nms)
        at = [cell for cell in range(CELLS) if labels[i, CELLS + cell]]
        truth = [
            (int(labels[i, 2 * CELLS + c]), list(labels[i, 3 * CELLS + 4 * c :][:4]), labels[i, c] == 1) for c in at
        ]
        wanted = verdicts(boxes, truth, 0.4, judges_rest=True)
        counts = [sum(label == c and not hard for label, _, hard in truth) for c in range(CLASSES)]
        np.testing.assert_array_equal(row[:CLASSES], counts)
        rows = row[CLASSES:].reshape(-1, 4)
        np.testing.assert_allclose(rows[: len(wanted)], wanted, rtol=1e-5)
        assert not rows[len(wanted) :].any()
        assert i or sum(right for _, _, right, _ in wanted) == 2


# ---- version 2 -------------------------------------------------------------------------------------------------------


def truths(count: int, classes: int) -> np.ndarray:
    """Make labels of two items: three boxes, two of them in one cell, and one."""
    labels = np.zeros((2, count, 5))
    labels[0, :3] = [[1, 0.31, 0.45, 0.6, 0.5], [classes - 1, 0.8, 0.2, 0.15, 0.3], [0, 0.33, 0.5, 0.55, 0.5]]
    labels[1, 0] = [0, 0.61, 0.9, 0.2, 0.25]
    return labels


def grid_map(items: int, anchors: int, classes: int, high: int, wide: int) -> np.ndarray:
    return np.random.default_rng(20).normal(0, 0.7, (items, anchors * (5 + classes), high, wide))


def box_at(x: np.ndarray, anchor: Box, row: int, column: int, cells: tuple[int, int]) -> list[float]:
    """The box that values of an anchor mean; cells: down and across."""
    return [
        (column + sigmoid(x[0])) / cells[1],
        (row + sigmoid(x[1])) / cells[0],
        math.exp(x[2]) * anchor[0] / cells[1],
        math.exp(x[3]) * anchor[1] / cells[0],
    ]


def region(
    x: np.ndarray, labels: np.ndarray, classes: int, warm: bool, match: bool, rescore: bool | None, iou: Any = iou
) -> tuple[float, np.ndarray]:
    """The loops of RegionLoss: Σ slope², and the slope, not yet divided by the items.

    rescore: None in caffe-yolov2
    """
    items, _, side, _ = x.shape
    x = x.reshape(items, 5, 5 + classes, side, side)
    slope = np.zeros_like(x)

    def pull(at: tuple[Any, ...], anchor: Box, truth: Box, row: int, column: int, scale: float) -> None:
        wanted = [truth[0] * side - column, truth[1] * side - row]
        for o in (0, 1):
            near = sigmoid(x[at][o])
            slope[at][o] = -scale * (wanted[o] - near) * near * (1 - near)
            slope[at][2 + o] = -scale * (math.log(truth[2 + o] * side / anchor[o]) - x[at][2 + o])

    for i, row, column, n in np.ndindex(items, side, side, 5):
        at, anchor = (i, n, slice(None), row, column), BIASES[2 * n : 2 * n + 2]
        sure, box = sigmoid(x[at][4]), box_at(x[at], anchor, row, column, (side, side))
        best = max(iou(box, truth[1:]) for truth in labels[i] if truth[1])
        slope[at][4] = 0 if best > 0.3 else 0.6 * sure * sure * (1 - sure)
        if warm:
            middle = [(column + 0.5) / side, (row + 0.5) / side, anchor[0] / side, anchor[1] / side]
            pull(at, anchor, middle, row, column, 0.01)
    for i, truth in ((item, row) for item, rows in enumerate(labels) for row in rows if row[3]):
        column, row = int(truth[1] * side), int(truth[2] * side)
        ious = []
        for n in range(5):
            at, anchor = (i, n, slice(None), row, column), BIASES[2 * n : 2 * n + 2]
            size = (
                [anchor[0] / side, anchor[1] / side] if match else box_at(x[at], anchor, row, column, (side, side))[2:]
            )
            ious.append(iou([0, 0, *size], [0, 0, *truth[3:]]))
        n = ious.index(max(ious))
        at, anchor = (i, n, slice(None), row, column), BIASES[2 * n : 2 * n + 2]
        scale = 2.0 * (2 - truth[3] * truth[4] if rescore is False else 1)
        found = iou(box_at(x[at], anchor, row, column, (side, side)), truth[1:])
        pull(at, anchor, truth[1:], row, column, scale)
        sure = sigmoid(x[at][4])
        slope[at][4] = -1.5 * ((found if rescore else 1) - sure) * sure * (1 - sure)
        powers = [math.exp(value) for value in x[at][5:]]
        for c in range(classes):
            slope[at][5 + c] = -0.8 * ((c == truth[0]) - powers[c] / sum(powers))
    return float((slope**2).sum()), slope.reshape(items, -1, side, side)


REGION = (
    f"num_class: 3 coords: 4 num: 5 object_scale: 1.5 class_scale: 0.8 noobject_scale: 0.6 coord_scale: 2 {WRITTEN}"
)


@pytest.mark.parametrize("match", [0, 1])
def test_region_loss_pulls_to_anchors_at_first(match: int) -> None:
    x, labels = grid_map(2, 5, 3, 4, 4), truths(30, 3)
    layer = make(text("RegionLoss", f"side: 4 thresh: 0.3 bias_match: {match} {REGION}"), dialect="yolo")
    for warm in (True, False):
        found = run(layer, [x, labels.reshape(2, 150)], dys=DY)
        loss, slope = region(x, labels, 3, warm, bool(match), None, iou_within)
        check(found, loss, slope / 2)
        layer.earlier[0] = 6400


@pytest.mark.parametrize("rescore", [0, 1])
def test_region_loss_of_mobilenet_yolo(rescore: int) -> None:
    x, labels = grid_map(2, 5, 3, 4, 4), truths(300, 3)
    layer = make(text("RegionLoss", f"thresh: 0.3 rescore: {rescore} {REGION}"), dialect="mobilenet-yolo")
    loss, slope = region(x, labels, 3, False, True, bool(rescore))
    check(run(layer, [x, labels.reshape(2, 1, 300, 5)], dys=DY), loss / 2, slope / 2)


def test_region_loss_of_mobilenet_yolo_reads_tall_maps_as_square_ones() -> None:
    """As region_loss_layer.cpp of eric612/MobileNet-YOLO indexes them, by width² places a channel."""
    x, labels = grid_map(2, 5, 3, 6, 4), truths(300, 3)
    layer = make(text("RegionLoss", f"thresh: 0.3 rescore: 1 {REGION}"), dialect="mobilenet-yolo")
    used = x.reshape(2, -1)[:, : 40 * 16]
    loss, slope = region(used.reshape(2, 40, 4, 4), labels, 3, False, True, True)
    expected = np.zeros((2, 40 * 24))
    expected[:, : 40 * 16] = slope.reshape(2, -1) / 2
    check(run(layer, [x, labels.reshape(2, 1500)], dys=DY), loss / 2, expected.reshape(x.shape))
    assert layer.departs([x.shape]) == "its 6 x 4 maps are read as if they had 4 x 4 values"


def of_ssd(labels: np.ndarray) -> np.ndarray:
    """Return true boxes in rows of SSD's form, the last image's first, and one row of none."""
    found = [
        [image, row[0] + 1, 0, *(row[1:3] - row[3:] / 2), *(row[1:3] + row[3:] / 2), 0]
        for image, rows in reversed(list(enumerate(labels)))
        for row in rows
        if row[3]
    ]
    return np.array([[[[-1.0] * 8, *found]]])


def test_region_loss_of_intel_limits_its_pulls() -> None:
    x, labels = grid_map(2, 5, 3, 4, 4), truths(30, 3)
    x.reshape(2, 5, 8, 4, 4)[:, :, 2:4] *= 3  # so that some sizes are further away than 1
    layer = make(text("RegionLoss", f"side: 4 thresh: 0.3 {REGION}"), dialect="intel")
    _, slope = region(x, labels, 3, False, True, None)
    values, pulls = x.reshape(2, 5, 8, 4, 4), slope.reshape(2, 5, 8, 4, 4)
    limited = 0
    for i, n, row, column in np.argwhere(pulls[:, :, 5]):
        at = (i, n, slice(None), row, column)
        limited += int((abs(pulls[at][2:4]) > 2).sum())
        pulls[at][2:4] = np.clip(pulls[at][2:4], -2, 2)  # coord_scale
        sure = sigmoid(values[at][4])
        pulls[at][4] = -1.5 * 2 * (1 - sure) ** 3 * sure * (1 - sure)
    assert 0 < limited < 10
    check(run(layer, [x, of_ssd(labels)], dys=DY), float((slope**2).sum()), slope / 2)
    with pytest.raises(NetError, match="images 0 to 0, found one of 1"):
        run(layer, [x[:1], of_ssd(labels)])


@pytest.mark.parametrize(
    ("dialect", "fields", "shapes", "message"),
    [
        ("intel", f"side: 4 {REGION}", [(2, 40, 4, 4), (2, 1, 6, 8)], r"shape \(1, 1, boxes, 8\)"),
        ("intel", f"side: 4 {REGION}", [(2, 40, 4, 5), (1, 1, 6, 8)], "a map of 4 x 4 .side."),
        ("yolo", f"side: 4 {REGION}", [(2, 40, 4, 5), (2, 150)], "a map of 4 x 4 .side."),
        ("yolo", f"side: 4 {REGION}", [(2, 40, 4, 4), (2, 1500)], r"shape \(2, 30, 5\)"),
        ("yolo", f"side: 4 softmax_tree: 'a' {REGION}", [(2, 40, 4, 4), (2, 150)], "softmax_tree"),
        ("yolo", "side: 4 num_class: 3 num: 5", [(2, 40, 4, 4), (2, 150)], "expected 10 biases, found 0"),
        ("yolo", "side: 4 num_class: 3 num: 4", [(2, 32, 4, 4), (2, 150)], "num: 5"),
        ("mobilenet-yolo", "coords: 5", [(2, 40, 4, 4), (2, 1500)], "4 coords, found 5"),
        ("mobilenet-yolo", REGION, [(2, 41, 4, 4), (2, 1500)], "5 x 8 channels"),
        ("mobilenet-yolo", REGION, [(2, 40, 4, 5), (2, 1500)], "at least as many lines as columns"),
        ("mobilenet-yolo", "num: 1 num_class: 3 biases: 1 biases: 2", [(2, 8, 4, 4), (2, 1500)], "10 biases or more"),
    ],
)
def test_what_region_loss_does_not_take(dialect: str, fields: str, shapes: list[Any], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text("RegionLoss", fields), dialect=dialect).tops(shapes)


@pytest.mark.parametrize(
    ("value", "message"), [([9, 0.5, 0.5], "labels of 0 to 2"), ([0, 1.5, 0.5], "within the image")]
)
def test_true_boxes_out_of_range(value: list[float], message: str) -> None:
    labels = truths(300, 3)
    labels[0, 0, :3] = value
    with pytest.raises(NetError, match=message):
        run(make(text("RegionLoss", REGION), dialect="mobilenet-yolo"), [grid_map(2, 5, 3, 4, 4), labels])


def second_boxes(x: np.ndarray, classes: int, score: str = "MULTIPLY") -> list[tuple[int, float, Box]]:
    """Label, score and box of each prediction for an image."""
    _, high, wide = x.shape
    x, found = x.reshape(5, 5 + classes, high, wide), []
    for row, column, n in np.ndindex(high, wide, 5):
        values = x[n, :, row, column]
        powers = [math.exp(value) for value in values[5:]]
        most, sure = max(powers) / sum(powers), sigmoid(values[4])
        rank = {"OBJ": sure, "PROB": most, "MULTIPLY": sure * most}[score]
        box = box_at(values, BIASES[2 * n : 2 * n + 2], row, column, (high, wide))
        found.append((powers.index(max(powers)), rank, box))
    return found


@pytest.mark.parametrize("kind", ["OBJ", "PROB", "MULTIPLY"])
def test_second_verdicts(kind: str) -> None:
    x, labels = grid_map(2, 5, 3, 4, 4), truths(30, 3)
    x.reshape(2, 5, 8, 4, 4)[:, 2:, 4] = -7
    x.reshape(2, 5, 8, 4, 4)[1, 1, :, 3, 2] = [-0.2, 0.4, -1, -0.9, 6, 9, 0, 0]  # close to the truth
    fields = f"side: 4 num_class: 3 num_object: 5 nms: 0.5 threshold: 0.35 score_type: {kind}"
    layer = make(text("EvalDetection", f"{fields} {WRITTEN}"))
    assert layer.dialect == "yolo"
    (found,) = run(layer, [x, labels]).tops
    assert found.shape == (2, 3 + 16 * 5 * 4)
    right = 0
    for i, row in enumerate(found):
        boxes = [box for box in suppressed(second_boxes(x[i], 3, kind), 0.5, iou_within) if box[1] >= 0.005]
        truth = [(int(box[0]), list(box[1:]), False) for box in labels[i] if box[1]]
        wanted = verdicts(boxes, truth, 0.35, False, iou_within)
        right += sum(verdict[2] for verdict in wanted)
        np.testing.assert_array_equal(row[:3], [sum(label == c for label, _, _ in truth) for c in range(3)])
        rows = row[3:].reshape(-1, 4)
        np.testing.assert_allclose(rows[: len(wanted)], wanted, rtol=1e-5)
        assert not rows[len(wanted) :].any()
    assert right
    unsuppressed = make(text("EvalDetection", f"{fields.replace('0.5', '-1', 1)} {WRITTEN}"))
    assert not run(unsuppressed, [x, labels]).tops[0][:, 3:].any()


def test_second_verdicts_by_the_boxes_of_ssd() -> None:
    x, labels = grid_map(2, 5, 3, 4, 4), truths(30, 3)
    x.reshape(2, 5, 8, 4, 4)[1, 1, :, 3, 2] = [-0.2, 0.4, -1, -0.9, 6, 9, 0, 0]
    fields = text("EvalDetection", f"side: 4 num_class: 3 num_object: 5 nms: 0.5 threshold: 0.35 {WRITTEN}")
    (found,) = run(make(fields, dialect="intel"), [x, of_ssd(labels)]).tops
    for i, row in enumerate(found):
        boxes = [box for box in suppressed(second_boxes(x[i], 3), 0.5) if box[1] >= 0.005]
        wanted = verdicts(boxes, [(int(b[0]), list(b[1:]), False) for b in labels[i] if b[1]], 0.35, False)
        np.testing.assert_allclose(row[3:].reshape(-1, 4)[: len(wanted)], wanted, rtol=1e-5)
        assert not row[3 + 4 * len(wanted) :].any()
    np.testing.assert_array_equal(found[:, :3], [[1, 1, 1], [1, 0, 0]])
    background = np.array([[[[0.0, 0, 0, 0.1, 0.1, 0.4, 0.4, 0]]]])
    assert not run(make(fields, dialect="intel"), [x, background]).tops[0][:, :3].any()


DETECTIONS = f"side: 4 num_classes: 3 confidence_threshold: 0.2 nms_threshold: 0.3 {WRITTEN}"


def test_detections_of_yolov2_suppress_those_behind_them() -> None:
    x = grid_map(1, 5, 3, 4, 4)
    layer = make(text("DetectionOutput", DETECTIONS, bottoms=1))
    assert layer.dialect == "yolo"
    boxes = [box for box in second_boxes(x[0], 3) if box[1] >= 0.2]
    kept: list[tuple[int, float, Box]] = []
    for box in boxes:  # in the order of cells, not of scores
        if all(iou_within(other[2], box[2]) < 0.3 for other in kept):
            kept.append(box)
    assert 1 < len(kept) < len(boxes)
    assert kept != sorted(kept, key=lambda box: -box[1])
    (found,) = run(layer, [x]).tops
    np.testing.assert_allclose(found[0, 0], [[0, label, score, *box] for label, score, box in kept], rtol=1e-4)
    x.reshape(5, 8, 4, 4)[:, 4] = -9
    np.testing.assert_array_equal(
        run(make(text("DetectionOutput", DETECTIONS, bottoms=1)), [x]).tops[0], [[[[0] + [-1] * 6]]]
    )
    with pytest.raises(NetError, match="one image, and 10 biases"):
        layer.tops([(2, 40, 4, 4)])


def test_evaluation_of_detections_of_yolov2() -> None:
    labels = np.zeros((30, 5))
    labels[:4] = [[1, 0.5, 0.5, 0.2, 0.2], [1, 0.95, 0.2, 0.2, 0.2], [2, 0.3, 0.3, 0.1, 0.1], [0, 0.1, 0.1, 0.1, 0.1]]
    labels[5] = [1, 0.5, 0.5, 0.2, 0.2]  # behind the end
    found = np.array(
        [
            [0, 1, 0.6, 0.5, 0.5, 0.2, 0.2],  # the second for its box
            [0, 1, 0.9, 0.51, 0.5, 0.2, 0.2],
            [0, 1, 0.7, 1.05, 0.2, 0.5, 0.2],  # right within the image alone
            [0, 2, 0.4, 0.36, 0.3, 0.1, 0.1],  # too far away
            [0, 3, 0.2, 0.3, 0.3, 0.1, 0.1],  # of a class without boxes, in the order found
            [0, 3, 0.8, 0.3, 0.3, 0.1, 0.1],
            [0, -1, -1, -1, -1, -1, -1],
        ]
    )
    layer = make(text("DetectionEvaluate", "num_classes: 4 overlap_threshold: 0.6"), dialect="yolo")
    (rows,) = run(layer, [found.reshape(1, 1, 7, 7), labels.reshape(1, 150)]).tops
    heads = [[-1, 0, 1, -1, -1], [-1, 1, 2, -1, -1], [-1, 2, 1, -1, -1], [-1, 3, 0, -1, -1]]
    verdict = [
        [0, 1, 0.9, 1, 0], [0, 1, 0.7, 1, 0], [0, 1, 0.6, 0, 1], [0, 2, 0.4, 0, 1], [0, 3, 0.2, 0, 1], [0, 3, 0.8, 0, 1]
    ]  # fmt: skip
    np.testing.assert_allclose(rows[0, 0], heads + verdict, rtol=1e-6)
    assert iou(found[2, 3:], labels[1, 1:]) < 0.6 < iou_within(found[2, 3:], labels[1, 1:])
    with pytest.raises(NetError, match="30 true boxes of 5 values"):
        layer.tops([(1, 1, 7, 7), (1, 30)])


def rows_of(boxes: list[tuple[int, float, Box]], threshold: float) -> list[list[float]]:
    return [
        [0, label + 1, score, b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2]
        for label, score, b in suppressed(boxes, threshold)
    ]


def test_second_output() -> None:
    x = grid_map(2, 5, 3, 6, 4)
    fields = f"num_classes: 3 num_box: 5 confidence_threshold: 0.3 nms_threshold: 0.4 {WRITTEN}"
    (found,) = run(make(text("YoloDetectionOutput", fields, 1)), [x]).tops
    boxes = [box for image in x for box in second_boxes(image[:, :4], 3) if box[1] >= 0.3]
    wanted = rows_of(boxes, 0.4)
    assert 3 < len(wanted) < len(boxes)
    np.testing.assert_allclose(found, np.reshape(wanted, (1, 1, -1, 7)), rtol=1e-4, atol=1e-6)
    (nothing,) = run(make(text("YoloDetectionOutput", fields.replace("0.3", "0.99"), 1)), [x]).tops
    np.testing.assert_array_equal(nothing, [[[[0, *[-1] * 6], [1, *[-1] * 6]]]])
    with pytest.raises(NetError, match="expected num_classes, found none"):
        make(text("YoloDetectionOutput", WRITTEN, 1)).tops([x.shape])
    with pytest.raises(NetError, match="as many lines as columns"):
        make(text("YoloDetectionOutput", fields, 1)).tops([(2, 40, 4, 6)])


# ---- version 3 -------------------------------------------------------------------------------------------------------

SCALE, MASK = 8, (3, 1, 4)
SIZES = tuple(8 * bias for bias in BIASES)
THIRD = " ".join(f"biases: {size:.6g}" for size in SIZES)


def hull(a: Box, b: Box) -> list[float]:
    """Width and height of the smallest box around both."""
    return [
        max(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2) - min(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2) for k in (0, 1)
    ]


def shape_loss(a: Box, b: Box) -> float:
    return 4 / math.pi**2 * (math.atan(b[2] / b[3]) - math.atan(a[2] / a[3])) ** 2


def diagonal(a: Box, b: Box) -> float:
    return sum(size**2 for size in hull(a, b))


def apart(a: Box, b: Box) -> float:
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / diagonal(a, b)


def hull_share(a: Box, b: Box) -> float:
    """What of the hull the boxes take; where they do not meet the union is their areas' sum."""
    over = iou(a, b)
    return (a[2] * a[3] + b[2] * b[3]) / (1 + over) / math.prod(hull(a, b))


def kin(a: Box, b: Box, kind: str) -> float:
    """IoU and its kin as the reference has them."""
    found = iou(a, b)
    if kind == "GIOU":
        return found - (1 - hull_share(a, b))
    if kind == "DIOU":
        return found - apart(a, b) ** 0.6
    if kind == "CIOU":
        loss = shape_loss(a, b)
        return found - (apart(a, b) + loss / (1 - found + loss + 1e-6) * loss)
    return found


def slopes(function: Any, a: Box, b: Box) -> np.ndarray:
    """The derivatives for a's values by differences."""
    moved = [[function([*a[:o], a[o] + step, *a[o + 1 :]], b) for step in (1e-6, -1e-6)] for o in range(4)]
    return np.array([(more - less) / 2e-6 for more, less in moved])


KINDS = ("IOU", "GIOU", "MSE", "DIOU", "CIOU")
TRUE = (0.5, 0.42, 0.35, 0.4)
NEAR = [(0.4, 0.5, 0.3, 0.45), (0.52, 0.38, 0.2, 0.7), (0.45, 0.41, 0.6, 0.65)]
FAR = (0.1, 0.15, 0.2, 0.1)


@pytest.mark.parametrize("kind", range(5))
def test_overlaps(kind: int) -> None:
    boxes = [*NEAR, FAR]
    found = overlap(np.array(boxes), np.array(TRUE), kind)
    np.testing.assert_allclose(found, [kin(box, TRUE, KINDS[kind]) for box in boxes], rtol=1e-12)


@pytest.mark.parametrize("a", [*NEAR, FAR])
def test_pulls_are_derivatives_but_for_what_the_reference_does(a: Box) -> None:
    pulls = {kind: pull_of_overlap(np.array(a), np.array(TRUE), KINDS.index(kind)) for kind in KINDS}
    twice = np.array([1, 1, 2, 2])  # for width and height the pulls of both ends are added, not averaged
    is_far = a == FAR
    if not is_far:
        np.testing.assert_allclose(pulls["IOU"], twice * slopes(iou, a, TRUE), rtol=1e-5, atol=1e-7)
        giou = twice * (slopes(iou, a, TRUE) + slopes(hull_share, a, TRUE))
        np.testing.assert_allclose(pulls["GIOU"], giou, rtol=1e-4, atol=1e-6)
    # of the distance, dx = (2 (truth - x) C - C' S) / C², dw = C' S / C²: the second's sign is the reference's
    c = diagonal(a, TRUE)
    pulled = slopes(diagonal, a, TRUE) * apart(a, TRUE) / c
    distance = np.concatenate([2 * np.subtract(TRUE[:2], a[:2]) / c - pulled[:2], pulled[2:]])
    np.testing.assert_allclose(pulls["DIOU"], distance + (0 if is_far else pulls["IOU"]), rtol=1e-5, atol=1e-7)
    off = math.atan(TRUE[2] / TRUE[3]) - math.atan(a[2] / a[3])
    weight = shape_loss(a, TRUE) / (1 - raw_iou(a) + shape_loss(a, TRUE) + 1e-6)
    shape = weight * 8 / math.pi**2 * off * np.array([0, 0, a[3], -a[2]])
    np.testing.assert_allclose(pulls["CIOU"] - pulls["DIOU"], shape, rtol=1e-6, atol=1e-12)


def raw_iou(a: Box) -> float:
    """The overlap with TRUE as the pulls have it: of boxes that do not meet too."""
    w, h = (a[k + 2] + TRUE[k + 2] - hull(a, TRUE)[k] for k in (0, 1))
    return w * h / (a[2] * a[3] + TRUE[2] * TRUE[3] - w * h)


def third(x: np.ndarray, labels: np.ndarray, classes: int, p: dict[str, Any]) -> tuple[float, np.ndarray]:
    """The loops of Yolov3: loss, and the slope; p: what differs from the fields' defaults."""
    items, _, high, wide = x.shape
    raw = x.reshape(items, 3, 5 + classes, high, wide)
    seen = np.vectorize(sigmoid)(raw)
    seen[:, :, 2:4] = raw[:, :, 2:4]
    diff, kind = np.zeros_like(raw), p.get("iou_loss", "MSE")
    missed: list[float] = []

    def box(at: tuple[Any, ...], n: int, row: int, column: int) -> Box:
        return box_at(raw[at], BIASES[2 * MASK[n] : 2 * MASK[n] + 2], row, column, (high, wide))

    def pull(i: int, n: int, row: int, column: int, truth: Box, label: int) -> None:
        at = (i, n, slice(None), row, column)
        predicted = box(at, n, row, column)
        if kind == "MSE":
            scale = 2 * (2 - truth[2] * truth[3])
            for o, cells, place in ((0, wide, column), (1, high, row)):
                diff[at][o] = -scale * (truth[o] * cells - place - seen[at][o])
                size = SIZES[2 * MASK[n] + o]
                diff[at][2 + o] = -scale * (math.log(truth[2 + o] * cells * SCALE / size) - raw[at][2 + o])
        else:
            steps = pull_of_overlap(np.array(predicted), np.array(truth), KINDS.index(kind))
            for o in range(4):
                step = steps[o] * (math.exp(raw[at][o]) if o > 1 else 1) * 0.7
                before = diff[at][o] if p.get("accumulate", True) else 0
                diff[at][o] = before - max(-0.4, min(0.4, step))
            missed.append(1 - kin(predicted, truth, "DIOU" if kind == "IOU" else kind))
        diff[at][4] = -(1 - seen[at][4]) * (1.5 if p.get("use_logic_gradient") else 1)
        if diff[at][5 + label]:
            diff[at][5 + label] = -0.8 * (0.95 - seen[at][5 + label])
            return
        sure = seen[at][5 + label]
        focal = -(1 - sure) * (2 * sure * math.log(sure) + sure - 1)
        for c in range(classes):
            if p.get("use_focal_loss"):
                diff[at][5 + c] = -0.8 * ((c == label) - seen[at][5 + c]) * 0.5 * focal
            else:
                diff[at][5 + c] = -0.8 * ((0.95 if c == label else 0.05) - seen[at][5 + c])

    for i, n, row, column in np.ndindex(items, 3, high, wide):
        at = (i, n, slice(None), row, column)
        best = 0.0
        for truth in labels[i]:
            if not truth[1]:
                break
            best = max(best, kin(box(at, n, row, column), truth[1:], kind))
        diff[at][4] = 0 if best > 0.35 else seen[at][4]
    for i, truth in ((item, row) for item, rows in enumerate(labels) for row in rows if row[3]):
        column, row = int(truth[1] * wide), int(truth[2] * high)
        sizes = [(0, 0, BIASES[2 * n] / wide, BIASES[2 * n + 1] / high) for n in range(5)]
        overlaps = [kin(size, [0, 0, *truth[3:]], kind) for size in sizes]
        best_n = overlaps.index(max(overlaps))
        if best_n in MASK:
            best_n = MASK.index(best_n)
            pull(i, best_n, row, column, truth[1:], int(truth[0]))
        for n in range(5):
            if n in MASK and n != best_n and overlaps[n] > 0.4:
                pull(i, MASK.index(n), row, column, truth[1:], int(truth[0]))
    boxes = (diff[:, :, :4] ** 2).sum() if kind == "MSE" else 0.7 * sum(missed) / len(missed)
    loss = boxes + (diff[:, :, 4:] ** 2).sum()
    if p.get("use_logic_gradient"):
        for c in (0, 1, *range(4, 5 + classes)):
            value = raw if kind != "MSE" and c < 2 else seen  # the reference has put the map back there
            diff[:, :, c] *= value[:, :, c] * (1 - value[:, :, c])
    return float(loss) / items, diff.reshape(items, -1, high, wide) / items


FIELDS = f"""num_class: 3 num: 3 {" ".join(f"mask: {n}" for n in MASK)} anchors_scale: {SCALE} {THIRD} object_scale: 1.5
  class_scale: 0.8 coord_scale: 2 thresh: 0.35 iou_thresh: 0.4 iou_normalizer: 0.7 max_delta: 0.4"""
CASES: list[dict[str, Any]] = [
    {},
    {"use_focal_loss": True},
    {"use_logic_gradient": True},
    *({"iou_loss": kind} for kind in KINDS if kind != "MSE"),
    {"iou_loss": "GIOU", "use_logic_gradient": True, "accumulate": False},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_third_loss(case: dict[str, Any]) -> None:
    x, labels = grid_map(2, 3, 3, 4, 6), truths(300, 3)
    labels[1, 1] = [2, 0.61, 0.88, 0.5, 0.3]  # with the one before it in a cell
    fields = FIELDS + "".join(
        f" {name}: {str(value) if name == 'iou_loss' else str(value).lower()}" for name, value in case.items()
    )
    found = run(make(text("Yolov3", fields)), [x, labels.reshape(2, 1, 300, 5)], dys=DY)
    check(found, *third(x, labels, 3, case))


def log_density(t: float, mean: float, deviation: float) -> float:
    return -(((t - mean) / deviation) ** 2) / 2 - math.log(math.sqrt(2 * math.pi) * (deviation + 0.3))


def gaussian_pull(t: float, mean: float, deviation: float) -> tuple[float, float]:
    """Return half of the slopes of -log N for its mean and deviation, by differences, less where N is near 0."""
    step, density = 1e-5, math.exp(log_density(t, mean, deviation))
    rate = -density / (density + 1e-9) / 2 / (2 * step)
    of_mean = log_density(t, mean + step, deviation) - log_density(t, mean - step, deviation)
    return rate * of_mean, rate * (log_density(t, mean, deviation + step) - log_density(t, mean, deviation - step))


def gaussian(x: np.ndarray, labels: np.ndarray, classes: int, p: dict[str, Any]) -> tuple[float, np.ndarray]:
    """The loops of GaussianYolov3: loss, and the slope; p: what differs from the fields' defaults."""
    items, _, high, wide = x.shape
    raw = x.reshape(items, 3, 9 + classes, high, wide)
    seen = np.vectorize(sigmoid)(raw)
    seen[:, :, [4, 6]] = raw[:, :, [4, 6]]
    diff = np.zeros_like(raw)
    missed: list[float] = []

    def box(at: tuple[Any, ...], n: int, row: int, column: int) -> Box:
        return box_at(raw[at][[0, 2, 4, 6]], BIASES[2 * MASK[n] : 2 * MASK[n] + 2], row, column, (high, wide))

    def pull(i: int, n: int, row: int, column: int, truth: Box, label: int) -> None:
        at = (i, n, slice(None), row, column)
        scale = 2 * (2 - truth[2] * truth[3]) * 0.7
        goals = [truth[0] * wide - column, truth[1] * high - row]
        goals += [math.log(truth[2 + o] * (wide, high)[o] * SCALE / SIZES[2 * MASK[n] + o]) for o in (0, 1)]
        if not p.get("accumulate", True):
            diff[at][:8] = 0
        for o, goal in enumerate(goals):
            for k, step in enumerate(gaussian_pull(goal, *seen[at][2 * o : 2 * o + 2])):
                diff[at][2 * o + k] += max(-0.4, min(0.4, scale * step))
        missed.append(1 - kin(box(at, n, row, column), truth, "IOU"))
        diff[at][8] = -(1 - seen[at][8]) * (1.5 if p.get("use_logic_gradient") else 1)
        if diff[at][9]:
            diff[at][9 + label] = -(1 - seen[at][9 + label])
            return
        sure = seen[at][9 + label]
        focal = -(1 - sure) * (2 * sure * math.log(sure) + sure - 1) * 0.5 if p.get("use_focal_loss") else 1
        for c in range(classes):
            diff[at][9 + c] = -0.8 * ((c == label) - seen[at][9 + c]) * focal

    for i, n, row, column in np.ndindex(items, 3, high, wide):
        at = (i, n, slice(None), row, column)
        shares = [kin(box(at, n, row, column), truth[1:], "IOU") for truth in labels[i] if truth[1]]
        diff[at][8] = 0 if max(shares) > 0.35 else seen[at][8]
    for i, truth in ((item, row) for item, rows in enumerate(labels) for row in rows if row[3]):
        column, row = int(truth[1] * wide), int(truth[2] * high)
        sizes = [(0, 0, BIASES[2 * n] / wide, BIASES[2 * n + 1] / high) for n in range(5)]
        overlaps = [kin(size, [0, 0, *truth[3:]], "IOU") for size in sizes]
        best_n = overlaps.index(max(overlaps))
        if best_n in MASK:
            best_n = MASK.index(best_n)
            pull(i, best_n, row, column, truth[1:], int(truth[0]))
        for n in range(5):
            if n in MASK and n != best_n and overlaps[n] > 0.4:
                pull(i, MASK.index(n), row, column, truth[1:], int(truth[0]))
    loss = (diff[:, :, 8:] ** 2).sum() + 0.7 * sum(missed) / len(missed)
    if p.get("use_logic_gradient"):
        for c in (0, 1, 2, 3, 5, 7, *range(8, 9 + classes)):
            value = raw if c < 8 else seen
            diff[:, :, c] *= value[:, :, c] * (1 - value[:, :, c])
    return float(loss) / items, diff.reshape(items, -1, high, wide) / items


@pytest.mark.parametrize(
    "case", [{}, {"use_focal_loss": True}, {"use_logic_gradient": True}, {"accumulate": False}], ids=str
)
def test_gaussian_loss(case: dict[str, Any]) -> None:
    labels = truths(300, 3)
    labels[1, 1] = [2, 0.61, 0.88, 0.5, 0.3]  # with the one before it in a cell
    x = np.random.default_rng(43).normal(0, 0.7, (2, 36, 4, 6))
    fields = FIELDS + "".join(f" {name}: {str(value).lower()}" for name, value in case.items())
    layer = make(text("GaussianYolov3", fields))
    found = run(layer, [x, labels.reshape(2, 1, 300, 5)], dys=DY)
    check(found, *gaussian(x, labels, 3, case))
    with pytest.raises(NetError, match="3 x 12 channels"):
        layer.tops([(2, 24, 4, 6), (2, 1, 300, 5)])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mask: 4", "mask: 5", "numbers of anchors as mask"),
        ("mask: 4", "", "expected 3 numbers of anchors as mask"),
        ("anchors_scale: 8", "anchors_scale: 0", "anchors_scale of at least 1"),
        ("num: 3", "num: 4", "4 x 8 channels"),
    ],
)
def test_what_the_third_loss_does_not_take(old: str, new: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text("Yolov3", FIELDS.replace(old, new))).tops([(2, 24, 4, 6), (2, 1, 300, 5)])


OUTPUT = f"""num_classes: 3 num_box: 2 mask: 3 mask: 1 mask: 4 mask: 0 anchors_scale: 8 anchors_scale: 16 {THIRD}
  confidence_threshold: 0.3 nms_threshold: 0.4"""


def test_third_output() -> None:
    maps = [grid_map(2, 2, 3, 6, 4), grid_map(2, 2, 3, 3, 2)]
    (found,) = run(make(text("Yolov3DetectionOutput", OUTPUT, 2)), maps).tops
    boxes: list[tuple[int, float, Box]] = []
    for group, (x, scale) in enumerate(zip(maps, (8, 16), strict=True)):
        _, _, high, wide = x.shape
        for i, row, column, n in np.ndindex(2, high, wide, 2):
            values = x.reshape(2, 2, 8, high, wide)[i, n, :, row, column]
            first = 2 * (3, 1, 4, 0)[2 * group + n]
            box = box_at(values, [size / scale for size in SIZES[first : first + 2]], row, column, (high, wide))
            scores = [sigmoid(values[4]) * sigmoid(values[5 + c]) for c in range(3)]
            boxes += [(c, score, box) for c, score in enumerate(scores) if score > 0.3]
    wanted = rows_of(boxes, 0.4)
    assert 3 < len(wanted) < len(boxes)
    np.testing.assert_allclose(found, np.reshape(wanted, (1, 1, -1, 7)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "bottoms", "message"),
    [
        (OUTPUT, 1, "expected 2 bottoms"),
        (OUTPUT.replace("mask: 4 mask: 0", ""), 2, "expected 3 numbers of anchors"),
        (OUTPUT + " gaussian_box: true", 2, "gaussian_box is not supported"),
        (OUTPUT.replace("num_box: 2", "num_box: 1"), 2, "1 x 8 channels"),
    ],
)
def test_what_the_third_output_does_not_take(fields: str, bottoms: int, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text("Yolov3DetectionOutput", fields, bottoms)).tops([(2, 16, 6, 4)] * bottoms)
