"""The table of models in docs/onnx.md is that of the models listed, with what is expected of each. Needs no network."""

from __future__ import annotations

import pytest

from .measure import Outcome
from .models import MODELS, OK, Entry
from .table import PAGE, table


def test_the_table_has_a_row_for_each_model() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and ".onnx |" in line]
    assert [(row[0].removeprefix("| "), row[1]) for row in rows] == [(entry.package, entry.name) for entry in MODELS]
    for entry, row in zip(MODELS, rows, strict=True):
        expected = (entry.static, entry.run, entry.gradient)
        assert all(found.startswith(words) for words, found in zip(expected, row[5:8], strict=True))


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"gradient": "no rule"}, "gradient: expected 'ok', found 'no rule'"),
        ({"forward": 0.02}, "outputs are off by 0.02"),
        ({"forward": float("nan")}, "outputs are off by nan"),
        ({"slope": 0.3}, "the slope is off by 0.3"),
    ],
)
def test_what_is_not_as_expected(changed: dict[str, object], fault: str | None) -> None:
    found = Outcome(**{"static": OK, "run": OK, "gradient": OK, "forward": 1e-6, "slope": 0.01, **changed})  # type: ignore[arg-type]
    assert found.faults(Entry("p==1", "f/a.onnx")) == ([fault] if fault else [])


def test_rows_show_powers_of_ten_and_the_end_of_messages() -> None:
    found = Outcome(OK, OK, "/tmp/x/a.onnx: no|rule", 7, 1234, None, 3.2e-6, 0.0)
    row = table({Entry("p==1", "f/a.onnx"): found}).splitlines()[-1]
    assert row == r"| p==1 | a.onnx | 7 | 1,234 | ? | ok | ok | no\|rule | < 1e-05 | 0 |"
