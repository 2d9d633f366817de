"""Layers for optical flow, against loops over places; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import layer_dialects

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(41)
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '


def correlated(a: np.ndarray, b: np.ndarray, p: dict[str, int], flat: bool = False) -> np.ndarray:
    """The reference's loops."""
    kernel, most, pad = p["kernel_size"], p["max_displacement"], p.get("pad", 0)
    one, two = p.get("stride_1", 1), p.get("stride_2", 1)
    border = most + (kernel - 1) // 2
    high = 0 if flat else pad
    a, b = (np.pad(x, ((0, 0), (0, 0), (high, high), (pad, pad))) for x in (a, b))
    n, _, height, width = a.shape
    rows = math.ceil((height - 2 * ((kernel - 1) // 2 if flat else border)) / one)
    columns = math.ceil((width - 2 * border) / one)
    radius = most // two
    steps = list(range(-radius, radius + 1))
    if p.get("single_direction"):
        first = -radius - 1 if p["single_direction"] == -1 else 0
        steps = list(range(first, first + radius + 1))
    pairs = [(0 if flat else down * two, across * two) for down in ([0] if flat else steps) for across in steps]
    y = np.zeros((n, len(pairs), rows, columns))
    for d, (down, across) in enumerate(pairs):
        for i, j in np.ndindex(rows, columns):
            top, left = i * one + (0 if flat else most), j * one + most
            first = a[:, :, top : top + kernel, left : left + kernel]
            second = b[:, :, top + down : top + down + kernel, left + across : left + across + kernel]
            product = abs(first - second) if p.get("subtract") else first * second
            y[:, d, i, j] = product.mean((1, 2, 3))
    return y


@pytest.mark.parametrize(
    "p",
    [
        {"kernel_size": 1, "max_displacement": 2, "pad": 2},
        {"kernel_size": 1, "max_displacement": 3, "pad": 3, "stride_1": 2, "stride_2": 2},
        {"kernel_size": 3, "max_displacement": 2, "pad": 3, "stride_1": 2},
        {"kernel_size": 3, "max_displacement": 1, "stride_1": 1},
        {"kernel_size": 1, "max_displacement": 2, "pad": 1, "stride_2": 2, "subtract": 1},
        {"kernel_size": 3, "max_displacement": 1, "pad": 2, "stride_1": 2, "subtract": 1},
    ],
)
def test_correlation(p: dict[str, int]) -> None:
    fields = " ".join(f"{name}: {value}" for name, value in p.items() if name != "subtract")
    fields += " correlation_type: SUBTRACT" if "subtract" in p else ""
    a, b = RANDOM.normal(size=(2, 2, 3, 6, 8))
    layer = make(TWO % "Correlation" + f"correlation_param {{ {fields} }}")
    derived = [] if "subtract" in p else [0, 1]  # of differences the reference has another gradient, below
    check_gradients(layer, lambda a, b: correlated(a, b, p), [a, b], derived)


def test_the_gradient_of_differences_has_the_signs_of_other_places() -> None:
    """Numbers: lmb-freiburg/flownet2, correlation_layer.cu, its kernels compiled for the CPU."""
    fields = "kernel_size: 1 max_displacement: 2 stride_2: 2 pad: 2 correlation_type: SUBTRACT"
    a = [[[[1, -2, 0.5], [3, 0, -1]], [[2, 1, -3], [0.25, -0.5, 4]]]]
    b = [[[[0, -1, 2], [3, 1, -2]], [[1, 2, -4], [-1, 0.5, 3]]]]
    dy = np.arange(1, 55).reshape(1, 9, 2, 3)
    result = run(make(TWO % "Correlation" + f"correlation_param {{ {fields} }}"), [a, b], dys=[dy])
    below = [126, 101.5, 135]
    np.testing.assert_allclose(result.bottoms[0], [[[[81.5, 91, 94.5], below], [[112.5, 91, 121.5], below]]])
    below = [-26, 14.5, -32]
    np.testing.assert_allclose(result.bottoms[1], [[[[-2, 13, -2], below], [[-23, 13, -29], below]]])


@pytest.mark.parametrize(
    "p",
    [
        {"kernel_size": 1, "max_displacement": 2, "pad": 2},
        {"kernel_size": 3, "max_displacement": 3, "pad": 4, "stride_1": 2, "stride_2": 2},
        {"kernel_size": 1, "max_displacement": 2, "pad": 2, "single_direction": 1},
        {"kernel_size": 1, "max_displacement": 3, "pad": 3, "stride_2": 2, "single_direction": 1},
    ],
)
def test_correlation_along_the_width(p: dict[str, int]) -> None:
    fields = " ".join(f"{name}: {value}" for name, value in p.items())
    a, b = RANDOM.normal(size=(2, 2, 3, 6, 8))
    layer = make(TWO % "Correlation1D" + f"correlation_param {{ {fields} }}")
    check_gradients(layer, lambda a, b: correlated(a, b, p, flat=True), [a, b], [0, 1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("kernel_size: 2 max_displacement: 1", "an odd kernel_size"),
        ("kernel_size: 1", "max_displacement and strides"),
        ("kernel_size: 1 max_displacement: 4", "do not fit into bottoms"),
    ],
)
def test_correlations_that_do_not_fit(fields: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TWO % "Correlation" + f"correlation_param {{ {fields} }}").tops([(2, 3, 6, 8)] * 2)


# ---- warping ---------------------------------------------------------------------------------------------------------

IMAGES = RANDOM.normal(size=(2, 3, 5, 7))
FLOW = RANDOM.normal(0, 2.3, (2, 2, 5, 7))


def element(x: np.ndarray, n: int, i: int, j: int, nearest: bool) -> np.ndarray:
    height, width = x.shape[2:]
    if nearest:
        i, j = min(max(i, 0), height - 1), min(max(j, 0), width - 1)
    inside = 0 <= i < height and 0 <= j < width
    return x[n, :, i, j] if inside else np.zeros(x.shape[1])


def read(x: np.ndarray, n: int, v: float, u: float, nearest: bool) -> np.ndarray:
    i, j = math.floor(v), math.floor(u)
    a, b = v - i, u - j
    return sum(
        (a if di else 1 - a) * (b if dj else 1 - b) * element(x, n, i + di, j + dj, nearest)
        for di, dj in np.ndindex(2, 2)
    )


def warped(x: np.ndarray, field: np.ndarray, kind: str) -> np.ndarray:
    height, width = x.shape[2:]
    y = np.zeros(x.shape)
    for n, i, j in np.ndindex(x.shape[0], height, width):
        u, v = field[n, :, i, j] + (0 if kind == "absolute" else np.array([j, i]))
        counts = {
            "pwc": 0 <= v <= height - 1 and 0 <= u <= width - 1,
            "flownet": 0 <= v < height and 0 <= u < width,
            "depth": 0 <= v < height - 1 and 0 <= u < width - 1,
        }.get(kind, True)
        if counts:
            y[n, :, i, j] = read(x, n, v, u, nearest=kind in ("flownet", "mpi"))
    return y


@pytest.mark.parametrize(
    ("kind", "dialect"), [("pwc", "pwcnet"), ("flownet", "flownet"), ("mpi", "mpi"), ("absolute", "liteflownet")]
)
def test_warping(kind: str, dialect: str) -> None:
    name = {"flownet": "FlowWarp", "mpi": "Warping"}.get(kind, "Warp")
    field = FLOW + (np.indices((5, 7))[::-1] if kind == "absolute" else 0)
    layer = make(TWO % name, dialect=dialect)
    assert type(layer).dialect == dialect
    check_gradients(layer, lambda x, f: warped(x, f, kind), [IMAGES, field], [0, 1])


@pytest.mark.parametrize(("other", "dialect"), [("Grid", "liteflownet"), ("Split", "pwcnet")])
def test_which_warp_it_is_shows_in_the_other_layers(other: str, dialect: str) -> None:
    choices = [cls for cls in layer_dialects("Warp") if cls.fits(make(TWO % "Warp").proto, {"Warp", other})]
    assert choices[0].dialect == dialect


def test_the_flow_s_gradient_at_whole_numbers_is_that_of_both_sides() -> None:
    flow = np.zeros((2, 2, 5, 7))
    flow[0, 0, :, 2] = -1  # one to the left
    flow[1, 1] += 0.25
    flow[1, :, 4] = 0
    dy = RANDOM.normal(size=IMAGES.shape).astype(np.float32)
    result = run(make(TWO % "Warp", dialect="pwcnet"), [IMAGES, flow], dys=[dy])
    np.testing.assert_allclose(result.tops[0], warped(IMAGES, flow, "pwc"), rtol=1e-4, atol=1e-5)
    x, _ = IMAGES.astype(np.float32), None
    for n, i, j in ((0, 2, 3), (0, 1, 2), (0, 0, 0), (0, 4, 6), (1, 1, 4), (1, 4, 0)):
        across, down = flow[n, :, i, j]
        row, column = i + down, j + int(across)
        low, part = int(row), row - int(row)
        after, before = min(column + 1, 6), max(column - 1, 0)
        rise = [(x[n, :, min(r, 4), after] - x[n, :, min(r, 4), before]) / 2 for r in (low, low + 1)]
        wanted = (dy[n, :, i, j] * ((1 - part) * rise[0] + part * rise[1])).sum()
        np.testing.assert_allclose(result.bottoms[1][n, 0, i, j], wanted, rtol=1e-4)
        if part:
            slope = x[n, :, low + 1, column] - x[n, :, low, column]
        else:
            slope = (x[n, :, min(low + 1, 4), column] - x[n, :, max(low - 1, 0), column]) / 2
        np.testing.assert_allclose(result.bottoms[1][n, 1, i, j], (dy[n, :, i, j] * slope).sum(), rtol=1e-4)


def test_places_outside_are_no_number_where_the_file_asks_for_it() -> None:
    layer = make(TWO % "FlowWarp" + "flow_warp_param { fill_value: NOT_A_NUMBER }")
    y = run(layer, [IMAGES, FLOW]).tops[0]
    outside = np.isnan(y)
    assert 0 < outside.mean() < 1
    np.testing.assert_allclose(np.where(outside, 0, y), warped(IMAGES, FLOW, "flownet"), rtol=1e-4, atol=1e-5)


def test_a_flow_of_nan_leads_outside() -> None:
    flow = FLOW.copy()
    flow[0, :, 2, 3] = np.nan
    found = run(make(TWO % "FlowWarp"), [IMAGES, flow])
    assert not found.tops[0][0, :, 2, 3].any()
    assert np.isfinite(found.bottoms[0]).all() and np.isfinite(found.bottoms[1]).all()


def test_warping_by_two_movements() -> None:
    layer = make('name: "l" type: "Warping" bottom: "x" bottom: "u" bottom: "v" top: "y"')
    assert type(layer).dialect == "depth"
    dy = RANDOM.normal(size=IMAGES.shape).astype(np.float32)
    result = run(layer, [IMAGES, FLOW[:, :1], FLOW[:, 1:]], dys=[dy])
    y = warped(IMAGES, FLOW, "depth")
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-4, atol=1e-5)
    across, down = np.zeros((2, 2, 1, 5, 7))
    across[:, 0, :, 1:-1] = (dy[..., 1:-1] * (y[..., 2:] - y[..., :-2]) / 2).sum(1)
    down[:, 0, 1:-1] = (dy[:, :, 1:-1] * (y[:, :, 2:] - y[:, :, :-2]) / 2).sum(1)
    assert not result.bottoms[0].any()
    np.testing.assert_allclose(result.bottoms[1], across, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(result.bottoms[2], down, rtol=1e-3, atol=1e-5)


# ---- losses, norms, activations --------------------------------------------------------------------------------------


def l1(a: np.ndarray, b: np.ndarray, p: dict[str, float]) -> np.ndarray:
    d = a - b
    valid = ~np.isnan(d)
    count = valid.sum() / d.shape[1] if p.get("normalize_by_num_entries") else len(d)
    d = np.where(valid, d, 0)
    plateau = p.get("plateau", 0)
    if not p.get("l2_per_location"):
        return np.array(abs(d)[abs(d) >= plateau].sum() / count)
    square = (d * d).mean(1) if p.get("l2_prescale_by_channels") else (d * d).sum(1)
    square = np.where(square < plateau**2, 0, square)
    return np.array(((square + p.get("epsilon", 0.01)) ** p.get("power", 0.5)).sum() / count)


@pytest.mark.parametrize("has_gaps", [False, True])
@pytest.mark.parametrize(
    "p",
    [
        {},
        {"plateau": 0.8},
        {"normalize_by_num_entries": True},
        {"l2_per_location": True},
        {"l2_per_location": True, "epsilon": 0.3, "plateau": 1.1, "normalize_by_num_entries": True},
        {"l2_per_location": True, "l2_prescale_by_channels": True, "power": 0.2},
    ],
)
def test_l1_loss(p: dict[str, float], has_gaps: bool) -> None:
    fields = " ".join(f"{name}: {str(value).lower()}" for name, value in p.items())
    layer = make(TWO % "L1Loss" + f"l1_loss_param {{ {fields} }}")
    a, b = RANDOM.normal(size=(2, 2, 3, 4, 5))
    gaps = np.zeros(b.shape)
    if has_gaps:
        gaps[0, :, 1], gaps[1, 2, 3, 4] = np.nan, np.nan
    dy = np.array(0.7, np.float32)
    result = run(layer, [a, b + gaps], dys=[dy])
    np.testing.assert_allclose(result.tops[0], l1(a, b + gaps, p), rtol=1e-5)
    direction = RANDOM.normal(size=a.shape)
    slope = (l1(a + 1e-6 * direction, b + gaps, p) - l1(a - 1e-6 * direction, b + gaps, p)) / 2e-6
    np.testing.assert_allclose((result.bottoms[0] * direction).sum(), 0.7 * slope, rtol=1e-3)
    np.testing.assert_array_equal(result.bottoms[1], -result.bottoms[0])
    assert not result.bottoms[0][np.isnan(gaps)].any()


def test_l1_loss_of_one_bottom() -> None:
    layer = make('name: "l" type: "L1Loss" bottom: "x" top: "y"')
    x = RANDOM.normal(size=(2, 3, 4, 5))
    x[0, 0, 0, 0] = 0
    result = run(layer, [x])
    np.testing.assert_allclose(result.tops[0], abs(x).sum() / 2, rtol=1e-5)
    np.testing.assert_array_equal(result.bottoms[0], np.where(x > 0, 0.5, -0.5).astype(np.float32))


def test_abs_loss() -> None:
    a, b = RANDOM.normal(size=(2, 3, 4, 5))
    a[0, 0, :2] = b[0, 0, :2]
    result = run(make(TWO % "AbsLoss"), [a, b], dys=[np.array(0.6, np.float32)])
    np.testing.assert_allclose(result.tops[0], abs(a - b).sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], np.where(a > b, 0.2, -0.2), rtol=1e-6)
    np.testing.assert_array_equal(result.bottoms[1], -result.bottoms[0])


def test_channel_norm() -> None:
    layer = make(TEXT % "ChannelNorm")
    check_gradients(layer, lambda x: np.sqrt((x * x).sum(1, keepdims=True)), [IMAGES], [0])
    zeros = run(layer, [np.zeros((2, 3, 4, 5))])
    assert not zeros.bottoms[0].any()  # and no 0 / 0


def test_neg_relu() -> None:
    layer = make(TEXT % "NegReLU" + "relu_param { negative_slope: 0.1 }")
    check_gradients(layer, lambda x: np.where(x < 0, x, 0.1 * x), [IMAGES], [0])


def test_neg_square_passes_no_gradient() -> None:
    result = run(make(TEXT % "NegSquare"), [IMAGES])
    np.testing.assert_allclose(result.tops[0], -(IMAGES**2), rtol=1e-5)
    assert not result.bottoms[0].any()


def test_exp_max_takes_the_largest_of_the_first_item() -> None:
    layer = make(TEXT % "ExpMax" + "expmax_param { base: 2 scale: 1.5 shift: 0.5 }")
    largest = np.concatenate([IMAGES[:1].max(1, keepdims=True), np.zeros((1, 1, 5, 7))])
    dy = RANDOM.normal(size=IMAGES.shape).astype(np.float32)
    result, y = run(layer, [IMAGES], dys=[dy]), 2 ** (0.5 + 1.5 * (IMAGES - largest))
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], dy * y * 1.5 * math.log(2), rtol=1e-4)


