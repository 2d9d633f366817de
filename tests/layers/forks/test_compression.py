"""Layers of a codec for images, against loops as the reference has them; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Stream

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(31)
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '


def random(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape)


def test_const_scale() -> None:
    layer = make(ONE % "ConstScale" + "const_scale_param { scale: 3 bias: -0.5 }")
    check_gradients(layer, lambda x: 3 * x - 0.5, [random(2, 3, 4, 5)], [0])


def widened(x: np.ndarray, side: int, group: int, diagonal: bool) -> np.ndarray:
    """dtow_layer.cpp, dtow_zig_cpu_kernel and the plain loop."""
    n, c, h, w = x.shape
    steps = [(i, d - i) for d in range(2 * side - 1) for i in range(side) if 0 <= d - i < side]
    places = steps if diagonal else [(k // side, k % side) for k in range(side * side)]
    y = np.empty((n, c // side**2, h * side, w * side))
    for channel in range(c):
        outer, rest = divmod(channel, side * side * group)
        row, column = places[rest // group]
        y[:, outer * group + rest % group, row::side, column::side] = x[:, channel]
    return y


@pytest.mark.parametrize(("method", "group"), [("MDTOW", 1), ("LDTOW", 1), ("LDTOW", 2)])
def test_depth_becomes_width_and_back(method: str, group: int) -> None:
    x, text = random(2, 36, 4, 5), f"dtow_param {{ psize: 3 ngroup: {group} method: "
    layer = make(ONE % "Dtow" + f"{text}{method} }}")
    check_gradients(layer, lambda x: widened(x, 3, group, method == "LDTOW"), [x], [0])
    back = make(ONE % "Dtow" + f"{text}{'MWTOD' if method == 'MDTOW' else 'LWTOD'} }}")
    np.testing.assert_array_equal(run(back, [widened(x, 3, group, method == "LDTOW")]).tops[0], x.astype(np.float32))
    with pytest.raises(NetError, match="multiple of"):
        layer.tops([(2, 35, 4, 5)])


def test_tiles_are_squares_of_channels() -> None:
    layer = make(ONE % "Tiling" + "tiling_param { tile_dim: 3 }")
    check_gradients(layer, lambda x: widened(x, 3, 1, False), [random(2, 18, 4, 5)], [0])
    with pytest.raises(NetError, match="positive side"):
        make(ONE % "Tiling").tops([(2, 18, 4, 5)])


def test_squares_become_channels() -> None:
    x = random(2, 18, 4, 5)
    layer = make(ONE % "Enlarge" + "enlarge_param { scale: 3 }")
    found = run(layer, [widened(x, 3, 1, False)], dys=[x.astype(np.float32)])
    np.testing.assert_array_equal(found.tops[0], x.astype(np.float32))
    np.testing.assert_array_equal(found.bottoms[0], widened(x, 3, 1, False).astype(np.float32))


def test_places_behind_the_last_square_are_left_out() -> None:
    x = random(2, 18, 4, 5)
    longer = np.pad(widened(x, 3, 1, False), ((0, 0), (0, 0), (0, 2), (0, 1)), constant_values=9)
    found = run(make(ONE % "Enlarge" + "enlarge_param { scale: 3 }"), [longer], dys=[np.ones(x.shape, np.float32)])
    np.testing.assert_array_equal(found.tops[0], x.astype(np.float32))
    np.testing.assert_array_equal(found.bottoms[0], (longer != 9).astype(np.float32))


def test_rows_of_channels_and_back() -> None:
    def rows(x: np.ndarray) -> np.ndarray:
        y, (_, c, h, w) = np.empty((x.size // 2, 2)), x.shape
        for i, value in enumerate(x.ravel()):
            place, channel, item = i % (h * w), i // (h * w) % c, i // (h * w * c)
            y[(item * (c // 2) + channel // 2) * h * w + place, channel % 2] = value
        return y

    x = random(3, 6, 4, 5)
    check_gradients(make(ONE % "MTranspose" + "mtranspose_param { groups: 2 }"), rows, [x], [0])
    back = make(ONE % "MTranspose" + "mtranspose_param { groups: 2 inverse: true channel: 6 height: 4 width: 5 }")
    found = run(back, [rows(x)])
    np.testing.assert_array_equal(found.tops[0], x.astype(np.float32))
    assert not found.bottoms[0].any()


def test_first_channels() -> None:
    layer = make(ONE % "SplitChannel" + "memory_data_param { channels: 2 }")
    check_gradients(layer, lambda x: x[:, :2], [random(2, 5, 3, 4)], [0])


@pytest.mark.parametrize("count", [5, 2])
def test_mask_of_the_first_channels(count: int) -> None:
    layer = make(ONE % "DynamicMaskData")
    assert layer.params([(2, 5, 3, 4)])[0].filler.value == 5
    found = run(layer, [random(2, 5, 3, 4)], [np.full((1, 1, 1, 1), count)])
    np.testing.assert_array_equal(found.tops[0], np.broadcast_to(np.arange(5)[:, None, None] < count, (2, 5, 3, 4)))
    assert not found.bottoms[0].any()


def quantized(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ml_quant_layer.cpp, ml_quant_single_cpu_forward_kernel: the value, and the level that it is taken for."""
    y, taken = np.empty(x.shape), np.empty(x.shape, int)
    for at in np.ndindex(*x.shape):
        row = weights[0, at[1], 0]
        steps = [row[0], *np.exp(row[1:])]
        rest, level = x[at] - steps[0], 0
        if rest >= 0:
            for level in range(1, len(steps)):
                rest -= steps[level]
                if rest < 0:
                    break
            if 2 * rest + steps[level] < 0:
                rest, level = rest + steps[level], level - 1
        y[at], taken[at] = x[at] - rest, level
    return y, taken


