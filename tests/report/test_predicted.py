"""Predictions beside measured values, in every format."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from caffestat import api
from caffestat.report import render

LENET = str(Path(__file__).resolve().parent.parent.parent / "models" / "lenet.prototxt")


@pytest.fixture(scope="module")
def reports() -> dict[bool, object]:
    return {predict: api.analyze(LENET, static=True, batch=4, predict=predict) for predict in (False, True)}


def test_json_has_predictions_and_gains(reports: dict) -> None:
    data = json.loads(render(reports[True], "json"))
    layers = {layer["name"]: layer for layer in data["layers"]}
    assert layers["conv1"]["tops"][0]["forward"]["predicted"] == pytest.approx(0.797, rel=0.02)
    assert layers["conv1"]["tops"][0]["forward"]["mean_abs"] is None
    assert layers["relu1"]["bottom_diffs"][0]["predicted"] > 0
    assert layers["conv1"]["params"][0]["forward"]["predicted"] == pytest.approx(0.3464 / 2, rel=0.02)
    assert layers["conv1"]["params"][1]["backward"]["predicted"] > 0
    assert set(layers["ip1"]["gain"]) == {"forward", "product", "backward", "product_backward"}
    assert layers["ip1"]["gain"]["forward"] == pytest.approx(0.5)  # xavier: n·Var(w) = 1, of which ReLU leaves half
    assert "gain" not in layers["pool1"]


def test_nothing_is_predicted_unless_asked(reports: dict) -> None:
    text = render(reports[False], "json")
    assert "predicted" not in text
    assert "gain" not in text
    assert "predicted" not in render(reports[False], "csv")


def test_csv_has_columns_of_their_own(reports: dict) -> None:
    rows = list(csv.DictReader(io.StringIO(render(reports[True], "csv"))))
    ip1 = next(row for row in rows if row["layer"] == "ip1")
    assert float(ip1["gain"]) == pytest.approx(0.5)
    assert float(ip1["diff_predicted"]) > 0
    assert float(ip1["predicted"]) > 0


def test_the_table_makes_room_for_them(reports: dict) -> None:
    text = render(reports[True])
    assert max(map(len, text.splitlines())) <= 120
    assert text.count("predicted") >= 2
    assert "MACs" not in text
    assert "MACs" in render(reports[False])
