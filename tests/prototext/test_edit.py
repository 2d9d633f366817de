"""Changing given bytes and no others."""

from __future__ import annotations

import pytest

from caffestat.prototext import (
    Document,
    Field,
    Item,
    Message,
    insert,
    parse,
    remove,
    replace,
    replace_field,
    replace_value,
)

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


XAVIER: Item = ("weight_filler", [("type", '"xavier"')])


def first_message(document: Document) -> Field:
    return next(field for field in document.fields if isinstance(field.values[0], Message))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p { n: 20 }", 'p { n: 20 weight_filler { type: "xavier" } }'),
        ("p {n: 20}", 'p {n: 20 weight_filler {type: "xavier"}}'),
        ("p:{ n:20  k:5 }", 'p:{ n:20  k:5  weight_filler:{ type:"xavier" } }'),
        ("p < n: 20; k: 5; >", 'p < n: 20; k: 5; weight_filler < type: "xavier" >; >'),
        ("p { n: 20, k: 5 }", 'p { n: 20, k: 5, weight_filler { type: "xavier" } }'),
        ("p {}", 'p { weight_filler { type: "xavier" } }'),
        ("p {\n}\n", 'p {\n  weight_filler {\n    type: "xavier"\n  }\n}\n'),
        ("p { # why\n}\n", 'p { # why\n  weight_filler {\n    type: "xavier"\n  }\n}\n'),
        (
            "p {\n   n: 20 # twenty }\n   # left out\n}\n",
            'p {\n   n: 20 # twenty }\n   weight_filler {\n      type: "xavier"\n   }\n   # left out\n}\n',
        ),
        (
            "\tp\n\t{\n\t\tn: 20\n\t}\n",
            '\tp\n\t{\n\t\tn: 20\n\t\tweight_filler\n\t\t{\n\t\t\ttype: "xavier"\n\t\t}\n\t}\n',
        ),
        ("p {\r\n n: 20\r\n}\r\n", 'p {\r\n n: 20\r\n weight_filler {\r\n  type: "xavier"\r\n }\r\n}\r\n'),
        ("#\np {\r\n n: 20\r\n}\n", '#\np {\r\n n: 20\r\n weight_filler {\r\n  type: "xavier"\r\n }\r\n}\n'),
        ("#\r\np {\n n: 20\n}\n", '#\r\np {\n n: 20\n weight_filler {\n  type: "xavier"\n }\n}\n'),
        ("p { n: 20\n    k: 5 }", 'p { n: 20\n    k: 5 weight_filler { type: "xavier" } }'),
        ("p # c\n{ n: 20 }", 'p # c\n{ n: 20 weight_filler { type: "xavier" } }'),
    ],
)
def test_inserts_in_the_style_of_its_neighbours(before: str, after: str) -> None:
    document = parse(before.encode())
    assert replace(document, [insert(document, first_message(document), XAVIER)]).decode() == after


def test_inserts_behind_a_field_and_like_another() -> None:
    text = b"p {\n  a: 1\n  like: { x: 2 }\n}\n"
    document = parse(text)
    owner = document.fields[0]
    a, like = owner.values[0].fields
    edit = insert(document, owner, XAVIER, after=a, like=like)
    assert replace(document, [edit]) == b'p {\n  a: 1\n  weight_filler: { type: "xavier" }\n  like: { x: 2 }\n}\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p {\n  a: 1\n}\n", "p {\n  a: 1\n  b: 0\n  c: 0\n}\n"),
        ("p {\n}\n", "p {\n  b: 0\n  c: 0\n}\n"),
        ("p { a: 1 }", "p { a: 1 b: 0 c: 0 }"),
        ("p { a: 1; }", "p { a: 1; b: 0; c: 0; }"),
        ("p { x: 1, a: 1 }", "p { x: 1, a: 1, b: 0, c: 0 }"),
        ("p { }", "p { b: 0 c: 0 }"),
    ],
)
def test_several_fields_at_one_place_keep_their_order(before: str, after: str) -> None:
    document = parse(before.encode())
    owner = document.fields[0]
    assert replace(document, [insert(document, owner, ("b", "0"), ("c", "0"))]).decode() == after


def test_several_insertions_at_one_place_keep_their_order() -> None:
    document = parse(b"p {\n  a: 1\n}\n")
    edits = [insert(document, document.fields[0], (name, "0")) for name in "bc"]
    assert replace(document, edits) == b"p {\n  a: 1\n  b: 0\n  c: 0\n}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("p {\n  a: 1\n  b: 2\n}\n", "p {\n  a: 1\n}\n"),
        ("p {\r\n  a: 1\r\n  b: 2  \r\n}\r\n", "p {\r\n  a: 1\r\n}\r\n"),
        ("p {\n  a: 1\n  b: 2 # two\n}\n", "p {\n  a: 1\n  # two\n}\n"),
        ("p { a: 1 b: 2 }", "p { a: 1 }"),
        ("p { a: 1, b: 2, }", "p { a: 1, }"),
        ("p {b: 2 a: 1}", "p {a: 1}"),
        ("p {\n  b: 2 a: 1\n}\n", "p {\n  a: 1\n}\n"),
        ("p { a: 1 b {\n  x: 2\n} # c\n}\n", "p { a: 1 # c\n}\n"),
        ("p { a: 1 b: 2\n}\n", "p { a: 1\n}\n"),
        ("p {\n  b # in\n  : 2 # after\n}\n", "p {\n  # in\n   # after\n}\n"),
        ("p { b # in\r\n: - # it\r\n2, a: 1 }", "p { # in\r\n # it\r\n a: 1 }"),
    ],
)
def test_removes_a_field_and_what_only_it_needed(before: str, after: str) -> None:
    document = parse(before.encode())
    (b,) = document.fields[0].values[0].find("b")
    assert replace(document, [remove(document, b)]).decode() == after


def test_replaces_a_value_or_a_whole_field_within_its_spacing() -> None:
    document = parse(b"std :  1.5 , type: 'a' \"b\";")
    std, kind = document.fields
    edits = [*replace_field(std, "value", "0"), replace_value(kind, "'c'")]
    assert replace(document, edits) == b"value :  0 , type: 'c';"


def test_comments_inside_of_a_value_stay() -> None:
    document = parse(b"type: 'a' # one\r\n 'b' # two\r\nstd: - # three\n 5")
    edits = [replace_value(field, "0") for field in document.fields]
    assert replace(document, edits) == b"type: 0 # one\r\n  # two\r\nstd: 0 # three\n "


def test_only_messages_take_insertions() -> None:
    document = parse(b"a: 1")
    with pytest.raises(ValueError, match="expected a message in braces in a"):
        insert(document, document.fields[0], ("b", "1"))
