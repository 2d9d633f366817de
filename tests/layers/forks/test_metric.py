"""Layers that compare items, against loops written from their references."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(15)
A, P, N = RANDOM.normal(0, 0.5, (3, 5, 4))
TRIPLET = 'name: "l" type: "TripletLoss" bottom: "a" bottom: "p" %s top: "y" triplet_loss_param { margin: 0.7 }'


def test_triplet_loss() -> None:
    def loss(a: np.ndarray, p: np.ndarray, n: np.ndarray) -> np.ndarray:
        return np.maximum(0.7 + ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1), 0).sum() / 10

    check_gradients(make(TRIPLET % 'bottom: "n"'), loss, [A, P, N], [0, 1, 2])


def test_triplet_loss_of_maps() -> None:
    def loss(a: np.ndarray, p: np.ndarray, n: np.ndarray) -> np.ndarray:
        return np.maximum(0, 0.7 + ((a - p) ** 2).sum((1, 2, 3)) - ((a - n) ** 2).sum((1, 2, 3))).sum() / 8

    text = TRIPLET.replace("triplet_loss_param { margin", "threshold_param { threshold") % 'bottom: "n"'
    maps = [0.2 * np.random.default_rng(5 + i).normal(size=(4, 2, 3, 5)) for i in range(3)]
    check_gradients(make(text), loss, maps, [0, 1, 2])


def test_triplet_loss_of_indices() -> None:
    triplets = np.array([[0, 1, 3], [2, 0, 4]])
    layer = make(TRIPLET % "")
    assert layer.dialect == "caffe-train"
    layer.tops([A.shape, (4, 3, 1, 1)])  # at set-up there are four
    found = run(layer, [A, triplets.reshape(2, 3, 1, 1)], dys=[np.full(1, 3, np.float32)])
    loss, slope = 0.0, np.zeros_like(A)
    for a, p, n in triplets:
        loss += max(0, ((A[a] - A[p]) ** 2).sum() - ((A[a] - A[n]) ** 2).sum() + 0.7)
        slope[a], slope[p], slope[n] = 2 * (A[n] - A[p]), 2 * (A[p] - A[a]), 2 * (A[a] - A[p])
    np.testing.assert_allclose(found.tops[0], [loss / 4], rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], 3 * slope / 4, rtol=1e-4, atol=1e-6)
    with pytest.raises(NetError, match="rows of 0 to 4 in the triplets, found 5"):
        run(layer, [A, triplets + 1])


def test_sampled_triplets() -> None:
    layer = make('name: "l" type: "SampleTriplet" bottom: "x" bottom: "t" top: "y" sample_triplet_param { alpha: 0.5 }')
    x = RANDOM.normal(0, 0.6, (7, 3))
    (found,) = run(layer, [x, np.array([3, 2, 2])]).tops
    persons = [0, 0, 0, 1, 1, 2, 2]
    wanted = []
    for a, p in itertools.combinations(range(7), 2):
        if persons[a] == persons[p]:
            near = ((x[a] - x[p]) ** 2).sum()
            hard = [n for n in range(7) if persons[n] != persons[a] and ((x[a] - x[n]) ** 2).sum() - near < 0.5]
            wanted += [(a, p, hard)] if hard else []
    assert len(wanted) == len(found) > 2
    for row, (a, p, hard) in zip(found[:, :, 0, 0].astype(int), wanted, strict=True):
        assert (row[0], row[1]) == (a, p)
        assert row[2] in hard


LABELS = np.array([2, 0, 3, 1, 2])
DISTANCES = RANDOM.uniform(0, 2, (5, 4))
DISTANCES[1, 0] = 3


def contrastive(d: np.ndarray, p: dict[str, Any], margin: float) -> tuple[float, np.ndarray, list[float]]:
    """The reference's loops: loss, slope before dy, and mean terms."""
    rows, classes = d.shape
    terms, slope, hardest, first = np.zeros_like(d), np.zeros_like(d), [0] * rows, 0
    near = far = 0.0
    for i, j in np.ndindex(rows, classes):
        if j == LABELS[i]:
            cut = min(p["outlier"], max(0, d[i, j] - p["positive_margin"]))
            terms[i, j] = cut * 2
            near += cut
            if terms[i, j] < terms[first, LABELS[first]]:
                first = i
        elif d[i, j] < margin:
            terms[i, j] = (math.exp(-d[i, j]) if p["exp"] else margin - d[i, j]) * 0.5
            far += margin - d[i, j]
            if terms[i, j] > terms[i, hardest[i]]:
                hardest[i] = j
    pull = 0.0
    for i, j in np.ndindex(rows, classes):
        skips = p["first"] and d[i, LABELS[i]] > p["upper"]
        if j == LABELS[i]:
            counts = p["positive_margin"] < d[i, j] < p["outlier"] and not (p["max_positive"] and i != first)
            slope[i, j] = 2 * (counts or skips)
            if p["max_positive"] and i != first:
                terms[i, j] = 0
        elif skips or (p["max_negative"] and j != hardest[i]):
            terms[i, j] = 0
        elif d[i, j] < margin:
            slope[i, j] = -0.5 * (math.exp(-d[i, j]) if p["exp"] else 1)
            pull -= slope[i, j]
    if p["normalize"]:
        pull = pull / p["normalize"] / rows
        for i, j in np.ndindex(rows, classes):
            if j != LABELS[i] and pull > 2:
                slope[i, j] /= pull
    return abs(terms).sum() / rows, slope / rows, [near / rows, far / rows / (classes - 1)]


