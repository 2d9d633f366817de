"""Convolution and pooling over volumes and clips, against loops over windows, and their gradients by differences."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(8)
X = RANDOM.permutation(2 * 4 * 5 * 6 * 7).reshape(2, 4, 5, 6, 7) / 100 - 5.0
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" %s'


def convolved(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: Sequence[int], pad: Sequence[int], group: int = 1
) -> np.ndarray:
    """The definition, tap by tap."""
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in pad)])
    kernel = w.shape[2:]
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    y = np.zeros((len(x), len(w), *size)) + b.reshape(-1, *(1,) * len(size))
    inner, outer = w.shape[1], len(w) // group
    for tap in np.ndindex(*kernel):
        where = tuple(slice(t, t + s * (n - 1) + 1, s) for t, s, n in zip(tap, stride, size, strict=True))
        part = x[(slice(None), slice(None), *where)]
        for g in range(group):
            block = w[(slice(g * outer, (g + 1) * outer), slice(None), *tap)]
            y[:, g * outer : (g + 1) * outer] += np.einsum(
                "nc...,oc->no...", part[:, g * inner : (g + 1) * inner], block
            )
    return y


@pytest.mark.parametrize(
    ("kind", "fields", "kernel", "stride", "pad", "group"),
    [
        (
            "NdConvolution",
            "convolution_param { num_output: 6 group: 2 kernel_shape { dim: 3 dim: 2 dim: 4 } "
            "stride_shape { dim: 1 dim: 2 dim: 3 } pad_shape { dim: 1 dim: 0 dim: 2 } }",
            (3, 2, 4),
            (1, 2, 3),
            (1, 0, 2),
            2,
        ),
        (
            "Convolution",
            "convolution_param { num_output: 3 kernel_h: 3 kernel_w: 2 kernel_d: 4 stride_d: 2 pad_w: 1 }",
            (3, 2, 4),
            (1, 1, 2),
            (0, 1, 0),
            1,
        ),
        (
            "Convolution3D",
            "convolution_param { num_output: 4 group: 2 kernel_size: 3 kernel_depth: 2 pad: 1 temporal_pad: 0 "
            "stride: 2 temporal_stride: 3 filter_group: 2 }",
            (2, 3, 3),
            (3, 2, 2),
            (0, 1, 1),
            1,
        ),
        (
            "Convolution3D",
            "convolution3d_param { num_output: 5 kernel_size: 2 kernel_depth: 3 temporal_pad: 1 }",
            (3, 2, 2),
            (1, 1, 1),
            (1, 0, 0),
            1,
        ),
    ],
)
def test_convolution(
    kind: str, fields: str, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], group: int
) -> None:
    layer = make(TEXT % (kind, fields))
    (weight, bias) = layer.params([X.shape])
    assert weight.shape[1:] == (4 // group, *kernel)
    w, b = RANDOM.normal(size=weight.shape), RANDOM.normal(size=bias.shape)

    def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return convolved(x, w, b, stride, pad, group)

    check_gradients(layer, forward, [X, w, b], [0, 1, 2], params=2)
    (top,) = layer.tops([X.shape])
    assert top is not None
    assert layer.macs([X.shape]) == prod(top) * prod(weight.shape[1:])


def places(size: int, kernel: int, stride: int, pad: int, drops: bool) -> int:
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    return count - (drops and (count - 1) * stride >= size + pad)


def pooled(
    x: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    average: bool,
    drops: Sequence[bool],
) -> np.ndarray:
    """The reference's loop over windows: the divisor counts what lies in the padded volume."""
    axes = list(zip(x.shape[2:], kernel, stride, pad, drops, strict=True))
    size = [places(*axis) for axis in axes]
    y = np.zeros((*x.shape[:2], *size))
    for at in itertools.product(*map(range, size)):
        starts = [i * s - p for i, (_, _, s, p, _) in zip(at, axes, strict=True)]
        ends = [min(i + k, n + p) for i, (n, k, _, p, _) in zip(starts, axes, strict=True)]
        inside = tuple(slice(max(i, 0), min(j, n)) for i, j, (n, *_) in zip(starts, ends, axes, strict=True))
        part = x[(slice(None), slice(None), *inside)].reshape(*x.shape[:2], -1)
        count = prod(j - i for i, j in zip(starts, ends, strict=True))
        y[(slice(None), slice(None), *at)] = part.sum(-1) / count if average else part.max(-1)
    return y


