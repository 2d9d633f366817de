"""Patches around the largest values and maps laid back, against loops, alone and in nets."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse

from ..harness import make, run

RANDOM = np.random.default_rng(17)
MOVE = ((Fraction(3), Fraction(1, 2)), (Fraction(2), Fraction(-1)))
PATCH = (
    'name: "l" type: "CropPatchFromMaxFeaturePosition" bottom: "a" bottom: "b" bottom: "c" top: "x" bottom: "d" '
    'top: "y" crop_patch_from_max_feature_position_param { crop_factor: 0.4 match_channel: false match_channel: true }'
)


def test_patches_are_cut_around_the_largest_values() -> None:
    layer = make(PATCH)
    layer.bottom_map = MOVE
    a, b = RANDOM.normal(size=(2, 1, 11, 13)), RANDOM.normal(size=(2, 3, 4, 6))
    b[0, 0, 0, 0] = b[1, 2, 3, 5] = 9
    c, d = RANDOM.normal(size=(2, 2, 11, 13)), RANDOM.normal(size=(2, 3, 11, 13))
    high, wide = 4, 5
    dys = [RANDOM.normal(size=(2, count, high, wide)).astype(np.float32) for count in (6, 3)]
    x, y = np.zeros((2, 6, high, wide)), np.zeros((2, 3, high, wide))
    dc, dd = np.zeros(c.shape), np.zeros(d.shape)
    for n, k in np.ndindex(2, 3):
        row, column = divmod(int(b[n, k].argmax()), 6)
        top, left = math.floor(3 * row + 0.5 - high / 2), math.floor(2 * column - 1 - wide / 2)
        for i, j in np.ndindex(high, wide):
            if 0 <= top + i < 11 and 0 <= left + j < 13:
                at = (top + i, left + j)
                x[n, 2 * k : 2 * k + 2, i, j] = c[(n, slice(None), *at)]
                y[n, k, i, j] = d[(n, k, *at)]
                dc[(n, slice(None), *at)] += dys[0][n, 2 * k : 2 * k + 2, i, j]
                dd[(n, k, *at)] += dys[1][n, k, i, j]
    found = run(layer, [a, b, c, d], dys=dys)
    for got, expected in zip([*found.tops, *found.bottoms[2:]], [x, y, dc, dd], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert not x[0, :2, 0].any()  # a patch that begins above the image
    with pytest.raises(NetError, match="match_channel expects 3 channels"):
        layer.tops([(1, 1, 11, 13), (1, 3, 4, 6), (1, 2, 11, 13), (1, 2, 11, 13)])


def test_maps_are_laid_back_by_interpolation() -> None:
    layer = make('name: "l" type: "ResizeWithMap" bottom: "a" bottom: "b" bottom: "c" top: "y"')
    move = layer.bottom_map = ((Fraction(2, 5), Fraction(-1, 2)), (Fraction(1, 3), Fraction(1, 4)))
    c, dy = RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.normal(size=(2, 3, 9, 12)).astype(np.float32)
    y, dc = np.zeros(dy.shape), np.zeros(c.shape)
    for i, j in np.ndindex(9, 12):
        row, column = (float(factor * k + shift) for k, (factor, shift) in zip((i, j), move, strict=True))
        for p, q in np.ndindex(2, 2):
            at = (math.floor(row) + p, math.floor(column) + q)
            if 0 <= at[0] < 4 and 0 <= at[1] < 5:
                weight = (1 - abs(row - at[0])) * (1 - abs(column - at[1]))
                y[:, :, i, j] += weight * c[(slice(None), slice(None), *at)]
                dc[(slice(None), slice(None), *at)] += weight * dy[:, :, i, j]
    found = run(layer, [np.zeros((2, 1, 4, 5)), np.zeros((2, 2, 9, 12)), c], dys=[dy])
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[2], dc, rtol=1e-5, atol=1e-6)


NET = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 24 dim: 30 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "p" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "cut" type: "CropPatchFromMaxFeaturePosition" bottom: "x" bottom: "p" bottom: "x" top: "cut" }
layer { name: "back" type: "ResizeWithMap" bottom: "p" bottom: "x" bottom: "p" top: "back" }
layer { name: "behind" type: "ResizeWithMap" bottom: "cut" bottom: "x" bottom: "cut" top: "behind" }
"""


def test_where_bottoms_lie_on_each_other_follows_from_the_net() -> None:
    net = build(net_source(parse(NET.encode(), "net.prototxt")))
    nodes = {node.name: node for node in net.nodes}
    # place i of the convolution is centered at 2 i + 1/2, that of the pooling at 2 i + 1/2 of it
    assert nodes["cut"].layer.bottom_map == ((4, Fraction(3, 2)),) * 2
    assert nodes["back"].layer.bottom_map == ((Fraction(1, 4), Fraction(-3, 8)),) * 2
    assert nodes["cut"].top_shapes == ((1, 6, 8, 10),)
    assert nodes["behind"].top_shapes == ((1, 6, 24, 30),)
    assert nodes["behind"].layer.bottom_map is None
    assert "not known before the net runs" in nodes["behind"].layer.why_uncomputed
