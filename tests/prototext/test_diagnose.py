"""What a syntax error says, and where it points."""

from __future__ import annotations

import pytest

from caffestat.errors import PrototextError
from caffestat.prototext import parse


def error(data: bytes) -> PrototextError:
    with pytest.raises(PrototextError) as caught:
        parse(data, "net.prototxt")
    return caught.value


# text: (line, column, first line of the message)
MESSAGES = {
    b"a: 1 }": (1, 6, '"}" closes nothing that is open'),
    b"a: 1 >": (1, 6, '">" closes nothing that is open'),
    b"a {\n b: 1 >": (2, 7, 'expected a field name or "}" to close the "{" opened at net.prototxt:1:3, found ">"'),
    b"a <\n }": (2, 2, 'expected a field name or ">" to close the "<" opened at net.prototxt:1:3, found "}"'),
    b"x {}\na {\n b {}\n": (
        3,
        6,
        'expected a field name or "}" to close the "{" opened at net.prototxt:2:3, found the end of the file',
    ),
    b"a": (1, 2, 'expected ":" or "{" after "a", found the end of the file'),
    b"a:  \n\n": (1, 3, 'expected a value for "a", found the end of the file'),
    b"a: }": (1, 4, 'expected a value for "a", found "}"'),
    b"a:\n  b: 1": (2, 3, 'expected a value for "a", found the field "b"'),
    b"a:\n  b { }": (2, 3, 'expected a value for "a", found the field "b"'),
    b"a: b: 1": (1, 5, 'expected a field name, found ":"'),
    b"a = 5": (1, 3, 'expected ":" or "{" after "a", found "="'),
    b"a 5": (1, 3, 'expected ":" or "{" after "a", found "5"'),
    b'a: "b': (1, 4, 'expected a value for "a", found a string that is not closed before the end of its line'),
    b"a: 'b\nc: 1": (1, 4, 'expected a value for "a", found a string that is not closed before the end of its line'),
    b"a: 'b\\": (1, 4, 'expected a value for "a", found a string that is not closed before the end of its line'),
    b"a: 'b' 'c": (1, 8, "expected a field name, found a string that is not closed before the end of its line"),
    b"a: 'b\\q'": (1, 6, 'expected a value for "a", found a string with the invalid escape "\\q"'),
    b"a: 'C:\\xampp\\u12'": (
        1,
        13,
        'expected a value for "a", found a string with the invalid escape "\\u" '
        "(a backslash begins an escape: use / in paths)",
    ),
    b"a: 09": (1, 4, 'expected a value for "a", found "09", which is not a number (a leading 0 means octal)'),
    b"a: 1.2.3": (1, 4, 'expected a value for "a", found "1.2.3", which is not a number'),
    b"a: 3x3": (1, 4, 'expected a value for "a", found "3x3", which is not a number'),
    b"a: 1e+": (1, 4, 'expected a value for "a", found "1e+", which is not a number'),
    b"a: -x": (1, 5, 'expected a number after "-", found "x"'),
    b"a: [1 2]": (1, 7, 'expected "," or "]" in the list of "a", found "2"'),
    b"a: [1, ]": (1, 8, 'expected a value for "a", found "]"'),
    b"a: [{} {}]": (1, 8, 'expected "," or "]" in the list of "a", found "{"'),
    b"a: [1, 2": (1, 9, 'expected "," or "]" in the list of "a", found the end of the file'),
    b"a: [[1]]": (1, 5, 'expected a value for "a", found "["'),
    b"a [1]": (1, 3, 'expected ":" after "a", found "["'),
    b"[a..b] {}": (1, 1, '"[a..b]" is not the name of an extension or of a type'),
    b"// c": (1, 1, 'expected a field name, found "//" (comments start with "#")'),
    b"a: 1 \x1b": (1, 6, "expected a field name, found the control character 0x1B"),
    "a: “b”".encode(): (
        1,
        4,
        'expected a value for "a", found U+201C "“", which is allowed in strings and comments only',
    ),
    b"a: \xff": (1, 4, 'expected a value for "a", found the byte 0xFF, which is allowed in strings and comments only'),
    b"\n\xc3\xa9: 1": (2, 1, 'expected a field name, found U+00E9 "é", which is allowed in strings and comments only'),
    b"a: 1 5: 2": (1, 6, 'expected a field name, found "5"'),
    b"# c\nabc\0\n": (
        2,
        4,
        "this looks like a binary file, expected text in protobuf's text format: found a NUL byte",
    ),
    "a: 1".encode("utf-16"): (1, 1, "this looks like UTF-16 text, expected UTF-8: save the file as UTF-8"),
}


