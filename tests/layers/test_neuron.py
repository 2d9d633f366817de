"""Neuron layers against numpy transcriptions of Caffe's formulas, out of place and in place."""

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Filler, Stream

from .harness import TEST, make, run

SHAPE = (2, 3, 4, 5)


def values(seed=0, shape=SHAPE):
    """Gaussian values with some exact zeros, where kinks show."""
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    x.flat[::7] = 0
    return x


def layer(type_name, params="", in_place=False):
    return make(f'name: "l" type: "{type_name}" bottom: "x" top: "{"x" if in_place else "y"}" {params}')


# Per case: type, parameters, f(x), and the slope Caffe multiplies dy with, given the memory of bottom b and top t.
CASES = [
    ("ReLU", "", lambda x: np.maximum(x, 0), lambda b, t: b > 0),
    (
        "ReLU",
        "relu_param { negative_slope: 0.3 }",
        lambda x: np.where(x > 0, x, 0.3 * x),
        lambda b, t: np.where(b > 0, 1, 0.3),
    ),
    ("Sigmoid", "", lambda x: 1 / (1 + np.exp(-x)), lambda b, t: t * (1 - t)),
    ("TanH", "", np.tanh, lambda b, t: 1 - t * t),
    (
        "ELU",
        "elu_param { alpha: 0.7 }",
        lambda x: np.where(x > 0, x, 0.7 * np.expm1(x)),
        lambda b, t: np.where(b > 0, 1, 0.7 + t),
    ),
    (
        "ELU",
        "elu_param { alpha: -0.4 }",
        lambda x: np.where(x > 0, x, -0.4 * np.expm1(x)),
        lambda b, t: np.where(b > 0, 1, t - 0.4),
    ),
    ("BNLL", "", lambda x: np.logaddexp(0, x), lambda b, t: 1 / (1 + np.exp(-b))),
    ("Clip", "clip_param { min: 1 max: -1 }", lambda x: np.full_like(x, 1), lambda b, t: np.zeros_like(b)),
    ("Clip", "clip_param { min: -0.5 max: 0 }", lambda x: np.clip(x, -0.5, 0), lambda b, t: (b >= -0.5) & (b <= 0)),
    ("Exp", "", np.exp, lambda b, t: t),
    (
        "Exp",
        "exp_param { base: 3 scale: -0.5 shift: 0.25 }",
        lambda x: 3 ** (0.25 - 0.5 * x),
        lambda b, t: t * -0.5 * np.log(3),
    ),
    ("Log", "log_param { scale: 0.1 shift: 2 }", lambda x: np.log(2 + 0.1 * x), lambda b, t: 0.1 / (2 + 0.1 * b)),
    ("Log", "log_param { base: 10 shift: 9 }", lambda x: np.log10(9 + x), lambda b, t: 1 / (np.log(10) * (9 + b))),
    ("Power", "power_param { scale: -3 shift: 1 }", lambda x: 1 - 3 * x, lambda b, t: np.full(b.shape, -3)),
    (
        "Power",
        "power_param { power: 2 scale: 0.5 shift: 1.5 }",
        lambda x: (1.5 + 0.5 * x) ** 2,
        lambda b, t: 1.5 + 0.5 * b,
    ),
    (
        "Power",
        "power_param { power: 3 scale: 0.5 shift: 9 }",
        lambda x: (9 + 0.5 * x) ** 3,
        lambda b, t: 1.5 * t / (9 + 0.5 * b),
    ),
    (
        "Power",
        "power_param { power: 0 scale: 0.5 shift: 9 }",
        lambda x: np.ones(x.shape),
        lambda b, t: np.zeros(b.shape),
    ),
    (
        "Power",
        "power_param { power: 1.5 scale: 0 shift: 4 }",
        lambda x: np.full(x.shape, 8),
        lambda b, t: np.zeros(b.shape),
    ),
    ("Swish", "", lambda x: x / (1 + np.exp(-x)), None),
    ("Swish", "swish_param { beta: 1.5 }", lambda x: x / (1 + np.exp(-1.5 * x)), None),
    ("Threshold", "threshold_param { threshold: 0.3 }", lambda x: x > 0.3, lambda b, t: np.zeros(b.shape)),
]

# Caffe keeps a copy of Swish's gate σ(βx), and reads only y from memory.
SWISH = {"": 1.0, "swish_param { beta: 1.5 }": 1.5}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(("type_name", "params", "f", "slope"), CASES)
def test_value_and_gradient(type_name, params, f, slope, in_place):
    x, dy = values(), values(1)
    result = run(layer(type_name, params, in_place), [x], dys=[dy])
    y = f(x.astype(np.float64))
    np.testing.assert_allclose(result.tops[0], y, rtol=2e-6, atol=2e-6)
    if type_name == "Swish":
        beta, gate = SWISH[params], 1 / (1 + np.exp(-SWISH[params] * x))
        wanted = dy * (beta * y + gate * (1 - beta * y))
    else:
        # in place Caffe's backward pass finds y where x was, and these write their slope where dy was
        factor = slope(y if in_place else x, y)
        wanted = factor * (factor if in_place and type_name in ("Log", "Power") else dy)
    np.testing.assert_allclose(result.bottoms[0], wanted, rtol=1e-5, atol=2e-6)


