"""Files that a net names: nothing outside of them is read or run, and none of them ends or stops the process."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import api
from caffestat.data.images import decode
from caffestat.data.lmdb_file import LmdbError, LmdbFile
from caffestat.errors import CaffestatError, NetError
from caffestat.schema import BlobProto, Datum

from .support import datum, encoded, make, opened, picture, write_lmdb

SECRET = "hunter2 token:9f86d081"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\nshowpage\n%%EOF\n"


def net_of(folder: Path, layer: str) -> str:
    (folder / "net.prototxt").write_text(f'layer {{ name: "d" {layer} }}\n')
    return str(folder / "net.prototxt")


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "call", "check_call", "check_output"):
        monkeypatch.setattr(subprocess, name, started)
    monkeypatch.setattr(os, "system", started)
    (tmp_path / "x.jpg").write_bytes(EPS)
    (tmp_path / "list.txt").write_text("x.jpg 0\n")
    layer = 'type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" batch_size: 1 }'
    with pytest.raises(NetError, match=r"'x.jpg' cannot be decoded as an image .*BMP, JPEG, PNG, PPM, TIFF, WEBP$"):
        api.analyze(net_of(tmp_path, layer), device="cpu")


@pytest.mark.parametrize("kind", ["GIF", "ICO", "PDF", "EPS", "PCX", "JPEG2000", "TGA"])
def test_other_kinds_of_images_are_refused(kind: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "x"
    image.new("RGB", (5, 7)).save(path, kind)
    with pytest.raises(ValueError, match="cannot be decoded as an image of one of the kinds"):
        decode(path.read_bytes(), True)


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_damaged_images_are_refused(kind: str) -> None:
    pytest.importorskip("PIL")
    data, rng = encoded(picture(1, 3, 40, 30), kind), np.random.default_rng(2)
    assert decode(data, True).shape == (3, 40, 30)
    for _ in range(60):
        damaged = bytearray(data[: rng.integers(len(data) + 1)])
        for place in rng.integers(0, max(len(damaged), 1), 5):
            damaged[place : place + 1] = rng.bytes(1)
        with suppress(ValueError):
            decode(bytes(damaged), True)


LISTS = {
    "ImageData": 'type: "ImageData" top: "x" top: "y" image_data_param { source: "%s" batch_size: 1 }',
    "HDF5Data": 'type: "HDF5Data" top: "x" hdf5_data_param { source: "%s" batch_size: 1 }',
    "WindowData": 'type: "WindowData" top: "x" top: "y" window_data_param { source: "%s" batch_size: 1 } '
    "transform_param { crop_size: 3 }",
}
OTHERS = {
    "Data": 'type: "Data" top: "x" data_param { source: "%s" batch_size: 1 backend: LMDB }',
    "mean": 'type: "Data" top: "x" data_param { source: "db" batch_size: 1 backend: LMDB } '
    'transform_param { mean_file: "%s" }',
    "infogain": 'type: "Input" top: "a" top: "b" input_param { shape { dim: 1 dim: 2 } shape { dim: 1 } } }\n'
    'layer { name: "l" type: "InfogainLoss" bottom: "a" bottom: "b" top: "l" infogain_loss_param { source: "%s" }',
}


@pytest.mark.parametrize("kind", LISTS)
def test_messages_quote_no_lines_of_a_list(kind: str, tmp_path: Path) -> None:
    for text in (SECRET, f"# 0\n{SECRET}\n3 5 5\n", f"# {SECRET}\n"):
        (tmp_path / "secret").write_text(text)
        path = net_of(tmp_path, LISTS[kind] % (tmp_path / "secret"))
        said = []
        for data in ("auto", "real"):
            try:
                report = api.analyze(path, device="cpu", data=data, shapes={"x": (1, 3, 3, 3)})
                said += [*map(str, report.findings), *report.notes]
            except CaffestatError as error:
                said.append(str(error))
        assert said
        assert not any(word in line for line in said for word in SECRET.split())


@pytest.mark.parametrize("kind", [*LISTS, *OTHERS])
@pytest.mark.parametrize("file", ["pipe", "/dev/zero", "."])
def test_only_regular_files_are_read(kind: str, file: str, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    os.mkfifo(tmp_path / "pipe")
    write_lmdb(tmp_path / "db", [("a", datum(picture(1), 1).SerializeToString())])
    text = {**LISTS, **OTHERS}[kind] % file
    with pytest.raises(CaffestatError, match=r"expected a regular file|Is a directory|cannot be read"):
        api.analyze(net_of(tmp_path, text), device="cpu", data="real")


@pytest.mark.parametrize("content", ["list", "image"])
def test_a_pipe_in_a_list_is_refused(content: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "list.txt").write_text("pipe.png\n" if content == "list" else "pipe.png 0\n")
    with pytest.raises(NetError, match="expected a regular file, found a named pipe"):
        kind = "ImageData" if content == "image" else "HDF5Data"
        api.analyze(net_of(tmp_path, LISTS[kind] % "list.txt"), data="real")


@pytest.mark.parametrize(
    "kind", ["external link", "soft link", "external storage", "virtual", "group", "link to a pipe"]
)
def test_hdf5_reads_its_own_bytes_only(kind: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(12.0).reshape(3, 4)
    (tmp_path / "secret").write_bytes(bytes(96))
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file["x"] = h5py.ExternalLink("secret.h5", "/x")
        elif kind == "link to a pipe":
            file["x"] = h5py.ExternalLink("pipe", "/x")
        elif kind == "soft link":
            file["y"] = np.ones((3, 4))
            file["x"] = h5py.SoftLink("/y")
        elif kind == "external storage":
            file.create_dataset("x", (3, 4), "f8", external=[(str(tmp_path / "secret"), 0, 96)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((3, 4), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", (3, 4))
            file.create_virtual_dataset("x", layout)
        else:
            file.create_group("x")
    (tmp_path / "list.txt").write_text("a.h5\n")
    with pytest.raises(NetError, match=r"not followed|are not read|expected a data set"):
        api.analyze(net_of(tmp_path, LISTS["HDF5Data"] % "list.txt"), device="cpu")


def test_damaged_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(12.0).reshape(3, 4), compression="gzip")
    data, rng = (tmp_path / "a.h5").read_bytes(), np.random.default_rng(4)
    (tmp_path / "list.txt").write_text("a.h5\n")
    path = net_of(tmp_path, LISTS["HDF5Data"] % "list.txt")
    for _ in range(60):
        damaged = bytearray(data[: rng.choice([len(data), rng.integers(len(data))])])
        for place in rng.integers(0, max(len(damaged), 1), 8):
            damaged[place : place + 1] = rng.bytes(1)
        (tmp_path / "a.h5").write_bytes(damaged)
        with suppress(CaffestatError):
            api.analyze(path, static=True)


def test_an_lmdb_cut_off_anywhere_or_damaged_is_told_of(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    records = [(f"{n:05}", datum(picture(n, 3, 20, 20), n).SerializeToString()) for n in range(120)]
    records.append(("9", datum(picture(9, 3, 99, 99), 9).SerializeToString()))  # stands in pages of its own
    write_lmdb(tmp_path / "db", records)
    path = tmp_path / "db" / "data.mdb"
    data, rng = path.read_bytes(), np.random.default_rng(5)
    assert list(LmdbFile(path.parent).values()) == [value for _, value in sorted(records)]
    for length in (0, 1, 100, 4096, 4200, 8192, 12288, len(data) - 4096):
        path.write_bytes(data[:length])
        with pytest.raises(LmdbError):
            list(LmdbFile(path).values())
    for _ in range(100):
        damaged = bytearray(data)
        for place in rng.integers(0, rng.choice([200, 8400, len(data)]), 6):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        with suppress(LmdbError):
            for _, value in zip(range(1000), LmdbFile(path).values(), strict=False):
                assert len(value) <= len(data)
    path.write_bytes(data[:8192])
    layer = make('type: "Data" top: "data" data_param { source: "db" batch_size: 2 backend: LMDB }', tmp_path)
    with pytest.raises(NetError, match="cannot be read: it is truncated"):
        opened(layer)


@pytest.mark.parametrize("shape", [(-1, 2, -6), (0, 3, 4), (-12, 1, -1), (2**31 - 1, 2**31 - 1, 2**31 - 1)])
def test_sizes_that_no_image_has(shape: tuple[int, int, int], tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    channels, height, width = shape
    record = Datum(channels=channels, height=height, width=width, data=bytes(12))
    write_lmdb(tmp_path / "db", [("a", record.SerializeToString())])
    with pytest.raises(NetError, match="holds a record of 12 values for shape"):
        opened(make('type: "Data" top: "data" data_param { source: "db" batch_size: 2 backend: LMDB }', tmp_path))


def test_sizes_that_no_mean_has(tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    write_lmdb(tmp_path / "db", [("a", datum(picture(1), 1).SerializeToString())])
    (tmp_path / "mean").write_bytes(
        BlobProto(num=1, channels=-3, height=-5, width=7, data=[0] * 105).SerializeToString()
    )
    with pytest.raises(NetError, match=r"'mean' has shape \(1, -3, -5, 7\); expected sizes of 1 or more"):
        api.analyze(net_of(tmp_path, OTHERS["mean"] % "mean"), device="cpu", data="real")


def test_a_solver_quotes_no_lines_of_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "solver.prototxt").write_text('base_lr: 1\nnet: "secret"\n')
    with pytest.raises(
        NetError, match=r"solver.prototxt:2:1: net: 'secret' is not a net prototxt \(see its line 1\)"
    ) as caught:
        api.analyze(tmp_path / "solver.prototxt")
    assert "hunter2" not in str(caught.value)
    for name in ("x" * 300, "/dev/zero", "."):
        (tmp_path / "solver.prototxt").write_text(f'base_lr: 1\nnet: "{name}"\n')
        with pytest.raises(CaffestatError, match=r"is not there|file not found|expected a regular file|Is a directory"):
            api.analyze(tmp_path / "solver.prototxt")