OWN, NONE = "own", "none"


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize(
    ("kind", "fields", "kernel", "stride", "pad", "drops"),
    [
        (
            "NdPooling",
            "pooling_param { pool: %s kernel_shape { dim: 2 dim: 3 dim: 4 } stride_shape { dim: 3 dim: 2 dim: 3 } "
            "pad_shape { dim: 0 dim: 1 dim: 2 } }",
            (2, 3, 4),
            (3, 2, 3),
            (0, 1, 2),
            OWN,
        ),
        (
            "NdPooling",
            "pooling_param { pool: %s global_pooling: true kernel_shape { dim: 1 dim: 1 dim: 1 } }",
            (5, 6, 7),
            (1, 1, 1),
            (0, 0, 0),
            OWN,
        ),
        (
            "Pooling",
            "pooling_param { pool: %s kernel_size: 2 kernel_size: 3 kernel_size: 4 stride: 2 pad: 1 pad: 0 pad: 2 }",
            (2, 3, 4),
            (2, 2, 2),
            (1, 0, 2),
            OWN,
        ),
        (
            "Pooling",
            "pooling_param { pool: %s kernel_size: 2 stride: 3 stride: 1 stride: 2 }",
            (2, 2, 2),
            (3, 1, 2),
            (0, 0, 0),
            OWN,
        ),
        (
            "Pooling",
            "pooling_param { pool: %s kernel_h: 2 kernel_w: 3 kernel_d: 4 stride_h: 2 pad_d: 1 stride_w: 1 }",
            (2, 3, 4),
            (2, 1, 1),
            (0, 0, 1),
            OWN,
        ),
        (
            "Pooling3D",
            "pooling3d_param { pool: %s kernel_size: 3 kernel_l: 2 stride: 2 stride_l: 2 pad: 1 }",
            (2, 3, 3),
            (2, 2, 2),
            (0, 1, 1),
            "any",
        ),
        (
            "Pooling3D",
            "pooling3d_param { pool: %s kernel_h: 3 kernel_w: 2 kernel_l: 1 stride_h: 2 stride_w: 1 }",
            (1, 3, 2),
            (1, 2, 1),
            (0, 0, 0),
            "any",
        ),
        (
            "Pooling3D",
            "pooling_param { pool: %s kernel_size: 3 kernel_depth: 2 stride: 2 temporal_stride: 2 }",
            (2, 3, 3),
            (2, 2, 2),
            (0, 0, 0),
            NONE,
        ),
        (
            "Pooling3D",
            "pooling3d_param { pool: %s kernel_size: 2 kernel_depth: 3 temporal_stride: 2 }",
            (3, 2, 2),
            (2, 1, 1),
            (0, 0, 0),
            NONE,
        ),
        (
            "Pooling3D",
            "pooling_param { pool: %s } pooling_3d_param { kernel_size: 2 stride: 2 pad: 1 }",
            (2, 2, 2),
            (2, 2, 2),
            (1, 1, 1),
            "any",
        ),
    ],
)
def test_pooling(
    kind: str,
    fields: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    pad: Sequence[int],
    drops: str,
    average: bool,
) -> None:
    layer = make(TEXT % (kind, fields % ("AVE" if average else "MAX")))
    dropped = [any(pad) if drops == "any" else p > 0 and drops == OWN for p in pad]
    check_gradients(layer, lambda x: pooled(x, kernel, stride, pad, average, dropped), [X], [0])


