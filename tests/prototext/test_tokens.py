"""How blanks and comments attach to tokens."""

from __future__ import annotations

import pytest

from caffestat.prototext import parse


def attached(data: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [(token.leading, token.text, token.trailing) for token in parse(data).tokens]


def test_comments_attach_to_their_line() -> None:
    assert attached(b"# first\na: 1  # of a\n# of b\nb {  # of the brace\n}") == [
        (b"# first\n", b"a", b""),
        (b"", b":", b""),
        (b" ", b"1", b"  # of a"),
        (b"\n# of b\n", b"b", b""),
        (b" ", b"{", b"  # of the brace"),
        (b"\n", b"}", b""),
        (b"", b"", b""),
    ]


def test_a_carriage_return_belongs_to_the_line_break() -> None:
    assert attached(b"a: 1 # c\r\n\r\nb: 2\r\n")[2:4] == [(b" ", b"1", b" # c"), (b"\r\n\r\n", b"b", b"")]


@pytest.mark.parametrize("end", [b" # end", b"  ", b""])
def test_the_end_of_the_text_ends_a_line(end: bytes) -> None:
    assert attached(b"a: 1" + end)[2:] == [(b" ", b"1", end), (b"", b"", b"")]


def test_the_last_token_leads_with_the_rest() -> None:
    assert attached(b"a: 1 # c\n\n# rest")[-1] == (b"\n\n# rest", b"", b"")
    assert attached(b"\xef\xbb\xbf# only") == [(b"\xef\xbb\xbf# only", b"", b"")]


def test_tokens_of_a_field() -> None:
    field = parse(b"x: 1\n# leads\na: 'b' 'c'; # trails\n").fields[1]
    tokens = field.tokens
    assert [token.text for token in tokens] == [b"a", b":", b"'b'", b"'c'", b";"]
    assert tokens[0].leading == b"\n# leads\n"
    assert tokens[-1].trailing == b" # trails"
    assert [(token.line, token.column, token.start) for token in tokens[:3]] == [(3, 1, 13), (3, 2, 14), (3, 4, 16)]
