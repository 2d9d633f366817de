"""Files are replaced in one step, whatever happens."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.files import replace_file, replacing

OLD, NEW = b"old\n" * 50_000, b"new!" * 90_000

# Forks a writer and kills it, 200 times: in a process of its own, for a test run may hold threads.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from caffestat.files import replace_file

path, rng = Path(sys.argv[1]), random.Random(5)
old = path.read_bytes()
new = b"new!" * 90_000
found = []
for _ in range(200):
    child = os.fork()
    while not child:
        replace_file(path, new)
        replace_file(path, old)
    time.sleep(rng.random() * 0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found.append({old: "old", new: "new"}.get(path.read_bytes(), "broken"))
print(*found)
"""


def test_replaces_and_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_a_new_file_has_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        replace_file(tmp_path / "net.prototxt", b"new")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "net.prototxt").stat().st_mode) == 0o640


def test_follows_symbolic_links(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "net.prototxt", tmp_path / "link.prototxt"
    target.write_bytes(b"old")
    link.symlink_to(Path("folder") / "net.prototxt")
    replace_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as fresh:
        fresh.write_bytes(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.prototxt"]


def test_a_folder_that_is_missing_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing/net\.prototxt: cannot be written: No such file"):
        replace_file(tmp_path / "missing" / "net.prototxt", b"new")


def test_a_device_stays_one() -> None:
    replace_file("/dev/null", b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_killed_at_any_moment_leaves_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(OLD)
    run = subprocess.run([sys.executable, "-c", KILLER, str(path)], capture_output=True, text=True, check=True)
    found = run.stdout.split()
    assert len(found) == 200
    assert set(found) == {"old", "new"}
    assert path.read_bytes() in (OLD, NEW)
