"""The sums behind the theory, each against draws or against the sum written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.theory import Gradient, Signal, Source, normal
from caffestat.theory.lags import Axis, Sharing, along_axes
from caffestat.theory.quadrature import ABS_NORMAL, NODES, expect
from caffestat.theory.signal import factor
from caffestat.theory.sums import channel_mean_square, pair_sum, reduced, through_weights, weighted_sum

SAMPLES, PLACES = 3, 5


def moments_of_pairs(second: float, space: float, batch: float, other: float) -> np.ndarray:
    """Return E[x x'] of every two of the elements [samples, places] of a channel."""
    same_sample = np.kron(np.eye(SAMPLES), np.ones((PLACES, PLACES)))
    same_place = np.kron(np.ones((SAMPLES, SAMPLES)), np.eye(PLACES))
    pairs = np.full((SAMPLES * PLACES,) * 2, other)
    pairs[same_place == 1], pairs[same_sample == 1] = batch, space
    np.fill_diagonal(pairs, second)
    return pairs


def test_pairs_of_a_channel_are_counted_by_kind() -> None:
    pairs = moments_of_pairs(2.0, 0.7, 0.3, 0.1)
    assert pair_sum(0.7, 0.3, 0.1, SAMPLES, PLACES) == pytest.approx(pairs[0].sum() - 2.0)
    mean_square = pairs.sum() / pairs.size
    assert channel_mean_square(2.0, 0.7, 0.3, 0.1, (SAMPLES, 4, PLACES, 1)) == pytest.approx(mean_square)


def test_a_mean_square_is_not_negative() -> None:
    assert channel_mean_square(1.0, -0.9, -0.9, -0.9, (SAMPLES, 4, PLACES)) == 0.0


def test_weights_with_a_mean_carry_the_mean_of_what_they_read() -> None:
    x, w, b = normal(0.5, 1.2), Signal(0.1 + 0.3 * NODES, 1.0, 1.0), normal(-0.2, 0.04)
    y = weighted_sum(x, w, b, np.ones(()), 40)
    draws = np.random.default_rng(1)
    xs = 0.5 + math.sqrt(1.2) * draws.standard_normal((100_000, 40))
    ws = 0.1 + 0.3 * draws.standard_normal((100_000, 40))
    total = (xs * ws).sum(axis=1) - 0.2 + 0.2 * draws.standard_normal(100_000)
    assert y.mean == pytest.approx(total.mean(), rel=0.01)
    assert y.second == pytest.approx((total**2).mean(), rel=0.02)


def test_correlated_taps_of_a_channel_add_up_where_weights_have_a_mean() -> None:
    y = weighted_sum(normal(0.3, 1.0, 0.6, 0.0), Signal(0.2 + 0.3 * NODES, 1.0, 1.0), None, np.full((), 3.0), 8)
    draws = np.random.default_rng(2)
    common, own, ws = (draws.standard_normal((50_000, 8, taps)) for taps in (1, 3, 3))
    xs = 0.3 + math.sqrt(0.6) * common + math.sqrt(0.4) * own
    total = (xs * (0.2 + 0.3 * ws)).sum(axis=(1, 2))
    assert y.mean == pytest.approx(total.mean(), rel=0.02)
    assert y.second == pytest.approx((total**2).mean(), rel=0.02)


def test_a_convolution_s_borders_have_fewer_terms() -> None:
    """Places at the border of a padded axis meet two of three taps."""
    axis = Axis(size=6, places=6, kernel=3, pad=1)
    at = along_axes([axis.reads], np.ones(6))
    y = weighted_sum(normal(0.0, 1.0), Signal(0.5 * NODES, 1.0, 1.0), None, at, 7, Sharing.forward([axis]))
    assert y.second == pytest.approx(7 * 0.25 * np.mean([2, 3, 3, 3, 3, 2]), rel=1e-3)
    assert y.spatial_profile is not None
    assert y.spatial_profile.tolist() == pytest.approx([0.75, 1.125, 1.125, 1.125, 1.125, 0.75])


def test_two_places_share_weights_and_what_x_shares() -> None:
    """E[y y'] = n Var(w) E[x x'], plus the bias, which all places share."""
    x = Signal(np.maximum(NODES, 0), 0.4, 0.2)
    axis = Axis(size=8, places=8, kernel=1)
    y = weighted_sum(x, Signal(0.3 * NODES, 1.0, 1.0), normal(0, 0.1), np.ones(8), 20, Sharing.forward([axis]))
    assert y.cross_spatial == pytest.approx(20 * 0.09 * x.cross_spatial + 0.1, rel=1e-3)
    assert y.cross_sample == pytest.approx(20 * 0.09 * x.cross_sample + 0.1, rel=1e-3)


def test_outputs_that_share_no_weights_are_independent() -> None:
    y = weighted_sum(Signal(NODES, 0.4, 0.2), Signal(0.3 * NODES, 1.0, 1.0), None, np.ones(()), 20)
    assert (y.rho_spatial, y.rho_sample) == pytest.approx((0.0, 0.2), abs=1e-3)


def test_a_gradient_collects_one_product_per_reader() -> None:
    axis = Axis(size=6, places=3, kernel=2, stride=2)
    reach = along_axes([axis.reads.T], np.ones(3))
    dy = Gradient.of(Source(2.0, cross_spatial=0.5, cross_sample=0.25))
    dx = through_weights(dy, normal(0, 1), Signal(0.3 * NODES, 1.0, 1.0), reach, 11, Sharing.backward([axis]))
    assert dx.second == pytest.approx(11 * 0.09 * 2.0, rel=1e-3)
    assert dx.mean_abs == pytest.approx(ABS_NORMAL * math.sqrt(dx.second), rel=0.03)
    [source] = dx.terms
    assert source.cross_sample == pytest.approx(11 * 0.09 * 0.25, rel=1e-3)
    assert source.cross_spatial < 11 * 0.09 * 0.5  # those of another phase of the stride share no weight


@pytest.mark.parametrize(("rho_x", "cross"), [(0.0, 0.0), (0.5, 0.0), (0.5, 0.6), (0.0, 0.6)])
def test_a_param_gradient_adds_up_as_far_as_both_factors_are_correlated(rho_x: float, cross: float) -> None:
    """Over samples: E[(Σ x·dy)²] = N E[x²] E[dy²] + N (N - 1) E[x x'] E[dy dy']."""
    count = 16
    x, dy = Signal(NODES, 0.0, rho_x), Gradient.of(Source(1.0, cross_sample=cross))
    found = reduced(x, dy, normal(0, 1), count, (count, 1))
    assert found.second == pytest.approx(count + count * (count - 1) * rho_x * cross, rel=1e-3)
    random = np.random.default_rng(2)

    def correlated(rho: float) -> np.ndarray:
        common, own = random.standard_normal((60_000, 1)), random.standard_normal((60_000, count))
        return math.sqrt(rho) * common + math.sqrt(1 - rho) * own

    total = (correlated(rho_x) * correlated(cross)).sum(axis=1)
    assert found.second == pytest.approx((total**2).mean(), rel=0.06)
    assert found.shape == pytest.approx(np.abs(total).mean() / math.sqrt((total**2).mean()), rel=0.08)


def test_a_bias_gradient_is_the_sum_of_the_gradients() -> None:
    dy = Gradient.of(Source(1.0, cross_spatial=1.0, cross_sample=1.0))
    assert reduced(None, dy, Signal(NODES, 1.0, 1.0), 12, (3, 1, 4)).second == pytest.approx(144)


def test_a_gradient_behind_a_relu_passes_half() -> None:
    gate = factor((NODES > 0).astype(float) + 0.5 * (NODES == 0))
    dx = Gradient.of(Source(4.0)).times(gate)
    assert dx.second == pytest.approx(2.0, rel=0.02)
    assert expect(dx.second_at) == dx.second


def test_samples_that_are_alike_stay_so_behind_the_same_weights() -> None:
    x, w = normal(0.3, 1.0, 0.0, 0.6), Signal(0.2 + 0.3 * NODES, 1.0, 1.0)
    y = weighted_sum(x, w, normal(0.5, 0.2), np.ones(()), 8)
    draws = np.random.default_rng(11)
    common, own = draws.standard_normal((60_000, 8, 1)), draws.standard_normal((60_000, 8, 2))
    weights = 0.2 + 0.3 * draws.standard_normal((60_000, 8, 1))
    bias = 0.5 + math.sqrt(0.2) * draws.standard_normal((60_000, 1))
    total = ((0.3 + math.sqrt(0.6) * common + math.sqrt(0.4) * own) * weights).sum(axis=1) + bias
    assert y.rho_sample == pytest.approx(np.corrcoef(total.T)[0, 1], abs=0.015)


def test_places_with_more_taps_are_larger() -> None:
    """E[y²] of a place is the bias's and one share for each of its taps."""
    x, w, b = normal(0.0, 2.0), Signal(0.3 * NODES, 1.0, 1.0), normal(0.0, 0.5)
    y = weighted_sum(x, w, b, np.array([1.0, 2.0, 3.0]), 4)
    of_tap = 4 * 0.09 * 2.0
    expected = np.array([0.5 + taps * of_tap for taps in (1, 2, 3)])
    assert y.second == pytest.approx(expected.mean())
    assert y.spatial_profile is not None
    np.testing.assert_allclose(y.spatial_profile, expected / expected.mean())
