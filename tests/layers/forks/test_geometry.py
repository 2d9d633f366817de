"""Layers that transform images, and those of steganalysis, against loops; gradients against differences."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(17)
X = RANDOM.normal(size=(2, 3, 5, 7))
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '


def transformed(x: np.ndarray, theta: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    n, channels, height, width = x.shape
    y = np.zeros((n, channels, *size))
    for item, i, j in np.ndindex(n, *size):
        place = theta[item].reshape(2, 3) @ [i / size[0] * 2 - 1, j / size[1] * 2 - 1, 1]
        v, u = (place[0] + 1) / 2 * height, (place[1] + 1) / 2 * width
        for row, column in np.ndindex(height, width):
            weight = max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column))
            y[item, :, i, j] += weight * x[item, :, row, column]
    return y


THETA = RANDOM.normal(0, 0.3, (2, 6)) + np.array([1, 0, 0, 0, 1, 0])


@pytest.mark.parametrize(("fields", "size"), [("", (5, 7)), ("output_H: 4 output_W: 3", (4, 3))])
def test_spatial_transformer(fields: str, size: tuple[int, int]) -> None:
    layer = make(TWO % "SpatialTransformer" + f"st_param {{ {fields} }}")
    check_gradients(layer, lambda x, theta: transformed(x, theta, size), [X, THETA], [0, 1])


def test_theta_that_the_file_fixes_and_images_without_gradient() -> None:
    layer = make(
        TWO % "SpatialTransformer" + "st_param { theta_1_2: 0.25 theta_2_1: -0.5 theta_2_3: 0.1 to_compute_dU: false }"
    )

    def forward(x: np.ndarray, given: np.ndarray) -> np.ndarray:
        theta = np.empty((2, 6))
        theta[:, [0, 2, 4]], theta[:, [1, 3, 5]] = given, [0.25, -0.5, 0.1]
        return transformed(x, theta, (5, 7))

    given = THETA[:, [0, 2, 4]]
    check_gradients(layer, forward, [X, given], [1])
    assert not run(layer, [X, given]).bottoms[0].any()
    with pytest.raises(NetError, match="expected 3 values of θ for each of 2 items"):
        layer.tops([X.shape, (2, 6)])


def far(x: np.ndarray, limit: float) -> np.ndarray:
    return np.array((np.maximum(abs(x) - limit, 0) ** 2).sum() / 2)


def test_losses_of_places_outside() -> None:
    layer = make(ONE % "LocLoss" + "loc_loss_param { threshold: 0.5 }")
    check_gradients(layer, lambda x: far(x, 0.5) / x.size, [X], [0])
    grid = np.array([[i / 4 * 2 - 1, j / 3 * 2 - 1, 1] for i, j in np.ndindex(4, 3)])
    places = make(ONE % "STLoss" + "st_loss_param { output_H: 4 output_W: 3 }")
    check_gradients(places, lambda t: far(t.reshape(2, 2, 3) @ grid.T, 1) / 24, [2 * THETA], [0])


def test_values_of_a_file_are_added(tmp_path: Path) -> None:
    (tmp_path / "shift.txt").write_text("1 0 0\n0 -2.5")
    layer = make(ONE % "PowerFile" + f'power_file_param {{ shift_file: "{tmp_path}/shift.txt" }}')
    check_gradients(layer, lambda x: x + np.array([1, 0, 0, 0, -2.5, 0]), [THETA], [0])
    none = make(ONE % "PowerFile" + 'power_file_param { shift_file: "none.txt" }')
    assert "cannot read shift_file 'none.txt'" in none.left_out and not layer.left_out
    np.testing.assert_array_equal(run(none, [THETA]).tops[0], THETA.astype(np.float32))


def keys(v: list[float], d: float) -> float:
    """Catmull-Rom between v[1] and v[2]."""
    a, b, c, e = v
    return b + 0.5 * d * (c - a + d * (2 * a - 5 * b + 4 * c - e + d * (3 * (b - c) + e - a)))


def cubic(x: np.ndarray, size: tuple[int, int], cuts: list[tuple[int, int]]) -> np.ndarray:
    """The mean over items, each cut first and then made larger."""
    total = np.zeros((1, x.shape[1], *size))
    for item, (high, wide) in enumerate(cuts):
        inner = x[item, :, high : x.shape[2] - high, wide : x.shape[3] - wide]
        height, width = inner.shape[1:]

        def taps(place: float, length: int) -> tuple[list[int], float]:
            first = max(int(place + 1e-5), 0)
            after = min(first + 1, length - 1)
            return [max(first - 1, 0), first, after, min(after + 1, length - 1)], place - first

        for c, i, j in np.ndindex(x.shape[1], *size):
            rows, dv = taps((i - size[0] / height / 2 + 0.5) * height / size[0], height)
            columns, du = taps((j - size[1] / width / 2 + 0.5) * width / size[1], width)
            lines = [keys([inner[c, row, column] for column in columns], du) for row in rows]
            total[0, c, i, j] += keys(lines, dv)
    return total / len(cuts)


def test_imresize() -> None:
    x = RANDOM.normal(size=(2, 3, 8, 11))
    plain = make(ONE % "ImResize" + "imresize_param { factor: 2 scale_gap: 0 }")
    y = run(plain, [x])
    np.testing.assert_allclose(y.tops[0], cubic(x, (16, 22), [(0, 0)] * 2), rtol=1e-3, atol=1e-5)
    assert not y.bottoms[0].any()
    fields = "target_spatial_height: 13 target_spatial_width: 9 start_scale: 0.75 scale_gap: 0.25"
    scaled = make(ONE % "ImResize" + f"imresize_param {{ {fields} }}")
    wanted = cubic(x, (13, 9), [(1, 1), (2, 2)])
    np.testing.assert_allclose(run(scaled, [x]).tops[0], wanted, rtol=1e-3, atol=1e-5)


# ---- steganalysis ----------------------------------------------------------------------------------------------------


def test_blocks_of_coefficients_become_an_image() -> None:
    x = np.round(RANDOM.normal(0, 3, (2, 64, 2, 3)))
    layer = make(ONE % "BdctToSpatial" + "bdct_to_spatial_param { quality: 95 }")
    y = run(layer, [x]).tops[0]
    steps = {0: 2, 1: 1, 8: 1, 63: 10, 37: 11}  # of quality 95
    for item, row, column in ((0, 0, 0), (1, 13, 17), (1, 15, 23)):
        block = x[item, :, row // 8, column // 8]
        total = 0.0
        for k, value in enumerate(block):
            if k in steps:
                u, v = divmod(k, 8)
                scale = (1 if u else 2**-0.5) * (1 if v else 2**-0.5) / 4
                total += (
                    steps[k] * value * scale
                    * math.cos((2 * (row % 8) + 1) * u * math.pi / 16)
                    * math.cos((2 * (column % 8) + 1) * v * math.pi / 16)
                )  # fmt: skip
        only = np.zeros_like(x)
        only[:, list(steps)] = x[:, list(steps)]
        np.testing.assert_allclose(run(layer, [only]).tops[0][item, 0, row, column], total, rtol=1e-4, atol=1e-4)
    assert y.shape == (2, 1, 16, 24)


@pytest.mark.parametrize(
    ("process", "forward"),
    [
        ("QUANTTRUNCABS", lambda x: np.minimum(np.floor(abs(x) + 0.5), 2)),
        ("QUANT", lambda x: np.sign(x) * np.floor(abs(x) + 0.5)),
        ("ABS", np.abs),
        ("TRUNC", lambda x: x.clip(-2, 2)),
        ("QUANTTRUNC", lambda x: np.sign(x) * np.minimum(np.floor(abs(x) + 0.5), 2)),
        ("QUANTABS", lambda x: np.floor(abs(x) + 0.5)),
        ("TRUNCABS", lambda x: np.minimum(abs(x), 2)),
    ],
)
def test_quant_trunc_abs(process: str, forward: object) -> None:
    x = RANDOM.normal(0, 2.5, (2, 3, 4, 5)).astype(np.float32)
    x[0, 0, 0, :4] = [2.5, -2.5, -0.5, 0]
    text = (
        'name: "l" type: "QuantTruncAbs" bottom: "x" top: "x" '
        + f"quant_trunc_abs_param {{ process: {process} threshold: 2 }}"
    )
    np.testing.assert_allclose(run(make(text), [x]).tops[0], forward(x), rtol=1e-6)


def test_relu_recover() -> None:
    check_gradients(
        make(ONE % "ReLURecover" + "relu_param { negative_slope: 0.2 }"),
        lambda x: np.where(x > 0, x, 0.2 * x),
        [X],
        [0],
    )


SCALE, BIAS, MEAN, VARIANCE = RANDOM.uniform(0.5, 2, (4, 1, 3, 1, 1))


def test_bn_conv_learns_and_keeps_statistics() -> None:
    layer = make(ONE % "BNConv" + "bn_conv_param { decay: 0.75 }", TRAIN)

    def forward(x: np.ndarray, s: np.ndarray, b: np.ndarray, *_: np.ndarray) -> np.ndarray:
        mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
        return s * (x - mean) / np.sqrt(variance) + b

    arrays = [X, SCALE, BIAS, MEAN, VARIANCE]
    check_gradients(layer, forward, arrays, [0, 1, 2], params=4)
    updates = run(layer, [X], arrays[1:]).updates
    np.testing.assert_allclose(updates[2], 0.75 * X.mean((0, 2, 3), keepdims=True) + 0.25 * MEAN, rtol=1e-4)
    np.testing.assert_allclose(updates[3], 0.75 * X.var((0, 2, 3), keepdims=True) + 0.25 * VARIANCE, rtol=1e-4)


@pytest.mark.parametrize(("phase", "fields"), [(TEST, ""), (TRAIN, "fix: true")])
def test_bn_conv_with_stored_statistics(phase: int, fields: str) -> None:
    layer = make(ONE % "BNConv" + f"bn_conv_param {{ {fields} }}", phase)
    dy = RANDOM.normal(size=X.shape).astype(np.float32)
    result = run(layer, [X], [SCALE, BIAS, MEAN, VARIANCE], [dy])
    plain = (X - MEAN) / np.sqrt(VARIANCE)
    np.testing.assert_allclose(result.tops[0], SCALE * plain + BIAS, rtol=1e-4, atol=1e-5)
    inner = SCALE * dy
    along = (inner * plain).mean((0, 2, 3), keepdims=True)
    wanted = (inner - inner.mean((0, 2, 3), keepdims=True) - plain * along) / np.sqrt(VARIANCE)
    np.testing.assert_allclose(result.bottoms[0], wanted, rtol=1e-3, atol=1e-4)
    assert result.updates == {}


def test_coefficients_of_images_are_data() -> None:
    own = "image_data_steganalysis_jpeg_dct_param { batch_size: 6 }"
    layer = make(f'name: "l" type: "ImageDataSteganalysisJpegDct" top: "x" top: "label" {own}')
    assert layer.tops([]) == (None, (6,))
    layer.shape_overrides = {"x": (4, 64, 3, 5)}
    assert layer.tops([]) == ((4, 64, 3, 5), (4,))
    np.testing.assert_array_equal(layer.example(1, (4,), RANDOM), [0, 1, 0, 1])
