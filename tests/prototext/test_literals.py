"""The values of scalars, against C++'s rules and protobuf's Python reader."""

from __future__ import annotations

import math

import pytest
from google.protobuf import descriptor_pb2, text_format

from caffestat.prototext import Scalar, parse


def scalar(text: str | bytes) -> Scalar:
    data = text.encode() if isinstance(text, str) else text
    value = parse(b"a: " + data).fields[0].values[0]
    assert isinstance(value, Scalar)
    return value


INTS = {
    "0": 0,
    "-0": 0,
    "42": 42,
    "-42": -42,
    "- 42": -42,
    "017": 15,
    "-017": -15,
    "00": 0,
    "0x1F": 31,
    "-0Xff": -255,
    "18446744073709551615": 2**64 - 1,
    "99999999999999999999": 99999999999999999999,
}


@pytest.mark.parametrize(("text", "value"), INTS.items())
def test_int(text: str, value: int) -> None:
    assert scalar(text).as_int() == value


@pytest.mark.parametrize("text", ["1.0", "1f", "1e3", "inf", "abc", "true", "'5'", "-1.5"])
def test_not_an_int(text: str) -> None:
    with pytest.raises(ValueError, match="expected an integer, found"):
        scalar(text).as_int()


FLOATS = {
    "0": 0.0,
    "5": 5.0,
    "-5": -5.0,
    ".5": 0.5,
    "5.": 5.0,
    "1e-3": 1e-3,
    "1.e+2": 100.0,
    "1.5f": 1.5,
    "10F": 10.0,
    "-.5e1f": -5.0,
    "1e999": math.inf,
    "-1e999": -math.inf,
    "1e-999": 0.0,
    "inf": math.inf,
    "-INF": -math.inf,
    "- Infinity": -math.inf,
    "0.1": 0.1,
    "18446744073709551616": 2.0**64,
}


@pytest.mark.parametrize(("text", "value"), FLOATS.items())
def test_float(text: str, value: float) -> None:
    assert scalar(text).as_float() == value


def test_float_nan_and_negative_zero() -> None:
    assert math.isnan(scalar("nan").as_float())
    assert math.isnan(scalar("-NaN").as_float())
    assert math.copysign(1, scalar("-0").as_float()) == -1


@pytest.mark.parametrize("text", ["0x1F", "017", "-0x1", "abc", "infin", "inff", "'1'", "true"])
def test_not_a_float(text: str) -> None:
    with pytest.raises(ValueError, match="expected a decimal number, found"):
        scalar(text).as_float()


STRINGS = {
    rb"''": b"",
    rb"'a' 'b'": b"ab",
    b"'a'\n# 'c'\n\t\"b\"'d'": b"abd",
    rb"""'"' "'" """: b"\"'",
    rb"'\a\b\f\n\r\t\v\\\?\'" + rb"\"'": b"\a\b\f\n\r\t\v\\?'\"",
    rb"'\0\01\0123\377\8'"[:-3] + b"'": b"\0\1\n3\xff",
    rb"'\777'": b"\xff",
    rb"'\x41\x4\xAg\X41'": b"A\x04\x0agA",
    rb"'\u00e9\u20AC'": "é€".encode(),
    rb"'\U0001F600'": "😀".encode(),
    rb"'\ud83d\ude00'": "😀".encode(),
    rb"'\U0000D83D\uDE00'": "😀".encode(),
    rb"'\ud83dx'": b"\xed\xa0\xbdx",
    rb"'\ud83d\u0041'": b"\xed\xa0\xbdA",
    rb"'\ude00\ud83d'": b"\xed\xb8\x80\xed\xa0\xbd",
    rb"'\U00110000'": rb"\U00110000",
    "'é'".encode(): "é".encode(),
    b"'\xff\xfe'": b"\xff\xfe",
    b"'\\\\n'": rb"\n",
}


@pytest.mark.parametrize(("text", "value"), STRINGS.items())
def test_string(text: bytes, value: bytes) -> None:
    assert scalar(text).as_bytes() == value


@pytest.mark.parametrize("text", ["1", "abc", "-5", "inf"])
def test_not_a_string(text: str) -> None:
    with pytest.raises(ValueError, match="expected a string, found"):
        scalar(text).as_bytes()


@pytest.mark.parametrize("text", ["0", "7.", ".25", "-3", "1e-3", "2.5f", "INF", "-infinity", "1e400", "0.1"])
def test_float_agrees_with_protobuf(text: str) -> None:
    option = text_format.Parse(f"double_value: {text}", descriptor_pb2.UninterpretedOption())
    assert scalar(text).as_float() == option.double_value


@pytest.mark.parametrize("text", ["0", "12", "0x1F", "017"])
def test_int_agrees_with_protobuf(text: str) -> None:
    option = text_format.Parse(f"positive_int_value: {text}", descriptor_pb2.UninterpretedOption())
    assert scalar(text).as_int() == option.positive_int_value


@pytest.mark.parametrize("text", [r"'a\001\x41\n\''", r"'\377\xff'", r"'x' " + '"y"', r"'\u00e9\U0001F600'"])
def test_string_agrees_with_protobuf(text: str) -> None:
    option = text_format.Parse(f"string_value: {text}", descriptor_pb2.UninterpretedOption())
    assert scalar(text).as_bytes() == option.string_value
