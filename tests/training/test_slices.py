"""Caffe's own runs with chains of layers run by slices of the batch: the same logs, params and history."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from caffestat.graph import batch_statistics, expand, slices

from .golden import DEVICE, FOLDER, runs, spread
from .test_golden import compare_logs, compare_params, final, train

CASES = ("batchnorm_moving", "debug_display10", "multi_loss_test_nets")

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU takes batches whole")


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made, append = tmp_path / name, [], expand.append_chain
    shutil.copytree(FOLDER / name, folder, ignore=shutil.ignore_patterns("ref_*"))
    monkeypatch.chdir(folder)
    for module in (slices, batch_statistics):
        monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(slices, "_SLICE", 1)
    monkeypatch.setattr(expand, "append_chain", lambda *given: (append(*given), made.append(given))[0])
    for index, run in enumerate(runs(name)):
        compare_logs(train(run["args"]), FOLDER / name / run["log"], spread(name))
        compare_params(final(folder, run), name, index)
    assert made
