"""Pooling over grids and the choice of regions, against loops as the references have them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(41)
TEXT = 'name: "p" type: "%s" bottom: "x" bottom: "r" top: "y" '
ALIGN = "psroi_align_param { spatial_scale: 0.125 output_dim: 3 group_size: 2 sample_num: %d }"


def read(plane: np.ndarray, y: float, x: float) -> float:
    """psroi_align_layer.cu, bilinear_interpolate."""
    (h, w), top, left = plane.shape, int(y), int(x)
    low, right = min(top + 1, h - 1), min(left + 1, w - 1)
    a, b = y - top if top < h - 1 else 0, x - left if left < w - 1 else 0
    rows = ((1 - a, top), (a, low))
    return sum(p * q * plane[r, c] for p, r in rows for q, c in ((1 - b, left), (b, right)))


def aligned(x: np.ndarray, rois: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the top, and the gradient of its sum."""
    height, width = x.shape[2:]
    y, dx = np.zeros((len(rois), 3, 2, 2)), np.zeros(x.shape)
    for r, d, i, j in np.ndindex(*y.shape):
        item, x1, y1, x2, y2 = rois[r]
        start, end = (y1 / 8, x1 / 8), ((y2 + 1) / 8, (x2 + 1) / 8)
        step = [max(e - s, 0.1) / 2 for s, e in zip(start, end, strict=True)]
        edges = [(k * t + s, (k + 1) * t + s) for k, t, s in zip((i, j), step, start, strict=True)]
        cut = [tuple(min(max(v, 0), n - 1) for v in edge) for edge, n in zip(edges, (height, width), strict=True)]
        if cut[0][1] <= cut[0][0] or cut[1][1] <= cut[1][0]:
            continue
        plane = x[int(item), (d * 2 + i) * 2 + j]
        slope = dx[int(item), (d * 2 + i) * 2 + j]
        spans = [
            range(*(min(max(v, 0), n) for v in (math.floor(edge[0]), math.ceil(edge[1]))))
            for edge, n in zip(edges, (height, width), strict=True)
        ]
        for a in range(1, samples + 1):
            for b in range(1, samples + 1):
                h, w = cut[0][0] + a * step[0] / (samples + 1), cut[1][0] + b * step[1] / (samples + 1)
                if h >= cut[0][1] or w >= cut[1][1]:
                    continue
                y[r, d, i, j] += read(plane, h, w) / samples**2
                for row in spans[0]:
                    for column in spans[1]:
                        share = max(1 - abs(h - row), 0) * max(1 - abs(w - column), 0)
                        slope[row, column] += share / samples**2
    return y, dx


@pytest.mark.parametrize("samples", [1, 3])
def test_position_sensitive_points(samples: int) -> None:
    x = RANDOM.normal(size=(2, 12, 6, 9))
    rois = np.array([[0, 3, 5, 40, 21], [1, 0, 0, 71, 47], [1, 30, 12, 33, 14], [0, 60, 40, 90, 70], [0, 80, 2, 90, 9]])
    y, dx = aligned(x, rois.astype(float), samples)
    found = run(make(TEXT % "PSROIAlign" + ALIGN % samples), [x, rois])
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-5)
    assert abs(found.tops[0][:2]).min() > 0 and not found.tops[0][4].any()


