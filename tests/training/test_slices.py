"""Caffe's own runs with chains of layers run by slices of the batch: the same logs, params and history."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.graph import expand, slices

from .golden import DEVICE
from .test_golden import replay

CASES = ("batchnorm_moving", "debug_display10", "multi_loss_test_nets")

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="a GPU takes batches whole")


@pytest.mark.parametrize("name", CASES)
def test_golden_cases(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, append = [], expand.append_chain
    for threshold in ("LARGE", "MEASURED_LARGE"):
        monkeypatch.setattr(slices, threshold, 1)
    monkeypatch.setattr(slices, "_SLICE", 1)
    monkeypatch.setattr(expand, "append_chain", lambda *given: (append(*given), made.append(given))[0])
    replay(name, tmp_path, monkeypatch)
    assert made
