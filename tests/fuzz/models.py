"""Small ONNX models of ops that Caffe's nets do not export."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["branch", "growing", "loop", "lstm", "quantized", "scattered"]

CROP = {"coordinate_transformation_mode": "tf_crop_and_resize"}
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int, kind: str = "f4") -> TensorProto:
    return numpy_helper.from_array(np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(kind), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def lstm() -> onnx.ModelProto:
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["h", "", ""], hidden_size=3),
        helper.make_node("Shape", ["h"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["n"]),
        helper.make_node("Concat", ["n", "m"], ["to"], axis=0),
        helper.make_node("Reshape", ["h", "to"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    numbers = [numpy_helper.from_array(np.array([number]), name) for name, number in (("i", 0), ("m", -1))]
    weights = [weight("w", 1, 12, 4), weight("r", 1, 12, 3), weight("v", 6, 5), *numbers]
    return model(nodes, [value("x", FLOAT, "T", 2, 4)], [value("y", FLOAT, "T", 5)], weights)


def branch() -> onnx.ModelProto:
    branches = {
        name: helper.make_graph([helper.make_node(op, ["p"], ["z"])], name, [], [value("z", FLOAT, 3, 5)])
        for name, op in (("then_branch", "Relu"), ("else_branch", "Tanh"))
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["p"], transB=1),
        helper.make_node("ReduceSum", ["p"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["c"]),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    weights = [weight("w", 5, 4), weight("b", 5), numpy_helper.from_array(np.float32(0), "zero")]
    return model(nodes, [value("x", FLOAT, 3, 4)], [value("y", FLOAT, 3, 5)], weights)


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("MatMul", ["v", "w"], ["u"])],
        "body",
        [value("i", INT64), value("c", BOOL), value("v", FLOAT, 3, 4)],
        [value("d", BOOL), value("u", FLOAT, 3, 4)],
    )
    trips = numpy_helper.from_array(np.array(3), "trips")
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    return model(nodes, [value("x", FLOAT, 3, 4)], [value("y", FLOAT, 3, 4)], [trips, weight("w", 4, 4)])


def quantized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("LayerNormalization", ["c", "g"], ["l"], axis=-1),
        helper.make_node("Split", ["l"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Resize", ["a", "", "by"], ["y"], mode="nearest"),
    ]
    numbers = [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in (("scale", 0.1), ("by", [1, 1, 2, 2]))]
    weights = [weight("q", 4, 3, 3, 3, kind="i1"), weight("g", 5), *numbers]
    return model(nodes, [value("x", FLOAT, 2, 3, 6, 5)], [value("y", FLOAT, 2, 2, 12, 10)], weights)


def growing() -> onnx.ModelProto:
    """A Loop that collects rows in a sequence, one that appends to a matrix, and pieces of the result."""
    inside = helper.make_graph(
        [
            helper.make_node("Identity", ["c"], ["d"]),
            helper.make_node("MatMul", ["x", "w"], ["u"]),
            helper.make_node("SequenceInsert", ["s", "u", "i"], ["t"]),
            helper.make_node("Concat", ["v", "u"], ["z"], axis=0),
        ],
        "body",
        [value("i", INT64), value("c", BOOL), onnx.ValueInfoProto(name="s"), onnx.ValueInfoProto(name="v")],
        [value("d", BOOL), *(onnx.ValueInfoProto(name=name) for name in ("t", "z", "u"))],
    )
    nodes = [
        helper.make_node("SequenceEmpty", [], ["none"]),
        helper.make_node("Loop", ["trips", "", "none", "x"], ["all", "long", "rows"], body=inside),
        helper.make_node("ConcatFromSequence", ["all"], ["stack"], axis=1, new_axis=1),
        helper.make_node("SplitToSequence", ["long", "one"], ["pieces"], axis=0, keepdims=0),
        helper.make_node("SequenceAt", ["pieces", "one"], ["piece"]),
        helper.make_node("SequenceErase", ["pieces", "one"], ["others"]),
        helper.make_node("SequenceLength", ["others"], ["length"]),
        helper.make_node("Einsum", ["stack", "piece"], ["y"], equation="iij,k->jk"),
    ]
    numbers = [numpy_helper.from_array(np.array(n), name) for name, n in (("trips", 3), ("one", 1))]
    outputs = [value("y", FLOAT, 4, 4), value("length", INT64)]
    return model(nodes, [value("x", FLOAT, 3, 4)], outputs, [*numbers, weight("w", 4, 4)])


def scattered() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Resize", ["x", "roi", "", "sizes"], ["r"], axes=[0, 1], mode="linear", **CROP),
        helper.make_node("ScatterElements", ["r", "i", "w"], ["s"], axis=1, reduction="mul"),
        helper.make_node("ScatterND", ["s", "i", "v"], ["t"], reduction="max"),
        helper.make_node("Det", ["t"], ["y"]),
    ]
    numbers = [
        numpy_helper.from_array(np.array([0.1, 0, 0.9, 1.2], np.float32), "roi"),
        numpy_helper.from_array(np.array([4, 4]), "sizes"),
        numpy_helper.from_array(np.array([[0, 1], [2, -1]]), "i"),
    ]
    return model(nodes, [value("x", FLOAT, 3, 5)], [value("y", FLOAT)], [*numbers, weight("w", 2, 2), weight("v", 2)])
