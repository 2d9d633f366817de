"""The commands check, explain, diagnose and compare: output, exit codes, settings, and what CI is told to run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from caffestat.cli import main
from caffestat.lint import all_checks

ROOT = Path(__file__).resolve().parent.parent.parent
CLEAN = ROOT / "models" / "lenet.prototxt"
LOG = ROOT / "tests" / "golden" / "raw_logs" / "shared_params.log"

BAD = """\
layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 4 dim: 12 } shape { dim: 4 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip"
  inner_product_param { num_output: 7 weight_filler { type: "msra" std: 0.1 } } }
layer { name: "tanh" type: "TanH" bottom: "ip" top: "ip" }
layer { name: "fc" type: "InnerProduct" bottom: "ip" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with a good and a bad net."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.prototxt").write_text(BAD)
    shutil.copy(CLEAN, tmp_path / "good.prototxt")
    return tmp_path


def caffestat_(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin)


def test_a_clean_net_exits_with_0() -> None:
    result = caffestat_("check", "good.prototxt")
    assert (result.exit_code, result.stdout) == (0, "1 file checked: nothing found\n")


def test_findings_exit_with_1_and_name_place_code_and_fix() -> None:
    result = caffestat_("check", ".")
    assert result.exit_code == 1
    first, *_ = result.stdout.splitlines()
    assert first.startswith("bad.prototxt:4:39: CS012 warning: ip: msra before TanH layer 'tanh'")
    assert "CS006" in result.stdout
    assert "2 files checked: 2 warnings" in result.stdout


def test_infos_do_not_fail_a_build() -> None:
    Path("lmdb.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "x" top: "label" data_param { source: "elsewhere" batch_size: 4 } '
        "transform_param { scale: 0.004 } }"
        'layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" '
        'inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" }'
    )
    result = caffestat_("check", "lmdb.prototxt")
    assert (result.exit_code, result.stdout.count("CS023 info")) == (0, 1)
    report = ElementTree.fromstring(caffestat_("check", "--format", "junit", "lmdb.prototxt").stdout.encode())
    assert report.find("testsuite[@failures='0']") is not None
    assert "CS023" in (report.findtext("testsuite/system-out") or "")


def test_a_file_that_cannot_be_read_exits_with_2_and_the_others_are_checked() -> None:
    result = caffestat_("check", "nowhere.prototxt", "bad.prototxt")
    assert result.exit_code == 2
    assert "nowhere.prototxt: cannot be read" in result.stderr
    assert "CS012" in result.stdout


def test_the_standard_input_is_checked_by_its_name_and_its_comments_heeded() -> None:
    result = caffestat_("check", "-", stdin=BAD.encode())
    assert result.exit_code == 1
    assert result.stdout.startswith("<stdin>:4:39: CS012 warning: ip: msra before TanH layer 'tanh'")
    named = caffestat_("check", "bad.prototxt").stdout
    assert result.stdout == named.replace("bad.prototxt", "<stdin>")
    silenced = "# caffestat: ignore-file\n" + BAD
    assert caffestat_("check", "-", stdin=silenced.encode()).exit_code == 0
    data = json.loads(caffestat_("check", "--format", "json", "-", stdin=BAD.encode()).stdout)
    assert {finding["file"] for finding in data["findings"]} == {"<stdin>"}
    broken = caffestat_("check", "-", stdin=b"layer {")
    assert broken.exit_code == 2
    assert broken.stderr.startswith("error: <stdin>:1:")


def test_fixes_of_the_standard_input_are_refused() -> None:
    result = caffestat_("rewrite", "--fix-check", "-", stdin=BAD.encode())
    assert result.exit_code == 2
    assert "fixes cannot be written to standard input" in result.stderr


def test_an_onnx_model_is_told_what_looks_at_it(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\x08\x08")
    for arguments in (["check", "model.onnx"], ["rewrite", "--fix-check", "model.onnx"]):
        result = caffestat_(*arguments)
        assert result.exit_code == 2
        assert "`caffestat analyze --predict model.onnx`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--select", "CS99"], "matches no check"),
        (["--baseline", "nowhere.json"], "cannot be read"),
        (["--vanish", "x"], "not a valid"),
    ],
)
def test_options_that_cannot_be_used_exit_with_2(arguments: list[str], words: str) -> None:
    result = caffestat_("check", *arguments, "bad.prototxt")
    assert result.exit_code == 2
    assert words in result.stderr


def test_checks_are_selected_and_ignored() -> None:
    assert caffestat_("check", "--select", "CS006,CS018", "bad.prototxt").stdout.count("CS0") == 1
    assert caffestat_("check", "--ignore", "CS006", "--ignore", "msra-before-squashing", "bad.prototxt").exit_code == 0
    assert caffestat_("check", "--severity", "error", "bad.prototxt").exit_code == 0


def test_a_baseline_silences_what_is_known(folder: Path) -> None:
    assert caffestat_("check", "--write-baseline", "known.json", ".").exit_code == 0
    assert caffestat_("check", "--baseline", "known.json", ".").exit_code == 0
    (folder / "caffestat.cfg").write_text("[caffestat]\nbaseline = known.json\n")
    assert caffestat_("check", ".").exit_code == 0
    (folder / "new.prototxt").write_text(BAD)
    assert caffestat_("check", ".").exit_code == 1


