"""Single numbers as float32 has them, without numpy."""

from __future__ import annotations

import math
import struct

__all__ = ["FLT_MAX", "FLT_MIN", "above", "plain", "rounded"]

FLT_MAX = (2 - 2.0**-23) * 2.0**127
FLT_MIN = 2.0**-126  # the least that has all digits

_FLOAT, _BITS = struct.Struct("<f"), struct.Struct("<i")
_ENOUGH = 9  # digits that tell any two apart


def rounded(x: float) -> float:
    """Return the nearest float32. Of a sum, product, quotient or root of two of them: what float32 arithmetic gives."""
    try:
        return float(_FLOAT.unpack(_FLOAT.pack(x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def above(x: float) -> float:
    """Return the next larger float32 of one, at most FLT_MAX."""
    if x >= FLT_MAX:
        return FLT_MAX
    (bits,) = _BITS.unpack(_FLOAT.pack(x or 0.0))  # -0 is 0
    return float(_FLOAT.unpack(_BITS.pack(bits + (1 if bits >= 0 else -1)))[0])


def plain(x: float) -> float:
    """Return the float64 with the fewest decimals that is this number as float32: 0.01, not 0.009999999776."""
    exact = rounded(x)
    candidates = (float(f"{exact:.{digits}g}") for digits in range(1, _ENOUGH))
    return next((found for found in candidates if rounded(found) == exact), float(f"{exact:.{_ENOUGH}g}"))
