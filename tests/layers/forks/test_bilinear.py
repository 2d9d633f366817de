"""Layers of bilinear pooling: numbers are those that ChaojianYu/Hierarchical-Bilinear-Pooling's code, compiled, gives.

Sources: src/caffe/layers/sum_pooling_layer.cpp, signed_sqrt_layer.cpp and l2_normalize_layer.cpp.
"""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

DY = np.array([[-0.95919466, -0.9669044, 0.08631158], [0.26980805, 0.82005894, -0.77507675]])


def sums(fields: str) -> str:
    return f'name: "l" type: "SumPooling" bottom: "x" top: "y" sum_pooling_param {{ {fields} }}'


def test_windows_that_overhang_sum_what_they_hold() -> None:
    x = np.arange(1, 21).reshape(1, 1, 4, 5)
    result = run(make(sums("pool: SUM kernel_h: 3 kernel_w: 2 stride: 2")), [x], dys=[DY[None, None]])
    np.testing.assert_allclose(result.tops[0], [[[[39, 51, 30], [56, 64, 35]]]], rtol=1e-6)
    shared, below = [-0.95919466, -0.95919466, -0.9669044, -0.9669044, 0.08631158], [*DY[1, :2].repeat(2), DY[1, 2]]
    both = [-0.6893866, -0.6893866, -0.14684546, -0.14684546, -0.68876517]
    np.testing.assert_allclose(result.bottoms[0], [[[shared, shared, both, below]]], rtol=1e-5)


def test_the_sum_over_the_whole_image() -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    result = run(make(sums("pool: SUM global_pooling: true")), [x])
    np.testing.assert_allclose(result.tops[0], x.sum((2, 3), keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], np.ones(x.shape), rtol=1e-6)


def test_other_methods_are_those_of_pooling() -> None:
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 5))
    fields = "pool: AVE kernel_size: 3 pad: 1 stride_h: 2 stride_w: 3"
    own = make(f'name: "l" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {fields} }}')
    np.testing.assert_array_equal(run(make(sums(fields)), [x]).tops[0], run(own, [x]).tops[0])


def test_sums_have_no_padding() -> None:
    layer = make(sums("pool: SUM kernel_size: 3 pad: 1"))
    with pytest.raises(NetError, match=r"only pool: MAX and pool: AVE have padding; found pad \[1, 1\]"):
        layer.tops([(2, 3, 4, 5)])


def test_slopes_of_signed_roots_are_damped() -> None:
    x = [[0, -0.25, 4], [0.01, -9, 2]]
    result = run(make('name: "l" type: "SignedSqrt" bottom: "x" top: "y"'), [x], dys=[DY])
    np.testing.assert_allclose(result.tops[0], [[0, -0.5, 2], [0.1, -3, 1.4142135]], rtol=1e-6)
    expected = [[-15.986578, -0.912174, 0.02125901], [1.0377233, 0.13532326, -0.2683387]]
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-5)


def test_samples_of_unit_length() -> None:
    x = np.array([[[[0, 0], [0, 0]]], [[[3e-4, -4e-4], [2e-7, 1e-7]]]])
    dy = np.array([[[[-0.95919466, -0.9669044], [0.08631158, 0.26980805]]]] * 2)
    dy[1] = [[[0.82005894, -0.77507675], [-0.00822127, 0.09669769]]]
    result = run(make('name: "l" type: "L2Normalize" bottom: "x" top: "y"'), [x], dys=[dy])
    expected = [[0, 0, 0, 0], [0.50709254, -0.67612338, 3.3806168e-4, 1.6903084e-4]]
    np.testing.assert_allclose(result.tops[0].reshape(2, 4), expected, rtol=1e-5)
    slopes = [[-3033.2397, -3057.62, 272.94116, 853.20795], [580.5181, -235.9396, -14.433569, 163.18036]]
    np.testing.assert_allclose(result.bottoms[0].reshape(2, 4), slopes, rtol=1e-5)


@pytest.mark.parametrize("kind", ["SignedSqrt", "L2Normalize"])
def test_never_in_place(kind: str) -> None:
    layer = make(f'name: "l" type: "{kind}" bottom: "x" top: "x"')
    with pytest.raises(NetError, match="cannot work in place"):
        layer.tops([(2, 3)])
