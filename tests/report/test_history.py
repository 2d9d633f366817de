"""What pages about training show of its events, and of the problems found in its log."""

from __future__ import annotations

from pathlib import Path

import pytest

import caffestat
from caffestat.report.history import History, diagnosis_rows

NET = """
layer { name: "data" type: "DummyData" top: "x" top: "t" dummy_data_param {
  shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: "gaussian" std: 9 } data_filler { value: 1 } } }
layer { name: "dead" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }
layer { name: "right" type: "Accuracy" bottom: "y" bottom: "t" top: "right" include { phase: TEST } }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 test_iter: 2 test_interval: 2
clip_gradients: 0.001 snapshot: 2 snapshot_prefix: "kept"
"""


@pytest.fixture
def solver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return "solver.prototxt"


def test_tests_clipped_gradients_and_snapshots_are_shown(solver: str) -> None:
    history = History()
    for event in caffestat.train(solver):
        history.enter(event)
    assert history.curves["test right"].iterations == [0, 2]
    assert [mark.iteration for mark in history.marks if mark.kind == "clip"] == [0, 1, 2]
    assert next(mark.text for mark in history.marks if mark.kind == "snapshot") == "kept_iter_2.caffemodel"


def test_problems_of_a_log_become_rows(solver: str) -> None:
    Path("train.log").write_text("\n".join(caffestat.debug(solver)))
    rows = list(diagnosis_rows(caffestat.diagnose("train.log"), "train.log"))
    assert [(row.name, row.severity, row.line) for row in rows] == [("first zero", "error", 6), ("dead", "warning", 0)]
    assert {row.layer for row in rows} == {"dead"}
    assert rows[0].message == "first zero at iteration 0, line 6: layer dead, top blob y data is zero: 0"
