"""Every heuristic against draws, within the range that its module states."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.theory.heuristics import (
    draw_deviation,
    few_terms,
    finite_width,
    lognormal,
    maxima,
    one_hot,
    param_size,
    sparse_sums,
    window_spread,
)
from caffestat.theory.quadrature import ABS_NORMAL, NODES, expect, variance

RELU = np.maximum(NODES, 0.0)
DRAWS = 200_000


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# finite width


@pytest.mark.parametrize(
    ("channels", "rho", "within"),
    [
        (4, 1.0, 0.025),
        (10, 1.0, 0.01),
        (16, 1.0, 0.01),
        (16, 0.5, 0.01),
        pytest.param(64, 0.3, 0.01, marks=pytest.mark.slow),
    ],
)
def test_correction_of_narrow_layers(channels: int, rho: float, within: float) -> None:
    """S is the mean over channels of E[x² | what a channel shares]."""
    shared = rng().standard_normal((20_000, channels))
    own = np.random.default_rng(8).standard_normal((200, 1, 1))
    root = math.sqrt(rho) * shared
    channel = (
        np.maximum(root, 0) ** 2
        if rho == 1
        else sum(np.maximum(root + math.sqrt(1 - rho) * o[0], 0) ** 2 for o in own) / len(own)
    )
    square = channel.mean(axis=1)
    expected = np.sqrt(square).mean() / math.sqrt(square.mean())
    assert finite_width.correction(RELU**2, rho, channels) == pytest.approx(expected, rel=within)


def test_correction_is_1_for_channels_that_do_not_differ() -> None:
    assert finite_width.correction(RELU**2, 0.0, 3) == pytest.approx(1.0)
    assert finite_width.correction(np.ones_like(NODES), 1.0, 3) == pytest.approx(1.0)
    assert finite_width.correction(np.zeros_like(NODES), 1.0, 3) == 1.0


def test_correction_stays_positive_beyond_its_range() -> None:
    assert finite_width.correction(NODES**8, 1.0, 1) == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize(("elasticity", "expected"), [(1.0, 0.9), (0.0, 1.0), (2.0, 0.81), (-1.0, 1.0), (5.0, 0.81)])
def test_correction_through_a_function(elasticity: float, expected: float) -> None:
    assert finite_width.through_function(0.9, elasticity) == pytest.approx(expected)


# deviation over draws


def _means_over_draws(channels: int, elements: int, terms: int) -> np.ndarray:
    """Return mean |x| of ReLUs behind sums of products with normal weights: of each draw, over its elements."""
    random = rng()
    inputs = random.standard_normal((terms, elements))
    weights = random.standard_normal((3_000, channels, terms)) / math.sqrt(terms)
    return np.asarray(np.maximum(weights @ inputs, 0.0).mean(axis=(1, 2)))


@pytest.mark.parametrize(("channels", "elements", "terms"), [(6, 150, 40), (20, 90, 60)])
def test_deviation_over_draws(channels: int, elements: int, terms: int) -> None:
    found = _means_over_draws(channels, elements, terms)
    excess = draw_deviation.channel_excess(NODES, terms)
    assert excess == pytest.approx(2 / terms, rel=1e-3)
    deviation = draw_deviation.deviation(RELU, 0.0, 1.0, channels, excess, channels * elements)
    assert deviation == pytest.approx(found.std(), rel=0.1)


def test_deviation_grows_with_that_of_the_layers_before() -> None:
    """Only the layers before deviate: v / 4 of the mean square, given as the correction exp(-v / 8)."""
    v = 0.2
    found = draw_deviation.deviation(np.ones_like(NODES), 0.0, math.exp(-v / 8), 5, 0.0, 100)
    assert found == pytest.approx(math.sqrt(v) / 2)


# few terms


@pytest.mark.parametrize("terms", [1, 2, 3, 9])
def test_sums_of_few_products(terms: int) -> None:
    random = rng()
    y = (random.standard_normal((DRAWS, terms)) * random.standard_normal((DRAWS, terms))).sum(axis=1)
    expected = np.abs(y).mean() / math.sqrt((y**2).mean()) / ABS_NORMAL
    excess = (3 * 3 - 3) / terms
    assert few_terms.abs_ratio(excess) == pytest.approx(expected, rel=0.02)
    values = few_terms.with_excess(NODES, excess)
    assert expect(np.abs(values)) / math.sqrt(expect(values**2)) / ABS_NORMAL == pytest.approx(expected, rel=0.02)


def test_tails_leave_mean_and_variance() -> None:
    values = few_terms.with_excess(3 + 2 * NODES, 5.0)
    assert (expect(values), variance(values)) == pytest.approx((3, 4), rel=1e-5)


def test_kurtosis_of_known_distributions() -> None:
    assert few_terms.kurtosis(NODES) == pytest.approx(3, rel=1e-4)
    assert few_terms.kurtosis(np.sign(NODES + 1e-9)) == pytest.approx(1)


# one-hot gradients


@pytest.mark.parametrize("rho", [0.0, 0.6, 1.0])
def test_a_gate_of_a_relu(rho: float) -> None:
    """Half of the samples lose their label's gradient: everywhere, or as far as places differ here and there."""
    gate = (NODES > 0).astype(float)
    width, spread = one_hot.behind_gate(gate, gate, rho)
    common = 2 / math.pi * math.asin(rho)  # the correlation of two signs
    v = 1 / expect(gate) - 1
    assert width == pytest.approx(1 / math.sqrt(1 + common * v), rel=0.02)
    assert spread == pytest.approx((1 - common) * v, abs=0.03)