def test_quantization_learns_its_levels() -> None:
    text = 'name: "l" type: "MLQuant" bottom: "x" top: "y" top: "i" mlquant_param { groups: 4 }'
    layer, x = make(text), RANDOM.uniform(-0.5, 2, (2, 3, 5, 4))
    levels, settings, counts = layer.draw_params(Stream(1), layer.params([x.shape]), [x.shape])
    np.testing.assert_allclose(
        np.cumsum([levels[0, 0, 0, 0], *np.exp(levels[0, 0, 0, 1:])]), [0.125, 0.375, 0.625, 0.875]
    )
    levels, counts = levels + random(*levels.shape) / 3, np.abs(random(*levels.shape))
    dys = [random(*x.shape).astype(np.float32) for _ in range(2)]
    found = run(layer, [x], [levels, settings, counts], dys)
    y, taken = quantized(x, levels)
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.tops[1], taken)
    np.testing.assert_allclose(found.bottoms[0], dys[0] + dys[1], rtol=1e-6)
    slope, hits = np.zeros(levels.shape), np.zeros(levels.shape)
    for at in np.ndindex(*x.shape):
        slope[0, at[1], 0, : taken[at] + 1] += y[at] - x[at]
        hits[0, at[1], 0, taken[at]] += 1
    slope[..., 1:] *= np.exp(levels[..., 1:])
    np.testing.assert_allclose(found.params[0], slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.updates[2], 0.999 * counts + hits, rtol=1e-6)
    np.testing.assert_allclose(found.updates[1].ravel(), [1, 0.999, 1, 200, ((y - x) ** 2).mean()], rtol=1e-5)


def is_seen(mask: int, weight: tuple[int, ...], group_in: int, group_out: int, side: int) -> bool:
    """conv_layer.cu, conv_constrains_weight_kernel and its versions."""
    tn, tc, th, tw = weight[0] // group_out, weight[1] // group_in, weight[2], weight[3]
    half = side // 2
    if mask in (1, 2):
        if tn != tc:
            return tn > tc
        return th < half or (th == half and (tw < half or (mask == 2 and tw == half)))
    if mask == 3:
        if tn > tc:
            return th <= half and tw <= half
        return tn == tc and ((th < half and tw <= half) or (th == half and tw < half))
    if mask == 4:
        return tn >= tc and th <= half and tw <= half
    return not (tw + th + tc >= tn + side - 1 if mask == 5 else tw + th + tc > tn + side - 1)


@pytest.mark.parametrize("mask", [1, 2, 3, 4, 5, 6])
def test_masked_convolution(mask: int) -> None:
    size = "num_output: 6 kernel_size: 5 pad: 2"
    fields = f"convolution_param {{ {size} constrain: {mask} group_in: 2 group_out: 3 }}"
    x, weight, bias, dy = random(2, 4, 6, 7), random(6, 4, 5, 5), random(6), random(2, 6, 6, 7).astype(np.float32)
    seen = np.array([is_seen(mask, at, 2, 3, 5) for at in np.ndindex(*weight.shape)]).reshape(weight.shape)
    found = run(make(ONE % "Convolution" + fields), [x], [weight, bias], [dy])
    plain = run(make(ONE % "Convolution" + f"convolution_param {{ {size} }}"), [x], [weight * seen, bias], [dy])
    np.testing.assert_allclose(found.tops[0], plain.tops[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], plain.bottoms[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.params[0], plain.params[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.updates[0], (weight * seen).astype(np.float32))


@pytest.mark.parametrize("method", ["L1", "L2", "PSNR"])
def test_loss_of_a_power(method: str) -> None:
    x = random(2, 3, 4, 5) * 9
    found = run(make(ONE % "LOTLoss" + f"lot_param {{ method: {method} slope: 0.5 }}"), [x], dys=[np.float32(3)])
    mean, slope = (x * x).mean(), x / x.size
    if method == "L1":
        slope = np.where(x < 0, -0.5, 1) / x.size
        mean = (slope * x).sum()
    if method == "PSNR":
        mean, slope = 10 * math.log10(255**2 / mean), 10 * slope / mean
    np.testing.assert_allclose(found.tops[0], mean, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], 3 * slope, rtol=1e-4, atol=1e-7)


def test_weights_of_a_loss_hide_its_own() -> None:
    x, weights = random(2, 3, 4, 5), RANDOM.integers(0, 3, (2, 3, 4, 5))
    text = 'name: "l" type: "LOTLoss" bottom: "x" bottom: "w" top: "y" lot_param { method: L2 }'
    found = run(make(text), [x, weights], dys=[np.float32(3)])
    np.testing.assert_allclose(found.tops[0], (weights * x * x).sum() / weights.sum(), rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], weights * x / weights.sum(), rtol=1e-5)


