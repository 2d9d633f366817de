"""Pooling over regions, and convolution with moved taps, against loops over elements."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(0, 1, (2, 3, 6, 9))
ROIS = np.array([[0, 3, 5, 40, 21], [1, 0, 0, 71, 47], [1, 30, 12, 33, 14], [0, 60, 40, 90, 70]], np.float64)
TEXT = 'name: "p" type: "%s" bottom: "x" bottom: "r" top: "y" '


def nearest(value: float) -> int:
    return math.floor(abs(value) + 0.5) * (1 if value >= 0 else -1)


def pooled(x: np.ndarray, rois: np.ndarray, high: int, wide: int, scale: float, pad: float = 0) -> np.ndarray:
    top = np.zeros((len(rois), x.shape[1], high, wide))
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        dx, dy = (x2 - x1 + 1) * pad, (y2 - y1 + 1) * pad
        left, upper, right, lower = (nearest(v * scale) for v in (x1 - dx, y1 - dy, x2 + dx, y2 + dy))
        tall, broad = max(lower - upper + 1, 1), max(right - left + 1, 1)
        for i, j in np.ndindex(high, wide):
            rows = range(max(upper + i * tall // high, 0), min(upper + -(-(i + 1) * tall // high), x.shape[2]))
            columns = range(max(left + j * broad // wide, 0), min(left + -(-(j + 1) * broad // wide), x.shape[3]))
            values = [x[int(item), :, row, column] for row in rows for column in columns]
            top[r, :, i, j] = np.max(values, 0) if values else 0
    return top


@pytest.mark.parametrize("pad", [0, 0.25])
def test_roi_pooling_takes_the_largest_of_each_bin(pad: float) -> None:
    text = (
        TEXT % "ROIPooling" + f"roi_pooling_param {{ pooled_h: 2 pooled_w: 4 spatial_scale: 0.125 pad_ratio: {pad} }}"
    )
    check_gradients(make(text), lambda x, r: pooled(x, r, 2, 4, 0.125, pad), [X, ROIS], [0])


def test_regions_get_no_gradient_and_must_be_of_the_batch() -> None:
    text = TEXT % "ROIPooling" + "roi_pooling_param { pooled_h: 2 pooled_w: 2 }"
    assert not run(make(text), [X, ROIS]).bottoms[1].any()
    with pytest.raises(NetError, match="regions of items 0 to 1, found item 0 or 2"):
        run(make(text), [X, np.array([[0, 1, 1, 2, 2], [2, 1, 1, 2, 2]])])
    with pytest.raises(NetError, match=r"features \(N, C, H, W\) and regions \(R, 5\), found shapes .* and \(3, 4\)"):
        make(text).tops([X.shape, (3, 4)])


@pytest.mark.parametrize(("kind", "param"), [("ROIPooling", "roi_pooling_param"), ("ROIAlign", "roi_align_param")])
def test_regions_of_four_numbers_are_boxes_of_the_first_image(kind: str, param: str) -> None:
    text = TEXT % kind + f"{param} {{ pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }}"
    whole, short = make(text), make(text)
    rois = ROIS.copy()
    rois[:, 0] = 0
    assert "assumed to be boxes of image 0" in short.departs([X.shape, (4, 4)])
    assert not whole.departs([X.shape, ROIS.shape])
    short.is_forks = True
    np.testing.assert_array_equal(run(short, [X, rois[:, 1:]]).tops[0], run(whole, [X, rois]).tops[0])
    stand_in = short.stand_in(1, [X.shape, (4, 4)], np.random.default_rng(1))
    assert stand_in is not None and stand_in.shape == (4, 4) and (stand_in[:, 2] > stand_in[:, 0]).all()


def interpolated(x: np.ndarray, y: float, z: float) -> np.ndarray:
    """Return x [C, H, W] at a point within it."""
    row, column = min(int(y), x.shape[1] - 1), min(int(z), x.shape[2] - 1)
    below, right = min(row + 1, x.shape[1] - 1), min(column + 1, x.shape[2] - 1)
    a, b = y - row, z - column
    upper = (1 - b) * x[:, row, column] + b * x[:, row, right]
    return (1 - a) * upper + a * ((1 - b) * x[:, below, column] + b * x[:, below, right])


def aligned_grid(x: np.ndarray, rois: np.ndarray, high: int, wide: int, scale: float, pad: float) -> np.ndarray:
    top = np.zeros((len(rois), x.shape[1], high + 1, wide + 1))
    height, width = x.shape[2:]
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        dx, dy = (x2 - x1 + 1) * pad, (y2 - y1 + 1) * pad
        left, upper, right, lower = ((v * scale - 0.5) for v in (x1 - dx, y1 - dy, x2 + dx, y2 + dy))
        for i, j in np.ndindex(high + 1, wide + 1):
            y, z = upper + i * (lower - upper) / high, left + j * (right - left) / wide
            if -0.5 <= y <= height - 0.5 and -0.5 <= z <= width - 0.5:
                top[r, :, i, j] = interpolated(x[int(item)], min(max(y, 0), height - 1), min(max(z, 0), width - 1))
    return top


def test_roi_align_of_mscnn_samples_the_corners_of_the_bins() -> None:
    settings = "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 pad_ratio: 0.1 }"
    layer = make(TEXT % "ROIAlign" + settings)
    assert layer.dialect == "cascade"
    assert layer.tops([X.shape, ROIS.shape]) == ((4, 3, 3, 4),)
    check_gradients(layer, lambda x, r: aligned_grid(x, r, 2, 3, 0.125, 0.1), [X, ROIS], [0])


def aligned(x: np.ndarray, rois: np.ndarray, high: int, wide: int, scale: float) -> np.ndarray:
    """The loops of Mask R-CNN's code, over the memory of x."""
    memory, (_, channels, height, width) = np.append(x.ravel(), np.zeros(x.shape[3] + 1)), x.shape
    top = np.zeros((len(rois), channels, high, wide))
    for (r, (item, *corners)), c in itertools.product(enumerate(rois), range(channels)):
        x1, y1, x2, y2 = (corner * scale for corner in corners)
        tall, broad = max(y2 - y1 + 1, 1) / high, max(x2 - x1 + 1, 1) / wide
        for i, j in np.ndindex(high, wide):
            ys = [min(max(y1 + tall * k, 0), height) for k in (i, i + 1)]
            xs = [min(max(x1 + broad * k, 0), width) for k in (j, j + 1)]
            best = 0.0 if ys[1] <= ys[0] or xs[1] <= xs[0] else -np.inf
            lines, columns = (range(math.ceil(a), math.floor(b) + 1) for a, b in (ys, xs))
            seen = list(itertools.product(lines, columns))[:4]
            for px, py in itertools.product((-0.5, 0.5), (-0.5, 0.5)):
                total = 0.0
                for row, column in seen:
                    v = min(max(2 * (row - y1) / (y2 - y1) - 1, -1), 1)
                    u = min(max(2 * (column - x1) / (x2 - x1) - 1, -1), 1)
                    value = memory[((int(item) * channels + c) * height + row) * width + column]
                    total += max(0, 1 - abs(px - u)) * max(0, 1 - abs(py - v)) * value
                best = max(best, total)
            top[r, c, i, j] = best
    return top