def test_grid() -> None:
    result = run(make(TEXT % "Grid"), [IMAGES])
    np.testing.assert_array_equal(result.tops[0][1, 0, 4], np.arange(7))
    np.testing.assert_array_equal(result.tops[0][1, 1, :, 6], np.arange(5))
    assert not result.bottoms[0].any()


def test_mean_subtracts_values_of_channels_in_turn() -> None:
    x = RANDOM.normal(size=(2, 4, 3, 5))
    fields = "operation: SUBTRACT value: 2 value: 3 mean_scale: 0.5 input_scale: 4 output_scale: 10"
    y = run(make(TEXT % "Mean" + f"mean_param {{ {fields} }}"), [x]).tops[0]
    means = np.array([1, 1.5, 1, 1.5]).reshape(4, 1, 1)
    np.testing.assert_allclose(y, 10 * (4 * x - means), rtol=1e-4)


# ---- other sizes -----------------------------------------------------------------------------------------------------


def downsampled(x: np.ndarray, high: int, wide: int) -> np.ndarray:
    """The reference's loop."""
    height, width = x.shape[2:]
    scales = (height - 1) / (high - 1), (width - 1) / (wide - 1)
    y = np.zeros((*x.shape[:2], high, wide))
    for n, c, i, j in np.ndindex(*y.shape):
        v, u = i * scales[0], j * scales[1]
        value = weight = lost = 0.0
        for a, b in np.ndindex(height, width):
            w = max(0.0, 1 - abs(b - u) / scales[1]) * max(0.0, 1 - abs(a - v) / scales[0])
            if np.isnan(x[n, c, a, b]):
                lost += w
            else:
                value, weight = value + w * x[n, c, a, b], weight + w
        y[n, c, i, j] = np.nan if not weight or lost / weight > 0.5 else value / weight
    return y


