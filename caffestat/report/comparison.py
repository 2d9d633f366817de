"""Two runs or logs beside each other, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from caffestat.logs import Difference, Key, Pass
from caffestat.logs import compare as differences

__all__ = ["Comparison", "Pair", "compare"]

_MOST = 5000  # differences that are kept; the others are counted


@dataclass(frozen=True)
class Pair:
    """One number of both sides, None where one lacks it; `ratio` is b ÷ a."""

    key: Key
    a: float | None
    b: float | None

    @property
    def ratio(self) -> float | None:
        """b ÷ a; None where it means nothing."""
        return self.b / self.a if self.a and self.b is not None else None


@dataclass
class Comparison:
    """What differs between A and B.

    a, b         their names
    first        all numbers of the first pass
    differences  those that are not close, the first 5,000 of `count`
    """

    a: str
    b: str
    first: list[Pair] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    count: int = 0


def compare(a: str, b: str, of_a: Iterable[Pass], of_b: Iterable[Pass], rtol: float, atol: float) -> Comparison:
    """Return the comparison of two runs by name and passes; see `caffestat.logs.compare` for the tolerances."""
    one, other = _First(of_a), _First(of_b)
    found = differences(one, other, rtol, atol)
    result = Comparison(a, b, differences=list(islice(found, _MOST)))
    result.count = len(result.differences) + sum(1 for _ in found)
    result.first = [
        Pair(key, one.values.get(key), other.values.get(key)) for key in dict.fromkeys((*one.values, *other.values))
    ]
    return result


class _First:
    """Passes, of which the values of the first that has some are kept."""

    def __init__(self, passes: Iterable[Pass]) -> None:
        self._passes = passes
        self.values: dict[Key, float] = {}

    def __iter__(self) -> Iterator[Pass]:
        for one in self._passes:
            self.values = self.values or dict(one.values)
            yield one
