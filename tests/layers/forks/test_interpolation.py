"""Layers of forks that resample images, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(0, 1, (2, 3, 5, 8))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '


def aligned(x: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Corners on corners, pixel by pixel."""
    y = np.zeros((*x.shape[:2], high, wide))
    for i, j in np.ndindex(high, wide):
        v = i * (x.shape[2] - 1) / (high - 1) if high > 1 else 0.0
        u = j * (x.shape[3] - 1) / (wide - 1) if wide > 1 else 0.0
        r, c = min(int(v + 1e-9), x.shape[2] - 1), min(int(u + 1e-9), x.shape[3] - 1)
        below, right = min(r + 1, x.shape[2] - 1), min(c + 1, x.shape[3] - 1)
        a, b = v - r, u - c
        upper = (1 - b) * x[:, :, r, c] + b * x[:, :, r, right]
        y[:, :, i, j] = (1 - a) * upper + a * ((1 - b) * x[:, :, below, c] + b * x[:, :, below, right])
    return y


@pytest.mark.parametrize(
    ("fields", "crop", "size"),
    [
        ("height: 9 width: 6", (0, 0), (9, 6)),
        ("zoom_factor: 3", (0, 0), (13, 22)),
        ("shrink_factor: 2", (0, 0), (3, 4)),
        ("shrink_factor: 2 zoom_factor: 2", (0, 0), (5, 7)),
        ("shrink_factor: 2 zoom_factor: 2 height: 7 width: 7", (0, 0), (7, 7)),
        ("zoom_factor: 2 pad_beg: -1 pad_end: -2", (1, 2), (3, 9)),
        ("height: 1 width: 1", (0, 0), (1, 1)),
        ("height: 5 width: 8", (0, 0), (5, 8)),
    ],
)
def test_interp(fields: str, crop: tuple[int, int], size: tuple[int, int]) -> None:
    layer = make(TEXT % "Interp" + f"interp_param {{ {fields} }}")
    first, last = crop

    def forward(x: np.ndarray) -> np.ndarray:
        return aligned(x[:, :, first : x.shape[2] - last, first : x.shape[3] - last], *size)

    check_gradients(layer, forward, [X], [0])


def scaled(x: np.ndarray, high: int, wide: int) -> np.ndarray:
    """The reference's loop: neighbours beyond the image are left out, their weight is lost."""
    y = np.zeros((*x.shape[:2], high, wide))
    for i, j in np.ndindex(high, wide):
        v, u = i * x.shape[2] / high, j * x.shape[3] / wide
        r, c = int(v + 1e-9), int(u + 1e-9)
        for dr, dc in np.ndindex(2, 2):
            if r + dr < x.shape[2] and c + dc < x.shape[3]:
                weight = (v - r if dr else 1 - (v - r)) * (u - c if dc else 1 - (u - c))
                y[:, :, i, j] += weight * x[:, :, r + dr, c + dc]
    return y


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("height: 9 width: 6", (9, 6)),
        ("height: 3 width: 16", (3, 16)),
        ("is_pyramid_test: true out_height_scale: 1.5 out_width_scale: 0.5", (7, 4)),
        ("is_pyramid_test: true out_height_scale: 1.4 out_width_scale: 0.6", (7, 4)),  # 6.9999998 is 7 in float32
    ],
)
def test_resize(fields: str, size: tuple[int, int]) -> None:
    layer = make(TEXT % "Resize" + f"resize_param {{ {fields} }}")
    check_gradients(layer, lambda x: scaled(x, *size), [X], [0])


def test_upsample_repeats_elements() -> None:
    layer = make(TEXT % "Upsample" + "upsample_param { scale: 3 }")
    check_gradients(layer, lambda x: x.repeat(3, 2).repeat(3, 3), [X], [0])


MASKED = 'name: "u" type: "Upsample" bottom: "x" bottom: "m" top: "y" '


def unpooled(x: np.ndarray, mask: np.ndarray, high: int, wide: int) -> np.ndarray:
    y = np.zeros((*x.shape[:2], high * wide))
    for n, c, h, w in np.ndindex(*x.shape):
        y[n, c, int(mask[n, c, h, w])] = x[n, c, h, w]
    return y.reshape(*x.shape[:2], high, wide)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("", (10, 16)),
        ("scale: 2 pad_out_h: true", (9, 16)),
        ("scale_h: 3 scale_w: 2", (15, 16)),
        ("upsample_h: 11 upsample_w: 17", (11, 17)),
    ],
)
def test_unpooling_puts_elements_back_where_they_came_from(fields: str, size: tuple[int, int]) -> None:
    mask = np.stack([RANDOM.permutation(size[0] * size[1])[:40] for _ in range(6)]).reshape(X.shape)
    layer = make(MASKED + f"upsample_param {{ {fields} }}")
    check_gradients(layer, lambda x, m: unpooled(x, m, *size), [X, mask], [0])
    assert not run(layer, [X, mask]).bottoms[1].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Interp interp_param { pad_beg: 1 height: 3 width: 3 }", "must not be positive"),
        ("Interp", "expected height and width, shrink_factor or zoom_factor"),
        ("Interp interp_param { zoom_factor: 2 pad_end: -5 }", "the crop leaves no element"),
        ("Resize resize_param { height: 3 }", "width is missing"),
    ],
)
def test_what_is_missing_or_does_not_fit(text: str, message: str) -> None:
    kind, _, fields = text.partition(" ")
    with pytest.raises(NetError, match=message):
        make(TEXT % kind + fields).tops([X.shape])


def test_a_mask_has_the_shape_of_what_it_is_for() -> None:
    with pytest.raises(NetError, match="a mask of the bottom's shape"):
        make(MASKED).tops([X.shape, (2, 3, 5, 7)])
