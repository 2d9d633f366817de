"""The verbs of the package take paths as text and as Path."""

from __future__ import annotations

from pathlib import Path

import caffestat

MODELS = Path(__file__).parent.parent / "models"


def test_verbs_take_paths(tmp_path: Path) -> None:
    lenet = MODELS / "lenet.prototxt"
    model = tmp_path / "lenet.onnx"
    caffestat.convert(lenet, model, batch=1)
    assert caffestat.analyze(lenet, static=True).totals.params == 431_080
    assert caffestat.analyze(model, static=True).totals.params == 431_080
    assert any("conv1" in line for line in caffestat.debug(lenet, batch=1, device="cpu"))
    assert caffestat.upgrade(lenet).data == lenet.read_bytes()
    assert caffestat.fill(lenet, tmp_path / "lenet.npz", batch=1)
