"""Messages as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import text_encoding
from google.protobuf.descriptor import FieldDescriptor

from caffestat.float32 import rounded

__all__ = ["to_text"]


def to_text(message: Any) -> str:
    """Return the message in protobuf's text format: fields by number, two spaces per level, UTF-8 left as it is.

    Floats have as few digits, from six on, as read back as the same float.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Any, indent: str = "") -> Iterator[str]:
    for field, content in message.ListFields():
        for value in [content] if field.has_presence else content:
            if field.message_type is None:
                yield f"{indent}{field.name}: {_scalar(field, value)}"
            else:
                yield f"{indent}{field.name} {{"
                yield from _lines(value, indent + "  ")
                yield f"{indent}}}"


def _scalar(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return f'"{text_encoding.CEscape(value, isinstance(value, str))}"'
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return _shortest(value, range(6, 9), 9, rounded)
    if field.cpp_type == FieldDescriptor.CPPTYPE_DOUBLE:
        return _shortest(value, range(15, 17), 17, float)
    return str(value).lower()


def _shortest(value: float, digits: range, enough: int, stored: Callable[[float], float]) -> str:
    texts = (f"{value:.{n}g}" for n in digits)
    return next((text for text in texts if stored(float(text)) == value), f"{value:.{enough}g}")
