"""Quadrature, quantiles and correlated pairs against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.theory import quadrature as n


@pytest.mark.parametrize(("power", "moment"), [(1, 0.0), (2, 1.0), (4, 3.0), (6, 15.0)])
def test_moments_of_the_normal_distribution(power: int, moment: float) -> None:
    assert n.expect(n.NODES**power) == pytest.approx(moment, abs=1e-4)


def test_a_kink_at_zero_costs_no_accuracy() -> None:
    relu = np.maximum(n.NODES, 0)
    assert n.expect(relu) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-3)
    assert n.expect(relu**2) == pytest.approx(0.5, rel=1e-6)


def test_agrees_with_gauss_hermite_for_smooth_functions() -> None:
    x, w = np.polynomial.hermite_e.hermegauss(60)
    for f in (np.tanh, lambda u: 1 / (1 + np.exp(-2 * u)), lambda u: np.exp(0.3 * u)):
        assert n.expect(f(n.NODES)) == pytest.approx(float(w @ f(x) / w.sum()), abs=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_cross_moments_of_relu_follow_the_arc_cosine_kernel(rho: float) -> None:
    angle = math.acos(rho)
    kernel = (math.sin(angle) + (math.pi - angle) * rho) / (2 * math.pi)  # Cho and Saul 2009, order 1
    assert n.cross_moment(np.maximum(n.NODES, 0), rho) == pytest.approx(kernel, rel=5e-3)


@pytest.mark.parametrize("rho", [0.05, 0.4, 0.8])
def test_correlation_for_undoes_cross_moment(rho: float) -> None:
    values = np.maximum(n.NODES + 0.3, 0)
    assert n.correlation_for(values, n.cross_moment(values, rho)) == pytest.approx(rho, abs=1e-4)


def test_quantiles_keep_the_second_moment_and_are_sorted() -> None:
    a, b = np.meshgrid(n.NODES, 2 * n.NODES)
    result = n.quantiles(a + b, np.outer(n.WEIGHTS, n.WEIGHTS))
    assert np.all(np.diff(result) >= 0)
    assert n.expect(result**2) == pytest.approx(5.0, rel=1e-3)
    assert n.expect(np.abs(result)) == pytest.approx(math.sqrt(5) * n.ABS_NORMAL, rel=5e-3)


def test_ranks_find_where_an_increasing_function_takes_a_value() -> None:
    values = n.NODES**3
    assert n.ranks(values, values)[40:-40] == pytest.approx(n.NODES[40:-40], abs=0.05)


def test_equal_values_share_the_middle_of_their_ranks() -> None:
    relu = np.maximum(n.NODES, 0)
    assert n.ranks(np.zeros(1), relu)[0] == pytest.approx(float(n.inverse_cdf(np.array([0.25]))[0]), abs=0.05)


@pytest.mark.parametrize("axis", [0, 1])
def test_sums_over_points_are_linear_in_the_function(axis: int) -> None:
    random = np.random.default_rng(3)
    at, weights = random.uniform(-9, 9, (5, 7)), random.normal(size=(5, 7))
    points, values = n.Points.among_nodes(at), np.sin(n.NODES)
    wanted = (np.interp(at, n.NODES, values) * weights).sum(axis=1 - axis)
    np.testing.assert_allclose(points.sums_at_nodes(weights, axis) @ values, wanted, rtol=1e-12)


def test_quantiles_of_a_mask_are_those_of_its_sorted_values() -> None:
    mask = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    result = n.quantiles_of(mask)
    low = float(n.inverse_cdf(np.array([2 / 3]))[0]) - 0.1
    assert result[low > n.NODES].max() == 0
    assert n.expect(result**2) == pytest.approx(4 / 3)
    assert np.array_equal(n.quantiles_of(np.sort(mask, axis=None)), result)
