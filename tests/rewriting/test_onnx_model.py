"""ONNX models: initializers are drawn again with the fans of the ops that use them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caffestat import api
from caffestat.api import rewrite
from caffestat.errors import InputError
from caffestat.files import Version
from caffestat.graph.tensors import encode
from caffestat.rewriting import change_of
from caffestat.rewriting.onnx_model import OnnxRewrite, rewrite_onnx


def tensor(name: str, *shape: int, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.linspace(-5, 5, int(np.prod(shape))).reshape(shape).astype(dtype), name)


def model() -> onnx.ModelProto:
    """Conv, Relu, a convolution whose weights are transposed, LeakyRelu, Gemm with transB, MatMul with Add, Softmax."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv_one", group=2),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Transpose", ["w2"], ["w2t"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["r1", "w2t"], ["c2"], name="conv_two"),
        helper.make_node("LeakyRelu", ["c2"], ["r2"], alpha=0.5),
        helper.make_node("Flatten", ["r2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], name="fc", transB=1),
        helper.make_node("Relu", ["g"], ["r3"]),
        helper.make_node("MatMul", ["r3", "w4"], ["m"], name="out"),
        helper.make_node("Add", ["m", "b4"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"]),
    ]
    tensors = [
        tensor("w1", 32, 3, 5, 4),
        tensor("b1", 32),
        tensor("w2", 3, 2, 32, 40),
        tensor("w3", 70, 160),
        tensor("b3", 70),
        tensor("w4", 70, 50),
        tensor("b4", 50),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 8, 6])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 50])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="tests")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / "net.onnx"
    onnx.save(model(), str(path))
    return path


def arrays(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def changed(result: OnnxRewrite) -> dict[str, np.ndarray]:
    """The initializers that are others than in `model()`."""
    old, new = arrays(model()), arrays(result.model)
    assert {name: values.shape for name, values in new.items()} == {name: values.shape for name, values in old.items()}
    return {name: values for name, values in new.items() if not np.array_equal(values, old[name])}


def test_weights_in_constant_nodes_are_drawn_like_initializers(path: Path) -> None:
    stated = model()
    kept = [t for t in stated.graph.initializer if t.name not in ("w2", "w3", "b3")]
    moved = [t for t in stated.graph.initializer if t.name in ("w2", "w3", "b3")]
    del stated.graph.initializer[:]
    stated.graph.initializer.extend(kept)
    for index, values in enumerate(moved):
        node = helper.make_node("Constant", [], [values.name])
        node.attribute.append(helper.make_attribute("value", values))
        node.attribute[0].t.ClearField("name")
        stated.graph.node.insert(index, node)
    other = path.with_name("constants.onnx")
    onnx.save(stated, str(other))
    for name in ("w2", "w3", "b3"):
        change = change_of("msra", "constant:2", layers=[name])
        (expected,) = changed(rewrite_onnx(path, change, 7)).values()
        result = rewrite_onnx(other, change, 7)
        found = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in result.model.graph.node[:3]}
        np.testing.assert_array_equal(found[name], expected)
        assert [c.place.layer for c in result.changes] == [name]
        result.write(other)
        assert not rewrite_onnx(other, change, 7).changes


@pytest.mark.parametrize(
    ("name", "fan_in", "fan_out"),
    [("w1", 60, 320), ("w2", 192, 240), ("w3", 160, 70), ("w4", 70, 50)],
)
def test_the_spread_follows_the_true_fans(path: Path, name: str, fan_in: int, fan_out: int) -> None:
    drawn = changed(rewrite_onnx(path, change_of("xavier"), 7))
    assert set(drawn) == {"w1", "w2", "w3", "w4"}
    limit = np.sqrt(3 / fan_in)
    assert 0.97 * limit < np.abs(drawn[name]).max() <= limit * 1.0001
    drawn = changed(rewrite_onnx(path, change_of("msra", variance_norm="fan_out"), 7))
    assert drawn[name].std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.06)


