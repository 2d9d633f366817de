"""Layers of forks that move elements, against loops over elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(0, 1, (2, 12, 4, 6))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" '


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("Transpose transpose_param { dim: 3 dim: 0 dim: 2 dim: 1 }", lambda x: x.transpose(3, 0, 2, 1)),
        ("Reverse", lambda x: x[::-1]),
        ("Reverse reverse_param { axis: 2 }", lambda x: x[:, :, ::-1]),
        ("Flip", lambda x: x[..., ::-1]),
        ("Flip flip_param { flip_width: false flip_height: true }", lambda x: x[:, :, ::-1]),
        ("Flip flip_param { flip_height: true }", lambda x: x[:, :, ::-1, ::-1]),
        ("Flip flip_param { flip_width: false }", lambda x: x.copy()),
        ("Gather", lambda x: x.copy()),
    ],
)
def test_orders(text: str, forward: Any) -> None:
    kind, _, fields = text.partition(" ")
    check_gradients(make(TEXT % kind + fields), forward, [X], [0])


@pytest.mark.parametrize("dims", [(1, 3), (2, 0)])
def test_two_axes_change_places(dims: tuple[int, int]) -> None:
    """As Lyp100208/Caffe_action's transpose_layer.cu, its kernels compiled for the CPU."""
    fields = f"transpose_param {{ dim: {dims[0]} dim: {dims[1]} }}"
    layer = make(TEXT % "Transpose" + fields, dialect="action")
    check_gradients(layer, lambda x: x.swapaxes(*dims), [X], [0])
    for wrong in ("1 dim: 1", "0", "1 dim: 4", "0 dim: 1 dim: 2"):
        with pytest.raises(NetError, match="expected two of the axes 0 to 3"):
            make(TEXT % "Transpose" + f"transpose_param {{ dim: {wrong} }}", dialect="action").tops([X.shape])


@pytest.mark.parametrize(("segments", "axis", "clips"), [(2, 1, 1), (4, 2, 6), (6, -2, 4)])
def test_segments_before_clips(segments: int, axis: int, clips: int) -> None:
    """As Lyp100208/Caffe_action's permute_layer.cu, its kernels compiled for the CPU."""
    layer = make(TEXT % "Permute" + f"permute_param {{ num_seg: {segments} axis: {axis} }}")
    check_gradients(layer, lambda x: x.reshape(clips, segments, -1).swapaxes(0, 1), [X], [0])
    with pytest.raises(NetError, match="expected a num_seg that divides the 2 rows before axis 1, found 5"):
        make(TEXT % "Permute" + "permute_param { num_seg: 5 }").tops([X.shape])


def test_reverse_does_not_count_its_axis_from_the_end() -> None:
    """senlinuc/caffe_ocr's reverse_layer.cpp, compiled, aborts: Check failed: axis_ >= 0."""
    with pytest.raises(NetError, match="expected 0 to 3, found -2"):
        make(TEXT % "Reverse" + "reverse_param { axis: -2 }").tops([X.shape])


@pytest.mark.parametrize("kind", ["Reverse", "Reorg", "Transpose transpose_param { dim: [0, 1, 3, 2] }"])
def test_orders_are_never_changed_in_place(kind: str) -> None:
    name, _, fields = kind.partition(" ")
    layer = make(f'name: "l" type: "{name}" bottom: "x" top: "x" {fields}')
    with pytest.raises(NetError, match="cannot work in place"):
        layer.tops([X.shape])


def test_switch_is_its_first_bottom() -> None:
    """As limuhit/CCN's switch_layer.cpp, compiled, computes and lets gradients through."""
    layer = make('name: "l" type: "Switch" bottom: "a" bottom: "b" bottom: "c" top: "y"')
    others = [np.ones(X.shape), np.ones((2, 3))]
    result = run(layer, [X, *others], dys=[X[::-1].astype(np.float32)])
    np.testing.assert_array_equal(result.tops[0], X.astype(np.float32))
    np.testing.assert_array_equal(result.bottoms[0], X[::-1].astype(np.float32))
    assert not result.bottoms[1].any() and not result.bottoms[2].any()


def shuffled(x: np.ndarray, group: int) -> np.ndarray:
    """The reference's loop: row i, column j of [group, C / group] goes to row j, column i."""
    y, width = np.zeros_like(x), x.shape[1] // group
    for i in range(group):
        for j in range(width):
            y[:, j * group + i] = x[:, i * width + j]
    return y


@pytest.mark.parametrize("group", [1, 3, 4])
def test_shuffled_channels(group: int) -> None:
    layer = make(TEXT % "ShuffleChannel" + f"shuffle_channel_param {{ group: {group} }}")
    check_gradients(layer, lambda x: shuffled(x, group), [X], [0])


