"""Masks, keypoints and pyramids of Mask R-CNN's Python layers, against loops over regions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer
from caffestat.layers.forks.masks import by_level, filled, resized
from caffestat.layers.forks.proposals import anchors

from ..harness import TEST, TRAIN, make
from .test_proposals import overlap

RANDOM = np.random.default_rng(31)


def python(module: str, code: str, settings: str, bottoms: int, tops: int, phase: int = TRAIN) -> Layer:
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    param = f'python_param {{ module: "{module}" layer: "{code}" param_str: "{settings}" }}'
    return make(f'name: "p" type: "Python" {blobs} {param}', phase)


def levels_of(boxes: np.ndarray, area: float) -> list[int]:
    found = []
    for x1, y1, x2, y2 in boxes:
        alpha = math.sqrt((x2 - x1) * (y2 - y1)) / (224 / math.sqrt(area))
        found.append(min(5, max(2, 4 + int(np.round(math.log2(alpha))))))
    return found


def test_regions_go_to_the_level_of_their_size() -> None:
    boxes = np.array([[0, 0, 4, 3], [5, 2, 65, 82], [0, 0, 200, 260], [10, 10, 700, 500], [3, 3, 3, 9]], float)
    found = by_level(np.insert(boxes, 0, 0, 1), 224.0**2 / 4)
    wanted = levels_of(boxes[:4], 224.0**2 / 4)
    for row, level in enumerate([*wanted, 2]):  # what has no area is the smallest
        assert row in found[level - 2]
    assert sum(map(len, found)) == 5


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([3, 0, 2, 1], [2, 1, 2, 1]),  # the last of the level before
        ([0, 4, 2, 1], [1, 3, 2, 1]),  # the first of the level behind
        ([1, 1, 3, 0], [1, 1, 2, 1]),
        ([0, 1, 3, 1], [1, 1, 2, 1]),  # one moves up, one follows
        ([0, 0, 3, 1], [1, 1, 1, 1]),
        ([4, 1, 1, 0], [3, 1, 1, 1]),
        ([0, 1, 1, 4], [1, 1, 1, 3]),
        ([0, 1, 0, 1], [0, 1, 0, 1]),  # nobody has several
    ],
)
def test_each_level_gets_a_region(counts: list[int], wanted: list[int]) -> None:
    rows = np.arange(5 * sum(counts)).reshape(-1, 5)
    found = filled(np.split(rows, np.cumsum(counts)[:-1]))
    assert [len(level) for level in found] == wanted
    np.testing.assert_array_equal(np.concatenate(found), rows)


def cubic(image: np.ndarray, side: int) -> np.ndarray:
    """Sum the sixteen pixels around each place; a = -0.75."""

    def weight(d: float) -> float:
        d = abs(d)
        return 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0

    made = np.zeros((side, side))
    height, width = image.shape
    for i, j in np.ndindex(side, side):
        y, x = (i + 0.5) * height / side - 0.5, (j + 0.5) * width / side - 0.5
        for v in range(math.floor(y) - 1, math.floor(y) + 3):
            for u in range(math.floor(x) - 1, math.floor(x) + 3):
                pixel = image[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
                made[i, j] += weight(y - v) * weight(x - u) * pixel
    return made


def test_masks_are_resized_by_cubic_interpolation() -> None:
    image = RANDOM.normal(size=(9, 5))
    np.testing.assert_allclose(resized(image, 7), cubic(image, 7), atol=1e-12)


def data(boxes: int = 2, regions: int = 9) -> list[np.ndarray]:
    truth = np.array([[10, 20, 59, 79, 2], [30, 5, 99, 49, 1]], np.float32)[:boxes]
    near = truth[np.arange(regions) % boxes, :4] + RANDOM.integers(-6, 7, (regions, 4))
    rois = np.insert(np.clip(near, 0, 99), 0, 0, 1).astype(np.float32)
    return [rois, truth, (RANDOM.random((boxes, 90, 110)) < 0.5).astype(np.float32)]


@pytest.mark.parametrize("code", ["proposal_target_layer_mask_only", "proposal_target_layer_mask_only_debug"])
def test_masks_of_regions(code: str) -> None:
    bottoms = data()
    layer = python(f"rpn.{code}", "ProposalTargetLayer", "'num_classes': 3", 3, 6)
    shapes = [b.shape for b in bottoms]
    assert layer.tops(shapes)[5] == (1, 2, 28, 28)
    rois, labels, targets, inside, outside, masks = layer.decide(bottoms, RANDOM)
    assert len(rois) == len(labels) == len(masks) > 4
    assert targets.shape == inside.shape == outside.shape == (len(rois), 12)
    for roi, label, mask in zip(rois, labels, masks, strict=True):
        score = [overlap(roi[1:], box[:4]) for box in bottoms[1]]
        best = int(np.argmax(score))
        assert label == (bottoms[1][best, 4] if score[best] >= 0.5 else 0)
        wanted = np.full((2, 28, 28), -1.0)
        if label:
            x1, y1, x2, y2 = np.rint(roi[1:]).astype(int)
            wanted[int(label) - 1] = np.round(cubic(bottoms[2][best, y1:y2, x1:x2], 28))
        np.testing.assert_array_equal(mask, wanted)
    with pytest.raises(NetError, match="masks of 3 axes"):
        layer.tops([*shapes[:2], (2, 5)])


def test_places_of_points() -> None:
    rois, truth, _ = data()
    points = RANDOM.uniform(0, 100, (2, 17, 3))
    points[:, :, 2] = RANDOM.integers(0, 3, (2, 17))
    layer = python("rpn.proposal_target_layer_keypoints_only", "ProposalTargetLayer", "'num_classes': 3", 3, 7)
    bottoms = [rois, truth, points.reshape(2, 51).astype(np.float32)]
    assert layer.tops([b.shape for b in bottoms])[5:] == ((1, 2, 28, 28), (1, 17))
    tops = layer.decide(bottoms, RANDOM)
    assert (tops[5] == -1).all()
    seen = 0
    for (_, x1, y1, x2, y2), label, places in zip(tops[0], tops[1], tops[6], strict=True):
        for (x, y, visible), place in zip(bottoms[2].reshape(2, 17, 3)[1], places, strict=True):
            wanted = -1
            if label == 1 and visible > 0.01 and x1 < x < x2 and y1 < y < y2:
                column, row = (int(np.round(28 * share)) for share in ((x - x1) / (x2 - x1), (y - y1) / (y2 - y1)))
                wanted = min(row, 27) * 28 + min(column, 27)
            assert place == wanted
            seen += wanted >= 0
    assert seen > 10


def test_masks_of_a_pyramid_are_in_the_order_of_its_levels() -> None:
    bottoms = [*data(), np.zeros((1, 3, 90, 110), np.float32)]
    module = "fpn_rpn.fpn_proposal_target_layer_mask_only"
    layer = python(module, "ProposalTargetLayer", "'num_classes': 3", 4, 9)
    shapes = [b.shape for b in bottoms]
    assert layer.tops(shapes) == (*[(1, 5)] * 4, (4, 1), *[(4, 12)] * 3, (4, 2, 28, 28))
    *levels, labels, _, _, _, masks = layer.decide(bottoms, RANDOM)
    rois = np.concatenate(levels)
    assert [len(level) > 0 for level in levels] == [True] * 4
    assert len(labels) == len(rois) == len(masks)
    for roi, label in zip(rois, labels, strict=True):
        score = [overlap(roi[1:], box[:4]) for box in bottoms[1]]
        assert label == (bottoms[1][int(np.argmax(score)), 4] if max(score) >= 0.5 else 0)


@pytest.mark.parametrize(("module", "coarse"), [("fpn_proposal_layer", (8, 16)), ("fpn_proposal_layer_test", (8,))])
def test_proposals_of_a_pyramid(module: str, coarse: tuple[int, ...]) -> None:
    tops = 1 if module == "fpn_proposal_layer" else 5
    sides, scales = {4: (6, 5), 8: (3, 4), 16: (2, 3), 32: (1, 2)}, {4: (8,), 8: (8,), 16: (8,), 32: coarse}
    counts = {stride: 3 * len(scales[stride]) for stride in sides}
    deltas = [RANDOM.normal(0, 0.3, (1, 4 * counts[s], *size)).astype(np.float32) for s, size in sides.items()]
    scores = [RANDOM.random((1, 2 * counts[s], *size)).astype(np.float32) for s, size in sides.items()]
    bottoms = [np.array([[200, 260, 1]], np.float32), *deltas, *scores]
    settings = r"'feat_stride': 4,8,16,32 \n'scales': !!python/tuple [8]"
    layer = python(f"fpn_rpn.{module}", "ProposalLayer", settings, 9, tops, TEST)
    assert layer.tops([b.shape for b in bottoms]) == ((1, 5),) * tops
    found = []
    for score, delta, (stride, (height, width)) in zip(scores, deltas, sides.items(), strict=True):
        base = anchors(stride, (0.5, 1, 2), scales[stride])
        for y, x, a in np.ndindex(height, width, len(base)):
            box = base[a] + stride * np.array([x, y, x, y])
            (dx, dy, dw, dh), wide, high = delta[0, 4 * a : 4 * a + 4, y, x], *(box[2:] - box[:2] + 1)
            cx, cy = dx * wide + box[0] + wide / 2, dy * high + box[1] + high / 2
            wide, high = wide * np.exp(dw), high * np.exp(dh)
            box = [cx - wide / 2, cy - high / 2, cx + wide / 2, cy + high / 2]
            box = np.clip(box, 0, [259, 199, 259, 199])
            if (box[2:] - box[:2] + 1 >= 16).all():
                found.append((score[0, len(base) + a, y, x], box))
    kept: list[np.ndarray] = []
    for _, box in sorted(found, key=lambda pair: -pair[0]):
        if all(overlap(box, other) <= 0.7 for other in kept):
            kept.append(box)
    rows = layer.decide(bottoms, RANDOM)
    if tops == 1:
        np.testing.assert_allclose(rows[0][:, 1:], kept[:300], rtol=1e-4, atol=1e-3)
        with pytest.raises(NetError, match="at stride 32"):
            layer.tops([b.shape for b in [*bottoms[:4], *bottoms[3:4], *bottoms[5:]]])
    else:
        levels = levels_of(np.array(kept), 200.0 * 260)
        wanted = [box for level in (2, 3, 4, 5) for box, own in zip(kept, levels, strict=True) if own == level]
        np.testing.assert_allclose(rows[4][:, 1:], wanted, rtol=1e-4, atol=1e-3)
        np.testing.assert_array_equal(np.concatenate(rows[:4]), rows[4])


def test_anchors_of_a_pyramid_start_from_the_stride() -> None:
    settings = r"'feat_stride': 4 \n'scales': !!python/tuple [8]"
    layer = python("fpn_rpn.anchor_target_layer", "AnchorTargetLayer", settings, 4, 4)
    bottoms = [np.zeros((1, 6, 12, 14)), np.array([[8, 8, 39, 39, 1.0]]), np.array([[48, 56, 1.0]]), np.zeros((1, 3))]
    labels = layer.decide(bottoms, RANDOM)[0].reshape(3, 12, 14)
    base = anchors(4, (0.5, 1, 2), (8,))
    for a, y, x in np.ndindex(3, 12, 14):
        box = base[a] + 4 * np.array([x, y, x, y])
        if labels[a, y, x] == 1:
            assert overlap(box, [8, 8, 39, 39]) >= 0.7 or overlap(box, [8, 8, 39, 39]) > 0.6
    assert (labels == 1).any()


def test_the_data_have_masks_or_points() -> None:
    for module, more in (("mask_only", (1, 640, 1024)), ("keypoints_only", (1, 51))):
        layer = python(f"roi_data_layer.layer_{module}", "RoIDataLayer", "'num_classes': 3", 0, 4)
        assert layer.tops([]) == ((1, 3, 640, 1024), (1, 3), (1, 5), more)
    layer = python("roi_data_layer.layer_mask_only_debug", "RoIDataLayer", "'num_classes': 3", 0, 5)
    assert layer.tops([])[:2] == ((1, 3, 640, 1024),) * 2