def test_auto_looks_at_what_follows(path: Path) -> None:
    result = rewrite_onnx(path, change_of("auto", bias="constant:2"), 7)
    chosen = {change.place.layer: change.after.type for change in result.changes}
    assert chosen == {
        "w1": "gaussian",
        "w2": "gaussian",
        "w3": "gaussian",
        "w4": "uniform",
        "b1": "constant",
        "b3": "constant",
        "b4": "constant",
    }
    drawn = changed(result)
    assert drawn["w1"].std() == pytest.approx(np.sqrt(2 / 60), rel=0.06)
    assert drawn["w2"].std() == pytest.approx(np.sqrt(2 / (1.25 * 192)), rel=0.06)
    assert set(drawn["b4"]) == {2.0}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"layers": ["w3"]}, {"w3"}),
        ({"layers": ["conv_*"]}, {"w1", "w2"}),
        ({"types": ["Gemm"]}, {"w3"}),
        ({"excludes": ["conv_*", "out"]}, {"w3"}),
    ],
)
def test_chooses_by_initializer_node_and_op(path: Path, options: dict[str, Any], names: set[str]) -> None:
    assert set(changed(rewrite_onnx(path, change_of("xavier", **options), 7))) == names


def test_all_else_stays_and_a_second_run_changes_nothing(path: Path) -> None:
    result = rewrite_onnx(path, change_of("xavier"), 7)
    result.write(path)
    written, before = onnx.load(str(path)), model()
    for proto in (written, before):
        del proto.graph.initializer[:]
    assert written == before
    again = rewrite_onnx(path, change_of("xavier"), 7)
    assert again.changes == []
    onnx.checker.check_model(str(path), full_check=True)


@pytest.mark.parametrize(
    ("data_type", "dtype", "size"),
    [(TensorProto.FLOAT16, np.float16, 2), (TensorProto.DOUBLE, np.float64, 8), (TensorProto.BFLOAT16, None, 2)],
)
def test_keeps_the_type_of_numbers(tmp_path: Path, data_type: int, dtype: Any, size: int) -> None:
    weight = helper.make_tensor("w", data_type, [4, 7], np.ones(28).tolist())
    x, y = (helper.make_tensor_value_info(name, data_type, [3, n]) for name, n in (("x", 4), ("y", 7)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", [x], [y], [weight])
    onnx.save(helper.make_model(graph), str(tmp_path / "net.onnx"))
    (found,) = rewrite_onnx(tmp_path / "net.onnx", change_of("uniform:min=2,max=3"), 7).model.graph.initializer
    assert found.data_type == data_type
    assert len(found.raw_data) == 28 * size
    values = numpy_helper.to_array(found).astype(np.float64)
    assert values.min() >= 2 and values.max() <= 3 and len(set(values.ravel())) > 5
    expected = rewrite_onnx(_as_float(tmp_path), change_of("uniform:min=2,max=3"), 7).model.graph.initializer[0]
    exact = numpy_helper.to_array(expected).astype(np.float64)
    np.testing.assert_allclose(values, exact, rtol=2**-8 if size == 2 else 1e-12)


def _as_float(folder: Path) -> Path:
    proto = onnx.load(str(folder / "net.onnx"))
    proto.graph.initializer[0].CopyFrom(tensor("w", 4, 7))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(proto, str(folder / "float.onnx"))
    return folder / "float.onnx"


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    values = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 3.4e38, 0, -0.0], np.float32)
    found = np.frombuffer(encode(values, TensorProto.BFLOAT16), "<u2")
    assert found.tolist() == [0x3F80, 0x3F80, 0x3F82, 0xBF81, 0x7F80, 0, 0x8000]


def test_values_that_the_type_cannot_hold_are_refused(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [4, 7], np.ones(28).tolist())
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [3, n]) for name, n in (("x", 4), ("y", 7)))
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", [x], [y], [weight])
    onnx.save(helper.make_model(graph), str(tmp_path / "net.onnx"))
    with pytest.raises(InputError, match="'w': its type of numbers cannot hold the new values"):
        rewrite_onnx(tmp_path / "net.onnx", change_of("constant:70000"), 7)


