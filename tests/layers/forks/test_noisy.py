"""Inner products with noise on their weights, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, TRAIN, make, run

RANDOM = np.random.default_rng(53)
X = RANDOM.normal(size=(3, 2, 2))  # K = 4
TEXT = 'name: "l" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 5 %s } '
NOISE = "enable_noise: true sigma_init: 0.25 "


def _params(count: int) -> list[np.ndarray]:
    return [RANDOM.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5,), (5, 4), (5,))[:count]]


def test_noise_is_added_in_train_and_dx_does_without_it() -> None:
    weight, bias, size, width = params = _params(4)
    dy = RANDOM.normal(size=(3, 5)).astype(np.float32)
    found = run(make(TEXT % NOISE, TRAIN), [X], params, [dy])
    e, f = found.feeds
    assert (e.shape, f.shape) == ((5, 4), (5,))
    assert -1 <= min(e.min(), f.min()) < -0.5 < 0.5 < max(e.max(), f.max()) < 1
    x = X.reshape(3, 4)
    np.testing.assert_allclose(found.tops[0], x @ (weight + size * e).T + bias + width * f, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0].reshape(3, 4), dy @ weight, rtol=1e-4, atol=1e-5)
    grads = [dy.T @ x, dy.sum(0), dy.T @ x * e, dy.sum(0) * f]
    for ours, expected in zip(found.params, grads, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_no_noise_in_test() -> None:
    params = _params(4)
    found = run(make(TEXT % NOISE, TEST), [X], params)
    np.testing.assert_allclose(found.tops[0], X.reshape(3, 4) @ params[0].T + params[1], rtol=1e-5, atol=1e-5)
    assert found.feeds == []


def test_fillers_are_scaled_by_the_root_of_the_inputs() -> None:
    fillers = 'weight_filler { type: "uniform" min: -0.5 max: 1 } bias_filler { type: "gaussian" mean: 2 std: 3 }'
    weight, bias, size, width = make(TEXT % (NOISE + fillers)).params([X.shape])
    assert (weight.filler.min, weight.filler.max) == (-0.25, 0.5)
    assert (bias.filler.mean, bias.filler.std) == (1, 1.5)
    assert (size.filler.value, width.filler.value) == (0.125, pytest.approx(0.25 / math.sqrt(5)))
    plain = make(TEXT % ("enable_noise: false " + fillers)).params([X.shape])
    assert [param.filler.max for param in plain] == [1, 1]


def test_axes_are_added_up_to_min_top_axes() -> None:
    params = _params(2)
    found = run(make(TEXT % "min_top_axes: 4", TRAIN), [X], params)
    assert found.tops[0].shape == (3, 5, 1, 1)
    np.testing.assert_allclose(found.tops[0][..., 0, 0], X.reshape(3, 4) @ params[0].T + params[1], rtol=1e-5)
    assert make(TEXT % "min_top_axes: 4").macs([X.shape]) == 3 * 5 * 4
    assert make(TEXT % "min_top_axes: 1").tops([X.shape]) == ((3, 5),)


def test_noise_with_transpose_is_refused() -> None:
    with pytest.raises(NetError, match="enable_noise is not computed together with transpose"):
        make(TEXT % (NOISE + "transpose: true")).tops([X.shape])
