"""Layers of forks that scale, cut or disturb what they read, against loops; gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(17)
X = RANDOM.normal(size=(2, 3, 5, 4))
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '


def random(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


@pytest.mark.parametrize(("fields", "scale"), [("", 1.5), ("step_size: 2 gamma: 0.5 power: 2", 1.5 * 4)])
def test_scale_tanh_grows_at_its_steps(fields: str, scale: float) -> None:
    layer = make(ONE % "ScaleTanH" + f"scale_tanh_param {{ init_scale: 1.5 {fields} }}")
    check_gradients(layer, lambda x: np.tanh(scale * x), [X / 4], [0])


def test_grn_divides_by_the_norm_over_channels() -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(0.5 + (x * x).sum(1, keepdims=True))

    check_gradients(make(ONE % "GRN" + "grn_param { bias: 0.5 }"), forward, [X], [0])
    dy = random(*X.shape).astype(np.float32)
    found = run(make(ONE % "GRN" + "grn_param { bias: 0.5 dummy_backward: true }"), [X], dys=[dy])
    np.testing.assert_allclose(found.tops[0], forward(X), rtol=1e-5)
    np.testing.assert_array_equal(found.bottoms[0], dy)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        (ONE % "ScaleFilter" + "scale_filter_param { min_scale: 0.5 max_scale: 1.25 }", 0.5, 1.25),
        (ONE % "ChannelDropout" + "dropout_param { dropout_ratio: 0.2 }", 0, 1.25),
    ],
)
def test_planes_are_scaled_in_train_alone(text: str, least: float, most: float) -> None:
    x, dy = random(4, 25, 2, 3), random(4, 25, 2, 3).astype(np.float32)
    found = run(make(text, TRAIN), [x], dys=[dy])
    (scales,) = found.feeds
    assert scales.shape == (4, 25, 1, 1)
    assert least <= scales.min() < scales.max() <= most
    assert 0.7 < scales.mean() < 1.2
    np.testing.assert_allclose(found.tops[0], x * scales, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dy * scales, rtol=1e-5)
    np.testing.assert_array_equal(run(make(text, TEST), [x]).tops[0], x.astype(np.float32))


@pytest.mark.parametrize("threshold", [0, 0.4])
def test_sparsify_shrinks_and_pulls_towards_zero(threshold: float) -> None:
    dy = random(*X.shape).astype(np.float32)
    found = run(make(ONE % "Sparsify" + f"sparsify_param {{ thre: {threshold} coef: 0.3 }}"), [X], dys=[dy])
    y = np.sign(X) * np.maximum(abs(X) - threshold, 0)
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], (dy + 0.3 * np.sign(y)) * (y != 0), rtol=1e-5)


def test_channel_scale_multiplies_each_place() -> None:
    s = random(2, 1, 5, 4)
    check_gradients(make(TWO % "ChannelScale"), lambda x, s: x * s, [X, s], [0, 1])
    dy = random(*X.shape).astype(np.float32)
    off = "channel_scale_param { do_forward: false do_backward_feature: false do_backward_scale: false }"
    found = run(make(TWO % "ChannelScale" + off), [X, s], dys=[dy])
    np.testing.assert_array_equal(found.tops[0], X.astype(np.float32))
    np.testing.assert_array_equal(found.bottoms[0], dy)
    assert not found.bottoms[1].any()


@pytest.mark.parametrize(("old", "new"), [(-1, None), (3.0, 2.97)])
def test_channel_scale_of_all_follows_the_mean(old: float, new: float | None) -> None:
    text = 'name: "l" type: "ChannelScale" bottom: "a" bottom: "b" top: "y" top: "s" '
    layer = make(text + "channel_scale_param { global_scale: true }")
    s, dys = random(2, 1, 5, 4), [random(*X.shape).astype(np.float32), np.zeros(1, np.float32)]
    found = run(layer, [X, s], [np.array([old])], dys)
    mean = abs(s).mean()
    wanted = mean if new is None else new + 0.01 * mean
    np.testing.assert_allclose(found.tops[1], [wanted], rtol=1e-5)
    np.testing.assert_allclose(found.updates[0], [wanted], rtol=1e-5)
    np.testing.assert_allclose(found.tops[0], X * wanted, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dys[0] * s, rtol=1e-5)


def test_mask_pooling_multiplies_by_a_mask() -> None:
    check_gradients(make(TWO % "MaskPooling"), lambda x, m: x * m, [X, random(2, 1, 5, 4)], [0, 1])


def resized(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """mask_resize_layer.cu, bilinear_interpolate."""
    y = np.empty((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        (a, b, t), (c, d, u) = (
            (min(int(at), n - 1), min(int(at) + 1, n - 1), at - int(at) if at < n - 1 else 0)
            for at, n in ((i * x.shape[2] / height, x.shape[2]), (j * x.shape[3] / width, x.shape[3]))
        )
        top, low = ((1 - u) * x[:, :, row, c] + u * x[:, :, row, d] for row in (a, b))
        behind = i * x.shape[2] / height > x.shape[2] - 0.5 or j * x.shape[3] / width > x.shape[3] - 0.5
        y[:, :, i, j] = 0 if behind else (1 - t) * top + t * low
    return y


def test_mask_resize_is_zero_far_behind_the_last_place() -> None:
    """Numbers of mask_resize_layer.cu of BestSonny/SSTD, compiled for the CPU and run."""
    layer = make(ONE % "MaskResize" + "mask_resize_param { output_height: 7 output_width: 5 }")
    found = run(layer, [np.arange(1.0, 7).reshape(1, 1, 3, 2)])
    y = found.tops[0][0, 0]
    np.testing.assert_allclose(y[:, 0], [1, 1.85714, 2.71429, 3.57143, 4.42857, 5, 0], rtol=1e-5)
    np.testing.assert_allclose(y[4], [4.42857, 4.82857, 5.22857, 5.42857, 0], rtol=1e-5)
    dx = [[2.514286, 2.828571], [2.514286, 2.828571], [2.742857, 3.085714]]
    np.testing.assert_allclose(found.bottoms[0][0, 0], dx, rtol=1e-5)


def test_mask_resize_interpolates() -> None:
    layer = make(ONE % "MaskResize" + "mask_resize_param { output_height: 3 output_width: 2 }")
    check_gradients(layer, lambda x: resized(x, 3, 2), [X], [0])
    larger = make(ONE % "MaskResize" + "mask_resize_param { output_height: 8 output_width: 6 }")
    np.testing.assert_allclose(run(larger, [X]).tops[0], resized(X, 8, 6), rtol=1e-5, atol=1e-6)


def test_mask_resize_by_factors_pulls_from_two_places_of_an_axis() -> None:
    fields = "output_height: 1 output_width: 1 factor_height: 3 factor_width: 0.5"
    layer = make(ONE % "MaskResize" + f"mask_resize_param {{ {fields} }}")
    dy = np.ones((2, 3, 15, 2), np.float32)
    found = run(layer, [X], dys=[dy])
    np.testing.assert_allclose(found.tops[0], resized(X, 15, 2), rtol=1e-5, atol=1e-6)
    rows = np.array([1 + 2 / 3] * 4 + [2])  # of 3 times as many rows the one at the place and the next
    np.testing.assert_allclose(found.bottoms[0], np.broadcast_to(rows[:, None] * [1, 0, 1, 0], X.shape), rtol=1e-5)


def test_maximum_tells_the_place_of_the_largest() -> None:
    x = X.copy()
    x[0, 1] = -1
    x[1, 2, 3, 1] = x[1, 2, 0, 2] = 9  # the first counts
    (y,) = run(make(ONE % "Maximum"), [x]).tops
    np.testing.assert_allclose(y[1, 2, 0], [2, 0, 9])
    np.testing.assert_array_equal(y[0, 1, 0], [0, 0, np.finfo(np.float32).tiny])
    row, column = np.unravel_index(x[0, 0].argmax(), x.shape[2:])
    np.testing.assert_allclose(y[0, 0, 0], [column, row, x[0, 0].max()], rtol=1e-6)


def test_scales_of_skeletons_are_classes_and_fractions() -> None:
    x = np.array([[0, 0.5, 1, 11.9, 12, 35], [36, 79, 80, 199, 200, -3]], np.float32)
    (classes,) = run(make(ONE % "Quantize"), [x]).tops
    np.testing.assert_array_equal(classes, [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 0, 0]])
    text = 'name: "l" type: "Rescale" bottom: "x" top: "y" top: "m" rescale_param { rf: 14 }'
    y, mask = run(make(text), [x]).tops
    inside = np.array([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(mask, inside)
    np.testing.assert_allclose(y, np.where(inside, 2 * x / 14 - 1, 0), rtol=1e-5)


def enlarged(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """accum_layer.cu, UpscaleFeatures."""
    y = np.zeros((*x.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        at, beside = i / (height - 1) * (x.shape[2] - 1), j / (width - 1) * (x.shape[3] - 1)
        for a, b in np.ndindex(x.shape[2:]):
            y[:, :, i, j] += max(0, 1 - abs(at - a)) * max(0, 1 - abs(beside - b)) * x[:, :, a, b]
    return y


@pytest.mark.parametrize(
    ("fields", "size", "joined"),
    [("", (5, 6), 2), ("size_divisible_by: 4", (8, 8), 2), ("have_reference: true", (3, 6), 1)],
)
def test_accum_enlarges_and_joins(fields: str, size: tuple[int, int], joined: int) -> None:
    layer = make(TWO % "Accum" + f"accum_param {{ {fields} }}")
    arrays = [X, random(2, 4, 3, 6)]

    def forward(*maps: np.ndarray) -> np.ndarray:
        return np.concatenate([enlarged(one, *size) for one in maps[:joined]], 1)

    check_gradients(layer, forward, arrays, range(joined))
