"""Windows around places that scores choose, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(61)
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("above", [0, 0.3])
def test_attention_has_one_place_at_least(above: float) -> None:
    layer = make('name: "c" type: "CheckAtt" bottom: "a" bottom: "b" top: "x" top: "y"')
    a, b = row(0.2, 0.5, 0.4), row(0.2, 0.6, 0.5 - above)
    found = run(layer, [a, b])
    wanted = (a, b) if above else (row(0.51, 0.5, 0.4), row(0.49, 0.6, 0.5))
    np.testing.assert_array_equal(found.tops[0], wanted[0])
    np.testing.assert_array_equal(found.tops[1], wanted[1])
    assert not found.bottoms[0].any()


def test_places_of_the_largest() -> None:
    a, b = row(0.2, 0.9, 0.9, 0.1, 0.7), row(0.5, 0.5, 0.2, 0.05, 0.8)
    mine = make(TWO % "ArgMaxMy" + "argmax_param { axis: -1 }")
    np.testing.assert_array_equal(run(mine, [a, b]).tops[0], row(2, 1, 4)[..., :3])
    best = make(TWO % "ArgMaxMy" + "argmax_param { axis: -1 out_max_val: true }")
    np.testing.assert_array_equal(run(best, [a, b]).tops[0], row(0.9, 0.9, 0.7))
    many = RANDOM.permutation(1500).astype(np.float32).reshape(1, 1, 1, -1)
    everything = make(TWO % "ArgMaxAll" + "argmax_param { top_k: 1000 axis: -1 }")
    found = run(everything, [many, many + 1]).tops[0].ravel()
    np.testing.assert_array_equal(many.ravel()[found.astype(int)], np.arange(1499, 499, -1))
    assert run(everything, [many, many - 1]).tops[0].shape == (1, 1, 1, 1500)


def test_indices_and_flags() -> None:
    layer = make('name: "l" type: "ConvertIndices" bottom: "a" bottom: "b" top: "y" top: "z"')
    flags, values = run(layer, [row(3, 0), row(0.5, 0.6, 0.7, 0.8, 0.9)]).tops
    np.testing.assert_array_equal(flags, row(1, 0, 0, 1, 0))
    np.testing.assert_array_equal(values.ravel(), np.float32([0.8, 0.5]))
    back = make('name: "l" type: "FlagsToIndices" bottom: "a" top: "y"')
    found = run(back, [flags]).tops[0]
    assert found.shape == (2, 1, 1, 1)
    np.testing.assert_array_equal(found.ravel(), [0, 3])
    split = make('name: "l" type: "SplitIndices" bottom: "a" bottom: "b" bottom: "c" top: "y" top: "z"')
    found = run(split, [flags, row(9, 9), row(9, 9, 9)])
    np.testing.assert_array_equal(found.tops[0], row(1, 0))
    np.testing.assert_array_equal(found.tops[1], row(0, 1, 0))
    with pytest.raises(NetError, match="together as long"):
        split.tops([(1, 1, 1, 4), (1, 1, 1, 2), (1, 1, 1, 3)])


def test_windows_around_flagged_places() -> None:
    def windows(x: np.ndarray, flags: np.ndarray) -> np.ndarray:
        found = []
        for place in np.flatnonzero(flags.ravel()):
            y, z = divmod(place, 6)
            padded = np.pad(x[0], [(0, 0), (2, 2), (1, 1)])
            found.append(padded[:, y : y + 4, z : z + 2])
        return np.array(found)

    layer = make(TWO % "SlidingWindowIndex" + "sliding_window_param { window_h: 4 window_w: 2 }")
    flags = np.zeros((1, 1, 1, 30))
    flags[..., [0, 9, 17, 29]] = 1
    check_gradients(layer, windows, [RANDOM.normal(size=(1, 3, 4, 5)), flags], [0])
    assert run(layer, [np.ones((1, 3, 4, 5)), flags * 0]).tops[0].shape == (1, 3, 4, 2)
    with pytest.raises(NetError, match="30 flags"):
        layer.tops([(1, 3, 4, 5), (1, 1, 1, 20)])


def test_products_with_a_tile() -> None:
    arrays = [RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.normal(size=(2, 1, 4, 5))]
    check_gradients(make(TWO % "TileProduct"), lambda x, t: x * t, arrays, [0, 1])


def test_cross_entropy_of_places() -> None:
    def forward(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-x))
        return np.asarray(-(t * np.log(p) + (1 - t) * np.log(1 - p)).sum() / (2 * 4 * 5))

    arrays = [RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.integers(0, 2, (2, 3, 4, 5))]
    check_gradients(make(TWO % "NormalizedSigmoidCrossEntropyLoss"), forward, arrays, [0])


BEST = 'name: "l" type: "%s" bottom: "x" bottom: "s" bottom: "k" top: "y" top: "i"'


@pytest.mark.parametrize("width", [1, 3])
def test_items_of_the_highest_scores(width: int) -> None:
    scores = np.array([0.3, 0.1, 0.9, 0.5])[:, None] + np.zeros((4, width))
    scores[:, : width - 1] = 2  # the first of several does not count
    if width > 1:
        scores[:, 1] = 0
    x, dy = RANDOM.normal(size=(4, 2, 3)).astype(np.float32), RANDOM.normal(size=(2, 2, 3)).astype(np.float32)
    dys = [dy, np.zeros((2, 1, 1, 1), np.float32)]
    found = run(make(BEST % "TopK"), [x, scores, np.zeros((2, 7))], dys=dys)
    np.testing.assert_array_equal(found.tops[0], x[[2, 3]])
    np.testing.assert_array_equal(found.tops[1].ravel(), [2, 3])
    np.testing.assert_array_equal(found.bottoms[0][[2, 3]], dy)
    assert not found.bottoms[0][:2].any()


def test_missing_items() -> None:
    x = RANDOM.normal(size=(2, 3)).astype(np.float32)
    bottoms = [x, np.array([[0.1], [0.2]]), np.zeros((3, 7))]
    np.testing.assert_array_equal(run(make(BEST % "TopK"), bottoms).tops[0], x)
    np.testing.assert_array_equal(run(make(BEST % "TopKOld"), bottoms).tops[0], [*x, [0, 0, 0]])
