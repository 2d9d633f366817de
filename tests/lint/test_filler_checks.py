"""Fillers that give no numbers, and fillers that draw with the defaults of fields nobody wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffestat.cli import main

from .nets import CONV, DATA, FC, LOSS, issues


def net(filler: str) -> str:
    return DATA + CONV("c", "x", f"weight_filler {{ {filler} }}") + FC("fc", "c") + LOSS.format("fc")


@pytest.mark.parametrize(
    ("filler", "message"),
    [
        ('type: "Xavier"', 'unknown filler type "Xavier" (did you mean "xavier"?)'),
        ('type: "identity"', 'unknown filler type "identity"'),
        ('type: "gaussian" std: inf', "std of a gaussian filler is inf"),
        ('type: "gaussian" mean: nan std: 0.1', "mean of a gaussian filler is nan"),
        ('type: "constant" value: -inf', "value of a constant filler is -inf"),
        ('type: "gaussian" std: 0', "needs std > 0"),
        ('type: "uniform" min: 1 max: 0', "needs min <= max"),
        ('type: "xavier" sparse: 3', "sparse is for gaussian fillers only"),
        ('type: "bilinear" ', None),
        ('type: "xavier" std: nan', None),
    ],
)
def test_unusable_fillers(tmp_path: Path, filler: str, message: str | None) -> None:
    found = issues(tmp_path, net(filler), "CS032")
    assert [(issue.layer, issue.place.line) for issue in found] == ([("c", 4)] if message else [])
    if message:
        assert message in found[0].message
        assert "weight" in found[0].message


def test_an_unknown_filler_is_an_error_that_names_it_wherever_values_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net('type: "he"'))
    for options in ([], ["--predict"]):
        result = CliRunner().invoke(main, ["analyze", str(path), *options])
        assert (result.exit_code, 'unknown filler type "he"' in result.stderr) == (2, True), options
        assert f"{path}:3" in result.stderr


def test_an_infinite_filler_is_predicted_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net('type: "gaussian" std: inf'))
    result = CliRunner().invoke(main, ["analyze", str(path), "--predict", "--format", "json"])
    assert result.exit_code == 0, result.stderr
    layers = {layer["name"]: layer for layer in json.loads(result.stdout)["layers"]}
    assert layers["data"]["tops"][0]["forward"]["predicted"] == pytest.approx(0.7976, abs=1e-4)
    assert layers["c"]["tops"][0]["forward"].get("predicted") is None


def test_a_gaussian_filler_without_std_draws_with_std_1(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, net('type: "gaussian" value: 0.01'), "CS006")
    assert "ignores value, and draws with std 1" in found.message
    assert (found.fix, found.edits) == ("state std", None)
    (found,) = issues(tmp_path, net('type: "gaussian" std: 0.01 value: 0'), "CS006")
    assert found.edits is not None
