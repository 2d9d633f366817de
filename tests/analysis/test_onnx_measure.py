"""What is measured of ONNX models: fans, means, losses, inputs, and where a gradient stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffestat
from caffestat.data.batches import read_array
from caffestat.engine import CPU
from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.graph.load import load
from caffestat.program.feeds import Feeds
from caffestat.program.from_onnx import from_onnx
from caffestat.report import LayerRow, Report, render

from ..graph.models import model, normal, run, value
from ..graph.test_load import conditional

node = helper.make_node
W, B = normal(6, 3, 3, 2), normal(6, seed=1)
DENSE = normal(6, 5, seed=2)


def image_net() -> onnx.ModelProto:
    """Conv, Relu, a mean over places, and a product with a transposed weight."""
    nodes = [
        node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="/conv/Conv", strides=[2, 1]),
        node("Relu", ["c"], ["r"], name="/Relu"),
        node("ReduceMean", ["r", "places"], ["m"], keepdims=0),
        node("Transpose", ["fc"], ["fc.T"], perm=[1, 0]),
        node("MatMul", ["m", "fc.T"], ["y"]),
    ]
    arrays = {"conv.weight": W, "conv.bias": B, "places": np.array([2, 3]), "fc": DENSE.T.copy()}
    return model(nodes, {"x": ["N", 3, 9, 8]}, ["y"], arrays)


def analyzed(proto: onnx.ModelProto, folder: Path, **options: object) -> Report:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return caffestat.analyze(str(path), device="cpu", **options)


def row(report: Report, name: str) -> LayerRow:
    return next(layer for layer in report.layers if layer.name == name)


def test_sizes_fans_and_totals_without_a_run(tmp_path: Path) -> None:
    report = analyzed(image_net(), tmp_path, static=True, batch=4)
    conv, dense = row(report, "/conv/Conv"), row(report, "MatMul_0")
    assert [layer.name for layer in report.layers] == [
        "/conv/Conv", "/Relu", "ReduceMean_0", "Transpose_0", "MatMul_0"
    ]  # fmt: skip
    assert conv.tops[0].shape == (4, 6, 4, 7)
    assert [(p.name, p.role, p.fan_in, p.fan_out) for p in conv.params] == [
        ("conv.weight", "weight", 18, 36), ("conv.bias", "bias", 0, 0)
    ]  # fmt: skip
    assert conv.params[0].filler_settings["std"] == pytest.approx(W.std(), rel=1e-5)
    assert conv.params[0].spreads["FAN_IN"].scale == pytest.approx((3 / 18) ** 0.5, rel=1e-6)
    assert [(p.name, p.fan_in, p.fan_out) for p in dense.params] == [("fc", 6, 5)]  # behind the Transpose
    assert (conv.followed_by, dense.followed_by) == ("Relu", None)
    assert conv.macs == 4 * 6 * 4 * 7 * 18
    assert dense.macs == 4 * 6 * 5
    assert report.totals.params == W.size + B.size + DENSE.size
    assert report.totals.macs == conv.macs + dense.macs
    assert report.device is None
    assert conv.tops[0].mean_abs is None


def test_means_are_those_of_the_values(tmp_path: Path) -> None:
    x = normal(2, 3, 9, 8)
    report = analyzed(image_net(), tmp_path, inputs={"x": x}, batch=2, loss="ones")
    proto = image_net()
    proto.graph.output.extend([value("c", None), value("r", None)])
    out = run(proto, {"x": x})
    conv, relu, dense = row(report, "/conv/Conv"), row(report, "/Relu"), row(report, "MatMul_0")
    assert conv.tops[0].mean_abs == pytest.approx(np.abs(out["c"]).mean(), rel=1e-5)
    assert relu.tops[0].mean_abs == pytest.approx(np.abs(out["r"]).mean(), rel=1e-5)
    dm = np.ones((2, 5), np.float32) @ DENSE.T
    assert dense.bottom_diffs[0].mean_abs == pytest.approx(np.abs(dm).mean(), rel=1e-5)
    dw = out["r"].mean((2, 3)).T @ np.ones((2, 5), np.float32)
    assert dense.params[0].diff_mean_abs == pytest.approx(np.abs(dw).mean(), rel=1e-5)
    dc = dm[:, :, None, None] / 28 * (out["c"] > 0)
    assert relu.bottom_diffs[0].mean_abs == pytest.approx(np.abs(dc).mean(), rel=1e-5)
    assert report.norms is not None
    assert report.norms.data_l1 == pytest.approx(sum(np.abs(a).sum() for a in (W, B, DENSE)), rel=1e-5)


def test_debug_prints_the_lines_of_debug_info(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(image_net().SerializeToString())
    lines = list(caffestat.debug(str(path), device="cpu"))
    assert lines[0].startswith("    [Forward] Layer /conv/Conv, top blob c data: ")
    assert lines[1].startswith("    [Forward] Layer /conv/Conv, param blob conv.weight data: ")
    assert any(line.startswith("    [Backward] Layer MatMul_0, bottom blob m diff: ") for line in lines)
    assert lines[-2].startswith("    [Backward] Layer /conv/Conv, param blob 1 diff: ")
    assert lines[-1].startswith("    [Backward] All net params (data, diff): L1 norm = (")


def test_cross_entropy_is_that_of_the_logits(tmp_path: Path) -> None:
    """With equal logits, every sample's gradient is 1/C off its label and 1 - 1/C at it, over N."""
    proto = model([node("Mul", ["x", "zero"], ["y"])], {"x": (7, 4)}, ["y"], {"zero": np.zeros((1, 4), np.float32)})
    report = analyzed(proto, tmp_path, loss="cross-entropy")
    assert report.layers[0].params[0].name == "zero"
    assert "cross entropy of y with random labels" in report.notes[-1]
    assert report.layers[0].bottom_diffs[0].mean_abs == 0
    proto = model([node("Identity", ["x"], ["y"])], {"x": (7, 4)}, ["y"])
    report = analyzed(proto, tmp_path, loss="cross-entropy", inputs={"x": np.zeros((7, 4), np.float32)})
    assert report.layers[0].bottom_diffs[0].mean_abs == pytest.approx(2 * 0.75 / 4 / 7, rel=1e-5)


