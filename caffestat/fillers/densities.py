"""The distributions of fillers: four forms, each with its mean and variance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Constant", "Density", "Normal", "Sample", "Uniform"]


@dataclass(frozen=True)
class Constant:
    """One value."""

    mean: float

    @property
    def variance(self) -> float:
        """Zero."""
        return 0.0


@dataclass(frozen=True)
class Uniform:
    """All values from low to high are equally likely; is_exact: false where this is an approximation."""

    low: float
    high: float
    is_exact: bool = True

    @property
    def scale(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2

    @property
    def mean(self) -> float:
        """The middle."""
        return (self.low + self.high) / 2

    @property
    def variance(self) -> float:
        """A third of the squared scale."""
        return self.scale**2 / 3


@dataclass(frozen=True)
class Normal:
    """N(center, std²), of which a share is `kept`; the rest is 0. is_exact: false where this is an approximation."""

    center: float
    std: float
    kept: float = 1.0
    is_exact: bool = True

    @property
    def mean(self) -> float:
        """The mean, zeros included."""
        return self.kept * self.center

    @property
    def variance(self) -> float:
        """The variance, zeros included."""
        return self.kept * (self.center**2 + self.std**2) - self.mean**2


@dataclass(frozen=True, eq=False)
class Sample:
    """One of these values, all equally likely."""

    values: NDArray[np.float32]

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(self.values.mean(dtype=np.float64))

    @property
    def variance(self) -> float:
        """The variance of the values."""
        return float(self.values.var(dtype=np.float64))


Density = Constant | Uniform | Normal | Sample
