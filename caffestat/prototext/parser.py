"""Builds the tree from the tokens, with its own stack: no depth reaches Python's recursion limit."""

from __future__ import annotations

import re
from dataclasses import dataclass

from caffestat.errors import PrototextError
from caffestat.prototext.diagnose import binary_error, error, quote, unexpected
from caffestat.prototext.tokens import Source
from caffestat.prototext.tree import Document, Field, Message, Scalar

__all__ = ["MAX_DEPTH", "parse"]

MAX_DEPTH = 100
"""How deep messages may be nested: protobuf reads no deeper binary message by default."""

_CLOSER = {"{": "}", "<": ">"}
_SIGNED_NAMES = frozenset(("inf", "infinity", "nan"))
_QUOTES = ('"', "'")
_DIGITS = frozenset("0123456789.")

# [type.googleapis.com/pkg.Type] or [pkg.extension], blanks and comments taken out
_BRACKETED = r"\[(?:(?!/)(?:[\w\-.~!$&()*+,;=/]|%[0-9a-fA-F]{2})*/)?[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\]"
_BRACKETED_TRIVIA = r"#[^\n]*|\s+"

_Value = Scalar | Message


def parse(data: bytes, name: str = "<string>") -> Document:
    """Parse a text in protobuf's text format; `name` is the file's name for messages and places.

    Raises PrototextError, which shows the offending line, when the text is broken or nested deeper than MAX_DEPTH.
    """
    if b"\0" in data:
        raise binary_error(data, name)
    source = Source(data, name)
    return Document(source, _Parser(source).document())


@dataclass(slots=True)
class _Open:
    """A message whose end has not been seen yet, and what comes after it."""

    field: int
    opener: int
    fields: list[Field]
    items: list[_Value] | None


class _Parser:
    """Every method takes token indices and leaves `position` at the token to look at next."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.texts = source.texts
        self.position = 0
        self.fields: list[Field] = []
        self.open: list[_Open] = []

    def document(self) -> tuple[Field, ...]:
        texts = self.texts
        while self.position < len(texts) - 1:
            text = texts[self.position]
            if text.isidentifier() or (text[0] == "[" and len(text) > 1):
                self.field(self.position)
            elif self.open and text in "}>":
                self.close(self.position)
            else:
                raise self.not_a_field(self.position)
        if self.open or not self.source.is_whole:
            raise self.not_a_field(self.position)
        return tuple(self.fields)

    def field(self, name: int) -> None:
        has_colon = self.texts[name + 1] == ":"
        value = name + 1 + has_colon
        text = self.texts[value]
        if text in _CLOSER:
            self.open_message(name, value, None)
        elif text == "[":
            self.list_start(name, value)
        elif has_colon:
            stop = self.scalar(name, value)
            self.finish(name, (Scalar(self.source, value, stop),), False, stop)
        else:
            raise unexpected(self.source, value, f'":" or "{{" after {quote(self.texts[name])}')

    def scalar(self, name: int, start: int) -> int:
        """Return the index behind the scalar that starts at token `start`."""
        text = self.texts[start]
        if text.isidentifier() or text[:1] in _DIGITS:
            return start + 1
        stop = start
        while self.texts[stop].startswith(_QUOTES):
            stop += 1
        if stop > start:
            return stop
        if text == "-":
            return self.negative(start + 1)
        raise unexpected(self.source, start, f"a value for {quote(self.texts[name])}")

    def negative(self, number: int) -> int:
        text = self.texts[number]
        if text[:1] in _DIGITS or text.lower() in _SIGNED_NAMES:
            return number + 1
        raise unexpected(self.source, number, 'a number after "-"')

    def list_start(self, name: int, bracket: int) -> None:
        if self.texts[bracket + 1] == "]":
            self.finish(name, (), True, bracket + 2)
        else:
            self.list_items(name, [], bracket + 1)

    def list_items(self, name: int, items: list[_Value], start: int) -> None:
        """Read items up to the end of the list or up to a message, whose `close` reads on."""
        while self.texts[start] not in _CLOSER:
            if self.texts[name + 1] != ":":
                raise unexpected(self.source, name + 1, f'":" after {quote(self.texts[name])}')
            stop = self.scalar(name, start)
            items.append(Scalar(self.source, start, stop))
            if self.texts[stop] == "]":
                self.finish(name, tuple(items), True, stop + 1)
                return
            start = self.comma(name, stop)
        self.open_message(name, start, items)

    def comma(self, name: int, index: int) -> int:
        if self.texts[index] != ",":
            raise unexpected(self.source, index, f'"," or "]" in the list of {quote(self.texts[name])}')
        return index + 1

    def open_message(self, name: int, opener: int, items: list[_Value] | None) -> None:
        if len(self.open) == MAX_DEPTH:
            raise error(self.source, opener, f"messages are nested deeper than {MAX_DEPTH} levels")
        self.open.append(_Open(name, opener, self.fields, items))
        self.fields = []
        self.position = opener + 1

    def close(self, closer: int) -> None:
        inner = self.open[-1]
        if self.texts[closer] != _CLOSER[self.texts[inner.opener]]:
            raise self.not_a_field(closer)
        self.open.pop()
        message = Message(self.source, inner.opener, closer + 1, tuple(self.fields))
        self.fields = inner.fields
        if inner.items is None:
            self.finish(inner.field, (message,), False, closer + 1)
        elif self.texts[closer + 1] == "]":
            self.finish(inner.field, (*inner.items, message), True, closer + 2)
        else:
            inner.items.append(message)
            self.list_items(inner.field, inner.items, self.comma(inner.field, closer + 1))

    def finish(self, name: int, values: tuple[_Value, ...], is_list: bool, stop: int) -> None:
        text = self.texts[stop]
        if text == ";" or text == ",":
            stop += 1
        self.fields.append(Field(self.source, name, stop, self.field_name(name), values, is_list))
        self.position = stop

    def field_name(self, name: int) -> str:
        text = self.texts[name]
        if text[0] != "[":
            return text
        text = re.sub(_BRACKETED_TRIVIA, "", text, flags=re.ASCII)
        if not re.fullmatch(_BRACKETED, text, re.ASCII):
            raise error(self.source, name, f"{quote(text)} is not the name of an extension or of a type")
        return text

    def not_a_field(self, index: int) -> PrototextError:
        """Return the error for a token that is neither a field's name nor the closer that is due."""
        if self.texts[index] in (":", "{", "<") and self.lost_value(index - 1):
            field, found = quote(self.fields[-1].name), quote(self.texts[index - 1])
            return error(self.source, index - 1, f"expected a value for {field}, found the field {found}")
        if self.open:
            opener = self.open[-1].opener
            return unexpected(self.source, index, f'a field name or "{_CLOSER[self.texts[opener]]}"', opener)
        if self.texts[index] in ("}", ">"):
            return error(self.source, index, f'"{self.texts[index]}" closes nothing that is open')
        return unexpected(self.source, index, "a field name")

    def lost_value(self, index: int) -> bool:
        """Tell whether token `index`, read as a field's value, is on a later line, like the next field's name."""
        if not self.fields or not self.texts[index].isidentifier():
            return False
        return self.source.line(self.source.starts[index]) > self.fields[-1].line
