"""Cascade R-CNN's boxes, against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, TRAIN, make, run
from .test_proposals import overlap

RANDOM = np.random.default_rng(14)
REGRESSION = "bbox_reg_param { bbox_mean: [0, 0.1, 0, -0.1] bbox_std: [0.1, 0.1, 0.2, 0.2] }"
MEAN, DEVIATION = np.array([0, 0.1, 0, -0.1]), np.array([0.1, 0.1, 0.2, 0.2])


def moved(delta: np.ndarray, box: np.ndarray) -> np.ndarray:
    x, y, w, h = delta * DEVIATION + MEAN
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    cx, cy = x * width + (box[0] + box[2]) / 2, y * height + (box[1] + box[3]) / 2
    wide, high = width * math.exp(w), height * math.exp(h)
    return np.array([cx - (wide - 1) / 2, cy - (high - 1) / 2, cx + (wide - 1) / 2, cy + (high - 1) / 2])


def rois(count: int) -> np.ndarray:
    corner = RANDOM.integers(0, 60, (count, 2))
    return np.concatenate([RANDOM.integers(0, 2, (count, 1)), corner, corner + RANDOM.integers(9, 50, (count, 2))], 1)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_decoded_boxes_of_true_ones_are_left_out_in_training(phase: int) -> None:
    regions, deltas = rois(6), RANDOM.normal(0, 1, (6, 8))
    truth = np.zeros((6, 6))
    truth[:, 5] = [0.5, 0.99, 0.7, 0.9, 0.2, 1]
    text = f'name: "d" type: "DecodeBBox" bottom: "d" bottom: "r" bottom: "g" top: "y" {REGRESSION}'
    bottoms = [deltas, regions, truth]
    if phase == TEST:  # there the reference refuses true boxes
        with pytest.raises(NetError, match="stand in phase TRAIN only"):
            run(make(text, phase), bottoms)
        text, bottoms = text.replace('bottom: "g"', ""), bottoms[:2]
    layer = make(text + " decode_bbox_param { gt_iou_thr: 0.95 }", phase)
    (top,) = run(layer, bottoms).tops
    kept = [0, 2, 3, 4] if phase == TRAIN else range(6)
    expected = [[regions[i, 0], *moved(deltas[i, 4:], regions[i, 1:])] for i in kept]
    np.testing.assert_allclose(top[:, :, 0, 0], expected, rtol=1e-4, atol=1e-3)


def test_accuracy_is_the_mean_overlap_with_true_boxes() -> None:
    regions, deltas = rois(4), RANDOM.normal(0, 0.5, (4, 12))
    truth = np.array([[1, 5, 5, 40, 50, 0.6], [0] * 6, [2, 30, 30, 70, 80, 0.5], [1, 3, 3, 9, 9, 0.98]])
    text = f'name: "a" type: "BboxAccuracy" bottom: "d" bottom: "r" bottom: "g" top: "after" top: "before" {REGRESSION}'
    after, before = run(make(text), [deltas, regions, truth]).tops
    counted = [(0, 1), (2, 2)]
    boxes = [moved(deltas[i, 4 * label : 4 * label + 4], regions[i, 1:]) for i, label in counted]
    expected = [overlap(box, truth[i, 1:5]) for box, (i, _) in zip(boxes, counted, strict=True)]
    assert after.ravel() == pytest.approx(np.mean(expected), rel=1e-4)
    assert before.ravel() == pytest.approx(np.mean([overlap(regions[i, 1:], truth[i, 1:5]) for i, _ in counted]))
    none = run(make(text), [deltas, regions, np.zeros((4, 6))]).tops
    assert [float(top.squeeze()) for top in none] == [-1, -1]


def test_proposals_come_from_all_fields_of_all_maps() -> None:
    """As zhaoweicai/cascade-rcnn's box_group_output_layer.cpp, compiled: boxes end at the image's size, not before."""
    text = (
        """name: "o" type: "BoxGroupOutput" bottom: "p" bottom: "d" bottom: "q" bottom: "e" top: "r" top: "s"
      box_group_output_param { fg_thr: 0.3 iou_thr: 0.5 max_nms_num: 60 max_post_nms_num: 9 min_size: 5 field_whr: 2
        field_xyr: 2 box_group_param { stride: 8 field_w: 20 field_h: 30 field_w: 36 field_h: 24 }
        box_group_param { stride: 16 field_w: 50 field_h: 60 } } """
        + REGRESSION
    )
    data = []
    for count, size in ((2, (5, 6)), (1, (3, 4))):
        data += [RANDOM.uniform(size=(2 * count, 3, *size)), RANDOM.normal(0, 2, (2 * count, 4, *size))]
    fields, strides = [[(20, 30), (36, 24)], [(50, 60)]], (8, 16)
    expected = []
    for item in range(2):
        found = []
        for stride, field, probability, delta in zip(strides, fields, data[::2], data[1::2], strict=True):
            height, width = probability.shape[2:]
            for k, y, x in np.ndindex(len(field), height, width):
                place = item * len(field) + k
                score = 1 - probability[place, 0, y, x]
                bounds = np.array([0.5, 0.5, math.log(2), math.log(2)])
                d = np.clip(delta[place, :, y, x] * DEVIATION + MEAN, -bounds, bounds)
                w, h = field[k][0] * math.exp(d[2]), field[k][1] * math.exp(d[3])
                x1 = d[0] * field[k][0] + (x + 0.5) * stride - w / 2
                y1 = d[1] * field[k][1] + (y + 0.5) * stride - h / 2
                ends = min(x1 + w - 1, width * stride), min(y1 + h - 1, height * stride)
                box = np.array([max(x1, 0), max(y1, 0), *ends])
                if score >= 0.3 and min(box[2] - box[0], box[3] - box[1]) + 1 >= 5:
                    found.append((score, box))
        kept: list[tuple[float, np.ndarray]] = []
        for score, box in sorted(found, key=lambda pair: -pair[0])[:60]:
            if all(overlap(box, other) <= 0.5 for _, other in kept):
                kept.append((score, box))
        expected += [[item, *box, score] for score, box in kept[:9]]
    boxes, scored = run(make(text), data).tops
    np.testing.assert_allclose(scored[:, :, 0, 0], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(boxes, scored[:, :5])


TARGET = """name: "t" type: "ProposalTarget" bottom: "r" bottom: "g" top: "rois" top: "labels" top: "t" top: "i"
  top: "o" top: "g" top: "w"
  proposal_target_param { cls_num: 4 batch_size: 12 fg_fraction: 0.25 num_img_per_batch: 2 %s } """


def test_targets_are_sampled_and_weighed() -> None:
    truth = np.array([[0, 10, 10, 59, 59, 3, 0, 0], [1, 20, 20, 69, 99, 1, 0, 0], [-1] * 8])
    near = np.concatenate(
        [truth[np.arange(10) % 2, :1], truth[np.arange(10) % 2, 1:5] + RANDOM.integers(-3, 4, (10, 4))], 1
    )
    far = np.concatenate([truth[np.arange(20) % 2, :1], truth[np.arange(20) % 2, 1:5] + 26], 1)
    layer = make(TARGET % "" + REGRESSION)
    tops = [top[:, :, 0, 0] for top in run(layer, [np.concatenate([near, far]), truth]).tops]
    kept, labels, targets, inside, outside, matched, weights = tops
    assert [top.shape for top in tops] == [(12, w) for w in (5, 1, 16, 16, 16, 6, 1)]
    np.testing.assert_array_equal(labels[3:], 0)
    for i in range(3):
        label, true = int(labels[i, 0]), truth[int(kept[i, 0])]
        assert label == true[5]
        delta = targets[i, 4 * label : 4 * label + 4]
        np.testing.assert_allclose(moved(delta, kept[i, 1:]), true[1:5], rtol=1e-3)
        np.testing.assert_array_equal(np.flatnonzero(inside[i]), np.arange(4 * label, 4 * label + 4))
        np.testing.assert_allclose(matched[i], [label, *true[1:5], overlap(kept[i, 1:], true[1:5])], rtol=1e-5)
    np.testing.assert_array_equal(inside, outside)
    np.testing.assert_allclose(weights[:3], 1, rtol=1e-6)
    np.testing.assert_allclose(weights[3:], 1, rtol=1e-6)
    with pytest.raises(NetError, match="no region is an object or background"):
        run(make(TARGET % "pickup_discard: false append_gtbox: false"), [far[:1] + 500, truth[:1]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [("batch_size: 0", "batch_size is 0"), ("fg_thr: 0.4 bg_thr_hg: 0.5", "fg_thr, 0.4, is below bg_thr_hg, 0.5")],
)
def test_settings_of_targets_that_the_reference_refuses(fields: str, message: str) -> None:
    text = (TARGET % "").replace("batch_size: 12", fields)
    with pytest.raises(NetError, match=message):
        make(text).tops([(9, 5), (4, 8)])


def test_the_number_of_objects_is_rounded_in_float32() -> None:
    truth = np.array([[0, 10, 10, 59, 59, 3, 0, 0]])
    near = np.concatenate([np.zeros((9, 1)), truth[[0] * 9, 1:5] + RANDOM.integers(-3, 4, (9, 4))], 1)
    text = (TARGET % "").replace("batch_size: 12 fg_fraction: 0.25", "batch_size: 10 fg_fraction: 0.35")
    labels = run(make(text), [near, truth]).tops[1]
    assert (labels == 3).sum() == 4  # 3.4999999 is 3.5 in float32
