"""The order of equal values: what a build with GNU's C++ library printed."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.layers.forks.sorting import descending


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (16, [2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15]),
        (20, [2, 17, 5, 14, 8, 11, 10, 19, 16, 13, 7, 4, 1, 0, 9, 12, 6, 15, 3, 18]),
    ],
)
def test_three_values_in_turn(count: int, expected: list[int]) -> None:
    assert descending(np.arange(count) * 7 % 3).tolist() == expected


def test_eighteen_equal_values() -> None:
    assert descending(np.ones(18)).tolist() == [9, *range(17, 9, -1), 0, *range(8, 0, -1)]


def test_different_values() -> None:
    values = np.random.default_rng(0).permutation(100)
    assert descending(values).tolist() == np.argsort(-values).tolist()
