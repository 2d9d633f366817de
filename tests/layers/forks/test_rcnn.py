"""The losses of R-CNN's kin, hard example mining, and peaks of heat maps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients
from .test_proposals import overlap

RANDOM = np.random.default_rng(9)


def smooth_l1(d: np.ndarray, sigma: float) -> np.ndarray:
    return np.where(abs(d) < 1 / sigma**2, 0.5 * (sigma * d) ** 2, abs(d) - 0.5 / sigma**2)


A, B = RANDOM.normal(0, 1, (2, 3, 4, 2, 5))
INSIDE, OUTSIDE = RANDOM.uniform(0, 2, (2, 3, 4, 2, 5))
LOSS = 'name: "l" type: "SmoothL1Loss" bottom: "a" bottom: "b" %s top: "y" smooth_l1_loss_param { sigma: 2 }'


def test_smooth_l1_of_two_bottoms() -> None:
    layer = make(LOSS % "")
    assert layer.loss_weight(0) == 1
    check_gradients(layer, lambda a, b: smooth_l1(a - b, 2).sum() / 3 * np.ones(()), [A, B], [0, 1])


def test_smooth_l1_with_weights_inside_and_outside() -> None:
    layer = make(LOSS % 'bottom: "i" bottom: "o"')

    def forward(a: np.ndarray, b: np.ndarray, i: np.ndarray, o: np.ndarray) -> np.ndarray:
        return (smooth_l1(i * (a - b), 2) * o).sum() / 3 * np.ones(())

    check_gradients(layer, forward, [A, B, INSIDE, OUTSIDE], [0, 1])


def test_smooth_l1_of_three_bottoms_leaves_the_weights_out_of_the_gradient() -> None:
    text = 'name: "l" type: "SmoothL1Loss" bottom: "a" bottom: "b" bottom: "w" top: "y"'
    result = run(make(text), [A, B, INSIDE])
    d = INSIDE * (A - B)
    assert float(result.tops[0]) == pytest.approx(smooth_l1(d, 1).sum() / 3, rel=1e-5)
    np.testing.assert_allclose(result.bottoms[0], d.clip(-1, 1) / 3, rtol=1e-4, atol=1e-6)
    assert not result.bottoms[2].any()


@pytest.mark.parametrize(
    ("mode", "divisor"), [("PRE_FIXED", 128), ("VALID", 3 * 2 * 5), ("NONE", 1), ("BATCH_SIZE", 3)]
)
def test_smooth_l1_for_mining_tells_each_regions_loss(mode: str, divisor: int) -> None:
    text = f"""name: "l" type: "SmoothL1LossOHEM" bottom: "a" bottom: "b" bottom: "w" top: "y" top: "each"
      loss_param {{ normalization: {mode} pre_fixed_normalizer: 128 }}"""
    each = smooth_l1(INSIDE * (A - B), 1).sum(1, keepdims=True)
    zeros = np.zeros(each.shape, np.float32)
    result = run(make(text), [A, B, INSIDE], dys=[np.array(1, np.float32), zeros])
    np.testing.assert_allclose(result.tops[1], each, rtol=1e-5)
    assert float(result.tops[0]) == pytest.approx(each.sum() / divisor, rel=1e-5)
    d = INSIDE * (A - B)
    np.testing.assert_allclose(result.bottoms[0], d.clip(-1, 1) / divisor, rtol=1e-4, atol=1e-6)


def test_softmax_loss_for_mining_tells_each_labels_loss() -> None:
    text = """name: "l" type: "SoftmaxWithLossOHEM" bottom: "x" bottom: "t" top: "y" top: "p" top: "each"
      loss_param { ignore_label: 2 normalization: FULL }"""
    x, labels = RANDOM.normal(size=(5, 4, 1, 3)), RANDOM.integers(0, 4, (5, 1, 1, 3))
    labels[0, 0, 0, 1] = 2
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    each = np.where(labels == 2, 0, -np.log(np.take_along_axis(p, labels, 1)))
    shapes = [(), x.shape, labels.shape]
    dys = [np.array(1, np.float32), *(np.ones(shape, np.float32) for shape in shapes[1:])]
    result = run(make(text), [x, labels], dys=dys)
    np.testing.assert_allclose(result.tops[2], each, rtol=1e-4, atol=1e-6)
    assert float(result.tops[0]) == pytest.approx(each.sum() / 15, rel=1e-5)
    expected = (p - (np.arange(4).reshape(1, 4, 1, 1) == labels)) * (labels != 2) / 15
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-4, atol=1e-6)


def test_the_hardest_regions_of_each_image_are_annotated() -> None:
    text = """name: "o" type: "BoxAnnotatorOHEM" bottom: "r" bottom: "l" bottom: "t" bottom: "w" top: "y" top: "v"
      box_annotator_ohem_param { roi_per_img: 2 ignore_label: -1 }"""
    rois = np.zeros((5, 5))
    rois[:, 0] = [0, 0, 1, 0, 1]
    losses, labels = np.array([0.3, 0.9, 0.1, 0.5, 0.2])[:, None], np.array([3, 1, 4, 2, 5])[:, None]
    weights = RANDOM.uniform(0.5, 1, (5, 8))
    result = run(make(text), [rois, losses, labels, weights])
    np.testing.assert_array_equal(result.tops[0].ravel(), [-1, 1, 4, 2, 5])
    kept = np.array([0, 1, 1, 1, 1])[:, None]
    np.testing.assert_allclose(result.tops[1].reshape(5, 8), weights * kept, rtol=1e-6)
    assert not result.bottoms[1].any()


def test_peaks_are_counted_and_refined() -> None:
    heat = np.zeros((1, 3, 9, 12))
    heat[0, 0, 4, 6], heat[0, 0, 4, 7] = 1, 0.5
    heat[0, 1, 2, 3] = heat[0, 1, 6, 9] = 0.8
    heat[0, 2, 5, 5] = 9
    text = 'name: "n" type: "Nms" bottom: "x" top: "y" nms_param { threshold: 0.3 max_peaks: 1 num_parts: 2 }'
    (top,) = run(make(text), [heat]).tops
    assert top.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(top[0, 0], [[1, 0, 0], [(6 + 3.5) / 1.5, 4, 1]], rtol=1e-6)
    np.testing.assert_allclose(top[0, 1], [[2, 0, 0], [3, 2, 0.8]], rtol=1e-6)


def test_the_loss_of_each_region_is_a_further_top_of_older_names_too() -> None:
    random = np.random.default_rng(31)
    scores, labels = random.normal(size=(5, 3)), random.integers(0, 3, 5).astype(float)
    text = 'name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "y" top: "p" top: "each"'
    layer = make(text)
    assert layer.dialect == "rcnn"
    y, p, each = run(layer, [scores, labels]).tops
    expected = [-math.log(p[index, int(label)]) for index, label in enumerate(labels)]
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    assert y == pytest.approx(np.mean(expected))
    x, target, inside, outside = (random.normal(size=(5, 4)) for _ in range(4))
    text = 'name: "l" type: "SmoothL1Loss" bottom: "x" bottom: "t" bottom: "i" bottom: "o" top: "y" top: "each"'
    y, each = run(make(text), [x, target, inside, outside]).tops
    d = inside * (x - target)
    losses = (outside * np.where(abs(d) < 1, d * d / 2, abs(d) - 0.5)).sum(1)
    np.testing.assert_allclose(each.ravel(), losses, rtol=1e-4)
    assert y == pytest.approx(losses.sum() / 5, rel=1e-4)
    assert make('name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "y"').dialect == ""


@pytest.mark.parametrize("with_targets", [False, True])
def test_the_hardest_regions_are_kept(with_targets: bool) -> None:
    random = np.random.default_rng(9)
    rois = np.concatenate([random.integers(0, 2, (150, 1)), random.integers(0, 40, (150, 2)), np.zeros((150, 2))], 1)
    rois[:, 3:] = rois[:, 1:3] + random.integers(25, 45, (150, 2))
    scores, labels = random.dirichlet(np.ones(3), 150), random.integers(0, 3, 150)
    deltas, target, outside = random.normal(0, 2, (3, 150, 12))
    inside = (np.arange(12) // 4 == labels[:, None]) * 1.5
    data = [scores, deltas, rois, labels, *([target, inside, abs(outside)] if with_targets else [])]
    blobs = "".join(f'bottom: "b{i}" ' for i in range(len(data))) + "".join(
        f'top: "t{i}" ' for i in range(len(data) - 2)
    )
    layer = make(
        f'name: "h" type: "Python" {blobs} python_param {{ module: "roi_data_layer.layer" layer: "OHEMDataLayer" }}'
    )
    assert layer.tops([np.shape(part) for part in data])[:2] == ((1, 5), (1,))
    loss = -np.log(scores[np.arange(150), labels])
    for i in np.flatnonzero(labels) if with_targets else ():
        for j in range(12):
            off = abs(inside[i, j] * (deltas[i, j] - target[i, j]))
            loss[i] += abs(outside[i, j]) * (off**2 / 2 if off < 1 else off - 0.5)
    kept: list[int] = []
    for i in np.argsort(-loss):
        alike = [j for j in kept if labels[j] == labels[i] and rois[j, 0] == rois[i, 0]]
        if all(overlap(rois[i, 1:], rois[j, 1:]) <= 0.7 for j in alike):
            kept.append(int(i))
    assert 100 < len(kept) < 150
    tops = run(layer, data).tops
    np.testing.assert_array_equal(tops[0], rois[kept[:128]].astype(np.float32))
    np.testing.assert_array_equal(tops[1], labels[kept[:128]])
    if with_targets:
        np.testing.assert_allclose(tops[2], target[kept[:128]], rtol=1e-6)
    with pytest.raises(NetError, match="takes 4 bottoms and 2 tops, or 7 and 5"):
        layer.tops([(3, 2), (3, 8), (3, 5), (3,), (3, 8)])
    with pytest.raises(NetError, match=r"expected \(R, K\)"):
        layer.tops([(3, 2), (3, 8), (3, 4), (3,), (3, 8), (3, 8), (3, 8)][: len(data)])


def test_smooth_l1_takes_bottoms_of_the_same_axes() -> None:
    """smooth_L1_loss_layer.cpp compares channels, height and width, where missing axes are 1."""
    layer = make(LOSS % "")
    assert layer.tops([(2, 6, 1), (2, 6)]) == ((),)
    with pytest.raises(NetError, match=r"bottom 1 has shape \(2, 6, 6\); expected \(2, 6, 3, 2\), that of bottom 0"):
        layer.tops([(2, 6, 3, 2), (2, 6, 6)])