@pytest.mark.parametrize(("high", "wide"), [(2, 4), (5, 3), (7, 10)])
def test_grid_pooling(high: int, wide: int) -> None:
    def pooled(x: np.ndarray) -> np.ndarray:
        y = np.empty((*x.shape[:2], high, wide))
        for i, j in np.ndindex(high, wide):
            rows = slice(i * 5 // high, -(-(i + 1) * 5 // high))
            y[:, :, i, j] = x[:, :, rows, j * 7 // wide : -(-(j + 1) * 7 // wide)].max((2, 3))
        return y

    text = (
        'name: "p" type: "GRIDPooling" bottom: "x" top: "y" '
        + f"grid_pooling_param {{ pooled_h: {high} pooled_w: {wide} }}"
    )
    check_gradients(make(text), pooled, [RANDOM.normal(size=(2, 3, 5, 7))], [0])


def test_grid_pooling_needs_a_size() -> None:
    with pytest.raises(NetError, match="positive pooled_h"):
        make('name: "p" type: "GRIDPooling" bottom: "x" top: "y" grid_pooling_param { pooled_h: 2 }').tops(
            [(1, 2, 3, 4)]
        )


def test_images_with_attributes() -> None:
    text = 'name: "d" type: "Python" top: "data" top: "attrs" python_param { module: "plain_zf_data_layer.layer" '
    layer = make(text + 'layer: "PlainZFDataLayer" }')
    assert layer.tops([]) == ((2, 3, 600, 735), (2, 40))


def turned(x: np.ndarray, rois: np.ndarray, image: np.ndarray) -> np.ndarray:
    """rotate_roi_pooling_layer.cu, RotateROIPoolForward, with pooled_h 2, pooled_w 3 and spatial_scale 0.5."""
    y = np.zeros((len(rois), x.shape[1], 2, 3))
    for r, c, ph, pw in np.ndindex(*y.shape):
        item, cx, cy, h, w, angle = rois[r]
        a, b = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        sx, sy, dx, dy = w * 0.5 / 3, h * 0.5 / 2, -1.5, -1.0
        m = [
            [a * sx, b * sy, a * sx * dx + b * sy * dy + cx / 2],
            [-b * sx, a * sy, -b * sx * dx + a * sy * dy + cy / 2],
        ]
        p = [[m[k][0] * i + m[k][1] * j + m[k][2] for k in (0, 1)] for i in (pw, pw + 1) for j in (ph, ph + 1)]
        ab, ac = np.subtract(p[1], p[0]), np.subtract(p[2], p[0])
        for row in range(int(image[0, 0] * 0.5)):
            for column in range(int(image[0, 1] * 0.5)):
                ap = np.array([column, row]) - p[0]
                if ab @ ab > ab @ ap >= 0 and ac @ ac > ac @ ap >= 0:
                    y[r, c, ph, pw] = max(y[r, c, ph, pw], x[int(item), c, row, column])
    return y


def test_turned_regions() -> None:
    text = 'name: "p" type: "RotateROIPooling" bottom: "x" bottom: "r" bottom: "i" top: "y" '
    layer = make(text + "rotate_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }")
    x, image = RANDOM.normal(size=(2, 3, 9, 11)), np.array([[17.0, 21.0, 1.0]])
    rois = np.array([[0, 9.3, 8.2, 9.1, 12.7, 31], [1, 3.1, 4.4, 8.3, 15.2, -52], [1, 18.2, 15.1, 6.6, 9.9, 95]])
    check_gradients(layer, lambda x, r, i: turned(x, r, i), [x, rois, image], [0])
    assert (turned(x, rois, image) > 0).mean() > 0.5
    with pytest.raises(NetError, match=r"regions \(R, 6\)"):
        layer.tops([(2, 3, 9, 11), (3, 5), (1, 3)])


def test_boxes_turned_about_their_center() -> None:
    def nearest(value: float) -> int:
        return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)

    def pooled(x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        """rotate_roi_pooling_layer.cu of crpn."""
        y = np.zeros((len(rois), x.shape[1], 2, 3))
        for r, c, ph, pw in np.ndindex(*y.shape):
            x1, y1, x2, y2 = (nearest(value * 0.5) for value in rois[r, 1:5])
            a, b = math.cos(math.radians(rois[r, 5])), math.sin(math.radians(rois[r, 5]))
            wide, high = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
            cx, cy = int(x1 + wide * 0.5), int(y1 + high * 0.5)
            for h in range(ph * high // 2 + y1, -(-(ph + 1) * high // 2) + y1):
                for w in range(pw * wide // 3 + x1, -(-(pw + 1) * wide // 3) + x1):
                    column = nearest((w - cx) * a + (h - cy) * b) + cx
                    line = nearest(-(w - cx) * b + (h - cy) * a) + cy
                    if 0 <= line < x.shape[2] and 0 <= column < x.shape[3]:
                        y[r, c, ph, pw] = max(y[r, c, ph, pw], x[int(rois[r, 0]), c, line, column])
        return y

    text = 'name: "p" type: "RotateROIPooling" bottom: "x" bottom: "r" top: "y" '
    layer = make(text + "rotate_roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }")
    rois = np.array([[0, 3, 2, 17, 11, 31], [1, -4, 5, 9, 30, -52], [1, 8, 8, 8, 9, 95]])
    check_gradients(layer, pooled, [RANDOM.normal(size=(2, 3, 9, 11)), rois], [0])
    assert layer.stand_in(1, [(2, 3, 9, 11), (4, 6)], RANDOM).shape == (4, 6)
