"""The golden cases of SSD's Caffe, trained to the end: all log lines, average precisions, final params and history."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import SolverError
from caffestat.schema import NetParameter
from caffestat.schema.forks import ssd_pb2
from caffestat.training.detection import Detections, average_precision

from .test_golden import final, train

SSD = Path(__file__).parents[1] / "golden" / "ssd"
CASES = sorted(path.parent.name for path in SSD.glob("*/caffe.log"))
TIMES = re.compile(r" \(.* iter/s, .*s/.* iters\)")  # which this older Caffe does not tell
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])|(?<![\w.])-?(?:nan|inf)(?!\w)")


@pytest.mark.parametrize(
    ("case", "resident"), [*((case, None) for case in CASES), *((case, True) for case in CASES[:1])]
)
def test_training_is_caffes(case: str, resident: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / case
    shutil.copytree(SSD / case, folder)
    monkeypatch.chdir(folder)
    ours = [TIMES.sub("", line) for line in train(["--solver=solver.prototxt"], resident=resident)]
    caffes = (SSD / case / "caffe.log").read_text().splitlines()
    assert [NUMBER.sub("#", line) for line in ours] == [NUMBER.sub("#", line) for line in caffes]
    for our, caffe in zip(ours, caffes, strict=True):
        numbers = [[float(number) for number in NUMBER.findall(line)] for line in (our, caffe)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-9), f"{our}\n{caffe}"
    found = final(folder, {})
    with np.load(SSD / case / "params.npz") as wanted:
        for name in wanted.files:
            if name not in ("names", "learned_net"):
                largest = float(np.abs(wanted[name]).max(initial=0.0))
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5 * largest, err_msg=name)


FOUND = [(0.9, True), (0.8, False), (0.7, True), (0.6, True), (0.5, False)]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("Integral", (1 + 2 / 3 + 3 / 4) / 4),
        ("MaxIntegral", (1 + 3 / 4 + 3 / 4) / 4),
        ("11point", (3 * 1 + 5 * 3 / 4) / 11),
    ],
)
def test_average_precision_of_four_true_boxes(version: str, expected: float) -> None:
    assert average_precision(FOUND, 4, version) == pytest.approx(expected, rel=1e-6)
    assert average_precision([], 4, version) == average_precision(FOUND, 0, version) == 0


def test_detections_of_difficult_boxes_do_not_count() -> None:
    detections = Detections()
    rows = [[-1, 1, 2, -1, -1], [-1, 2, 3, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.8, 0, 0], [1, 1, 0.7, 0, 1]]
    detections.add(np.array(rows, np.float32)[None, None])
    by_class = detections.by_class("Integral")
    assert by_class == {1: pytest.approx(0.5), 2: None}
    assert detections.mean(by_class) == pytest.approx(0.25)
    assert Detections().mean({}) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('eval_type: "detektion"', r"solver.prototxt:\d+:1: unknown eval_type 'detektion'; expected classification or"),
        ('ap_version: "12point"', r"unknown ap_version '12point'; expected one of 11point, MaxIntegral, Integral"),
    ],
)
def test_settings_of_the_evaluation(
    settings: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SSD / "permute", tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    with Path("solver.prototxt").open("a") as file:
        file.write(f"\n{settings}\n")
    with pytest.raises(SolverError, match=message):
        train(["--solver=solver.prototxt"])


def test_outputs_that_are_no_detections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SSD / "permute", tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    with Path("solver.prototxt").open("a") as file:
        file.write('\neval_type: "detection" test_iter: 1 test_interval: 1\n')
    with pytest.raises(SolverError, match="expects outputs of 5 columns, those of DetectionEvaluate; 'l1' has shape"):
        train(["--solver=solver.prototxt"])


def trained(case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]) -> list[str]:
    """Return the log of a golden case with other text in its files, and stay in its folder."""
    shutil.copytree(SSD / case, folder / "case")
    monkeypatch.chdir(folder / "case")
    for path in map(Path, ("solver.prototxt", "net.prototxt")):
        text = path.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        path.write_text(text)
    return train(["--solver=solver.prototxt"])


def test_classes_without_detections_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build of weiliu89/caffe logs them: the classes of each output in front of it."""
    end = "evaluate_difficult_gt: false } include { phase: TEST } }"
    power = '\nlayer { name: "%s" type: "Power" bottom: "first" top: "%s" include { phase: TEST } }'
    changes = {
        "confidence_threshold: 0.01": "confidence_threshold: 0.3",
        'top: "ev"': 'top: "first"',
        end: end + "".join(power % (top, top) for top in "ab"),
    }
    lines = trained("detection_difficult", tmp_path, monkeypatch, changes)
    start = lines.index("Iteration 4, Testing net (#0)")
    found = [line for line in lines[start:] if line.startswith(("class", "Missing", "    Test net output"))]
    missing = [f"Missing true_pos for label: {label}" for label in (1, 2)]
    assert found == [
        line for top in ("#0: a", "#1: b") for line in (*missing, "class3: 0", f"    Test net output {top} = 0")
    ]


