"""Layers for FPGAs: those of Caffe with other axes."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(61)
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '
X = RANDOM.normal(size=(5, 7, 3, 2))  # H, W, C, N
PLAIN = X.transpose(3, 2, 0, 1)


def test_axes_in_another_order() -> None:
    check_gradients(make(ONE % "HWCN"), lambda x: x.transpose(2, 3, 1, 0), [PLAIN], [0])
    check_gradients(
        make(ONE % "HWCN" + "hwcn_param { convert_to: false }"), lambda x: x.transpose(3, 2, 0, 1), [X], [0]
    )
    check_gradients(make(ONE % "HWCN"), lambda x: x.T, [RANDOM.normal(size=(2, 6))], [0])


@pytest.mark.parametrize(
    ("fields", "forward"),
    [
        ("axis: 2 pad_to: 4", lambda x: np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 0)))),
        ("axis: 0 pad_val: 4", lambda x: np.pad(x, ((0, 3), (0, 0), (0, 0), (0, 0)))),
        ("axis: 1 pad_val: 7", lambda x: x),
        ("axis: 1 pad: false pad_to: 4", lambda x: x[:, :4]),
        ("axis: 2 pad: false pad_to: 3", lambda x: x),
        ("axis: 1 pad: false", lambda x: x[:, :5]),
    ],
)
def test_pad(fields: str, forward: object) -> None:
    check_gradients(make(ONE % "Pad" + f"pad_param {{ {fields} }}"), forward, [X], [0])


def test_pads_that_do_not_fit() -> None:
    with pytest.raises(NetError, match=r"cannot pad axis 0 of shape \(5, 7, 3, 2\) to 4 elements"):
        make(ONE % "Pad" + "pad_param { axis: 0 pad_to: 4 }").tops([X.shape])


@pytest.mark.parametrize("relu", [0, 1])
def test_layers_of_caffe_with_the_batch_last(relu: int) -> None:
    own = f"cr_param {{ relu: {relu} }}"
    window = "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 pad_h: 1 stride: 2 }"
    layer, plain = make(ONE % "OCLCRHWCN" + window + own), make(ONE % "Convolution" + window)
    assert "float32" in layer.left_out
    assert layer.macs([X.shape]) == plain.macs([PLAIN.shape])
    w, b = RANDOM.normal(size=(4, 3, 3, 2)), RANDOM.normal(size=4)
    ours, theirs = run(layer, [X], [w, b]), run(plain, [PLAIN], [w, b])
    y = np.maximum(theirs.tops[0], 0) if relu else theirs.tops[0]
    np.testing.assert_allclose(ours.tops[0], y.transpose(2, 3, 1, 0), rtol=1e-5)
    if not relu:
        np.testing.assert_allclose(ours.bottoms[0], theirs.bottoms[0].transpose(2, 3, 1, 0), rtol=1e-5)


def test_pooling_with_the_batch_last() -> None:
    fields = "pooling_param { kernel_size: 3 stride: 2 }"
    ours, theirs = run(make(ONE % "OCLPoolingHWCN" + fields), [X]), run(make(ONE % "Pooling" + fields), [PLAIN])
    np.testing.assert_array_equal(ours.tops[0], theirs.tops[0].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(ours.bottoms[0], theirs.bottoms[0].transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "fields",
    [
        "pool: AVE kernel_size: 2 stride: 2",
        "kernel_size: 3 stride: 1",
        "kernel_size: 4 stride: 2",
        "kernel_size: 3 stride: 2 pad: 1",
        "kernel_h: 2 kernel_w: 3 stride: 2",
        "global_pooling: true",
    ],
)
def test_the_fpga_pools_in_one_way(fields: str) -> None:
    """As crp_layer_hwcn_cpfp.cpp of dicecco1/fpga_caffe, which takes neither method, stride nor padding."""
    with pytest.raises(NetError, match="the FPGA pools MAX over"):
        make(ONE % "OCLPoolingHWCN" + f"pooling_param {{ {fields} }}").tops([X.shape])


@pytest.mark.parametrize("relu", [False, True])
def test_inner_product_with_the_batch_last(relu: bool) -> None:
    layer = make(
        ONE % "OCLHWCNInnerProduct" + f"inner_product_param {{ num_output: 4 }} cr_param {{ relu: {int(relu)} }}"
    )
    w, b = RANDOM.normal(size=(4, 105)), RANDOM.normal(size=4)

    def forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = w @ x.reshape(105, 2) + b[:, None]
        return np.maximum(y, 0) if relu else y

    check_gradients(layer, forward, [X, w, b], [0, 1, 2], params=2)
    assert layer.tops([(6, 2)]) == ((4, 2),)