def test_other_losses(tmp_path: Path) -> None:
    proto = model([node("Neg", ["x"], ["h"]), node("Tanh", ["h"], ["y"])], {"x": (3, 4)}, ["y"])
    report = analyzed(proto, tmp_path, loss="h")
    assert report.layers[0].bottom_diffs[0].mean_abs == 1
    assert report.layers[1].bottom_diffs[0].mean_abs == 1  # the loss's own
    noise = [analyzed(proto, tmp_path, seed=seed).layers[0].bottom_diffs[0].mean_abs for seed in (1, 1, 2)]
    assert noise[0] == noise[1] != noise[2]
    with pytest.raises(InputError, match="--loss ghost: the model has no such value"):
        analyzed(proto, tmp_path, loss="ghost")


def test_token_ids_are_drawn_in_the_range_of_their_table(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["ids"], ["wide"], to=TensorProto.INT64),
        node("Unsqueeze", ["wide", "axis"], ["column"]),
        node("Gather", ["table", "column"], ["e"], name="embed"),
        node("Mul", ["e", "mask"], ["y"]),
    ]
    inputs = [value("ids", ("N", 40), TensorProto.INT32), value("mask", (40, 1, 1))]
    arrays = {"table": normal(5, 6), "axis": np.array([2])}
    report = analyzed(model(nodes, inputs, ["y"], arrays), tmp_path, batch=3)
    assert row(report, "embed").tops[0].shape == (3, 40, 1, 6)
    assert [(p.name, p.fan_in, p.fan_out) for p in row(report, "embed").params] == [("table", 1, 6)]


def test_what_indexes_nothing_is_one(tmp_path: Path) -> None:
    flag = value("flag", (4,), TensorProto.BOOL)
    report = analyzed(model([node("Cast", ["flag"], ["y"], to=1)], [flag], ["y"]), tmp_path)
    assert report.layers[0].tops[0].mean_abs == 1
    assert "input flag is all true" in report.notes[-2]