@pytest.mark.parametrize(("kernel", "stride"), [((3, 2, 2), (2, 2, 2)), ((2, 3, 3), (1, 2, 2))])
def test_each_equal_maximum_of_a_clip_gets_the_whole_gradient(kernel: Sequence[int], stride: Sequence[int]) -> None:
    """As facebookarchive/C3D's pool3d_layer.cpp and .cu, compiled, compute; Caffe's own pooling takes the first."""
    fields = f"kernel_depth: {kernel[0]} kernel_size: {kernel[1]} temporal_stride: {stride[0]} stride: {stride[1]}"
    layer = make(TEXT % ("Pooling3D", f"pooling_param {{ {fields} }}"))
    random = np.random.default_rng(4)
    x = random.integers(0, 3, (1, 2, 5, 6, 7)).astype(np.float32)
    dy = random.normal(size=layer.tops([x.shape])[0]).astype(np.float32)
    expected = np.zeros_like(x)
    for place in np.ndindex(dy.shape):
        corner = [p * s for p, s in zip(place[2:], stride, strict=True)]
        window = (*place[:2], *(slice(c, c + k) for c, k in zip(corner, kernel, strict=True)))
        expected[window] += dy[place] * (x[window] == x[window].max())
    np.testing.assert_allclose(run(layer, [x], dys=[dy]).bottoms[0], expected, atol=1e-6)


def test_only_padding_of_its_own_drops_a_window() -> None:
    own = "kernel_size: 1 kernel_size: 2 stride: 3 stride: 1 pad: 0 pad: 1"
    with pytest.raises(NetError, match="the last window lies wholly outside the bottom"):
        make(TEXT % ("Pooling", f"pooling_param {{ {own} }}")).tops([(1, 1, 6, 7)])
    any_axis = "kernel_h: 1 kernel_w: 2 stride_h: 3 stride_w: 1 pad_h: 0 pad_w: 1"
    assert make(TEXT % ("Pooling", f"pooling_param {{ {any_axis} }}")).tops([(1, 1, 6, 7)]) == ((1, 1, 2, 8),)


def test_a_mask_counts_over_the_whole_volume() -> None:
    layer = make(
        'name: "l" type: "Pooling3D" bottom: "x" top: "y" top: "m" pooling3d_param { kernel_size: 3 kernel_l: 2 }'
    )
    top, mask = run(layer, [X]).tops
    flat, at = X.astype(np.float32).reshape(2, 4, -1), mask.reshape(2, 4, -1).astype(int)
    np.testing.assert_array_equal(np.take_along_axis(flat, at, 2), top.reshape(2, 4, -1))


def test_superxuangs_pooling_looks_for_its_method_elsewhere() -> None:
    layer = make(TEXT % ("Pooling3D", "pooling_3d_param { pool: AVE kernel_size: 2 }"))
    x = X[:, :, :2, :2, :2].astype(np.float32)
    np.testing.assert_array_equal(run(layer, [x]).tops[0].ravel(), x.max((2, 3, 4)).ravel())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("NdConvolution", "convolution_param { num_output: 2 }", "expected kernel_shape"),
        (
            "NdConvolution",
            "convolution_param { num_output: 2 kernel_shape { dim: 1 dim: 1 } pad_shape { dim: 1 } }",
            "as many values in stride_shape and pad_shape",
        ),
        (
            "NdConvolution",
            "convolution_param { num_output: 2 kernel_shape { dim: 1 } stride_shape { dim: 1 } pad_shape { dim: -1 } }",
            "expected pad of 0 to 4,294,967,295, found .-1.",
        ),
        ("NdPooling", "pooling_param { kernel_shape { dim: 2 dim: 2 } }", "expected 3 values in kernel_shape"),
        ("NdPooling", "pooling_param { global_pooling: true }", "expected kernel_shape in pooling_param, with global"),
        ("Pooling", "pooling_param { kernel_size: 2 kernel_size: 3 }", "once per spatial axis .3.; found 2"),
        ("Pooling", "pooling_param { global_pooling: true stride: 2 stride: 1 stride: 1 }", "takes the whole bottom"),
        ("Pooling3D", "pooling_param { kernel_depth: 2 kernel_size: 2 pad: 1 }", "only pool: AVE takes padding"),
        ("Pooling3D", "pooling3d_param { kernel_h: 2 kernel_l: 1 }", "give kernel_size, or both kernel_h and kernel_w"),
        ("Pooling3D", "pooling_3d_param { kernel_h: 2 kernel_l: 1 }", "give kernel_size, or kernel_l, kernel_h and"),
        ("Convolution3D", "convolution3d_param { kernel_depth: 2 kernel_size: 2 }", "num_output must be positive"),
    ],
)
def test_what_does_not_fit(kind: str, fields: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TEXT % (kind, fields)).tops([X.shape])


