"""Sums of few products are not normal: their mean absolute value is smaller for the same second moment.

A sum of n independent products w·x has the excess kurtosis κ = (κ_w κ_x - 3) / n, κ_w and κ_x the kurtoses of weight
and value. By Gram and Charlier's series E|y| = √(2/π) σ (1 - κ/24 + …); written as 1 / (1 + κ/24), it has the right
first order and stays positive.

Range: one or two products of normal values (κ = 6 and 3) come out within 1 %; κ above 15 is clipped. It holds for
weights shared by all elements of a channel, so the excess is between channels.
"""

from __future__ import annotations

import math

import numpy as np

from ..quadrature import NODES, Array, expect, variance

__all__ = ["TAILS", "abs_ratio", "kurtosis", "with_excess"]

TAILS = 0.1  # excess kurtosis below which a sum is taken for normal
_LARGEST_EXCESS = 15.0


def kurtosis(values: Array) -> float:
    """Return E[x⁴] / E[x²]²."""
    return expect(values**4) / max(expect(values**2) ** 2, 1e-300)


def abs_ratio(excess: float | Array) -> float | Array:
    """Return E|y| of a sum of this excess kurtosis, relative to a normal variable of the same second moment."""
    return 1 / (1 + excess / 24)


def with_excess(values: Array, excess: float) -> Array:
    """Return a normal distribution as u + b u³, with the E|y| that a sum of this excess kurtosis has.

    Mean and variance stay. E|u + b u³| = √(2/π) (1 + 2b) and its variance is 1 + 6b + 15b², so b is the larger root of
    (1 + 2b)² = r² (1 + 6b + 15b²), r the ratio of `abs_ratio`.
    """
    ratio = float(abs_ratio(min(excess, _LARGEST_EXCESS))) ** 2
    b = max(np.roots([15 * ratio - 4, 6 * ratio - 4, ratio - 1]).real)
    scale = math.sqrt(variance(values) / (1 + 6 * b + 15 * b**2))
    return np.asarray(expect(values) + scale * (NODES + b * NODES**3))
