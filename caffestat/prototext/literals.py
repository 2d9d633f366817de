"""The values of scalar tokens, as protobuf's C++ tokenizer reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["read_float", "read_int", "read_string"]

_INTEGER = re.compile(r"(-?)(?:(0[xX][0-9a-fA-F]+)|(0[0-7]+)|(0|[1-9][0-9]*))")
_FLOAT_NAME = re.compile(r"-?(?:inf|infinity|nan)", re.IGNORECASE)
_ESCAPE = re.compile(
    r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})"
    r"|u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))(?:)|(.))",
    re.DOTALL,
)
_CONTROL = {"a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v"}


def read_int(text: str) -> int:
    """The value of a decimal, hexadecimal (0x1F) or octal (017) integer; ValueError for anything else."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an integer, found {text}")
    sign, hexadecimal, octal, decimal = match.groups()
    magnitude = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return -magnitude if sign else magnitude


def read_float(text: str) -> float:
    """The value of a decimal number, inf, infinity or nan in any case; a trailing f is dropped. ValueError otherwise.

    Hexadecimal and octal integers are refused, as C++ does: 017 would be 15 to one reader and 17 to another.
    """
    if _FLOAT_NAME.fullmatch(text):
        return float(text)
    match = _INTEGER.fullmatch(text)
    if match is not None and match[4] is None:
        raise ValueError(f"expected a decimal number, found {text}")
    if not text.lstrip("-")[:1] in frozenset("0123456789."):
        raise ValueError(f"expected a number, found {text}")
    return float(text.rstrip("fF"))


def read_string(parts: Iterable[str]) -> bytes:
    """The bytes of adjacent quoted strings, whose characters stand for one byte each."""
    return b"".join(_ESCAPE_BYTES.sub(_unescape, part[1:-1].encode("latin-1")) for part in parts)


_ESCAPE_BYTES = re.compile(_ESCAPE.pattern.encode(), re.DOTALL)


def _unescape(match: re.Match[bytes]) -> bytes:
    octal, hexadecimal, head, trail, short, long, other = match.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if head:
        return _utf8(0x10000 + ((int(head, 16) - 0xD800) << 10) + int(trail, 16) - 0xDC00)
    if short or long:
        return _utf8(int(short or long, 16))
    return _CONTROL.get(other.decode("latin-1"), other)


def _utf8(code: int) -> bytes:
    if code > 0x10FFFF:  # protobuf writes the escape out again
        return b"\\U%08x" % code
    return chr(code).encode("utf-8", "surrogatepass")
