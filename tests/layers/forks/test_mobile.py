"""Layers of forks for mobile and quantised nets, against their formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, TRAIN, Result, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(9)
X = RANDOM.normal(0, 2.5, (2, 3, 4, 5))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '


@pytest.mark.parametrize(
    ("kind", "forward"),
    [
        ("HSigmoid", lambda x: np.clip(x + 3, 0, 6) / 6),
        ("HSwish", lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("Mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    ],
)
def test_activations(kind: str, forward: Any) -> None:
    check_gradients(make(TEXT % kind), forward, [X], [0])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1)])
def test_axpy(shape: tuple[int, ...]) -> None:
    layer = make('name: "l" type: "Axpy" bottom: "a" bottom: "x" bottom: "b" top: "y"')
    a, b = RANDOM.normal(size=shape), RANDOM.normal(size=X.shape)
    check_gradients(layer, lambda a, x, b: a.reshape(2, 3, 1, 1) * x + b, [a, X, b], [0, 1, 2])
    with pytest.raises(NetError, match=r"expected bottoms \(N, C\) and twice"):
        layer.tops([(2, 4), X.shape, X.shape])


def test_insanity_draws_a_divisor_for_every_element() -> None:
    layer = make(TEXT % "Insanity" + "insanity_param { lb: 2 ub: 4 }", TRAIN)
    dy = RANDOM.normal(size=X.shape).astype(np.float32)
    result = run(layer, [X], dys=[dy])
    (divisors,) = result.feeds
    assert divisors.shape == X.shape
    assert 2 <= divisors.min() < 2.2
    assert 3.8 < divisors.max() <= 4
    np.testing.assert_allclose(result.tops[0], np.where(X > 0, X, X / divisors), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], np.where(X > 0, dy, dy / divisors), rtol=1e-5)


def test_insanity_divides_by_the_mean_when_tested() -> None:
    layer = make(TEXT % "Insanity" + "insanity_param { lb: 2 ub: 4 }", TEST)
    mean = 2 / math.log(2)
    check_gradients(layer, lambda x: np.where(x > 0, x, x / mean), [X], [0])


CENTERS = "centers: 0.5 centers: 1.5 centers: 3.5"


def hwgq(x: np.ndarray, slope: float = 0.0) -> np.ndarray:
    y = np.full(x.shape, -slope)
    for index, value in np.ndenumerate(x):
        if value > 0:
            y[index] = 0.5 if value <= 1 else 1.5 if value <= 2.5 else 3.5
    return y


@pytest.mark.parametrize(
    ("fields", "forward"),
    [
        (CENTERS, hwgq),
        (CENTERS + " negative_slope: 0.25", lambda x: hwgq(x, 0.25)),
        ('forward_func: "sign"', lambda x: np.where(x >= 0, 1, -1)),
        ('forward_func: "hard_tanh"', lambda x: np.clip(x, -1, 1)),
        ('forward_func: "relu" negative_slope: 0.1', lambda x: np.where(x > 0, x, 0.1 * x)),
    ],
)
@pytest.mark.parametrize("backward", ["relu", "hard_tanh"])
def test_quant(fields: str, forward: Any, backward: str) -> None:
    x = X.astype(np.float32)
    x[0, 0, 0, :2] = 0
    text = f'quant_param {{ {fields} backward_func: "{backward}" clip_thr: 2 }}'
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    result = run(make(TEXT % "Quant" + text), [x], dys=[dy])
    np.testing.assert_allclose(result.tops[0], forward(x), rtol=1e-6)
    slope = 0.25 if "0.25" in fields else 0.1 if "0.1" in fields else 0
    expected = np.where(abs(x) <= 2, 1, 0) if backward == "hard_tanh" else np.where(x > 0, 1, slope) * (x <= 2)
    np.testing.assert_allclose(result.bottoms[0], dy * expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("", "needs positive centers, found none"),
        ('forward_func: "step"', "unknown forward_func 'step'; expected one of hwgq"),
        ('forward_func: "sign" backward_func: "tanh"', "unknown backward_func 'tanh'"),
    ],
)
def test_quant_settings_that_the_fork_refuses(fields: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TEXT % "Quant" + f"quant_param {{ {fields} }}").tops([X.shape])


W = RANDOM.normal(size=(4, 3, 2, 3))
BIAS = RANDOM.normal(size=4)


def assert_same(ours: Result, theirs: Result) -> None:
    for kind in ("tops", "bottoms", "params"):
        for a, b in zip(getattr(ours, kind), getattr(theirs, kind), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def signs(w: np.ndarray, uses_alpha: bool) -> np.ndarray:
    alpha = abs(w).reshape(len(w), -1).mean(1).reshape(-1, *(1,) * (w.ndim - 1)) if uses_alpha else 1
    return np.where(w >= 0, 1, -1) * alpha


@pytest.mark.parametrize("uses_alpha", [False, True])
def test_binary_weights_pass_their_gradient_on(uses_alpha: bool) -> None:
    field = f"{{ use_alpha: {str(uses_alpha).lower()} }}"
    convolution = "convolution_param { num_output: 4 kernel_h: 2 kernel_w: 3 pad_w: 1 }"
    binary = make(TEXT % "BinaryConvolution" + convolution + f" binary_convolution_param {field}")
    plain = make(TEXT % "Convolution" + convolution)
    ours, theirs = run(binary, [X], [W, BIAS]), run(plain, [X], [signs(W, uses_alpha), BIAS])
    assert_same(ours, theirs)


@pytest.mark.parametrize("uses_alpha", [False, True])
def test_binary_inner_products(uses_alpha: bool) -> None:
    field = f"{{ use_alpha: {str(uses_alpha).lower()} }}"
    inner, w = "inner_product_param { num_output: 4 }", RANDOM.normal(size=(4, 60))
    binary = make(TEXT % "BinaryInnerProduct" + inner + f" binary_inner_product_param {field}")
    plain = make(TEXT % "InnerProduct" + inner)
    ours, theirs = run(binary, [X], [w, BIAS]), run(plain, [X], [signs(w, uses_alpha), BIAS])
    assert_same(ours, theirs)


def test_weights_that_are_not_made_binary() -> None:
    layer = make(
        TEXT % "BinaryInnerProduct"
        + "inner_product_param { num_output: 4 } binary_inner_product_param { use_binarization: false }"
    )
    w = RANDOM.normal(size=(4, 60))
    check_gradients(layer, lambda x, w, b: x.reshape(2, -1) @ w.T + b, [X, w, BIAS], [0, 1, 2], params=2)