def test_roi_align_of_mask_rcnn_is_the_largest_of_four_sums() -> None:
    layer = make(TEXT % "ROIAlign" + "roi_align_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }")
    assert layer.dialect == "maskrcnn"
    inner = np.array([[0, 4, 5, 29, 37], [1, 9, 2, 30, 39]], float)  # with the last of its size
    full = np.concatenate([ROIS, inner, [[1, 20, 10, 200, 90]]])
    result = run(layer, [X, full])
    np.testing.assert_allclose(result.tops[0], aligned(X, full, 2, 3, 0.125), rtol=1e-4, atol=1e-5)


def test_gradients_of_roi_align_of_mask_rcnn_stay_within_the_region() -> None:
    layer = make(TEXT % "ROIAlign" + "roi_align_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.125 }")
    roi = np.array([[0, 8, 8, 24, 24]], float)  # elements 1 to 3; bins reach up to 4
    x = np.abs(X) + 0.1
    result = run(layer, [x, roi])
    reached = np.argwhere(result.bottoms[0][0].any(0))
    assert reached.size and reached.min() >= 1 and reached.max() <= 3
    assert not result.bottoms[0][1].any()
    moved = x.copy()
    moved[0, :, 2, 2] += 1e-3
    slope = (aligned(moved, roi, 2, 2, 0.125) - aligned(x, roi, 2, 2, 0.125)).sum() / 1e-3
    np.testing.assert_allclose(result.bottoms[0][0, :, 2, 2].sum(), slope, rtol=1e-2)


