"""The runtime's telemetry stays switched off; an interrupt ends what it runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caffestat.engine.runtime import interruptible, onnxruntime, open_session, session_options
from caffestat.graph import Graph


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


def test_what_fails_on_a_device_is_not_done_again_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(session: Any, providers: Any, *_: Any) -> None:
        raise RuntimeError(f"no memory on {providers}")

    monkeypatch.setattr(onnxruntime().InferenceSession, "_create_inference_session", fail)
    with pytest.raises(RuntimeError, match=r"no memory on .*CUDA"):
        open_session(Graph().to_onnx(), session_options(), ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert capsys.readouterr().out == ""


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_a_run_before_it_returns(interrupts: None) -> None:
    ended: list[int] = []
    interruptible(lambda options: None)

    def run(options: Any) -> None:
        time.sleep(0.05)  # until the main thread waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while not options.terminate:
            time.sleep(0.001)
        ended.append(threading.get_ident())

    with pytest.raises(KeyboardInterrupt):
        interruptible(run)
    assert ended == [interruptible(lambda options: threading.get_ident())]  # the thread lives on
    assert ended[0] != threading.get_ident()