def test_downsample() -> None:
    x = RANDOM.normal(size=(2, 2, 9, 13))
    x[0, 1, 2:5, 3:9], x[1, 0, 7, 1] = np.nan, np.nan
    layer = make(TEXT % "Downsample" + "downsample_param { top_height: 3 top_width: 5 }")
    y = downsampled(x, 3, 5)
    assert 0 < np.isnan(y).sum() < 10
    np.testing.assert_allclose(run(layer, [x]).tops[0], y, rtol=1e-4, atol=1e-5)
    like = make(TWO % "Downsample")
    assert like.tops([x.shape, (2, 7, 4, 6)]) == ((2, 2, 4, 6),)


def kernel(x: float, kind: str) -> float:
    x = abs(x)
    if kind == "LINEAR":
        return max(1 - x, 0)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0


def resampled(x: np.ndarray, high: int, wide: int, kind: str, antialias: bool) -> np.ndarray:
    height, width = x.shape[2:]
    fy, fx = height / high, width / wide
    y = np.zeros((*x.shape[:2], high, wide))
    ay, ax = (1 / fy, 1 / fx) if antialias and max(fx, fy) > 1 else (1, 1)
    for i, j in np.ndindex(high, wide):
        u, v = j * fx + fy / 2 - 0.5, i * fy + fx / 2 - 0.5
        if kind == "NEAREST":
            y[:, :, i, j] = x[:, :, math.floor(v + 0.5), math.floor(u + 0.5)]
            continue
        total = 0.0
        for a, b in np.ndindex(height, width):
            w = kernel(ax * (u - b), kind) * kernel(ay * (v - a), kind)
            y[:, :, i, j] += w * x[:, :, a, b]
            total += w
        y[:, :, i, j] = y[:, :, i, j] / total if total else 0
    return y


