"""The summary of a sweep's trials: the spread of every number over the seeds, and the ranking of variants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from .findings import Choice, Grid, Slope, choice_of, grids, slopes
from .rows import Row
from .spread import Band, Spread, Value
from .trial import Trial

__all__ = ["Summary"]

_DETAILED = 100  # variants of which every number is kept
_RANKED = 10_000  # variants that are kept in the order
_ERRORS = 100

_Number = tuple[int, int, str, str, str]  # a Value without its variant


@dataclass
class Summary:
    """The results of all trials; memory grows neither with the number of seeds nor, above 10,000, of variants.

    seeds     how many trials a variant has; of variants that have had so many, the best 100 keep all their numbers
    trials    how many there were
    dropped   of how many variants the numbers of layers are not kept
    failed    how many trials failed
    errors    the first 100 of these, and why
    bands     what is predicted of the first pass, where it was asked for
    """

    seeds: int | None = None
    trials: int = 0
    seconds: float = 0.0
    dropped: int = 0
    failed: int = 0
    errors: list[tuple[Trial, str]] = field(default_factory=list)
    bands: Mapping[Value, Band] = field(default_factory=dict)
    _numbers: dict[Trial, dict[_Number, Spread]] = field(default_factory=dict)
    _counts: dict[Trial, int] = field(default_factory=dict)
    _whole: dict[Trial, Choice] = field(default_factory=dict)  # the complete variants among those of _numbers
    _ranked: dict[Trial, Choice] = field(default_factory=dict)  # those whose numbers are not kept

    def add(self, trial: Trial, rows: Iterable[Row]) -> None:
        """Count one trial."""
        self.trials += 1
        variant = replace(trial, seed=0)
        known = variant not in self._ranked
        numbers = self._numbers.setdefault(variant, {}) if known else {}
        for row in rows:
            if row.kind == "error":
                self._fail(trial, row.text)
            elif row.kind == "seconds":
                self.seconds += row.value
            elif known:
                key = (row.iteration, row.depth, row.layer, row.name, row.kind)
                numbers.setdefault(key, Spread()).add(row.value)
        if known:
            self._complete(variant)

    def _fail(self, trial: Trial, text: str) -> None:
        self.failed += 1
        if len(self.errors) < _ERRORS:
            self.errors.append((trial, text))

    def _complete(self, variant: Trial) -> None:
        """Count a variant's trial; once it is complete, the worst of the complete ones may lose its numbers."""
        count = self._counts[variant] = self._counts.get(variant, 0) + 1
        if self.seeds is None or count < self.seeds:
            return
        if not self._numbers[variant]:  # all have failed
            del self._numbers[variant], self._counts[variant]
            return
        self._whole[variant] = self._choice(variant)
        if len(self._whole) > _DETAILED:
            worst = max(self._whole.values(), key=lambda choice: choice.cost)
            self._drop(worst)

    def _drop(self, choice: Choice) -> None:
        self.dropped += 1
        for known in (self._whole, self._numbers, self._counts):
            del known[choice.variant]
        self._ranked[choice.variant] = choice
        if len(self._ranked) > 2 * _RANKED:
            best = sorted(self._ranked.values(), key=lambda choice: choice.cost)[:_RANKED]
            self._ranked = {choice.variant: choice for choice in best}

    @property
    def values(self) -> dict[Value, Spread]:
        """The spread of each number over the seeds."""
        return {value: spread for variant in self._numbers for value, spread in self._all(variant)}

    def _all(self, variant: Trial) -> Iterator[tuple[Value, Spread]]:
        return ((Value(variant, *number), spread) for number, spread in self._numbers[variant].items())

    def variants(self) -> list[Trial]:
        """Return the variants whose numbers are kept, in the order in which they came."""
        return [variant for variant, numbers in self._numbers.items() if numbers]

    def of(self, variant: Trial, iteration: int | None = None) -> dict[Value, Spread]:
        """Return the numbers of a variant at an iteration, by default each at the last one that has it."""
        if iteration is not None:
            return {value: spread for value, spread in self._all(variant) if value.iteration == iteration}
        last: dict[tuple[int, str, str, str], int] = {}
        for value, _ in self._all(variant):
            last[value[2:]] = max(value.iteration, last.get(value[2:], 0))
        return {value: spread for value, spread in self._all(variant) if last[value[2:]] == value.iteration}

    def choices(self) -> list[Choice]:
        """Return the variants, the one that keeps its signal best first; those whose signal is lost come last."""
        found = [*map(self._choice, self.variants()), *self._ranked.values()]
        return sorted(found, key=lambda choice: choice.cost)[:_RANKED]

    def _choice(self, variant: Trial) -> Choice:
        return choice_of(variant, self.of(variant, 0), self.of(variant))

    def slopes(self) -> list[Slope]:
        """Return how each layer's mean |x| goes with the width, for variants that differ in it alone."""
        return slopes(self.values)

    def grids(self) -> list[Grid]:
        """Return what the variants are judged by over each two swept parameters."""
        return list(grids(self.choices()))
