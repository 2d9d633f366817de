"""Distances between places and those around them, against the loops of the reference."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(67)
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '
WINDOW = "convolution_param { kernel_h: 3 kernel_w: 2 pad: 2 stride_h: 2 stride_w: 1 dilation: 2 } "
FAR = np.finfo(np.float32).max / 100


def places(height: int, width: int):
    """Yield top place, tap, center and neighbour of the window above, with pads of 2."""
    for row, column in np.ndindex((height + 4 - 5) // 2 + 1, width + 4 - 3 + 1):
        for i, j in np.ndindex(3, 2):
            y, x = row * 2 - 2, column - 2
            yield (row, column), i * 2 + j, (y + 2, x + 2), (y + i * 2, x + j * 2)


def within(place: tuple[int, int], height: int, width: int) -> bool:
    return 0 <= place[0] < height and 0 <= place[1] < width


def distances(x, dy, norm, center, bounds):
    """im2dist.cpp, im2dist_cpu and dist2im_cpu; dy None for none."""
    n, _, h, w = x.shape
    y, dx = np.zeros((n, 6, (h - 1) // 2 + 1, w + 2)), np.zeros(x.shape)
    for at, tap, middle, here in places(h, w):
        if not within(middle, h, w):
            continue
        inside, own = within(here, h, w), here == middle
        d = x[(..., *middle)] - x[(..., *here)] if inside and not own else np.zeros(x.shape[:2])
        y[:, tap, at[0], at[1]] = (d * d / 2 if norm == "L2" else abs(d)).sum(1)
        if (own and center) or (bounds and not inside):
            y[:, tap, at[0], at[1]] = FAR
        if not own:
            slope = d if norm == "L2" else np.where(d <= 0, -1, 1)
            pull = slope * dy[:, tap, at[0], at[1], None]
            dx[(..., *middle)] += pull
            if inside:
                dx[(..., *here)] -= pull
    return y, dx


@pytest.mark.parametrize(("norm", "center", "bounds"), [("L1", 0, 0), ("L2", 0, 0), ("L1", 1, 1), ("L2", 1, 0)])
def test_distances_to_neighbours(norm: str, center: int, bounds: int) -> None:
    flags = f"remove_center: {'true' if center else 'false'} remove_bounds: {'true' if bounds else 'false'}"
    layer = make(ONE % "Im2dist" + WINDOW + f"im2dist_param {{ norm: {norm} {flags} }}")
    x = RANDOM.normal(size=(2, 3, 5, 7))
    (shape,) = layer.tops([x.shape])
    dy = RANDOM.normal(size=shape).astype(np.float32)
    found = run(layer, [x], dys=[dy])
    y, dx = distances(x, dy, norm, center, bounds)
    assert y.shape == shape
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-4, atol=1e-5)
    if not (center or bounds):
        np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ignored", [None, 2])
def test_parity_of_labels(ignored: int | None) -> None:
    field = "" if ignored is None else f"im2parity_param {{ ignore_label: {ignored} }}"
    x = RANDOM.integers(0, 4, (2, 1, 5, 7))
    found = run(make(ONE % "Im2parity" + WINDOW + field), [x]).tops[0]
    for at, tap, middle, here in places(5, 7):
        for item in range(2):
            wanted = ignored or 0
            if within(middle, 5, 7):
                own, other = x[(item, 0, *middle)], x[(item, 0, *here)] if within(here, 5, 7) else 0
                wanted = ignored if ignored in (own, other) else own == other
            assert found[item, tap, at[0], at[1]] == wanted


def test_loss_of_distances() -> None:
    bare = 'name: "l" type: "DistLoss" bottom: "d" bottom: "p" top: "y" dist_loss_param { alpha: 1 beta: 2 } '
    text = bare.partition("dist")[0] + "convolution_param { kernel_size: 3 } "
    layer = make(text + "dist_loss_param { alpha: 0.5 beta: 2 ignore_label: 255 }")
    d, parity = RANDOM.uniform(0, 3, (2, 3, 4, 5)), RANDOM.choice([0, 1, 255], (2, 3, 4, 5))
    found = run(layer, [d, parity], dys=[np.float32(7)])
    margin = np.where(parity == 1, np.maximum(d - 0.5, 0), np.where(parity == 0, np.maximum(2 - d, 0), 0))
    np.testing.assert_allclose(found.tops[0], margin.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], np.where(parity == 0, -margin, margin) / d.size, rtol=1e-4, atol=1e-7)
    with pytest.raises(NetError, match="0 < alpha < beta"):
        make(text + "dist_loss_param { alpha: 2 beta: 1 }").tops([(2, 3, 4, 5)] * 2)
    with pytest.raises(NetError, match=r"expected a kernel_size in convolution_param, found \[\]"):
        make(bare).tops([(2, 3, 4, 5)] * 2)


@pytest.mark.parametrize("kind", ["SUM", "MAX"])
def test_groups_of_channels(kind: str) -> None:
    def forward(x: np.ndarray) -> np.ndarray:
        groups = x.reshape(2, 3, 2, 4, 5)
        return groups.sum(2) if kind == "SUM" else groups.max(2)

    layer = make(ONE % "ChannelReduce" + f"channel_reduce_param {{ num_channels: 3 operation: {kind} }}")
    check_gradients(layer, forward, [RANDOM.normal(size=(2, 6, 4, 5))], [0])


def test_convolution_of_columns() -> None:
    size = "num_output: 6 kernel_h: 3 kernel_w: 2 pad: 1 group: 2"
    x, weight, bias = RANDOM.normal(size=(2, 4, 5, 7)), RANDOM.normal(size=(6, 2, 3, 2)), RANDOM.normal(size=6)
    plain = make(ONE % "Convolution" + f"convolution_param {{ {size} }}")
    ours = make(ONE % "Convolution" + f"convolution_param {{ {size} bottom_is_im2col: true }}")
    columns = run(make(ONE % "Im2col" + "convolution_param { kernel_h: 3 kernel_w: 2 pad: 1 }"), [x]).tops[0]
    wanted = run(plain, [x], [weight, bias])
    found = run(ours, [columns], [weight, bias])
    np.testing.assert_allclose(found.tops[0], wanted.tops[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[0], wanted.params[0], rtol=1e-4, atol=1e-4)
    assert ours.macs([columns.shape]) == plain.macs([x.shape])
    with pytest.raises(NetError, match="multiples of 12"):
        ours.tops([(2, 4, 5, 7)])


def test_smooth_l1_loss_is_divided_by_places_too() -> None:
    text = 'name: "l" type: "SmoothL1Loss" bottom: "a" bottom: "b" bottom: "w" top: "y"'
    a, b, w = (RANDOM.normal(size=(2, 4, 3, 5)) for _ in range(3))
    d = w * (a - b)
    small = abs(d) < 1
    found = run(make(text, dialect="segaware"), [a, b, w], dys=[np.float32(3)])
    np.testing.assert_allclose(found.tops[0], np.where(small, d * d / 2, abs(d) - 0.5).sum() / 30, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], np.where(small, d, np.sign(d)) * 3 / 30, rtol=1e-4, atol=1e-6)