@pytest.fixture
def external(path: Path) -> Path:
    """The model with its larger weights in a file of their own."""
    onnx.save_model(model(), str(path), save_as_external_data=True, location="weights.bin", size_threshold=1000)
    return path


def test_external_data_stays_in_place(external: Path) -> None:
    old = (external.parent / "weights.bin").read_bytes()
    rewrite_onnx(external, change_of("xavier", layers=["w3"]), 7).write(external)
    assert (external.parent / "weights.bin").read_bytes() == old
    assert (external.parent / "net.onnx.weights0").stat().st_size == 70 * 160 * 4
    found, before = arrays(onnx.load(str(external))), arrays(model())
    assert {name for name in found if not np.array_equal(found[name], before[name])} == {"w3"}
    assert rewrite_onnx(external, change_of("xavier", layers=["w3"]), 7).changes == []


def test_data_files_that_are_used_no_longer_are_named_and_stay(external: Path) -> None:
    for seed in (1, 2, 3):
        result = rewrite_onnx(external, change_of("xavier", layers=["w3"]), seed)
        result.write(external)
    said = "net.onnx.weights1: net.onnx uses it no longer; remove it unless a backup needs it"
    assert str(result.notes[-1]).endswith(said)
    names = {path.name for path in external.parent.iterdir()}
    assert names == {"net.onnx", "weights.bin", "net.onnx.weights0", "net.onnx.weights1", "net.onnx.weights2"}
    assert rewrite_onnx(external, change_of("xavier", layers=["w3"]), 3).changes == []


