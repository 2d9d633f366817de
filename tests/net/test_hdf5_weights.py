"""Weights and solver states in HDF5, from anybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.net import build, copy_weights
from caffestat.net.source import net_source
from caffestat.net.weights import read_layers
from caffestat.prototext import parse
from caffestat.training.snapshot import read_state

h5py = pytest.importorskip("h5py")
SHAPES = [(2, 3), (4,)]


def weights(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for number, shape in enumerate(SHAPES):
            file[f"data/fc/{number}"] = np.arange(np.prod(shape)).reshape(shape)


def state(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["iter"], file["current_step"] = np.array([2**24 + 1]), np.array([3])
        file["learned_net"] = b"w.caffemodel.h5"
        for number, shape in enumerate(SHAPES):
            file[f"history/{number}"] = np.arange(np.prod(shape)).reshape(shape)


def read(kind: str, path: Path) -> Any:
    return read_layers(str(path)) if kind == "weights" else read_state(str(path), SHAPES)


WRITERS = {"weights": weights, "state": state}


def test_iterations_are_exact(tmp_path: Path) -> None:
    state(tmp_path / "s.h5")
    found = read("state", tmp_path / "s.h5")
    assert (found.iteration, found.current_step, found.model) == (2**24 + 1, 3, "w.caffemodel.h5")


@pytest.mark.parametrize("kind", WRITERS)
def test_damage_is_one_message(kind: str, tmp_path: Path) -> None:
    path, rng, refused = tmp_path / "a.h5", np.random.default_rng(3), 0
    WRITERS[kind](path)
    data = path.read_bytes()
    used = [place for place, byte in enumerate(data) if byte]
    for _ in range(150):
        damaged = bytearray(data[: rng.choice([len(data), rng.integers(len(data))])])
        for place in rng.choice(used, rng.integers(1, 4)):
            damaged[place : place + 1] = rng.bytes(1)
        path.write_bytes(damaged)
        try:
            read(kind, path)
        except InputError as error:
            refused += 1
            assert str(error).startswith(str(path))
    assert 20 < refused < 150


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("link", ["external", "soft", "storage"])
def test_no_other_file_is_read(kind: str, link: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    WRITERS[kind](path)
    name = "data/fc/0" if kind == "weights" else "history/0"
    (tmp_path / "secret").write_bytes(bytes(24))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.ones((2, 3))
    with h5py.File(path, "a") as file:
        del file[name]
        if link == "external":
            file[name] = h5py.ExternalLink("secret.h5", "/x")
        elif link == "soft":
            file["other"] = np.ones((2, 3))
            file[name] = h5py.SoftLink("/other")
        else:
            file.create_dataset(name, (2, 3), "f4", external=[(str(tmp_path / "secret"), 0, 24)])
    with pytest.raises(InputError, match=r"a\.h5: cannot be used as .*HDF5 .*(not followed|not read)"):
        read(kind, path)


@pytest.mark.parametrize("kind", WRITERS)
def test_claimed_sizes_are_not_allocated(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    WRITERS[kind](path)
    name = "data/fc/0" if kind == "weights" else "history/0"
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, (1 << 20, 1 << 20), "f4", chunks=(1, 1 << 10))
    with pytest.raises(InputError, match=r"reading the data set '0' needs about .* is free"):
        read(kind, path)


def test_indices_of_params_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    weights(path)
    with h5py.File(path, "a") as file:
        file["data/fc/2000000000"] = 1.0
    with pytest.raises(InputError, match=r"a data set 2000000000 in layer .fc.; expected the index of a param"):
        read("weights", path)


@pytest.mark.parametrize("name", ["a.hdf5", "a.caffemodel"])
def test_what_the_file_holds_decides(name: str, tmp_path: Path) -> None:
    weights(tmp_path / name)
    (layer,) = read("weights", tmp_path / name)
    assert (layer.name, [tuple(blob.shape.dim) for blob in layer.blobs]) == ("fc", SHAPES)


def test_a_param_may_have_no_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data/p/0"] = np.float32(0.25)
    text = b"""layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "p" type: "PReLU" bottom: "x" top: "p" prelu_param { channel_shared: true } }"""
    net = build(net_source(parse(text, "net")))
    values = [np.zeros((), np.float32)]
    copy_weights(net, values, [str(tmp_path / "a.h5")])
    assert values[0] == 0.25


def test_of_layers_of_one_name_the_last_is_meant(tmp_path: Path) -> None:
    """In binary files it is the first. (net.cpp, CopyTrainedLayersFromHDF5)"""
    weights(tmp_path / "a.h5")
    text = b"""layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 bias_term: false } }
layer { name: "fc" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 2 bias_term: false } }"""
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["data/fc/1"]
    net = build(net_source(parse(text, "net")))
    values = [np.zeros((3, 4), np.float32), np.zeros((2, 3), np.float32)]
    copy_weights(net, values, [str(tmp_path / "a.h5")])
    assert [array.sum() for array in values] == [0, 15]