def test_a_missing_rule_stops_only_what_lies_behind_it(tmp_path: Path) -> None:
    nodes = [
        node("Neg", ["x"], ["a"], name="first"),
        node("Det", ["a"], ["d"], name="stop"),
        node("Mul", ["d", "s"], ["y"], name="last"),
        node("Tanh", ["x2"], ["y2"], name="beside"),
    ]
    proto = model(nodes, {"x": (2, 65, 65), "x2": (2, 3)}, ["y", "y2"], {"s": normal(2)})
    report = analyzed(proto, tmp_path)
    assert [diff.name for diff in row(report, "last").bottom_diffs] == ["d"]
    assert row(report, "stop").bottom_diffs == ()
    assert row(report, "first").bottom_diffs == ()
    assert row(report, "first").tops[0].mean_abs is not None
    assert len(row(report, "beside").bottom_diffs) == 1
    (warning,) = report.findings
    assert "the gradient stops at node 'stop': Det (value d): matrices of more than 64 rows" in warning.message
    assert warning.message.endswith("the gradient of 2 values before it is unknown")


def test_the_gradient_passes_the_branches_of_an_if(tmp_path: Path) -> None:
    report = analyzed(conditional(), tmp_path)
    assert [diff.name for diff in row(report, "Neg_0").bottom_diffs] == ["y"]
    assert [diff.name for diff in row(report, "If_0").bottom_diffs] == ["x"]
    assert report.findings == ()


def test_the_gradient_stops_at_a_loop_of_unknown_length(tmp_path: Path) -> None:
    inner = [node("Identity", ["on"], ["still"]), node("Tanh", ["v"], ["next"])]
    given = [value("i", (), TensorProto.INT64), value("on", (), TensorProto.BOOL), value("v", (3,))]
    body = helper.make_graph(inner, "body", given, [value("still", (), TensorProto.BOOL), value("next", (3,))])
    nodes = [node("Loop", ["trips", "", "x"], ["y"], body=body)]
    inputs = [value("trips", (), TensorProto.INT64), value("x", (3,))]
    report = analyzed(model(nodes, inputs, ["y"]), tmp_path)
    assert row(report, "Loop_0").bottom_diffs == ()
    assert "the gradient stops at node 'Loop_0': no gradient flows through the subgraphs of Loop" in (
        report.findings[0].message
    )


@pytest.mark.parametrize(("op", "params"), [("MatMul", ["w"]), ("Add", [])])
def test_a_scan_has_the_params_and_the_gradient_of_its_body(tmp_path: Path, op: str, params: list[str]) -> None:
    inner = [node(op, ["state", params[0] if params else "item"], ["next"]), node("Identity", ["next"], ["out"])]
    given, made = [value("state", (3,)), value("item", (3,))], [value("next", (3,)), value("out", (3,))]
    body = helper.make_graph(inner, "body", given, made)
    scan = node("Scan", ["x", "items"], ["last", "y"], body=body, num_scan_inputs=1)
    arrays = {name: normal(3, 3) for name in params}
    report = analyzed(model([scan], {"x": (3,), "items": (5, 3)}, ["y"], arrays), tmp_path)
    assert [p.name for p in report.layers[0].params] == params
    assert [diff.name for diff in report.layers[0].bottom_diffs] == ["x", "items"]
    assert all(param.diff_mean_abs for param in report.layers[0].params)


def test_shapes_that_only_a_run_tells(tmp_path: Path) -> None:
    nodes = [
        node("NonZero", ["x"], ["places"]),
        node("Transpose", ["places"], ["rows"]),
        node("GatherND", ["x", "rows"], ["y"]),
        node("Tanh", ["y"], ["z"]),
    ]
    x = np.array([[0, 2, -3], [4, 0, 0]], np.float32)
    proto = model(nodes, {"x": (2, 3)}, ["z"])
    report = analyzed(proto, tmp_path, inputs={"x": x}, loss="ones")
    assert row(report, "Tanh_0").tops[0].shape == (3,)
    assert row(report, "GatherND_0").tops[0].mean_abs == 3
    slopes = 1 - np.tanh([2, 3, 4]) ** 2
    assert row(report, "Tanh_0").bottom_diffs[0].mean_abs == pytest.approx(slopes.mean(), rel=1e-3)
    assert row(analyzed(proto, tmp_path, static=True), "Tanh_0").tops[0].shape is None


