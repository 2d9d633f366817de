"""External models become Graphs that compute the same, and strangers' files do no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caffestat.errors import InputError
from caffestat.graph.load import Model, load

from .models import FLOAT, model, normal, run, value

X = normal(2, 6, 4, 5)
node = helper.make_node


def loaded_outputs(loaded: Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    loaded.graph.infer()
    return list(run(loaded.graph.to_onnx(loaded.arrays), feeds).values())


@pytest.mark.parametrize(("a", "b"), [((), (3,)), ((2, 3), (5,)), ((2, 3, 4), (5, 4, 6))])
def test_operands_that_do_not_fit_an_op_of_the_runtime_have_no_shape(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    """Shape inference of ONNX does not know the op: its own rule has to refuse."""
    proto = model([node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft")], {"a": a, "b": b}, ["y"])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "y" not in load(proto).graph.specs


OLD = [
    (7, node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=0.01)),
    (8, node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], spatial=1)),
    (9, node("Slice", ["x"], ["y"], starts=[1, -3], ends=[5, -1], axes=[1, 3])),
    (9, node("TopK", ["x"], ["y", "i"], k=2, axis=2)),
    (9, node("Upsample", ["x", "scales"], ["y"], mode="nearest")),
    (10, node("Resize", ["x", "scales"], ["y"], mode="linear")),
    (10, node("Resize", ["x", "scales"], ["y"])),
    (10, node("Resize", ["x", "smaller"], ["y"], mode="nearest")),
    (10, node("Resize", ["x", "mixed"], ["y"], mode="nearest")),
    (10, node("Resize", ["x", "smaller"], ["y"], mode="linear")),
    (10, node("Clip", ["x"], ["y"], min=-0.3, max=0.4)),
    (10, node("Clip", ["x"], ["y"], max=0.4)),
    (10, node("Pad", ["x"], ["y"], pads=[0, 1, 0, 2, 0, 0, 3, 0], value=0.5)),
    (10, node("Scatter", ["x", "index", "x"], ["y"], axis=1)),
    (11, node("Dropout", ["x"], ["y"], ratio=0.3)),
    (12, node("Softmax", ["x"], ["y"])),
    (12, node("LogSoftmax", ["x"], ["y"], axis=2)),
    (12, node("Softmax", ["x"], ["y"], axis=3)),
    (12, node("ReduceSum", ["x"], ["y"], axes=[1, 3], keepdims=0)),
    (12, node("Split", ["x"], ["y", "z"], axis=1, split=[2, 4])),
    (12, node("Squeeze", ["x1"], ["y"], axes=[0])),
    (12, node("Unsqueeze", ["x"], ["y"], axes=[1])),
    (17, node("ReduceMean", ["x"], ["y"], axes=[2, 3])),
    (17, node("ReduceLogSumExp", ["x"], ["y"], axes=[-1], keepdims=0)),
    (17, node("Split", ["x"], ["y", "z"], axis=1)),
    (19, node("GridSample", ["x", "grid"], ["y"], mode="bilinear")),
]


@pytest.mark.parametrize(("opset", "old"), OLD, ids=[f"{op.op_type}-{opset}" for opset, op in OLD])
def test_an_old_op_computes_what_it_did(opset: int, old: onnx.NodeProto) -> None:
    known = {
        "s": normal(6, seed=1),
        "b": normal(6, seed=2),
        "m": normal(6, seed=4),
        "v": abs(normal(6, seed=5)),
        "scales": np.array([1, 1, 2, 3], np.float32),
        "smaller": np.array([1, 1, 0.7, 0.6], np.float32),
        "mixed": np.array([1, 0.5, 1.7, 0.6], np.float32),
        "index": np.random.default_rng(0).permuted(np.tile(np.arange(6)[None, :, None, None], (2, 1, 4, 5)), axis=1),
        "grid": np.clip(normal(2, 3, 7, 2), -1.2, 1.2),
        "x1": X[:1],
    }
    arrays = {name: known[name] for name in old.input if name in known and name != "x1"}
    feeds = {name: known.get(name, X) for name in dict.fromkeys(old.input) if name not in arrays}
    outputs = [name for name in old.output if name != "i"]
    proto = model([old], {name: array.shape for name, array in feeds.items()}, outputs, arrays, opset)
    expected = list(run(proto, feeds).values())
    found = loaded_outputs(load(proto), feeds)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_group_normalization_of_opset_18_has_a_scale_per_group() -> None:
    scale, bias = np.array([2, 3], np.float32), np.array([0.5, -1], np.float32)
    norm = node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=2)
    proto = model([norm], {"x": X.shape}, ["y"], {"s": scale, "b": bias}, 18)
    (y,) = loaded_outputs(load(proto), {"x": X})
    groups = X.reshape(2, 2, -1)
    mean, var = groups.mean(-1, keepdims=True), groups.var(-1, keepdims=True)
    expected = (groups - mean) / np.sqrt(var + 1e-5) * scale[:, None] + bias[:, None]
    np.testing.assert_allclose(y, expected.reshape(X.shape), rtol=1e-4, atol=1e-5)


def test_an_op_that_came_later_is_said_in_older_ones() -> None:
    if onnx.defs.onnx_opset_version() < 24:
        pytest.skip("this onnx has no Swish")
    proto = model([node("Swish", ["x"], ["y"], alpha=1.5)], {"x": X.shape}, ["y"], opset=24)
    loaded = load(proto)
    assert {op.op for op in loaded.graph.nodes} == {"Mul", "Sigmoid"}
    (y,) = loaded_outputs(loaded, {"x": X})
    np.testing.assert_allclose(y, X / (1 + np.exp(-1.5 * X)), rtol=1e-5)
    assert [(n.name, n.op, n.outputs) for n in loaded.nodes] == [("Swish_0", "Swish", ("y",))]


def shape_arithmetic() -> onnx.ModelProto:
    """Flatten all but the first axis, as exporters of dynamic models write it."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axis"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["flat"]),
        node("Relu", ["flat"], ["y"], name="last"),
    ]
    arrays = {"zero": np.array(0), "axis": np.array([0]), "rest": np.array([-1])}
    return model(nodes, {"x": ["N", 6, "H", 5]}, ["y"], arrays)


