"""`caffestat train`: what goes where, signals, and inputs that cannot be used."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caffestat.cli import main

ROOT = Path(__file__).parent.parent.parent
CASE = ROOT / "tests" / "golden" / "training" / "snapshot_sgd"
TIMES = re.compile(r"\(\S+ iter/s, \S+s/(\d+) iters\)")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("h5py")
    shutil.copytree(CASE, tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    return tmp_path / "case"


def caffestat_(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def test_the_log_goes_to_the_output_and_to_a_file() -> None:
    result = caffestat_("train", "solver.prototxt", "--iterations", "3", "--device", "cpu", "--log", "train.log")
    assert result.exit_code == 0
    assert result.stdout == Path("train.log").read_text()
    lines = result.stdout.splitlines()
    assert lines[3].startswith("Iteration 0 (0 iter/s, ")
    assert lines[-3:] == [lines[-3], "Optimization Done.", "Optimization Done."]
    assert re.fullmatch(r"Iteration 3, loss = [\d.]+", lines[-3])
    pace, seconds = (float(found) for found in re.findall(r"\((\S+) iter/s, (\S+)s/1 iters\)", lines[6])[0])
    assert pace == pytest.approx(1 / seconds, rel=1e-3)
    again = caffestat_(
        "train", "solver.prototxt", "--snapshot", "snap_iter_3.solverstate", "--iterations", "1", "--log", "train.log"
    )
    assert Path("train.log").read_text() == result.stdout + again.stdout
    assert "Iteration 3 (" in again.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_is_named() -> None:
    result = caffestat_("train", "solver.prototxt", "--iterations", "1", "--device", "cpu", "--log", "/dev/full")
    assert (result.exit_code, result.stderr) == (2, "error: /dev/full: cannot be written: No space left on device\n")


def test_space_around_the_names_of_weights() -> None:
    names = "snap_iter_3.caffemodel , snap_iter_3.caffemodel"
    caffestat_("train", "solver.prototxt", "--iterations", "3")
    result = caffestat_("train", "solver.prototxt", "--iterations", "1", "--weights", names)
    assert result.stdout.splitlines()[:2] == ["Finetuning from snap_iter_3.caffemodel"] * 2


def test_glog() -> None:
    result = caffestat_("train", "solver.prototxt", "--iterations", "1", "--glog")
    assert all(
        re.match(r"[IE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] ", line) for line in result.stdout.splitlines()
    )


def test_the_curve_as_csv_and_json_lines() -> None:
    log = [float(n) for n in re.findall(r"loss = (\S+) \(\*", caffestat_("train", "solver.prototxt").stdout)]
    rows = list(csv.DictReader(io.StringIO(caffestat_("train", "solver.prototxt", "--format", "csv").stdout)))
    losses = [float(row["value"]) for row in rows if row["name"] == "loss"]
    assert losses == pytest.approx(log, rel=1e-5)
    assert {row["phase"] for row in rows} == {"train"}
    found = [
        json.loads(line) for line in caffestat_("train", "solver.prototxt", "--format", "jsonl").stdout.splitlines()
    ]
    curve = [value for event in found if event["event"] == "iteration" for value in event["outputs"]["loss"]]
    assert curve == pytest.approx(losses, rel=1e-6)
    assert [event["iteration"] for event in found if event["event"] == "snapshot"] == [20, 40]
    assert found[-1] == {"event": "done", "iteration": 40, "stopped": False}


def test_what_cannot_be_used() -> None:
    Path("bad.prototxt").write_text('net: "net.prototxt" lr_policy: "fixed" max_iter: 5 snapshot_prefix: "gone/a"')
    for name in ("settings", "w.npz"):
        Path(name).write_text("")
    for args, message in {
        ("net.prototxt",): "expected a solver prototxt, found a net",
        ("bad.prototxt",): "bad.prototxt:1:",
        ("solver.prototxt", "--snapshot", "ref_snap_iter_20.caffemodel"): "SolverState",
        ("solver.prototxt", "--snapshot", "a", "--weights", "b"): "not both",
        ("solver.prototxt", "--stats-file", "a.npz"): "--stats-file names the file for --stats: add --stats N",
        ("solver.prototxt", "--dim", "batch=3"): "--dim batch: only .onnx models have named dimensions",
        ("solver.prototxt", "--log", "gone/train.log"): "gone/train.log: cannot be written",
        ("solver.prototxt", "--report", "gone/a.html"): "gone/a.html: cannot be written: there is no folder 'gone'",
        ("solver.prototxt", "--stats", "1", "--stats-file", "gone/a.npz"): "gone/a.npz: cannot be written: there is no",
        ("solver.prototxt", "--log", "solver.prototxt"): "solver.prototxt",
        ("solver.prototxt", "--log", "net.prototxt"): "'net.prototxt' looks like a net, model, array or plugin",
        ("a.onnx", "--solver", "settings", "--log", "settings"): "settings: is also an input",
        ("solver.prototxt", "--weights", "w.npz", "--stats", "1", "--stats-file", "w.npz"): "w.npz: is also an input",
    }.items():
        result = caffestat_("train", *args)
        assert (result.exit_code, message in result.stderr, result.stdout) == (2, True, ""), result.stderr
    Path("train.txt").unlink()
    result = caffestat_("train", "solver.prototxt")
    assert (result.exit_code, "use --data synthetic" in result.stderr) == (2, True), result.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no such signals")
def test_signals(here: Path) -> None:
    """SIGHUP writes a snapshot and goes on; SIGINT stops after the iteration and writes one."""
    command = [
        sys.executable,
        "-m",
        "caffestat",
        "train",
        "solver.prototxt",
        "--iterations",
        "1000000",
        "--log",
        "t.log",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        wait_for(here / "t.log", "Iteration 3 (")
        process.send_signal(signal.SIGHUP)
        wait_for(here / "t.log", "Snapshotting solver state")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.read()
    lines = (here / "t.log").read_text().splitlines()
    assert lines[-2:] == ["Optimization stopped early.", "Optimization Done."]
    assert lines[-3].startswith("Snapshotting solver state to")
    assert Path(lines[-3].split()[-1]).exists()


def wait_for(path: Path, text: str) -> None:
    for _ in range(600):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"{text!r} never came")


def test_signals_and_rules() -> None:
    result = caffestat_(
        "train", "solver.prototxt", "--iterations", "5", "--stats", "2", "--stats-file", "s.npz", "--watch", "report"
    )
    assert (result.exit_code, "watch: " in result.stderr) == (0, False)
    with np.load("s.npz") as arrays:
        assert arrays["iteration"].tolist() == [0, 2, 4]
    Path("fast.prototxt").write_text(
        re.sub("base_lr: .*", "base_lr: 1e8", Path("solver.prototxt").read_text()).replace("multistep", "fixed")
    )
    for args in (["--watch", "fast.prototxt"], ["fast.prototxt", "--watch=stop"]):
        result = caffestat_("train", *args)
        assert result.exit_code == 1
        assert re.fullmatch(r"watch: [\w-]+ at iteration \d+: .*", result.stderr.splitlines()[-1])
        assert "Optimization Done." not in result.stdout


def test_signals_are_written_with_snapshots_and_by_each_part_of_a_run() -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    text = re.sub("snapshot.*", "", Path("solver.prototxt").read_text())
    Path("saves.prototxt").write_text(text + "\nsnapshot: 2 snapshot_after_train: false\n")
    caffestat_("train", "saves.prototxt", "--iterations", "3", "--stats", "1")
    caffestat_("train", "saves.prototxt", "--snapshot", "saves_iter_2.solverstate", "--iterations", "2", "--stats", "1")
    for since, iterations in {"": [0, 1, 2], "_from_2": [2, 3]}.items():
        assert parquet.read_table(f"saves_stats{since}.parquet")["iteration"].to_pylist() == iterations