def test_what_a_run_for_shapes_chose_stays_chosen() -> None:
    """Rounding in another order may put a number on the other side of a bound: then shapes would not fit."""
    nodes = [
        node("Greater", ["x", "bound"], ["is_large"]),
        node("Compress", ["x", "is_large"], ["kept"]),
        node("TopK", ["kept", "two"], ["largest", "where"]),
        node("Mul", ["largest", "largest"], ["y"]),
    ]
    stored = {"bound": np.array(0.5, np.float32), "two": np.array([2])}
    program = from_onnx(load(model(nodes, {"x": (5,)}, ["y"], stored)), "")
    feeds = Feeds(Stream(0), np.random.default_rng(0), {"x": np.array([1, 0, 3, 2, -4], np.float32)})
    graph = program.settle([], CPU, feeds).forward().graph
    assert graph.constants["is_large"].tolist() == [True, False, True, True, False]
    assert graph.shape("kept") == (3,)
    assert not {"kept", "largest"} & graph.constants.keys()
    assert len(graph.nodes) == len(nodes)


def test_inputs_of_text(tmp_path: Path) -> None:
    """Text is given by a file of numpy's; it cannot be drawn."""
    labels = node("LabelEncoder", ["s"], ["ids"], domain="ai.onnx.ml", keys_strings=["a", "b"], values_int64s=[0, 1])
    nodes = [labels, node("Gather", ["w", "ids"], ["y"])]
    proto = model(nodes, [value("s", ["n"], TensorProto.STRING)], ["y"], {"w": normal(2, 3)}, 17)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    np.save(tmp_path / "text.npy", np.array(["b", "a", "b"]))
    array = read_array(tmp_path / "text.npy")
    report = analyzed(proto, tmp_path, inputs={"s": array}, predict=True)
    rows = normal(2, 3)[[1, 0, 1]]
    assert row(report, "Gather_0").tops[0].mean_abs == pytest.approx(np.abs(rows).mean(), rel=1e-5)
    with pytest.raises(InputError, match="--input s: holds numbers; the model expects text"):
        analyzed(proto, tmp_path, inputs={"s": np.zeros(3)})


