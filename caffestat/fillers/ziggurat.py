"""The tables of the normal and the exponential ziggurat, computed from the equations that define them.

A ziggurat covers a decreasing density f with f(0) = 1 by strips of equal area V (Marsaglia and Tsang 2000). Strip 0 is
the tail beyond x[1] = R with the box under it, so x[0] = V / f(R); above it each x[i+1] solves
x[i] * (f(x[i+1]) - f(x[i])) = V, and R is the number for which the last strip ends exactly at f = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Strips", "Table", "exponential_strips", "exponential_table", "normal_strips", "normal_table"]

Curve = Callable[[Decimal], Decimal]

# R and V to 40 digits: doubles would lose the last bits of the table over the recurrence.
_NORMAL_R = Decimal("3.442619855896652121424320491467339704338")
_NORMAL_V = Decimal("0.009912563035336461079095685305810162197380")
_EXPONENTIAL_R = Decimal("7.697117470131049714044628048015215499114")
_EXPONENTIAL_V = Decimal("0.003949659822581557219977571956814861091913")


class Table(NamedTuple):
    """Right edges `x` (falling to 0) and heights `y` (rising to 1) of the strips: float64, one more than strips."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


class Strips(NamedTuple):
    """A table as the float32 samplers use it: the differences are taken in float64, then rounded."""

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    width: NDArray[np.float32]  # x[i] - x[i+1]
    height: NDArray[np.float32]  # y[i+1] - y[i]


def _table(r: Decimal, area: Decimal, density: Curve, inverse: Curve, strips: int) -> Table:
    with localcontext() as context:
        context.prec = 40
        x = [area / density(r), r]
        while len(x) < strips:
            x.append(inverse(area / x[-1] + density(x[-1])))
        x.append(Decimal(0))
        y = [Decimal(0), *(density(edge) for edge in x[1:])]
    return Table(np.array(x, np.float64), np.array(y, np.float64))


def _strips(table: Table) -> Strips:
    x, y = table
    return Strips(*(part.astype(np.float32) for part in (x, y, x[:-1] - x[1:], y[1:] - y[:-1])))


@cache
def normal_table() -> Table:
    """128 strips under exp(-x^2 / 2)."""
    return _table(_NORMAL_R, _NORMAL_V, lambda x: (-x * x / 2).exp(), lambda y: (-2 * y.ln()).sqrt(), 128)


@cache
def exponential_table() -> Table:
    """256 strips under exp(-x)."""
    return _table(_EXPONENTIAL_R, _EXPONENTIAL_V, lambda x: (-x).exp(), lambda y: -y.ln(), 256)


@cache
def normal_strips() -> Strips:
    """`normal_table` in float32."""
    return _strips(normal_table())


@cache
def exponential_strips() -> Strips:
    """`exponential_table` in float32."""
    return _strips(exponential_table())
