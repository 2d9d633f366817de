"""Two logs, pass by pass and line by line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from .reader import Key, Pass

__all__ = ["Difference", "compare"]


@dataclass(frozen=True)
class Difference:
    """A number that differs; None on the side that lacks it. `index` counts passes from 0."""

    index: int
    iteration: int | None
    key: Key | None
    a: float | None
    b: float | None

    def __str__(self) -> str:
        where = f"pass {self.index}" if self.iteration is None else f"iteration {self.iteration}"
        if self.key is None:
            return f"{where}: only {'B' if self.a is None else 'A'} has this pass"
        if self.a is None or self.b is None:
            return f"{where}: {self.key}: only in {'B' if self.a is None else 'A'}"
        return f"{where}: {self.key}: {self.a:g} and {self.b:g} ({_relative(self.a, self.b):.2g} apart)"


def compare(a: Iterable[Pass], b: Iterable[Pass], relative: float, absolute: float) -> Iterator[Difference]:
    """Yield the numbers for which |a - b| > absolute + relative·max(|a|, |b|), or that one side lacks.

    Losses and outputs are compared where both sides say them.
    """
    for index, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            there = one or other
            yield Difference(index, there.iteration if there else None, None, None if one is None else 0.0, None)
            continue
        yield from _compare_pass(index, one, other, relative, absolute)


def _compare_pass(index: int, one: Pass, other: Pass, relative: float, absolute: float) -> Iterator[Difference]:
    iteration = one.iteration if one.iteration is not None else other.iteration
    for key in dict.fromkeys((*one.values, *other.values)):
        a, b = one.values.get(key), other.values.get(key)
        if a is None or b is None or not _is_close(a, b, relative, absolute):
            yield Difference(index, iteration, key, a, b)
    said = _said(other)
    for key, a in _said(one).items():
        if key in said and not _is_close(a, said[key], relative, absolute):
            yield Difference(index, iteration, key, a, said[key])


def _said(one: Pass) -> dict[Key, float]:
    """Return the loss and the outputs, each element by its index in the lines of the pass."""
    loss = {} if one.loss is None else {Key("", "", "loss", ""): one.loss}
    outputs = {Key("", "", f"output #{i}", output.name): output.value for i, output in enumerate(one.outputs)}
    return loss | outputs


def _is_close(a: float, b: float, relative: float, absolute: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return a == b or (math.isnan(a) and math.isnan(b))
    return abs(a - b) <= absolute + relative * max(abs(a), abs(b))


def _relative(a: float, b: float) -> float:
    largest = max(abs(a), abs(b))
    return abs(a - b) / largest if largest and math.isfinite(largest) else math.nan
