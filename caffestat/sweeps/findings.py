"""Findings of a sweep: a ranking of variants, signals against the width, quantities over two parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from .spread import Spread, Value
from .trial import Trial

__all__ = ["Choice", "Grid", "Slope", "choice_of", "grids", "quantities", "slopes", "swept"]

Values = Mapping[Value, Spread]

_SIGNALS = ("x", "dx")
_MOVES = 0.1  # slope of log mean |x| over log width from which a layer depends on the width
_FEW = 2  # values, below which there is no slope and no grid
_PAIRS = 6  # of swept parameters that have grids


@dataclass(frozen=True)
class Choice:
    """How well a variant keeps its signal, and how well it learns.

    forward, backward  the factor between the largest and the smallest mean |x|, and |dx|, of the layers with weights
    loss     the mean loss of trained variants at the end, of the test net where there is one; None of a first pass
    outputs  of trained variants: the mean of each output at the end ("accuracy", "test accuracy") and its deviation
    """

    variant: Trial
    forward: float
    backward: float
    loss: float | None = None
    outputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def cost(self) -> float:
        """The cost by which variants are ranked: the loss, or how much signal and gradient change with depth."""
        return self.loss if self.loss is not None else math.log(self.forward) + math.log(self.backward)

    @property
    def reason(self) -> str:
        """A text that says why the variant is better or worse than others."""
        if self.loss is None:
            return f"mean |x| changes {self.forward:.3g} times with depth, mean |dx| {self.backward:.3g} times"
        parts = [f"mean loss {self.loss:.4g} at the end"]
        return ", ".join([*parts, *(f"{name} {mean:.4g} ±{d:.2g}" for name, (mean, d) in self.outputs.items())])


def choice_of(variant: Trial, first: Values, last: Values) -> Choice:
    """Return how good a variant is by the numbers of its first iteration, and each at its last one."""
    forward, backward = (_range(first, kind) for kind in _SIGNALS)
    if not variant.iterations:
        return Choice(variant, forward, backward)
    losses = {value.layer: spread.finite_mean for value, spread in last.items() if value.kind == "loss"}
    outputs = {
        f"{value.layer} {value.name}".strip(): (spread.finite_mean, spread.deviation)
        for value, spread in last.items()
        if value.kind == "output"
    }
    return Choice(variant, forward, backward, losses.get("test", losses.get("", math.inf)), outputs)


def _range(values: Values, kind: str) -> float:
    """Return the largest ÷ the smallest mean of a kind; infinite where one is 0 or not finite."""
    weighted = {value.depth for value in values if value.kind == "w"}
    means = [spread.finite_mean for value, spread in values.items() if value.kind == kind and value.depth in weighted]
    if not means:
        return 1.0
    return math.inf if min(means) <= 0 or max(means) == math.inf else max(means) / min(means)


@dataclass(frozen=True)
class Slope:
    """How mean |x| of a layer goes with the width: it is proportional to width to the power of `slope`.

    variant  all but the width, which is 1 here
    points   width and mean |x| over the seeds, the narrowest first
    """

    variant: Trial
    iteration: int
    depth: int
    layer: str
    name: str
    slope: float
    points: tuple[tuple[float, float], ...]

    @property
    def moves(self) -> bool:
        """Whether the layer's signal depends on the width, as it should not. (Yang et al. 2022, coordinate check)"""
        return abs(self.slope) > _MOVES


def slopes(values: Values) -> list[Slope]:
    """Return how each layer's mean |x| goes with the width, for variants that differ in it alone."""
    points: dict[tuple[Trial, int, int, str, str], list[tuple[float, float]]] = {}
    for value, spread in values.items():
        if value.kind == "x" and spread.count and spread.mean > 0:
            key = (replace(value.variant, width=1.0), value.iteration, value.depth, value.layer, value.name)
            points.setdefault(key, []).append((value.variant.width, spread.mean))
    return [Slope(*key, _slope(found), tuple(sorted(found))) for key, found in points.items() if len(found) >= _FEW]


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares through the logarithms."""
    logs = [(math.log(width), math.log(mean)) for width, mean in points]
    x, y = (sum(point[axis] for point in logs) / len(logs) for axis in (0, 1))
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


@dataclass(frozen=True)
class Grid:
    """A quantity over two swept parameters; where more are swept, that of the best variant with these two values.

    rows, columns  the names of the parameters
    cells  by row and column; None where no variant has the two values
    others whether more parameters are swept
    """

    title: str
    rows: str
    columns: str
    row_values: tuple[str, ...]
    column_values: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    others: bool


def swept(choices: Sequence[Choice]) -> dict[str, tuple[str, ...]]:
    """Return the parameters of which there are several values, with them: numbers by size, words as the choices."""
    found: dict[str, dict[str, None]] = {}
    for choice in choices:
        for name, value in choice.variant.parameters.items():
            found.setdefault(name, {})[value] = None
    return {name: tuple(_sorted(list(values))) for name, values in found.items() if len(values) >= _FEW}


def _sorted(values: list[str]) -> list[str]:
    try:
        return sorted(values, key=float)
    except ValueError:
        return values


def grids(choices: Sequence[Choice]) -> Iterator[Grid]:
    """Yield the quantities of the choices over each two swept parameters; choices: the best first."""
    parameters = swept(choices)
    for rows, columns in list(combinations(parameters, 2))[:_PAIRS]:
        best: dict[tuple[str, str], Choice] = {}
        for choice in choices:
            values = choice.variant.parameters
            best.setdefault((values.get(rows, ""), values.get(columns, "")), choice)
        names = list(dict.fromkeys(name for choice in best.values() for name in quantities(choice)))
        for name in names:
            cells = tuple(
                tuple(_quantity(best.get((row, column)), name) for column in parameters[columns])
                for row in parameters[rows]
            )
            others = len(parameters) > 2
            yield Grid(name, rows, columns, parameters[rows], parameters[columns], cells, others)


def quantities(choice: Choice) -> dict[str, float]:
    """Return the numbers by which a variant is judged, with their names."""
    if choice.loss is None:
        return {"mean |x| over depth, largest ÷ smallest": choice.forward,
                "mean |dx| over depth, largest ÷ smallest": choice.backward}  # fmt: skip
    return {"loss at the end": choice.loss} | {name: mean for name, (mean, _) in choice.outputs.items()}


def _quantity(choice: Choice | None, name: str) -> float | None:
    return None if choice is None else quantities(choice).get(name)
