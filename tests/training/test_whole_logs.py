"""The whole log of every golden solver, not only its first iteration: trained to the end, line by line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from caffestat.net import read_solver
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.report import TrainingLog
from caffestat.training import Training

from ..net.golden import DEVICE, FOLDER, SEED
from .golden import numbers_of, text_of

CASES = sorted(path.parent.name for path in FOLDER.glob("*/caffe.log"))
# lines that were not kept in these logs
LEFT_OUT = ("Starting Opt", "Solving ", "Learning Rate Policy", "Ignoring", "Optimization", "MultiStep")
NOISE = 5e-8  # of gradients that are zero but for rounding: those of a bias in front of BatchNorm


@pytest.mark.parametrize("case", CASES)
def test_every_line_to_the_end(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER / case, tmp_path / case)
    monkeypatch.chdir(tmp_path / case)
    solver = read_solver("solver.prototxt")
    run = RunOptions(device=DEVICE, inputs_hold="zeros")
    training = Training(solver, NetOptions(data="real"), ValueOptions(), run, seed=SEED)
    log = TrainingLog(solver, SEED)
    ours = [line for event in training.events() for line in log.lines(event) if not line.startswith(LEFT_OUT)]
    if case == "fillers":  # its log was kept without the 72944 elements of the net's outputs
        ours = [line for line in ours if "Train net output" not in line]
    caffes = [line for line in Path("caffe.log").read_text().splitlines() if not line.startswith(LEFT_OUT)]
    assert [text_of(line) for line in ours] == [text_of(line) for line in caffes]
    for our, caffe in zip(ours, caffes, strict=True):
        assert numbers_of(our) == pytest.approx(numbers_of(caffe), rel=1e-4, abs=NOISE, nan_ok=True), f"{our}\n{caffe}"