def test_shape_arithmetic_becomes_constants() -> None:
    loaded = load(shape_arithmetic(), {"x": (3, 6, 2, 5)})
    assert [op.op for op in loaded.graph.nodes] == ["Reshape", "Relu"]
    assert loaded.graph.shape("y") == (3, 60)
    assert loaded.graph.constants["to"].tolist() == [3, -1]
    assert [item.name for item in loaded.nodes] == ["Reshape_0", "last"]


def test_open_sizes() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], {"a": ["N", "T", 4], "b": ["N", "T", 4]}, ["y"])
    loaded = load(proto, {"a": (3, 7, 4)})
    assert loaded.graph.shape("b") == (3, 7, 4)  # the same symbols
    assert load(shape_arithmetic(), {"x": (5, 6, 1, 5)}, batch=9).graph.shape("y") == (5, 30)
    with pytest.raises(InputError, match=r"'a' leaves sizes open .NxTx4.: for example --shape a=1,224,4"):
        load(proto)
    with pytest.raises(InputError, match="does not fit the model, which expects NxTx4"):
        load(proto, {"a": (3, 7, 5)})
    with pytest.raises(InputError, match="no input of that name; expected one of a, b"):
        load(proto, {"c": (3,)})


def test_batch_is_the_open_first_axis() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": ["N", 4]}, ["y"])
    assert load(proto).graph.shape("y") == (1, 4)
    assert load(proto, batch=6).graph.shape("y") == (6, 4)


def test_functions_are_inlined() -> None:
    body = helper.make_function(
        "own", "Twice", ["a"], ["c"], [node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 22)]
    )
    nodes = [node("Twice", ["x"], ["y"], domain="own"), node("MatMul", ["y", "w"], ["z"])]
    proto = model(nodes, {"x": (2, 3)}, ["z"], {"w": normal(3, 4)}, functions=[body])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    loaded = load(proto)
    assert [op.op for op in loaded.graph.nodes] == ["Add", "MatMul"]
    assert loaded.graph.shape("z") == (2, 4)


