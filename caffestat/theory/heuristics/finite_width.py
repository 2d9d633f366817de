"""The finite-width correction: layers of few channels differ from draw to draw.

A blob's mean |x| is proportional to √S, S its mean square in one draw of the weights. Predictions give E[S], a run
shows √S, whose mean is smaller. To first order E[√S] = √E[S] · (1 - Var(S) / 8 E[S]²), from √(1 + δ) ≈ 1 + δ/2 -
δ²/8. S is a mean over C independent channels, so Var(S) / E[S]² = (E[s²] / E[s]² - 1) / C, s the mean square of a
channel. The correction is written as exp(-Var(S) / 8 E[S]²), which stays positive; factors of consecutive layers
multiply, for each layer's weights are drawn independently.

Range: within 1 % for Var(S) ≤ E[S]² / 2, that is ten channels or more behind a ReLU, and 2.5 % for four; clipped at
Var(S) = 4 E[S]².
"""

from __future__ import annotations

import math

from ..quadrature import Array, common_part, expect

__all__ = ["correction", "through_function"]

_LARGEST_VARIANCE = 4.0


def correction(squares: Array, rho: float, channels: float, excess: float = 0.0) -> float:
    """Return E[√S] / √E[S] of the mean square S over some channels, given E[x² | u] at the nodes.

    rho     the correlation of u between elements of one channel; 1 where a channel is one element
    excess  what the channels' own kurtosis adds
    """
    shared = common_part(squares, rho)
    mean = expect(shared)
    if not mean > 0:
        return 1.0
    variance = (expect((shared / mean) ** 2) * (1 + excess) - 1) / max(channels, 1.0)
    return math.exp(-min(max(variance, 0.0), _LARGEST_VARIANCE) / 8)


def through_function(finite_width: float, elasticity: float) -> float:
    """Return the correction behind f, given d log E|f(λx)| / d log λ: E[√S^e] ≈ (E[√S] / √E[S])^e for small Var(S).

    A squashing function, whose elasticity is below 1, reduces the spread between draws. Range: 0 to 2.
    """
    return float(finite_width ** min(max(elasticity, 0.0), 2.0))
