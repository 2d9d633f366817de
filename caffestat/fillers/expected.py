"""How many of a filler's values lie in each bin of a histogram."""

from __future__ import annotations

import math
from itertools import pairwise

from .densities import Normal, Uniform
from .fillers import Filler, density

__all__ = ["expected_counts"]

Shape = tuple[int, ...]


def expected_counts(filler: Filler, shape: Shape, low: float, high: float, bins: int, count: int) -> list[float]:
    """Return how many of `count` values are expected in each of `bins` bins from low to high.

    Empty for a filler without a density that is smooth and exact: constant, bilinear, the unit balls, sparse ones.
    """
    found = density(filler, shape)
    edges = [low + (high - low) * index / bins for index in range(bins + 1)]
    if high <= low:
        return []
    if isinstance(found, Uniform) and found.is_exact:
        below = [_uniform(edge, found.low, found.high) for edge in edges]
    elif isinstance(found, Normal) and found.kept == 1 and found.is_exact:
        below = [_normal(edge, found.center, found.std) for edge in edges]
    else:
        return []
    return [count * (after - before) for before, after in pairwise(below)]


def _uniform(x: float, low: float, high: float) -> float:
    return min(max((x - low) / (high - low), 0.0), 1.0) if high > low else float(x >= low)


def _normal(x: float, mean: float, std: float) -> float:
    return (1 + math.erf((x - mean) / (std * math.sqrt(2)))) / 2 if std > 0 else float(x >= mean)