def test_quantized_values_stay_computed(tmp_path: Path) -> None:
    """Their shapes are known only from a run: QLinearAveragePool leaves its padding to the runtime."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node(
            "QLinearAveragePool", ["q", "s", "z", "s", "z"], ["p"], domain="com.microsoft",
            kernel_shape=[2, 2], auto_pad="SAME_UPPER",
        ),
        node("DequantizeLinear", ["p", "s", "z"], ["y"]),
    ]  # fmt: skip
    proto = model(
        nodes, {"x": (1, 2, 5, 4)}, ["y"], {"s": np.array(0.02, np.float32), "z": np.array(120, np.uint8)}, 17
    )
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    report = analyzed(proto, tmp_path)
    assert row(report, "QLinearAveragePool_0").tops[0].shape == (1, 2, 5, 4)
    assert "no gradient rule for QLinearAveragePool" in report.findings[0].message


def test_biases_of_integers_are_params(tmp_path: Path) -> None:
    nodes = [node("QLinearConv", ["x", "s", "z", "w", "s", "z", "s", "z", "b"], ["y"])]
    arrays = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    arrays |= {"w": np.ones((4, 3, 2, 2), np.uint8), "b": np.ones(4, np.int32)}
    proto = model(nodes, [value("x", (1, 3, 5, 5), TensorProto.UINT8)], [], arrays, 17)
    proto.graph.output.append(value("y", None, TensorProto.UINT8))
    report = analyzed(proto, tmp_path, static=True)
    assert [(p.name, p.role) for p in report.layers[0].params] == [("w", "weight"), ("b", "bias")]
    assert report.totals.params == 4 * 3 * 2 * 2 + 4


def test_a_model_without_nodes_has_an_empty_table(tmp_path: Path) -> None:
    proto = model([], {"x": (2,)}, ["x"])
    assert render(analyzed(proto, tmp_path), "table").splitlines()[1].startswith("params 0")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_measured_in_float32(tmp_path: Path, dtype: type) -> None:
    w = normal(3, 4).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model([node("MatMul", ["x", "w"], ["y"])], [value("x", (2, 3), kind)], [], {"w": w})
    proto.graph.output.append(value("y", (2, 4), kind))
    x = normal(2, 3)
    report = analyzed(proto, tmp_path, inputs={"x": x})
    assert report.layers[0].tops[0].mean_abs == pytest.approx(np.abs(x @ w).mean(), rel=1e-4)


def test_quantized_weights_have_fans(tmp_path: Path) -> None:
    q = np.random.default_rng(1).integers(-99, 99, (300, 400)).astype(np.int8)
    nodes = [node("DequantizeLinear", ["q", "scale"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    report = analyzed(model(nodes, {"x": (2, 300)}, ["y"], {"q": q, "scale": np.array(0.1, np.float32)}), tmp_path)
    (param,) = row(report, "MatMul_0").params
    assert (param.name, param.fan_in, param.fan_out) == ("q", 300, 400)


def test_small_quantized_weights_with_a_scale_per_channel_have_fans(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
        node("Conv", ["xd", "w"], ["y"]),
    ]
    q = np.random.default_rng(1).integers(-99, 99, (4, 3, 3, 2)).astype(np.int8)
    arrays = {"q": q, "scale": abs(normal(4)), "zero": np.zeros(4, np.int8)}
    arrays |= {"xs": np.array(0.1, np.float32), "xz": np.array(3, np.int8)}
    report = analyzed(model(nodes, {"x": (2, 3, 8, 9)}, ["y"], arrays, opset=17), tmp_path)
    assert [(p.name, p.fan_in, p.fan_out) for p in row(report, "Conv_0").params] == [("q", 18, 24)]
    assert [p.name for p in row(report, "DequantizeLinear_1").params] == ["scale"]


def test_quantized_rows_that_are_picked_are_counted(tmp_path: Path) -> None:
    nodes = [node("Gather", ["q", "ids"], ["rows"]), node("DequantizeLinear", ["rows", "scale"], ["y"])]
    q = np.random.default_rng(1).integers(-99, 99, (6, 5)).astype(np.int8)
    inputs = [value("ids", (2, 3), onnx.TensorProto.INT64)]
    report = analyzed(model(nodes, inputs, ["y"], {"q": q, "scale": np.array(0.1, np.float32)}), tmp_path)
    assert [(p.name, p.count, p.fan_out) for p in row(report, "Gather_0").params] == [("q", 30, 5)]


def test_gates_of_an_lstm_are_layers(tmp_path: Path) -> None:
    lstm = node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=5)
    arrays = {"w": normal(1, 20, 7), "r": normal(1, 20, 5, seed=1), "b": normal(1, 40, seed=2)}
    report = analyzed(model([lstm], {"x": (6, 2, 7)}, ["y"], arrays), tmp_path)
    (layer,) = report.layers
    assert [(p.name, p.fan_in, p.fan_out) for p in layer.params[:2]] == [("w", 7, 5), ("r", 5, 5)]
    assert layer.macs == 6 * 2 * 20 * (7 + 5)
    assert all(p.diff_mean_abs for p in layer.params)


def test_a_stored_initial_state_is_a_param_of_its_lstm(tmp_path: Path) -> None:
    """Its gradient's nodes, which gather the state by direction, say nothing of what it is for."""
    lstm = node("LSTM", ["x", "w", "r", "", "", "h", "h"], ["y"], hidden_size=5)
    arrays = {"w": normal(1, 20, 7), "r": normal(1, 20, 5, seed=1), "h": normal(1, 2, 5, seed=2)}
    (layer,) = analyzed(model([lstm], {"x": (6, 2, 7)}, ["y"], arrays), tmp_path).layers
    assert [(p.name, p.role) for p in layer.params] == [("w", "weight"), ("r", "weight"), ("h", "param")]


