"""Bytes in, bytes out: on random trees, on real files, and on files broken at random."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffestat.errors import PrototextError
from caffestat.prototext import Document, Message, Scalar, parse

from ..corpus import FOLDERS, ROOT

FILES = sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.is_file() and "prototxt" in path.name)

SAMPLE = b"""\xef\xbb\xbf# A net that uses the whole grammar.\r
name: "caf\xc3\xa9 \\303\\251" 'two'  # same line
layer { name: 'conv' type: "Convolution" bottom: "data", top: "conv";
  convolution_param: < kernel_size: [3, 0x5] weight_filler { std: 1.5f mean: - .5e-3 } pad: 017 >
  [a.b.c]: inf param [{ lr_mult: 1 }, <decay_mult: -nan>] include: []
}
any { [type.googleapis.com/x.Y] { v: TRAIN } } # the end"""

trivia = st.sampled_from([b" ", b"\t", b"\n", b"\r\n", b"\f\v", b" # {c} '\n", b"#\xff\xc3\xa9\r\n", b"\n\n  "])
names = st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,5}", fullmatch=True)
ints = st.integers(-(2**63), 2**64 - 1).flatmap(
    lambda n: st.sampled_from([str(n), f"{'-' * (n < 0)}0x{abs(n):x}", f"{'-' * (n < 0)}0{abs(n):o}"]).map(
        lambda text: ("int", text.encode(), n)
    )
)
floats = st.floats(allow_nan=False, width=64).flatmap(
    lambda x: st.sampled_from(["", "f"] if abs(x) < float("inf") else [""]).map(
        lambda suffix: ("float", (repr(x) + suffix).encode(), x)
    )
)
identifiers = names.map(lambda name: ("identifier", name.encode(), name))


def quoted(data: bytes, quote: bytes, escape_all: bool) -> bytes:
    plain = b"" if escape_all else bytes(c for c in range(1, 256) if c not in (*b"\n\\", *quote))
    return quote + b"".join(bytes([c]) if c in plain else b"\\%03o" % c for c in data) + quote


parts = st.tuples(st.binary(max_size=6), st.sampled_from([b"'", b'"']), st.booleans())


@st.composite
def strings(draw: st.DrawFn) -> tuple[str, bytes, bytes]:
    chosen = draw(st.lists(parts, min_size=1, max_size=3))
    text = b"".join(quoted(*part) + draw(trivia) for part in chosen)
    return "string", text, b"".join(part[0] for part in chosen)


scalars = ints | floats | identifiers | strings()


@st.composite
def rendered(draw: st.DrawFn, depth: int = 3) -> tuple[bytes, list[tuple[str, bool, list[object]]]]:
    """A text and what should be found in it: name, is_list and values of each field."""
    text, fields = b"", []
    for _ in range(draw(st.integers(0, 4))):
        name, is_list, use_messages = draw(names), draw(st.booleans()), depth > 0 and draw(st.booleans())
        count = draw(st.integers(0, 3)) if is_list else 1
        pieces, values = [], []
        for _ in range(count):
            piece, value = draw(message(depth - 1)) if use_messages else draw(scalar())
            pieces.append(draw(trivia) + piece + draw(trivia))
            values.append(value)
        body = b"[" + b",".join(pieces) + b"]" if is_list else pieces[0]
        colon = b"" if use_messages and draw(st.booleans()) else b":"
        text += draw(trivia) + name.encode() + draw(trivia) + colon + body + draw(st.sampled_from([b"", b",", b" ;"]))
        fields.append((name, is_list, values))
    return text + draw(trivia), fields


@st.composite
def scalar(draw: st.DrawFn) -> tuple[bytes, object]:
    kind, text, value = draw(scalars)
    if text.startswith(b"-"):
        text = b"-" + draw(trivia) + text[1:]
    return text, (kind, value)


@st.composite
def message(draw: st.DrawFn, depth: int) -> tuple[bytes, object]:
    text, fields = draw(rendered(depth))
    opener, closer = draw(st.sampled_from([(b"{", b"}"), (b"<", b">")]))
    return opener + text + closer, fields


READERS = {"int": Scalar.as_int, "float": Scalar.as_float, "string": Scalar.as_bytes, "identifier": lambda s: s.text}


def assert_found(node: Document | Message, expected: list[tuple[str, bool, list[object]]]) -> None:
    assert [(field.name, field.is_list, len(field.values)) for field in node.fields] == [
        (name, is_list, len(values)) for name, is_list, values in expected
    ]
    for field, (_, _, values) in zip(node.fields, expected, strict=True):
        for found, value in zip(field.values, values, strict=True):
            if isinstance(found, Message):
                assert_found(found, value)
            else:
                kind, number = value
                assert READERS[kind](found) == number


def assert_lossless(document: Document, data: bytes) -> None:
    assert bytes(document) == data
    assert b"".join(map(bytes, document.tokens)) == data


@settings(max_examples=80, deadline=None)
@given(rendered())
def test_random_trees(case: tuple[bytes, list[tuple[str, bool, list[object]]]]) -> None:
    text, fields = case
    document = parse(text)
    assert_lossless(document, text)
    assert_found(document, fields)
    for field in document.fields:
        assert parse(bytes(field)).fields[0].name == field.name


@pytest.mark.parametrize("path", FILES, ids=lambda path: os.path.relpath(path, ROOT.parent))
def test_real_files(path: Path) -> None:
    data = path.read_bytes()
    try:
        document = parse(data, path.name)
    except PrototextError as error:
        assert not path.is_relative_to(ROOT), "our own files must parse"
        assert "hint: " in error.message
        assert error.place.line > 0
    else:
        assert document.fields
        assert_lossless(document, data)


def parse_or_refuse(data: bytes) -> None:
    try:
        document = parse(data)
    except PrototextError as error:
        assert error.place.line >= 1
        assert error.place.column >= 1
        assert str(error).encode()
    else:
        assert_lossless(document, data)


def test_the_sample_parses() -> None:
    document = parse(SAMPLE)
    assert_lossless(document, SAMPLE)
    assert document.fields[0].values[0].as_bytes() == "café étwo".encode()


def test_every_truncation() -> None:
    for length in range(len(SAMPLE)):
        parse_or_refuse(SAMPLE[:length])


def test_random_mutations() -> None:
    rng = random.Random(20240607)
    for _ in range(3000):
        data = bytearray(SAMPLE)
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(data))
            piece = bytes(rng.choice([rng.randrange(256), *b"{}<>[]:,;-'\"\\#\n"]) for _ in range(rng.randint(0, 3)))
            data[start : start + rng.randint(0, 3)] = piece
        parse_or_refuse(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40) | st.text("ab1.:{}<>[],;-'\"\\#\n x", max_size=40).map(str.encode))
def test_random_bytes(data: bytes) -> None:
    parse_or_refuse(data)
