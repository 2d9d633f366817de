"""E|dW| of a gradient Σ x·dy whose size differs from channel to channel.

Given what all terms of a sum share, the sum is normal with variance V; √(2/π) E[√V] is its mean absolute value. V has
two parts: single terms, (1 - c) E[x² | shared] E[dy² | shared], and pairs of terms, c E[x | shared]² E[dy | shared]²,
c the share of pairs in E[V]. x and dy share independent things, the channel they come from.

Range: many terms per sum; exact where only one of the two parts counts.
"""

from __future__ import annotations

import numpy as np

from ..quadrature import WEIGHTS, Array, expect

__all__ = ["size_ratio"]

Shared = tuple[Array, Array]  # of x or dy: E[x² | shared] and E[x | shared]², at the nodes


def size_ratio(x: Shared, dy: Shared, coherent: float) -> float:
    """Return E[√V] / √E[V]; `coherent` is the share of pairs in E[V]."""
    (alone_x, pairs_x), (alone_y, pairs_y) = x, dy
    variance = (1 - coherent) * np.outer(_normalized(alone_x), _normalized(alone_y)) + coherent * np.outer(
        _normalized(pairs_x), _normalized(pairs_y)
    )
    return float(WEIGHTS @ np.sqrt(np.maximum(variance, 0.0)) @ WEIGHTS)


def _normalized(values: Array) -> Array:
    mean = expect(values)
    return values / mean if mean > 0 else np.ones_like(values)