def test_a_gate_that_is_always_open_adds_nothing() -> None:
    ones = np.ones_like(NODES)
    assert one_hot.behind_gate(ones, ones, 0.3) == pytest.approx((1.0, 0.0), abs=1e-12)


# lognormal sums


@pytest.mark.parametrize("terms", [4, 25])
def test_sums_of_squares_are_about_lognormal(terms: int) -> None:
    total = (rng().standard_normal((DRAWS, terms)) ** 2).sum(axis=1)
    values = lognormal.lognormal(terms, 2 / terms)
    assert (expect(values), variance(values)) == pytest.approx((terms, 2 * terms), rel=0.02)
    assert expect(values**-0.75) == pytest.approx(float((total**-0.75).mean()), rel=0.25 if terms < 10 else 0.01)


# maxima


@pytest.mark.parametrize(("k", "common"), [(4, 2), (9, 3), (9, 6), (9, 0)])
def test_correlation_of_overlapping_maxima(k: int, common: int) -> None:
    x = rng().standard_normal((DRAWS, 2 * k - common))
    expected = np.corrcoef(x[:, :k].max(axis=1), x[:, k - common :].max(axis=1))[0, 1]
    assert maxima.correlation_of_maxima(k, common) == pytest.approx(expected, abs=0.01)


def test_correlation_of_equal_windows_is_1() -> None:
    assert maxima.correlation_of_maxima(9, 9) == pytest.approx(1.0, abs=1e-9)


def test_excess_of_wins_of_an_element_that_wins_geometrically() -> None:
    """q = P(one more): E[m²] / E[m] = (1 + q) / (1 - q), pairs of wins q / (1 - q) on either side."""
    q = 0.3
    won, pairs = np.array([1 / (1 - q)]), np.array([2 * q / (1 - q) ** 2])
    assert maxima.excess_of_wins(won, pairs)[0] ** 2 == pytest.approx(1 + ((1 + q) / (1 - q) - 1) / 2)


# sums of sparse gradients


def part(second: float, share: float) -> tuple[np.ndarray, np.ndarray]:
    """N(0, second / share) of which all but `share` is 0."""
    return np.array([second]), np.array([ABS_NORMAL * math.sqrt(second * share)])


def test_one_part_stays_as_it_is() -> None:
    second, absolute = part(2.0, 0.4)
    assert sparse_sums.mean_abs_of_sum([(second, absolute)]) == pytest.approx(absolute)


def test_parts_behind_one_mask_stay_masked() -> None:
    found = sparse_sums.mean_abs_of_sum([part(2.0, 0.5), part(3.0, 0.5)])
    assert found == pytest.approx(ABS_NORMAL * math.sqrt(5.0 * 0.5))


def test_a_sparse_part_beside_a_full_one() -> None:
    random = rng()
    full, sparse = random.standard_normal(DRAWS), math.sqrt(8 / 0.1) * random.standard_normal(DRAWS)
    total = full + np.where(random.random(DRAWS) < 0.1, sparse, 0)
    found = sparse_sums.mean_abs_of_sum([part(1.0, 1.0), part(8.0, 0.1)])
    assert found == pytest.approx(np.abs(total).mean(), rel=0.02)


