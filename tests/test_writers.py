"""Writers that run out of space, that may not write, and that write the same file at the same time."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from caffestat import api, files
from caffestat.errors import InputError

NET = """\
layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 30 } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 700
  weight_filler { type: "xavier" } } }
layer { name: "l" type: "Reduction" bottom: "f" top: "l" loss_weight: 1 }
"""
SOLVER = 'net: "n.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s" '

# command, and the file that it replaces or makes
WRITERS = {
    "prototxt": ("rewrite --filler msra n.prototxt", "n.prototxt"),
    "caffemodel": ("rewrite --filler msra w.caffemodel", "w.caffemodel"),
    "onnx": ("rewrite --filler msra m.onnx", "m.onnx"),
    "external data": ("rewrite --filler msra e.onnx", "e.onnx"),
    "npz": ("fill n.prototxt -o w.npz", "w.npz"),
    "h5": ("fill n.prototxt -o w.h5", "w.h5"),
    "fill": ("fill n.prototxt -o w.caffemodel --seed 3", "w.caffemodel"),
    "convert": ("convert n.prototxt -o m.onnx", "m.onnx"),
    "upgrade": ("upgrade n.prototxt -o out.prototxt", "out.prototxt"),
    "report": ("analyze --static --format json n.prototxt -o out.json", "out.json"),
    "snapshot": ("train s.prototxt --device cpu", "s_iter_1.caffemodel"),
    "snapshot in HDF5": ("train h.prototxt --device cpu", "s_iter_1.caffemodel.h5"),
}

LIMITED = """
import resource, signal, sys
sys.dont_write_bytecode = True  # cut-off modules would break all later imports
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
from caffestat.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("n.prototxt").write_text(NET)
    Path("s.prototxt").write_text(SOLVER)
    Path("h.prototxt").write_text(SOLVER + "snapshot_format: HDF5")
    for name in ("w.caffemodel", "m.onnx"):
        api.fill("n.prototxt", name, seed=7)
    model = onnx.load("m.onnx")
    onnx.save_model(model, "e.onnx", save_as_external_data=True, location="e.weights", size_threshold=0)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of processes")
@pytest.mark.parametrize("kind", WRITERS)
def test_without_space_the_old_files_stay(kind: str, folder: Path, root: Path) -> None:
    if kind in ("h5", "snapshot in HDF5"):
        pytest.importorskip("h5py")
    before = contents(folder)
    command, _ = WRITERS[kind]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *command.split()], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")], done.stderr
    assert "Traceback" not in done.stderr
    assert contents(folder) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_file(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    system = os.open

    def refuse(path: str, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), path)
        return system(path, flags, *more)

    monkeypatch.setattr("caffestat.files.os.open", refuse)
    for path in ("n.prototxt", "w.caffemodel", "e.onnx"):
        assert os.strerror(number) in (api.rewrite(path, filler="msra")[0].error or "")
    with pytest.raises(InputError, match=f"w.npz: cannot be written: {os.strerror(number)}"):
        api.fill("n.prototxt", "w.npz")
    monkeypatch.undo()
    assert contents(folder) == before


def test_a_disk_that_is_full_when_the_bytes_get_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(folder)
    monkeypatch.setattr("caffestat.files.os.fsync", full)
    for path in ("n.prototxt", "w.caffemodel", "e.onnx"):
        assert "No space left" in (api.rewrite(path, filler="msra")[0].error or "")
    assert contents(folder) == before


def _write(name: str, filler: str, count: int) -> None:
    for _ in range(count):
        outcome = api.rewrite(name, filler=filler)[0]
        if outcome.error and "changed by another program" not in outcome.error:
            os._exit(7)


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_two_writers_leave_what_one_of_them_wrote(folder: Path) -> None:
    good = set()
    for filler in ("msra", "xavier"):
        api.rewrite("n.prototxt", filler=filler)
        good.add(Path("n.prototxt").read_bytes())
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=("n.prototxt", filler, 60)) for filler in ("msra", "xavier")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert Path("n.prototxt").read_bytes() in good
    assert [writer.exitcode for writer in writers] == [0, 0]
    files._remove_stale.cache_clear()
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


@pytest.fixture
def many(tmp_path: Path) -> Iterator[Path]:
    for number in range(300):
        place = tmp_path / f"f{number % 17}"
        place.mkdir(exist_ok=True)
        text = 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }' if number % 50 == 7 else NET
        (place / f"n{number}.prototxt").write_text("layer {" if number % 50 == 9 else text)
    yield tmp_path


def test_broken_files_among_many_stop_no_other(many: Path) -> None:
    outcomes = api.rewrite(many, filler="msra", recursive=True)
    assert len(outcomes) == 300
    assert sum(outcome.error is not None for outcome in outcomes) == 6
    assert sum(bool(outcome.changes) for outcome in outcomes) == 288
    assert not any(outcome.changes for outcome in api.rewrite(many, filler="msra", recursive=True))
