"""Many files are checked in several processes: the same is found, in the same order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .nets import CONV, DATA, FC, LOSS

CODE = """
import os, signal, sys
from caffestat import lint
from caffestat.errors import RunError
from caffestat.lint import processes

os.sched_getaffinity = lambda _: {0, 1}
"""
ORDER = """
found = list(processes.each(lambda file: (file, os.getpid()), [f"f{n}" for n in range(21)]))
assert [file for file, _ in found] == [f"f{n}" for n in range(21)]
own = [pid == os.getpid() for _, pid in found]
assert own == [True] + [False] * 20, own
"""
KILLED = """
try:
    end = lambda file: file == "f9" and os.kill(os.getpid(), signal.SIGKILL)
    list(processes.each(end, [f"f{n}" for n in range(16)]))
except RunError as error:
    assert "was killed" in str(error)
else:
    raise AssertionError("no error")
"""
RAISES = """
def broken(file):
    if file == "f3":
        raise OSError(f"{file} is broken")
    return file

seen = []
try:
    for file in processes.each(broken, [f"f{n}" for n in range(16)]):
        seen.append(file)
except OSError as error:
    assert str(error) == "f3 is broken" and seen == ["f0", "f1", "f2"], (error, seen)
else:
    raise AssertionError("no error")
"""
TURN = """
import time
def broken(file):
    if file == "f9":
        raise OSError(f"{file} is broken")
    return time.sleep(0.3 if file == "f1" else 0.0) or file

seen = []
try:
    for file in processes.each(broken, [f"f{n}" for n in range(16)]):
        seen.append(file)
except OSError as error:
    assert str(error) == "f9 is broken" and seen == [f"f{n}" for n in range(9)], (error, seen)
else:
    raise AssertionError("no error")
"""
THREADS = """
import ctypes, numpy
library = ctypes.CDLL(numpy._core._multiarray_umath.__file__)
threads = getattr(library, "scipy_openblas_get_num_threads64_", None)
if threads and os.cpu_count() > 1:
    library.scipy_openblas_set_num_threads64_(2)
    own, *others = processes.each(lambda file: threads(), ["f"] * 17)
    assert own == 2 and set(others) == {1}, (own, others)
"""
PARTS = """
assert processes._parts([5, 1, 9, 2, 2, 2, 5, 1, 8, 3], 2) == [[2, 0, 3, 4, 1], [8, 6, 9, 5, 7]]
assert processes._parts([0] * 6, 3) == [[0, 1], [2, 3], [4, 5]]
"""
IDLE = """
import time
files = [f"f{n}" for n in range(17)]
slow = lambda file: (time.sleep(1.0 if file == "f1" else 0.0), os.getpid())[1]
own, one, *others = processes.each(slow, files)
assert own == os.getpid() and len(set(others)) == 1 and one not in others, (own, one, others)
"""
SAME = """
job = lint.Job(lint.selected((), ()))
many = lint.check_files(["."], job)
processes._can_fork = lambda: False
one = lint.check_files(["."], job)
assert lint.render(many, "json") == lint.render(one, "json")
edits = [[issue.edits(None) for issue in checked.issues if issue.edits] for checked in (many, one)]
assert edits[0] == edits[1] and len(edits[0]) >= 15, edits
assert [error.file for error in many.errors] == ["n5.prototxt", "n8.prototxt"], many.errors
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is forked")
@pytest.mark.parametrize("code", [ORDER, KILLED, RAISES, TURN, THREADS, PARTS, IDLE, SAME])
def test_processes(tmp_path: Path, root: Path, code: str) -> None:
    bad = CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }')
    for number in range(17):
        text = DATA.replace('"data"', f'"data{number}"') + bad + FC("fc", "c") + LOSS.format("fc")
        (tmp_path / f"n{number}.prototxt").write_text(text)
    (tmp_path / "n5.prototxt").write_text("layer {")
    (tmp_path / "n8.prototxt").write_bytes(b"\0")
    done = subprocess.run(
        [sys.executable, "-c", CODE + code], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