@pytest.mark.parametrize(("data", "expected"), MESSAGES.items())
def test_message(data: bytes, expected: tuple[int, int, str]) -> None:
    caught = error(data)
    assert (caught.place.line, caught.place.column, caught.message.splitlines()[0]) == expected
    assert caught.place.file == "net.prototxt"


def test_shows_the_line_with_a_caret() -> None:
    assert str(error(b"a: 1\n\tb: 'x' c: ?\nd: 1")) == (
        'net.prototxt:2:12: expected a value for "c", found "?"\n    \tb: \'x\' c: ?\n    \t          ^'
    )


def test_shows_where_the_open_message_began() -> None:
    assert error(b"layer {\n  a: 1\n\n").message.splitlines()[1:] == [
        "      a: 1",
        "          ^",
        "opened here:",
        "    layer {",
        "          ^",
    ]


def test_cuts_long_lines_and_tokens() -> None:
    shown = error(b"a: 1 " * 10_000 + b"abcdefg " * 2).message
    assert max(map(len, shown.splitlines())) <= 110
    line, caret = shown.splitlines()[1:3]
    assert line[caret.index("^") - 8 :].startswith("abcdefg ")
    assert (
        error(b"x" * 1000).message.splitlines()[0]
        == 'expected ":" or "{" after "' + "x" * 37 + '...", found the end of the file'
    )


def test_shows_nothing_that_a_terminal_obeys_or_cannot_print() -> None:
    message = error(b"a: 'x\x1b[31m\xff' 'y\x1b' \x07").message
    assert "\x1b" not in message
    assert message.encode()
    assert "    a: 'x?[31m?' 'y?' ?" in message


CONFLICT = b"a: 1\n<<<<<<< HEAD\nb: 2\n=======\nb: 3\n>>>>>>> topic\n"


@pytest.mark.parametrize(
    "data",
    [
        CONFLICT,
        b"a {\n" + CONFLICT + b"}",
        CONFLICT.replace(b"<<<<<<< HEAD\n", b""),
        CONFLICT.replace(b"<<<<<<< HEAD\n", b"").replace(b"=======\n", b""),
        b"a {\nb: 1\n>>>>>>> topic\n}",
        b"a: MAX\n" + CONFLICT,
        b"a: 1\r\n=======\r\n",
    ],
)
def test_hints_at_merge_conflicts(data: bytes) -> None:
    assert error(data).message.splitlines()[-1].startswith("hint: this is the marker of an unresolved merge conflict")


@pytest.mark.parametrize(
    ("data", "placeholder"),
    [
        (b"a: {{ n }}", "{{ n }}"),
        (b"a: ${N} b: 1", "${N}"),
        (b"a: $N", "$N"),
        (b"a: %(n)d", "%(n)d"),
        (b"a: %d", "%d"),
        (b"{% if x %}", "{% if x %}"),
        (b"a: <%= x %>", "<%= x %>"),
        (b"a: @N@", "@N@"),
        (b"a: {n}", "{n}"),
    ],
)
def test_hints_at_placeholders(data: bytes, placeholder: str) -> None:
    assert error(data).message.splitlines()[-1] == (
        f'hint: "{placeholder}" looks like a placeholder of a template; fill in the template first'
    )


def test_hints_at_no_placeholder_elsewhere_on_the_line() -> None:
    assert "hint" not in error(b"a: '${N}' b: ?").message


def test_placeholders_in_strings_are_text() -> None:
    assert parse(b"a: '${N} {{n}}'").fields[0].values[0].as_bytes() == b"${N} {{n}}"