def at_points(x: np.ndarray, rois: np.ndarray, cubic: bool, points: list[tuple[float, float]]) -> np.ndarray:
    """Two by three bins at a scale of 1/8, a margin of a tenth."""

    def weight(d: float) -> float:
        d = abs(d)
        if not cubic:
            return max(1 - d, 0)
        return 1 - 2 * d**2 + d**3 if d < 1 else 4 - 8 * d + 5 * d**2 - d**3 if d < 2 else 0

    _, channels, height, width = x.shape
    top = np.zeros((len(rois), channels, 2, 3))
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        dx, dy = (x2 - x1 + 1) / 10, (y2 - y1 + 1) / 10
        left, upper = max((x1 - dx) / 8, 0), max((y1 - dy) / 8, 0)
        right, lower = min((x2 + dx) / 8, width * 8 - 1), min((y2 + dy) / 8, height * 8 - 1)
        broad, tall = max(right - left + 1, 1) / 3, max(lower - upper + 1, 1) / 2
        for c, i, j in np.ndindex(channels, 2, 3):
            found = []
            for oy, ox in points:
                y = min(max(upper + (i + oy) * tall, 0), height - 1)
                z = min(max(left + (j + ox) * broad, 0), width - 1)
                total = 0.0
                for v in range(math.floor(y) - cubic, math.floor(y) + 2 + cubic):
                    for u in range(math.floor(z) - cubic, math.floor(z) + 2 + cubic):
                        is_out = not cubic and (v >= height or u >= width)  # its weight is 0, and so are the others'
                        pixel = 0 if is_out else x[int(item), c, min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
                        total += weight(y - v) * weight(z - u) * pixel
                lost = not cubic and (y >= height - 1 or z >= width - 1)
                found.append(0.0 if lost else total)
            top[r, c, i, j] = max(found)
    return top


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_roi_align_of_py_mask_rcnn_is_the_largest_point(cubic: bool, several: bool) -> None:
    fields = "pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 pad_ratio: 0.1"
    fields += f" bi_type: {int(cubic)} is_multi_interpolate: {str(several).lower()}"
    layer = make(TEXT % "ROIAlign" + f"roi_pooling_param {{ {fields} }}")
    assert layer.dialect == "mask-rcnn"
    at = (0.25, 0.75) if several else (0.5,)
    points = [(y, x) for y in at for x in at]
    check_gradients(layer, lambda x, r: at_points(x, r, cubic, points), [X, ROIS], [0])


def test_the_first_of_equal_points_gets_the_gradient() -> None:
    fields = "pooled_h: 1 pooled_w: 1 is_multi_interpolate: true bi_type: 0"
    layer = make(TEXT % "ROIAlign" + f"roi_pooling_param {{ {fields} }}")
    result = run(layer, [np.zeros((1, 1, 6, 9)), np.array([[0, 1, 1, 2, 2.0]])])
    wanted = np.zeros((6, 9))
    wanted[1:3, 1:3] = 0.25  # of the point (1.5, 1.5) of a bin from 1 to 3
    np.testing.assert_allclose(result.bottoms[0][0, 0], wanted)


Y = RANDOM.normal(0, 1, (2, 2 * 9, 6, 7))


def position_sensitive(x: np.ndarray, rois: np.ndarray, out: int, group: int, scale: float) -> np.ndarray:
    top = np.zeros((len(rois), out, group, group))
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        left, upper = nearest(x1) * scale, nearest(y1) * scale
        broad = max((nearest(x2) + 1) * scale - left, 0.1) / group
        tall = max((nearest(y2) + 1) * scale - upper, 0.1) / group
        for d, i, j in np.ndindex(out, group, group):
            rows = range(max(math.floor(upper + i * tall), 0), min(math.ceil(upper + (i + 1) * tall), x.shape[2]))
            columns = range(max(math.floor(left + j * broad), 0), min(math.ceil(left + (j + 1) * broad), x.shape[3]))
            values = [x[int(item), (d * group + i) * group + j, row, column] for row in rows for column in columns]
            top[r, d, i, j] = np.mean(values) if values else 0
    return top


def test_psroi_pooling_reads_channels_of_its_own_in_each_bin() -> None:
    settings = "psroi_pooling_param { output_dim: 2 group_size: 3 spatial_scale: 0.125 }"
    layer = make(TEXT % "PSROIPooling" + settings)
    check_gradients(layer, lambda x, r: position_sensitive(x, r, 2, 3, 0.125), [Y, ROIS], [0])
    with pytest.raises(NetError, match=r"output_dim · group_size² = 18 channels, found 17"):
        layer.tops([(1, 17, 4, 5), (2, 5)])


def shifted(
    x: np.ndarray, rois: np.ndarray, t: np.ndarray | None, out: int, group: int, size: int, samples: int
) -> np.ndarray:
    top = np.zeros((len(rois), out, size, size))
    height, width = x.shape[2:]
    classes = 1 if t is None else t.shape[1] // 2
    for r, (item, x1, y1, x2, y2) in enumerate(rois):
        left, upper = nearest(x1) * 0.125 - 0.5, nearest(y1) * 0.125 - 0.5
        broad = max((nearest(x2) + 1) * 0.125 - 0.5 - left, 0.1)
        tall = max((nearest(y2) + 1) * 0.125 - 0.5 - upper, 0.1)
        for d, i, j in np.ndindex(out, size, size):
            part = (i * group // size, j * group // size)
            plane = x[int(item), (d * group + part[0]) * group + part[1]][None]
            shift = (
                (0, 0)
                if t is None
                else t[r, 2 * (d // (out // classes)) : 2 * (d // (out // classes)) + 2, i // 2, j // 2]
            )
            values = []
            for k, m in np.ndindex(samples, samples):
                z = left + broad * (j / size + m / (size * samples) + 0.1 * shift[0])
                y = upper + tall * (i / size + k / (size * samples) + 0.1 * shift[1])
                if -0.5 <= y <= height - 0.5 and -0.5 <= z <= width - 0.5:
                    values.append(interpolated(plane, min(max(y, 0), height - 1), min(max(z, 0), width - 1))[0])
            top[r, d, i, j] = np.mean(values) if values else 0
    return top


@pytest.mark.parametrize("classes", [1, 2, 0])
def test_deformable_psroi_pooling_moves_its_bins(classes: int) -> None:
    x, settings = (
        RANDOM.normal(0, 1, (2, 4 * 4, 6, 7)),
        "output_dim: 4 group_size: 2 spatial_scale: 0.125 pooled_size: 4",
    )
    text = TEXT % "DeformablePSROIPooling" + ('bottom: "t" ' if classes else "")
    text += f"deformable_psroi_pooling_param {{ {settings} sample_per_part: 2 trans_std: 0.1 part_size: 2 }}"
    if not classes:
        layer = make(text.replace("trans_std", "no_trans: true trans_std"))
        check_gradients(layer, lambda x, r: shifted(x, r, None, 4, 2, 4, 2), [x, ROIS], [0])
        return
    t = RANDOM.normal(0, 0.5, (4, 2 * classes, 2, 2))
    check_gradients(make(text), lambda x, r, t: shifted(x, r, t, 4, 2, 4, 2), [x, ROIS, t], [0, 2])


def moved(x: np.ndarray, offsets: np.ndarray, w: np.ndarray, b: np.ndarray, groups: int, group: int) -> np.ndarray:
    n, channels, height, width = x.shape
    rows, columns = offsets.shape[2:]
    top = np.zeros((n, len(w), rows, columns)) + b[:, None, None]
    for item, c, i, j, k in np.ndindex(n, channels, rows, columns, 6):
        place = (c // (channels // groups) * 6 + k) * 2
        y = 2 * i - 1 + k // 3 + offsets[item, place, i, j]
        z = 2 * j - 1 + k % 3 + offsets[item, place + 1, i, j]
        if not (0 <= y < height and 0 <= z < width):
            continue
        value = interpolated(x[item, c][None], min(y, height - 1), min(z, width - 1))[0]
        per = channels // group
        outputs = slice(c // per * (len(w) // group), (c // per + 1) * (len(w) // group))
        top[item, outputs, i, j] += w[outputs, c % per, k // 3, k % 3] * value
    return top


def test_deformable_convolution_moves_each_tap() -> None:
    random = np.random.default_rng(3)
    x, offsets = random.normal(size=(2, 4, 5, 7)), random.normal(0, 0.6, (2, 2 * 2 * 6, 3, 4))
    w, b = random.normal(size=(6, 2, 2, 3)), random.normal(size=6)
    text = """name: "d" type: "DeformableConvolution" bottom: "x" bottom: "o" top: "y" deformable_convolution_param {
      num_output: 6 kernel_h: 2 kernel_w: 3 stride: 2 pad: 1 group: 2 deformable_group: 2
      weight_filler { type: "xavier" } }"""
    layer = make(text)
    assert layer.macs([x.shape, offsets.shape]) == 2 * 6 * 3 * 4 * 2 * 6
    check_gradients(layer, lambda *a: moved(*a, 2, 2), [x, offsets, w, b], [0, 1, 2, 3], params=2)


def test_deformable_convolution_without_offsets_is_a_convolution() -> None:
    text = """name: "d" type: "%s" bottom: "x" %s top: "y" %s { num_output: 5 kernel_size: 3 pad: 1 dilation: 2 %s }"""
    x, w, b = X, RANDOM.normal(size=(5, 3, 3, 3)), RANDOM.normal(size=5)
    deformable = make(
        text % ("DeformableConvolution", 'bottom: "o"', "deformable_convolution_param", "deformable_group: 1")
    )
    plain = make(text % ("Convolution", "", "convolution_param", ""))
    found = run(deformable, [x, np.zeros((2, 18, 4, 7))], [w, b])
    expected = run(plain, [x], [w, b])
    np.testing.assert_allclose(found.tops[0], expected.tops[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], expected.bottoms[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(NetError, match=r"offsets of shape \(2, 18, 4, 7\), found \(2, 9, 4, 7\)"):
        deformable.tops([x.shape, (2, 9, 4, 7)])


def test_regions_may_have_further_axes_of_one_element() -> None:
    layer = make(
        'name: "l" type: "ROIPooling" bottom: "x" bottom: "r" top: "y" roi_pooling_param { pooled_h: 2 pooled_w: 3 }'
    )
    assert layer.tops([(2, 3, 9, 7), (4, 1, 1, 5)]) == layer.tops([(2, 3, 9, 7), (4, 5)]) == ((4, 3, 2, 3),)