CONTRASTIVE = (
    'name: "l" type: "GeneralContrastiveLoss" bottom: "x" bottom: "t" top: "y" top: "means" '
    "general_contrastive_loss_param { positive_margin: 0.2 negative_margin: 1.3 positive_weight: 2 "
    "negative_weight: 0.5 positive_outlier_thresh: 1.1 %s }"
)
PLAIN = {
    "positive_margin": 0.2,
    "outlier": 1.1,
    "exp": False,
    "first": False,
    "upper": 1,
    "max_positive": False,
    "max_negative": False,
    "normalize": 0,
}


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ("", {}),
        ("exp_negative_weight: true", {"exp": True}),
        ("max_negative_only: true", {"max_negative": True}),
        ("max_positive_only: true", {"max_positive": True}),
        ("positive_first: true positive_upper_bound: 0.9", {"first": True, "upper": 0.9}),
        ("normalize_negative: 0.1", {"normalize": 0.1}),
        ("max_negative_only: true positive_first: true", {"max_negative": True, "first": True}),
    ],
)
def test_general_contrastive_loss(fields: str, change: dict[str, Any]) -> None:
    loss, slope, means = contrastive(DISTANCES, {**PLAIN, **change}, 1.3)
    found = run(make(CONTRASTIVE % fields), [DISTANCES, LABELS], dys=[np.float32(3), np.zeros(2, np.float32)])
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found.tops[1], means, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], 3 * slope, rtol=1e-5, atol=1e-6)


def test_margin_grows_with_the_distances_at_labels() -> None:
    layer = make(CONTRASTIVE % "add_intra_mae: true")
    zeros = [np.float32(1), np.zeros(3, np.float32)]
    first = run(layer, [DISTANCES, LABELS], dys=zeros)
    again = run(layer, [DISTANCES, LABELS], dys=zeros)
    _, _, (near, _) = contrastive(DISTANCES, PLAIN, 1.3)
    np.testing.assert_allclose(first.tops[1][2], 0.01 * near, rtol=1e-5)
    loss, _, _ = contrastive(DISTANCES, PLAIN, 1.3 + 0.01 * near)
    np.testing.assert_allclose(again.tops[0], loss, rtol=1e-5)


PAIR = (
    'name: "l" type: "PairFastLoss" bottom: "x" bottom: "t" top: "y" top: "rank" top: "count" '
    "pair_fast_loss_param { margin: 3 factor: 2 %s }"
)


