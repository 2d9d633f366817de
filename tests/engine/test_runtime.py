"""The runtime's telemetry stays switched off."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def test_a_run_leaves_nothing_in_the_home_folder(root: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    command = [sys.executable, "-m", "caffestat", "analyze", "--device", "cpu", "models/lenet.prototxt"]
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
    assert list(tmp_path.iterdir()) == []


def test_only_one_module_imports_the_runtime(root: Path) -> None:
    pattern = re.compile(r"^\s*import onnxruntime|from onnxruntime|import_module\(.onnxruntime", re.MULTILINE)
    found = [path.name for path in (root / "caffestat").rglob("*.py") if pattern.search(path.read_text())]
    assert found == ["runtime.py"]
