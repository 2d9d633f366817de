"""Which nonlinearity a layer's output meets; knows neither Caffe nor ONNX, only steps that read and write values."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from caffestat.ops import LINEAR, Nonlinearity

__all__ = ["Flow", "Step"]


@dataclass(frozen=True)
class Step:
    """A layer or a node: what it reads and writes; it passes its input on, or is a nonlinearity, or neither."""

    bottoms: tuple[Hashable, ...]
    tops: tuple[Hashable, ...]
    passes: bool = False
    nonlinearity: Nonlinearity | None = None


class Flow:
    """Steps in the order in which they run; one that writes over a value in place is read by those after it."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._touching: dict[Hashable, list[int]] = {}  # by value, the steps that read or write it
        for index, step in enumerate(steps):
            for value in {*step.bottoms, *step.tops}:
                self._touching.setdefault(value, []).append(index)
        self._found: dict[tuple[int, frozenset[Hashable]], int] = {}  # the step that values meet behind a step

    def follow(self, index: int) -> Nonlinearity:
        """Return the first nonlinearity that reads what a step writes, straight or through steps that pass it on."""
        found = self.follower(index)
        return LINEAR if found is None else self._steps[found].nonlinearity or LINEAR

    def follower(self, index: int) -> int | None:
        """Return the index of that step, None when there is none."""
        values = frozenset(self._steps[index].tops)
        states = []
        found = None
        while found is None:
            states.append((index, values))
            found = self._found.get(states[-1])
            index = min((self._next(value, index) for value in values), default=len(self._steps))
            if (found is None and index == len(self._steps)) or (
                found is None and not values.isdisjoint(self._steps[index].bottoms) and self._steps[index].nonlinearity
            ):
                found = index
            elif found is None:
                values = self._after(self._steps[index], values)
        self._found.update(dict.fromkeys(states, found))
        return None if found == len(self._steps) else found

    def _after(self, step: Step, values: frozenset[Hashable]) -> frozenset[Hashable]:
        """Return what holds the values behind a step that is no nonlinearity."""
        passes = step.passes and not values.isdisjoint(step.bottoms)
        return values.union(step.tops) if passes else values.difference(step.tops)

    def _next(self, value: Hashable, index: int) -> int:
        """Return the next step that touches a value; the number of steps when there is none."""
        touching = self._touching[value]
        place = bisect_right(touching, index)
        return touching[place] if place < len(touching) else len(self._steps)