def test_parts_of_a_packed_weight_have_their_own_fans(tmp_path: Path) -> None:
    nodes = [
        node("Slice", ["packed", "first", "last"], ["part"]),
        node("Transpose", ["part"], ["w"], perm=[1, 0]),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    arrays = {"packed": normal(15, 4), "first": np.array([5]), "last": np.array([10])}
    report = analyzed(model(nodes, {"x": (2, 3, 4)}, ["y"], arrays), tmp_path, static=True)
    assert [(p.name, p.fan_in, p.fan_out) for p in row(report, "MatMul_0").params] == [("packed", 4, 5)]


@pytest.mark.parametrize("lowest", [-np.inf, np.finfo(np.float32).min])
def test_masks_are_no_params(tmp_path: Path, lowest: float) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["s"]),
        node("Add", ["s", "mask"], ["m"]),
        node("Softmax", ["m"], ["y"]),
    ]
    mask = np.triu(np.full((4, 4), lowest, np.float32), 1)
    report = analyzed(model(nodes, {"x": (2, 4, 7)}, ["y"], {"w": normal(7, 4), "mask": mask}), tmp_path)
    assert [p.name for layer in report.layers for p in layer.params] == ["w"]
    assert report.norms is not None
    assert np.isfinite(report.norms.data_l2)


def test_a_param_belongs_to_the_node_that_computes_with_it(tmp_path: Path) -> None:
    nodes = [node("Identity", ["scale"], ["same"]), node("LayerNormalization", ["x", "same"], ["y"])]
    report = analyzed(model(nodes, {"x": (2, 3)}, ["y"], {"scale": normal(3)}), tmp_path, static=True)
    assert [len(layer.params) for layer in report.layers] == [0, 1]


def test_batch_normalization_keeps_statistics(tmp_path: Path) -> None:
    norm = node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    arrays = {name: abs(normal(3, seed=index)) for index, name in enumerate("sbmv")}
    report = analyzed(model([norm], {"x": (2, 3, 4)}, ["y"], arrays), tmp_path)
    assert (report.totals.params, report.totals.statistics) == (6, 6)
    assert report.phase == "TEST"


def test_refused_options(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'train': phases, weights files and fillers are for Caffe nets"):
        analyzed(image_net(), tmp_path, phase="train")
    with pytest.raises(InputError, match=r"--input x: has shape \(1, 3, 9, 7\); the model expects \(1, 3, 9, 8\)"):
        analyzed(image_net(), tmp_path, inputs={"x": normal(1, 3, 9, 7)})
    with pytest.raises(InputError, match="unknown data blob; expected one of x"):
        analyzed(image_net(), tmp_path, inputs={"z": normal(1)})
    with pytest.raises(InputError, match="onnxruntime cannot run the model"):
        analyzed(model([node("Nonsense", ["x"], ["y"])], {"x": (2,)}, ["y"]), tmp_path)


def test_a_run_that_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    nodes = [
        node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([10**6, 10**6]))),
        node("Expand", ["x", "shape"], ["big"]),
        node("ReduceMean", ["big"], ["y"], keepdims=0),
    ]
    with pytest.raises(InputError, match=r"the run needs about .* GiB"):
        analyzed(model(nodes, {"x": (1,)}, ["y"]), tmp_path)


def test_edges_lead_from_makers_to_readers(tmp_path: Path) -> None:
    report = analyzed(image_net(), tmp_path, static=True)
    made = {top.id: layer.name for layer in report.layers for top in layer.tops}
    made |= {value.id: value.name for value in report.inputs}
    assert {layer.name: [made[number] for number in layer.reads] for layer in report.layers} == {
        "/conv/Conv": ["x"],
        "/Relu": ["/conv/Conv"],
        "ReduceMean_0": ["/Relu"],
        "Transpose_0": [],
        "MatMul_0": ["ReduceMean_0", "Transpose_0"],
    }


def test_subgraphs_read_values_of_the_graph_around_them(tmp_path: Path) -> None:
    report = analyzed(conditional(), tmp_path, forward_only=True)
    choice = next(layer for layer in report.layers if layer.type == "If")
    names = {value.id: value.name for value in (*report.inputs, *(t for layer in report.layers for t in layer.tops))}
    assert [names[number] for number in choice.reads] == list(choice.bottoms)
    assert len(choice.reads) > 1


