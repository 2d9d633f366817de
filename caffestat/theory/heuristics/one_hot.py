"""The gradient of a softmax loss behind a gate: one element, that of the label, holds most of a sample's gradient.

For small logits the label's element has (1 - 1/C)² of Σ (p - [label])² = 1 - 1/C: nearly all. Where a ReLU or a
dropout in front sets an element to 0, a sample loses either nearly all of its gradient or nearly nothing. Its size S
= a², a the gate's factor at the label, then has the relative variance v = E[a²] / E[a]² - 1 over samples, and a run
shows E[√S] = √E[S] / √(1 + v). As far as the gate is the same at all places of a channel (its spatial correlation c)
that holds everywhere, c v; the rest, (1 - c) v, differs from place to place, and kernels of several taps average it
out.

Range: gates that are 0 or a constant, which makes it exact for C → ∞; exact to 1/C for others.
"""

from __future__ import annotations

import math

from ..quadrature import Array, clip_unit, cross_moment, expect, variance

__all__ = ["behind_gate", "correlation"]


def behind_gate(second: Array, absolute: Array, rho: float) -> tuple[float, float]:
    """Return the finite-width correction and the spatial variance that a gate adds to a one-hot gradient.

    second, absolute  E[a² | u] and E[|a| | u] of the gate at the nodes
    rho               the spatial correlation of u
    """
    spread = max(expect(second) / max(expect(absolute) ** 2, 1e-300) - 1, 0.0)
    common = correlation(second, rho)
    return 1 / math.sqrt(1 + common * spread), (1 - common) * spread


def correlation(values: Array, rho: float) -> float:
    """Return the correlation of f(u) and f(u'), given that of u and u'; 0 where f is all but constant."""
    spread, square = variance(values), expect(values) ** 2
    return clip_unit((cross_moment(values, rho) - square) / spread) if spread > 1e-12 * square else 0.0
