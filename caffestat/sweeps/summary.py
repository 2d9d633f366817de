"""What the trials of a sweep say together: the spread over seeds, the best filler, and the signal against the width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .rows import Row
from .trial import Trial

__all__ = ["Band", "Choice", "Slope", "Spread", "Summary", "Value", "lines"]

_SIGNALS = ("x", "dx")
_MOVES = 0.1  # slope of log mean |x| over log width from which a layer depends on the width
_FEW = 2  # widths, below which there is no slope


@dataclass(frozen=True)
class Value:
    """Which number: of a variant (a trial without its seed), an iteration and a layer."""

    variant: Trial
    iteration: int
    depth: int
    layer: str
    name: str
    kind: str


@dataclass(frozen=True)
class Band:
    """What is predicted of one number: its mean over draws and, of the signal, how far a draw lies around it."""

    mean: float
    deviation: float | None = None

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + ("" if self.deviation is None else f" ±{self.deviation:.2g}")


@dataclass
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


@dataclass(frozen=True)
class Choice:
    """How well a variant keeps its signal.

    forward, backward  the factor between the largest and the smallest mean |x|, and |dx|, of the layers with weights
    loss  the mean last loss of trained variants; None of a first pass
    """

    variant: Trial
    forward: float
    backward: float
    loss: float | None

    @property
    def cost(self) -> float:
        """What makes a variant worse than another: its loss, or how much signal and gradient change with depth."""
        return self.loss if self.loss is not None else math.log(self.forward) + math.log(self.backward)

    @property
    def reason(self) -> str:
        """Why the variant is better or worse than others, in words."""
        if self.loss is not None:
            return f"mean loss {self.loss:.4g} at the end"
        return f"mean |x| changes {self.forward:.3g} times with depth, mean |dx| {self.backward:.3g} times"


@dataclass(frozen=True)
class Slope:
    """How mean |x| of a layer goes with the width: it is proportional to width to the power of `slope`."""

    variant: Trial
    iteration: int
    depth: int
    layer: str
    slope: float

    @property
    def moves(self) -> bool:
        """Whether the layer's signal depends on the width, as it should not. (Yang et al. 2022, coordinate check)"""
        return abs(self.slope) > _MOVES


@dataclass
class Summary:
    """The results of all trials; memory does not grow with the number of seeds.

    values  the spread of each number over the seeds
    errors  the trials that failed, and why
    bands   what is predicted of the first pass, where it was asked for
    """

    values: dict[Value, Spread] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0
    errors: list[tuple[Trial, str]] = field(default_factory=list)
    bands: Mapping[Value, Band] = field(default_factory=dict)

    def add(self, trial: Trial, rows: Iterable[Row]) -> None:
        """Count one trial."""
        self.trials += 1
        variant = replace(trial, seed=0)
        for row in rows:
            if row.kind == "error":
                self.errors.append((trial, row.text))
            elif row.kind == "seconds":
                self.seconds += row.value
            else:
                key = Value(variant, row.iteration, row.depth, row.layer, row.name, row.kind)
                self.values.setdefault(key, Spread()).add(row.value)

    def variants(self) -> list[Trial]:
        """Return the variants in the order in which they came."""
        return list(dict.fromkeys(value.variant for value in self.values))

    def of(self, variant: Trial, iteration: int | None = None) -> dict[Value, Spread]:
        """Return the numbers of a variant at an iteration, the last one by default."""
        last = max((value.iteration for value in self.values if value.variant == variant), default=0)
        at = last if iteration is None else iteration
        return {v: spread for v, spread in self.values.items() if v.variant == variant and v.iteration == at}

    def choices(self) -> list[Choice]:
        """Return the variants, the one that keeps its signal best first; those whose signal is lost come last."""
        return sorted(map(self._choice, self.variants()), key=lambda choice: choice.cost)

    def _choice(self, variant: Trial) -> Choice:
        first = self.of(variant, 0)
        forward, backward = (_range(first, kind) for kind in _SIGNALS)
        loss = None
        if variant.iterations:
            losses = [spread for value, spread in self.of(variant).items() if value.kind == "loss"]
            loss = math.inf if any(s.lost for s in losses) or not losses else losses[0].mean
        return Choice(variant, forward, backward, loss)

    def slopes(self) -> list[Slope]:
        """Return how each layer's mean |x| goes with the width, for variants that differ in it alone."""
        points: dict[tuple[Trial, int, int, str, str], list[tuple[float, float]]] = {}
        for value, spread in self.values.items():
            if value.kind == "x" and spread.count and spread.mean > 0:
                key = (replace(value.variant, width=1.0), value.iteration, value.depth, value.layer, value.name)
                points.setdefault(key, []).append((math.log(value.variant.width), math.log(spread.mean)))
        return [
            Slope(variant, iteration, depth, layer, _slope(found))
            for (variant, iteration, depth, layer, _), found in points.items()
            if len({width for width, _ in found}) >= _FEW
        ]


