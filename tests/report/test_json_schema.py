"""The JSON against docs/json.schema.json, and the schema against docs/json.md."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

import caffestat
from caffestat.report import Report
from caffestat.report.json_format import to_dict

from ..graph.models import model, normal
from .reports import tiny_report


@pytest.fixture(scope="module")
def schema(root: Path) -> Any:
    return json.loads((root / "docs/json.schema.json").read_text(encoding="utf-8"))


def faults(schema: Any, report: Report) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(to_dict(report))]


def test_reports_fit_the_schema(schema: Any, root: Path) -> None:
    path = root / "models/experiments/relu_xavier.prototxt"
    for report in (
        tiny_report(),
        tiny_report(measured=False, text='layer { name: "x" type: "Mystery" top: "x" }'),
        caffestat.analyze(path, static=True, predict=True, shapes={"data": (2, 1, 28, 28)}),
        caffestat.analyze(path, detail=True, shapes={"data": (2, 1, 28, 28)}, data="synthetic", device="cpu"),
    ):
        assert faults(schema, report) == []


def test_numbers_that_are_not_finite_fit_the_schema(schema: Any) -> None:
    report = tiny_report()
    top = replace(report.layers[0].tops[0], mean_abs=math.nan, predicted=math.inf)
    layers = (replace(report.layers[0], tops=(top,)), *report.layers[1:])
    assert faults(schema, replace(report, layers=layers)) == []


def test_reports_of_onnx_models_fit_the_schema(schema: Any, tmp_path: Path) -> None:
    from onnx import helper

    path = tmp_path / "model.onnx"
    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    path.write_bytes(model([node], {"x": [3, 5]}, ["y"], {"w": normal(5, 2)}).SerializeToString())
    report = caffestat.analyze(path, predict=True, device="cpu")
    assert [value.name for value in report.inputs] == ["x"]
    assert faults(schema, report) == []


def test_the_schema_refuses_other_fields(schema: Any) -> None:
    data = to_dict(tiny_report())
    data["layers"][0]["tops"][0]["mystery"] = 1
    assert list(Draft7Validator(schema).iter_errors(data))


def test_the_page_describes_every_field(schema: Any, root: Path) -> None:
    page = (root / "docs/json.md").read_text(encoding="utf-8").replace("```", "")
    described = {word for text in re.findall(r"`([^`]+)`", page) for word in re.findall(r"\w+", text)}
    assert sorted(set(_fields(schema)) - described) == []


def _fields(part: Any) -> list[str]:
    """Return the names of all properties in a schema."""
    if isinstance(part, list):
        return [name for item in part for name in _fields(item)]
    if not isinstance(part, dict):
        return []
    return [*part.get("properties", ()), *(name for item in part.values() for name in _fields(item))]
