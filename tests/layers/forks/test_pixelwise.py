"""Layers and losses that treat each place by itself, against loops over places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.errors import NetError
from caffestat.net.source import net_source
from caffestat.prototext import parse

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(21)
SHAPE = (2, 3, 4, 5)
X = RANDOM.normal(size=SHAPE)
TEXT = 'name: "l" type: "%s" bottom: "x" %s top: "y" '


def test_absolute_differences() -> None:
    other = RANDOM.normal(size=SHAPE)
    layer = make(TEXT % ("AbsLoss", 'bottom: "t"'))
    check_gradients(layer, lambda a, b: abs(a - b).sum() / 2, [X, other], [0, 1])
    found = run(layer, [X, X], dys=[np.float32(3)])
    np.testing.assert_array_equal(found.bottoms[0], np.full(SHAPE, -1.5))  # equal values are pulled down
    np.testing.assert_array_equal(found.bottoms[1], np.full(SHAPE, 1.5))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_multi_softmax() -> None:
    check_gradients(make(TEXT % ("MultiSoftmax", "")), softmax, [X], [0])


def test_multi_softmax_loss_counts_labels_from_one() -> None:
    layer = make(TEXT % ("MultiSoftmaxLoss", 'bottom: "t"') + "loss_param { scale: 0.3 }")
    labels = RANDOM.integers(1, 4, (2, 20))
    p = softmax(X).reshape(2, 3, 20)
    loss, error = 0.0, p.copy()
    for n, place in np.ndindex(2, 20):
        loss -= np.log(p[n, labels[n, place] - 1, place])
        error[n, labels[n, place] - 1, place] -= 1
    found = run(layer, [X, labels], dys=[np.float32(2)])
    np.testing.assert_allclose(found.tops[0], loss / 2 / 336, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], 2 * 0.3 * error.reshape(SHAPE) / 2, rtol=1e-4, atol=1e-7)


def test_angle_loss_leaves_out_places_with_far_targets() -> None:
    t = RANDOM.normal(size=SHAPE)
    x, t = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (X, t))
    t[0, 0, 1, 2] = 11

    def loss(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        counts = abs(t[:, 0]) <= 10
        return np.arccos((x * t).sum(1)[counts]).sum() / 2

    check_gradients(make(TEXT % ("AngleLoss", 'bottom: "t"')), loss, [x, t], [0])


def test_a_rectifier_with_feedback() -> None:
    check_gradients(make(TEXT % ("ReLUPlus", "")), lambda x: np.maximum(x, 0), [X], [0])


@pytest.mark.parametrize(
    ("fields", "kernel", "stride"),
    [
        ("global_wta: true", (4, 5), (1, 1)),
        ("kernel_size: 2 stride: 2", (2, 2), (2, 2)),
        ("kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3", (3, 2), (1, 3)),
    ],
)
def test_winners_take_all(fields: str, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    mask = np.zeros(SHAPE)
    for n, c in np.ndindex(2, 3):
        for top in range(0, 4 - kernel[0] + 1, stride[0]):
            for left in range(0, 5 - kernel[1] + 1, stride[1]):
                window = abs(X[n, c, top : top + kernel[0], left : left + kernel[1]])
                h, w = np.unravel_index(window.argmax(), window.shape)
                mask[n, c, top + h, left + w] = 1
    layer = make(TEXT % ("SpatialWta", "") + f'top: "mask" spatial_wta_param {{ {fields} }}')
    dy = RANDOM.normal(size=SHAPE).astype(np.float32)
    found = run(layer, [X], dys=[dy, np.zeros(SHAPE, np.float32)])
    np.testing.assert_allclose(found.tops[0], X * mask, rtol=1e-6)
    np.testing.assert_array_equal(found.tops[1], mask)
    np.testing.assert_allclose(found.bottoms[0], dy * mask, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [("MULTI_SOFTMAX", "MultiSoftmax"), ("RELUPLUS", "ReLUPlus"), ("NORM", "Norm")],
)
def test_names_of_old_files(old: str, new: str) -> None:
    text = f"""input: "x" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5
layers {{ name: "l" type: {old} bottom: "x" top: "y" }}"""
    net = nets.build(net_source(parse(text.encode(), "net.prototxt")))
    assert net.nodes[1].layer.type == new


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (TEXT % ("MultiSoftmaxLoss", 'bottom: "t"'), [SHAPE, (2, 19)], "expected 40 labels"),
        (TEXT % ("AbsLoss", 'bottom: "t"'), [SHAPE, (2, 59)], "two bottoms of the same count"),
        (TEXT % ("SpatialWta", "") + "spatial_wta_param { kernel_size: 5 }", [SHAPE], "that fits a map of 4 x 5"),
    ],
)
def test_bottoms_that_do_not_fit(text: Any, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text).tops(shapes)
