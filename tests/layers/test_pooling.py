"""Pooling against Caffe's loops written out, and against Caffe."""

import itertools
import random

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.errors import NetError
from caffestat.graph import Graph

from .golden import check_golden, golden_layers
from .harness import compute, make, run

SHAPE = (2, 3, 6, 5)


def layer(params, type_name="Pooling", tops=1):
    names = " ".join(f'top: "y{i}"' for i in range(tops))
    field = {"Pooling": "pooling_param", "SPP": "spp_param"}[type_name]
    return make(f'name: "l" type: "{type_name}" bottom: "x" {names} {field} {{ {params} }}')


def caffe_places(size, k, s, p, padded, floor):
    """pooling_layer.cpp, Reshape, one axis; `padded`: whether either axis is."""
    places = int((np.floor if floor else np.ceil)(np.float32(size + 2 * p - k) / np.float32(s))) + 1
    return places - 1 if padded and (places - 1) * s >= size + p else places


def caffe_pool(x, dy, config):
    """Forward_cpu and Backward_cpu: (y, mask, dx), the mask of -1 where there is no maximum."""
    (kh, kw), (sh, sw), (ph, pw), method = config[:4]
    height, width = x.shape[2:]
    y, mask, dx = np.zeros_like(dy), np.full(dy.shape, -1.0), np.zeros_like(x)
    for n, c, oh, ow in np.ndindex(*dy.shape):
        top, left = oh * sh - ph, ow * sw - pw
        bottom, right = min(top + kh, height + ph), min(left + kw, width + pw)
        size = (bottom - top) * (right - left)
        rows, columns = range(max(top, 0), min(bottom, height)), range(max(left, 0), min(right, width))
        best = -np.inf
        for h, w in itertools.product(rows, columns):
            if method == "AVE":
                y[n, c, oh, ow] += x[n, c, h, w] / size
                dx[n, c, h, w] += dy[n, c, oh, ow] / size
            elif x[n, c, h, w] > best:
                best = y[n, c, oh, ow] = x[n, c, h, w]
                mask[n, c, oh, ow] = h * width + w
        if method == "MAX":
            dx[n, c, int(mask[n, c, oh, ow]) // width, int(mask[n, c, oh, ow]) % width] += dy[n, c, oh, ow]
    return y, mask, dx


def configs(count=60):
    """Random kernels, strides and pads of both axes, those that Caffe takes."""
    draw = random.Random(1)
    while count:
        kernel, stride = ([draw.randint(1, 7) for _ in "hw"], [draw.randint(1, 4) for _ in "hw"])
        pad = [draw.randint(0, k - 1) if draw.random() < 0.6 else 0 for k in kernel]
        method, floor = draw.choice(["MAX", "AVE"]), draw.random() < 0.4
        places = [caffe_places(*axis, any(pad), floor) for axis in zip(SHAPE[2:], kernel, stride, pad, strict=True)]
        inside = all((n - 1) * s < size + p for n, s, size, p in zip(places, stride, SHAPE[2:], pad, strict=True))
        if min(places) > 0 and inside:
            count -= 1
            yield kernel, stride, pad, method, floor, places


def text(config):
    (kh, kw), (sh, sw), (ph, pw), method, floor, _ = config
    mode = "FLOOR" if floor else "CEIL"
    sizes = f"kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw}"
    return f"pool: {method} round_mode: {mode} {sizes}"


def test_every_configuration():
    x = np.random.default_rng(0).integers(-3, 4, SHAPE).astype(np.float32)  # many ties
    g = Graph()
    seeds, wanted, expected = {}, [], []
    for number, config in enumerate(configs()):
        bottom = g.input(f"x{number}", SHAPE)
        pooling = layer(text(config), tops=1 + (config[3] == "MAX" and number % 2))
        shapes = pooling.tops([SHAPE])
        assert shapes[0] == (*SHAPE[:2], *config[5]), config
        tops = pooling.lower(g, [bottom], [])
        dy = np.random.default_rng(number).standard_normal(shapes[0]).astype(np.float32)
        seeds[tops[0]] = g.constant(dy)
        y, mask, dx = caffe_pool(x, dy, config)
        wanted += zip([*tops, bottom], [config] * 3, strict=False)
        expected += [y, mask, dx] if len(tops) > 1 else [y, dx]
    bottoms = list(g.inputs)
    grads = backward(g, seeds, bottoms)
    g.outputs = [g.emit("Identity", grads.get(value) or value) for value, _ in wanted]
    results = compute(g, dict.fromkeys(bottoms, x), {})
    for (value, config), found, right in zip(wanted, results, expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6, err_msg=f"{value} {config}")


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_kernel_larger_than_the_image(method):
    """The only window is cut back to the image, and AVE divides by what is left."""
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    result = run(layer(f"pool: {method} kernel_size: 7 stride: 3"), [x])
    reduced = x.max((2, 3), keepdims=True) if method == "MAX" else x.mean((2, 3), keepdims=True)
    np.testing.assert_allclose(result.tops[0], reduced, rtol=1e-5)


@pytest.mark.parametrize(("case", "name"), golden_layers("pooling spp lenet_like v0net v1net", "Pooling", "SPP"))
def test_golden(case, name):
    check_golden(case, name)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ("kernel_size: 3 kernel_h: 3 kernel_w: 3", "kernel_size, or both kernel_h and kernel_w"),
        ("kernel_h: 3", "kernel_size, or both kernel_h and kernel_w"),
        ("", "kernel_size, or both"),
        ("kernel_size: 0", "must be positive"),
        ("kernel_size: 2 stride: 0", "must be positive"),
        ("kernel_size: 2 pad_h: 1", "both pad_h and pad_w"),
        ("kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1", "both pad_h and pad_w"),
        ("kernel_size: 2 stride: 1 stride_h: 1 stride_w: 1", "both stride_h and stride_w"),
        ("kernel_size: 2 pad: 2", r"pad must be smaller than the kernel.*pad \[2, 2\]"),
        ("kernel_size: 7", "does not fit"),
        ("kernel_size: 6 round_mode: FLOOR stride: 2", "does not fit"),
        ("kernel_size: 1 stride: 4", "wholly outside"),
        ("global_pooling: true kernel_size: 2", "remove kernel_size"),
        ("global_pooling: true stride: 2", "stride 1; found"),
        ("global_pooling: true pad: 1", r"pad \[1, 1\]"),
    ],
)
def test_refuses(params, found):
    with pytest.raises(NetError, match=r"net.prototxt:7: layer 'l' \(Pooling\): .*" + found):
        layer(params).tops([SHAPE])