def test_functions_of_another_opset_are_brought_to_the_models() -> None:
    """Before opset 13 Softmax takes all axes from `axis` on for one."""
    body = helper.make_function(
        "own", "Soft", ["a"], ["b"], [node("Softmax", ["a"], ["b"])], [helper.make_opsetid("", 11)]
    )
    proto = model([node("Soft", ["x"], ["y"], domain="own")], {"x": (2, 3, 4)}, ["y"], opset=17, functions=[body])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    (found,) = loaded_outputs(load(proto), {"x": normal(2, 3, 4)})
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-5)
    proto.functions[0].node[0].op_type = "Relu"
    proto.functions[0].opset_import[0].version, proto.opset_import[0].version = 15, 12
    with pytest.raises(InputError, match="a function of another opset cannot be brought to the model's, 12: export"):
        load(proto)


def conditional() -> onnx.ModelProto:
    """y = 2x or the clipped x, by an input; the branches read x from outside and are of an old opset."""
    then = helper.make_graph([node("Add", ["x", "x"], ["t"])], "then", [], [value("t", (2, 3))])
    other = helper.make_graph([node("Clip", ["x"], ["e"], min=-0.1, max=0.2)], "else", [], [value("e", (2, 3))])
    nodes = [node("If", ["c"], ["y"], then_branch=then, else_branch=other), node("Neg", ["y"], ["z"])]
    return model(nodes, [value("x", (2, 3)), value("c", (), TensorProto.BOOL)], ["z"], opset=10)


def test_subgraphs_are_brought_to_the_opset() -> None:
    loaded = load(conditional())
    assert loaded.graph.nodes[0].captured == ("x",)
    x = normal(2, 3)
    for flag, expected in ((True, -2 * x), (False, -np.clip(x, -0.1, 0.2))):
        (z,) = run(loaded.graph.to_onnx(loaded.arrays), {"x": x, "c": np.array(flag)}).values()
        np.testing.assert_allclose(z, expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_can_be_computed_in_float32(dtype: Any) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = normal(3, 4).astype(dtype)
    nodes = [
        node("Cast", ["x"], ["narrow"], to=kind),
        node("MatMul", ["narrow", "w"], ["product"]),
        node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2, dtype))),
        node("Mul", ["product", "two"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (2, 3)}, ["y"], {"w": weights}), as_float32=True)
    x = normal(2, 3)
    (y,) = loaded_outputs(loaded, {"x": x})
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, 2 * x @ weights.astype(np.float32), rtol=1e-5)


def test_weights_in_constant_nodes_are_params() -> None:
    w = normal(3, 4)
    nodes = [
        node("Constant", [], ["w"], value=numpy_helper.from_array(w)),
        node("Constant", [], ["scale"], value=numpy_helper.from_array(np.array(2, np.float32))),
        node("MatMul", ["x", "w"], ["p"]),
        node("Mul", ["p", "scale"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (2, 3)}, ["y"]))
    assert list(loaded.graph.params) == ["w"]
    assert "scale" in loaded.graph.constants


def test_sequences_of_known_length_go() -> None:
    nodes = [
        node("SplitToSequence", ["x", "four"], ["pieces"], axis=1),
        node("SequenceAt", ["pieces", "last"], ["y"]),
        node("ConcatFromSequence", ["pieces"], ["z"], axis=1),
    ]
    loaded = load(model(nodes, {"x": (2, 9)}, ["y", "z"], {"four": np.array(4), "last": np.array(-1)}))
    assert [op.op for op in loaded.graph.nodes] == ["Split", "Identity", "Concat"]
    x = normal(2, 9)
    y, z = loaded_outputs(loaded, {"x": x})
    np.testing.assert_array_equal(y, x[:, 8:])
    np.testing.assert_array_equal(z, x)


