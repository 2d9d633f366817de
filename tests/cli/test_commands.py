"""The commands through click's runner: options, exit codes, where output goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import caffestat
from caffestat.cli import main

from ..conftest import Check

NET = """\
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "train_only" type: "TanH" bottom: "ip" top: "t" include { phase: TRAIN not_stage: "quick" } }
layer { name: "deep" type: "ReLU" bottom: "ip" top: "r" include { min_level: 2 } }
layer { name: "sum" type: "Softmax" bottom: "ip" top: "out" loss_weight: 1 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with one net in it, so that messages name short paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def caffestat_(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def analyzed(*arguments: str) -> dict:
    """Return the JSON of a run on the CPU."""
    result = caffestat_("analyze", "net.prototxt", "--format", "json", "--device", "cpu", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def names(report: dict) -> list[str]:
    return [layer["name"] for layer in report["layers"] if not layer["inserted"]]


@pytest.mark.parametrize("format", ["table", "json", "markdown", "csv"])
def test_lenet(check_output: Check, root: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    monkeypatch.chdir(root)
    result = caffestat_("analyze", "--static", "--format", format, "models/lenet.prototxt")
    assert (result.exit_code, result.stderr) == (0, "")
    check_output(f"lenet.{format}.txt", result.stdout)


def test_a_page_is_opened_in_no_other_format() -> None:
    result = caffestat_("analyze", "net.prototxt", "--static", "--open", "--format", "csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--open shows a page: expected --format html with it, found csv" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("check --write-baseline known.json -o out.json net.prototxt", "remove --output and --format"),
        ("check --write-baseline known.json --format json net.prototxt", "remove --output and --format"),
        ("upgrade --in-place -", "expected a file, found the standard input"),
        ("upgrade --in-place -o out.prototxt net.prototxt", "remove it or --output"),
        ("check -o - net.prototxt", "goes to the standard output needs no option"),
        ("check --write-baseline - net.prototxt", "expected the name of a file"),
        ("rewrite --filler msra -o - net.prototxt", "expected the name of a file"),
        ("sweep --report - net.prototxt", "expected the name of a file"),
    ],
)
def test_options_that_contradict_each_other_are_refused(folder: Path, arguments: str, words: str) -> None:
    result = caffestat_(*arguments.split(), stdin="")
    assert result.exit_code == 2 and words in result.stderr
    assert [path.name for path in folder.iterdir()] == ["net.prototxt"]


def test_version() -> None:
    assert caffestat_("--version").stdout == f"caffestat, version {caffestat.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["analyze", "--help"], ["debug", "-h"]])
def test_help_has_examples(arguments: list[str]) -> None:
    assert "Examples:\n" in caffestat_(*arguments).stdout


def test_standard_input() -> None:
    result = caffestat_("analyze", "--static", "-", stdin=NET)
    assert result.exit_code == 0
    assert result.stdout.startswith("<stdin>")


def test_state_options_choose_the_layers() -> None:
    assert names(analyzed("--static")) == ["data", "ip", "train_only", "sum"]
    assert names(analyzed("--static", "--phase", "test")) == ["data", "ip", "sum"]
    assert names(analyzed("--static", "--stage", "quick")) == ["data", "ip", "sum"]
    assert names(analyzed("--static", "--level", "2")) == ["data", "ip", "train_only", "deep", "sum"]


def test_shape_options() -> None:
    assert analyzed("--static", "--batch", "9")["layers"][0]["tops"][0]["shape"] == [9, 3, 6, 5]
    assert analyzed("--static", "--shape", "data=1,2,3,4")["layers"][0]["tops"][0]["shape"] == [1, 2, 3, 4]


def test_seed_gives_the_same_numbers_again() -> None:
    def weight(*arguments: str) -> float:
        return analyzed(*arguments)["layers"][1]["params"][0]["forward"]["mean_abs"]

    assert weight("--seed", "5") == weight("--seed", "5") != weight("--seed", "6")
    assert weight() == weight("--seed", "1701")


def test_seed_of_a_solver(folder: Path) -> None:
    (folder / "solver.prototxt").write_text('net: "net.prototxt"\nrandom_seed: 42\n')
    for arguments, seed in (((), 42), (("--seed", "7"), 7)):
        result = caffestat_("analyze", "--static", "--format", "json", "solver.prototxt", *arguments)
        assert json.loads(result.stdout)["seed"] == seed


def test_forward_only_measures_no_gradient() -> None:
    both, forward = analyzed(), analyzed("--forward-only")
    assert both["norms"] and both["layers"][1]["params"][0]["backward"]["mean_abs"] is not None
    assert not forward["norms"] and forward["layers"][1]["params"][0]["backward"]["mean_abs"] is None


def test_input_array_is_what_the_net_sees(folder: Path) -> None:
    np.save(folder / "x.npy", np.full((2, 3, 6, 5), -2.5, np.float32))
    assert analyzed("--input", "data=x.npy")["layers"][0]["tops"][0]["forward"]["mean_abs"] == 2.5


def test_inputs_hold_noise_to_analyze_and_zeros_to_debug() -> None:
    assert analyzed()["layers"][0]["tops"][0]["forward"]["mean_abs"] > 0.5
    assert analyzed("--inputs-hold", "zeros")["layers"][0]["tops"][0]["forward"]["mean_abs"] == 0
    first = caffestat_("debug", "net.prototxt", "--device", "cpu").stdout.splitlines()[0]
    assert first == "    [Forward] Layer data, top blob data data: 0"


def test_debug_prints_no_backward_in_the_test_phase() -> None:
    train, test = (caffestat_("debug", "net.prototxt", "--phase", phase).stdout for phase in ("train", "test"))
    assert "[Backward]" in train
    assert "[Forward]" in test
    assert "[Backward]" not in test


def test_debug_glog() -> None:
    lines = caffestat_("debug", "--glog", "--device", "cpu", "net.prototxt").stdout.splitlines()
    assert all(line[0] in "IE" and ".cpp:" in line for line in lines)


def test_missing_fillers_give_one_warning(folder: Path) -> None:
    text = NET.replace('weight_filler { type: "xavier" }', "")
    (folder / "net.prototxt").write_text(text)
    result = caffestat_("analyze", "--static", "net.prototxt")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: net.prototxt:2:1: 1 layer has weights without a weight_filler (ip)")
    assert "--assume-filler xavier" in line
    assumed = caffestat_("analyze", "--static", "--assume-filler", "xavier", "net.prototxt")
    assert assumed.stderr == ""
    assert "(xavier)" in assumed.stdout


def test_assumed_filler_fills() -> None:
    path = Path("net.prototxt")
    path.write_text(NET.replace('weight_filler { type: "xavier" }', ""))
    assert analyzed()["layers"][1]["params"][0]["forward"]["mean_abs"] == 0
    assert analyzed("--assume-filler", "msra")["layers"][1]["params"][0]["forward"]["mean_abs"] > 0


def test_unknown_fields_and_types_are_warnings(folder: Path) -> None:
    (folder / "net.prototxt").write_text(NET + 'layer { name: "m" type: "Rellu" bottom: "out" top: "m" colour: 3 }\n')
    result = caffestat_("analyze", "--static", "net.prototxt")
    assert result.exit_code == 0
    field, kind = result.stderr.splitlines()
    assert field.startswith("warning: net.prototxt:7:") and "colour" in field
    assert kind.startswith("warning: net.prototxt:7:1: ") and "'ReLU'" in kind


def test_output_file_is_written_whole(folder: Path) -> None:
    result = caffestat_("analyze", "--static", "--format", "csv", "-o", "out.csv", "net.prototxt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (folder / "out.csv").read_text().startswith("layer,type,line")
    assert sorted(path.name for path in folder.iterdir()) == ["net.prototxt", "out.csv"]


def test_output_file_stays_when_the_run_fails(folder: Path) -> None:
    (folder / "out.csv").write_text("before")
    assert caffestat_("analyze", "--static", "-o", "out.csv", "absent.prototxt").exit_code == 2
    assert (folder / "out.csv").read_text() == "before"


BAD_OPTIONS = {
    "shape without sizes": (["--shape", "data"], "NAME=SIZES"),
    "shape of words": (["--shape", "data=a,b"], "sizes of 1 or more"),
    "shape with zero": (["--shape", "data=2,0"], "sizes of 1 or more"),
    "shape of no blob": (["--shape", "dat=2,3"], "no layer produces"),
    "batch of nothing": (["--batch", "0"], "0"),
    "absent array": (["--input", "data=absent.npy"], "absent.npy"),
    "array that is text": (["--input", "data=net.prototxt"], "expected an array of numbers as numpy.save writes it"),
    "absent weights": (["--weights", "absent.caffemodel"], "absent.caffemodel"),
    "weights that are text": (["--weights", "net.prototxt"], "net.prototxt"),
    "folder that is not there": (["--static", "-o", "no/such/folder/out.csv"], "cannot be written"),
    "unknown format": (["--format", "xml"], "xml"),
    "negative seed": (["--seed", "-1"], "-1"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option(name: str) -> None:
    arguments, said = BAD_OPTIONS[name]
    result = caffestat_("analyze", "--device", "cpu", *arguments, "net.prototxt")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr


def test_input_of_another_shape(folder: Path) -> None:
    np.save(folder / "x.npy", np.zeros((2, 3, 5, 6), np.float32))
    result = caffestat_("analyze", "--device", "cpu", "--input", "data=x.npy", "net.prototxt")
    assert result.exit_code == 2
    assert "(2, 3, 5, 6)" in result.stderr and "(2, 3, 6, 5)" in result.stderr


def test_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("caffestat.api.analyze", interrupt)
    assert caffestat_("analyze", "net.prototxt").exit_code == 130


def test_an_allocation_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 32.0 GiB")

    monkeypatch.setattr("caffestat.api.analyze", fail)
    result = caffestat_("analyze", "net.prototxt")
    assert (result.exit_code, result.stderr) == (2, "error: not enough memory: Unable to allocate 32.0 GiB\n")
