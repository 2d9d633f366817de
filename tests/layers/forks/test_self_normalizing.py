"""Layers of self-normalizing networks, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, make, run
from .check import check_gradients

TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '
X = np.random.default_rng(6).normal(size=(2, 3, 4))


def test_selu() -> None:
    layer = make(TEXT % "SeLu" + "selu_param { lambda: 1.5 alpha: 0.7 }")
    check_gradients(layer, lambda x: 1.5 * np.where(x > 0, x, 0.7 * np.expm1(x)), [X], [0])
    nonlinearity = layer.nonlinearity()
    assert nonlinearity and nonlinearity.derivative
    assert nonlinearity.derivative(-1.0) == pytest.approx(1.5 * 0.7 * np.exp(-1.0))


def test_selu_in_place_takes_its_gradient_from_its_top() -> None:
    """As selu_layer.cpp, which reads the bottom's data in its backward pass."""
    layer = make('name: "l" type: "SeLu" bottom: "x" top: "x"')
    found = run(layer, [X])
    y = 1.050700987 * np.where(X > 0, X, 1.67326324 * np.expm1(X))
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5)
    expected = 1.050700987 * np.where(y > 0, 1, 1.67326324 * np.exp(y))
    np.testing.assert_allclose(found.bottoms[0], expected, rtol=1e-5)


def test_dropout_keeps_mean_and_variance() -> None:
    layer = make(TEXT % "SeLuDropout" + "selu_dropout_param { dropout_ratio: 0.25 }")
    x = np.random.default_rng(7).normal(size=(40, 500))
    found = run(layer, [x])
    y, alpha = found.tops[0], -1.75809934
    a = (0.75 * (1 + alpha**2 * 0.25)) ** -0.5
    is_kept = found.bottoms[0] != 0
    assert 0.73 < is_kept.mean() < 0.77
    np.testing.assert_allclose(y, a * np.where(is_kept, x, alpha) - a * 0.25 * alpha, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], np.where(is_kept, a, 0), rtol=1e-6)
    assert abs(y.mean()) < 0.03
    assert abs(y.var() - 1) < 0.03


def test_dropout_in_test_passes_values_on() -> None:
    found = run(make(TEXT % "SeLuDropout", TEST), [X])
    np.testing.assert_array_equal(found.tops[0], X.astype(np.float32))
    with pytest.raises(NetError, match="expected a dropout_ratio of at least 0 and below 1, found 1"):
        make(TEXT % "SeLuDropout" + "selu_dropout_param { dropout_ratio: 1 }").tops([X.shape])
