"""docs/layers.md says what the registry, the schema and the golden cases say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "layers.md"


CUT = "`transform_param.crop_height` (own), `transform_param.crop_width` (own)"


def rows() -> dict[str, list[str]]:
    """Return the cells of the table by type."""
    row = r"^\| `(\w+)` \| (.*) \| (same|differ) \| (.*) \| (.*) \|$"
    found = re.findall(row, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: cells for name, *cells in reversed(found)}  # Caffe's own before those of forks


def test_the_table_of_layers_is_current() -> None:
    command = [sys.executable, "docs/generate_layers.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("BatchNorm", ["`batch_norm_param`", "differ", "own", "batchnorm, inplace"]),
        ("SoftmaxWithLoss", ["`loss_param`, `softmax_param`", "same", "own"]),
        ("ImageData", ["`image_data_param`, `transform_param`, `image_data_param.label_dim` (own)", "differ", "—"]),
        ("Data", [f"`data_param`, `transform_param`, {CUT}", "differ", "—", "lmdb, lmdb_aug, lmdb_float"]),
        ("ArgMax", ["`argmax_param`", "same", "none", "accuracy_argmax"]),
        ("Silence", ["—", "same", "none"]),
        ("Concat", ["`concat_param`", "same", "ops", "shape_ops"]),
        ("ReLU6", ["—", "same", "own", "taken as Clip from 0 to 6"]),
    ],
)
def test_rows(name: str, cells: list[str]) -> None:
    assert rows()[name][: len(cells)] == cells