def _range(values: Mapping[Value, Spread], kind: str) -> float:
    """Return the largest ÷ the smallest mean of a kind; infinite where one is 0 or not finite."""
    weighted = {value.depth for value in values if value.kind == "w"}
    chosen = [spread for value, spread in values.items() if value.kind == kind and value.depth in weighted]
    means = [spread.mean if spread.count else 0.0 for spread in chosen]
    lost = any(spread.lost for spread in chosen)
    if lost or not means or min(means) <= 0:
        return math.inf if means else 1.0
    return max(means) / min(means)


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line of least squares."""
    count = len(points)
    x, y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def lines(summary: Summary) -> Iterator[str]:
    """Yield the report as text: each variant's layers, then the order of the variants, then the widths."""
    yield f"{summary.trials} trials, {summary.seconds:.1f} s of work, {len(summary.errors)} failed"
    for trial, text in summary.errors[:5]:
        yield f"failed: {trial.variant} · seed {trial.seed}: {text}"
    for variant in summary.variants():
        yield ""
        yield variant.variant
        yield from _table(summary.of(variant), summary.bands)
    choices = summary.choices()
    if len(choices) > 1:
        yield ""
        yield "best first:"
        yield from (f"  {choice.variant.variant}: {choice.reason}" for choice in choices)
    yield from _widths(summary.slopes())


_HEAD = f"{'layer':<24}{'of':<14}{'mean':>11}{'over seeds ±':>14}{'least':>11}{'most':>11}{'predicted':>18}"


def _table(values: Mapping[Value, Spread], bands: Mapping[Value, Band]) -> Iterator[str]:
    yield _HEAD
    for value, spread in values.items():
        band = bands.get(value)
        what = {"x": "mean|x|", "dx": "mean|dx|", "w": "mean|w|", "dw": "mean|dw|"}.get(value.kind, value.kind)
        shown = "" if band is None else str(band)
        name = value.layer if len(value.layer) < 24 else value.layer[:22] + "…"
        numbers = (spread.mean, spread.deviation, spread.least, spread.most)
        if not spread.count:
            yield f"{name:<24}{what:<14}{'not finite':>11}"
            continue
        a, b, c, d = (f"{number:.4g}" for number in numbers)
        yield f"{name:<24}{what:<14}{a:>11}{b:>14}{c:>11}{d:>11}{shown:>18}".rstrip()


def _widths(slopes: Sequence[Slope]) -> Iterator[str]:
    if not slopes:
        return
    yield ""
    yield "mean |x| goes with width to the power of (0: it does not depend on it):"
    for slope in slopes:
        mark = "  <- depends on the width" if slope.moves else ""
        yield f"  {slope.variant.variant}, iteration {slope.iteration}: {slope.layer} {slope.slope:+.2f}{mark}"
