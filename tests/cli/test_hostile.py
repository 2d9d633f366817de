"""Minimal files that fuzzing found: one message each, no traceback."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from caffestat.cli import main
from caffestat.data.batches import read_arrays
from caffestat.errors import InputError

NET = """\
layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 4
  weight_filler { type: "xavier" } } }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.prototxt").write_text(NET)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def message(*arguments: str) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4', 'shape': (", b"{'descr': 'O', 'shape': (2,3)}", b"{'descr': '<U3'", b""]
)
def test_arrays_that_are_none(folder: Path, header: bytes) -> None:
    (folder / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    assert message("analyze", "--input", "x=a.npy", "n.prototxt").startswith(
        "error: a.npy: expected an array of numbers"
    )


def test_arrays_of_texts_and_larger_than_their_file(folder: Path) -> None:
    np.save("a.npy", np.array([["a", "b", "c"]] * 2))
    assert message("analyze", "--input", "x=a.npy", "n.prototxt").endswith("expects numbers")
    assert message("calibrate", "--input", "x=a.npy", "-o", "r.json", "n.prototxt").endswith("found one of <U1")
    np.save("a.npy", np.zeros((2, 3), np.float32))
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes().replace(b"(2, 3)", b"(2000000000000, 3)"))
    assert message("analyze", "--input", "x=a.npy", "n.prototxt").startswith("error: a.npy: ")
    os.mkfifo("pipe")
    assert "expected a regular file" in message("analyze", "--input", "x=pipe", "n.prototxt")


@pytest.mark.parametrize(
    "command", [("rewrite", "--filler", "msra"), ("analyze", "--static", "n.prototxt", "--predict", "--weights")]
)
def test_texts_of_a_model_that_are_not_utf_8(folder: Path, command: tuple[str, ...]) -> None:
    assert run("fill", "n.prototxt", "-o", "w.caffemodel").exit_code == 0
    data = (folder / "w.caffemodel").read_bytes()
    (folder / "w.caffemodel").write_bytes(data.replace(b"InnerProduct", b"Inner\xff\xfeoduct"))
    result = run(*command, "w.caffemodel")
    assert result.exit_code == 2
    assert "w.caffemodel: its field caffe.LayerParameter.type holds bytes that are not UTF-8" in result.stderr


def model(**changes: object) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, n]) for name, n in (("x", 3), ("y", 4)))
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], range(12))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def no_opsets(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].domain = "other"