@pytest.mark.parametrize("sizes", [None, np.array(1), np.array([1, 1, 1])])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_sequence_of_single_slices(keepdims: int, sizes: np.ndarray | None) -> None:
    arrays = {"last": np.array(-1)} | ({} if sizes is None else {"sizes": sizes})
    nodes = [
        node("SplitToSequence", ["x"] if sizes is None else ["x", "sizes"], ["pieces"], axis=1, keepdims=keepdims),
        node("SequenceAt", ["pieces", "last"], ["y"]),
        node("ConcatFromSequence", ["pieces"], ["z"], axis=0, new_axis=1),
    ]
    proto = model(nodes, {"x": (2, 3, 5)}, ["y", "z"], arrays)
    loaded = load(proto)
    assert "SequenceAt" not in [op.op for op in loaded.graph.nodes]
    x = {"x": normal(2, 3, 5)}
    for found, expected in zip(loaded_outputs(loaded, x), run(proto, x).values(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_sequence_along_no_axis_is_refused() -> None:
    nodes = [node("SplitToSequence", ["x"], ["pieces"], axis=3), node("SequenceLength", ["pieces"], ["n"])]
    with pytest.raises(InputError, match=r"SplitToSequence .value pieces.: axis 3 is out of range"):
        load(model(nodes, {"x": (2, 3)}, ["n"]))


def test_nodes_in_another_order() -> None:
    proto = model([node("Neg", ["a"], ["y"]), node("Relu", ["x"], ["a"])], {"x": (2, 3)}, ["y"])
    assert [op.op for op in load(proto).graph.nodes] == ["Relu", "Neg"]


def external(folder: Path, **entries: str) -> Path:
    """A model whose weight [3, 4] lies in a file beside it."""
    w = normal(3, 4)
    (folder / "w.bin").write_bytes(b"\0" * 64 + w.tobytes())
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": w})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": "w.bin", "offset": "64", "length": "48", **entries}.items():
        tensor.external_data.add(key=key, value=text)
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    loaded = load(external(tmp_path))
    np.testing.assert_array_equal(loaded.arrays["w"], normal(3, 4))
    with pytest.raises(InputError, match="load the model by its path"):
        load(onnx.load(str(tmp_path / "model.onnx"), load_external_data=False))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../w.bin"}, "outside the model's folder: this is refused"),
        ({"location": "/etc/hostname"}, "outside the model's folder: this is refused"),
        ({"location": ""}, "outside the model's folder"),
        ({"location": "no.bin"}, "was not found"),
        ({"offset": "96"}, "needs 48 bytes, but the file holds 16"),
        ({"offset": "-8"}, "negative offset"),
        ({"offset": "many"}, "cannot be read"),
        ({"length": "47"}, "needs 48 bytes, but the file holds 47"),
    ],
)
def test_external_data_that_is_refused(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(external(tmp_path, **entries))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(112))
    folder = tmp_path / "folder"
    folder.mkdir()
    path = external(folder)
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="outside the model's folder"):
        load(path)


def _huge_initializer(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [10**6, 10**6]


def _huge_claim_without_data(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].CopyFrom(TensorProto(name="w", dims=[10**12], data_type=FLOAT))


def _negative(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].dims[:] = [-3, 4]


def _unknown_type(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].data_type = 99


def _cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node.extend([node("Add", ["y", "b"], ["a"]), node("Neg", ["a"], ["b"])])


def _twice(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Neg", ["x"], ["y"]))


def _stored_twice(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(proto.graph.initializer[0])


def _from_nowhere(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Neg", ["ghost"], ["z"]))


def _old(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 6


def _future(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 10**6


def _sequence(proto: onnx.ModelProto) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, (2,)))
    proto.graph.input.append(helper.make_value_info("s", kind))


def _too_many(proto: onnx.ModelProto) -> None:
    proto.graph.node.extend(node("Neg", ["x"], [f"n{index}"]) for index in range(100_000))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_huge_initializer, "initializer 'w' of shape 1000000x1000000 needs 4,000,000,000,000 bytes.* holds 48"),
        (_huge_claim_without_data, "needs 1,000,000,000,000 values, but the file holds 0"),
        (_negative, "negative size"),
        (_unknown_type, "unknown element type 99"),
        (_cycle, "the graph has a cycle"),
        (_twice, "'y' is computed more than once"),
        (_stored_twice, "initializer 'w' is stored more than once"),
        (_from_nowhere, "'ghost' is read, but nothing computes it"),
        (_old, "opset 6; expected 7 to"),
        (_future, "opset 1000000; expected"),
        (_sequence, "'s' is a sequence_type"),
        (_too_many, "100,001 nodes; expected at most 50,000"),
    ],
)
def test_damaged_models(damage: Callable[[onnx.ModelProto], None], message: str) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": normal(3, 4)})
    damage(proto)
    with pytest.raises(InputError, match=message):
        load(proto)


@pytest.mark.parametrize("kept", [0, 1, 40, -1])
def test_truncated_files(tmp_path: Path, kept: int) -> None:
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": (2, 3)}, ["y"], {"w": normal(30, 4)})
    path = tmp_path / "cut.onnx"
    path.write_bytes(proto.SerializeToString()[:kept])
    with pytest.raises(InputError, match=r"cut\.onnx: expected an ONNX model"):
        load(path)


def test_a_large_constant_is_not_computed_ahead() -> None:
    """ConstantOfShape of 10^12 elements costs nothing until somebody runs it."""
    nodes = [
        node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([10**6, 10**6]))),
        node("ConstantOfShape", ["shape"], ["big"]),
        node("ReduceMean", ["big"], ["mean"], keepdims=0),
        node("Mul", ["x", "mean"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (2, 3)}, ["y"]))
    assert loaded.graph.shape("big") == (10**6, 10**6)
    assert "big" not in loaded.graph.constants


