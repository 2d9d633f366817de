"""Single numbers as float32 has them, beside numpy's."""

from __future__ import annotations

import math

import numpy as np

from caffestat.float32 import FLT_MAX, FLT_MIN, above, plain, rounded

BITS = np.random.default_rng(5).integers(0, 2**32, 20_000, dtype=np.uint32)
ANY = [float(x) for x in BITS.view(np.float32) if math.isfinite(x)]
EDGES = [0.0, -0.0, 2.0**-149, -(2.0**-149), FLT_MIN, 1.0, -1.0, FLT_MAX, -FLT_MAX]


def test_the_limits_are_those_of_float32():
    assert (np.finfo(np.float32).max, np.finfo(np.float32).tiny) == (FLT_MAX, FLT_MIN)


def test_rounded_goes_to_the_nearest_float32():
    halves = np.random.default_rng(6).normal(size=5000)
    assert [rounded(x) for x in halves] == halves.astype(np.float32).tolist()
    assert (rounded(1e39), rounded(-1e39), rounded(1e-50)) == (math.inf, -math.inf, 0)
    assert math.isnan(rounded(math.nan))


def test_above_is_the_next_float32():
    numbers = [*ANY, *EDGES, math.inf]
    assert [above(x) for x in numbers] == [float(np.nextafter(np.float32(x), np.float32(FLT_MAX))) for x in numbers]


def test_plain_has_the_fewest_decimals():
    assert plain(float(np.float32(0.01))) == 0.01
    assert [plain(x) for x in [*ANY, *EDGES]] == [float(str(np.float32(x))) for x in [*ANY, *EDGES]]
    assert plain(math.inf) == math.inf
    assert math.isnan(plain(math.nan))
