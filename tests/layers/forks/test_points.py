"""Losses of little supervision, against the reference's loops; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(71)
TWO = 'name: "l" type: "SoftmaxWithLossExpectation" bottom: "x" bottom: "t" top: "y" '
X = RANDOM.normal(size=(1, 5, 3, 4))


def labels(channels: int, first: int) -> np.ndarray:
    found = np.zeros((1, channels, 3, 4))
    found[0, 0] = 255
    found[0, 0, 0, 1], found[0, 0, 2, 2] = 3 + first, 1 + first
    found[0, 1] = RANDOM.integers(0, 256, (3, 4))
    found[0, 2, 0, :2] = 3 + first, 1 + first
    found[0, 3:] = RANDOM.integers(1, 256, (3, 4))
    return found


def expected(x, t, ignored=(), plain=(), sift=0):
    """softmax_loss_expectation_layer.cu, SoftmaxLossExpectationForwardGPU."""
    p = np.exp(x[0]) / np.exp(x[0]).sum(0)
    p, t = p.reshape(5, 12), t[0].reshape(-1, 12)
    present, at = set(), 0
    while True:
        kind = int(t[2, at]) - sift
        if kind < 0:
            break
        present.add(kind)
        if kind == 0 and not sift:
            break
        at += 1
    clicked = [] if "location" in ignored else [s for s in range(12) if t[0, s] != 255]
    weights = [t[3, s] / 255 if len(t) > 3 else 1 for s in clicked]
    loss = 0.0
    for c in range(5):
        best = p[c].argmax()
        if c in present and "classes" not in ignored:
            loss -= math.log(p[c, best]) / (1 if "classes" in plain else len(present))
        if c not in present and "constraint" not in ignored:
            loss -= math.log(1 - p[c, best]) / (1 if "constraint" in plain else 5 - len(present))
    for s, weight in zip(clicked, weights, strict=True):
        loss -= weight * math.log(p[int(t[0, s]) - sift, s]) / (1 if "supervised" in plain else sum(weights))
    for s in range(12):
        if t[0, s] == 255 and "objectness" not in ignored:
            prior = 1 - (int(t[1, s]) + 1) / 257
            term = prior * math.log(p[0, s]) + (1 - prior) * math.log(1 - p[0, s])
            loss -= term / (1 if "objectness" in plain else 12 - len(clicked))
    return np.asarray(loss)


@pytest.mark.parametrize(
    ("ignored", "plain", "channels", "sift"),
    [
        ((), (), 3, 0),
        ((), ("classes", "constraint", "supervised", "objectness"), 3, 0),
        (("location",), (), 3, 1),
        (("classes", "constraint"), (), 4, 0),
        (("objectness",), ("supervised",), 4, 1),
    ],
)
def test_terms_of_the_loss(ignored, plain, channels, sift) -> None:
    fields = [f"ignore_{name}: true" for name in ignored] + [f"normalize_{name}: false" for name in plain]
    fields += ["ignore_label: 255", f"ignore_rank: {'true' if channels == 3 else 'false'}"]
    layer = make(TWO + f"loss_param {{ {' '.join(fields)} is_siftflow: {'true' if sift else 'false'} }}")
    t = labels(channels, sift)
    values = [X.astype(np.float32), t.astype(np.float32)]
    deciding = layer.deciding(values, [value.shape for value in values], RANDOM)
    loss, slope = deciding.decisions
    np.testing.assert_allclose(loss, expected(X, t, ignored, plain, sift), rtol=1e-5)
    for _ in range(3):
        step = RANDOM.normal(size=X.shape)
        moved = [expected(X + sign * 1e-6 * step, t, ignored, plain, sift) for sign in (1, -1)]
        np.testing.assert_allclose((slope * step).sum(), (moved[0] - moved[1]) / 2e-6, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run(layer, values, dys=[np.float32(3)]).bottoms[0], 3 * slope, rtol=1e-5)


def test_labels_must_fit() -> None:
    layer = make(TWO + "loss_param { ignore_label: 255 }")
    with pytest.raises(NetError, match="3 channels of labels"):
        layer.tops([(1, 5, 3, 4), (1, 1, 3, 4)])
    wrong = labels(3, 0)
    wrong[0, 2, 0, 0] = 7
    with pytest.raises(NetError, match="classes of the image from 0 to 4"):
        run(layer, [X, wrong])
    given = layer.stand_in(1, [(1, 5, 3, 4), (1, 3, 3, 4)], RANDOM)
    assert np.isfinite(run(layer, [X, given]).tops[0])


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
def test_classes_among_labels(pool: str) -> None:
    fields = f"create_mask_vector_param {{ num_label: 3 pool: {pool} }}"
    text = f'name: "v" type: "CreateMaskVector" bottom: "x" top: "y" {fields}'
    x = np.array([[[[0, 0], [255, 0]]], [[[2, 0], [2, 1]]]])
    found = run(make(text), [x]).tops[0][:, :, 0, 0]
    counts = np.array([[3, 0, 0], [4, 1, 2]])
    np.testing.assert_array_equal(found, counts / 4 if pool == "AVE" else counts > 0)


def test_corners_share_what_they_have_in_common() -> None:
    tops = 'top: "a" top: "b" top: "c"'
    text = f'name: "c" type: "CornerCrop" bottom: "x" {tops} corner_crop_param {{ crop_h: 4 crop_w: 5 %s }}'
    layer = make(text % 'position: "upperleft" position: "lowerright" position: "center"')
    x = RANDOM.normal(size=(2, 3, 6, 7))
    check_gradients(make(text.replace(tops, 'top: "a"') % 'position: "lowerleft"'), lambda x: x[:, :, 2:, :5], [x], [0])
    starts = [(0, 0), (2, 2), (1, 1)]
    dys = [RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32) for _ in starts]
    found = run(layer, [x], dys=dys)
    dx, counts = np.zeros(x.shape), np.zeros(x.shape)
    for top, dy, (row, column) in zip(found.tops, dys, starts, strict=True):
        np.testing.assert_array_equal(top, x[:, :, row : row + 4, column : column + 5].astype(np.float32))
        dx[:, :, row : row + 4, column : column + 5] += dy
        counts[:, :, row : row + 4, column : column + 5] += 1
    np.testing.assert_allclose(found.bottoms[0], dx / np.maximum(counts, 1), rtol=1e-5, atol=1e-6)
    with pytest.raises(NetError, match="even margin"):
        layer.tops([(2, 3, 7, 7)])
