"""A case: files, and what is run on them; and the texts and files that cases are made of."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import Message

from caffestat import api
from caffestat.schema import NetParameter, SolverParameter

from . import mutate

__all__ = ["NET", "ROOT", "RUN", "Case", "changed_message", "changed_text", "made", "texts"]

ROOT = Path(__file__).resolve().parents[2]
RUN = ("--device", "cpu")
NET = """\
layer { name: "d" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } shape { dim: 2 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 5
  weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "y" top: "l" }
"""


@dataclass
class Case:
    """Files by name, what is run on them, and which file was changed."""

    files: dict[str, bytes]
    commands: list[tuple[str, ...]]
    changed: str


@cache
def texts(pattern: str) -> list[bytes]:
    """Return the short texts of this repository whose paths match a pattern."""
    found = [path.read_bytes() for path in sorted(ROOT.glob(pattern))]
    return [data for data in found if len(data) < 6000]


@cache
def made(suffix: str) -> bytes:
    """Return the file that `fill` writes of NET."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "n.prototxt").write_text(NET)
        api.fill(path / "n.prototxt", path / f"out{suffix}")
        return (path / f"out{suffix}").read_bytes()


def changed_message(data: bytes, cls: type[Message], rng: random.Random) -> bytes:
    """Return a message with bytes or, more often, fields of it changed."""
    return mutate.binary(data, rng) if rng.random() < 0.25 else mutate.message(cls.FromString(data), rng)


def changed_text(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a net or solver with tokens or fields changed, some with lines of another text in it."""
    way = rng.random()
    if way < 0.25 and (text := _changed_fields(data, rng)) is not None:
        return text
    if way < 0.4:
        lines, more = data.splitlines(keepends=True), rng.choice(others).splitlines(keepends=True)
        place, begin = rng.randrange(len(lines) + 1), rng.randrange(len(more))
        data = b"".join((*lines[:place], *more[begin : begin + rng.choice((1, 4, 20))], *lines[place:]))
    return mutate.text(data, rng)


def _changed_fields(data: bytes, rng: random.Random) -> bytes | None:
    """Return a text with fields of its schema set to other values; None for a text that no schema of Caffe's holds."""
    for cls in (NetParameter, SolverParameter):
        try:
            message = text_format.Parse(data, cls())
        except (text_format.ParseError, UnicodeDecodeError):
            continue
        changed = mutate.message(message, rng)
        return text_format.MessageToString(cls.FromString(changed), as_utf8=True).encode("utf-8", "replace")
    return None