def test_data_whose_shape_alone_decides_stays_data(tmp_path: Path) -> None:
    """An If on the size of x takes its branch; the values of x, given or not, go through the net."""
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]), node("Equal", ["n", "two"], ["c"])]
    branches = {}
    for name, op in (("then_branch", "Tanh"), ("else_branch", "Neg")):
        body = [node(op, ["x"], [f"of_{op}"])]
        branches[name] = helper.make_graph(body, name, [], [value(f"of_{op}", None)])
    nodes += [node("If", ["c"], ["z"], name="if", **branches), node("Mul", ["z", "x"], ["y"], name="mul")]
    arrays = {"zero": np.array(0), "two": np.array(2)}
    x = normal(2, 5)
    report = analyzed(model(nodes, {"x": [2, 5]}, ["y"], arrays), tmp_path, inputs={"x": x}, forward_only=True)
    assert report.inputs[0].mean_abs == pytest.approx(np.abs(x).mean(), rel=1e-6)
    assert row(report, "mul").tops[0].mean_abs == pytest.approx(np.abs(np.tanh(x) * x).mean(), rel=1e-5)


def test_what_data_decides_is_predicted_after_the_run(tmp_path: Path) -> None:
    nodes = [node("Greater", ["x", "half"], ["k"]), node("Compress", ["x", "k"], ["c"]), node("Exp", ["c"], ["y"])]
    proto = model(nodes, {"x": (40,)}, ["y"], {"half": np.float32(0.5)})
    report = analyzed(proto, tmp_path, predict=True, inputs={"x": normal(40)})
    (top,) = row(report, "Exp_0").tops
    assert top.shape == (int((normal(40) > 0.5).sum()),)
    assert top.mean_abs is not None


def test_integers_and_text_that_are_given_are_not_drawn(tmp_path: Path) -> None:
    nodes = [node("Cast", ["i"], ["y"], to=TensorProto.FLOAT), node("StringConcat", ["s", "s"], ["t"])]
    proto = model(nodes, [value("i", (2, 3), TensorProto.INT64), value("s", (2,), TensorProto.STRING)], ["y", "t"])
    given = {"i": np.arange(6).reshape(2, 3), "s": np.array(["a", "b"], object)}
    report = analyzed(proto, tmp_path, inputs=given)
    assert not any("all ones" in note for note in report.notes)
    assert row(report, "Cast_0").tops[0].mean_abs == 2.5
    with pytest.raises(InputError, match="input 's' holds text, which cannot be drawn"):
        analyzed(proto, tmp_path, inputs={"i": given["i"]})


def test_data_without_elements_is_predicted(tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (2, 0, 3)}, ["y"])
    report = analyzed(proto, tmp_path, predict=True, inputs={"x": np.zeros((2, 0, 3), np.float32)})
    assert row(report, "Relu_0").tops[0].mean_abs == 0


def test_integers_and_booleans_have_a_mean(tmp_path: Path) -> None:
    nodes = [
        node("Add", ["i", "large"], ["far"]),
        node("Greater", ["x", "zero"], ["high"]),
        node("ArgMax", ["x"], ["best"], axis=1),
        node("StringConcat", ["s", "s"], ["text"]),
        node("Mul", ["x", "x"], ["y"]),
    ]
    inputs = [value("i", (2,), TensorProto.INT64), value("s", (1,), TensorProto.STRING), value("x", (2, 3))]
    arrays = {"large": np.array(-100_000), "zero": np.zeros((), np.float32)}
    proto = model(nodes, inputs, ["y", "far", "high", "best", "text"], arrays)
    x = np.array([[1, 2, -3], [0, -5, -6]], np.float32)
    given = {"i": np.array([1, 2]), "s": np.array(["a"], object), "x": x}
    for compute in ("float32", "float16"):
        report = analyzed(proto, tmp_path, inputs=given, compute=compute)
        found = {layer.tops[0].name: layer.tops[0] for layer in report.layers}
        means = {name: top.mean_abs for name, top in found.items() if not top.is_unknown}
        assert means == pytest.approx({"far": 99_998.5, "high": 2 / 6, "best": 0.5, "y": 75 / 6}, rel=1e-6)