def pairs(x: np.ndarray, ratio: float, mode: int) -> tuple[float, int, np.ndarray]:
    kinds: list[list[tuple[float, int, int]]] = [[], []]
    for i, j in itertools.permutations(range(len(x)), 2):
        d = float(((x[i] - x[j]) ** 2).sum())
        if LABELS[i] == LABELS[j]:
            kinds[0] += [(d, i, j)] * (i < j and mode != 1)
        else:
            kinds[1] += [(2 * max(0.0, 3 - d), i, j)] * (mode != 0)
    loss, count, chosen = 0.0, 0, [set(), set()]
    for kind, terms in enumerate(kinds):
        for term, i, j in sorted(terms, reverse=True)[: int(len(terms) * ratio)]:
            loss += term
            if term > 0:
                count += 1
                chosen[kind].add((min(i, j), max(i, j)))
    slope = np.zeros_like(x)
    for kind, factor in enumerate((1, -2)):
        for i, j in chosen[kind]:
            slope[i] += factor * (x[i] - x[j])
            slope[j] -= factor * (x[i] - x[j])
    return loss / count, count, slope / count


@pytest.mark.parametrize(("fields", "ratio", "mode"), [("", 1, 2), ("hard_ratio: 0.5", 0.5, 2), ("mode: NEG", 1, 1)])
def test_pair_fast_loss(fields: str, ratio: float, mode: int) -> None:
    loss, count, slope = pairs(A, ratio, mode)
    zero = np.float32(0)
    found = run(make(PAIR % fields), [A, LABELS], dys=[np.float32(0.5), zero, zero])
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    assert found.tops[2] == count
    np.testing.assert_allclose(found.bottoms[0], 0.5 * slope, rtol=1e-4, atol=1e-6)
    near = ((A[0] - A[4]) ** 2).sum()  # the only pair of one label
    right = [((A[one] - A[n]) ** 2).sum() > near for one in (0, 4) for n in (1, 2, 3)]
    np.testing.assert_allclose(found.tops[1], np.mean(right), rtol=1e-6)


RANK = (
    'name: "l" type: "RankHardLoss" bottom: "x" %s top: "y" '
    "rank_param { neg_num: 2 pair_size: 3 hard_ratio: 0.5 rand_ratio: 0.5 margin: 0.6 }"
)
X = RANDOM.normal(0, 0.5, (9, 4))


def ranked(x: np.ndarray, chosen: dict[int, list[int]]) -> tuple[float, np.ndarray]:
    loss, slope, count = 0.0, np.zeros_like(x), 2 * 9 // 3 * 2
    for i, rows in chosen.items():
        p = i + 1
        for n in rows:
            for one, other in ((i, p), (p, i)):
                near = x[one] @ x[n] if n != one else 0  # the reference sets no distance of a row to itself
                term = -x[i] @ x[p] + near + 0.6
                if term > 0:
                    loss += term
                    slope[one] += x[n] - x[other]
                    slope[other] -= x[one]
                    slope[n] += x[one]
    return loss / count, slope / count


def candidates(i: int, allowed: list[int]) -> list[int]:
    return [n for n in allowed if -X[i] @ X[i + 1] + (X[i] @ X[n] if n != i else 0) + 0.6 > 0]


def test_rank_hard_loss_takes_one_hard_and_one_random_row() -> None:
    labels = np.repeat([4, 7, 5], 3)
    results = set()
    for seed in range(3):
        found = run(make(RANK % 'bottom: "t"'), [X, labels], dys=[np.float32(7)], seed=seed)
        options = []
        for i in (0, 3, 6):
            rows = candidates(i, [n for n in range(9) if labels[n] != labels[i]])
            assert len(rows) > 2
            hard = sorted(rows, key=lambda n, i=i: -X[i] @ X[n])[:2]
            options.append([(i, [h, r]) for h in hard for r in rows if r != h])
        every = [ranked(X, dict(choice)) for choice in itertools.product(*options)]
        fits = [slope for loss, slope in every if np.isclose(loss, found.tops[0], rtol=1e-4)]
        assert any(np.allclose(found.bottoms[0], slope, rtol=1e-3, atol=1e-5) for slope in fits)
        results.add(float(found.tops[0]))
    assert len(results) > 1


