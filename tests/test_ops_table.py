"""docs/ops.md says what the registries say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 22, reason="this onnx does not know opset 22")
def test_the_table_of_ops_is_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate_ops.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
