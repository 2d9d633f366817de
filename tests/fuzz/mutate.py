"""Changes of files: of the tokens of texts, and of bytes; each case follows from its random generator alone."""

from __future__ import annotations

import random
import re
from typing import Any

__all__ = ["binary", "message", "text"]

_TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|[-+]?\.?\d[\w.+-]*|[{}<>\[\]:;,]|#[^\n]*|\s+|.')
_NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "7",
    "1e308",
    "-1e308",
    "1e-45",
    "nan",
    "-nan",
    "inf",
    "-inf",
    "2147483647",
    "2147483648",
)
_NUMBERS += ("-2147483648", "4294967295", "9223372036854775807", "18446744073709551616", "1e400", "0x10", "017", "1.5f")
_WORDS = (
    "true",
    "false",
    "MAX",
    "AVE",
    "TRAIN",
    "xavier",
    "msra",
    "ReLU",
    "Split",
    "Convolution",
    "BatchNorm",
    "Input",
)
_WORDS += (
    '""',
    '"b"',
    '"x"',
    r'"\033[31m"',
    r'"\377"',
    '"::error::"',
    '"a\\nb"',
    '"../../etc/passwd"',
    '"/dev/zero"',
    "[]",
)
_WORDS += (
    "[1, 2]",
    "{}",
    "{ dim: 3 }",
    '"data"',
    '"label"',
    '"' + "y" * 300 + '"',
    '"=1+1"',
    '"\u202e"',
    '"ignore[\\xff]"',
    '"<img onerror=1 hostile>"',
    '"</script><a hostile>"',
    '"]]>&amp;<!--"',
    r'"\" hostile=\""',
)
_PIECES = (
    "# caffestat: ignore[\xff]\n",
    "{",
    "}",
    "<",
    ">",
    "[",
    "]",
    ":",
    ";",
    ",",
    "\0",
    "\xff",
    "\r",
    "'",
    '"',
    "\\",
    "-",
)


def text(data: bytes, rng: random.Random) -> bytes:
    """Return a text with some of its tokens replaced, removed, repeated, moved or joined by others."""
    tokens = _TOKEN.findall(data.decode("latin-1"))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        if not tokens:
            break
        place = rng.randrange(len(tokens))
        change = rng.randrange(10)
        if change < 4:
            place = next((i for i in range(place, len(tokens)) if re.match(r'["\w.+-]', tokens[i])), place)
            is_number = tokens[place][:1] in "+-.0123456789"
            tokens[place] = rng.choice(_NUMBERS if is_number == (rng.random() < 0.8) else _WORDS)
        elif change == 4:
            del tokens[place : place + rng.choice((1, 1, 2, 5, 20))]
        elif change == 5:
            piece = tokens[place : place + rng.choice((1, 3, 10, 40))]
            tokens[place:place] = piece * rng.choice((1, 1, 2, 30))
        elif change == 6:
            other = rng.randrange(len(tokens))
            tokens[place], tokens[other] = tokens[other], tokens[place]
        elif change == 7:
            tokens.insert(place, rng.choice(_PIECES))
        elif change == 8:
            begin = rng.randrange(len(tokens))
            tokens[place:place] = tokens[begin : begin + 25]
        else:
            del tokens[place + rng.randrange(len(tokens)) :]
    return "".join(tokens).encode("latin-1", "replace")


def message(root: Any, rng: random.Random) -> bytes:
    """Return a message with some of its fields, at any depth, set to other values, cleared or repeated."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(_within(root, rng), rng)
    return bytes(root.SerializePartialToString())


def _within(found: Any, rng: random.Random) -> Any:
    """Return a message at random inside of a message."""
    while rng.random() < 0.85:
        children = [
            child
            for descriptor, value in found.ListFields()
            if descriptor.message_type is not None
            for child in ([value] if not _is_repeated(descriptor) else value)
        ]
        if not children:
            break
        found = rng.choice(children)
    return found


def _is_repeated(descriptor: Any) -> bool:
    return (
        bool(not descriptor.has_presence and descriptor.label == 3)
        if not hasattr(descriptor, "is_repeated")
        else bool(descriptor.is_repeated)
    )


def _change(found: Any, rng: random.Random) -> None:
    given = [descriptor for descriptor, _ in found.ListFields()]
    descriptor = rng.choice(given if given and rng.random() < 0.8 else list(found.DESCRIPTOR.fields))
    repeated, name = _is_repeated(descriptor), descriptor.name
    if rng.random() < 0.2:
        found.ClearField(name)
    elif descriptor.message_type is not None:
        items = getattr(found, name)
        if repeated and len(items):
            items.add().CopyFrom(rng.choice(list(items)))
    else:
        try:
            value = _value(descriptor, rng)
            if not repeated:
                setattr(found, name, value)
            elif rng.random() < 0.5 or not len(getattr(found, name)):
                getattr(found, name).append(value)
            else:
                values = getattr(found, name)
                values[rng.randrange(len(values))] = value
        except (ValueError, TypeError):  # a type does not take every value
            return


def _value(descriptor: Any, rng: random.Random) -> Any:
    kind = descriptor.cpp_type
    if kind in (1, 2, 3, 4, 8):
        return rng.choice((0, 1, -1, 2, 3, 7, 16, 99, 2**31 - 1, -(2**31), 2**62, -(2**62)))
    if kind in (5, 6):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 0.5))
    if kind == 7:
        return rng.random() < 0.5
    texts = (
        "",
        "x",
        "y",
        "c/0",
        "Relu",
        "Loop",
        "ai.onnx.ml",
        "../../x",
        "\x1b[31m",
        "a\nb",
        "N" * 300,
        "<img hostile>",
        "Constant",
        "f",
    )
    text = rng.choice(texts)
    return rng.randbytes(rng.choice((0, 1, 4, 48))) if descriptor.type == 12 else text


def binary(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with some of them changed, cut out, repeated, or all behind a place cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 12))):
        size = len(changed)
        if not size:
            break
        place = min(int(rng.expovariate(1) * size / rng.choice((2, 8, 40))), size - 1)
        change = rng.randrange(8)
        if change < 4:
            changed[place] = rng.choice(
                (0, 1, 0x7F, 0x80, 0xFF, changed[place] ^ (1 << rng.randrange(8)), rng.randrange(256))
            )
        elif change == 4:
            changed[place : place + rng.choice((1, 2, 4, 8))] = rng.randbytes(rng.choice((1, 2, 4, 8)))
        elif change == 5:
            del changed[place : place + rng.choice((1, 2, 9, 100))]
        elif change == 6:
            changed[place:place] = changed[place : place + rng.choice((1, 7, 60))]
        elif rng.random() < 0.4:
            del changed[place:]
    return bytes(changed)
