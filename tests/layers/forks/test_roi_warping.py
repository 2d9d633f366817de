"""Numbers of daijifeng001/caffe-mnc, roi_warping_layer.cu, its kernels compiled for the CPU and run."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

TEXT = (
    'name: "l" type: "ROIWarping" bottom: "x" bottom: "r" top: "y" '
    "roi_warping_param { pooled_h: 2 pooled_w: 3 spatial_scale: %g }"
)
X = (np.arange(80) * 7 % 11 - 5.0).reshape(2, 2, 4, 5)
ROIS = np.array([[0, 8, 0, 40, 48], [1, 0, 16, 64, 32]])
DY = (np.arange(24) * 5 % 7 - 3).reshape(2, 2, 2, 3).astype(np.float32)
TOP = [
    [2, -2 / 3, 1 / 3, -1 / 2, 1 / 2, -1 / 3],
    [-1, -11 / 3, -8 / 3, 2, -2 / 3, -3 / 2],
    [2, 1 / 3, 7 / 3, 3, -1 / 2, 3 / 2],
    [-1, -8 / 3, -2 / 3, 0, -5 / 3, 1 / 3],
]
FIRST = np.array([[0, -3, 4 / 3, 0, 0], [0, 0, 0, 0, 0], [0, -1, 1, 1 / 6, 0], [0, 0, 0, 0, 0]])
LAST = np.array([[0, 0, 0, 0, 0], [3, 2 / 3, 1 / 3, -2 / 3, 0], [-1.5, 2 / 3, 1 / 3, 0, 0], [0, 0, 0, 0, 0]])
ROWS = [[0, 2.11806, -0.14063, 0.63194, 0.14062], [0, 0.27083, 1.16667, 0.66667, 0.08333]]


def test_points_of_regions_and_the_gradients_of_both_bottoms() -> None:
    layer = make(TEXT % 0.0625)
    found = run(layer, [X, ROIS], dys=[DY])
    np.testing.assert_allclose(found.tops[0].reshape(4, 6), TOP, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[0][0, 0], FIRST, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[0][1, 1], LAST, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[1], ROWS, rtol=1e-4, atol=1e-5)
    assert layer.allow_force_backward(1)


def test_points_outside_of_the_features_are_zero_and_learn_nothing() -> None:
    far = np.array([[0, 160, 0, 240, 32], [1, 0, 160, 32, 240]])
    found = run(make(TEXT % 0.0625), [X, far], dys=[DY])
    assert not any(values.any() for values in (found.tops[0], *found.bottoms))


def test_a_size_is_needed() -> None:
    with pytest.raises(NetError, match="expected a positive size of the top"):
        make('name: "l" type: "ROIWarping" bottom: "x" bottom: "r" top: "y" roi_warping_param { }').tops(
            [X.shape, ROIS.shape]
        )