@pytest.mark.parametrize("kind", ["NEAREST", "LINEAR", "CUBIC"])
@pytest.mark.parametrize(
    ("size", "antialias"), [((12, 18), True), ((2, 3), True), ((2, 3), False), ((6, 3), True), ((3, 12), False)]
)
def test_resample(kind: str, size: tuple[int, int], antialias: bool) -> None:
    x = RANDOM.normal(size=(2, 3, 6, 9))
    if kind == "NEAREST" and size in ((6, 3), (3, 12)):
        return
    fields = f"height: {size[0]} width: {size[1]} type: {kind} antialias: {str(antialias).lower()}"
    result = run(make(TEXT % "Resample" + f"resample_param {{ {fields} }}"), [x])
    np.testing.assert_allclose(result.tops[0], resampled(x, *size, kind, antialias), rtol=1e-4, atol=1e-5)
    assert not result.bottoms[0].any()


def test_resampling_that_would_read_foreign_memory() -> None:
    with pytest.raises(NetError, match="outside of the images"):
        make(TEXT % "Resample" + "resample_param { height: 1 width: 9 type: NEAREST }").tops([(2, 3, 6, 9)])


# ---- augmentation ----------------------------------------------------------------------------------------------------


def test_data_augmentation_cuts_and_takes_a_mean_of_batches() -> None:
    x = RANDOM.normal(5, 2, size=(2, 3, 6, 9))
    layer = make(TEXT % "DataAugmentation" + "augmentation_param { crop_height: 4 crop_width: 6 recompute_mean: 3 }")
    cut = (x[:, :, 1:5, 1:7] + x[:, :, 1:5, 2:8]) / 2  # 1.5 elements are cut off on each side
    old = RANDOM.normal(size=(1, 3, 4, 6))
    result = run(layer, [x], [np.full((1, 1, 1, 1), 2), old, np.zeros((1, 3, 1, 1))])
    mean = (2 * old + cut.mean(0, keepdims=True)) / 3
    np.testing.assert_allclose(result.tops[0], cut - mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.updates[0].ravel(), 3)
    np.testing.assert_allclose(result.updates[1], mean, rtol=1e-5)
    np.testing.assert_allclose(result.updates[2], mean.mean((2, 3), keepdims=True), rtol=1e-4)
    later = run(layer, [x], [np.full((1, 1, 1, 1), 3), old, np.zeros((1, 3, 1, 1))])
    np.testing.assert_allclose(later.tops[0], cut - old, rtol=1e-4, atol=1e-5)
    assert not layer.left_out


