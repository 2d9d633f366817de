"""Losses of forks that weigh pairs, classes or differences, against loops; gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(23)
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '
LABELS = np.array([[0, 2], [1, 1], [2, 0], [0, 1]], np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def at_labels(p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.take_along_axis(p, labels.astype(int)[:, None], axis=1)[:, 0]


def test_focal_losses_weigh_what_is_learned_less() -> None:
    x = RANDOM.normal(size=(4, 3, 2))

    def focal(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = at_labels(softmax(scores), labels)
        return -((1 - p) ** 1.5 * np.log(p)).sum() / 8

    def added(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = at_labels(softmax(scores), labels)
        return -((1 + p) ** 1.5 * np.log(p)).sum() / 8

    def fixed(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p, counts = at_labels(softmax(scores), labels), labels != 1
        return -0.75 * (counts * (1 - p) ** 2 * np.log(p)).sum() / counts.sum()

    happynear = make(TWO % "FocalLoss" + "focal_loss_param { gamma: 1.5 }", dialect="happynear")
    check_gradients(happynear, focal, [x, LABELS], [0])
    check_gradients(make(TWO % "FocalLoss" + "focal_loss_param { gamma: 1.5 type: ONEADDP }"), added, [x, LABELS], [0])
    check_gradients(make(TWO % "focalSoftmaxWithLoss" + "loss_param { ignore_label: 1 }"), fixed, [x, LABELS], [0])


@pytest.mark.parametrize(("fields", "alpha", "gamma"), [("", 0.25, 2), ("alpha: 2 gamma: 1 type: LINEAR", 2, 1)])
def test_alpha_weighs_the_focal_loss(fields: str, alpha: float, gamma: float) -> None:
    def focal(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        p = at_labels(softmax(scores), labels)
        return -alpha * ((1 - p) ** gamma * np.log(p)).sum() / 8

    layer = make(TWO % "FocalLoss" + f"focal_loss_param {{ {fields} }}")
    assert layer.dialect == "frcnn"
    check_gradients(layer, focal, [RANDOM.normal(size=(4, 3, 2)), LABELS], [0])


def test_alpha_of_the_focal_loss_is_taken_from_p_in_the_loss_alone() -> None:
    x = RANDOM.normal(size=(4, 3, 2))
    layer = make(TWO % "FocalLoss" + "focal_loss_param { alpha: 0.25 }", dialect="happynear")
    found = run(layer, [x, LABELS], dys=[np.float32(2)])
    p = softmax(x)
    chosen = at_labels(p, LABELS)
    power = (0.25 - chosen) ** 2
    np.testing.assert_allclose(found.tops[0], -(power * np.log(chosen)).sum() / 8, rtol=1e-5)
    grad = -2 * power / (1 - chosen) * np.log(chosen) * chosen + power
    dx = grad[:, None] * (p - (LABELS[:, None] == np.arange(3)[:, None])) * 2 / 8
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-7)


TRIPLET = 'name: "l" type: "GeneralTripletLoss" bottom: "a" bottom: "b" top: "y" top: "m" '


def triplet(d: np.ndarray, labels: np.ndarray, hardest: bool, bound: float, center: bool) -> tuple[float, np.ndarray]:
    """general_triplet_loss_layer.cpp, margin 0.4, positive_weight 2, negative_weight 1.5: the loss and dx · N."""
    terms, dx = np.zeros_like(d), np.zeros_like(d)
    for i, own in enumerate(labels.astype(int)):
        for j in range(d.shape[1]):
            terms[i, j] = 1.5 * max(0, d[i, own] + 0.4 - d[i, j]) * (j != own)
        if hardest:
            terms[i] *= np.arange(d.shape[1]) == terms[i].argmax()
        dropped = d[i, own] > bound
        terms[i] *= not dropped
        dx[i] = -1.5 * (terms[i] > 0)
        dx[i, own] = 2 * (center or dropped or (terms[i] > 0).any())
    return terms.sum() / len(d), dx


@pytest.mark.parametrize("hardest", [False, True])
@pytest.mark.parametrize(("bound", "center"), [(9.0, True), (9.0, False), (0.8, False)])
def test_general_triplet_loss(hardest: bool, bound: float, center: bool) -> None:
    fields = f"hardest_only: {hardest} positive_first: {bound < 9} positive_upper_bound: {bound} ".lower()
    fields += f"add_center_loss: {center} margin: 0.4 positive_weight: 2 negative_weight: 1.5".lower()
    d, labels = RANDOM.uniform(0.2, 1.4, size=(7, 4)), np.array([0, 3, 1, 2, 2, 0, 1], np.float32)
    layer = make(TRIPLET + f"general_triplet_loss_param {{ {fields} }}")
    assert layer.num_bottoms == (2, 2)  # a third one stops the reference
    found = run(layer, [d, labels], dys=[np.float32(3), np.zeros(2, np.float32)])
    loss, dx = triplet(d, labels, hardest, bound, center)
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx * 3 / 7, rtol=1e-5)
    same = d[np.arange(7), labels.astype(int)]
    np.testing.assert_allclose(found.tops[1], [same.mean(), (d.sum() - same.sum()) / 21], rtol=1e-5)


def test_lpq_loss_of_differences() -> None:
    a, b = RANDOM.normal(size=(2, 2, 3, 4, 5))
    layer = make(TWO % "LpqLoss" + "lpq_loss_param { p: 1.5 q: 0.4 p_epsilon: 0.1 q_epsilon: 0.02 }")

    def forward(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (((abs(a - b) + 0.1) ** 1.5).sum(1) + 0.02).__pow__(0.4).sum() / 2

    check_gradients(layer, forward, [a, b], [0, 1])


def test_lpq_loss_counts_numbers_and_leaves_nan_out() -> None:
    a, b = RANDOM.normal(size=(2, 2, 3, 4, 5))
    b[0, 1, 2, 3] = np.nan
    text = "lpq_loss_param { p: 1 q: 0.4 normalize_by_num_entries: true l2_prescale_by_channels: true }"
    found = run(make(TWO % "LpqLoss" + text), [a, b], dys=[np.float32(1)])
    d = np.nan_to_num(a - b)
    inner = abs(d).sum(1) / 3 + 0.01
    count = (a.size - 1) / 3
    np.testing.assert_allclose(found.tops[0], (inner**0.4).sum() / count, rtol=1e-5)
    slope = np.sign(d) * (0.4 * inner**-0.6 / 3)[:, None] / count
    np.testing.assert_allclose(found.bottoms[0], slope, rtol=1e-4, atol=1e-8)
    assert found.bottoms[0][0, 1, 2, 3] == 0


def pairwise(x, labels, other, others, continuous):
    """pairwise_loss_layer.cu with sigmoid_param 0.7, class_num 3, l_threshold 1 and l_lambda 0.5: y, dx, dx'."""
    n = len(x)
    z, product = 0.7 * x @ other.T, labels @ others.T
    y, weight, pull = 0.0, 0.0, np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        if not 0 <= product[i, j] < labels.shape[1]:
            continue
        s = product[i, j] > 0
        c = 3 if s else 1
        term = z[i, j] * (1 - s) if z[i, j] >= 1 else np.log1p(np.exp(z[i, j])) - s * z[i, j]
        y, weight = y + c * abs(term), weight + c
        pull[i, j] = 2 * c * (1 / (1 + np.exp(-z[i, j])) - s)
        if continuous:
            lengths = ((row @ row) or 1 for row in (labels[i], others[j]))
            pull[i, j] *= 4 * (product[i, j] ** 2 / np.prod(list(lengths)) or 0.25)
    dx, dother = (0.5 * part / weight for part in (pull @ other, pull.T @ x))
    for part in (dx, dother):
        part.ravel()[:n] *= 0.7  # the first n numbers alone
    return y / weight, dx, dother


