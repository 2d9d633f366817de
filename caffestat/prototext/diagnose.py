"""Messages for syntax errors; nothing here runs for a valid text."""

from __future__ import annotations

import re

from caffestat.errors import Place, PrototextError
from caffestat.prototext.tokens import ESCAPE, Source, decode

__all__ = ["binary_error", "error", "quote", "unexpected"]

_WIDTH = 100  # characters of an offending line that are shown
_QUOTED = 40  # characters of a token that are shown

# compiled when they are used: no run without a mistake needs them
_STRING_HEAD = {q: rf"{q}[^{q}\\\n]*(?:{ESCAPE}[^{q}\\\n]*)*".encode() for q in "\"'"}
_NUMBER_LIKE = rb"\.?[0-9](?:[eE][+-]|[\w.])*"
_CONFLICT = r"(?:<{7}|>{7}|={7}|\|{7})(?: |$)"
_PLACEHOLDER = (
    r"\$\{[^}]*\}?|\$\(?\w+\)?|\{\{.*?(?:\}\}|$)|\{%.*?(?:%\}|$)|\{\w+\}|%\(\w+\)\w?|%[sdifgr]\b|<%.*?(?:%>|$)|@\w+@"
)


def quote(text: str | bytes) -> str:
    """Return a token as messages show it: in quotation marks unless it is a string, and cut when it is long."""
    shown = _printable(decode(text) if isinstance(text, bytes) else text)
    if len(shown) > _QUOTED:
        shown = shown[: _QUOTED - 3] + "..."
    return shown if shown[:1] in ('"', "'") else f'"{shown}"'


def error(source: Source, index: int, message: str) -> PrototextError:
    """Return an error at token `index`."""
    return _error_at(source, source.starts[index], message)


def unexpected(source: Source, index: int, expected: str, opener: int | None = None) -> PrototextError:
    """Return the error that token `index` is unexpected; `opener` is the bracket that is still open there."""
    found, offset = _found(source, index)
    if opener is not None:
        expected += f' to close the "{source.texts[opener]}" opened at {source.place(source.starts[opener])}'
    return _error_at(source, offset, f"expected {expected}, found {found}", opener)


def binary_error(data: bytes, name: str) -> PrototextError:
    """Return the error for data with NUL bytes, which no text holds."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return PrototextError("this looks like UTF-16 text, expected UTF-8: save the file as UTF-8", Place(name, 1, 1))
    before = data[: data.index(b"\0")]
    column = len(decode(before[before.rfind(b"\n") + 1 :])) + 1
    message = "this looks like a binary file, expected text in protobuf's text format: found a NUL byte"
    return PrototextError(message, Place(name, before.count(b"\n") + 1, column))


def _error_at(source: Source, offset: int, message: str, opener: int | None = None) -> PrototextError:
    place = source.place(offset)
    lines = [message, *_excerpt(source, place)]
    if opener is not None:
        opened = source.place(source.starts[opener])
        lines += ["opened here:", *_excerpt(source, opened)] if opened.line != place.line else []
    lines += _hints(source.line_text(place.line), place.column)
    return PrototextError("\n".join(lines), place)


def _excerpt(source: Source, place: Place) -> list[str]:
    """Return the line of a place, cut when it is long, and a caret under its column; tabs stay, for the caret."""
    text = source.line_text(place.line)
    begin = max(0, place.column - 1 - _WIDTH // 2) if len(text) > _WIDTH else 0
    shown = _printable(text[begin : begin + _WIDTH])
    pad = "".join("\t" if c == "\t" else " " for c in shown[: place.column - 1 - begin])
    return [f"    {shown}", f"    {pad}^"]


def _printable(text: str) -> str:
    """Replace what a terminal cannot print, and control characters, by "?"."""
    return "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


def _hints(text: str, column: int) -> list[str]:
    if re.match(_CONFLICT, text):
        return ["hint: this is the marker of an unresolved merge conflict; resolve the conflict first"]
    for match in re.finditer(_PLACEHOLDER, text):
        if match.start() < column <= match.end():
            return [f"hint: {quote(match[0])} looks like a placeholder of a template; fill in the template first"]
    return []


def _found(source: Source, index: int) -> tuple[str, int]:
    """Return what is at a token, in words, and the offset to show."""
    start = source.starts[index]
    if source.texts[index]:
        return quote(source.data[start : source.end(index)]), start
    if source.is_whole:
        return "the end of the file", source.end(index - 1)  # the line that breaks off, not a blank one after it
    return _found_no_token(source.data, start)


def _found_no_token(data: bytes, start: int) -> tuple[str, int]:
    first = chr(data[start])
    if first in _STRING_HEAD:
        return _found_string(data, start, re.compile(_STRING_HEAD[first]))
    number = re.compile(_NUMBER_LIKE).match(data, start)
    if number:
        octal = " (a leading 0 means octal)" if re.match(rb"0[0-9]", number[0]) else ""
        return f"{quote(number[0])}, which is not a number{octal}", start
    if data[start : start + 2] in (b"//", b"/*"):
        return f'{quote(data[start : start + 2])} (comments start with "#")', start
    if first == "\x7f" or first < " ":
        return f"the control character 0x{ord(first):02X}", start
    return _found_character(data, start)


def _found_string(data: bytes, start: int, head: re.Pattern[bytes]) -> tuple[str, int]:
    match = head.match(data, start)
    assert match is not None
    stop = match.end()
    if data[stop : stop + 1] == b"\\" and data[stop + 1 : stop + 2] not in (b"", b"\n"):
        hint = " (a backslash begins an escape: use / in paths)" if b":\\" in data[: stop + 1].splitlines()[-1] else ""
        return f"a string with the invalid escape {quote(data[stop : stop + 2])}{hint}", stop
    return "a string that is not closed before the end of its line", start


def _found_character(data: bytes, start: int) -> tuple[str, int]:
    character = decode(data[start : start + 4])[0]
    if character.isascii():
        return quote(character), start
    if "\udc80" <= character <= "\udcff":
        return f"the byte 0x{data[start]:02X}, which is allowed in strings and comments only", start
    return f"U+{ord(character):04X} {quote(character)}, which is allowed in strings and comments only", start
