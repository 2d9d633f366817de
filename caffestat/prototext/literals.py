"""The values of scalar tokens, as protobuf's C++ tokenizer reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from caffestat.prototext.tokens import DECIMAL

__all__ = ["read_float", "read_int", "read_string"]

_INTEGER = re.compile(r"(-?)(?:(0[xX][0-9a-fA-F]+)|(0[0-7]+)|(0|[1-9][0-9]*))")
_FLOAT = re.compile(rf"-?{DECIMAL}")
_FLOAT_NAME = re.compile(r"-?(?:inf|infinity|nan)", re.IGNORECASE)

_HEX = rb"[0-9a-fA-F]"
_ESCAPE = (
    rb"\\(?:([0-7]{1,3})"
    rb"|[xX](%(hex)b{1,2})"
    rb"|(?:u|U0000)([dD][89abAB]%(hex)b{2})\\u([dD][c-fC-F]%(hex)b{2})"  # a UTF-16 pair makes one character
    rb"|(?:u(%(hex)b{4})|U(%(hex)b{8}))"
    rb"|(.))" % {b"hex": _HEX}
)
_CONTROL = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def read_int(text: str) -> int:
    """Return the value of a decimal, hexadecimal (0x1F) or octal (017) integer; ValueError for anything else."""
    match = _INTEGER.fullmatch(text)
    if match is None:
        raise ValueError(f"expected an integer, found {text}")
    sign, hexadecimal, octal, decimal = match.groups()
    magnitude = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
    return -magnitude if sign else magnitude


def read_float(text: str) -> float:
    """Return the value of a decimal number with or without a trailing f, or of inf, infinity or nan in any case.

    Raises ValueError for anything else, hexadecimal and octal integers among it: C++ refuses them too, for 017 would be
    15 to one reader and 17 to another.
    """
    if _FLOAT_NAME.fullmatch(text):
        return float(text)
    if not _FLOAT.fullmatch(text):
        raise ValueError(f"expected a decimal number, found {text}")
    return float(text.rstrip("fF"))


def read_string(parts: Iterable[str]) -> bytes:
    """Return the bytes of adjacent quoted strings, each of whose characters stands for one byte."""
    return b"".join(_unescaped(part[1:-1].encode("latin-1")) for part in parts)


def _unescaped(text: bytes) -> bytes:
    return re.sub(_ESCAPE, _unescape, text) if b"\\" in text else text


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
    return bytes([_CONTROL.get(other[0], other[0])])


def _utf8(code: int) -> bytes:
    if code > 0x10FFFF:  # no character: C++ leaves the escape as it stands
        return b"\\U%08x" % code
    return chr(code).encode("utf-8", "surrogatepass")
