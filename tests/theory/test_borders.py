"""Pairs of places at borders: against sums over all pairs, and against what drawn nets compute."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.graph import Graph
from caffestat.theory import Signal, normal, propagate
from caffestat.theory.borders import (
    Pairs,
    correlations_of,
    differences_along,
    later,
    middle,
    steady,
    sum_over_common_taps,
    window_covariances,
)
from caffestat.theory.lags import Axis
from caffestat.theory.quadrature import NODES

LONG = Axis(size=13, places=7, kernel=3, stride=2, pad=1)
SHORT = Axis(size=9, places=9, kernel=2, stride=1, pad=1, dilation=2)


@pytest.mark.parametrize("axis", [LONG, SHORT, Axis(12, 12, 3, 1, 1)])
def test_sums_over_common_taps_are_those_of_all_pairs(axis: Axis) -> None:
    random = np.random.default_rng(1)
    far = random.random(axis.size)
    whole = np.outer(far, far)
    near = np.abs(np.subtract.outer(np.arange(axis.size), np.arange(axis.size))) < 8
    whole[near] = ((np.add.outer(far, far) / 3) ** 2)[near]
    products = np.array([[whole[i, min(i + lag, axis.size - 1)] for lag in range(8)] for i in range(axis.size)])
    found = sum_over_common_taps(axis, products, far)
    reads = [
        [place * axis.stride - axis.pad + t * axis.dilation for t in range(axis.kernel)] for place in range(axis.places)
    ]
    for place, lag in product(range(axis.places), range(found.shape[1])):
        if place + lag < axis.places:
            pairs = zip(reads[place], reads[place + lag], strict=True)
            wanted = sum(whole[e, f] for e, f in pairs if min(e, f) >= 0 and max(e, f) < axis.size)
            assert found[place, lag] == pytest.approx(wanted), (place, lag)


def _sloped(sizes: tuple[int, ...]) -> Pairs:
    """Pairs that differ by a share of each lag, more so near the beginning of the first axis."""
    lags = [np.arange(min(size, 8)) for size in sizes]
    slopes = (0.02, 0.05)
    near = 1 - sum(s * lag for s, lag in zip(slopes, np.meshgrid(*lags, indexing="ij"), strict=True))
    tables = [1 - s * np.tile(lag, (size, 1)) for s, lag, size in zip(slopes, lags, sizes, strict=True)]
    tables[0][:2, 1:] -= 0.1
    return Pairs(tables, near, 0.3)


def _difference(one: tuple[int, int], other: tuple[int, int]) -> float:
    rows, columns = abs(one[0] - other[0]), abs(one[1] - other[1])
    return 0.02 * rows + (0.1 if rows and min(one[0], other[0]) < 2 else 0) + 0.05 * columns


def test_pairs_of_two_windows_are_counted_one_by_one() -> None:
    axes = [Axis(9, 5, 3, 2, 1), Axis(7, 3, 2, 2)]
    found = differences_along(axes, _sloped((9, 7)), 0)
    held = [[e for e in range(2 * place - 1, 2 * place + 2) if 0 <= e < 9] for place in range(5)]
    columns = (2, 3)  # of the window in the middle
    for place, lag in ((0, 0), (0, 1), (1, 1), (0, 2), (2, 0), (3, 1)):
        one, other = (list(product(held[at], columns)) for at in (place, place + lag))
        wanted = [_difference(e, f) for e in one for f in other if e != f]
        assert found[place, lag] == pytest.approx(np.mean(wanted)), (place, lag)


def test_windows_hold_what_lies_inside_and_their_kind_tells_their_covariances() -> None:
    axes, profile = [Axis(9, 5, 3, 2, 1), Axis(7, 3, 2, 2)], np.ones((9, 7))
    profile[0] = 0.25
    covariances, inside, which = window_covariances(axes, _sloped((9, 7)), profile)
    assert which.shape == (5, 3)
    assert inside[which[0, 1]].tolist() == [False] * 2 + [True] * 4
    first = covariances[which[0, 1]]
    assert first[2, 4] == pytest.approx(0.5 * (1 - 0.12))  # √0.25 times 1 - ρ of two rows at the border
    assert first[2, 2] == pytest.approx(0.25)
    assert covariances[which[3, 2]][0, 5] == pytest.approx(1 - 0.04 - 0.05)
    assert which[3, 0] == which[3, 2] and which[0, 0] != which[3, 0]


def test_lags_mean_the_same_everywhere_unless_told() -> None:
    near = np.linspace(1, 0.4, 15).reshape(3, 5)
    one, other = steady(near, (20, 5))
    assert one.shape == (20, 3) and one[7].tolist() == near[:, 0].tolist()
    assert other.shape == (5, 5) and other[2].tolist() == near[0].tolist()
    assert later(np.array([3.0, 1.0, 2.0]), 2).tolist() == [[3, 1], [1, 2], [2, 2]]
    assert middle(near, 1).tolist() == near[1].tolist()
    assert correlations_of(np.array([[4.0, 3.0], [9.0, 9.0]]))[0, 1] == pytest.approx(0.5)


LAYERS, CHANNELS = 12, 48


@cache
def _stack() -> tuple[Signal, Signal, list[np.ndarray], list[np.ndarray]]:
    """A plain net of padded convolutions and a maximum pool: what is predicted of both, and 24 draws of both."""
    g = Graph()
    x = value = g.input("x", (3, CHANNELS, 12, 10))
    names = []
    for index in range(LAYERS):
        names.append(g.param(f"w{index}", (CHANNELS, CHANNELS, 3, 3)))
        value = g.emit("Conv", g.emit("Relu", value) if index else value, names[-1], pads=[1] * 4)
    pooled = g.emit("MaxPool", g.emit("Relu", value), kernel_shape=[2, 2], strides=[2, 2])
    g.infer()
    g.outputs = [value, pooled]
    std = (2 / CHANNELS / 9) ** 0.5
    walk = propagate(g, {x: normal(0.0, 1.0), **{name: Signal(std * NODES, 1.0, 1.0) for name in names}}, {})
    before, behind = walk.signal(value), walk.signal(pooled)
    assert before is not None and behind is not None
    compiled, random = Compiled(g), np.random.default_rng(4)
    draws = []
    for _ in range(24):
        weights = {name: (std * random.standard_normal(g.shape(name))).astype(np.float32) for name in names}
        found = compiled.run({x: random.standard_normal((3, CHANNELS, 12, 10)).astype(np.float32)}, weights)
        draws.append((found[value].astype(np.float64), found[pooled].astype(np.float64)))
    return before, behind, [value for value, _ in draws], [value for _, value in draws]


def test_neighbours_at_a_border_differ_more_than_in_the_middle() -> None:
    before, _, values, _ = _stack()
    whole = np.stack(values)[..., 5].reshape(-1, 12)  # rows, in the middle column
    drawn = np.corrcoef(whole.T)
    table = before.rho_along[0]
    assert 1 - table[0, 1] > 2 * (1 - table[5, 1])
    for place, lag in ((0, 1), (1, 1), (5, 1), (0, 2), (4, 3), (0, 5)):
        assert table[place, lag] == pytest.approx(drawn[place, place + lag], abs=0.05), (place, lag)


def test_a_pool_behind_padded_convolutions_adds_as_much_as_is_measured() -> None:
    """A mean over all pairs of neighbours would predict 5 % more."""
    before, behind, values, pooled = _stack()
    ratios = [(p**2).mean() / (np.maximum(v, 0) ** 2).mean() for v, p in zip(values, pooled, strict=True)]
    assert behind.second / (before.second / 2) == pytest.approx(np.mean(ratios), rel=0.02)


def test_the_profile_behind_a_pool_is_what_is_measured_place_by_place() -> None:
    _, behind, _, pooled = _stack()
    assert behind.spatial_profile is not None
    drawn = np.mean([(p**2).mean(axis=(0, 1)) / (p**2).mean() for p in pooled], axis=0)
    drawn = (drawn + drawn[::-1] + drawn[:, ::-1] + drawn[::-1, ::-1]) / 4
    assert behind.spatial_profile == pytest.approx(drawn, rel=0.1)
    assert drawn[0, 0] < 0.7 < 1.1 < drawn[2, 2]
