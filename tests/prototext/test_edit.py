"""Changing given bytes and no others."""

from __future__ import annotations

import pytest

from caffestat.prototext import parse, replace

TEXT = b"\xef\xbb\xbfa { # one\r\n\tb: 'x' 'y' , c: - 5 # \xff\n}\n"


def test_no_edits_give_the_text() -> None:
    assert replace(parse(TEXT), []) == TEXT


def test_replaces_values_in_any_order() -> None:
    document = parse(TEXT)
    b, c = document.fields[0].values[0].fields
    edits = [(*c.values[0].span, b"6"), (*b.values[0].span, b'"z"')]
    assert replace(document, edits) == TEXT.replace(b"- 5", b"6").replace(b"'x' 'y'", b'"z"')


def test_inserts_and_deletes() -> None:
    document = parse(b"abc: 1 def: 2")
    second = document.fields[1]
    start, end = second.span
    assert replace(document, [(start, start, b"x: 0 "), (start, start, b"y: 0 ")]) == b"abc: 1 x: 0 y: 0 def: 2"
    assert replace(document, [(start, end, b""), (0, 3, b"n")]) == b"n: 1 "
    assert replace(document, [(0, 6, b"p: 3"), (6, 6, b";")]) == b"p: 3; def: 2"


@pytest.mark.parametrize(
    "edits", [[(0, 3, b""), (2, 4, b"")], [(0, 3, b""), (1, 1, b"x")], [(3, 1, b"")], [(0, 99, b"")], [(-1, 2, b"")]]
)
def test_refuses_edits_that_clash(edits: list[tuple[int, int, bytes]]) -> None:
    with pytest.raises(ValueError, match="overlaps another one or leaves the 6 bytes"):
        replace(parse(b"abc: 1"), edits)
