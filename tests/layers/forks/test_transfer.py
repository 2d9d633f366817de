"""Layers that bring two sets of data together, against loops written from their references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(41)
MMD = 'name: "l" type: "MMDLoss" bottom: "s" bottom: "t" top: "y" mmd_param { kernel_num: 3 kernel_mul: 1.5 %s }'
DRAWS = [[0, 3, 1, 4, 2], [2, 1, 1, 0, 0], [4, 3, 0, 2, 2], [2, 1, 0, 2, 1]]  # of source and target, then their others


class Drawn:
    """Stands for the random numbers that a layer draws: DRAWS, for the loss and once more for the gradient."""

    def __init__(self) -> None:
        self.left = [*DRAWS, *DRAWS]

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        return np.array(self.left.pop(0)[:size])


def pairs(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return rows of source before target, two by two, and the signs, in the reference's order."""
    found = []
    for s, t, s2, t2 in zip(*DRAWS, strict=True):
        other = (s2 + 1) % counts[0] if s == s2 else s2
        target, there = counts[0] + t, counts[0] + ((t2 + 1) % counts[1] if t == t2 else t2)
        found += [(s, other, 1), (s, there, -1), (target, other, -1), (target, there, 1)]
    return found


def expected_of(x: np.ndarray, gamma: float) -> tuple[float, np.ndarray]:
    loss, slope = 0.0, np.zeros_like(x)
    for a, b, sign in pairs([5, 3]):
        for scale in (gamma / 1.5, gamma, gamma * 1.5):
            k = sign * np.exp(-scale * ((x[a] - x[b]) ** 2).sum())
            loss += k
            slope[a] -= 2 * scale * k * (x[a] - x[b]) / 5
            slope[b] -= 2 * scale * k * (x[b] - x[a]) / 5
    return loss, slope


def gamma_of(x: np.ndarray) -> float:
    return (64 - 8) / sum(((a - b) ** 2).sum() for a in x for b in x)


def test_maximum_mean_discrepancy() -> None:
    source, target = RANDOM.normal(size=(5, 2, 2)), 1 + RANDOM.normal(size=(3, 4))
    layer: Any = make(MMD % "")
    assert layer.tops([source.shape, target.shape]) == ((),)
    found = layer.decide([source, target], Drawn())
    rows = np.concatenate([source.reshape(5, 4), target])
    loss, slope = expected_of(rows, gamma_of(rows))
    np.testing.assert_allclose(found[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found[1], slope[:5].reshape(5, 2, 2), rtol=1e-5)
    np.testing.assert_allclose(found[2], slope[5:], rtol=1e-5)
    result = run(make(MMD % ""), [source, target], dys=[np.float32(2)])
    np.testing.assert_allclose(sum(part.sum() for part in result.bottoms), 0, atol=1e-5)
    assert [part.shape for part in result.bottoms] == [source.shape, target.shape]


def test_the_first_pass_fixes_gamma() -> None:
    first, second = RANDOM.normal(size=(2, 8, 4))
    layer: Any = make(MMD % "fix_gamma: true")
    layer.decide([first[:5], first[5:]], Drawn())
    loss, _ = expected_of(second, gamma_of(first))
    np.testing.assert_allclose(layer.decide([second[:5], second[5:]], Drawn())[0], loss, rtol=1e-5)


def test_one_row_has_no_gradient() -> None:
    result = run(make(MMD % ""), [RANDOM.normal(size=(5, 3)), RANDOM.normal(size=(1, 3))])
    assert not any(part.any() for part in result.bottoms)
    with pytest.raises(NetError, match="rows of one length"):
        make(MMD % "").tops([(5, 3), (5, 4)])


def test_the_layer_in_place_keeps_its_shape() -> None:
    layer = make('name: "l" type: "MMDLoss" bottom: "x" bottom: "t" top: "x" mmd_param { num_of_kernel: 5 }')
    assert layer.dialect == "mmd-caffe"
    assert layer.tops([(4, 3, 5, 6), (4, 2)]) == ((4, 3, 5, 6),)
    assert layer.why_uncomputed


def test_entropy_of_likelihoods() -> None:
    p = RANDOM.dirichlet([0.3] * 6, 5)
    p[2, 3], p[4, 1] = 2e-6, 0.004
    layer = make('name: "l" type: "EntropyLoss" bottom: "p" top: "y" entropy_param { threshold: 0.005 }')
    result = run(layer, [p], dys=[np.float32(-0.1)])
    np.testing.assert_allclose(result.tops[0], np.where(p < 1e-5, 0, p * np.log(p)).sum(), rtol=1e-5)
    slope = np.where(p < 0.005, 0, 0.1 * (1 + np.log(p)) / 5)
    np.testing.assert_allclose(result.bottoms[0], slope, rtol=1e-4, atol=1e-7)
    waiting = make('name: "l" type: "EntropyLoss" bottom: "p" top: "y" entropy_param { iterations_num: 9 }')
    assert waiting.tops([(5, 6)]) == ((),)
    assert "iterations_num: 9" in waiting.why_uncomputed


def test_outer_product() -> None:
    layer = make('name: "l" type: "OuterProduct" bottom: "a" bottom: "b" top: "y"')
    a, b = RANDOM.normal(size=(4, 3, 1)), RANDOM.normal(size=(4, 5))
    check_gradients(layer, lambda a, b: a[:, None] * b[:, None, None], [a, b], [0, 1])
    with pytest.raises(NetError, match="expected bottoms"):
        layer.tops([(4, 3, 2), (4, 5)])
