"""What SSD does to images before the net sees them: sizes, boxes, colours, noise."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from google.protobuf import text_format

from caffestat.data.distortion import Draws, add_noise, distort, fitted_box, new_size, resized
from caffestat.data.images import nearest, recompressed, resize
from caffestat.fillers import Stream
from caffestat.fillers.distributions import uniform
from caffestat.schema.forks.ssd_pb2 import DistortionParameter, NoiseParameter, ResizeParameter

from .support import picture

WIDE, TALL = picture(1, 3, 8, 20), picture(2, 3, 18, 8)
LARGE = "resize_mode: FIT_LARGE_SIZE_AND_PAD height: 12 width: 15 "
SMALL = "resize_mode: FIT_SMALL_SIZE height: 12 width: 15 "


def draws(seed: int = 3) -> Draws:
    return Draws(Stream(seed), Stream(seed))


def resizing(text: str) -> ResizeParameter:
    return text_format.Parse(text, ResizeParameter())


def test_large_side_fits_and_the_rest_is_padded() -> None:
    found = resized(WIDE, resizing(LARGE + "pad_value: 1 pad_value: 2 pad_value: 3"), draws())
    assert found.shape == (3, 12, 15)
    np.testing.assert_array_equal(found[:, 3:9], resize(WIDE, 6, 15))  # 15 / 20 of 8 rows, 3 of 6 above
    np.testing.assert_array_equal(found[:, [0, 2, 9, 11], 4], np.repeat([[1], [2], [3]], 4, 1))
    found = resized(TALL, resizing(LARGE + "pad_mode: REPEAT_NEAREST"), draws())
    inner = resize(TALL, 12, 5)
    np.testing.assert_array_equal(found, np.concatenate([inner[..., :1]] * 5 + [inner] + [inner[..., -1:]] * 5, 2))
    found = resized(TALL, resizing(LARGE + "pad_mode: MIRRORED"), draws())
    np.testing.assert_array_equal(found[..., 4], inner[..., 1])


def test_small_side_fits() -> None:
    assert new_size(resizing(SMALL), WIDE.shape) == (12, 30)
    assert new_size(resizing(SMALL), TALL.shape) == (33, 15)
    np.testing.assert_array_equal(resized(TALL, resizing(SMALL), draws()), resize(TALL, 33, 15))


def test_boxes_go_with_the_image() -> None:
    box = np.array([0.1, 0.25, 0.6, 1.25], np.float32)
    np.testing.assert_allclose(fitted_box(box, resizing("height: 12 width: 15"), WIDE.shape), [0.1, 0.25, 0.6, 1])
    rows = np.array([0.25, 1.25]) * 6 / 12 + 3 / 12
    found = fitted_box(box, resizing(LARGE), WIDE.shape)
    np.testing.assert_allclose(found, [0.1, rows[0], 0.6, rows[1]], rtol=1e-6)
    width = 12 * 8 / 18
    columns = (np.array([0.1, 0.6]) * width + (15 - width) / 2) / 15
    found = fitted_box(box, resizing(LARGE), TALL.shape)
    np.testing.assert_allclose(found, [columns[0], 0.25, columns[1], 1], rtol=1e-6)
    np.testing.assert_allclose(fitted_box(box, resizing(SMALL), TALL.shape), [0.1, 0.25, 0.6, 1], rtol=1e-6)


def test_interpolation_is_drawn_even_of_one_mode() -> None:
    alone, both = draws(), draws()
    both.between(0, 1)
    np.testing.assert_array_equal(
        resized(WIDE, resizing("height: 5 width: 9 interp_mode: LINEAR"), alone), resize(WIDE, 5, 9)
    )
    assert alone.between(0, 1) == both.between(0, 1)
    p = resizing("height: 5 width: 9 interp_mode: LINEAR interp_mode: NEAREST")
    shares = uniform(Stream(3), 20, 0, 1)
    source = draws()
    for share in shares:
        expected = (resize if share <= 0.5 else nearest)(WIDE, 5, 9)
        np.testing.assert_array_equal(resized(WIDE, p, source), expected)


def test_interpolations_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for name in ("AREA", "CUBIC", "LANCZOS4"):
        found = resized(WIDE, resizing(f"height: 4 width: 10 interp_mode: {name}"), draws())
        expected = cv2.resize(WIDE.transpose(1, 2, 0), (10, 4), interpolation=getattr(cv2, f"INTER_{name}"))
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))
    quads = WIDE.reshape(3, 4, 2, 10, 2).astype(float).mean(axis=(2, 4))
    assert abs(resized(WIDE, resizing("height: 4 width: 10 interp_mode: AREA"), draws()) - quads).max() <= 0.5


def test_what_is_recompressed_equals_opencvs_file() -> None:
    cv2 = pytest.importorskip("cv2")
    smooth = resize(WIDE, 48, 80)
    file = cv2.imencode(".jpg", np.ascontiguousarray(smooth.transpose(1, 2, 0)))[1]
    expected = cv2.imdecode(file, cv2.IMREAD_UNCHANGED).transpose(2, 0, 1)
    found = recompressed(smooth)
    assert abs(found.astype(int) - smooth).max() > 0
    assert abs(found.astype(int) - expected).max() <= 1
    gray = recompressed(smooth[:1])
    assert gray.shape == (1, 48, 80)
    assert abs(gray.astype(int) - smooth[:1]).mean() < 2


def distorted(image: np.ndarray, text: str, seed: int) -> np.ndarray:
    return distort(image, text_format.Parse(text, DistortionParameter()), draws(seed))


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_brightness_and_contrast_come_in_the_drawn_order(seed: int) -> None:
    text = "brightness_prob: 0.7 brightness_delta: 40 contrast_prob: 0.6 contrast_lower: 0.5 contrast_upper: 1.5"
    stream = Stream(seed)

    def draw(low: float = 0, high: float = 1) -> float:
        return float(uniform(stream, 1, low, high)[0])

    def brightness(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values + np.float32(draw(-40, 40))), 0, 255) if draw() < np.float32(0.7) else values

    def contrast(values: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values * np.float32(draw(0.5, 1.5))), 0, 255) if draw() < np.float32(0.6) else values

    def no_change(values: np.ndarray) -> np.ndarray:
        draw()
        return values

    is_second = draw() > 0.5
    order = [brightness, contrast, no_change, no_change] if is_second else [brightness, no_change, no_change, contrast]
    values = WIDE.astype(np.float32)
    for change in (*order, no_change):
        values = change(values)
    np.testing.assert_array_equal(distorted(WIDE, text, seed), values)


def test_saturation_and_hue_are_those_of_hsv() -> None:
    pytest.importorskip("cv2")
    muted = (WIDE // 2 + 60).astype(np.uint8)
    gray = distorted(muted, "saturation_prob: 1 saturation_lower: 0 saturation_upper: 0", 1).astype(int)
    np.testing.assert_array_equal(gray, np.broadcast_to(muted.max(axis=0), muted.shape))
    green = np.sort(muted, axis=0)[[1, 2, 0]]  # hues that do not end at 0
    found = distorted(green, "hue_prob: 1 hue_delta: 10", 5)
    differences = [abs(turned(green, steps) - found).mean() for steps in range(-10, 11)]
    assert min(differences) < 1.5
    assert abs(np.argmin(differences) - 10) > 1
    reordered = distorted(muted, "random_order_prob: 1", 1)
    assert {plane.tobytes() for plane in reordered} == {plane.tobytes() for plane in muted}


def turned(image: np.ndarray, steps: float) -> np.ndarray:
    """Return an image whose hue is turned by steps of two degrees."""
    result = np.empty(image.shape)
    for y, x in np.ndindex(image.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[::-1, y, x] / 255))
        result[::-1, y, x] = np.array(colorsys.hsv_to_rgb((hue + steps / 180) % 1, saturation, value)) * 255
    return result


def noisy(image: np.ndarray, text: str, seed: int = 3) -> np.ndarray:
    return add_noise(image, text_format.Parse(text, NoiseParameter()), draws(seed))


def test_noise() -> None:
    pytest.importorskip("cv2")
    np.testing.assert_array_equal(noisy(WIDE, "inverse: true"), 255 - WIDE)
    np.testing.assert_array_equal(noisy(WIDE, "posterize: true"), WIDE // 64 * 64 + 32)
    gray = noisy(WIDE, "decolorize: true")
    assert abs(gray[0] - (np.array([0.114, 0.587, 0.299]) @ WIDE.reshape(3, -1)).reshape(8, 20)).max() <= 1
    flat = np.full((3, 9, 11), 100, np.uint8)
    flat[:, 4, 5] = 200
    np.testing.assert_array_equal(noisy(flat, "erode: true"), np.full_like(flat, 100))
    spread = noisy(flat, "gauss_blur: true")
    assert 100 < spread[0, 4, 6] < spread[0, 4, 5] < 200
    even = noisy(np.tile(np.arange(100, 120, dtype=np.uint8), (3, 8, 1)), "hist_eq: true")
    assert even.min() <= 1
    assert even.max() >= 254
    words = [int(word) for word in Stream(3).words(8)]
    salted = noisy(flat, "saltpepper: true saltpepper_param { fraction: 0.05 value: 7 }")
    assert {(int(y), int(x)) for y, x in np.argwhere(salted[1] == 7)} == {
        (words[i + 1] % 9, words[i] % 11) for i in range(0, 8, 2)
    }
    gray = noisy(flat[:1], "saltpepper: true saltpepper_param { fraction: 0.05 value: 7 }")
    np.testing.assert_array_equal(gray, salted[:1])
