"""The files that are changed: small nets of this repository, and files made from them."""

from __future__ import annotations

import io
import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import Message

from caffestat import api
from caffestat.schema import BlobProto, Datum, NetParameter

from . import models, mutate

__all__ = ["KINDS", "Case", "case"]

ROOT = Path(__file__).resolve().parents[2]
NET = """\
layer { name: "d" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } shape { dim: 2 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3
  weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }
layer { name: "f" type: "InnerProduct" bottom: "c" top: "f" inner_product_param { num_output: 5
  weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "y" top: "l" }
"""
IMAGES = (
    'layer { name: "d" type: "ImageData" top: "x" top: "y" image_data_param { source: "list.txt" batch_size: 2 } }\n'
)
ROWS = 'layer { name: "d" type: "HDF5Data" top: "x" hdf5_data_param { source: "list.txt" batch_size: 2 } }\n'
RECORDS = (
    'layer { name: "d" type: "Data" top: "x" top: "y" data_param { source: "db" batch_size: 2 backend: LMDB }\n'
    '  transform_param { mean_file: "mean" } }\n'
)
TAIL = 'layer { name: "s" type: "Reduction" bottom: "x" top: "s" loss_weight: 1 }\n'
CONFIG = (
    "[caffestat]\nselect = CS0\nignore = CS002, CS011\nseverity = info\nvanish = 0.1\nexplode = 10\nbaseline = b.json\n"
)
RUN = ("--device", "cpu")


@dataclass
class Case:
    """Files by name, what is run on them, and which file was changed."""

    files: dict[str, bytes]
    commands: list[tuple[str, ...]]
    changed: str
    kind: str = ""
    more: dict[str, bytes] = field(default_factory=dict)


@cache
def _texts(name: str) -> list[bytes]:
    found = [path.read_bytes() for path in sorted((ROOT / "tests" / "golden").glob(f"*/{name}"))]
    return [data for data in found if len(data) < 6000]


def _net(rng: random.Random) -> Case:
    data = mutate.text(rng.choice([NET.encode(), *_texts("net.prototxt")]), rng)
    commands: list[tuple[str, ...]] = [
        *(("analyze", "--static", "--format", format, "n.prototxt") for format in ("table", "json", "csv", "markdown")),
        ("analyze", "--static", "--predict", "n.prototxt"),
        ("analyze", *RUN, "--predict", "--format", "json", "n.prototxt"),
        ("debug", *RUN, "n.prototxt"),
        *(("check", "--format", format, "n.prototxt") for format in ("text", "json", "github", "sarif", "junit")),
        ("check", "--run", "n.prototxt"),
        ("fill", "--print", "n.prototxt", "-o", "out.npz"),
        ("fill", "n.prototxt", "-o", "out.caffemodel"),
        ("convert", "n.prototxt", "--backward", "-o", "out.onnx"),
        ("upgrade", "n.prototxt"),
        *(("rewrite", "--filler", policy, "--diff", "n.prototxt") for policy in ("auto", "explicit", "msra")),
        ("rewrite", "--fix-check", "--diff", "n.prototxt"),
        ("rewrite", "--filler", "xavier", "--bias", "constant:1", "n.prototxt"),
    ]
    return Case({"n.prototxt": data}, rng.sample(commands, 6), "n.prototxt")


def _solver(rng: random.Random) -> Case:
    solver = rng.choice(
        [
            b'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "step"\ngamma: 0.1\nstepsize: 3\nmax_iter: 2\n',
            *_texts("solver.prototxt"),
        ]
    )
    files = {"solver.prototxt": mutate.text(solver, rng), "net.prototxt": NET.encode()}
    commands = [("debug", *RUN, "solver.prototxt"), ("check", "solver.prototxt"), ("upgrade", "solver.prototxt")]
    commands += [("analyze", "--static", "solver.prototxt"), ("check", "."), ("rewrite", "-r", "--filler", "auto", ".")]
    return Case(files, rng.sample(commands, 3), "solver.prototxt")


@cache
def _made(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "n.prototxt").write_text(NET)
        api.fill(path / "n.prototxt", path / f"out{suffix}")
        return (path / f"out{suffix}").read_bytes()


@cache
def _exported() -> list[bytes]:
    """Return models with other ops: a loop, a branch, shape arithmetic, quantized and recurrent ones."""
    return [model.SerializeToString() for model in (models.lstm(), models.branch(), models.loop(), models.quantized())]


def _changed(data: bytes, cls: type[Message], rng: random.Random) -> bytes:
    """Return a message with bytes or, more often, fields of it changed."""
    return mutate.binary(data, rng) if rng.random() < 0.25 else mutate.message(cls.FromString(data), rng)


