"""How far the mean |x| of one draw of the weights lies around its mean over draws.

A blob's mean |x| is proportional to √S, S its mean square in one draw. To first order √S deviates by √v / 2 of its
mean, v = Var(S) / E[S]², and E[√S] / √E[S] = exp(-v / 8) (see `finite_width`): so v is -8 log of that correction. Two
parts add up: the draws of the layers before, which the signal's `finite_width` has, and the channels of the blob
itself, whose mean squares differ by (k - 1) / n for sums of n terms with weights of kurtosis k. The elements of one
draw, taken for independent, add Var(|x|) / elements.

Range: within a half of the measured deviation on chains of layers with weights; up to three times as much behind
average pooling, whose elements are correlated, and down to 0.4 of it behind the first inner product.
"""

from __future__ import annotations

import math

from ..quadrature import Array, expect
from .few_terms import kurtosis
from .finite_width import correction

__all__ = ["channel_excess", "deviation"]


def channel_excess(weights: Array, terms: int) -> float:
    """Return Var(s) / E[s]² of the mean square s of a channel that sums products with weights, given at the nodes."""
    return max(kurtosis(weights) - 1, 0.0) / terms


def deviation(values: Array, rho: float, finite_width: float, channels: float, excess: float, elements: float) -> float:
    """Return the standard deviation of mean |x| over draws.

    values        x at the nodes
    rho           the correlation of u between elements of one channel
    finite_width  the correction that the layers before make
    excess        what the channels' own weights add, see `channel_excess`
    """
    mean = expect(abs(values))
    width = finite_width * correction(values**2, rho, channels, excess)
    of_weights = -2 * math.log(max(width, 1e-9)) * mean**2
    return math.sqrt(of_weights + max(expect(values**2) - mean**2, 0.0) / elements)
