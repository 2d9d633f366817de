"""The command as a process: what it imports, how it ends when its reader goes away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffestat.__main__ import run
from caffestat.cli.terminal import StatusLine

PRINT_MODULES = """\
import sys, runpy
sys.argv = ["caffestat", *{arguments!r}]
try:
    runpy.run_module("caffestat", run_name="__main__")
except SystemExit as stop:
    assert not stop.code, stop.code
print(*sys.modules, file=sys.stderr)
"""


# of no use to a table of sizes, and slow to import
LATE = {
    *("caffestat.theory", "caffestat.autodiff", "caffestat.training", "caffestat.layers.forks"),
    *("caffestat.engine", "caffestat.graph.graph", "caffestat.net.weights", "caffestat.report.json_format"),
    *("caffestat.data.database", "caffestat.data.prefetch"),
    *("importlib.metadata", "secrets", "logging", "hashlib", "tempfile"),
}


def modules(root: Path, code: str) -> set[str]:
    """Return the modules that a process has imported, as it prints them to the standard error."""
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"numpy", "google.protobuf", "onnx", "onnxruntime", "caffestat.api", "caffestat.cli.check"}),
        (["--version"], {"numpy", "google.protobuf", "onnx", "onnxruntime"}),
        (["analyze", "--help"], {"numpy", "google.protobuf", "onnx", "onnxruntime"}),
        (["analyze", "--static", "models/alexnet.prototxt"], {"numpy", "onnx", "onnxruntime", *LATE}),
    ],
)
def test_commands_import_only_what_they_need(root: Path, arguments: list[str], absent: set[str]) -> None:
    assert modules(root, PRINT_MODULES.format(arguments=arguments)).isdisjoint(absent)


def test_the_package_imports_next_to_nothing(root: Path) -> None:
    found = modules(root, "import caffestat, sys; print(*sys.modules, file=sys.stderr)")
    assert found.isdisjoint({"numpy", "google.protobuf", "onnx", "onnxruntime", "click"})


def test_readers_of_images_wait_for_the_first_one_with_numpy(root: Path) -> None:
    code = (
        "import sys\nfrom caffestat.data import distortion, flow_records, videos\nprint(*sys.modules, file=sys.stderr)"
    )
    assert "numpy" not in modules(root, code)


def test_a_reader_that_goes_away_is_no_error(root: Path) -> None:
    command = [sys.executable, "-m", "caffestat", "analyze", "--static", "--format", "json"]
    command.append("models/googlenet.prototxt")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=root, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_outputs_in_any_encoding(root: Path, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "net.prototxt").write_text((root / "models" / "lenet.prototxt").read_text().replace("conv1", "卷积"))
    command = [sys.executable, "-m", "caffestat", "analyze", "--static", "net.prototxt"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    shown = "\\u5377\\u79ef" if encoding == "latin-1" else "卷积"  # click takes ASCII for UTF-8
    assert shown.encode() in done.stdout


def test_output_to_a_pipe_is_plain_and_stable(root: Path) -> None:
    command = [sys.executable, "-m", "caffestat", "analyze", "--device", "cpu", "models/lenet.prototxt", "--batch", "3"]
    first, second = (subprocess.run(command, cwd=root, capture_output=True, text=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert first.stderr == ""
    assert "\x1b" not in first.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["explain"], ["analyze", "--static", "models/lenet.prototxt"]])
def test_a_full_disk_is_told_of(root: Path, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "caffestat", *arguments]
        done = subprocess.run(command, cwd=root, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: <stdout>: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_error_that_cannot_be_shown_keeps_its_exit_code(root: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "caffestat", "analyze", "absent.prototxt"]
        for unbuffered in ("", "1"):
            environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            assert subprocess.run(command, cwd=root, env=environment, stderr=full, check=False).returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="a folder in use")
def test_a_working_directory_that_is_gone_is_told_of(root: Path, tmp_path: Path) -> None:
    net, folder = root / "models" / "lenet.prototxt", tmp_path / "gone"
    folder.mkdir()
    command = f"cd {folder} && rmdir {folder} && {sys.executable} -m caffestat check {net}"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: the working directory: No such file or directory\n")


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("command", "code", "shown"),
    [
        ("analyze --static models/lenet.prototxt >&-", 0, ""),
        ("analyze --static models/lenet.prototxt 2>&- >/dev/null", 0, ""),
        ("analyze --static absent.prototxt >&-", 2, "error: absent.prototxt: cannot be read"),
        ("analyze --static - <&-", 2, "error: <stdin>: is closed"),
        ("diagnose - <&-", 2, "error: <stdin>: is closed"),
    ],
)
def test_closed_streams(root: Path, command: str, code: int, shown: str) -> None:
    line = f"{sys.executable} -m caffestat {command}"
    done = subprocess.run(line, shell=True, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr[: len(shown)], done.stderr.count("\n")) == (code, shown, int(bool(shown)))


def test_without_home_in_a_narrow_terminal_in_the_c_locale(root: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "LANG": "C", "LC_ALL": "C", "COLUMNS": "40"}
    for arguments in (
        ["analyze", "--device", "cpu", "--batch", "1", "models/lenet.prototxt"],
        ["check", "models/lenet.prototxt"],
    ):
        command = [sys.executable, "-m", "caffestat", *arguments]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=True)
        assert "conv1" in done.stdout.decode() or "1 file checked" in done.stdout.decode()
        assert b"Traceback" not in done.stderr


THREE_COMMANDS = """\
import sys
from caffestat.cli import main
name, output = sys.argv[1:]
for arguments in (["analyze", "--static", "-o", output], ["check", "-o", output], ["rewrite", "--filler", "msra"]):
    try:
        main([*arguments, "--", name])
    except SystemExit as stop:
        assert stop.code in (None, 0, 1), (arguments, stop.code)
"""


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_names_that_are_no_utf_8_and_begin_with_a_dash(root: Path, tmp_path: Path) -> None:
    text = (root / "models" / "lenet.prototxt").read_bytes()
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for name in (b"\xff\xfe.prototxt", b"-o.prototxt"):
        (tmp_path / os.fsdecode(name)).write_bytes(text)
        output = b"out-" + name.replace(b"prototxt", b"txt")
        command = [os.fsencode(sys.executable), b"-c", THREE_COMMANDS.encode(), name, output]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert (tmp_path / os.fsdecode(output)).stat().st_size > 20


@pytest.mark.skipif(sys.platform != "linux", reason="needs a terminal of its own")
@pytest.mark.parametrize(("term", "shown"), [("xterm", "\r\x1b[Kiteration"), ("dumb", "")])
def test_a_status_line_fits_into_its_terminal(monkeypatch: pytest.MonkeyPatch, term: str, shown: str) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 5, 10, 0, 0))
    with open(theirs, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr("sys.stderr", terminal)
        patched.setenv("TERM", term)
        StatusLine().show("iteration 100 of 1000")
        print(end="|", file=terminal, flush=True)
        assert os.read(ours, 100).decode() == shown + "|"
    os.close(ours)


def test_an_interrupt_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "caffestat.cli", Interrupted())
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
