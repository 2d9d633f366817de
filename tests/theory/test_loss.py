"""The expected softmax loss of logits of any size, Caffe's floor under p included."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.theory import Signal, normal
from caffestat.theory.quadrature import NODES, cdf
from caffestat.theory.rules.loss import expected_loss, softmax_for

FLT_MIN = float(np.finfo(np.float32).tiny)
CAP = -math.log(FLT_MIN)  # 87.3365: what Caffe's softmax loss is at most, per sample


def sampled(deviation: float, classes: int, seed: int = 1) -> tuple[float, float]:
    """Return the mean loss of normal logits with random labels, and the share of samples at the cap."""
    z = deviation * np.random.default_rng(seed).standard_normal((40_000, classes))
    z -= z.max(axis=1, keepdims=True)
    losses = -(z[:, 0] - np.log(np.exp(z).sum(axis=1)))
    return float(np.minimum(losses, CAP).mean()), float((losses > CAP).mean())


@pytest.mark.parametrize("deviation", [1e-3, 0.7, 8.0, 60.0, 300.0, 7e4, 1e30])
def test_the_loss_is_capped(deviation: float) -> None:
    found = softmax_for(normal(0.0, deviation**2), 10, FLT_MIN)
    loss, share = sampled(deviation, 10)
    assert found.loss == pytest.approx(loss, rel=0.02)
    assert found.floored == pytest.approx(share, abs=0.01)
    assert found.loss <= CAP


def test_without_a_floor_it_grows_with_the_logits() -> None:
    capped, free = (softmax_for(normal(0.0, 300.0**2), 10, floor).loss for floor in (FLT_MIN, 0.0))
    assert capped < CAP < free
    assert free == pytest.approx(300 * 1.5388, rel=0.03)  # the expected maximum of ten normal values


def test_large_logits_are_not_taken_for_masked_ones() -> None:
    """Half of N(0, 7e4²) is below what masks write; only a gap tells a mask."""
    assert softmax_for(normal(0.0, 7e4**2), 10, FLT_MIN).loss == pytest.approx(0.9 * CAP, rel=0.01)
    masked = np.where(cdf(NODES) < 0.5, -1e9, 0.8 * NODES)
    shown, all_of_them = softmax_for(Signal(masked), 10), softmax_for(Signal(0.8 * NODES), 10)
    assert np.count_nonzero(shown.values == 0) > np.count_nonzero(all_of_them.values == 0)


def test_large_logits_of_narrow_nets_count_by_the_size_of_an_average_draw() -> None:
    wide, narrow = (expected_loss(Signal(20 * NODES, finite_width=width), 10, FLT_MIN).loss for width in (1.0, 0.8))
    assert narrow == pytest.approx(softmax_for(normal(0.0, 16.0**2), 10, FLT_MIN).loss, rel=1e-3)
    assert narrow < wide