@pytest.mark.parametrize("continuous", [False, True])
def test_pairwise_loss(continuous: bool) -> None:
    text = 'name: "l" type: "PairwiseLoss" bottom: "x" bottom: "t" bottom: "u" bottom: "v" top: "y" pairwise_param { '
    fields = "sigmoid_param: 0.7 class_num: 3 l_threshold: 1 l_lambda: 0.5 }"
    layer = make(text + f"continous_similarity: {continuous} ".lower() + fields)
    x, other = RANDOM.normal(size=(2, 4, 5))
    labels, others = RANDOM.integers(0, 2, size=(2, 4, 3)).astype(float)
    labels[0], others[1] = 0, 1
    labels[2] = 1  # the product is as large as there are labels: the pair does not count
    found = run(layer, [x, labels, other, others], dys=[np.float32(7)])
    y, dx, dother = pairwise(x, labels, other, others, continuous)
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.bottoms[2], dother, rtol=1e-4, atol=1e-7)


def test_euclidean_loss_leaves_items_without_a_mark_out() -> None:
    x, targets = RANDOM.normal(size=(4, 3, 2)), RANDOM.normal(size=(4, 4, 2))
    rows = targets.reshape(4, 8)
    rows[:, 6] = [1, 0, 1, 0.5]

    def forward(x: np.ndarray, targets: np.ndarray) -> np.ndarray:
        d = x.reshape(4, 6) - targets.reshape(4, 8)[:, :6]
        return np.array((d[[0, 2]] ** 2).sum() / 4)

    check_gradients(make(TWO % "EuclideanLossWithIgnore"), forward, [x, targets], [0])


def test_voxel_softmax_loss_skips_labels_beyond_the_classes() -> None:
    layer = make('name: "l" type: "VoxelSoftmaxLoss" bottom: "x" bottom: "t" top: "y"')
    random = np.random.default_rng(15)
    x, labels = random.normal(size=(2, 3, 2, 4, 5)), random.integers(0, 5, (2, 1, 2, 4, 5))
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    chosen = np.arange(3).reshape(1, 3, 1, 1, 1) == labels
    found = run(layer, [x, labels], dys=[np.array(7, np.float32)])
    np.testing.assert_allclose(found.tops[0], -np.log(p[chosen]).sum() / 80, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], (p - chosen) / 80, rtol=1e-4, atol=1e-7)


def test_memory_loss_has_a_shape_alone() -> None:
    layer = make('name: "l" type: "MemoryLoss" bottom: "x" top: "y" loss_param { normalization: NONE }')
    assert layer.tops([(2, 3)]) == ((),)
    assert "application" in layer.why_uncomputed


def test_the_euclidean_loss_of_pycaffes_examples_ignores_the_gradient_above_it() -> None:
    text = """name: "l" type: "Python" bottom: "a" bottom: "b" top: "l" %s
      python_param { module: "pyloss" layer: "EuclideanLossLayer" }"""
    layer = make(text % "")
    assert layer.loss_weight(0) == 0
    assert make(text % "loss_weight: 2").loss_weight(0) == 2
    random = np.random.default_rng(8)
    a, b = random.normal(size=(3, 5)), random.normal(size=(3, 5, 1))
    result = run(layer, [a, b], dys=[np.full(1, 7, np.float32)])
    difference = a - b[..., 0]
    np.testing.assert_allclose(result.tops[0], [(difference**2).sum() / 6], rtol=1e-6)
    np.testing.assert_allclose(result.bottoms[0], difference / 3, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[1][..., 0], -difference / 3, rtol=1e-5)