ROIS = np.array([[0, 0, 3, 3], [1, 1, 4, 4]], np.float32)
WITHOUT_NEW_KERNELS = [
    (16, node("RoiAlign", ["x", "rois", "items"], ["y"], output_height=2, output_width=3)),
    (10, node("RoiAlign", ["x", "rois", "items"], ["y"], output_height=2, output_width=3)),
    (9, node("MaxRoiPool", ["x", "boxes"], ["y"], pooled_shape=[2, 2])),
    (13, node("GlobalLpPool", ["x"], ["y"])),
    (13, node("RandomNormalLike", ["x"], ["y"])),
    (13, node("RandomUniform", [], ["y"], shape=[2, 3])),
    (13, node("Multinomial", ["flat"], ["y"], sample_size=3)),
    (15, node("Bernoulli", ["half"], ["y"])),
]


@pytest.mark.parametrize(("opset", "op"), WITHOUT_NEW_KERNELS, ids=lambda v: getattr(v, "op_type", str(v)))
def test_ops_without_a_kernel_of_the_newest_opset_run_at_an_older_one(opset: int, op: onnx.NodeProto) -> None:
    boxes = np.concatenate([np.zeros((2, 1)), ROIS], axis=1).astype(np.float32)
    arrays = {"rois": ROIS, "items": np.array([0, 1]), "boxes": boxes, "flat": normal(2, 5), "half": normal(2, 5) * 0}
    used = {name: array for name, array in arrays.items() if name in op.input}
    proto = model([op, node("Cast", ["y"], ["z"], to=FLOAT)], {"x": X.shape}, ["z"], used, opset)
    loaded = load(proto)
    found, expected = loaded_outputs(loaded, {"x": X})[0], run(proto, {"x": X})["z"]
    assert found.shape == expected.shape
    if not loaded.graph.nodes[0].info.is_random:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_spectrogram_is_one_sided_unless_it_says_otherwise() -> None:
    """Shape inference takes the absent attribute for 0; the default is 1."""
    nodes = [node("STFT", ["x", "step", "window"], ["y"])]
    proto = model(nodes, {"x": (2, 30)}, ["y"], {"step": np.array(5), "window": normal(8)})
    assert load(proto).graph.shape("y") == (2, 5, 5, 2)
    assert run(proto, {"x": normal(2, 30)})["y"].shape == (2, 5, 5, 2)


def sparse(values: list[float], indices: Any, dims: tuple[int, ...]) -> onnx.SparseTensorProto:
    kept = numpy_helper.from_array(np.array(values, np.float32), "w")
    return helper.make_sparse_tensor(kept, numpy_helper.from_array(np.array(indices, np.int64), "places"), dims)


def with_sparse(tensor: onnx.SparseTensorProto, stored: str) -> onnx.ModelProto:
    """x w, w sparse: an initializer, or the value of a Constant."""
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    if stored == "constant":
        nodes.insert(0, node("Constant", [], ["w"], sparse_value=tensor))
    proto = model(nodes, {"x": (2, 4)}, ["y"])
    if stored == "initializer":
        proto.graph.sparse_initializer.append(tensor)
    return proto


@pytest.mark.parametrize("stored", ["initializer", "constant"])
@pytest.mark.parametrize("indices", [[1, 13], [[0, 1], [2, 3]]])
def test_sparse_weights_are_dense_params(stored: str, indices: Any) -> None:
    loaded = load(with_sparse(sparse([2.0, -3.0], indices, (4, 5)), stored))
    dense = np.zeros((4, 5), np.float32)
    dense[0, 1], dense[2, 3] = 2, -3
    np.testing.assert_array_equal(loaded.arrays["w"], dense)
    (found,) = loaded_outputs(loaded, {"x": normal(2, 4)})
    np.testing.assert_allclose(found, normal(2, 4) @ dense, rtol=1e-6)


