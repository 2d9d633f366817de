"""Caffe's own runs with each batch divided among threads: the same logs, params and history."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.analysis import Runner
from caffestat.analysis import runner as module

from .golden import DEVICE
from .test_golden import replay

CASES = ("average_loss", "dropout_stream", "hdf5_shuffle", "lmdb_epochs", "train_sgd_l1_clip_iter_mult")

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU takes batches whole")


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, build = [], Runner.__init__
    monkeypatch.setattr(module, "shards_for", lambda program: 2)
    monkeypatch.setattr(Runner, "__init__", lambda self, *a, **k: (build(self, *a, **k), made.append(self))[0])
    replay(name, tmp_path, monkeypatch)
    assert any(runner.forward.shards == 2 for runner in made)
