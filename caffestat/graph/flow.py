"""Which steps write and read each value: one index, made in one pass, that all walks use."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["Flow", "Key", "resolved"]

Key = tuple[int, int]  # a step, and which of the values that it reads or writes
V = TypeVar("V", bound=Hashable)


class Flow(Generic[V]):
    """The values that steps read and write: names of a graph's nodes, or (step, output) of the rows of a program.

    Steps are given in the order in which they run. Every walk visits a step once.

    steps: the values that each reads and those that it writes
    """

    def __init__(self, steps: Iterable[tuple[Sequence[V], Sequence[V]]]) -> None:
        self._reads: list[Sequence[V]] = []
        self._writes: list[Sequence[V]] = []
        self._writer: dict[V, int] = {}
        self._readers: dict[V, list[Key]] = defaultdict(list)
        for step, (reads, writes) in enumerate(steps):
            self._reads.append(reads)
            self._writes.append(writes)
            for position, value in enumerate(reads):
                self._readers[value].append((step, position))
            for value in writes:
                self._writer.setdefault(value, step)

    def writer(self, value: V) -> int | None:
        """Return the first step that writes a value, None when none does."""
        return self._writer.get(value)

    def source(self, use: Key) -> V:
        """Return the value that a (step, input) reads."""
        return self._reads[use[0]][use[1]]

    def reads(self, step: int) -> Sequence[V]:
        """Return the values that a step reads."""
        return self._reads[step]

    def readers(self, value: V) -> Sequence[Key]:
        """Return each (step, input) that reads a value, in order."""
        return self._readers.get(value, ())

    def users(self, step: int) -> Iterator[Key]:
        """Yield each (step, input) that reads what a step writes, output by output."""
        for value in self._writes[step]:
            yield from self.readers(value)

    def writers(self, step: int) -> Iterator[int]:
        """Yield the step that writes each value that a step reads; nothing for values that no step writes."""
        found = (self._writer.get(value) for value in self._reads[step])
        return (writer for writer in found if writer is not None)

    def order(self) -> list[int]:
        """Return the steps in an order in which they can run: the given one where it is one.

        The steps of a cycle, and what is behind them, are left out.
        """
        if all(writer < step for step in range(len(self._reads)) for writer in self.writers(step)):
            return list(range(len(self._reads)))
        missing = [sum(1 for _ in self.writers(step)) for step in range(len(self._reads))]
        order = [step for step, count in enumerate(missing) if not count]
        for step in order:
            for reader, _ in self.users(step):
                missing[reader] -= 1
                if not missing[reader]:
                    order.append(reader)
        return order

    def through(self, value: V, passes: Callable[[int, int], bool]) -> list[Key]:
        """Return each (step, input) that reads a value, or what steps make of it for whose input `passes` holds.

        In order.
        """
        seen, waiting = {value}, [value]
        found: set[Key] = set()
        for known in waiting:
            uses = self.readers(known)
            found.update(uses)
            behind = dict.fromkeys(made for use in uses if passes(*use) for made in self._writes[use[0]])
            waiting += [made for made in behind if made not in seen]
            seen.update(behind)
        return sorted(found)

    def chain(self, value: V, passes: Callable[[int], bool]) -> Iterator[V]:
        """Yield a value, then what it is made of by the first inputs of the steps at which `passes` holds."""
        yield value
        while (step := self._writer.get(value)) is not None and self._reads[step] and passes(step):
            value = self._reads[step][0]
            yield value

    def origins(self, passes: Callable[[int], bool], known: Callable[[V], bool] = lambda value: True) -> dict[V, V]:
        """Return the last value of the `chain` of each written value of which `known` holds, the value itself for none.

        In one pass over the steps.
        """
        found: dict[V, V] = {}
        for step, (reads, writes) in enumerate(zip(self._reads, self._writes, strict=True)):
            origin = found.get(reads[0], reads[0]) if reads and passes(step) else None
            found.update((value, value if origin is None or not known(origin) else origin) for value in writes)
        return found

    def until(self, step: int, stops: Callable[[int], bool]) -> Iterator[Key]:
        """Yield the first steps behind a step at which `stops` holds, and the input by which each is reached first.

        In depth-first order.
        """
        seen: set[int] = set()
        waiting = [self.users(step)]
        while waiting:
            reader, position = next(waiting[-1], (None, 0))
            if reader is None:
                waiting.pop()
            elif reader not in seen:
                seen.add(reader)
                if stops(reader):
                    yield reader, position
                else:
                    waiting.append(self.users(reader))

    def before(self, step: int, stops: Callable[[int], bool]) -> set[int]:
        """Return the nearest steps in front of a step at which `stops` holds."""
        return {other for other in _walk([step], self.writers, stops) if stops(other)}

    def in_front(self, steps: Iterable[int]) -> set[int]:
        """Return the steps on which some steps depend."""
        return _walk(steps, self.writers)

    def behind(self, steps: Iterable[int], stops: Callable[[int], bool] = lambda step: False) -> set[int]:
        """Return the steps that depend on some steps, up to the first at which `stops` holds."""
        return _walk(steps, lambda step: (reader for reader, _ in self.users(step)), stops)


def _walk(
    steps: Iterable[int],
    neighbours: Callable[[int], Iterable[int]],
    stops: Callable[[int], bool] = lambda step: False,
) -> set[int]:
    """Return the steps that are reached from some; the walk ends where `stops` holds."""
    waiting = list(steps)
    seen: set[int] = set()
    for step in waiting:
        for other in neighbours(step):
            if other not in seen:
                seen.add(other)
                waiting += [] if stops(other) else [other]
    return seen


def resolved(
    steps: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]],
) -> Iterator[tuple[tuple[Key, ...], list[Key]]]:
    """Yield the values, as (step, output), that each step reads and writes by name.

    A step that writes a name again makes a new value. Names that no step has written yet are left out.
    """
    holds: dict[Hashable, Key] = {}
    for step, (reads, writes) in enumerate(steps):
        found = tuple(holds[name] for name in reads if name in holds)
        made = [(step, output) for output in range(len(writes))]
        holds.update(zip(writes, made, strict=True))
        yield found, made
