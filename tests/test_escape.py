"""Nothing in a file's strings is obeyed by what shows them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from caffestat.cli import main
from caffestat.errors import InputError, Place, PrototextError
from caffestat.escape import csv_cell, json_compact, json_text, markdown, shown_error, visible
from caffestat.report.curve import csv_lines
from caffestat.training.events import EndTest, Output

HOSTILE = {
    "escape sequence": r"\033]0;owned\007\033[31m",
    "command": r"\n::error file=x::owned",
    "old command": "##[error]owned",
    "command first": "::stop-commands::owned",
    "image": "![x](https://example.com/x.png)",
    "bare address": "www.example.com",
    "cell": "a|b\\n\\r| c |",
    "formula": "=HYPERLINK(1)",
    "formula of another kind": "@SUM(1)",
    "direction": "\u202egnp.exe\u2066",
    "C1": "\\302\\2332J",  # CSI as one character
    "separators": "\u2028\u2029\u0085",
    "no UTF-8": "\\377\\376",
}
NET = """\
name: "%s"
layer { name: "d%s" type: "Input" top: "x%s" input_param { shape { dim: 3 dim: 5 } } }
layer { name: "%s" type: "InnerProduct" bottom: "x%s" top: "%s" inner_product_param { num_output: 4
  weight_filler { type: "gaussian" std: 1e-20 } } }
layer { name: "e%s" type: "Odd%s" bottom: "%s" top: "z" odd_%s: 1 }
"""


@pytest.fixture(params=HOSTILE)
def net(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the file of a net in which every name is hostile."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET.replace("odd_%s", "odd") % ((HOSTILE[request.param],) * 9), encoding="utf-8")
    return "net.prototxt"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def assert_harmless(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in text), repr(text)
    for line in text.split("\n"):
        assert not line.lstrip().startswith("::"), line
        assert "##[" not in line


COMMANDS = (
    *(("analyze", "--static", "--format", format) for format in ("table", "csv", "markdown")),
    ("analyze", "--device", "cpu", "--predict"),
    ("debug", "--device", "cpu"),
    *(("check", "--format", format) for format in ("text", "junit")),
    ("fill", "--print"),
    ("rewrite", "--filler", "msra"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_text_outputs_are_harmless(net: str, command: tuple[str, ...]) -> None:
    result = run(*command, net)
    assert result.exit_code in (0, 1), result.output
    assert_harmless(result.stdout)
    assert_harmless(result.stderr)


@pytest.mark.parametrize("command", [("analyze", "--static"), ("check",)], ids=" ".join)
def test_json_holds_the_names_and_shows_no_control_character(net: str, command: tuple[str, ...]) -> None:
    result = run(*command, "--format", "json", net)
    assert all(c.isprintable() or c == "\n" for c in result.stdout)
    data = json.loads(result.stdout)
    name = json.loads(run("analyze", "--static", "--format", "json", net).stdout)["layers"][1]["name"]
    names = [one["layer"] for one in data["findings"]] if "files" in data else [one["name"] for one in data["layers"]]
    assert any(one.endswith(name) for one in names)


def test_github_commands_are_our_own(net: str) -> None:
    for line in run("check", "--format", "github", net).stdout.splitlines():
        assert re.match(r"::(notice|warning|error) file=net\.prototxt,", line)
        assert_harmless(line.lstrip(":"))


def test_sarif_has_no_links(net: str) -> None:
    (log,) = json.loads(run("check", "--format", "sarif", net).stdout)["runs"]
    assert all("](" not in result["message"]["text"].replace("\\](", "") for result in log["results"])


def test_csv_has_no_formulas(net: str) -> None:
    for row in csv.DictReader(io.StringIO(run("analyze", "--static", "--format", "csv", net).stdout)):
        assert not any(row[key].startswith(("=", "+", "-", "@")) for key in ("layer", "type", "top", "param"))


@pytest.mark.parametrize("name", ['a,"b"', "=a,b", "a\nb", "loss"])
def test_outputs_in_a_curve_are_one_cell(name: str) -> None:
    (line,) = csv_lines(EndTest(7, 0, (Output(name, 0.5, 0.0),), None))
    ((*start, cell, value),) = csv.reader([line])
    assert (start, cell, value) == (["7", "test", "0"], csv_cell(name), "0.5")


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = eval(f"'{HOSTILE[name]}'").replace("/", "_") + ".prototxt"
    for text in ("layer {", 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }', NET % (("a",) * 10)):
        Path(file).write_text(text)
        for command in (("analyze", "--static"), ("check",), ("rewrite", "--filler", "msra"), ("upgrade",)):
            result = run(*command, "--", file)
            assert result.exit_code in (0, 1, 2), result.output
            assert_harmless(result.stderr)


def test_a_broken_text_is_shown_with_its_line_and_a_mark() -> None:
    error = PrototextError("expected a value\n    a\x1b\t::b\n     ^", Place("a\nb", 1, 2))
    assert shown_error(error) == "a\\nb:1:2: expected a value\n    a\\x1b\t::b\n     ^"
    assert shown_error(InputError("a\nb")) == "a\\nb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1_2/relu ü漢🎉", "conv1_2/relu ü漢🎉"),
        ("a\x1b[0m\n\t\x9b\u202e\ufeff", r"a\x1b[0m\n\t\x9b\u202e\ufeff"),
        ("\udcff\ud800", r"\xff\ud800"),
        ("::a::b", r"\x3a:a::b"),
        ("  ::a", r"  \x3a:a"),
        ("a::b :c", "a::b :c"),
        ("x##[group]", r"x\x23#[group]"),
        ("", ""),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_markdown_names_are_no_markup() -> None:
    assert markdown("a_b |x| ![i](https://e.org) www.e.org") == (r"a\_b \|x\| !\[i\](https\://e.org) www\.e.org")


def test_csv_cells() -> None:
    assert [csv_cell(text) for text in ("conv", "=1", "-a", "\t=1", "'=")] == ["conv", "'=1", "'-a", r"\t=1", "'="]


@pytest.mark.parametrize("write", [json_text, json_compact])
def test_json_is_the_same_data(write: Callable[[Any], str]) -> None:
    data = {"a\x7f\u2028": ["\x00\u202e\U000e0041", 1.5, None, "ü"]}
    text = write(data)
    assert json.loads(text) == data
    assert "ü" in text and all(c.isprintable() or c == "\n" for c in text)
