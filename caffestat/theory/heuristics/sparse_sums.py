"""E|Σ dᵢ| of a few gradients, each known by its second moment and its mean absolute value.

Each is taken for normal with zeros among it: a share p = (E|d| / √(2/π))² / E[d²] is not 0, and there it is N(0,
E[d²] / p). Zeros that all parts have come from one mask (a ReLU behind the split), so the largest share is common to
all; within it the parts are independent. Two such variables add up to a mixture of four cases, which is taken for one
of the same kind again.

Range: exact for one part, and for parts that are normal behind one mask; a part of less than 5 % of the whole does
not say what is common.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from ..quadrature import ABS_NORMAL, Array

__all__ = ["mean_abs_of_sum"]

_COUNTS = 0.05  # the share of the whole from which on a part's zeros count


def mean_abs_of_sum(parts: Sequence[tuple[Array, Array]]) -> Array:
    """Return E|Σ dᵢ| at the nodes, of dᵢ given as (second moment, mean absolute value)."""
    if len(parts) == 1:
        return parts[0][1]
    seconds, absolutes = (np.array(list(column)) for column in zip(*parts, strict=True))
    with np.errstate(all="ignore"):
        filled = np.nan_to_num((absolutes / ABS_NORMAL) ** 2 / seconds)
        common = np.where(seconds > _COUNTS * seconds.sum(axis=0), filled, 0.0).max(axis=0)
        inside = np.nan_to_num(np.minimum(filled / common, 1.0))
        total = reduce(_both, zip(np.nan_to_num(seconds / common), inside, strict=True))
        return np.asarray(common * ABS_NORMAL * np.sqrt(total[0] * total[1]))


def _both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the sum of two independent variables, each (second moment, share that is not 0)."""
    (of_a, p), (of_b, q) = a, b
    large_a, large_b = np.nan_to_num(of_a / p), np.nan_to_num(of_b / q)
    mean = p * q * np.sqrt(large_a + large_b) + p * (1 - q) * np.sqrt(large_a) + q * (1 - p) * np.sqrt(large_b)
    return of_a + of_b, np.nan_to_num(mean**2 / (of_a + of_b))
