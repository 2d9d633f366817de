"""The numbers of a sweep: their keys, their spread over the seeds, and their predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from .trial import Trial

__all__ = ["Band", "Spread", "Value"]


class Value(NamedTuple):
    """Which number: of a variant (a trial without its seed), an iteration and a layer."""

    variant: Trial
    iteration: int
    depth: int
    layer: str
    name: str
    kind: str


@dataclass(frozen=True)
class Band:
    """The prediction of one number: its mean over draws and, for the signal, the deviation over draws."""

    mean: float
    deviation: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if self.deviation is None else f" ±{self.deviation:.2g}")


@dataclass(slots=True)
class Spread:
    """Mean, deviation and range of one number over the seeds. (Welford 1962)

    lost: how often it was not finite
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    lost: int = 0

    def add(self, value: float) -> None:
        """Count one seed's value."""
        if not math.isfinite(value):
            self.lost += 1
            return
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self.squares += step * (value - self.mean)
        self.least, self.most = min(self.least, value), max(self.most, value)

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds, 0 for a single one."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def finite_mean(self) -> float:
        """The mean over the seeds, infinite where one of them gave no finite number."""
        return math.inf if self.lost or not self.count else self.mean