def test_settings_of_the_project_hold_and_options_come_first(folder: Path) -> None:
    (folder / "setup.cfg").write_text("[caffestat:check]\nignore = CS0\n")
    assert caffestat_("check", ".").exit_code == 0
    assert caffestat_("check", "--ignore", "CS018", ".").exit_code == 1


@pytest.mark.parametrize("format", ["json", "github", "sarif", "junit"])
def test_every_format_holds_the_findings(folder: Path, format: str) -> None:
    result = caffestat_("check", "--format", format, "-o", "out.txt", ".")
    assert result.exit_code == 1
    text = (folder / "out.txt").read_text()
    assert text.count("CS012") >= 1
    if format in ("json", "sarif"):
        json.loads(text)
    if format == "junit":
        assert len(ElementTree.fromstring(text).findall("testsuite/testcase")) == 2


def test_a_run_is_made_when_it_is_asked_for() -> None:
    assert caffestat_("check", "--run", "--select", "CS02", "good.prototxt").exit_code == 0


def test_predicting_does_not_import_the_runtime() -> None:
    code = (
        "import sys; from caffestat.cli import main; sys.argv = ['caffestat', 'check', 'good.prototxt']\n"
        "try: main()\nexcept SystemExit: pass\nsys.exit('onnxruntime' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_explain_prints_pages_and_a_list() -> None:
    assert caffestat_("explain", "cs012").stdout.startswith("## CS012 msra-before-squashing\n")
    assert caffestat_("explain").stdout.count("\n") == len(all_checks())
    assert caffestat_("explain", "CS99").exit_code == 2


def test_diagnose_reads_files_and_the_standard_input() -> None:
    result = caffestat_("diagnose", str(LOG))
    assert result.exit_code == 0
    assert result.stdout.startswith("3 passes of the train net, iterations 0 to 2; 0 of test nets\nno problems found\n")
    assert caffestat_("diagnose", "-", stdin=LOG.read_bytes()).stdout == result.stdout
    bad = LOG.read_bytes().replace(b"top blob ipc data: 0.924722", b"top blob ipc data: nan")
    result = caffestat_("diagnose", "-", stdin=bad)
    assert result.exit_code == 1
    assert "first nan at iteration 1, line 267: layer ipc, top blob ipc data is not a number" in result.stdout
    assert caffestat_("diagnose", "nowhere.log").exit_code == 2


def test_compare_says_what_differs(folder: Path) -> None:
    assert caffestat_("compare", str(LOG), str(LOG)).stdout == "no differences\n"
    (folder / "b.log").write_bytes(LOG.read_bytes().replace(b"blob ipc data: 0.924722", b"blob ipc data: 0.93"))
    result = caffestat_("compare", str(LOG), "b.log")
    assert result.exit_code == 1
    assert result.stdout == "iteration 1: layer ipc, top blob ipc data: 0.924722 and 0.93 (0.0057 apart)\n"
    assert caffestat_("compare", "--rtol", "0.01", str(LOG), "b.log").exit_code == 0


def test_rewrite_applies_the_fixes(folder: Path) -> None:
    assert caffestat_("rewrite", "--fix-check", "--check", "bad.prototxt").exit_code == 1
    diff = caffestat_("rewrite", "--fix-check", "--diff", "bad.prototxt").stdout
    assert '-  inner_product_param { num_output: 7 weight_filler { type: "msra" std: 0.1 } } }\n' in diff
    assert '+  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }\n' in diff
    assert (folder / "bad.prototxt").read_text() == BAD
    result = caffestat_("rewrite", "--fix-check", "--recursive", ".")
    assert result.exit_code == 0
    assert "bad.prototxt:4:39: CS012 ip: weight_filler" in result.stdout
    assert result.stderr == "2 files: 2 fixes\n"
    assert caffestat_("check", ".").exit_code == 0
    assert caffestat_("rewrite", "--fix-check", "--filler", "xavier", ".").exit_code == 2


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m caffestat"
    makefile = str(ROOT / "docs" / "examples" / "checks.mk")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    make = ["make", "-f", makefile, f"CAFFESTAT={command}", *arguments]
    return subprocess.run(make, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_make_targets_of_users() -> None:
    assert run_make("check-nets", "NETS=good.prototxt").returncode == 0
    assert run_make("check-nets", "NETS=bad.prototxt").returncode != 0
    assert run_make("baseline", "NETS=.", "BASELINE=known.json").returncode == 0
    assert run_make("check-nets", "NETS=.", "BASELINE=known.json").returncode == 0


def test_the_workflow_and_the_hook_run_commands_that_exist() -> None:
    workflow = (ROOT / "docs" / "examples" / "check-nets.yml").read_text()
    commands = [line.partition("caffestat check ")[2].partition(" ||")[0].split() for line in workflow.splitlines()]
    commands = [words for words in commands if words]
    assert len(commands) == 2
    for words in commands:
        assert caffestat_("check", *words).exit_code == 1
    hooks = (ROOT / ".pre-commit-hooks.yaml").read_text()
    assert "entry: caffestat check\n  args: [--severity, warning]" in hooks