def reorganised(x: np.ndarray, s: int, reverse: bool) -> np.ndarray:
    """The reference's loop over flat memory: without reverse y[bottom index] = x[top index], else the other way."""
    batch, channels, high, wide = x.shape
    deep = channels // (s * s)
    flat, y = x.reshape(-1), np.zeros(x.size)
    for n, c, h, w in np.ndindex(batch, channels, high, wide):
        one = w + wide * (h + high * (c + channels * n))
        offset = c // deep
        other = w * s + offset % s + wide * s * (h * s + offset // s + high * s * (c % deep + deep * n))
        if reverse:
            y[other] = flat[one]
        else:
            y[one] = flat[other]
    if reverse:
        return y.reshape(batch, deep, high * s, wide * s)
    return y.reshape(batch, channels * s * s, high // s, wide // s)


@pytest.mark.parametrize("reverse", [False, True])
def test_reorg_follows_darknets_order(reverse: bool) -> None:
    layer = make(TEXT % "Reorg" + f"reorg_param {{ stride: 2 reverse: {str(reverse).lower()} }}")
    check_gradients(layer, lambda x: reorganised(x, 2, reverse), [X], [0])


PAIR = 'name: "m" type: "MergeCrop" bottom: "a" bottom: "b" top: "y" '
B = RANDOM.normal(0, 1, (2, 5, 9, 6))
CENTRE = (slice(None), slice(None), slice(2, 6))  # (9 - 4) / 2 rows from the top


def test_merge_crop_stacks_and_passes_the_gradient_to_the_first() -> None:
    check_gradients(make(PAIR), lambda a, b: np.concatenate([a, b[CENTRE]], 1), [X, B], [0])
    assert not run(make(PAIR), [X, B]).bottoms[1].any()


def test_merge_crop_adds_and_obeys_its_flags() -> None:
    a = RANDOM.normal(0, 1, (2, 5, 4, 6))
    both = PAIR + "mergecrop_param { operation: ADD backward: false backward: true }"
    check_gradients(make(both), lambda a, b: a + b[CENTRE], [a, B], [1])
    assert not run(make(both), [a, B]).bottoms[0].any()
    second = make(PAIR + "mergecrop_param { operation: ADD forward: false }")
    dy = RANDOM.normal(0, 1, a.shape).astype(np.float32)
    found = run(second, [a, B], dys=[dy])
    np.testing.assert_array_equal(found.tops[0], B[CENTRE].astype(np.float32))
    np.testing.assert_array_equal(found.bottoms[0], dy)  # mergecrop_layer.cu: only backward_a decides


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Transpose transpose_param { dim: 0 dim: 1 dim: 1 dim: 3 }", r"each of the axes 0 to 3 once as dim"),
        ("Reverse reverse_param { axis: 4 }", "axis 4 is out of range"),
        ("ShuffleChannel shuffle_channel_param { group: 5 }", "channels in 5 equal groups"),
        ("Reorg reorg_param { stride: 3 }", "channels that 9 divides"),
        ("Reorg", "needs a stride of at least 1"),
    ],
)
def test_bottoms_that_do_not_fit(text: str, message: str) -> None:
    kind, _, fields = text.partition(" ")
    with pytest.raises(NetError, match=message):
        make(TEXT % kind + fields).tops([X.shape])


def test_merge_crop_needs_a_larger_second_bottom() -> None:
    with pytest.raises(NetError, match="a second bottom at least as large"):
        make(PAIR).tops([(2, 3, 5, 5), (2, 3, 5, 4)])


def test_crop_center_cuts_both_ends_of_each_axis() -> None:
    layer = make(
        'name: "l" type: "CropCenter" bottom: "x" top: "y" '
        "crop_center_param { crop_size: 0 crop_size: 1 crop_size: 2 crop_size: 3 }"
    )
    random = np.random.default_rng(4)
    x, dy = random.normal(size=(2, 4, 7, 9)), random.normal(size=(2, 2, 3, 3)).astype(np.float32)
    found = run(layer, [x], dys=[dy])
    np.testing.assert_allclose(found.tops[0], x[:, 1:3, 2:5, 3:6], rtol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], np.pad(dy, [(0, 0), (1, 1), (2, 2), (3, 3)]))
    with pytest.raises(NetError, match="below half"):
        layer.tops([(2, 4, 4, 9)])


def test_dycrop_is_taken_for_crop() -> None:
    layer = make(
        'name: "l" type: "DYCrop" bottom: "x" bottom: "r" top: "y" dycrop_param { axis: 2 offset: 1 offset: 3 }'
    )
    x = np.random.default_rng(4).normal(size=(2, 3, 6, 8))
    found = run(layer, [x, np.zeros((2, 1, 4, 5))])
    np.testing.assert_allclose(found.tops[0], x[:, :, 1:5, 3:8], rtol=1e-6)
    assert "source is not public" in layer.read_as
