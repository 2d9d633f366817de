"""What rules have said, kept for the walks to come: nets of one folder are often alike, or begin alike.

Whatever a rule is asked about gets a number, that of all by which its answer is decided: its op, its settings, and the
numbers of what it reads. Two walks that give a value the same number share its signal, with all that was worked out of
it, and so whether two values come from one variable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable
from dataclasses import fields
from itertools import count
from typing import Any, TypeVar, cast

import numpy as np

from caffestat.graph import Graph, Node

from .signal import Gradient, Signal, Source, Term

__all__ = ["Memo", "Numbers"]

T = TypeVar("T")
Asked = tuple[int, int]  # the number of an answer, and which part of it

_KEPT = 20_000  # answers after which those that nobody has asked for since as many are dropped
_LARGE = 1 << 20  # bytes of an array that is not compared with others


class Memo:
    """Answers by number. Those of one walk stay until the next one begins."""

    def __init__(self) -> None:
        self._count = count()
        self._numbers: dict[Hashable, int] = {}
        self._answers: dict[int, Any] = {}
        self._old_numbers: dict[Hashable, int] = {}
        self._old_answers: dict[int, Any] = {}

    def begin(self) -> None:
        """Forget what was last asked for long ago. A walk asks for all that its values depend on, so that stays."""
        if len(self._answers) > _KEPT:
            self._old_numbers, self._old_answers = self._numbers, self._answers
            self._numbers, self._answers = {}, {}

    def number(self, *key: Hashable) -> int:
        """Return the number of what is asked."""
        found = self._numbers.get(key)
        if found is None:
            found = self._old_numbers.get(key)
            found = self._numbers[key] = next(self._count) if found is None else found
        return found

    def answer(self, number: int, work: Callable[[], T]) -> T:
        """Return the answer of a number, worked out where nobody has asked before."""
        if number not in self._answers:
            old = self._old_answers
            self._answers[number] = old[number] if number in old else work()
        return cast(T, self._answers[number])


class Numbers:
    """The numbers of the values of one walk, and of their gradients."""

    def __init__(self, memo: Memo, graph: Graph) -> None:
        memo.begin()
        self._memo, self._graph = memo, graph
        self._values: dict[str, Asked] = {}
        self._gradients: dict[str, Asked] = {}
        self._times: Counter[Hashable] = Counter()

    def start(self, value: str, signal: Signal | None) -> Signal | None:
        """Return the signal of an input, whose elements come from a variable of its own."""
        number = self._again("start", self._shape(value), _frozen(signal))
        self._values[value] = number, 0
        return self._memo.answer(number, lambda: signal)

    def constant(self, value: str, work: Callable[[], T]) -> T:
        """Return the signal of a constant."""
        return self._memo.answer(self._value(value)[0], work)

    def forward(self, node: Node, work: Callable[[], T]) -> T:
        """Return the signals that a node computes."""
        number = self._again("forward", *self._reads(node), *map(self._shape, node.outputs))
        self._values.update((value, (number, place)) for place, value in enumerate(node.outputs))
        return self._memo.answer(number, work)

    def seed(self, gradient: Gradient) -> Asked:
        """Return the number of a gradient to start from."""
        return self._again("seed", _frozen(tuple(gradient.terms.items()))), 0

    def backward(self, node: Node, stop: Collection[str], work: Callable[[], T]) -> tuple[int, T]:
        """Return the gradients that a node gives to its inputs, with their number."""
        detached = self._graph.detached
        dys = (None if value in detached else self._gradients.get(value) for value in node.outputs)
        wanted = (value not in stop for value in node.inputs)
        number = self._memo.number("backward", *self._reads(node), *map(self._value, node.outputs), *dys, *wanted)
        return number, self._memo.answer(number, work)

    def sum(self, value: str, asked: Asked, work: Callable[[], T]) -> T:
        """Return the gradient of a value with one more contribution."""
        number = self._memo.number("sum", self._gradients.get(value), asked)
        self._gradients[value] = number, 0
        return self._memo.answer(number, work)

    def _again(self, *key: Hashable) -> int:
        """Return the number of what may be asked several times in a walk: each time of other variables."""
        self._times[key] += 1
        return self._memo.number(*key, self._times[key])

    def _reads(self, node: Node) -> tuple[Hashable, ...]:
        settings = tuple((name, _frozen(value)) for name, value in node.attributes.items())
        return node.op, node.domain, settings, *map(self._value, node.inputs)

    def _value(self, value: str) -> Asked:
        found = self._values.get(value)
        if found is None:
            number = self._memo.number("given", self._shape(value), _frozen(self._graph.constants.get(value)))
            found = self._values[value] = number, 0
        return found

    def _shape(self, value: str) -> Hashable:
        spec = self._graph.specs.get(value)
        return spec and spec.shape


def _frozen(value: object) -> Hashable:
    """Return something that equals that of equal values; of what cannot be compared, something that equals nothing."""
    if value is None or isinstance(value, (str, bytes, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    if isinstance(value, np.ndarray) and value.nbytes <= _LARGE and value.dtype != object:
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, (Signal, Source, Term)):
        return tuple(_frozen(getattr(value, field.name)) for field in fields(value) if field.name != "latent")
    return object()
