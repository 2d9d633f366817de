"""What the parser accepts, and the tree it makes of it."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2, struct_pb2, text_format

from caffestat.errors import PrototextError
from caffestat.prototext import MAX_DEPTH, Document, Message, Scalar, parse


def outline(node: Document | Message) -> list[tuple[str, object]]:
    """Names and raw values, lists as lists and messages as outlines."""
    result: list[tuple[str, object]] = []
    for field in node.fields:
        values = [outline(value) if isinstance(value, Message) else value.text for value in field.values]
        result.append((field.name, values if field.is_list else values[0]))
    return result


ACCEPTED = {
    "empty": (b"", []),
    "blanks only": (b" \t\r\n\f\v\n", []),
    "comment only": (b"# nothing", []),
    "scalar": (b"a: 1", [("a", "1")]),
    "no blank between number and name": (b"a:1b:2", None),
    "no blanks": (
        b"a:[1]b{c:'x'd:e}f:5;g:6",
        [("a", ["1"]), ("b", [("c", "'x'"), ("d", "e")]), ("f", "5"), ("g", "6")],
    ),
    "blanks before the colon": (b"a \n : # c\n 1", [("a", "1")]),
    "message": (b"a { b: 1 }", [("a", [("b", "1")])]),
    "colon before a message": (b"a: { b: 1 }", [("a", [("b", "1")])]),
    "angle brackets": (b"a <b: 1 c: <>>", [("a", [("b", "1"), ("c", [])])]),
    "empty message": (b"a {}", [("a", [])]),
    "one separator": (b"a: 1, b: 2; c { d: 3; }, e: [4];", [("a", "1"), ("b", "2"), ("c", [("d", "3")]), ("e", ["4"])]),
    "two separators": (b"a: 1,, b: 2", None),
    "separator first": (b", a: 1", None),
    "separator after the brace": (b"a {, b: 1}", None),
    "list": (b"a: [1, 'x' \"y\", z, - 5]", [("a", ["1", "'x' \"y\"", "z", "-5"])]),
    "list of one": (b"a: [1]", [("a", ["1"])]),
    "empty list": (b"a: [] b: [ # c\n ]", [("a", []), ("b", [])]),
    "empty list of messages": (b"a []", [("a", [])]),
    "list of messages": (b"a [{b: 1}, <c: 2>] d: 3", [("a", [[("b", "1")], [("c", "2")]]), ("d", "3")]),
    "list of messages in one": (b"a: [{b [{}, {c: [1, 2]}]}]", [("a", [[("b", [[], [("c", ["1", "2"])]])]])]),
    "list of scalars without a colon": (b"a [1]", None),
    "list with a comma at its end": (b"a: [1,]", None),
    "list without commas": (b"a: [1 2]", None),
    "list with semicolons": (b"a: [1; 2]", None),
    "list in a list": (b"a: [[1]]", None),
    "list of names": (b"a: [b, c] d: 1", [("a", ["b", "c"]), ("d", "1")]),
    "list before a message": (b"a: [b] {}", None),
    "scalar without a colon": (b"a 1", None),
    "no value": (b"a:", None),
    "no name": (b": 1", None),
    "number for a name": (b"1: 2", None),
    "dotted name": (b"a.b: 1", None),
    "keywords are names": (b"inf: nan true: false", [("inf", "nan"), ("true", "false")]),
    "minus": (b"a: - # c\n 5 b: -inf c: - Infinity", [("a", "-5"), ("b", "-inf"), ("c", "-Infinity")]),
    "two minuses": (b"a: --5", None),
    "minus before a name": (b"a: -b", None),
    "minus before a string": (b"a: -'b'", None),
    "plus": (b"a: +5", None),
    "string parts": (b"a: 'x'\n# c\n\"y\"'z'", [("a", "'x' \"y\" 'z'")]),
    "hash in a string": (b"a: '# no comment'", [("a", "'# no comment'")]),
    "string over two lines": (b"a: 'x\ny'", None),
    "string with an escaped line break": (b"a: 'x\\\ny'", None),
    "string with control characters": (b"a: 'x\ty\x01\rz'", [("a", "'x\ty\x01\rz'")]),
    "bracketed name": (b"[a.b.c]: 1 [ d . # c\n e ] {}", [("[a.b.c]", "1"), ("[d.e]", [])]),
    "Any": (
        b"a { [type.googleapis.com/x.Y] { b: 1 } } [x-2.io/~9%20/z.W]: <>",
        [("a", [("[type.googleapis.com/x.Y]", [("b", "1")])]), ("[x-2.io/~9%20/z.W]", [])],
    ),
    "bracketed name that is none": (b"[a..b]: 1", None),
    "bracketed name without a value": (b"[a.b]", None),
    "Any of a bad percent": (b"[x%2/a.b] {}", None),
    "Any that begins with a slash": (b"[/a.b] {}", None),
    "brackets left open": (b"[a.b", None),
    "byte order mark": (b"\xef\xbb\xbfa: 1", [("a", "1")]),
    "byte order mark later": (b"a: 1\xef\xbb\xbf", None),
    "non-ASCII in comments and strings": ("a: 'é' # ü\n".encode(), [("a", "'é'")]),
    "bytes that are no UTF-8": (b"a: '\xff' # \xfe\n", [("a", "'\udcff'")]),
    "non-ASCII name": ("ä: 1".encode(), None),
    "non-ASCII blank": ("a:\u00a01".encode(), None),
    "Windows line breaks": (b"a: 1 # c\r\nb: 2\r\n", [("a", "1"), ("b", "2")]),
    "a lone carriage return ends no comment": (b"a: 1 # c\rb: 2", [("a", "1")]),
    "a lone carriage return is a blank": (b"a: 1\rb: 2", [("a", "1"), ("b", "2")]),
    "control character": (b"a: 1 \x01", None),
    "delete": (b"a: 1 \x7f", None),
    "NUL": (b"a: 1 # \0", None),
}


@pytest.mark.parametrize(("data", "expected"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(data: bytes, expected: list[tuple[str, object]] | None) -> None:
    if expected is None:
        with pytest.raises(PrototextError):
            parse(data)
        return
    document = parse(data)
    assert outline(document) == expected
    assert bytes(document) == data
    assert b"".join(map(bytes, document.tokens)) == data


NUMBERS = [
    "0",
    "5",
    ".5",
    "5.",
    "1e3",
    "1e-3",
    "1E+3",
    "1.5f",
    "10F",
    "0f",
    "0x1F",
    "0Xab",
    "017",
    "00",
    "0.5",
    "0e1",
    "1.e2",
    "5.f",
    ".5e1F",
]
NOT_NUMBERS = [
    "09",
    "0x",
    "0x1g",
    "1e",
    "1e+",
    "1.2.3",
    "017.5",
    "01e5",
    "1_000",
    "1a",
    "1ff",
    ".",
    ".e1",
    "1e1.5",
    "0x1.8",
    "1.5l",
    "00f",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_accepts_number(number: str) -> None:
    field = parse(f"a:{number} b:-{number}".encode()).fields[1]
    value = field.values[0]
    assert isinstance(value, Scalar)
    assert value.kind == "number"
    assert value.text == "-" + number


@pytest.mark.parametrize("number", NOT_NUMBERS)
def test_refuses_number(number: str) -> None:
    with pytest.raises(PrototextError) as caught:
        parse(f"a: {number} b: 1".encode())
    assert caught.value.place.column == 4


def test_kinds_of_scalars() -> None:
    kinds = [field.values[0].kind for field in parse(b"a: 'x' 'y' b: 1 c: -1.5 d: MAX e: -inf").fields]
    assert kinds == ["string", "number", "number", "identifier", "identifier"]


def test_find_and_first() -> None:
    document = parse(b"a: 1 b { c: 3 a: 4 c: 5 } a: 2")
    assert [field.values[0].text for field in document.find("a")] == ["1", "2"]
    message = document.first("b").values[0]
    assert [field.values[0].text for field in message.find("c")] == ["3", "5"]
    assert message.first("c").values[0].text == "3"
    assert document.first("c") is None
    assert document.find("c") == []


def test_places_count_characters() -> None:
    document = parse("\ufeffa: 'é€' b: 1 # ü\r\n\t\tc <\r\nd: [7,\n 8]>".encode(), "net.prototxt")
    a, b, c = document.fields
    (d,) = c.values[0].fields
    assert [(f.line, f.column) for f in (a, b, c, d)] == [(1, 1), (1, 9), (2, 3), (3, 1)]
    assert [(v.line, v.column) for v in d.values] == [(3, 5), (4, 2)]
    assert str(d.place) == "net.prototxt:3:1"
    assert (c.values[0].line, c.values[0].column) == (2, 5)
    assert document.name == "net.prototxt"


def test_columns_count_bytes_that_are_no_utf8() -> None:
    assert parse(b"a: '\xff\xfe' b: 1").fields[1].column == 9


def test_spans_leave_trivia_out_and_take_the_separator_in() -> None:
    data = b" # c\n a : - 5 ; # d\n b { c: [{}, 1] , } "
    a, b = parse(data).fields
    assert bytes(a) == b"a : - 5 ;"
    assert bytes(a.values[0]) == b"- 5"
    assert bytes(b) == b"b { c: [{}, 1] , }"
    assert bytes(b.values[0]) == b"{ c: [{}, 1] , }"
    assert bytes(b.values[0].fields[0]) == b"c: [{}, 1] ,"
    assert data[slice(*a.span)] == bytes(a)


def test_depth_limit() -> None:
    assert bytes(parse(b"a{" * MAX_DEPTH + b"}" * MAX_DEPTH)) == b"a{" * MAX_DEPTH + b"}" * MAX_DEPTH
    for opener in (b"a{", b"a:<", b"a:[{"):
        with pytest.raises(PrototextError, match="nested deeper than 100") as caught:
            parse(opener * 100_000)
        assert caught.value.place.column == MAX_DEPTH * len(opener) + len(opener)


def test_long_lists_and_runs() -> None:
    count = 20_000
    assert len(parse(b"a: [" + b"1," * count + b"2]").fields[0].values) == count + 1
    assert len(parse(b"a: [" + b"{}," * count + b"{}]").fields[0].values) == count + 1
    assert parse(b"a: " + b"'x'" * count).fields[0].values[0].as_bytes() == b"x" * count
    assert parse(b"# # # # \n" * count).fields == ()


@pytest.mark.parametrize("piece", [b"[a ", b"'\\x", b"# ", b"1.", b"{", b"-", b"a:", b"<<<<<<<", b"[a#", b"0.", b"\\"])
def test_repeated_nonsense_ends_soon(piece: bytes) -> None:
    with pytest.raises(PrototextError):
        parse(b"a: " + piece * 50_000)


# Where protobuf's Python and C++ readers agree, caffestat must agree with them. They part at "- 5" and "+5": C++ takes
# the first and refuses the second, Python the other way round.
STRUCT_TEXTS = [
    "",
    "fields { key: 'a' value { number_value: 1.5 } }",
    "fields < key: 'a' value: < number_value: -1e-3f > >",
    "fields: [{key: 'a'}, {key: 'b', value {bool_value: true};}]",
    "fields []",
    "fields { key: 'a' 'b' \"c\" }",
    "fields { key: 'a' # comment\n }",
    "fields { key: 'a' value { list_value { values: [{number_value: 1}, {number_value: inf}] } } }",
    "fields { key: 'a' value { number_value: .5 } }",
    "fields { key: 'a' value { number_value: 5. } }",
    "fields { key: 'a' value { number_value: NaN } }",
    "fields { key: 'a\nb' }",
    "fields { key: 'a }",
    "fields { key: a",
    "fields { key: 'a' >",
    "fields { key: 'a' }}",
    "fields { key 'a' }",
    "fields { key: }",
    "fields { key: 'a',, }",
    "fields: [{key: 'a'},]",
    "fields { key: 'a' value { number_value: --5 } }",
    "fields = { }",
    "// fields",
]


@pytest.mark.parametrize("text", STRUCT_TEXTS)
def test_agrees_with_protobuf_on_what_is_accepted(text: str) -> None:
    try:
        text_format.Parse(text, struct_pb2.Struct())
        accepted = True
    except text_format.ParseError:
        accepted = False
    try:
        parse(text.encode())
        ours = True
    except PrototextError:
        ours = False
    assert ours == accepted


def test_agrees_with_protobuf_on_a_large_message() -> None:
    proto = descriptor_pb2.FileDescriptorProto()
    descriptor_pb2.DESCRIPTOR.CopyToProto(proto)
    document = parse(text_format.MessageToString(proto).encode())

    def check(fields: Document | Message, message: descriptor_pb2.FileDescriptorProto) -> None:
        """Walk both trees side by side; every field that protobuf set must be found, in its order."""
        for descriptor, value in message.ListFields():
            values = list(value) if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
            found = [v for field in fields.find(descriptor.name) for v in field.values]
            assert len(found) == len(values)
            for ours, theirs in zip(found, values, strict=True):
                if isinstance(ours, Message):
                    check(ours, theirs)
                elif isinstance(theirs, str):
                    assert ours.as_bytes() == theirs.encode()
                elif isinstance(theirs, bool):
                    assert ours.text == str(theirs).lower()
                elif descriptor.enum_type is not None:
                    assert descriptor.enum_type.values_by_name[ours.text].number == theirs
                else:
                    assert ours.as_int() == theirs

    check(document, proto)
    assert len(document.find("message_type")) > 20