def test_swish_of_large_values_has_slope_1():
    """Caffe computes the slope in double precision, where βy does not take the digits of 1 - βy."""
    x = np.array([-1e9, -40, 30, 1e4, 3e7, 1e9], np.float32)
    result = run(layer("Swish", "swish_param { beta: 1.5 }"), [x], dys=[np.full(6, 0.7, np.float32)])
    np.testing.assert_allclose(result.bottoms[0], np.float32([0, 0, 0.7, 0.7, 0.7, 0.7]), rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize(("type_name", "f"), [("Sigmoid", lambda x: 1 / (1 + np.exp(-x))), ("BNLL", np.logaddexp)])
def test_tails_keep_their_digits_and_end_in_zero(type_name, f):
    """What looks at signs or logarithms behind them tells 1e-9 from 0."""
    x = np.array([-41.0, -30, -20, -12, 3], np.float32)
    expected = f(x.astype(np.float64), *[0] * (type_name == "BNLL"))
    expected[0] = 0
    np.testing.assert_allclose(run(layer(type_name), [x]).tops[0], expected, rtol=2e-3)
    np.testing.assert_allclose(run(layer(type_name), [x]).tops[0][2:], expected[2:], rtol=1e-6)


def test_clip_multiplies_by_zero():
    x, dy = np.float32([2, 0.5, 2]), np.float32([np.inf, 3, 3])
    result = run(layer("Clip", "clip_param { min: 0 max: 1 }"), [x], dys=[dy])
    np.testing.assert_array_equal(result.bottoms[0], [np.nan, 3, 0])


def test_power_without_shift_divides_by_zero_as_caffe_does():
    result = run(layer("Power", "power_param { power: 3 scale: 2 }"), [np.array([0.0, 0.5])])
    np.testing.assert_array_equal(result.tops[0], [0, 1])
    np.testing.assert_array_equal(result.bottoms[0], [np.nan, 6])


def test_absval():
    x, dy = values(), values(1)
    result = run(layer("AbsVal"), [x], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], np.abs(x))
    np.testing.assert_array_equal(result.bottoms[0], dy * np.sign(x))
    with pytest.raises(NetError, match="cannot work in place"):
        layer("AbsVal", in_place=True).tops([SHAPE])


@pytest.mark.parametrize(
    ("type_name", "params", "message"),
    [
        ("Exp", "exp_param { base: 0 }", "positive base, or -1 for e, found 0"),
        ("Log", "log_param { base: 1 }", "other than 1"),
    ],
)
def test_refuses_a_base(type_name, params, message):
    with pytest.raises(NetError, match=message):
        layer(type_name, params).tops([SHAPE])


@pytest.mark.parametrize("shared", [False, True])
def test_prelu(shared):
    x, dy = values(), values(1)
    slope = np.float32(0.3) if shared else np.array([0.1, -0.2, 0.5], np.float32)
    result = run(
        layer("PReLU", f"prelu_param {{ channel_shared: {str(shared).lower()} }}", in_place=True), [x], [slope], [dy]
    )
    a = slope if shared else slope[:, None, None]
    np.testing.assert_allclose(result.tops[0], np.where(x > 0, x, a * x), rtol=1e-6)
    np.testing.assert_allclose(result.bottoms[0], dy * np.where(x > 0, 1, a), rtol=1e-6)
    wanted = (dy * np.minimum(x, 0)).sum(axis=None if shared else (0, 2, 3))
    np.testing.assert_allclose(result.params[0], wanted, rtol=1e-5)


def test_prelu_of_two_axes():
    x, slope = values(shape=(2, 3)), np.array([0.1, -0.2, 0.5], np.float32)
    result = run(layer("PReLU"), [x], [slope])
    np.testing.assert_allclose(result.tops[0], np.where(x > 0, x, slope * x), rtol=1e-6)


def test_prelu_filler():
    (param,) = layer("PReLU").params([SHAPE])
    assert (param.shape, param.filler, param.written) == ((3,), Filler(value=0.25), False)
    (param,) = layer("PReLU", 'prelu_param { filler { type: "uniform" max: 2 } channel_shared: true }').params([SHAPE])
    assert (param.shape, param.filler.type, param.filler.max, param.written) == ((), "uniform", 2, True)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4, 5, 6)])
def test_prelu_refuses(shape):
    with pytest.raises(NetError, match=r"net.prototxt:7: layer 'l' \(PReLU\): expected a bottom of 2 to 4 axes"):
        layer("PReLU").tops([shape])


def test_dropout_train():
    x, dy = values(), values(1)
    result = run(layer("Dropout", "dropout_param { dropout_ratio: 0.2 }"), [x], dys=[dy], seed=5)
    words = Stream(5).words(x.size).astype(np.float64).reshape(SHAPE)
    kept = words <= (1 - float(np.float32(0.2))) * (2**32 - 1)
    np.testing.assert_array_equal(result.feeds[0], kept * np.float32(1.25))
    np.testing.assert_array_equal(result.tops[0], x * result.feeds[0])
    np.testing.assert_array_equal(result.bottoms[0], dy * result.feeds[0])


def test_dropout_test_phase():
    x = values()
    dropout = make('name: "d" type: "Dropout" bottom: "x" top: "y"', TEST)
    result = run(dropout, [x])
    assert result.feeds == []
    np.testing.assert_array_equal(result.tops[0], x)


def test_dropout_refuses_a_ratio_of_one():
    with pytest.raises(NetError, match="at least 0 and below 1, found 1"):
        layer("Dropout", "dropout_param { dropout_ratio: 1 }").tops([SHAPE])