def _caffemodel(rng: random.Random) -> Case:
    files = {"n.prototxt": NET.encode(), "w.caffemodel": _changed(_made(".caffemodel"), NetParameter, rng)}
    commands = [
        ("analyze", *RUN, "--weights", "w.caffemodel", "n.prototxt"),
        ("analyze", "--static", "--predict", "--weights", "w.caffemodel", "n.prototxt"),
        ("rewrite", "--filler", "msra", "w.caffemodel"),
        ("check", "--weights", "w.caffemodel", "n.prototxt"),
    ]
    return Case(files, rng.sample(commands, 2), "w.caffemodel")


def _onnx(rng: random.Random) -> Case:
    files = {"m.onnx": _changed(rng.choice((_made(".onnx"), *_exported())), onnx.ModelProto, rng)}
    commands = [
        ("analyze", "--static", "--predict", "--format", rng.choice(("table", "json", "csv", "markdown")), "m.onnx"),
        ("analyze", *RUN, "m.onnx"),
        ("convert", "--backward", "m.onnx", "-o", "out.onnx"),
        ("rewrite", "--filler", "auto", "m.onnx"),
        ("rewrite", "--filler", "xavier", "--bias", "constant:1", "-o", "out/", "m.onnx"),
    ]
    return Case(files, rng.sample(commands, 3), "m.onnx")


def _log(rng: random.Random) -> Case:
    logs = [path.read_bytes()[:20000] for path in sorted((ROOT / "tests" / "golden").glob("*/caffe.log"))]
    files = {
        "n.prototxt": NET.encode(),
        "t.log": mutate.text(rng.choice(logs), rng) if rng.random() < 0.7 else mutate.binary(rng.choice(logs), rng),
    }
    commands: list[tuple[str, ...]] = [
        ("diagnose", "t.log"),
        ("diagnose", "--all", "--net", "n.prototxt", "t.log"),
        ("compare", "t.log", "n.prototxt"),
    ]
    return Case(files, rng.sample(commands, 2), "t.log")


@cache
def _image(kind: str) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 5, 3), np.uint8)).save(out, kind)
    return out.getvalue()


def _images(rng: random.Random) -> Case:
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


def _rows(rng: random.Random) -> Case:
    files = {"n.prototxt": (ROWS + TAIL).encode(), "list.txt": b"a.h5\n", "a.h5": mutate.binary(_hdf5(), rng)}
    return Case(files, [("analyze", *RUN, "n.prototxt")], "a.h5")


@cache
def _lmdb() -> bytes:
    import lmdb

    with tempfile.TemporaryDirectory() as folder:
        with lmdb.open(folder, map_size=1 << 20) as env, env.begin(write=True) as transaction:
            for number in range(40):
                datum = Datum(channels=3, height=6, width=5, label=number, data=bytes(range(number, number + 90)))
                transaction.put(b"%05d" % number, datum.SerializeToString())
        return (Path(folder) / "data.mdb").read_bytes()


def _records(rng: random.Random) -> Case:
    mean = BlobProto(num=1, channels=3, height=6, width=5, data=range(90)).SerializeToString()
    files = {"n.prototxt": (RECORDS + TAIL).encode(), "db": _lmdb(), "mean": mean}
    changed = rng.choice(("db", "db", "mean"))
    files[changed] = mutate.binary(files[changed], rng)
    return Case(files, [("analyze", *RUN, "n.prototxt")], changed)


def _settings(rng: random.Random) -> Case:
    finding = {"file": "n.prototxt", "code": "CS002", "layer": "a", "message": "m", "count": 1}
    baseline = json.dumps({"version": 1, "findings": [finding]}).encode()
    files = {"n.prototxt": NET.encode(), "caffestat.cfg": CONFIG.encode(), "b.json": baseline}
    changed = rng.choice(("caffestat.cfg", "b.json"))
    files[changed] = mutate.text(files[changed], rng)
    return Case(files, [("check", "n.prototxt")], changed)


def _array(rng: random.Random) -> Case:
    out = io.BytesIO()
    np.save(out, np.ones((2, 3, 6, 5), np.float32))
    files = {"n.prototxt": NET.encode(), "a.npy": mutate.binary(out.getvalue(), rng)}
    return Case(files, [("analyze", *RUN, "--input", "x=a.npy", "n.prototxt")], "a.npy")


KINDS: dict[str, Callable[[random.Random], Case]] = {
    "net": _net,
    "solver": _solver,
    "caffemodel": _caffemodel,
    "onnx": _onnx,
    "log": _log,
    "images": _images,
    "hdf5": _rows,
    "lmdb": _records,
    "settings": _settings,
    "array": _array,
}


def case(kind: str, seed: int) -> Case:
    """Return the case of a kind and a seed, always the same."""
    made = KINDS[kind](random.Random(f"{kind}{seed}"))
    made.kind = kind
    return made
