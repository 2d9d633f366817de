"""Batch normalization of forks, against numpy, and its gradients by differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(4)
X = RANDOM.normal(1, 2, (3, 4, 5, 7))
S, B = RANDOM.uniform(0.5, 2, 4), RANDOM.normal(size=4)
MEAN, VARIANCE = RANDOM.normal(size=4), RANDOM.uniform(0.5, 2, 4)
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" %s'
FOUR = "param { lr_mult: 1 } param { lr_mult: 1 } param { lr_mult: 0 } param { lr_mult: 0 } "

TSN = 'bn_param { slope_filler { type: "constant" value: 2 } bias_filler { } eps: 0.25 momentum: 0.7 %s }'
SEGNET = "bn_param { scale_filler { value: 2 } shift_filler { } %s }"
ACTION = FOUR + "bn_param { scale_filler { value: 2 } shift_filler { } var_eps: 0.25 decay: 0.3 %s }"
ZXY = TSN.replace("bn_param", "zxybn_param")
CUDNN = "cudnn_batch_norm_param { eps: 0.25 momentum: 0.7 scale_filler { value: 2 } %s }"


def column(values: np.ndarray, rank: int) -> np.ndarray:
    return values.reshape(-1, *(1,) * (rank - 2))


def normed(x: np.ndarray, s: np.ndarray, b: np.ndarray, mean: object, variance: object, eps: float) -> np.ndarray:
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes) if mean is None else mean
    variance = x.var(axes) if variance is None else variance
    m, v, s, b = (column(np.asarray(value).ravel(), x.ndim) for value in (mean, variance, s, b))
    return (x - m) / np.sqrt(v + eps) * s + b


KINDS = {
    "tsn": ("BN", TSN % "", (1, 4), 0.25),
    "segnet": ("BN", SEGNET % "", (1, 4, 1, 1), 1e-9),
    "action": ("BN", ACTION % "", (1, 4, 1, 1), 0.25),
    "data": ("BNData", ACTION % "", (1, 4, 1, 1), 0.25),
    "mpi": ("BNData", TSN % "", (1, 4, 1, 1), 0.25),
    "zxy": ("ZXYBN", ZXY % "", (1, 4), 0.25),
    "cudnn": ("CuDNNBatchNorm", CUDNN % "", (1, 4, 1, 1), 0.25),
}


def built(kind: str, fields: str = "", phase: int = TRAIN) -> Layer:
    name, text, _, _ = KINDS[kind]
    end = text.rindex("}")
    return make(TEXT % (name, text[:end] + fields + " }"), phase)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (2, 4, 13), (6, 4)])
def test_statistics_of_the_batch(kind: str, shape: tuple[int, ...]) -> None:
    layer, (_, _, param, eps) = built(kind), KINDS[kind]
    params = layer.params([shape])
    assert {p.shape for p in params} == {param} and len(params) == (2 if kind == "segnet" else 4)
    assert [p.filler.value for p in params][:2] == [2, 0]
    assert [p.is_statistic for p in params] == [False, False, True, True][: len(params)]
    arrays = [value.reshape(param) for value in (S, B, MEAN, VARIANCE)[: len(params)]]
    x = RANDOM.normal(1, 2, shape)

    def forward(x: np.ndarray, s: np.ndarray, b: np.ndarray, *_: np.ndarray) -> np.ndarray:
        return normed(x, s, b, None, None, eps).reshape(layer.tops([shape])[0])

    check_gradients(layer, forward, [x, *arrays], [0, 1, 2], params=len(params))


@pytest.mark.parametrize(("kind", "axes"), [("segnet", 4), ("action", 4), ("tsn", 2)])
def test_the_axes_of_the_top(kind: str, axes: int) -> None:
    """Compiled, bn_layer.cpp of alexgkendall/caffe-segnet and of Lyp100208/Caffe_action gives four axes."""
    assert built(kind).tops([(6, 4)]) == ((6, 4, 1, 1)[:axes],)
    with pytest.raises(NetError, match="expected a bottom of 2 to 4 axes"):  # the three stop at "legacy accessors"
        built(kind).tops([(2, 4, 3, 5, 2)])


@pytest.mark.parametrize("kind", ["tsn", "action", "data", "mpi", "cudnn"])
def test_running_statistics(kind: str) -> None:
    """As bn_layer.cpp, and bn_data_layer.cu of Lyp100208/Caffe_action and of lxx1991/caffe_mpi, keep them."""
    layer, shape = built(kind), KINDS[kind][2]
    result = run(layer, [X], [value.reshape(shape) for value in (S, B, MEAN, VARIANCE)])
    n, count = len(X), X.size // 4
    unbiased = count / (count - 1) if kind == "cudnn" else 1
    share = 0.3 * {"data": n / (n - 1), "mpi": count / (count - 1)}.get(kind, 1)
    expected = {
        2: 0.7 * MEAN + 0.3 * X.mean((0, 2, 3)),
        3: (1 - share) * VARIANCE + share * X.var((0, 2, 3)) * unbiased,
    }
    assert result.updates.keys() == expected.keys()
    for index, new in expected.items():
        np.testing.assert_allclose(result.updates[index].ravel(), new, rtol=1e-5)


def test_a_slope_that_does_not_learn_stops_bndata_of_caffe_mpi() -> None:
    name, text, shape, _ = KINDS["mpi"]
    params = [value.reshape(shape) for value in (S, B, MEAN, VARIANCE)]
    for fields, stored in (("", False), ("moving_average: true", True)):
        written = text[: text.rindex("}")] + fields + " } param { lr_mult: 0 }"
        result = run(make(TEXT % (name, written)), [X], params)
        mean, variance = (MEAN, VARIANCE) if stored else (None, None)
        np.testing.assert_allclose(result.tops[0], normed(X, S, B, mean, variance, 0.25), rtol=1e-4, atol=1e-5)
        assert not result.updates
        assert not any(values.any() for values in (*result.bottoms, *result.params))


@pytest.mark.parametrize(
    ("kind", "fields", "stored"),
    [
        ("tsn", "", True),
        ("cudnn", "", True),
        ("action", "", False),
        ("action", "moving_average: true", True),
        ("mpi", "", True),
        ("data", "", False),
        ("data", "moving_average: true", True),
        ("segnet", "", False),
    ],
)
def test_the_test_phase(kind: str, fields: str, stored: bool) -> None:
    layer, (_, _, shape, eps) = built(kind, fields, TEST), KINDS[kind]
    params = [value.reshape(shape) for value in (S, B, MEAN, VARIANCE)[: len(layer.params([X.shape]))]]
    result = run(layer, [X], params)
    statistics = (MEAN, VARIANCE) if stored else (None, None)
    np.testing.assert_allclose(result.tops[0], normed(X, S, B, *statistics, eps), rtol=1e-4, atol=1e-5)
    assert not result.updates
    assert layer.reads_statistics == stored


def test_the_gradient_of_moving_averages_is_that_of_the_batch() -> None:
    """As in Backward_cpu of Lyp100208/Caffe_action, which knows no phase."""
    layer = built("action", "moving_average: true", TEST)
    dy = RANDOM.normal(size=X.shape)
    params = [value.reshape(1, 4, 1, 1) for value in (S, B, MEAN, VARIANCE)]
    result = run(layer, [X], params, [dy.astype(np.float32)])
    s, m, v = (column(value, 4) for value in (S, MEAN, VARIANCE))
    unit, g = (X - m) / np.sqrt(v + 0.25), dy * s
    means = [(value.mean((0, 2, 3), keepdims=True)) for value in (g, g * unit)]
    expected = (g - means[0] - unit * means[1]) / np.sqrt(v + 0.25)
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.params[0].ravel(), (dy * unit).sum((0, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["tsn", "cudnn"])
def test_frozen(kind: str) -> None:
    layer, shape = built(kind, "frozen: true"), KINDS[kind][2]
    assert [p.is_statistic for p in layer.params([X.shape])] == [True] * 4
    assert layer.params([X.shape])[3].filler.value == 1
    result = run(layer, [X], [value.reshape(shape) for value in (S, B, MEAN, VARIANCE)])
    np.testing.assert_allclose(result.tops[0], normed(X, S, B, MEAN, VARIANCE, 0.25), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.bottoms[0][0, :, 0, 0], S / np.sqrt(VARIANCE + 0.25), rtol=1e-5)
    assert not result.params[0].any() and not result.updates


def test_cudnn_has_a_least_eps() -> None:
    assert make(TEXT % ("CuDNNBatchNorm", "cudnn_batch_norm_param { eps: 1e-9 }")).eps == 1e-5


def test_segnets_mean_and_variance() -> None:
    text = f'name: "l" type: "BN" bottom: "x" top: "y" top: "m" top: "v" {SEGNET % ""}'
    result = run(make(text), [X], [S.reshape(1, 4, 1, 1), B.reshape(1, 4, 1, 1)])
    assert [top.shape for top in result.tops[1:]] == [(1, 4, 1, 1)] * 2
    np.testing.assert_allclose(result.tops[1].ravel(), X.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(result.tops[2].ravel(), X.var((0, 2, 3)), rtol=1e-5)
    with pytest.raises(NetError, match="gives neither mean nor variance"):
        make(text.replace("shift_filler { }", "shift_filler { } bn_mode: INFERENCE")).tops([X.shape])


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        (TSN % "", "tsn"),
        (SEGNET % "", "segnet"),
        ("param { lr_mult: 1 } param { lr_mult: 1 } " + SEGNET % "", "segnet"),
        (FOUR + SEGNET % "", "action"),
        (FOUR, "tsn"),
        ("bn_param { decay: 0.1 }", "action"),
    ],
)
def test_whose_it_is(text: str, dialect: str) -> None:
    assert make(TEXT % ("BN", text)).dialect == dialect


def test_momentum_of_0_95_where_nothing_is_written() -> None:
    layer = make(TEXT % ("BNData", "bn_param { slope_filler { value: 1 } }"))
    result = run(layer, [X], [value.reshape(1, 4, 1, 1) for value in (S, B, MEAN, VARIANCE)])
    np.testing.assert_allclose(result.updates[2].ravel(), 0.95 * MEAN + 0.05 * X.mean((0, 2, 3)), rtol=1e-5)


def test_the_gradient_of_bn_takes_running_statistics_for_the_batchs() -> None:
    """Numbers: yjxiong/caffe, bn_layer.cpp, compiled, in phase TEST."""
    layer = make('name: "l" type: "BN" bottom: "x" top: "y" bn_param { slope_filler { value: 1 } eps: 0.01 }', TEST)
    x = np.array([[1, -2], [0.5, 3], [2, -1]]).reshape(3, 2, 1, 1)
    params = [np.array([pair]) for pair in ([2, 0.5], [0.1, -0.3], [0.5, -1], [2, 0.25])]
    dy = np.array([[1, -1], [2, 0.5], [-1.5, 3]], np.float32).reshape(x.shape)
    result = run(layer, [x], params, [dy])
    y = [[0.80534565, -1.28058076], [0.1, 3.6223228], [2.2160368, -0.3]]
    np.testing.assert_allclose(result.tops[0][:, :, 0, 0], y, rtol=1e-5)
    dx = [[0.91004789, 1.97373307], [2.11603689, -15.41271687], [-2.20727563, 2.12459136]]
    np.testing.assert_allclose(result.bottoms[0][:, :, 0, 0], dx, rtol=1e-4)
    np.testing.assert_allclose(result.params[0], [[-1.23435485, 5.88348389]], rtol=1e-5)
