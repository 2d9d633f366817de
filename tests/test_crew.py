"""Ctrl-C, which all processes of a terminal get, ends the work in several ones quietly, at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import caffestat

from .sweeps.nets import NET

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes start in other ways")

CODE = """
import functools, os, signal, sys, time
import caffestat
from caffestat.crew import Worker, ended, fork_server, replied, uninterrupted
from caffestat.lint import processes

os.sched_getaffinity = lambda _: {0, 1}
interrupt = lambda *_: os.killpg(0, signal.SIGINT)
try:
    exec(sys.argv[1])
except KeyboardInterrupt:
    sys.exit(130)
"""
WORKING = """
crew = []
with ended(crew):
    for seconds in (0, 600):
        crew.append(Worker(fork_server(()), time.sleep))
        crew[-1].send(seconds)
    replied(crew)
    crew[0].send(600)
    interrupt()
    replied(crew)
"""
IMPORTING = """
Worker(fork_server(["interrupting"]), time.sleep)
"""
STARTING = """
with uninterrupted():
    context = fork_server(())
    interrupt()
    crew = [Worker(context, time.sleep) for _ in range(2)]
"""
CHECKING = """
list(processes.each(lambda file: file == "f0" and (interrupt(), time.sleep(600)), [f"f{n}" for n in range(16)]))
"""
SWEEPING = """
progress = lambda done, count: done == 3 and interrupt()
caffestat.sweep("net.prototxt", seeds=range(1_000_000), workers=2, output="out", progress=progress)
"""
CLUSTER = """
import contextlib, socket
from caffestat.sweeps.executors import local_cluster
with contextlib.suppress(OSError):
    held = socket.create_server(("", 8787))  # as another cluster on this machine would
progress = lambda done, count: done == 3 and interrupt()
with local_cluster(2) as client:
    caffestat.sweep("net.prototxt", seeds=range(1_000_000), client=client, output="out", progress=progress)
"""


@pytest.mark.parametrize("code", [WORKING, IMPORTING, STARTING, CHECKING, SWEEPING, CLUSTER])
def test_an_interrupt_ends_all_processes_quietly(tmp_path: Path, root: Path, code: str) -> None:
    if code is CLUSTER:
        pytest.importorskip("distributed")
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "interrupting.py").write_text("import os, signal\nos.killpg(0, signal.SIGINT)\n")
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, code],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "")
    assert is_gone(process.pid)


def is_gone(group: int) -> bool:
    """Wait until no process of a group is left; the one that others are forked from may have imports to finish."""
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_what_is_finished_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)

    def interrupt(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caffestat.sweep("net.prototxt", seeds=range(4), output="out", progress=interrupt)
    ran: list[int] = []
    caffestat.sweep(
        "net.prototxt", seeds=range(4), output="out", resume=True, progress=lambda done, count: ran.append(done)
    )
    assert ran == [3, 4]
