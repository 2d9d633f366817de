"""Layers of forks for mobile and quantised nets, against their formulas."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import analyze
from caffestat.errors import NetError
from caffestat.layers.forks.ristretto import small_floats

from ..harness import TEST, TRAIN, Result, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(9)
X = RANDOM.normal(0, 2.5, (2, 3, 4, 5))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '


@pytest.mark.parametrize(
    ("kind", "forward"),
    [
        ("Cos", np.cos),
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


@pytest.mark.parametrize("shared", [False, True])
def test_eltwise_affine(shared: bool) -> None:
    layer = make(TEXT % "EltwiseAffine" + f"eltwise_affine_param {{ channel_shared: {str(shared).lower()} }}")
    a, b = (RANDOM.normal(size=() if shared else 3) for _ in range(2))

    def forward(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return x * a.reshape(-1, 1, 1) + b.reshape(-1, 1, 1)

    check_gradients(layer, forward, [X, a, b], [0, 1, 2], params=2)
    assert [param.filler.value for param in layer.params([X.shape])] == [1.0001, 0.0001]


def test_maxout() -> None:
    x = RANDOM.normal(size=(2, 6, 4, 5))
    layer = make(TEXT % "Maxout" + "maxout_param { chgroup_sz: 3 }")
    check_gradients(layer, lambda x: x.reshape(2, 2, 3, 4, 5).max(2), [x], [0])
    with pytest.raises(NetError, match="chgroup_sz that divides the channels"):
        layer.tops([(2, 5, 4, 5)])


FIXED = "bw_layer_in: 4 fl_layer_in: 1 bw_layer_out: 6 fl_layer_out: 2 bw_params: 5 fl_params: 3"


def fixed(x: np.ndarray, bits: int, fraction: int) -> np.ndarray:
    most = 2 ** (bits - 1)
    return np.rint(np.clip(x * 2**fraction, -most, most - 1)) / 2**fraction


def test_ristretto_rounds_what_goes_in_and_out() -> None:
    inner = "inner_product_param { num_output: 4 }"
    layer = make(TEXT % "FcRistretto" + inner + f" quantization_param {{ {FIXED} }}", TEST)
    w, dy = RANDOM.normal(size=(4, 60)), RANDOM.normal(size=(2, 4)).astype(np.float32)
    result = run(layer, [X], [w, BIAS], [dy])
    x, weights = fixed(X.reshape(2, -1), 4, 1), fixed(w, 5, 3)
    np.testing.assert_allclose(result.tops[0], fixed(x @ weights.T + fixed(BIAS, 5, 3), 6, 2), atol=1e-6)
    np.testing.assert_allclose(result.bottoms[0].reshape(2, -1), dy @ weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.params[0], dy.T @ x, rtol=1e-4, atol=1e-5)


def test_ristretto_rounds_weights_at_random_when_it_trains() -> None:
    window = "convolution_param { num_output: 4 kernel_h: 2 kernel_w: 3 pad_w: 1 }"
    layer = make(TEXT % "ConvolutionRistretto" + window + f" quantization_param {{ {FIXED} }}", TRAIN)
    assert "not reproduced" in layer.left_out
    result = run(layer, [X], [W, BIAS])
    noise = result.feeds
    weights, bias = (
        np.floor(np.clip(x.astype(np.float32) * 8, -16, 15) + u) / 8 for x, u in zip((W, BIAS), noise, strict=True)
    )
    assert_same(result, run(make(TEXT % "Convolution" + window), [X], [weights, bias]))


def test_ristretto_with_powers_of_two() -> None:
    fields = (
        "precision: INTEGER_POWER_OF_2_WEIGHTS exp_min: -3 exp_max: 0 bw_layer_in: 16 fl_layer_in: 8 fl_layer_out: 8"
    )
    layer = make(
        TEXT % "FcRistretto" + "inner_product_param { num_output: 4 }" + f" quantization_param {{ {fields} }}", TEST
    )
    w = RANDOM.normal(size=(4, 60))
    powers = np.where(w >= 0, 1, -1) * 2.0 ** np.rint(np.log2(abs(w))).clip(-3, 0)
    y = run(layer, [X], [w, BIAS]).tops[0]
    np.testing.assert_allclose(y, fixed(fixed(X.reshape(2, -1), 16, 8) @ powers.T + BIAS, 32, 8), atol=5e-3)


def small(x: Any, mantissa_bits: int = 4, exponent_bits: int = 3) -> np.ndarray:
    """Trim2MiniFloat_device, on the bits of each float32."""
    made = []
    for value in np.asarray(x, np.float32).ravel():
        (bits,) = struct.unpack("I", struct.pack("f", value))
        bias = 2 ** (exponent_bits - 1) - 1
        exponent, fraction = (bits >> 23 & 255) - 127 + bias, bits & (1 << 23) - 1
        if not bits >> 23 & 255 or exponent < 0:
            made.append(0.0)
            continue
        whole = float(np.rint(fraction / 2 ** (23 - mantissa_bits)))
        if exponent > 2**exponent_bits - 1:
            exponent, whole = 2**exponent_bits - 1, 2**mantissa_bits - 1
        made.append((-1) ** (bits >> 31) * (whole / 2**mantissa_bits + 1) * 2.0 ** (exponent - bias))
    return np.array(made, np.float32).reshape(np.shape(x))


EDGES = np.array([[0, 1, -1, 2**-3, 2**-3 * 0.999, -15.9, 16, 31, 31.99, 33, -500, 1.96875, 1.97, 1e-40, 1e38, 0.6]])


@pytest.mark.parametrize(("mantissa", "exponent"), [(4, 3), (10, 5), (23, 8), (2, 6)])
def test_ristretto_s_small_floats(mantissa: int, exponent: int) -> None:
    fields = f"quantization_param {{ precision: MINIFLOAT mant_bits: {mantissa} exp_bits: {exponent} }}"
    inner = "inner_product_param { num_output: 16 bias_term: false }"
    layer = make(TEXT % "FcRistretto" + inner + fields, TEST)
    x, w = np.ones((1, 1)), EDGES.reshape(16, 1)
    result = run(layer, [x], [w])
    once = small(EDGES, mantissa, exponent)
    np.testing.assert_array_equal(result.tops[0], small(once, mantissa, exponent))  # weights, then the top
    np.testing.assert_array_equal(small_floats(EDGES.astype(np.float32), mantissa, exponent), once)


def test_ristretto_draws_for_all_values_where_the_test_phase_is_stochastic() -> None:
    stochastic = f"quantization_param {{ rounding_scheme: STOCHASTIC {FIXED} }}"
    layer = make(TEXT % "FcRistretto" + "inner_product_param { num_output: 4 }" + stochastic, TEST)
    assert "not reproduced" in layer.left_out
    w = RANDOM.normal(size=(4, 60))
    result = run(layer, [X], [w, BIAS])
    into, *noise, out = result.feeds

    def down(x: np.ndarray, bits: int, fraction: int, u: np.ndarray) -> np.ndarray:
        most = 2 ** (bits - 1)
        return np.floor(np.clip(x * 2**fraction, -most, most - 1) + u) / 2**fraction

    x = down(X.astype(np.float32), 4, 1, into).reshape(2, -1)
    weights, bias = (down(p.astype(np.float32), 5, 3, u) for p, u in zip((w, BIAS), noise, strict=True))
    np.testing.assert_allclose(result.tops[0], down(x @ weights.T + bias, 6, 2, out), atol=1e-6)


def test_ristretto_s_normalization_rounds_each_step() -> None:
    x = RANDOM.normal(0, 2.5, (2, 7, 3, 4))
    fields = "lrn_param { local_size: 5 alpha: 0.2 beta: 0.75 k: 2 }"
    layer = make(
        TEXT % "LRNRistretto" + fields + "quantization_param { precision: MINIFLOAT mant_bits: 4 exp_bits: 3 }"
    )
    layer = layer.deciding([x.astype(np.float32)], [x.shape], RANDOM)
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    result = run(layer, [x], dys=[dy])
    scale = np.zeros_like(x)
    for place in np.ndindex(2, 3, 4):
        column, sums = x[(place[0], slice(None), *place[1:])], np.float32(0)
        for head in range(7 + 2):
            if head < 7:
                sums = small(sums + small(small(column[head]) ** 2))
            if head >= 5:
                sums = small(sums - small(small(column[head - 5]) ** 2))
            if head >= 2:
                scale[(place[0], head - 2, *place[1:])] = small(np.float32(2) + small(sums * np.float32(0.2 / 5)))
    top = small(small(x) * small(scale**-0.75))
    np.testing.assert_allclose(result.tops[0], top, rtol=1e-6)
    around = np.abs(np.subtract.outer(np.arange(7), np.arange(7))) <= 2
    wanted = dy * scale**-0.75 - 2 * 0.2 * 0.75 / 5 * x * np.einsum("cd,ndhw->nchw", around, dy * top / scale)
    np.testing.assert_allclose(result.bottoms[0], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(NetError, match="expected precision MINIFLOAT"):
        make(TEXT % "LRNRistretto" + "quantization_param { }").tops([x.shape])


def test_the_gradient_of_few_levels_is_predicted_as_it_passes(tmp_path: Path) -> None:
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 96 dim: 40 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a"
      inner_product_param { num_output: 300 weight_filler { type: "xavier" } } }
    layer { name: "q" type: "Quant" bottom: "a" top: "q" quant_param {
      forward_func: "hwgq" backward_func: "relu" centers: 0.538 centers: 1.076 centers: 1.614 clip_thr: 1.614 } }
    layer { name: "b" type: "BinaryInnerProduct" bottom: "q" top: "b" binary_inner_product_param { use_alpha: true }
      inner_product_param { num_output: 200 weight_filler { type: "msra" } } }
    layer { name: "l" type: "SoftmaxWithLoss" bottom: "b" bottom: "t" top: "l" }
    layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 96 } } }"""
    head, last = text.rsplit("layer", 1)
    (tmp_path / "net.prototxt").write_text(f"layer {last}{head}")
    layers = {layer.name: layer for layer in analyze(tmp_path / "net.prototxt", predict=True, device="cpu").layers}
    for name in ("q", "b"):
        [diff] = layers[name].bottom_diffs
        assert diff.predicted == pytest.approx(diff.mean_abs, rel=0.25)
    for name in ("a", "b"):
        weights = layers[name].params[0]
        assert weights.diff_predicted == pytest.approx(weights.diff_mean_abs, rel=0.25)