@pytest.mark.parametrize("kind", ["Convolution3D", "Pooling3D"])
def test_images_are_no_clips(kind: str) -> None:
    fields = "convolution_param { num_output: 2 kernel_size: 1 kernel_depth: 1 }" if kind[0] == "C" else ""
    with pytest.raises(NetError, match="expected a bottom of 5 axes"):
        make(TEXT % (kind, fields)).tops([X.shape[1:]])


def test_prelu_over_more_axes_than_caffe_takes() -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 3 dim: 5 dim: 6 } } }
        layer { name: "p" type: "PReLU" bottom: "x" top: "y" }"""
    net = build(net_source(parse(text.encode(), "net.prototxt")))
    (finding,) = net.findings
    assert str(finding) == (
        "net.prototxt:2:9: layer 'p' (PReLU): its bottom has 5 axes, but Caffe expects 2 to 4; computed as a fork does"
    )
    layer: Layer = net.nodes[1].layer
    slope = RANDOM.uniform(0.1, 0.9, 4)
    check_gradients(
        layer,
        lambda x, a: np.where(x > 0, x, a.reshape(4, 1, 1, 1) * x),
        [RANDOM.normal(size=(2, 4, 3, 5, 6)), slope],
        [0, 1],
        params=1,
    )


def test_old_names() -> None:
    text = """input: "x" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 6 input_dim: 5
        layers { name: "c" type: CONVOLUTION3D bottom: "x" top: "c" convolution_param {
          num_output: 2 kernel_size: 3 kernel_depth: 3 pad: 1 temporal_pad: 1 } }
        layers { name: "p" type: POOLING3D bottom: "c" top: "p" pooling_param {
          pool: MAX kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 1 } }"""
    net = build(net_source(parse(text.encode(), "net.prototxt")))
    assert [node.top_shapes[0] for node in net.nodes[1:]] == [(1, 2, 8, 6, 5), (1, 2, 8, 3, 3)]


def test_deconvolution3d_spreads_each_place_of_a_clip() -> None:
    layer = make(
        'name: "l" type: "Deconvolution3D" bottom: "x" top: "y" convolution_param { num_output: 2 kernel_size: 3 '
        "kernel_depth: 2 pad: 1 temporal_pad: 1 stride: 2 temporal_stride: 3 }"
    )

    def forward(x, w, b):
        y = np.zeros((x.shape[0], 2, 3 * 2 + 2, 2 * 3 + 3, 2 * 4 + 3))
        for t, h, v in np.ndindex(3, 4, 5):
            part = np.einsum("nc,codhw->nodhw", x[:, :, t, h, v], w)
            y[:, :, 3 * t : 3 * t + 2, 2 * h : 2 * h + 3, 2 * v : 2 * v + 3] += part
        return y[:, :, 1:-1, 1:-1, 1:-1] + b.reshape(1, 2, 1, 1, 1)

    random = np.random.default_rng(6)
    arrays = [random.normal(size=(2, 3, 3, 4, 5)), random.normal(size=(3, 2, 2, 3, 3)), random.normal(size=2)]
    check_gradients(layer, forward, arrays, [0, 1, 2], 2)


def test_voxel_softmax_runs_over_channels() -> None:
    x = np.random.default_rng(7).normal(size=(1, 3, 2, 4, 5))
    found = run(make('name: "l" type: "VoxelSoftmax" bottom: "x" top: "y"'), [x])
    np.testing.assert_allclose(found.tops[0], np.exp(x) / np.exp(x).sum(1, keepdims=True), rtol=1e-5)
