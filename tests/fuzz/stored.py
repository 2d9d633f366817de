"""Cases of binary files: weights, models, images, databases, arrays."""

from __future__ import annotations

import io
import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx as onnx_package

from caffestat.schema import BlobProto, Datum, NetParameter

from . import models, mutate
from .cases import NET, RUN, Case, changed_message, made

__all__ = ["array", "caffemodel", "images", "onnx", "records", "rows"]

IMAGES = (
    'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" batch_size: 2 } }\n'
)
ROWS = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "list.txt" batch_size: 2 } }\n'
RECORDS = (
    'layer { name: "d" type: "Data" top: "x" top: "y" data_param { source: "db" batch_size: 2 backend: LMDB }\n'
    '  transform_param { mean_file: "mean" } }\n'
)
TAIL = 'layer { name: "s" type: "Reduction" bottom: "x" top: "s" loss_weight: 1 }\n'


@cache
def _exported() -> list[bytes]:
    """Return models with other ops: a loop, a branch, shape arithmetic, quantized and recurrent ones."""
    made = (models.lstm, models.branch, models.loop, models.quantized, models.growing, models.scattered)
    return [model().SerializeToString() for model in made]


def caffemodel(rng: random.Random) -> Case:
    files = {"n.prototxt": NET.encode(), "w.caffemodel": changed_message(made(".caffemodel"), NetParameter, rng)}
    commands = [
        ("analyze", *RUN, "--weights", "w.caffemodel", "n.prototxt"),
        ("analyze", "--static", "--predict", "--weights", "w.caffemodel", "n.prototxt"),
        ("rewrite", "--filler", "msra", "w.caffemodel"),
        ("check", "--weights", "w.caffemodel", "n.prototxt"),
    ]
    return Case(files, rng.sample(commands, 2), "w.caffemodel")


def onnx(rng: random.Random) -> Case:
    files = {"m.onnx": changed_message(rng.choice((made(".onnx"), *_exported())), onnx_package.ModelProto, rng)}
    commands = [
        ("analyze", "--static", "--predict", "--format", rng.choice(("table", "json", "csv", "markdown")), "m.onnx"),
        ("analyze", *RUN, "m.onnx"),
        ("convert", "--backward", "m.onnx", "-o", "out.onnx"),
        ("rewrite", "--filler", "auto", "m.onnx"),
        ("rewrite", "--filler", "xavier", "--bias", "constant:1", "-o", "out/", "m.onnx"),
    ]
    return Case(files, rng.sample(commands, 3), "m.onnx")


@cache
def _image(kind: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def images(rng: random.Random) -> Case:
    kind = rng.choice(("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM"))
    files = {
        "n.prototxt": (IMAGES + TAIL).encode(),
        "list.txt": b"a.png 1\nb.png 0\n",
        "a.png": _image(kind),
        "b.png": _image(kind),
    }
    changed = rng.choice(("list.txt", "a.png", "b.png"))
    files[changed] = (mutate.text if changed == "list.txt" else mutate.binary)(files[changed], rng)
    return Case(files, [("analyze", *RUN, "n.prototxt")], changed)


@cache
def _hdf5() -> bytes:
    import h5py

    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        file.create_dataset("x", data=np.arange(24.0).reshape(4, 6), compression="gzip")
    return out.getvalue()


def rows(rng: random.Random) -> Case:
    files = {"n.prototxt": (ROWS + TAIL).encode(), "list.txt": b"a.h5\n", "a.h5": mutate.binary(_hdf5(), rng)}
    return Case(files, [("analyze", *RUN, "n.prototxt")], "a.h5")


def _datum(number: int) -> bytes:
    datum = Datum(channels=3, height=6, width=5, label=number, data=bytes(range(number, number + 90)))
    return bytes(datum.SerializeToString())


@cache
def _lmdb(first: bytes | None = None) -> bytes:
    """Return a database of 40 images, the first of them replaced where it is given."""
    import lmdb

    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=1 << 20) as env, env.begin(write=True) as transaction:
            for number in range(40):
                transaction.put(b"%05d" % number, first if first is not None and not number else _datum(number))
        return (Path(folder) / "data.mdb").read_bytes()


def records(rng: random.Random) -> Case:
    mean = BlobProto(num=1, channels=3, height=6, width=5, data=range(90)).SerializeToString()
    files = {"n.prototxt": (RECORDS + TAIL).encode(), "db": _lmdb(), "mean": mean}
    changed = rng.choice(("db", "record", "mean"))
    if changed == "record":
        files["db"] = _lmdb(changed_message(_datum(3), Datum, rng))
        return Case(files, [("analyze", *RUN, "n.prototxt")], "db")
    files[changed] = mutate.binary(files[changed], rng)
    return Case(files, [("analyze", *RUN, "n.prototxt")], changed)


def array(rng: random.Random) -> Case:
    out = io.BytesIO()
    np.save(out, np.ones((2, 3, 6, 5), np.float32))
    files = {"n.prototxt": NET.encode(), "a.npy": mutate.binary(out.getvalue(), rng)}
    return Case(files, [("analyze", *RUN, "--input", "x=a.npy", "n.prototxt")], "a.npy")
