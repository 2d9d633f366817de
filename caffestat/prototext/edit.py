"""Changes given bytes of a parsed text and leaves all others alone.

An edit is a span of the text and the bytes that take its place. The functions that make edits look at the text around
the place: what is new takes the indentation, the spacing, the braces, the separators and the line ends found there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from caffestat.prototext.tree import Document, Field, Message, Scalar

__all__ = ["Edit", "Item", "insert", "line_break_at", "remove", "replace", "replace_field", "replace_value"]

Edit = tuple[int, int, bytes]

Item = tuple[str, "str | Sequence[Item]"]
"""A field to be written: its name, and its value's text or, for a message, its fields."""

_BLANKS = b" \t"
_SEPARATORS = (b",", b";")


def replace(document: Document, edits: Iterable[Edit]) -> bytes:
    """Return the document's bytes with each span [start, end) replaced; start == end inserts.

    Spans come from `field.span` and the like, in any order; insertions at one offset keep theirs.
    Raises ValueError when spans overlap or leave the document.
    """
    data = bytes(document)
    pieces: list[bytes] = []
    done = 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        if not done <= start <= end <= len(data):
            raise ValueError(f"edit [{start}, {end}) overlaps another one or leaves the {len(data)} bytes of the text")
        pieces += (data[done:start], new)
        done = end
    return b"".join([*pieces, data[done:]])


def replace_value(field: Field, text: str) -> Edit:
    """Return the edit that gives a field with one value another one; comments inside of the old one follow it."""
    (value,) = field.values
    return (*value.span, text.encode() + value.comments)


def replace_field(field: Field, name: str, text: str) -> list[Edit]:
    """Return the edits that make a field with one value another field, with the spacing of the old one."""
    start = field.span[0]
    return [(start, start + len(field.name), name.encode()), replace_value(field, text)]


def remove(document: Document, field: Field) -> Edit:
    """Return the edit that removes a field: with its line when it is alone on it, and never a comment."""
    data = bytes(document)
    start, end = field.span
    if comments := field.comments:
        return (start, end, comments.lstrip(_BLANKS))
    lead = _lead(data, start)
    follower = end + len(data[end:]) - len(data[end:].lstrip(_BLANKS))
    if not lead.strip(_BLANKS):
        line_end = _line_break_end(data, follower)
        return (start, follower, b"") if line_end is None else (start - len(lead), line_end, b"")
    blanks = len(lead) - len(lead.rstrip(_BLANKS))
    return (start - blanks, end, b"") if blanks else (start, follower, b"")


def insert(
    document: Document, owner: Field, *items: Item, after: Field | None = None, like: Field | None = None
) -> Edit:
    """Return the edit that puts new fields into the message of `owner`.

    after  the field of that message to stand behind, by default the last one
    like   a field whose value is a message, as the model for the braces of a new message; by default `owner`
    """
    data = bytes(document)
    message = _message(owner)
    after = after or (message.fields[-1] if message.fields else None)
    style = _style(data, like or owner)
    if after is None:
        return _into_empty(data, style, owner, items)
    colon = _colon(data, message, after) or style.colon
    lead = _lead(data, after.span[0])
    line_end = _content_end(data, after.span[1])
    separator = _separator(after)
    if not lead.strip(_BLANKS) and line_end is not None:
        lines = [lead + _write(style, item, lead, colon, style.is_multi_line) + separator for item in items]
        return (line_end, line_end, b"".join(style.line_break + line for line in lines))
    before = _previous(message, after)
    joint = _separator(before) if before and not separator else b""
    space = _space(data, before, after)
    texts = [_write(style, item, b"", colon, False) + separator for item in items]
    end = after.span[1]
    return (end, end, b"".join(joint + space + text for text in texts))


def line_break_at(data: bytes, offset: int) -> bytes:
    """Return how lines end at `offset`: as the line before it does, in the first line as that one does."""
    before = data.rfind(b"\n", 0, offset)
    newline = before if before >= 0 else data.find(b"\n", offset)
    return b"\r\n" if newline > 0 and data[newline - 1 : newline] == b"\r" else b"\n"


@dataclass(frozen=True)
class _Style:
    """How a message is written: what precedes its brace, its braces, and the blanks inside."""

    gap: bytes
    opener: bytes
    closer: bytes
    pad: bytes
    is_multi_line: bool
    step: bytes
    colon: bytes
    line_break: bytes


