"""Files are replaced in one step, whatever happens."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.files import (
    LARGEST_TEXT,
    Version,
    create_file,
    read_regular,
    refuse_unwritable,
    replace_file,
    replacing,
    search,
    why_unwritable,
)
from caffestat.schema import NetParameter, read_binary

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


KILLED = """
import os, sys
from caffestat.files import replacing
with replacing(sys.argv[1]):
    os.kill(os.getpid(), 9)
"""
WRITER = """
import sys
from caffestat.files import replace_file
for path in sys.argv[1:]:
    replace_file(path, b"new")
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


def test_outputs_are_tried_before_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("out.html", tmp_path / "out.html", os.devnull):
        assert why_unwritable(path) == ""
        refuse_unwritable(path)
    assert os.listdir(tmp_path) == []
    message = "gone/out.html: cannot be written: there is no folder 'gone'; create the folder or choose another one"
    with pytest.raises(InputError, match=f"^{message}$"):
        refuse_unwritable("gone/out.html")
    Path("file").write_text("")
    assert why_unwritable("file/out.html") == "there is no folder 'file'"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_a_folder_that_takes_no_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert why_unwritable(tmp_path / "a") == f"the folder {str(tmp_path)!r} is not writable"
    tmp_path.chmod(0o700)


def test_a_file_that_was_changed_in_the_meantime_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    for change in (lambda: path.write_bytes(b"New"), lambda: os.utime(path, ns=(0, 0)), path.unlink):
        path.write_bytes(b"old")
        since = Version.of(path)
        change()
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(InputError, match=r"changed by another program|cannot be read"):
            replace_file(path, b"mine", since)
        assert (path.read_bytes() if path.exists() else None) == before
        assert set(os.listdir(tmp_path)) <= {"net.prototxt"}
    path.write_bytes(b"old")
    replace_file(path, b"mine", Version.of(path))
    assert path.read_bytes() == b"mine"


def test_a_change_with_the_size_and_time_of_the_old_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    since = Version.of(path)
    time = path.stat().st_mtime_ns
    path.write_bytes(b"Old")
    os.utime(path, ns=(time, time))
    with pytest.raises(InputError, match="changed by another program"):
        replace_file(path, b"mine", since)


def test_hard_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    os.link(path, tmp_path / "other.prototxt")
    with pytest.raises(InputError, match="has 2 hard links"):
        replace_file(path, b"new")
    assert path.read_bytes() == (tmp_path / "other.prototxt").read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="needs extended attributes")
def test_extended_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    try:
        os.setxattr(path, "user.note", b"mine")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    replace_file(path, b"new")
    assert os.getxattr(path, "user.note") == b"mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to give files away")
def test_owner_and_group_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    os.chown(path, 12, 34)
    path.chmod(0o4750)
    replace_file(path, b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12, 34, 0o4750)


def test_an_owner_that_cannot_be_kept_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
    else:
        pytest.skip("needs a file of another user")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(InputError, match="belongs to another user or group"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert len(os.listdir(tmp_path)) == 1
    for name in (".net.prototxt.0123abcd.tmp", ".x.0123abcd.caffestat.tmp~"):  # others' files
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub").mkdir()
    with replacing(tmp_path / "sub" / "busy"):
        busy = os.listdir(tmp_path / "sub")
        subprocess.run([sys.executable, "-c", WRITER, str(path), str(tmp_path / "sub" / "x")], check=True)
        assert sorted(os.listdir(tmp_path / "sub")) == sorted([*busy, "x"])
    names = {".net.prototxt.0123abcd.tmp", ".x.0123abcd.caffestat.tmp~", "net.prototxt", "sub"}
    assert set(os.listdir(tmp_path)) == names


def test_new_files_never_replace_others(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(b"net")
    path.chmod(0o600)
    names = [tmp_path / f"net.bak{number}" for number in range(3)]
    for text in (b"a", b"b", b"c"):
        create_file(path, names, lambda file, text=text: file.write(text))  # type: ignore[misc]
    assert [name.read_bytes() for name in names] == [b"a", b"b", b"c"]
    assert {stat.S_IMODE(name.stat().st_mode) for name in names} == {0o600}
    assert len(os.listdir(tmp_path)) == 4


def test_a_name_that_no_file_can_have_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match="embedded null"):
        read_regular("a\0b")
    with pytest.raises(InputError, match="cannot be read as a binary"):
        read_binary("a\0b", NetParameter)


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "net.prototxt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(LARGEST_TEXT + 1)
    with pytest.raises(InputError, match=r"net\.prototxt: expected (a regular file, found a|at most 67,108,864 bytes)"):
        read_regular(path)


def test_a_device_stays_one() -> None:
    replace_file("/dev/null", b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(not os.path.isdir("/dev/fd"), reason="needs the names of open files")
def test_an_open_pipe_is_written_to() -> None:
    """As `-o /dev/stdout` in front of `| head`."""
    reader, writer = os.pipe()
    replace_file(f"/dev/fd/{writer}", b"new")
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_writer_killed_at_any_moment_leaves_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_bytes(OLD)
    run = subprocess.run([sys.executable, "-c", KILLER, str(path)], capture_output=True, text=True, check=True)
    found = run.stdout.split()
    assert len(found) == 200
    assert set(found) == {"old", "new"}
    assert path.read_bytes() in (OLD, NEW)


def test_folders_that_cannot_be_searched_are_found_for_who_opens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "a.prototxt").write_text("")
    (tmp_path / "b.prototxt").write_text("")
    (tmp_path / "gone.prototxt").symlink_to("nowhere")
    scandir, stat = os.scandir, os.stat

    def refuse(path: str, *rest: object, **settings: object) -> object:
        if os.path.basename(path) in ("shut", "b.prototxt"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return (scandir if rest == ("list",) else stat)(path, **settings)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path, "list"))
    monkeypatch.setattr(os, "stat", refuse)
    found = search(tmp_path, ["*.prototxt"])
    monkeypatch.undo()
    assert found == [tmp_path / name for name in ("a.prototxt", "b.prototxt", "shut")]
