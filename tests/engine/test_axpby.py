"""The runtime's a·x + b·y against exact arithmetic in double precision."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from caffestat.engine.axpby import axpby, fuses

F = np.float32


@pytest.fixture(autouse=True)
def fused() -> None:
    if not fuses():
        pytest.skip("the runtime's kernel does not fuse multiply and add on this processor")


def expected(a: float, x: np.ndarray, b: float, y: np.ndarray) -> np.ndarray:
    return (np.float64(F(a)) * x + F(b) * y).astype(F)


@pytest.mark.parametrize(("a", "b"), [(0.01, 0.9), (5e-4, 1), (-1, 1), (1, 0.5), (1.9, -0.9)])
@pytest.mark.parametrize("size", [1, 17, 4097])
def test_two_roundings_at_most(a: float, b: float, size: int) -> None:
    x, y = np.random.default_rng(size).standard_normal((2, size)).astype(F)
    wanted, plain = expected(a, x, b, y), F(a) * x + F(b) * y
    before = x.copy()
    axpby(F(a), x, F(b), y)
    np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(x, before)
    if size > 1000 and abs(a) != 1:
        assert (plain != wanted).any()  # three roundings give other bits


def test_a_part_of_an_array_in_several_threads() -> None:
    x, y = np.random.default_rng(7).standard_normal((2, 6, 500)).astype(F)
    wanted = y.copy()
    wanted[1:5] = expected(0.3, x[1:5], 0.7, y[1:5])
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda row: axpby(F(0.3), x[row], F(0.7), y[row]), range(1, 5)))
    np.testing.assert_array_equal(y, wanted)