def _style(data: bytes, field: Field) -> _Style:
    message = _message(field)
    start, end = message.span
    gap = data[field.span[0] + len(field.name) : start]
    inner = message.fields[0] if message.fields else None
    inside = data[start + 1 : inner.span[0] if inner else end - 1]
    return _Style(
        gap=b" " if b"#" in gap else gap,
        opener=data[start : start + 1],
        closer=data[end - 1 : end],
        pad=inside if inner and not inside.strip(_BLANKS) else b" ",
        is_multi_line=b"\n" in inside,
        step=_step(data, field, inner),
        colon=_colon(data, message, inner) or b": ",
        line_break=line_break_at(data, end),
    )


def _step(data: bytes, field: Field, inner: Field | None) -> bytes:
    """Return how much further than `field` the first field inside is indented; two blanks when that is unknown."""
    if inner is not None:
        outer_lead, inner_lead = _lead(data, field.span[0]), _lead(data, inner.span[0])
        if not inner_lead.strip(_BLANKS) and inner_lead.startswith(outer_lead) and inner_lead != outer_lead:
            return inner_lead[len(outer_lead) :]
    return b"  "


def _write(style: _Style, item: Item, indent: bytes, colon: bytes, is_multi_line: bool) -> bytes:
    name, value = item
    if isinstance(value, str):
        return name.encode() + colon + value.encode()
    deeper = indent + style.step if is_multi_line else b""
    inner = [deeper + _write(style, child, deeper, style.colon, is_multi_line) for child in value]
    if is_multi_line:
        lines = [style.opener, *inner, indent + style.closer]
        return name.encode() + _gap(style, style.line_break + indent) + style.line_break.join(lines)
    return name.encode() + _gap(style, b" ") + style.opener + style.pad + b" ".join(inner) + style.pad + style.closer


def _gap(style: _Style, line_break: bytes) -> bytes:
    """Return what is between a name and its brace, a line break in it replaced by the given one."""
    head, broken, _ = style.gap.partition(b"\n")
    return head.rstrip() + line_break if broken else style.gap


def _into_empty(data: bytes, style: _Style, owner: Field, items: Sequence[Item]) -> Edit:
    start, end = _message(owner).span
    line_end = _content_end(data, start + 1)
    if line_end is None:
        texts = [_write(style, item, b"", style.colon, False) for item in items]
        return (start + 1, end - 1, b" " + b" ".join(texts) + b" ")
    lead = _lead(data, owner.span[0])
    indent = lead[: len(lead) - len(lead.lstrip(_BLANKS))] + style.step
    lines = [indent + _write(style, item, indent, style.colon, True) for item in items]
    return (line_end, line_end, b"".join(style.line_break + line for line in lines))


def _message(field: Field) -> Message:
    (value,) = field.values
    if not isinstance(value, Message):
        raise ValueError(f"{field.place}: expected a message in braces in {field.name}")
    return value


def _colon(data: bytes, message: Message, nearest: Field | None) -> bytes | None:
    """Return what is between name and value of a scalar field of the message; of `nearest` when it is one."""
    scalars = [f for f in message.fields if len(f.values) == 1 and isinstance(f.values[0], Scalar)]
    if not scalars:
        return None
    field = nearest if nearest in scalars else scalars[-1]
    gap = data[field.span[0] + len(field.name) : field.values[0].span[0]]
    return gap if not gap.strip(b": \t") else b": "


def _previous(message: Message, field: Field) -> Field | None:
    index = list(message.fields).index(field)
    return message.fields[index - 1] if index else None


def _separator(field: Field) -> bytes:
    last = bytes(field)[-1:]
    return last if last in _SEPARATORS else b""


def _space(data: bytes, before: Field | None, field: Field) -> bytes:
    """Return the blanks between two fields of one line."""
    between = data[before.span[1] : field.span[0]] if before else b""
    return between if between and not between.strip(_BLANKS) else b" "


def _lead(data: bytes, offset: int) -> bytes:
    """Return what precedes `offset` on its line."""
    return data[data.rfind(b"\n", 0, offset) + 1 : offset]


def _content_end(data: bytes, offset: int) -> int | None:
    """Where the line of `offset` ends, when nothing but blanks and a comment follow; None when more does."""
    newline = data.find(b"\n", offset)
    end = len(data) if newline < 0 else newline
    rest = data[offset:end].strip()
    if rest and not rest.startswith(b"#"):
        return None
    return end - data[offset:end].endswith(b"\r")


def _line_break_end(data: bytes, offset: int) -> int | None:
    """Return the offset after the line break at `offset`; None without one."""
    for line_break in (b"\n", b"\r\n"):
        if data.startswith(line_break, offset):
            return offset + len(line_break)
    return None
