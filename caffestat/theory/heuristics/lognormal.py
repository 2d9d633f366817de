"""Sums and means of values that are never negative, taken for lognormal: that has their two moments and stays positive.

The sum of n independent positive values has the relative variance v/n, v that of one. A lognormal variable of mean m
and relative variance v is m exp(s u - s²/2) with s² = log(1 + v). (L. Fenton, *The sum of log-normal probability
distributions*, 1960)

Range: E|y| and moments are exact, quantiles near 0 are not; for large n it becomes normal, as it should.
"""

from __future__ import annotations

import math

import numpy as np

from ..quadrature import NODES, Array

__all__ = ["lognormal"]


def lognormal(mean: float, relative_variance: float) -> Array:
    """Return a positive distribution of this mean and Var / mean², at the nodes."""
    spread = math.sqrt(math.log1p(max(relative_variance, 0.0)))
    return np.asarray(mean * np.exp(spread * NODES - spread**2 / 2))
