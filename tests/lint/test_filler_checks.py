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
        ('type: "identify"', 'unknown filler type "identify"'),
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


def test_the_field_that_a_fork_adds_to_a_type_is_read(tmp_path: Path) -> None:
    assert not issues(tmp_path, net('type: "msra" alpha: 0.25'), "CS006")
    assert len(issues(tmp_path, net('type: "xavier" alpha: 0.25'), "CS006")) == 1


def test_an_unknown_filler_is_an_error_that_names_it_wherever_values_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net('type: "he"'))
    for options in ([], ["--predict"]):
        result = CliRunner().invoke(main, ["analyze", str(path), *options])
        assert (result.exit_code, 'unknown filler type "he"' in result.stderr) == (2, True), options
        assert f"{path}:3" in result.stderr


def test_an_unknown_filler_is_a_warning_where_nothing_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(net('type: "he"'))
    result = CliRunner().invoke(main, ["analyze", str(path), "--static"])
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"warning: {path}:3:1: layer 'c': its weight: unknown filler type \"he\"; expected one of")


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
    assert "ignores value and draws with std 1" in found.message
    assert (found.fix, found.edits) == ("write std", None)
    (found,) = issues(tmp_path, net('type: "gaussian" std: 0.01 value: 0'), "CS006")
    assert found.edits is not None


UPSAMPLING = """layer {{ name: "up" type: "Deconvolution" bottom: "x" top: "up" {param}
  convolution_param {{ {size} kernel_size: 4 stride: 2 bias_term: false weight_filler {{ type: "{filler}" }} }} }}
"""


@pytest.mark.parametrize(
    ("size", "filler", "param", "found"),
    [
        ("num_output: 5", "bilinear", "param { lr_mult: 0 }", "stay equal: the layer is frozen"),
        ("num_output: 5", "bilinear", "", "the 5 outputs start equal"),
        ("num_output: 3 group: 3", "bilinear", "param { lr_mult: 0 }", ""),
        ("num_output: 6 group: 3", "bilinear", "", "the 2 outputs start equal"),
        ("num_output: 1", "bilinear", "", ""),
        ("num_output: 5", 'gaussian" std: 0.1 sparse: 0 #', "", "all weights start"),
        ("num_output: 5", "xavier", "", ""),
    ],
)
def test_equal_filters_whatever_the_filler(tmp_path: Path, size: str, filler: str, param: str, found: str) -> None:
    layer = UPSAMPLING.format(size=size, filler=filler, param=param).replace("# }", "}").replace('#" }', "}")
    text = DATA + layer + FC("fc", "up") + LOSS.format("fc")
    issues_found = issues(tmp_path, text, "CS007")
    assert [found in issue.message for issue in issues_found] == ([True] if found else [])
    if found and filler == "bilinear":
        assert issues_found[0].fix.startswith("group: 3 num_output: 3")


def test_a_net_without_a_loss_may_hold_constants_but_no_mixing_bilinear_filters(tmp_path: Path) -> None:
    text = DATA + UPSAMPLING.format(size="num_output: 5", filler="bilinear", param="")
    assert [issue.layer for issue in issues(tmp_path, text, "CS007")] == ["up"]
    assert issues(tmp_path, text.replace("bilinear", "constant"), "CS007") == []


def test_rewrite_writes_no_bilinear_filler_that_makes_outputs_equal(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(DATA + UPSAMPLING.format(size="num_output: 5", filler="xavier", param="") + LOSS.format("up"))
    result = CliRunner().invoke(main, ["rewrite", "--filler", "bilinear", "--diff", str(path)])
    assert "bilinear" not in result.stdout
    assert "would make all of its outputs equal" in result.stderr
    path.write_text(path.read_text().replace("num_output: 5", "num_output: 3 group: 3"))
    assert "bilinear" in CliRunner().invoke(main, ["rewrite", "--filler", "bilinear", "--diff", str(path)]).stdout