@pytest.mark.parametrize(
    ("indices", "dims", "words"),
    [
        ([1, 20], (4, 5), "indices do not fit|index value at position"),
        ([-1, 2], (4, 5), "indices do not fit|index value at position"),
        ([1], (4, 5), "indices do not fit|indices"),
        ([[0, 1], [4, 0]], (4, 5), "indices do not fit|index value at position"),
        ([1, 2], (1 << 20, 1 << 20), "cannot be made dense"),
    ],
)
@pytest.mark.parametrize("stored", ["initializer", "constant"])
def test_damaged_sparse_weights_are_refused(stored: str, indices: Any, dims: tuple[int, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(with_sparse(sparse([1.0, 2.0], indices, dims), stored))


def test_a_sequence_of_different_shapes_is_no_concat() -> None:
    made = [node("Relu", ["x"], ["y"]), node("SequenceConstruct", ["x", "z"], ["s"])]
    proto = model(made, {"x": (2, 3), "z": (4, 5)}, ["y", "s"])
    proto.graph.output[1].type.CopyFrom(helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None)))
    assert [item.op for item in load(proto).graph.nodes] == ["Relu", "SequenceConstruct"]


def test_calls_of_functions_have_the_defaults_of_their_attributes() -> None:
    """In a call of the model, and in one within another function."""
    inner = node("Elu", ["a"], ["b"])
    inner.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    default = helper.make_attribute("slope", 0.7)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    elu = helper.make_function("own", "Bent", ["a"], ["b"], [inner], opsets, [], [default])
    twice = helper.make_function("own", "Twice", ["a"], ["c"], [node("Bent", ["a"], ["c"], domain="own")], opsets)
    calls = [
        node("Bent", ["x"], ["y"], domain="own"),
        node("Bent", ["x"], ["z"], domain="own", slope=0.2),
        node("Twice", ["x"], ["u"], domain="own"),
    ]
    proto = model(calls, {"x": X.shape}, ["y", "z", "u"], {}, 17, functions=[elu, twice])
    proto.opset_import.append(helper.make_opsetid("own", 1))
    for found, slope in zip(loaded_outputs(load(proto), {"x": X}), (0.7, 0.2, 0.7), strict=True):
        np.testing.assert_allclose(found, np.where(X > 0, X, slope * (np.exp(X) - 1)), rtol=1e-5, atol=1e-6)


def test_an_axis_without_axes_of_its_own_leaves_a_shape_unknown() -> None:
    """The runtime takes one number for a list of axes; shape inference does not."""
    proto = model([node("Unsqueeze", ["x", "a"], ["y"])], {"x": [2, 3]}, ["y"], {"a": np.array(0)})
    loaded = load(proto)
    x = normal(2, 3)
    np.testing.assert_array_equal(loaded_outputs(loaded, {"x": x})[0], x[None])


@pytest.mark.parametrize("axis", [-2, 0, 1])
def test_the_axis_that_a_one_hot_adds(axis: int) -> None:
    hot = node("OneHot", ["x", "n", "v"], ["y"], axis=axis)
    proto = model([hot], [value("x", [3], TensorProto.INT64)], ["y"], {"n": np.array(4), "v": normal(2)})
    assert load(proto).graph.shape("y") == ((3, 4) if axis == 1 else (4, 3))
    hot.attribute[0].i = 2
    with pytest.raises(InputError, match="axis 2 is out of range for an input of 1 axes"):
        load(model([hot], [value("x", [3], TensorProto.INT64)], ["y"], {"n": np.array(4), "v": normal(2)}))


def test_shapes_that_the_runtime_named_do_not_stop_it() -> None:
    """Its optimizer makes one Gemm of MatMul and Add, and shapes of these names, whether there are such or not."""
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "b"], ["s"])]
    nodes += [node("Reshape", ["s", "gemm_output_shape"], ["y"])]
    arrays = {"w": normal(4, 5), "b": normal(5), "gemm_output_shape": np.array([3, 2, 5])}
    x = normal(2, 3, 4)
    (y,) = loaded_outputs(load(model(nodes, {"x": x.shape}, ["y"], arrays)), {"x": x})
    np.testing.assert_allclose(y, (x @ arrays["w"] + arrays["b"]).reshape(3, 2, 5), rtol=1e-5, atol=1e-6)
