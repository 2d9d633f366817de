"""Pairs of places by their lag, against sums over all pairs and against drawn weights."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.theory import Gradient, Signal, Source, propagate
from caffestat.theory.lags import NEAR, Axis, Sharing, at_lags, lag_map, mixed, pair_weights
from caffestat.theory.quadrature import NODES

AXES = [Axis(7, 4, 3, 2, 1), Axis(9, 5, 2, 1, 0, 4)]  # sizes, places, kernels, strides, pads, dilation: all different


def _reads(axis: Axis) -> np.ndarray:
    found = np.zeros((axis.places, axis.size))
    for place in range(axis.places):
        for tap in range(axis.kernel):
            element = place * axis.stride - axis.pad + tap * axis.dilation
            if 0 <= element < axis.size:
                found[place, element] = 1
    return found


@pytest.mark.parametrize("axis", AXES)
def test_an_axis_knows_which_elements_and_taps_meet(axis: Axis) -> None:
    assert np.array_equal(axis.reads, _reads(axis))
    assert np.array_equal(axis.inside.sum(axis=1), _reads(axis).sum(axis=1))
    assert np.array_equal(axis.readers.sum(axis=1), _reads(axis).sum(axis=0))
    assert np.array_equal(axis.inside.sum(axis=0), axis.readers.sum(axis=0))


def test_a_map_says_far_where_it_does_not_reach() -> None:
    near = np.arange(6.0).reshape(2, 3)
    assert at_lags(near, -1.0, [np.array([0, 2]), np.array([1, 2, 5])]).tolist() == [[1, 2, -1], [-1, -1, -1]]
    assert lag_map((20, 3), None, 0.5, 1.0).shape == (NEAR, 3)
    assert lag_map((2, 3), near, 0.5, 9.0)[0].tolist() == [9, 1, 2]


def test_every_pair_of_places_has_a_lag() -> None:
    assert pair_weights((5, 3)).sum() == pytest.approx(5 * 3 - 1)
    assert pair_weights((5, 3))[1, 2] == pytest.approx(2 * 2 * (4 / 5) * (1 / 3))


def test_sums_over_windows_mix_the_pairs_of_their_elements() -> None:
    random = np.random.default_rng(0)
    matrices = [random.random((4, 6)), random.random((3, 5))]
    near = random.random((6, 5))

    def pair(a: tuple[int, int], b: tuple[int, int]) -> float:
        """Sum M M' over all elements of windows a and b."""
        total = 0.0
        for i, j in np.ndindex(6, 5):
            for k, m in np.ndindex(6, 5):
                weights = matrices[0][a[0], i] * matrices[1][a[1], j] * matrices[0][b[0], k] * matrices[1][b[1], m]
                total += weights * near[abs(i - k), abs(j - m)]
        return total

    found = mixed(matrices, near, 0.0)
    wanted = np.mean([pair((i, j), (i + 2, j + 1)) for i in range(2) for j in range(2)])
    assert found[2, 1] == pytest.approx(wanted)


def _drawn(axes: list[Axis], taps: str) -> np.ndarray:
    """Covariances of sums of random weights over an image of ones, place by place: [places, places]."""
    random = np.random.default_rng(1)
    weights = random.standard_normal((40_000, axes[0].kernel, axes[1].kernel))
    rows, columns = (getattr(axis, taps) for axis in axes)
    sums = np.einsum("dkl,pk,ql->dpq", weights, rows, columns).reshape(len(weights), -1)
    return np.cov(sums.T)


@pytest.mark.parametrize(("direction", "taps"), [("forward", "inside"), ("backward", "readers")])
def test_places_are_alike_as_far_as_they_have_taps_in_common(direction: str, taps: str) -> None:
    axes = [Axis(7, 4, 3, 2, 1), Axis(6, 6, 3, 1, 1)]
    sharing = getattr(Sharing, direction)(axes)
    rows, columns = (len(getattr(axis, taps)) for axis in axes)
    drawn = _drawn(axes, taps).reshape(rows, columns, rows, columns)
    whole = drawn.reshape(rows * columns, -1)
    even = np.sqrt(np.outer(np.diag(whole), np.diag(whole)))
    apart = even.reshape(drawn.shape)
    at = [(i, j, i + 1, j + 2) for i in range(rows - 1) for j in range(columns - 2)]
    assert sharing.near[1, 2] == pytest.approx(sum(drawn[k] for k in at) / sum(apart[k] for k in at), abs=0.03)
    if direction == "backward":
        even = np.full_like(whole, np.trace(whole) / len(whole))
    others = (whole.sum() - np.trace(whole)) / (even.sum() - np.trace(even))
    assert sharing.anywhere == pytest.approx(others, abs=0.03)


def test_places_between_the_steps_of_a_stride_share_nothing() -> None:
    axes = [Axis(7, 4, 1, 2), Axis(9, 3, 1, 4)]
    sharing = Sharing.backward(axes)
    met, places = 4 * 3, 7 * 9
    assert sharing.anywhere == pytest.approx(met * (met - 1) / (places * (places - 1)) / (met / places))


def _lag_one(values: np.ndarray) -> float:
    """Mean of x x' at lag (0, 1), relative to that of x²."""
    return float((values[..., :-1] * values[..., 1:]).mean() / (values**2).mean())


def test_neighbours_are_alike_behind_overlapping_pooling() -> None:
    g = Graph()
    x = g.input("x", (2, 3, 9, 8))
    y = g.emit("MaxPool", x, kernel_shape=[3, 2], strides=[1, 1])
    g.infer()
    seed = {y: Gradient.of(Source(1.0))}
    signal = propagate(g, {x: Signal(NODES)}, seed).signal(y)
    assert signal is not None
    near = signal.cross_lag((7, 7)) / signal.second
    values = np.random.default_rng(2).standard_normal((400, 9, 8))
    windows = np.lib.stride_tricks.sliding_window_view(values, (3, 2), axis=(1, 2)).max(axis=(-1, -2))
    assert near[0, 1] == pytest.approx(_lag_one(windows), abs=0.02)
    assert near[0, 2] == pytest.approx(float((windows[..., :-2] * windows[..., 2:]).mean()) / signal.second, abs=0.02)


def test_the_gradient_of_overlapping_pooling_counts_what_one_element_wins() -> None:
    g = Graph()
    x = g.input("x", (2, 3, 9, 8))
    y = g.emit("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    g.infer()
    alike = Source(1.0, cross_spatial=1.0)  # one gradient everywhere, as behind a global average
    dx = propagate(g, {x: Signal(NODES)}, {y: Gradient.of(alike)}).gradient(x)
    assert dx is not None
    values = np.pad(np.random.default_rng(3).standard_normal((300, 9, 8)), ((0, 0), (1, 1), (1, 1)), constant_values=-9)
    windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3), axis=(1, 2))
    won = (windows.max(axis=(-1, -2))[..., None, None] == windows).astype(float)
    wins = np.zeros_like(values)
    for i, j in np.ndindex(3, 3):
        wins[:, i : i + 9, j : j + 8] += won[..., i, j]
    assert dx.second == pytest.approx((wins[:, 1:-1, 1:-1] ** 2).mean(), rel=0.06)
    assert dx.cross_lag(Signal(NODES), (9, 8))[0, 1] == pytest.approx(
        float((wins[:, 1:-1, 1:-2] * wins[:, 1:-1, 2:-1]).mean()), abs=0.15
    )