def test_refuses_what_the_method_lacks():
    with pytest.raises(NetError, match="only pool: MAX has a second top"):
        layer("pool: AVE kernel_size: 2", tops=2).tops([SHAPE])
    with pytest.raises(NetError, match=r"4 axes .*found shape \(2, 3, 6\)"):
        layer("kernel_size: 2").tops([SHAPE[:3]])
    stochastic = layer("pool: STOCHASTIC kernel_size: 2")
    assert stochastic.tops([SHAPE]) == ((2, 3, 5, 4),)
    with pytest.raises(NetError, match="on the CPU Caffe aborts"):
        g = Graph()
        stochastic.lower(g, [g.input("x", SHAPE)], [])


def test_pyramid():
    assert layer("pyramid_height: 1", "SPP").tops([SHAPE]) == ((2, 3, 1, 1),)
    assert layer("pyramid_height: 2", "SPP").tops([SHAPE]) == ((2, 15),)
    with pytest.raises(NetError, match="pyramid_height must be positive"):
        layer("", "SPP").tops([SHAPE])
    with pytest.raises(NetError, match="pad must be smaller than the kernel"):
        layer("pyramid_height: 4", "SPP").tops([SHAPE])
    with pytest.raises(NetError, match="pad must be smaller than the kernel"):
        layer("pyramid_height: 4294967295", "SPP").tops([SHAPE])
