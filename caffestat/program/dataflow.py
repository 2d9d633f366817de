"""Who writes and who reads each value of a program, and which nonlinearity follows a row."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from caffestat.graph.flow import Flow, Key, resolved
from caffestat.ops import LINEAR, Nonlinearity

__all__ = ["Dataflow", "NamedStep"]


class Step(Protocol):
    """What the index needs to know of a row.

    reads       the (row, top) that each bottom holds
    tops        the names of what it writes
    passes      whether the sign and the rough shape of the signal's distribution are kept
    activation  the nonlinearity that the row is, None for any other
    """

    @property
    def reads(self) -> Sequence[Key]: ...
    @property
    def tops(self) -> Sequence[Hashable]: ...
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
    reads: Sequence[Key]
    tops: Sequence[Hashable]
    passes: bool
    activation: Nonlinearity | None


class Dataflow(Flow[Key]):
    """The values of a program, each written once: a blob that rows overwrite in place is a value per writer."""

    def __init__(self, steps: Sequence[Step]) -> None:
        super().__init__((step.reads, [(row, top) for top in range(len(step.tops))]) for row, step in enumerate(steps))
        self._steps = steps
        self._first_activation = self._activations()

    @classmethod
    def of_names(cls, steps: Sequence[NamedStep]) -> Dataflow:
        """Return the index of steps in the order in which they run; one that writes a name again makes a new value."""
        reads = resolved((step.bottoms, step.tops) for step in steps)
        return cls([_Resolved(r, s.tops, s.passes, s.activation) for s, (r, _) in zip(steps, reads, strict=True)])

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
