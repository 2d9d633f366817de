"""Who writes and who reads each value of a program: one index, made in one pass over its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from caffestat.ops import LINEAR, Nonlinearity

__all__ = ["Dataflow", "NamedStep"]

Key = tuple[int, int]  # row, and which top or bottom of it


class Step(Protocol):
    """What the index needs to know of a row.

    reads       the (row, top) that each bottom holds
    passes      whether the sign and the rough shape of the signal's distribution are kept
    activation  the nonlinearity that the row is, None for any other
    """

    @property
    def reads(self) -> Sequence[Key]: ...
    @property
    def passes(self) -> bool: ...
    @property
    def activation(self) -> Nonlinearity | None: ...


@dataclass(frozen=True)
class NamedStep:
    """A layer of a text, or a node of a file, that reads and writes values by name."""

    bottoms: Sequence[Hashable]
    tops: Sequence[Hashable]
    passes: bool = False
    activation: Nonlinearity | None = None


@dataclass(frozen=True)
class _Resolved:
    reads: tuple[Key, ...]
    passes: bool
    activation: Nonlinearity | None


class Dataflow:
    """The values of a program, each written once: a blob that rows overwrite in place is a value per writer.

    Every walk visits a row once.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._readers: dict[Key, list[Key]] = defaultdict(list)
        self._tops: dict[int, list[int]] = defaultdict(list)
        for index, step in enumerate(steps):
            for bottom, source in enumerate(step.reads):
                if source not in self._readers:
                    self._tops[source[0]].append(source[1])
                self._readers[source].append((index, bottom))
        self._first_activation = self._activations()

    @classmethod
    def of_names(cls, steps: Sequence[NamedStep]) -> Dataflow:
        """Return the index of steps in the order in which they run; one that writes a name again makes a new value."""
        holds: dict[Hashable, Key] = {}
        resolved = []
        for index, step in enumerate(steps):
            reads = tuple(holds[name] for name in step.bottoms if name in holds)
            resolved.append(_Resolved(reads, step.passes, step.activation))
            holds.update({name: (index, top) for top, name in enumerate(step.tops)})
        return cls(resolved)

    def source(self, bottom: Key) -> Key:
        """Return the (row, top) that a (row, bottom) reads."""
        return self._steps[bottom[0]].reads[bottom[1]]

    def readers(self, top: Key) -> Sequence[Key]:
        """Return each (row, bottom) that reads a (row, top), in order."""
        return self._readers.get(top, ())

    def users(self, row: int) -> Iterator[Key]:
        """Yield each (row, bottom) that reads what a row writes, top by top."""
        for top in sorted(self._tops.get(row, ())):
            yield from self._readers[row, top]

    def until(self, row: int, stops: Callable[[int], bool]) -> Iterator[Key]:
        """Yield the first rows behind a row at which `stops` holds, and the bottom by which each is reached first.

        In depth-first order.
        """
        seen: set[int] = set()
        waiting = [self.users(row)]
        while waiting:
            reader, bottom = next(waiting[-1], (None, 0))
            if reader is None:
                waiting.pop()
            elif reader not in seen:
                seen.add(reader)
                if stops(reader):
                    yield reader, bottom
                else:
                    waiting.append(self.users(reader))

    def before(self, row: int, stops: Callable[[int], bool]) -> set[int]:
        """Return the nearest rows in front of a row at which `stops` holds."""
        return {other for other in self._walk([row], self._writers, stops) if stops(other)}

    def in_front(self, rows: Iterable[int]) -> set[int]:
        """Return the rows on which some rows depend."""
        return self._walk(rows, self._writers)

    def behind(self, rows: Iterable[int], stops: Callable[[int], bool] = lambda row: False) -> set[int]:
        """Return the rows that depend on some rows, up to the first at which `stops` holds."""
        return self._walk(rows, lambda row: (reader for reader, _ in self.users(row)), stops)

    def _writers(self, row: int) -> Iterator[int]:
        return (writer for writer, _ in self._steps[row].reads)

    @staticmethod
    def _walk(
        rows: Iterable[int],
        neighbours: Callable[[int], Iterable[int]],
        stops: Callable[[int], bool] = lambda row: False,
    ) -> set[int]:
        """Return the rows that are reached from some; the walk ends where `stops` holds."""
        waiting = list(rows)
        seen: set[int] = set()
        for row in waiting:
            for other in neighbours(row):
                if other not in seen:
                    seen.add(other)
                    waiting += [] if stops(other) else [other]
        return seen

    def activation(self, row: int) -> int | None:
        """Return the first row in order that is a nonlinearity and that a row's signal meets, straight or passed on."""
        return self._first_activation[row]

    def nonlinearity(self, row: int) -> Nonlinearity:
        """Return what `activation` finds: LINEAR for none."""
        found = self._first_activation[row]
        return LINEAR if found is None else self._steps[found].activation or LINEAR

    def _activations(self) -> list[int | None]:
        """Return the row of the first nonlinearity behind each row, from the last row to the first."""
        found: list[int | None] = [None] * len(self._steps)
        for row in reversed(range(len(self._steps))):
            met = (self._met(reader, found) for reader, _ in self.users(row))
            found[row] = min((index for index in met if index is not None), default=None)
        return found

    def _met(self, reader: int, found: Sequence[int | None]) -> int | None:
        step = self._steps[reader]
        return reader if step.activation is not None else found[reader] if step.passes else None