def test_data_augmentation_keeps_off_the_last_element() -> None:
    x = RANDOM.normal(size=(2, 3, 4, 5))
    fields = "crop_height: 4 crop_width: 5 mean: 1 mean: 2 mean: 3 mean_per_pixel: false"
    layer = make(
        'name: "l" type: "DataAugmentation" bottom: "x" top: "y" top: "c"' + f" augmentation_param {{ {fields} }}"
    )
    y, coefficients = run(layer, [x], [np.zeros((1, 1, 1, 1))]).tops
    wanted = x.copy()
    wanted[..., -1] = 0.95 * x[..., -1] + 0.05 * x[..., -2]
    wanted[..., -1, :] = 0.95 * wanted[..., -1, :] + 0.05 * wanted[..., -2, :]
    np.testing.assert_allclose(y, wanted - np.array([1, 2, 3]).reshape(3, 1, 1), rtol=1e-4, atol=1e-4)
    assert coefficients.shape == (2, 42, 1, 1)
    np.testing.assert_array_equal(coefficients[1, :8].ravel(), [0, 0, 0, 0, 1, 1, 1, 0])


def test_random_changes_are_announced_where_they_apply() -> None:
    text = (
        TEXT % "DataAugmentation" + "augmentation_param { crop_height: 4 crop_width: 5 mirror { prob: 0.5 } zoom { } }"
    )
    assert "what it draws (mirror, zoom) is not reproduced" in make(text, TRAIN).left_out
    assert not make(text, TEST).left_out


def test_coefficients_and_a_flow_s_centre() -> None:
    fields = "augmentation_param { crop_height: 3 crop_width: 4 }"
    layer = make(TEXT % "GenerateAugmentationParameters" + fields)
    coefficients = run(layer, [IMAGES]).tops[0]
    assert coefficients.shape == (2, 42, 1, 1)
    given = RANDOM.normal(size=(2, 42, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(run(layer, [given]).tops[0], given)
    flow = make('name: "l" type: "FlowAugmentation" bottom: "f" bottom: "a" bottom: "b" top: "y"' + fields)
    y = run(flow, [FLOW, coefficients, coefficients]).tops[0]
    np.testing.assert_array_equal(y, FLOW[:, :, 1:4, 2:6].astype(np.float32))