def test_external_data_follows_to_another_folder(external: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "new.onnx"
    target.parent.mkdir()
    rewrite_onnx(external, change_of("xavier", layers=["w3"]), 7).write(target)
    shutil.rmtree(external.parent)
    found, before = arrays(onnx.load(str(target))), arrays(model())
    assert {name for name in found if not np.array_equal(found[name], before[name])} == {"w3"}


def test_other_data_is_never_overwritten(external: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"another model's")
    with pytest.raises(InputError, match=r"weights\.bin: already exists with other data"):
        rewrite_onnx(external, change_of("xavier", layers=["w3"]), 7).write(tmp_path / "new.onnx")
    assert (tmp_path / "weights.bin").read_bytes() == b"another model's"


@pytest.mark.parametrize("location", ["net.onnx.weights", "net.onnx.weights0"])
def test_the_users_own_data_files_are_never_removed(path: Path, location: str) -> None:
    onnx.save_model(model(), str(path), save_as_external_data=True, location=location, size_threshold=0)
    old = (path.parent / location).read_bytes()
    first, second = (rewrite(path, filler="xavier", bias="constant:1", seed=s, backup=True)[0].error for s in (1, 2))
    assert (first, second) == (None, None)
    assert (path.parent / location).read_bytes() == old
    before = arrays(model())
    for name in ("net.onnx.bak", "net.onnx.bak1", "net.onnx"):
        found = arrays(onnx.load(str(path.with_name(name))))
        assert all(np.array_equal(found[key], before[key]) for key in before) == (name == "net.onnx.bak")


def test_a_failure_removes_the_data_file_of_this_run_only(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in external.parent.iterdir()}
    since = Version.of(external)
    result = rewrite_onnx(external, change_of("xavier", layers=["w3"]), 7)
    external.write_bytes(before["net.onnx"] + b"")  # same bytes, another time of change
    os.utime(external, ns=(0, 0))
    with pytest.raises(InputError, match="was changed by another program"):
        result.write(external, since)
    assert {file.name: file.read_bytes() for file in external.parent.iterdir()} == before


@pytest.mark.parametrize("kind", ["parent", "absolute", "link", "inner link", "nul", "overlong", "fifo"])
@pytest.mark.parametrize("verb", ["analyze", "predict", "convert", "rewrite", "rewrite elsewhere"])
def test_external_data_outside_the_models_folder_is_refused(path: Path, tmp_path: Path, kind: str, verb: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(70 * 160 * 4))
    (path.parent / "link.bin").symlink_to(secret)
    (path.parent / "sub").symlink_to(tmp_path)
    os.mkfifo(path.parent / "pipe.bin")
    locations = {"parent": "../secret.bin", "absolute": str(secret), "link": "link.bin", "inner link": "sub/secret.bin"}
    locations |= {"nul": "a\0b", "overlong": "x" * 5000, "fifo": "pipe.bin"}
    proto = model()
    w3 = next(tensor for tensor in proto.graph.initializer if tensor.name == "w3")
    w3.ClearField("raw_data")
    w3.data_location = TensorProto.EXTERNAL
    w3.external_data.add(key="location", value=locations[kind])
    path.write_bytes(proto.SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    verbs: dict[str, Callable[[], Any]] = {
        "analyze": lambda: api.analyze(path, device="cpu"),
        "predict": lambda: api.analyze(path, static=True, predict=True),
        "convert": lambda: api.convert(path, out / "new.onnx", backward=True),
    }
    if verb in verbs:
        with pytest.raises(InputError, match="'w3' keeps its data in"):
            verbs[verb]()
    else:
        (outcome,) = rewrite(path, filler="xavier", output=out if verb == "rewrite elsewhere" else None)
        assert "'w3' keeps its data in" in (outcome.error or "")
    assert list(out.iterdir()) == []


def test_external_data_that_no_change_touches_is_confined_too(external: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes((external.parent / "weights.bin").read_bytes())
    (external.parent / "weights.bin").unlink()
    (external.parent / "weights.bin").symlink_to(tmp_path / "secret.bin")
    (outcome,) = rewrite(external, filler="xavier", layers=["w1"], output=tmp_path / "out" / "new.onnx")
    assert "outside the model's folder" in (outcome.error or "")
    assert not (tmp_path / "out" / "weights.bin").exists()


def test_external_data_follows_into_no_link(external: Path, tmp_path: Path) -> None:
    onnx.save_model(model(), str(external), save_as_external_data=True, location="w.bin", size_threshold=1000)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "w.bin").symlink_to(tmp_path / "elsewhere.bin")
    (outcome,) = rewrite(external, filler="xavier", layers=["w3"], output=tmp_path / "out" / "new.onnx")
    assert "is outside of" in (outcome.error or "")
    assert not (tmp_path / "elsewhere.bin").exists()


def test_models_above_two_gibibytes_are_split(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffestat.graph.external.LARGEST", 2**26 + 10_000)
    rewrite_onnx(path, change_of("xavier"), 7).write(path)
    assert path.stat().st_size < 10_000
    found = arrays(onnx.load(str(path)))
    assert found["w3"].std() == pytest.approx(np.sqrt(1 / 160), rel=0.05)


def test_says_what_cannot_be_used(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weight in it is selected"):
        rewrite_onnx(path, change_of("xavier", layers=["nothing"]), 7)
    (tmp_path / "text.onnx").write_text("ONNX?")
    with pytest.raises(InputError, match="expected an ONNX model"):
        rewrite_onnx(tmp_path / "text.onnx", change_of("xavier"), 7)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        rewrite_onnx(tmp_path / "none.onnx", change_of("xavier"), 7)


def test_missing_external_data_is_said(external: Path) -> None:
    (external.parent / "weights.bin").unlink()
    with pytest.raises(InputError, match="the data of 'w1' cannot be read"):
        rewrite_onnx(external, change_of("xavier"), 7)


def test_weights_of_a_negative_size_are_refused(path: Path) -> None:
    damaged = onnx.load(path)
    damaged.graph.initializer[0].dims[1] = -3
    onnx.save(damaged, path)
    with pytest.raises(InputError, match="initializer 'w1' has a negative size in its shape"):
        rewrite_onnx(path, change_of("xavier"), 1)
