"""DenseBlock and Local, against numpy, and their gradients by differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Filler, Stream, fill

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(12)
X = RANDOM.normal(0, 1, (2, 3, 5, 4))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" %s'


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "places"), [(2, 1, 0, (4, 3)), (3, 2, 1, (3, 2)), (4, 3, 2, (2, 2))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_local(kernel: int, stride: int, pad: int, places: tuple[int, int], bias: bool) -> None:
    fields = f"num_output: 6 kernel_size: {kernel} stride: {stride} pad: {pad} bias_term: {str(bias).lower()}"
    layer = make(TEXT % ("Local", f"local_param {{ {fields} }}"))
    count, taps = places[0] * places[1], 3 * kernel**2
    params = layer.params([X.shape])
    assert [p.shape for p in params] == [(6, 1, taps, count), (1, 1, 6, count)][: 1 + bias]
    assert params[0].fan_in == taps and layer.macs([X.shape]) == 2 * 6 * taps * count

    def forward(x: np.ndarray, w: np.ndarray, *b: np.ndarray) -> np.ndarray:
        padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
        y = np.zeros((2, 6, *places))
        for index, (i, j) in enumerate(np.ndindex(*places)):
            top, left = i * stride, j * stride
            patch = padded[:, :, top : top + kernel, left : left + kernel].reshape(2, -1)
            y[:, :, i, j] = patch @ w[:, 0, :, index].T + (b[0][0, 0, :, index] if b else 0)
        return y

    arrays = [RANDOM.normal(size=p.shape) for p in params]
    check_gradients(layer, forward, [X, *arrays], range(1 + len(arrays)), params=len(arrays))


DENSE = (
    'denseblock_param { numTransition: 2 growthRate: 5 Filter_Filler { type: "msra" } '
    'BN_Scaler_Filler { type: "uniform" min: 1 max: 2 } BN_Bias_Filler { type: "constant" value: 0.5 } %s }'
)


def normed(x: np.ndarray, s: np.ndarray, b: np.ndarray, m: np.ndarray | None, v: np.ndarray | None) -> np.ndarray:
    m = x.mean((0, 2, 3), keepdims=True) if m is None else m
    v = x.var((0, 2, 3), keepdims=True) if v is None else v
    return np.maximum((x - m) / np.sqrt(v + 1e-5) * s + b, 0)


def conv(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    pad, (high, wide) = w.shape[2] // 2, x.shape[2:]
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    taps = np.ndindex(*w.shape[2:])
    return sum(np.einsum("nchw,oc->nohw", padded[:, :, i : i + high, j : j + wide], w[:, :, i, j]) for i, j in taps)


def dense(x: np.ndarray, params: list[np.ndarray], bottleneck: bool, test: bool) -> np.ndarray:
    for step in range(2):
        w, s, b, m, v = params[step:10:2]
        y = normed(x, s, b, *((m, v) if test else (None, None)))
        if bottleneck:
            inner, s, b, m, v = params[10 + step : 20 : 2]
            y = normed(conv(y, inner), s, b, *((m, v) if test else (None, None)))
        x = np.concatenate([x, conv(y, w)], 1)
    return x


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_dense_block(bottleneck: bool, phase: int) -> None:
    layer = make(TEXT % ("DenseBlock", DENSE % f"use_BC: {str(bottleneck).lower()}"), phase)
    params = layer.params([X.shape])
    assert layer.tops([X.shape]) == ((2, 13, 5, 4),)
    assert len(params) == (21 if bottleneck else 11)
    assert [p.shape for p in params[:4]] == [
        (5, 20 if bottleneck else 3, 3, 3),
        (5, 20 if bottleneck else 8, 3, 3),
        (1, 3, 1, 1),
        (1, 8, 1, 1),
    ]
    arrays = [
        RANDOM.uniform(0.5, 1.5, p.shape) if p.role == "variance" else RANDOM.normal(size=p.shape) for p in params
    ]

    def forward(x: np.ndarray, *values: np.ndarray) -> np.ndarray:
        return dense(x, list(values), bottleneck, phase == TEST)

    wrt = [0, *(1 + index for index, p in enumerate(params) if not p.is_statistic)]
    check_gradients(layer, forward, [X, *arrays], wrt, params=len(arrays), rtol=1e-3)
    weights = sum(p.shape[0] * p.shape[1] * p.shape[2] ** 2 for p in params if p.role == "weight")
    assert layer.macs([X.shape]) == 2 * 20 * weights


def test_running_statistics_of_a_dense_block() -> None:
    layer = make(TEXT % ("DenseBlock", DENSE % "moving_average_fraction: 0.3"))
    arrays = [RANDOM.uniform(0.5, 1.5, p.shape) for p in layer.params([X.shape])]
    updates = run(layer, [X], arrays).updates
    assert sorted(updates) == [6, 7, 8, 9]
    np.testing.assert_allclose(updates[6], 0.7 * arrays[6] + 0.3 * X.mean((0, 2, 3), keepdims=True), rtol=1e-5)
    unbiased = X.var((0, 2, 3), keepdims=True) * 40 / 39
    np.testing.assert_allclose(updates[8], 0.7 * arrays[8] + 0.3 * unbiased, rtol=1e-5)


def test_a_dense_block_draws_transition_by_transition() -> None:
    layer = make(TEXT % ("DenseBlock", DENSE % "use_BC: true"))
    params = layer.params([X.shape])
    values = layer.draw_params(Stream(5), params, [X.shape])
    stream = Stream(5)
    for index in (0, 10, 2, 12, 4, 14, 1, 11, 3, 13, 5, 15):  # 3 x 3, 1 x 1, scales, biases of each
        np.testing.assert_array_equal(values[index], fill(stream, params[index].filler, params[index].shape))
    assert [value.shape for value in values] == [p.shape for p in params]
    assert values[8].tolist() == np.ones((1, 3, 1, 1)).tolist() and params[-1].filler == Filler()


def test_dropout_gives_no_values() -> None:
    text = TEXT % ("DenseBlock", DENSE % "use_dropout: true dropout_amount: 0.2")
    for phase in (TRAIN, TEST):
        layer = make(text, phase)
        layer.tops([X.shape])
        assert bool(layer.why_uncomputed) == (phase == TRAIN)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("Local", "local_param { kernel_size: 2 }", "positive num_output, kernel_size"),
        ("Local", "local_param { num_output: 2 kernel_size: 5 pad: 3 }", "the kernel covers 5 elements"),
        ("DenseBlock", "denseblock_param { filter_H: 5 }", "a kernel of 3"),
        ("DenseBlock", "denseblock_param { growthRate: 0 }", "positive numTransition and growthRate"),
    ],
)
def test_what_does_not_fit(kind: str, fields: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TEXT % (kind, fields)).tops([X.shape])
