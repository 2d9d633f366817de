"""Golden edits: each file in edits/ holds options of `caffestat rewrite`, a text before, and the text after.

"# crlf" behind the options: both texts have Windows line ends.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from caffestat.cli.rewrite import rewrite as command
from caffestat.rewriting import Change, change_of, rewrite_text

CASES = sorted((Path(__file__).parent / "edits").glob("*.txt"))
OPTIONS = ("filler", "bias", "variance_norm", "layers", "types", "excludes", "only_missing")


def change_from(options: str) -> Change:
    """Return the change that a command line describes."""
    params = command.make_context("rewrite", [*shlex.split(options), "file"]).params
    return change_of(*(params[name] for name in OPTIONS))


def read(case: Path) -> tuple[Change, bytes, bytes, str]:
    text = case.read_text(encoding="utf-8")
    options, before, after, notes = re.split(r"^===== \w+\n", f"{text}===== notes\n", flags=re.MULTILINE)[:4]
    options, _, line_ends = options.partition("#")
    line_end = b"\r\n" if "crlf" in line_ends else b"\n"
    return (
        change_from(options),
        *(part.encode().replace(b"\n", line_end) for part in (before, after)),
        notes,
    )


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_edit(case: Path) -> None:
    change, before, after, notes = read(case)
    result = rewrite_text(before, "edit.prototxt", change)
    assert result.data.decode() == after.decode()
    assert "".join(f"{note}\n" for note in result.notes) == notes
    assert bool(result.changes) == (before != after)


@pytest.mark.parametrize("case", CASES, ids=[case.stem for case in CASES])
def test_a_second_run_changes_nothing(case: Path) -> None:
    change, _, after, _ = read(case)
    again = rewrite_text(after, "edit.prototxt", change)
    assert again.data == after
    assert again.changes == []