def test_bits_of_integers_under_a_mixture() -> None:
    def forward(weight: np.ndarray, delta: np.ndarray, mean: np.ndarray, x: np.ndarray) -> np.ndarray:
        below = np.vectorize(lambda z: 0.5 + 0.5 * math.erf(z / math.sqrt(2)))
        x = x.reshape(-1, 1)
        p = (weight * (below((x + 0.5 - mean) / delta) - below((x - 0.5 - mean) / delta))).sum(1)
        return np.asarray(-np.log(p + 1e-7).mean())

    text = 'name: "l" type: "EntropyGmmLoss" bottom: "w" bottom: "d" bottom: "m" bottom: "x" top: "y"'
    weight, delta = RANDOM.dirichlet(np.ones(3), 10), RANDOM.uniform(0.5, 2, (10, 3))
    check_gradients(make(text), forward, [weight, delta, random(10, 3), random(10, 1) * 2], [0, 1, 2, 3])
    delta[4] = 1e-7
    found = run(make(text), [weight, delta, random(10, 3), random(10, 1)])
    assert np.isfinite(found.tops[0]) and np.isfinite(found.bottoms[1]).all()


def msssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    line = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    line /= line.sum()

    def blur(a: np.ndarray) -> np.ndarray:
        for axis in (2, 3):
            a = sum(line[i] * np.take(a, range(i, a.shape[axis] - 10 + i), axis) for i in range(11))
        return a

    def half(a: np.ndarray) -> np.ndarray:
        a = np.pad(a, [(0, 0), (0, 0), (0, a.shape[2] % 2), (0, a.shape[3] % 2)], mode="edge")
        return (a[:, :, ::2, ::2] + a[:, :, 1::2, ::2] + a[:, :, ::2, 1::2] + a[:, :, 1::2, 1::2]) / 4

    result = 1.0
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        mx, my = blur(x), blur(y)
        likeness = (2 * (blur(x * y) - mx * my) + 58.5225) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + 58.5225)
        light = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
        result *= (likeness * light if scale == 4 else likeness).mean() ** power
        x, y = half(x), half(y)
    return np.asarray(result)


def test_likeness_of_images_over_scales() -> None:
    layer = make('name: "l" type: "MssimLoss" bottom: "x" bottom: "y" top: "s"')
    x = RANDOM.uniform(0, 255, (1, 2, 176, 192))
    check_gradients(layer, msssim, [x, x + 20 * random(*x.shape)], [0])
    odd = RANDOM.uniform(0, 255, (1, 2, 179, 181))
    other = odd + 20 * random(*odd.shape)
    np.testing.assert_allclose(run(layer, [odd, other]).tops[0], msssim(odd, other), rtol=1e-4)
    assert run(layer, [odd, 255 - odd]).tops[0] == 0
    with pytest.raises(NetError, match="176"):
        layer.tops([(1, 2, 175, 192)] * 2)


@pytest.mark.parametrize(
    ("kind", "fields", "bottom", "top"),
    [
        ("DecoderInput", "decoder_param { nchannels: 6 }", (2, 1, 4, 5), (2, 6, 4, 5)),
        ("DecoderOutput", "decoder_param { nchannels: 6 }", (2, 18, 4, 5), (41, 1, 1, 4)),
        ("DecoderExtract", "", (2, 6, 4, 5), (2, 1, 4, 5)),
        ("DecoderConv3", "convolution_param { num_output: 9 kernel_size: 5 }", (2, 6, 4, 5), (2, 9, 4, 5)),
        ("DecoderQuant", "mlquant_param { groups: 3 }", (2, 6, 4, 5), (2, 6, 4, 5)),
    ],
)
def test_the_decoder_has_shapes_alone(kind: str, fields: str, bottom: tuple[int, ...], top: tuple[int, ...]) -> None:
    layer = make(ONE % kind + fields)
    assert layer.tops([bottom]) == (top,)
    assert layer.why_uncomputed
