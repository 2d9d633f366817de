"""Layers of forks for segmentation, against loops over pixels, and their gradients by differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(6)
X = RANDOM.normal(0, 1, (2, 3, 5, 4))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" %s'
SCORED = 'name: "l" type: "%s" bottom: "x" bottom: "l" top: "y" %s'


def confusion(scores: np.ndarray, labels: np.ndarray, ignored: tuple[int, ...] = ()) -> np.ndarray:
    matrix = np.zeros((scores.shape[1],) * 2)
    for n, h, w in np.ndindex(len(scores), *scores.shape[2:]):
        actual = int(labels[n, 0, h, w])
        if actual not in ignored:
            best = max(range(scores.shape[1]), key=lambda c: (scores[n, c, h, w], c))
            matrix[actual, best] += 1
    return matrix


@pytest.mark.parametrize("ignored", [(), (2,), (255, 0)])
def test_seg_accuracy(ignored: tuple[int, ...]) -> None:
    scores = RANDOM.integers(0, 3, (2, 5, 4, 6)).astype(float)  # many are equal
    labels = RANDOM.integers(0, 4, (2, 1, 4, 6)).astype(float)  # none of the last class
    if 255 in ignored:
        labels[:, :, 2] = 255
    fields = f"seg_accuracy_param {{ {' '.join(f'ignore_label: {label}' for label in ignored)} }}"
    layer = make(SCORED % ("SegAccuracy", fields))
    result = run(layer, [scores, labels])
    matrix = confusion(scores, labels, ignored)
    right, rows, columns = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    union = rows + columns - right
    expected = [
        right.sum() / matrix.sum(),
        (right[rows > 0] / rows[rows > 0]).mean(),
        np.where(union > 0, right / np.maximum(union, 1), 1).mean(),
    ]
    assert result.tops[0].shape == (1, 1, 1, 3)
    np.testing.assert_allclose(result.tops[0].ravel(), expected, rtol=1e-5)
    assert not result.bottoms[0].any()
    assert layer.classes(1, [scores.shape, labels.shape]) == 5
    assert layer.is_ignored(np.array([0, 1, 2, 255])).tolist() == [value in ignored for value in (0, 1, 2, 255)]


@pytest.mark.parametrize("top_k", [1, 2])
def test_eltwise_accuracy(top_k: int) -> None:
    scores = RANDOM.integers(0, 3, (2, 5, 4, 6)).astype(float)
    labels = RANDOM.integers(0, 5, (2, 1, 4, 6)).astype(float)
    fields = f"eltwise_accuracy_param {{ top_k: {top_k} ignore_label: 3 }}"
    result = run(make(SCORED % ("EltwiseAccuracy", fields)), [scores, labels])
    hits = []
    for n, h, w in np.ndindex(2, 4, 6):
        best = sorted(range(5), key=lambda c: (-scores[n, c, h, w], -c))[:top_k]
        hits += [int(labels[n, 0, h, w]) in best] if labels[n, 0, h, w] != 3 else []
    np.testing.assert_allclose(result.tops[0], np.full((1, 1, 1, 1), np.mean(hits)), rtol=1e-6)


@pytest.mark.parametrize(("first", "last"), [(1, 2), (0, 0), (-1, -2), (-1, 0)])
def test_padding(first: int, last: int) -> None:
    layer = make(TEXT % ("Padding", f"padding_param {{ pad_beg: {first} pad_end: {last} }}"))

    def forward(x: np.ndarray) -> np.ndarray:
        if max(first, last) > 0:
            return np.pad(x, [(0, 0), (0, 0), (first, last), (first, last)])
        return x[:, :, -first : x.shape[2] + last, -first : x.shape[3] + last]

    check_gradients(layer, forward, [X], [0])


def unpooled(
    x: np.ndarray, size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], method: str
) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *size))
    for h, w in np.ndindex(*x.shape[2:]):
        top, left = h * stride[0], w * stride[1]
        if method == "MAX":
            y[:, :, top, left] = x[:, :, h, w]
            continue
        bottom, right = min(top + kernel[0], size[0]), min(left + kernel[1], size[1])
        share = (bottom - top) * (right - left) if method == "AVE" else 1
        y[:, :, top:bottom, left:right] += (x[:, :, h, w] / share)[..., None, None]
    return y


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("fields", "kernel", "stride", "size"),
    [
        ("kernel_size: 2 stride: 2", (2, 2), (2, 2), (11, 9)),
        ("kernel_h: 3 kernel_w: 4 stride_h: 1 stride_w: 3", (3, 4), (1, 3), (7, 13)),
        ("kernel_size: 3 stride: 2 unpool_h: 10 unpool_w: 8", (3, 3), (2, 2), (10, 8)),
        ("kernel_size: 2 stride: 2 unpool_size: 12", (2, 2), (2, 2), (12, 12)),
    ],
)
def test_unpooling(
    fields: str, kernel: tuple[int, int], stride: tuple[int, int], size: tuple[int, int], method: str
) -> None:
    layer = make(TEXT % ("Unpooling", f"unpooling_param {{ unpool: {method} {fields} }}"))
    check_gradients(layer, lambda x: unpooled(x, size, kernel, stride, method), [X], [0])


def test_the_gradient_of_tiles_is_a_mean() -> None:
    fields = "unpooling_param { unpool: TILE kernel_size: 2 stride: 2 unpool_h: 10 unpool_w: 8 }"
    layer = make(TEXT % ("Unpooling", fields))
    dy = RANDOM.normal(size=(2, 3, 10, 8))
    result = run(layer, [X], dys=[dy.astype(np.float32)])
    np.testing.assert_allclose(result.tops[0], unpooled(X, (10, 8), (2, 2), (2, 2), "TILE"), rtol=1e-5)
    expected = dy.reshape(2, 3, 5, 2, 4, 2).mean((3, 5))
    np.testing.assert_allclose(result.bottoms[0], expected, rtol=1e-5, atol=1e-6)


def test_unpooling_by_a_mask() -> None:
    mask = np.stack([RANDOM.permutation(90)[:20] for _ in range(6)]).reshape(X.shape)
    fields = "unpooling_param { kernel_size: 2 stride: 2 unpool_h: 10 unpool_w: 9 }"
    layer = make(f'name: "l" type: "Unpooling" bottom: "x" bottom: "m" top: "y" {fields}')
    assert layer.classes(1, [X.shape, X.shape]) == 90

    def forward(x: np.ndarray, m: np.ndarray) -> np.ndarray:
        y = np.zeros((2, 3, 90))
        np.put_along_axis(y, m.reshape(2, 3, -1).astype(int), x.reshape(2, 3, -1), 2)
        return y.reshape(2, 3, 10, 9)

    check_gradients(layer, forward, [X, mask], [0])


@pytest.mark.parametrize(("pads", "size"), [("", (10, 8)), ("pad: 1", (8, 6)), ("pad_h: 0 pad_w: 1", (10, 6))])
def test_unpooling_by_a_mask_has_the_size_of_its_windows(pads: str, size: tuple[int, int]) -> None:
    fields = f"unpooling_param {{ kernel_size: 2 stride: 2 {pads} }}"
    layer = make(f'name: "l" type: "Unpooling" bottom: "x" bottom: "m" top: "y" {fields}')
    assert layer.dialect == "cedn"
    assert layer.tops([X.shape, X.shape]) == ((2, 3, *size),)


@pytest.mark.parametrize(("fields", "size"), [("scale: 3", (15, 12)), ("output_h: 9 output_w: 11 scale: 2", (9, 11))])
def test_unpooling_by_a_mask_to_a_size(fields: str, size: tuple[int, int]) -> None:
    text = f'name: "l" type: "Unpooling" bottom: "x" bottom: "m" top: "y" unpooling_param {{ {fields} }}'
    layer = make(text)
    assert layer.dialect == "fusenet"
    assert layer.tops([X.shape, X.shape]) == ((2, 3, *size),)


def test_files_are_neither_read_nor_written() -> None:
    sink = make('name: "l" type: "MatWrite" bottom: "x" bottom: "y" mat_write_param { prefix: "p" }')
    assert sink.tops([(2,), ()]) == ()
    layer = make('name: "l" type: "MatRead" top: "x" top: "y" mat_read_param { prefix: "p" batch_size: 3 }')
    assert layer.tops([]) == (None, None)
    layer.shape_overrides = {"x": (3, 4)}
    assert layer.tops([]) == ((3, 4), None)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("Padding padding_param { pad_beg: 1 pad_end: -1 }", [X.shape], "must not differ in sign"),
        ("Padding padding_param { pad_beg: -2 pad_end: -2 }", [X.shape], "leave no element"),
        ("Unpooling", [X.shape], "expected a positive kernel and stride"),
        ("Unpooling unpooling_param { kernel_size: 2 pad: 1 }", [X.shape], "only a pad of 0"),
        ("Unpooling unpooling_param { kernel_size: 2 kernel_h: 1 }", [X.shape], "give kernel_size, or both"),
        ("Unpooling unpooling_param { kernel_size: 2 stride: 3 unpool_size: 9 }", [X.shape], "outside of a top"),
        ("MatWrite mat_write_param { period: 0 }", [X.shape], "a positive period"),
    ],
)
def test_what_does_not_fit(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    kind, _, fields = text.partition(" ")
    written = f'name: "l" type: "{kind}" bottom: "x" {fields}' if kind == "MatWrite" else TEXT % (kind, fields)
    with pytest.raises(NetError, match=message):
        make(written).tops(shapes)


@pytest.mark.parametrize("kind", ["SegAccuracy", "EltwiseAccuracy"])
def test_labels_of_other_pixels(kind: str) -> None:
    with pytest.raises(NetError, match="expected scores"):
        make(SCORED % (kind, "")).tops([X.shape, (2, 1, 5, 5)])
