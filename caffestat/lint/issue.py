"""What a check says about a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from caffestat.errors import Place
from caffestat.prototext import Document, Edit

__all__ = ["SEE_MESSAGE", "Issue"]

SEE_MESSAGE = "see the message"
"""The fix of a finding whose message says what to do; formats for people leave it out."""

Edits = Callable[[Document], Sequence[Edit]]


@dataclass(frozen=True)
class Issue:
    """One finding of one check.

    layer    the layer's name, "" for what is about the whole file
    message  what is wrong, with the numbers behind it
    fix      what to do about it
    numbers  the numbers behind it, by name
    edits    the changes to the text that do what `fix` says, None where a person must decide
    cause    the same for all findings of a code in a file that one cause explains; "" for a finding of its own
    """

    code: str
    name: str
    severity: str
    place: Place
    layer: str
    message: str
    fix: str
    numbers: dict[str, float] = field(default_factory=dict)
    edits: Edits | None = None
    cause: str = ""

    @property
    def advice(self) -> str:
        """The fix, "" where the message says it."""
        return "" if self.fix == SEE_MESSAGE else self.fix

    @property
    def text(self) -> str:
        """The layer, the message and the fix in one line."""
        layer = f"{self.layer}: " if self.layer else ""
        return f"{layer}{self.message}" + (f". Fix: {self.advice}" if self.advice else "")

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same when lines move: file, code, layer and message without its numbers."""
        return self.place.file, self.code, self.layer, _without_digits(self.message)


def _without_digits(text: str) -> str:
    return "".join(_words(text))


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        yield "#" if any(c.isdigit() for c in word) else word