def test_rank_hard_loss_of_places() -> None:
    lat, lon = np.full(9, 0.8), 0.3 + np.arange(9) * 0.1
    lon[5] = lon[0] + 1e-5  # 44 m away
    layer = make(RANK.replace("neg_num: 2", "neg_num: 9") % 'bottom: "lat" bottom: "lon"')
    found = run(layer, [X, lat, lon])
    chosen = {i: candidates(i, [n for n in range(9) if n != i and {n, i} != {0, 5}]) for i in (0, 3, 6)}
    loss, slope = ranked(X, chosen)
    scale = (2 * 9 // 3 * 2) / (9 * 9 // 3 * 2)
    np.testing.assert_allclose(found.tops[0], loss * scale, rtol=1e-4)
    np.testing.assert_allclose(found.bottoms[0], slope * scale, rtol=1e-3, atol=1e-6)


def test_netvlad() -> None:
    layer = make(
        'name: "l" type: "Netvlad" bottom: "a" bottom: "x" top: "y" '
        "netvlad_param { cluster_num: 3 local_dim: 2 vlad_dim: 6 }"
    )
    a, x, c = RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.normal(size=(2, 2, 4, 5)), RANDOM.normal(size=(3, 2))

    def forward(a: np.ndarray, x: np.ndarray, c: np.ndarray) -> np.ndarray:
        moved = x[:, None] + c[None, :, :, None, None]
        return (a[:, :, None] * moved).sum((3, 4)).reshape(2, 6)

    check_gradients(layer, forward, [a, x, c], [0, 1, 2], params=1)
    assert layer.overwrites_diff(0, [])


def test_parts_of_unit_length() -> None:
    layer = make('name: "l" type: "Intranorm" bottom: "x" top: "y" intranorm_param { cluster_num: 3 }')

    def forward(x: np.ndarray) -> np.ndarray:
        rows = x.reshape(2, 3, 4)
        return (rows / np.sqrt((rows * rows).sum(2, keepdims=True) + 1e-12)).reshape(2, 12)

    check_gradients(layer, forward, [RANDOM.normal(size=(2, 12))], [0])
    assert layer.tops([(2, 6, 5)]) == ((2, 6, 5),)
    with pytest.raises(NetError, match="expected 2 to 4 axes"):  # num() stops intranorm_layer.cpp
        layer.tops([(2, 6, 3, 5, 2)])


def test_maps_filtered_by_a_mask() -> None:
    layer = make('name: "l" type: "Spfilter" bottom: "a" bottom: "b" bottom: "m" top: "y" top: "z"')
    a, b, mask = (RANDOM.normal(size=shape) for shape in ((2, 3, 4, 5), (2, 1, 4, 5), (2, 20)))
    dys = [np.zeros(a.shape, np.float32), RANDOM.normal(size=b.shape).astype(np.float32)]
    found = run(layer, [a, b, mask], dys=dys)
    np.testing.assert_allclose(found.tops[0], a * mask.reshape(2, 1, 4, 5), rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[2], (dys[1] * b).sum(1).reshape(2, 20), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[1], dys[1] * mask.reshape(2, 1, 4, 5), rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (TRIPLET % 'bottom: "n"', [(5, 4), (5, 4), (5, 3)], "three bottoms of one shape"),
        (TRIPLET % "", [(5, 4), (5, 4)], r"triplets \(T, 3\)"),
        (RANK % 'bottom: "t"', [(8, 4), (8,)], "a pair_size of at least 2 that divides 8"),
        (CONTRASTIVE % "", [(5, 4), (4,)], r"distances \(N, …\) and N labels"),
    ],
)
def test_bottoms_that_do_not_fit(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text).tops(shapes)
