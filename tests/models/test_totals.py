"""Our own nets count as many params and multiply-adds as was published of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import caffestat

FOLDER = Path(__file__).parent
with (FOLDER / "expected.csv").open(newline="") as file:
    EXPECTED = list(csv.DictReader(file))


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda row: row["name"])
def test_totals(expected: dict[str, str], root: Path) -> None:
    report = caffestat.analyze(str(root / "models" / f"{expected['name']}.prototxt"), static=True, batch=1)
    assert report.findings == ()
    assert "x".join(map(str, report.layers[0].tops[0].shape or ())) == expected["input"]
    assert report.totals.params == int(expected["params"])
    assert report.totals.macs == int(expected["macs"])


def test_every_model_is_expected(root: Path) -> None:
    names = {path.stem for path in (root / "models").glob("*.prototxt")} - {"lenet_solver"}
    assert names == {row["name"] for row in EXPECTED}
