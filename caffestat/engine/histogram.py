"""Histograms of values, and samples of them that are taken inside the graph."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import count as naturals
from typing import Generic, TypeVar

import numpy as np

from caffestat.graph import Graph

__all__ = ["Histogram", "Samples", "histogram"]

K = TypeVar("K", bound=Hashable)

_BINS = 48
_PARAM_SAMPLE = 1 << 17


@dataclass(frozen=True)
class Histogram:
    """How values are distributed.

    low, high   of the finite values that were looked at
    counts      in bins of equal width between them
    sampled     how many values were looked at, `zeros` of them 0 and `not_finite` NaN or infinite
    total       how many values there are
    """

    low: float
    high: float
    counts: tuple[int, ...]
    zeros: int
    not_finite: int
    sampled: int
    total: int


def histogram(values: np.ndarray, total: int | None = None) -> Histogram | None:
    """Return the histogram of an array, of a sample of it where it is large; None where it has no finite value.

    total: how many values there are, when the array is a sample of them
    """
    flat = np.asarray(values, np.float64).reshape(-1) if values.size <= _PARAM_SAMPLE else _sample(values)
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    counts, _ = np.histogram((finite - low) / (high - low) if high > low else finite - low, _BINS, (0.0, 1.0))
    return Histogram(
        low,
        high,
        tuple(counts.tolist()),
        int((finite == 0).sum()),
        int(flat.size - finite.size),
        int(flat.size),
        int(values.size if total is None else total),
    )


def _sample(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    return flat[:: stride(flat.size, _PARAM_SAMPLE)].astype(np.float64)


def stride(count: int, wanted: int) -> int:
    """Return a step that takes about `wanted` of `count` elements; coprime to it, it favours no row or channel."""
    step = max(count // max(wanted, 1), 1)
    return next(n for n in naturals(step) if math.gcd(n, count) == 1)


class Samples(Generic[K]):
    """Takes a sample of values inside the graph, so that only a few thousand elements of each leave the runtime.

    wanted: about how many elements of each value
    """

    def __init__(self, graph: Graph, wanted: int) -> None:
        self.graph, self.wanted = graph, wanted
        self._asked: dict[K, tuple[str, int]] = {}

    def ask(self, key: K, value: str) -> None:
        """Ask for a sample of a float value of known shape."""
        g, count = self.graph, math.prod(self.graph.shape(value))
        if not count:
            return
        step = stride(count, self.wanted)
        flat = g.reshape(value, count)
        taken = g.emit("Slice", flat, g.ints(0), g.ints(count), g.ints(0), g.ints(step)) if step > 1 else flat
        self._asked[key] = g.emit("Identity", taken, hint="sample"), count

    @property
    def outputs(self) -> list[str]:
        """The values that a run has to return."""
        return [name for name, _ in self._asked.values()]

    def read(self, outputs: Mapping[str, np.ndarray]) -> dict[K, Histogram]:
        """Return the histograms from the outputs of a run; a value without a finite element has none."""
        found = {key: histogram(outputs[name], count) for key, (name, count) in self._asked.items()}
        return {key: one for key, one in found.items() if one is not None}
