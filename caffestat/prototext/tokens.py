"""Cuts a text into tokens and knows the line and column of each.

The text is decoded as latin-1, so that a character's index is its byte's offset. One regular expression eats trivia
and the token after it; every alternative is unambiguous, so that the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from caffestat.errors import Place

__all__ = ["DECIMAL", "ESCAPE", "Source", "Token", "decode"]

_BOM = b"\xef\xbb\xbf"

_END = "\0"  # no valid text holds a NUL, so one behind the text can mark its end

_TRIVIA = r"\s*(?:#[^\n\0]*(?:\n\s*|(?=\0)))*"
DECIMAL = r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?"
_NUMBER = rf"(?:0[xX][0-9a-fA-F]+|0[0-7]+|{DECIMAL})(?![\w.])"
ESCAPE = r"""\\(?:[abfnrtv\\?'"0-7]|[xX][0-9a-fA-F]|u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5})"""
_STRING = "|".join(rf"{q}[^{q}\\\n\0]*(?:{ESCAPE}[^{q}\\\n\0]*)*{q}" for q in "\"'")
# An extension or Any name. A list may look the same, but only a name is followed by ":" or a message.
_URL = r"[\w\-.~!$&()*+,;=%/\s]*"
_BRACKETED = rf"\[{_URL}(?:#[^\n]*\n{_URL})*\](?={_TRIVIA}[:{{<])"
_REST = r"[\s\S]+"

_TOKEN = re.compile(
    rf"{_TRIVIA}([A-Za-z_]\w*|[:{{}}<>\],;-]|{_NUMBER}|{_STRING}|{_BRACKETED}|\[|{_END}|{_REST})", re.ASCII
)


@dataclass(frozen=True)
class Token:
    """A token with the blanks and comments around it; joined in order, all tokens of a text give the text.

    What is between two tokens up to the first line break or the end of the text trails the first one, because a
    comment on the same line is about what it follows; the rest, or all when there is no line break, leads the
    second one.
    """

    leading: bytes
    text: bytes
    trailing: bytes
    start: int
    line: int
    column: int

    def __bytes__(self) -> bytes:
        return self.leading + self.text + self.trailing


class Source:
    """A text cut into tokens: `texts[i]` starts at byte `starts[i]`.

    The last text is empty. It is at the end of the data or, when the data goes on, before the first bytes that
    form no token.
    """

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self._skipped = len(_BOM) if data.startswith(_BOM) else 0
        self.texts: list[str] = []
        self.starts: list[int] = []
        self._known = (-1, 0)  # an offset and its column
        for match in _TOKEN.finditer(data.decode("latin-1") + _END, self._skipped):
            self.texts.append(match[1])
            self.starts.append(match.start(1))
        self.texts[-1] = ""

    @property
    def is_whole(self) -> bool:
        """Whether all of the data forms tokens."""
        return self.starts[-1] == len(self.data)

    def end(self, index: int) -> int:
        return self.starts[index] + len(self.texts[index])

    def token(self, index: int) -> Token:
        start, end = self.starts[index], self.end(index)
        line, column = self.position(start)
        return Token(
            self.data[self._lead_start(index) : start],
            self.data[start:end],
            self.data[end : self._lead_start(index + 1)],
            start,
            line,
            column,
        )

    def _lead_start(self, index: int) -> int:
        """Return the offset where the trivia that belongs to token `index` begins."""
        if index == 0:
            return 0
        if index == len(self.texts):
            return len(self.data)
        end = self.end(index - 1)
        start = self.starts[index]
        line_break = self.data.find(b"\n", end, start)
        if line_break < 0:
            return start if index == len(self.texts) - 1 else end
        return line_break - self.data[end:line_break].endswith(b"\r")

    @cached_property
    def _line_starts(self) -> list[int]:
        # Only "\n" ends a line, as in protobuf's tokenizer; the byte order mark takes no column.
        return [self._skipped, *(match.end() for match in re.finditer(b"\n", self.data))]

    @cached_property
    def _is_ascii(self) -> bool:
        return self.data.isascii()

    def line(self, offset: int) -> int:
        return bisect_right(self._line_starts, offset)

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1; the column counts characters of the text decoded as UTF-8."""
        line = self.line(offset)
        start, column = self._line_starts[line - 1], 1
        if self._is_ascii:
            return line, offset - start + 1
        if start <= self._known[0] <= offset:  # all of a text may be on one line
            start, column = self._known
        self._known = offset, column + len(decode(self.data[start:offset]))
        return line, self._known[1]

    def place(self, offset: int) -> Place:
        return Place(self.name, *self.position(offset))

    def line_text(self, line: int) -> str:
        """Return the text of a line without its line break."""
        starts = [*self._line_starts[line - 1 : line + 1], len(self.data)]
        return decode(self.data[starts[0] : starts[1]]).rstrip("\r\n")


def decode(data: bytes) -> str:
    """Decode UTF-8; invalid bytes become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")
