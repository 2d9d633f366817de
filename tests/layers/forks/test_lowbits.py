"""Layers with rounded weights, against loops over the weights; gradients pass through the rounding."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(23)
X = RANDOM.normal(size=(2, 3, 6, 5))
W, BIAS = RANDOM.normal(size=(4, 3, 3, 2)), RANDOM.normal(size=4)
CONVOLUTION = "num_output: 4 kernel_h: 3 kernel_w: 2"
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '


def plain(x, weight, bias, dy, product=False):
    """Run Caffe's own layer."""
    fields = "inner_product_param { num_output: 4 }" if product else f"convolution_param {{ {CONVOLUTION} }}"
    return run(make(TEXT % ("InnerProduct" if product else "Convolution") + fields), [x], [weight, bias], [dy])


def binary(w):
    return np.array([[(1 if value >= 0 else -1) * abs(row).mean() for value in row] for row in w])


def ternary(w):
    delta = 0.7 * abs(w - w.mean()).mean()
    rows = []
    for row in w:
        large = [abs(value) for value in row if abs(value) > delta]
        alpha = sum(large) / len(large) if large else 0
        rows.append([np.sign(value) * alpha if abs(value) > delta else 0 for value in row])
    return np.array(rows)


@pytest.mark.parametrize(("kind", "levels"), [("Binary", binary), ("Ternary", ternary)])
@pytest.mark.parametrize("product", [False, True])
def test_weights_of_few_levels(kind, levels, product) -> None:
    kernel = RANDOM.normal(size=(4, 90)) if product else W
    fields = "inner_product_param { num_output: 4" if product else f"convolution_param {{ {CONVOLUTION}"
    layer = make(TEXT % f"{kind}{'InnerProduct' if product else 'Convolution'}" + fields + " sq: true ratio: 100 }")
    dy = RANDOM.normal(size=(2, 4) if product else (2, 4, 4, 4)).astype(np.float32)
    wanted = plain(X, levels(kernel.reshape(4, -1)).reshape(kernel.shape), BIAS, dy, product)
    found = run(layer, [X], [kernel, BIAS], [dy])
    for ours, theirs in zip(
        (*found.tops, *found.bottoms, *found.params), (*wanted.tops, *wanted.bottoms, *wanted.params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_row_without_large_weights_is_zero() -> None:
    kernel = np.ones((4, 90)) * np.array([[3], [-3], [0.01], [2]])
    layer = make(TEXT % "TernaryInnerProduct" + "inner_product_param { num_output: 4 sq: false ratio: 50 }")
    found = run(layer, [X], [kernel, np.zeros(4)])
    np.testing.assert_allclose(found.tops[0], X.reshape(2, 90) @ ternary(kernel).T, rtol=1e-4, atol=1e-5)
    assert not found.tops[0][:, 2].any()


def test_the_outputs_of_the_largest_errors_over_noise_keep_their_weights() -> None:
    layer = make(TEXT % "TernaryConvolution" + f"convolution_param {{ {CONVOLUTION} sq: true ratio: 60 }}")
    assert layer.left_out
    found = run(layer, [X], [W, BIAS])
    (noise,) = found.feeds
    w = W.reshape(4, -1)
    error = abs(w - ternary(w)).sum(1) / abs(w).sum(1)
    (kept,) = np.argsort(-error / noise[:, 0])[:1]  # int((1 - 0.6) · 4) of them
    mixed = ternary(w)
    mixed[kept] = w[kept]
    wanted = plain(X, mixed.reshape(W.shape), BIAS, np.ones((2, 4, 4, 4), np.float32))
    np.testing.assert_allclose(found.tops[0], wanted.tops[0], rtol=1e-4, atol=1e-5)


def fixed(x, bd, ad, is_floor=False):
    """math_functions.cpp, caffe_cpu_round_fp."""
    most = 2.0 ** (bd - 1) - 2.0**-ad
    scaled = np.asarray(x, np.float32) * 2.0**ad
    whole = np.floor(scaled) if is_floor else np.sign(scaled) * np.floor(abs(scaled) + 0.5)
    return np.clip(whole / 2.0**ad, -most, most)


@pytest.mark.parametrize("stochastic", [False, True])
def test_activations_of_few_bits(stochastic) -> None:
    scheme = "rounding_scheme: STOCHASTIC" if stochastic else ""
    x = np.array([[-9.3, -0.375, -0.126, 0.124], [0.125, 0.3751, 1.99, 2.2]])
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    found = run(make(TEXT % "LPAct" + f"lpfp_param {{ bd: 2 ad: 2 {scheme} }}"), [x], dys=[dy])
    np.testing.assert_array_equal(found.tops[0], fixed(x, 2, 2, stochastic))
    np.testing.assert_array_equal(found.bottoms[0], dy)


@pytest.mark.parametrize("product", [False, True])
@pytest.mark.parametrize("rounds", [False, True])
def test_products_with_weights_of_few_bits(product, rounds) -> None:
    kernel = RANDOM.normal(size=(4, 90)) if product else W
    fields = "inner_product_param { num_output: 4 }" if product else f"convolution_param {{ {CONVOLUTION} }}"
    bits = f"lpfp_param {{ bd: 2 ad: 3 round_bias: {str(rounds).lower()} }}"
    layer = make(TEXT % f"LP{'InnerProduct' if product else 'Convolution'}" + fields + bits)
    dy = RANDOM.normal(size=(2, 4) if product else (2, 4, 4, 4)).astype(np.float32)
    found = run(layer, [X], [kernel, kernel * 0, BIAS, BIAS * 0], [dy])
    bias = fixed(BIAS, 2, 3) if rounds else BIAS
    values, slopes = plain(X, fixed(kernel, 2, 3), bias, dy, product), plain(X, kernel, BIAS, dy, product)
    np.testing.assert_allclose(found.tops[0], values.tops[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], slopes.bottoms[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[0], slopes.params[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[2], slopes.params[1], rtol=1e-4, atol=1e-5)
    assert not found.params[1].any() and not found.params[3].any()
    np.testing.assert_array_equal(found.updates[1], fixed(kernel, 2, 3))
    assert (3 in found.updates) == rounds


def test_bits_must_fit() -> None:
    with pytest.raises(NetError, match="bd from 1 to 31"):
        make(TEXT % "LPAct" + "lpfp_param { ad: 2 }").tops([(2, 3)])