def huge_opset(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 2**62


def no_element_type(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = 0


def huge_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**62


def negative_size(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[0] = -(2**62)


def claimed_size(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[0] = 2**33


def unknown_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 99


def no_shape(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.ClearField("tensor_type")


DAMAGES = (no_opsets, huge_opset, no_element_type, huge_shape, negative_size, claimed_size, unknown_type, no_shape)
COMMANDS = (
    ("analyze", "--static", "--predict"),
    ("analyze", "--device", "cpu"),
    ("convert", "--backward", "-o", "out.onnx"),
    ("rewrite", "--filler", "auto"),
)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_damaged_models(folder: Path, damage, command: tuple[str, ...]) -> None:
    proto = model()
    damage(proto)
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    result = run(*command, "m.onnx")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 0 or "error: m.onnx: " in result.stderr


def test_names_of_a_model_that_are_not_utf_8(folder: Path) -> None:
    proto = model()
    proto.graph.node[0].name = "NAME"
    (folder / "m.onnx").write_bytes(proto.SerializeToString().replace(b"NAME", b"\xff\xfe\xfd\xfc"))
    for command in COMMANDS:
        result = run(*command, "m.onnx")
        assert "m.onnx: its field onnx.NodeProto.name holds bytes that are not UTF-8" in result.stderr


def test_a_comment_that_is_not_utf_8(folder: Path) -> None:
    (folder / "n.prototxt").write_bytes(b"# caffestat: ignore[\xff]\n" + NET.encode())
    assert run("check", "n.prototxt").exit_code in (0, 1)


@pytest.mark.parametrize(
    "filler", ["weight_filler []", "weight_filler: 3", 'weight_filler: "b"', "weight_filler: [1, 2]"]
)
def test_a_filler_that_is_no_message_stops_no_other_file(folder: Path, filler: str) -> None:
    (folder / "a.prototxt").write_text(NET.replace('weight_filler { type: "xavier" }', filler))
    result = run("rewrite", "-r", "--filler", "msra", ".")
    assert isinstance(result.exception, SystemExit) or result.exception is None, result.exception
    if filler.endswith("[]"):
        assert "a.prototxt:3:3: weight_filler: expected a message in braces" in result.stderr
    assert 'type: "msra"' in (folder / "n.prototxt").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ("fill", "--print"),
        ("convert", "-o", "out.onnx"),
        ("check", "--run"),
        ("analyze", "--device", "cpu"),
        ("debug", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_params_that_do_not_fit_into_memory_are_refused(
    folder: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caffestat.engine.memory.host_bytes", lambda: 2**30)
    dense = (
        "layer { name: 'f%d' type: 'InnerProduct' bottom: 'x' top: 'f%d' inner_product_param { num_output: 90000000 } }"
    )
    (folder / "n.prototxt").write_text(NET + dense % (1, 1) + dense % (2, 2))
    result = run(*command, "n.prototxt")
    assert result.exit_code == 2
    assert "GiB" in result.stderr and "only 1.0 GiB of memory is free" in result.stderr


def test_archives_that_do_not_fit_into_memory_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file may hold many zeros."""
    with zipfile.ZipFile(folder / "w.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as array:
        array.write(bytes(2**24))
    monkeypatch.setattr("caffestat.engine.memory.host_bytes", lambda: 2**20)
    with pytest.raises(InputError, match=r"w\.npz: reading the array 'x' needs about 0\.0 GiB"):
        list(read_arrays(folder / "w.npz", "x"))


def test_a_broken_file_stops_no_fix_of_the_others(folder: Path) -> None:
    (folder / "a.prototxt").write_text("layer {")
    (folder / "n.prototxt").write_text(NET.replace('"xavier"', '"xavier" std: 0.1'))
    result = run("rewrite", "--fix-check", ".")
    assert result.exit_code == 2
    assert "error: a.prototxt:1:8: " in result.stderr
    assert "2 files: " in result.stderr
    assert "std" not in (folder / "n.prototxt").read_text()
    assert run("rewrite", "--fix-check", "a.prototxt").stderr.startswith("error: a.prototxt:1:8: ")


@pytest.mark.parametrize("command", [("check",), ("rewrite", "--fix-check"), ("rewrite", "--filler", "msra")])
def test_a_name_that_no_file_can_have_stops_no_other_file(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "n.prototxt").write_text('layer { name: "a" type: "ReLU" bottom: "x" top: "x" }')
    result = run(*command, "x" * 300, "n.prototxt")
    assert result.exit_code == 2
    assert f"error: {'x' * 300}: cannot be read: File name too long" in result.stderr
    assert "2 files" in result.output or "1 file checked" in result.output, result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "--static", "n.prototxt"),
        ("check", "n.prototxt"),
        ("debug", "n.prototxt"),
        ("diagnose", "n.prototxt"),
        ("fill", "n.prototxt"),
        ("upgrade", "n.prototxt"),
    ],
)
def test_an_output_that_is_an_input_by_another_name_is_refused(arguments: tuple[str, ...], folder: Path) -> None:
    (folder / "link").symlink_to("n.prototxt")
    old = 'layers { name: "a" type: RELU bottom: "x" top: "x" }\n'
    (folder / "n.prototxt").write_text(old)
    for name in ("n.prototxt", "./n.prototxt", "link"):
        result = run(*arguments, "-o", name)
        assert result.exit_code == 2
        assert ("is also an input, which would be overwritten" in result.stderr) or "looks like a net" in result.stderr
    assert (folder / "n.prototxt").read_text() == old