def test_small_parts_do_not_say_what_is_common() -> None:
    large = part(1.0, 0.3)
    found = sparse_sums.mean_abs_of_sum([large, part(1e-4, 1.0)])
    assert found == pytest.approx(large[1], rel=0.02)


@pytest.mark.filterwarnings("error")
def test_a_sum_of_parts_beyond_all_numbers_gives_no_warning() -> None:
    parts = [(np.array([1e308, 1.0]), np.array([1e154, 0.5])), (np.array([1e308, 1.0]), np.array([1e154, 0.5]))]
    assert np.isfinite(sparse_sums.mean_abs_of_sum(parts)[1])


# param gradients


def test_size_of_a_param_gradient_whose_channels_differ() -> None:
    """V = x² of what a channel shares, given that pairs make all of it: E|x| / √E[x²]."""
    ones = np.ones_like(NODES)
    assert param_size.size_ratio((ones, NODES**2), (ones, ones), 1.0) == pytest.approx(ABS_NORMAL, rel=1e-3)
    assert param_size.size_ratio((ones, NODES**2), (ones, ones), 0.0) == pytest.approx(1.0)
    both = param_size.size_ratio((ones, NODES**2), (ones, NODES**2), 1.0)
    assert both == pytest.approx(ABS_NORMAL**2, rel=1e-3)


def test_size_with_both_parts() -> None:
    u, v = rng().standard_normal((2, DRAWS))
    ones = np.ones_like(NODES)
    expected = np.sqrt(0.4 + 0.6 * u**2 * v**2).mean()
    assert param_size.size_ratio((ones, NODES**2), (ones, NODES**2), 0.6) == pytest.approx(expected, rel=0.01)


# window spread


def _uneven(kind: str) -> np.ndarray:
    """Covariances of a 3 x 3 window: a smooth slope, an image whose first row is weaker, a mixture of far and near."""
    rows, columns = (axis.ravel().astype(float) for axis in np.meshgrid(range(3), range(3), indexing="ij"))
    apart = np.abs(np.subtract.outer(rows, rows)), np.abs(np.subtract.outer(columns, columns))
    if kind == "slope":
        return 1 - 0.05 * (apart[0] + apart[1])
    if kind == "near":
        return 0.3 + 0.7 * 0.4 ** (apart[0] + apart[1])
    strengths = np.where(rows == 0, 0.7, 1.0)
    return np.asarray((0.8 + 0.2 * np.eye(9)) * np.outer(strengths, strengths))


@pytest.mark.parametrize("kind", ["slope", "near", "weak row"])
def test_an_even_correlation_stands_for_uneven_ones(kind: str) -> None:
    covariance = _uneven(kind)
    inside = np.ones(9, bool)
    inside[2] = kind != "near"  # a window that padding cuts
    spread = float(window_spread.spreads(covariance[None], inside[None], 9.0)[0])
    drawn = rng().standard_normal((DRAWS, 9)) @ np.linalg.cholesky(covariance + 1e-9 * np.eye(9)).T
    largest = drawn[:, inside].max(axis=1)
    variance_within = np.diag(covariance)[inside].mean()
    even = rng().standard_normal((DRAWS, 10))
    stand_in = math.sqrt(variance_within) * (math.sqrt(1 - spread**2) * even[:, 0] + spread * even[:, 1:].max(axis=1))
    assert stand_in.mean() == pytest.approx(largest.mean(), rel=0.08)
    assert (np.maximum(stand_in, 0) ** 2).mean() == pytest.approx((np.maximum(largest, 0) ** 2).mean(), rel=0.01)


def test_even_correlations_stand_for_themselves() -> None:
    covariance = np.array([(0.6 + 0.4 * np.eye(4)) * 2.5, np.eye(4)])
    found = window_spread.spreads(covariance, np.ones((2, 4), bool), 4.0)
    assert found == pytest.approx([math.sqrt(0.4), 1.0], rel=1e-6)
    assert window_spread.squares_of_maximum(2.0)[-1] == pytest.approx(1 - (1 / 4 - 1 / 2 / math.pi), rel=1e-3)
