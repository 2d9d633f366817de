"""What is saved is what Caffe would have, in names, types, shapes and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from caffestat.api import fill
from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.net import Net, build, copy_weights, draw_params, load
from caffestat.net import save as save_module
from caffestat.net.save import to_caffemodel
from caffestat.program.save import save
from caffestat.schema import NetParameter, read_binary

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/tensors.npz"))
SNAPSHOTS = sorted({path.parent.name for path in GOLDEN.glob("*/snap_iter_*.caffemodel")})
SEED = 1701

NET = """
name: "small"
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 dim: 5 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { lr_mult: 2 }
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } bias_filler { value: 0.5 } } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 5 bias_term: false weight_filler { type: "msra" } } }
layer { name: "c" type: "Silence" bottom: "b" }
layer { name: "d" type: "InnerProduct" bottom: "a" top: "d"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
"""


@pytest.fixture
def small(tmp_path: Path) -> tuple[Net, list[np.ndarray]]:
    path = tmp_path / "small.prototxt"
    path.write_text(NET)
    net = build(load(str(path)))  # type: ignore[arg-type]
    return net, draw_params(net, Stream(SEED))


TWICE = NET.replace('name: "d"', 'name: "a"')


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_layers_of_one_name_are_refused_where_one_would_be_lost(tmp_path: Path, suffix: str) -> None:
    path, output = tmp_path / "net.prototxt", tmp_path / f"out{suffix}"
    path.write_text(TWICE)
    with pytest.raises(InputError, match=r"two layers are called 'a', at .*prototxt:4:1 and at .*prototxt:10:1"):
        fill(path, output)
    assert not output.exists()


@pytest.mark.parametrize("suffix", [".caffemodel", ".onnx"])
def test_layers_of_one_name_are_all_saved_where_the_format_can_hold_them(tmp_path: Path, suffix: str) -> None:
    path, output = tmp_path / "net.prototxt", tmp_path / f"out{suffix}"
    path.write_text(TWICE)
    fill(path, output)
    if suffix == ".onnx":
        sizes = {tuple(tensor.dims) for tensor in onnx.load(str(output)).graph.initializer}
        assert sizes >= {(5, 5), (5,), (2, 5), (2,)}
    else:
        model = read_binary(output, NetParameter)
        assert [tuple(blob.shape.dim) for layer in model.layer if layer.name == "a" for blob in layer.blobs] == [
            *((5, 5), (5,)),
            *((2, 5), (2,)),
        ]


@pytest.mark.parametrize("name", ["", ".", "a\\000b"])
def test_names_that_no_hdf5_group_has(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.prototxt").write_text(NET.replace('name: "d"', f'name: "{name}"'))
    with pytest.raises(InputError, match="HDF5 has no group of the name"):
        fill(tmp_path / "net.prototxt", tmp_path / "out.h5")


def golden(case: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Net, list[np.ndarray]]:
    monkeypatch.chdir(GOLDEN / case)
    net = build(load("net.prototxt"))  # type: ignore[arg-type]
    return net, draw_params(net, Stream(SEED))


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def structure(message: Any) -> Any:
    """The model without its values."""
    copy = NetParameter()
    copy.CopyFrom(message)
    for layer in copy.layer:
        for blob in layer.blobs:
            blob.ClearField("data")
    return copy


@pytest.mark.parametrize("case", CASES)
def test_a_caffemodel_holds_what_caffe_drew(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(*golden(case, monkeypatch), tmp_path / "out.caffemodel")
    model = read_binary(tmp_path / "out.caffemodel", NetParameter)
    with np.load("tensors.npz") as archive:
        drawn = [archive[name] for name in sorted(archive.files) if name.endswith(".init")]
    blobs = [blob for layer in model.layer for blob in layer.blobs]
    assert [tuple(blob.shape.dim) for blob in blobs] == [values.shape for values in drawn]
    for blob, values in zip(blobs, drawn, strict=True):
        np.testing.assert_array_equal(bits(np.array(blob.data)), bits(values).ravel())


@pytest.mark.parametrize("case", SNAPSHOTS)
def test_a_caffemodel_is_built_as_caffes_own(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = to_caffemodel(*golden(case, monkeypatch))
    (snapshot, *_) = sorted(Path().glob("snap_iter_*.caffemodel"))
    assert structure(model) == structure(read_binary(snapshot, NetParameter))


def test_npz_names_layer_and_index(small: tuple[Net, list[np.ndarray]], tmp_path: Path) -> None:
    save(*small, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["a/0", "a/1", "b/0", "d/0", "d/1"]
        np.testing.assert_array_equal(archive["d/0"], small[1][3])
        np.testing.assert_array_equal(archive["b/0"], archive["a/0"])


def test_hdf5_has_caffes_layout(small: tuple[Net, list[np.ndarray]], tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    save(*small, tmp_path / "out.h5")
    with h5py.File(tmp_path / "out.h5") as file:
        assert list(file) == ["data"]
        # the splits and layers without params have groups as well; a sharer's is empty
        expected = {"in", "a", "r", "b", "c", "d", "a_r_0_split"}
        assert set(file["data"]) == expected
        filled = {name: sorted(group) for name, group in file["data"].items() if len(group)}
        assert filled == {"a": ["0", "1"], "d": ["0", "1"]}
        assert file["data/d/0"].dtype == np.float32
        np.testing.assert_array_equal(file["data/d/0"][()], small[1][3])


def test_onnx_computes_the_net(small: tuple[Net, list[np.ndarray]], tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    save(*small, tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["d"]
    x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(3, 5)
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    weight, bias, _, last, last_bias = small[1]
    np.testing.assert_allclose(found, np.maximum(x @ weight.T + bias, 0) @ last.T + last_bias, rtol=1e-5, atol=1e-6)


def test_only_the_wanted_layers_are_saved(small: tuple[Net, list[np.ndarray]], tmp_path: Path) -> None:
    net, values = small
    nodes = [node for node in net.nodes if node.name == "d"]
    save(net, values, tmp_path / "out.caffemodel", nodes)
    save(net, values, tmp_path / "out.npz", nodes)
    assert [layer.name for layer in read_binary(tmp_path / "out.caffemodel", NetParameter).layer] == ["d"]
    with np.load(tmp_path / "out.npz") as archive:
        assert archive.files == ["d/0", "d/1"]


def test_refuses_what_a_format_cannot_hold(
    small: tuple[Net, list[np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, values = small
    with pytest.raises(InputError, match=r"ends in one of \.caffemodel, \.npz, \.h5, \.onnx, found \.txt"):
        save(net, values, tmp_path / "out.txt")
    monkeypatch.setattr(save_module, "LARGEST", 200)
    with pytest.raises(InputError, match=r"take 268 bytes, .* at most 200, protobuf's limit; write \.h5 or \.npz"):
        save(net, values, tmp_path / "out.caffemodel")
    assert [path.name for path in tmp_path.iterdir()] == ["small.prototxt"]


def test_hdf5_refuses_names_that_would_nest(small: tuple[Net, list[np.ndarray]], tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    net, values = small
    net.nodes[1].layer.name = "block/a"
    with pytest.raises(InputError, match="group of layer 'block/a', and Caffe reads no nested ones"):
        save(net, values, tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["small.prototxt"]


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".caffemodel"])
def test_what_is_written_can_be_read_as_weights(
    tmp_path: Path, small: tuple[Net, list[np.ndarray]], suffix: str
) -> None:
    net, values = small
    save(net, values, tmp_path / f"w{suffix}")
    others = draw_params(net, Stream(SEED + 1))
    copy_weights(net, others, [str(tmp_path / f"w{suffix}")])
    for found, expected in zip(others, values, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["a", "a/b", "/0", "a/-1", "a/1000"])
def test_arrays_of_other_names_are_no_weights(tmp_path: Path, small: tuple[Net, list[np.ndarray]], name: str) -> None:
    np.savez(tmp_path / "w.npz", **{name: np.zeros(3)})
    with pytest.raises(InputError, match="expected a layer and the index of a param"):
        copy_weights(*small, [str(tmp_path / "w.npz")])
