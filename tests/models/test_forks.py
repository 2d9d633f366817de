"""The small nets of models/forks: analyzed, trained for some iterations, drawn."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

import caffestat
from caffestat.errors import InputError
from caffestat.training.events import Iteration

FORKS = Path(__file__).parents[2] / "models" / "forks"
NETS = sorted(FORKS.glob("*.prototxt"))
ITERATIONS = 4


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_a_fork_s_net_is_analyzed_trained_and_drawn(path: Path, tmp_path: Path) -> None:
    report = caffestat.analyze(path, device="cpu", seed=1)
    assert not [finding for finding in report.findings if "is a fork's" not in finding.message]
    for layer in report.layers:
        assert all(top.shape is not None and top.mean_abs is not None for top in layer.tops), layer.name
        assert all(diff.mean_abs is not None for diff in layer.bottom_diffs), layer.name
    assert report.norms and math.isfinite(report.norms.diff_l2) and report.norms.diff_l2 > 0
    assert f"`{path.name}`" in (FORKS / "README.md").read_text()
    shutil.copy(path, tmp_path)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(
        f'net: "{path.name}" base_lr: 0.001 momentum: 0.9 lr_policy: "fixed" max_iter: {ITERATIONS} '
        "random_seed: 3 snapshot_after_train: false"
    )
    losses = [
        event.loss for event in caffestat.train(solver, device="cpu", data="synthetic") if isinstance(event, Iteration)
    ]
    assert losses and all(map(math.isfinite, losses))
    assert "</html>" in caffestat.analyze(path, static=True, detail=True).to_html()


def test_a_net_whose_outputs_the_data_decides_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the output of layer 'rpn_loss' \(DetectionGroupLoss\) depends on the data"):
        caffestat.convert(FORKS / "cascade_rcnn.prototxt", tmp_path / "net.onnx")
