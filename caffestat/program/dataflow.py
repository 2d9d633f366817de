"""Who writes and who reads each value of a program: one index, made in one pass over its rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from caffestat.ops import Nonlinearity

__all__ = ["Dataflow"]

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

    def activation(self, row: int) -> int | None:
        """Return the first row in order that is a nonlinearity and that a row's signal meets, straight or passed on."""
        return self._first_activation[row]

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
