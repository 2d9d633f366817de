"""What we offer to users' own repositories works: the make targets and the pre-commit hooks."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffestat.cli import main

ROOT = Path(__file__).resolve().parents[2]
HOOK = re.compile(r"^- id: (\S+)\n(?:  .*\n)*?  entry: caffestat (.*)\n  args: \[(.*)\]\n", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with two nets."""
    (tmp_path / "models").mkdir()
    for name in ("lenet", "cifar10_quick"):
        shutil.copy(ROOT / "models" / f"{name}.prototxt", tmp_path / "models")
    return tmp_path


def run(command: list[str], folder: Path) -> int:
    """Run a command that calls `caffestat`, which need not be installed."""
    script = folder / "bin" / "caffestat"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m caffestat "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_targets(folder: Path) -> None:
    makefile = str(ROOT / "docs" / "examples" / "fillers.mk")
    assert run(["make", "-f", makefile, "fillers-check"], folder) != 0
    assert run(["make", "-f", makefile, "fillers-fix"], folder) == 0
    assert run(["make", "-f", makefile, "fillers-check"], folder) == 0


def test_pre_commit_hooks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    hooks = {name: [*entry.split(), *args.split(", ")] for name, entry, args in HOOK.findall(text)}
    assert set(hooks) == set(re.findall(r"^- id: (\S+)$", text, re.MULTILINE))
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.prototxt"))
    monkeypatch.chdir(folder)
    found = [
        CliRunner().invoke(main, [*hooks[f"caffestat-fillers-{name}"], *files]).exit_code
        for name in ("check", "fix", "check")
    ]
    assert found == [1, 0, 0]