def test_snapshots_keep_the_forks_own_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("mbox_center", tmp_path, monkeypatch, {})
    model, state = NetParameter(), ssd_pb2.SolverState()
    model.ParseFromString(Path("snap_iter_6.caffemodel").read_bytes())
    state.ParseFromString(Path("snap_iter_6.solverstate").read_bytes())
    own = {layer.name: ssd_pb2.LayerParameter.FromString(layer.SerializeToString()) for layer in model.layer}
    assert list(own["loc0_perm"].permute_param.order) == [0, 2, 3, 1]
    assert own["mbox_loss"].multibox_loss_param.num_classes == 4
    assert state.minimum_loss == np.finfo(np.float32).max


def test_plateau_is_logged_and_kept_in_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of a build of weiliu89/caffe."""
    changes = {
        '"fixed"': '"plateau" gamma: 0.5 plateau_winsize: 1 plateau_winsize: 2 snapshot_format: HDF5',
        "base_lr: 0.01": "base_lr: 0.3",
    }
    lines = trained("mbox_center", tmp_path, monkeypatch, changes)
    assert [line for line in lines if line.startswith("Plateau") or "lr = " in line] == [
        "Plateau Status: Iteration 0, current minimum_loss = 11.9548",
        "Iteration 0, lr = 0.3",
        "Plateau Status: Iteration 2, step = 1",
        "Plateau Status: Iteration 2, current minimum_loss = 9.5317",
        "Iteration 2, lr = 0.15",
        "Plateau Status: Iteration 4, step = 2",
        "Plateau Status: Iteration 4, current minimum_loss = 9.5317",
        "Iteration 4, lr = 0.075",
    ]


def test_test_nets_write_their_detections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build of weiliu89/caffe: of 18 images in three tests the files have the last whole round of five."""
    files = 'label_map_file: "map" name_size_file: "sizes" num_test_image: 5'
    saved = (
        f'save_output_param {{ output_directory: "out/here" output_name_prefix: "f" output_format: "ILSVRC" {files} }}'
    )
    (tmp_path / "map").write_text("".join(f'item {{ name: "n{label}" label: {label} }} ' for label in range(4)))
    (tmp_path / "sizes").write_text("".join(f"im{number} 100 200 " for number in range(6)))
    for name in ("map", "sizes"):
        saved = saved.replace(f'"{name}"', f'"{tmp_path / name}"')
    trained("detection_difficult", tmp_path, monkeypatch, {"keep_top_k: 30": f"keep_top_k: 2 {saved}"})
    words = [line.split() for line in Path("out/here/f.txt").read_text().splitlines()]
    assert [[*line[:2], *line[3:]] for line in words] == [
        line.split()
        for line in """im0 2 0 87 35 99
im0 3 151 0 199 34
im1 1 136 76 199 99
im1 3 149 0 193 21
im2 3 109 76 138 99
im2 3 6 0 62 43
im3 3 0 72 34 85
im3 3 17 0 39 47
im4 3 9 0 56 37
im4 3 150 0 199 33""".splitlines()
    ]
