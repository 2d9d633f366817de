"""The commands rewrite and fill: what they print, and their exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffestat.cli import main

OLD = (
    'layer { name: "f" type: "InnerProduct" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }\n'
)
NEW = OLD.replace("xavier", "msra")
MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.prototxt").write_text(OLD)
    (tmp_path / "b.prototxt").write_text(NEW)
    (tmp_path / "broken.prototxt").write_text("layer {\n")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_rewrites_and_says_what(folder: Path) -> None:
    result = run("rewrite", "--filler", "msra", "a.prototxt", "b.prototxt")
    assert result.exit_code == 0
    assert result.stdout == "a.prototxt:1:76: f (InnerProduct) weight: xavier -> msra\n"
    assert result.stderr == "2 files: 1 changed (1 filler), 1 unchanged\n"
    assert (folder / "a.prototxt").read_text() == NEW


def test_diff_writes_nothing(folder: Path) -> None:
    result = run("rewrite", "--filler", "msra", "--diff", "a.prototxt", "b.prototxt")
    assert result.exit_code == 0
    assert result.stdout == f"--- a/a.prototxt\n+++ b/a.prototxt\n@@ -1 +1 @@\n-{OLD}+{NEW}"
    assert (folder / "a.prototxt").read_text() == OLD


def test_check_exits_with_1_when_something_would_change(folder: Path) -> None:
    result = run("rewrite", "--filler", "msra", "--check", "a.prototxt", "b.prototxt")
    assert (result.exit_code, result.stderr) == (1, "2 files: 1 would change (1 filler), 1 unchanged\n")
    assert (folder / "a.prototxt").read_text() == OLD
    assert run("rewrite", "--filler", "msra", "--check", "b.prototxt").exit_code == 0


def test_a_selection_of_no_layer_is_a_warning(folder: Path) -> None:
    warning = "warning: --layer, --type and --exclude select no layer of these files\n"
    for option, value in (("--layer", "g*"), ("--type", "Convolution"), ("--exclude", "*")):
        result = run("rewrite", "--filler", "msra", option, value, "a.prototxt", "b.prototxt")
        assert (result.exit_code, result.stderr) == (0, f"{warning}2 files: 0 changed (0 fillers), 2 unchanged\n")
    (folder / "other.prototxt").write_text(NEW.replace('name: "f"', 'name: "g"'))
    assert warning not in run("rewrite", "--filler", "msra", "--layer", "g", "b.prototxt", "other.prototxt").stderr
    (folder / "relu.prototxt").write_text('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }')
    assert warning not in run("rewrite", "--filler", "msra", "relu.prototxt").stderr


def test_a_broken_file_exits_with_2_and_the_others_are_done(folder: Path) -> None:
    result = run("rewrite", "--filler", "msra", "broken.prototxt", "a.prototxt")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: broken.prototxt:1:8: expected")
    assert result.stderr.endswith("2 files: 1 changed (1 filler), 0 unchanged, 1 failed\n")
    assert (folder / "a.prototxt").read_text() == NEW
    assert run("rewrite", "--filler", "xavier", "--check", "broken.prototxt", "b.prototxt").exit_code == 2


def test_what_cannot_be_decided_is_a_note(folder: Path) -> None:
    result = run("rewrite", "--filler", "explicit:xavier", "a.prototxt")
    assert result.exit_code == 0
    assert result.stderr.startswith("note: a.prototxt:1:1: f (InnerProduct) weight not changed: its fans are not known")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rewrite", "--filler", "he", "a.prototxt"), "unknown filler policy 'he'"),
        (("rewrite", "a.prototxt"), "expected a filler policy"),
        (("rewrite", "--filler", "msra", "."), "is a folder; use --recursive"),
        (("fill", "a.prototxt"), "expected a destination for the values: -o FILE, --print, or both"),
        (("fill", "a.prototxt", "-o", "a.txt"), "unknown bottom"),
    ],
)
def test_options_that_cannot_be_used(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    (folder / "a.prototxt").write_text(OLD.replace("inner_product_param", 'bottom: "x" top: "y" inner_product_param'))
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert list(folder.glob("a.*")) == [folder / "a.prototxt"]


def test_options_reach_the_rewrite(folder: Path) -> None:
    result = run(
        *("rewrite", "-r", str(MODELS), "-o", "out", "--filler", "xavier", "--variance-norm", "average"),
        *(
            "--bias",
            "constant:0.5",
            "--layer",
            "conv*",
            "--type",
            "Convolution",
            "--exclude",
            "conv2*",
            "--only-missing",
        ),
    )
    assert result.exit_code == 0
    text = (folder / "out" / "deploy" / "lenet_deploy.prototxt").read_text()
    assert text.count("variance_norm: AVERAGE") == text.count("value: 0.5") == 1
    assert (folder / "out" / "lenet.prototxt").read_bytes() == (MODELS / "lenet.prototxt").read_bytes()


def test_fill_prints_and_writes(folder: Path) -> None:
    result = run("fill", str(MODELS / "lenet.prototxt"), "--print", "-o", "lenet.npz", "--layer", "ip*", "--seed", "7")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "ip1", "ip1", "ip2", "ip2"]
    with np.load("lenet.npz") as archive:
        assert f"{archive['ip1/0'][0, 0]:.6g}" in lines[1]
    assert run("fill", str(MODELS / "lenet.prototxt"), "-o", "lenet.caffemodel", "--filler", "msra").output == ""
    assert (folder / "lenet.caffemodel").stat().st_size > 4 * 430_000


def test_help_is_quick(folder: Path) -> None:
    for command in ("fill", "rewrite"):
        assert "Examples:" in run(command, "--help").stdout
    assert "caffestat.cli.rewrite" in sys.modules
