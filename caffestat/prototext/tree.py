"""The tree over the tokens: nodes hold nothing but a range of tokens, and compute the rest from it.

Nodes are not to be changed; `edit.replace` makes a new text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from caffestat.errors import Place
from caffestat.prototext.literals import read_float, read_int, read_string
from caffestat.prototext.tokens import Source, Token, decode

__all__ = ["Document", "Field", "Message", "Scalar"]


class _Node:
    """Tokens `_start` to `_stop` (exclusive) of a source."""

    __slots__ = ("_source", "_start", "_stop")

    def __init__(self, source: Source, start: int, stop: int) -> None:
        self._source = source
        self._start = start
        self._stop = stop

    def __bytes__(self) -> bytes:
        start, end = self.span
        return self._source.data[start:end]

    @property
    def span(self) -> tuple[int, int]:
        """Byte offsets of the first byte and after the last one, without the trivia around the node."""
        return self._source.starts[self._start], self._source.end(self._stop - 1)

    @property
    def tokens(self) -> list[Token]:
        return [self._source.token(index) for index in range(self._start, self._stop)]

    @property
    def comments(self) -> bytes:
        """What is between two of its tokens, wherever that holds a comment; each comment ends with its line break."""
        source = self._source
        gaps = (source.data[source.end(i) : source.starts[i + 1]] for i in range(self._start, self._stop - 1))
        return b"".join(gap for gap in gaps if b"#" in gap)

    @property
    def line(self) -> int:
        return self._source.line(self._source.starts[self._start])

    @property
    def last_line(self) -> int:
        return self._source.line(self.span[1] - 1)

    @property
    def column(self) -> int:
        return self.place.column

    @property
    def place(self) -> Place:
        return self._source.place(self._source.starts[self._start])

    @property
    def last_place(self) -> Place:
        """Where the last token begins."""
        return self._source.place(self._source.starts[self._stop - 1])


class Scalar(_Node):
    """A string (of one part or several), a number or an identifier."""

    __slots__ = ()

    @property
    def text(self) -> str:
        """The token as written; "-5" also for "- 5", and the parts of a string with one blank between them."""
        parts = self._texts
        text = ("" if parts[0] == "-" else " ").join(parts)
        return text if text.isascii() else decode(text.encode("latin-1"))

    @property
    def kind(self) -> Literal["string", "number", "identifier"]:
        """`-inf` is an identifier, like `inf`."""
        text = self._texts[-1]
        if text.isidentifier():
            return "identifier"
        return "string" if text[0] in "\"'" else "number"

    def as_bytes(self) -> bytes:
        """Return the bytes of a string, escapes replaced; ValueError when it is none."""
        if self.kind != "string":
            raise ValueError(f"expected a string, found {self.text}")
        return read_string(self._texts)

    def as_int(self) -> int:
        """Return the value of an integer of any size; ValueError when it is none."""
        return read_int(self.text)

    def as_float(self) -> float:
        """Return the value of a decimal number, inf, infinity or nan; ValueError when it is none."""
        return read_float(self.text)

    def __repr__(self) -> str:
        return f"Scalar({self.text})"

    @property
    def _texts(self) -> list[str]:
        return self._source.texts[self._start : self._stop]


class _Fields:
    """What a message and a document have in common."""

    __slots__ = ()

    fields: Sequence[Field]

    def find(self, name: str) -> list[Field]:
        """All fields of that name, in the order of the text."""
        return [field for field in self.fields if field.name == name]

    def at(self, path: str) -> list[Scalar | Message]:
        """Return the values of all fields at a path: "bn_param.eps"."""
        name, _, rest = path.partition(".")
        values = [value for field in self.find(name) for value in field.values]
        return [found for value in values if isinstance(value, Message) for found in value.at(rest)] if rest else values

    def first(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


class Message(_Node, _Fields):
    """Fields in `{}` or `<>`."""

    __slots__ = ("fields",)

    def __init__(self, source: Source, start: int, stop: int, fields: Sequence[Field]) -> None:
        super().__init__(source, start, stop)
        self.fields = fields

    def __repr__(self) -> str:
        return f"Message({len(self.fields)} fields)"


class Field(_Node):
    """A name and its value, or its values when they are given as a list; the separator behind it belongs to it.

    The name of an extension or of the message in an Any keeps its brackets: `[a.b]`.
    """

    __slots__ = ("is_list", "name", "values")

    def __init__(
        self, source: Source, start: int, stop: int, name: str, values: tuple[Scalar | Message, ...], is_list: bool
    ) -> None:
        self._source = source
        self._start = start
        self._stop = stop
        self.name = name
        self.values = values
        self.is_list = is_list

    def __repr__(self) -> str:
        return f"Field({self.name}, {self.place})"


class Document(_Fields):
    """A whole text; `bytes(document)` is the text that was parsed."""

    __slots__ = ("_source", "fields")

    def __init__(self, source: Source, fields: Sequence[Field]) -> None:
        self._source = source
        self.fields = fields

    def __bytes__(self) -> bytes:
        return self._source.data

    @property
    def name(self) -> str:
        """The file's name, as given to `parse`."""
        return self._source.name

    @property
    def tokens(self) -> list[Token]:
        """All tokens; the last one is empty and begins with the trivia after the last field."""
        return [self._source.token(index) for index in range(len(self._source.texts))]

    def __repr__(self) -> str:
        return f"Document({self.name}, {len(self.fields)} fields)"
