"""Methods that look at the whole net, on ONNX models: the same Program, the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caffestat import api
from caffestat.engine import Compiled
from caffestat.errors import InputError
from caffestat.graph.load import load
from caffestat.rewriting import change_of
from caffestat.rewriting.onnx_model import rewrite_onnx


def tensor(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(np.random.default_rng(7).standard_normal(shape).astype(np.float32), name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Conv, Relu, a convolution with turned weights, Gemm, MatMul with Add."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv_one", group=2),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Transpose", ["w2"], ["w2t"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["r1", "w2t"], ["c2"], name="conv_two"),
        helper.make_node("Flatten", ["c2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["g"], name="fc", transB=1),
        helper.make_node("Relu", ["g"], ["r3"]),
        helper.make_node("MatMul", ["r3", "w4"], ["m"], name="out"),
        helper.make_node("Add", ["m", "b4"], ["a"]),
    ]
    shapes = {"w1": (20, 3, 5, 4), "b1": (20,), "w2": (3, 2, 20, 24), "w3": (30, 96), "b3": (30,), "w4": (30, 10)}
    tensors = [tensor(name, *shape) for name, shape in {**shapes, "b4": (10,)}.items()]
    for zero in ("b1", "b3", "b4"):
        index = next(i for i, t in enumerate(tensors) if t.name == zero)
        tensors[index] = numpy_helper.from_array(np.zeros(shapes.get(zero, (10,)), np.float32), zero)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 8, 6])
    y = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    found = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(found))
    return found


def values_of(path: Path, batch: int = 64) -> dict[str, np.ndarray]:
    """Run a model on noise."""
    model = load(path, batch=batch)
    names = ["c1", "c2", "g", "m", "a"]
    x = np.random.default_rng(9).standard_normal((batch, 6, 8, 6)).astype(np.float32)
    found = Compiled(model.graph).run({"x": x}, model.arrays, names)
    return {name: found[name].astype(np.float64) for name in names}


def test_lsuv_gives_unit_variance(path: Path) -> None:
    target = path.with_name("new.onnx")
    filled = api.fill(path, target, filler="lsuv", batch=64)
    assert [param.layer for param in filled.params] == ["w1", "w2", "w3", "w4"]
    assert all(param.filler.type == "lsuv" for param in filled.params)
    for name, value in values_of(target).items():
        assert value.var() == pytest.approx(1.0, abs=0.1), name  # on other noise than it was scaled on
    assert filled.curves is not None
    assert filled.curves.kind == "measured"
    assert filled.curves.after.points.keys() == {"conv_one", "conv_two", "fc", "out"}


def test_krahenbuhl_fills_weights_and_biases_of_the_add_behind_a_product(path: Path) -> None:
    target = path.with_name("new.onnx")
    filled = api.fill(path, target, filler="krahenbuhl:bias=0.3,between=0", batch=64)
    assert sorted(param.layer for param in filled.params) == ["b1", "b3", "b4", "w1", "w2", "w3", "w4"]
    found = values_of(target)
    for name in ("c1", "g", "a"):
        axes = tuple(axis for axis in range(found[name].ndim) if axis != 1)
        assert found[name].mean(axis=axes) == pytest.approx(np.full(found[name].shape[1], 0.3), abs=0.5), name
        assert found[name].std(axis=axes).mean() == pytest.approx(1.0, abs=0.15), name


def test_autoinit_solves_the_stds(path: Path) -> None:
    """1 / √n behind N(0, 1), √(2 / n) behind a ReLU; c2 has variance 1 in front of w3."""
    [outcome] = api.rewrite(path, filler="autoinit", output=path.with_name("new.onnx"))
    assert outcome.error is None
    stds = {c.place.layer: c.after.filler.std for c in outcome.changes}
    expected = {"w1": 60, "w2": 120 / 2, "w3": 96, "w4": 30 / 2}
    assert stds == pytest.approx({name: n**-0.5 for name, n in expected.items()}, rel=1e-3)
    assert outcome.curves is not None
    assert outcome.curves.kind == "predicted"


def test_orthogonal_is_orthogonal_as_the_node_reads_it(path: Path) -> None:
    values = rewrite_onnx(path, change_of("orthogonal:gain=1"), 3).values
    drawn = {name: values(name) for name in ("w1", "w2", "w4")}
    w2 = drawn["w2"].transpose(3, 2, 0, 1).reshape(24, -1)
    assert w2 @ w2.T == pytest.approx(np.eye(24), abs=1e-5)
    for block in drawn["w1"].reshape(2, 10, -1):
        assert block @ block.T == pytest.approx(np.eye(10), abs=1e-5)
    assert drawn["w4"].T @ drawn["w4"] == pytest.approx(np.eye(10), abs=1e-5)


def test_the_same_net_has_the_same_stds_from_a_prototxt_and_an_onnx_model(tmp_path: Path) -> None:
    net = Path(__file__).resolve().parents[2] / "models" / "lenet.prototxt"
    model = tmp_path / "lenet.onnx"
    api.convert(net, model, phase="train", batch=4)
    solved = {c.place.layer: c.after.filler.std for c in api.rewrite(model, filler="autoinit")[0].changes}
    [outcome] = api.rewrite(net, filler="autoinit", batch=4, dry_run=True)
    expected = {f"{c.place.layer}/0": c.after.filler.std for c in outcome.changes}
    assert solved == pytest.approx(expected, rel=1e-3)


def test_a_model_needs_a_policy_and_takes_no_options_of_caffe(path: Path) -> None:
    with pytest.raises(InputError, match=r"an \.onnx model has no fillers: name one"):
        api.fill(path)
    with pytest.raises(InputError, match="'xavier': phases, weights files and fillers are for Caffe nets"):
        api.fill(path, filler="msra", assume_filler="xavier")
    with pytest.raises(InputError, match=r"expected a name that ends in one of \.onnx, \.npz, found \.h5"):
        api.fill(path, path.with_suffix(".h5"), filler="msra")


def test_new_arrays_as_npz(path: Path) -> None:
    filled = api.fill(path, path.with_suffix(".npz"), filler="msra", layers=["w3"], seed=5)
    with np.load(path.with_suffix(".npz")) as found:
        assert found.files == ["w3"]
        assert np.array_equal(found["w3"], filled.params[0].values)
    assert "w3     Gemm" in str(filled)
