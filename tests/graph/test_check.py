"""Models whose nodes claim what their ops do not know, or that grow without bound."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffestat
from caffestat import api
from caffestat.errors import InputError, RunError
from caffestat.graph.load import load

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 4]) for name in "xy")


def model(
    nodes: Sequence[onnx.NodeProto], functions: Sequence[onnx.FunctionProto] = (), opset: int = 18
) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [X], [Y]), opset_imports=opsets, functions=functions)


def node(op: str, inputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], name="bad", **attributes)


DAMAGED = {
    "an absent input among many": node("Min", ["x", ""]),
    "no inputs of many": node("Max", []),
    "too few inputs": node("Add", ["x"]),
    "too many inputs": node("Relu", ["x", "x"]),
    "no name for a needed input": node("MatMul", ["x", ""]),
    "ints for an int": node("Split", ["x"], num_outputs=[1]),
    "a float for an int": node("Softmax", ["x"], axis=0.5),
    "a text for ints": node("Transpose", ["x"], perm="ab"),
    "an unknown attribute": node("Relu", ["x"], slope=1.0),
    "a needed attribute is absent": node("Cast", ["x"]),
    "a domain that is not imported": helper.make_node("Relu", ["x"], ["y"], name="bad", domain="ai.unknown"),
    "another count than its outputs": node("Split", ["x"], num_outputs=2),
    "a branch of more outputs": helper.make_node(
        "If",
        ["x"],
        ["y"],
        name="bad",
        then_branch=helper.make_graph([], "t", [], [Y, X]),
        else_branch=helper.make_graph([], "e", [], [Y]),
    ),
    "in a branch": helper.make_node(
        "If",
        ["x"],
        ["y"],
        then_branch=helper.make_graph([node("Min", ["x", ""])], "t", [], [Y]),
        else_branch=helper.make_graph([node("Min", ["x"])], "e", [], [Y]),
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("verb", ["analyze", "convert", "rewrite"])
def test_a_node_that_does_not_fit_its_op_is_refused(kind: str, verb: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model([DAMAGED[kind]]).SerializeToString())
    message = r"net.onnx: node 'bad' \(\w+\) is damaged: "
    if verb == "rewrite":
        (outcome,) = api.rewrite(path, filler="xavier")
        assert "node 'bad' (" in (outcome.error or "")
        return
    with pytest.raises(InputError, match=message):
        if verb == "convert":
            api.convert(path, tmp_path / "out.onnx", backward=True)
        else:
            api.analyze(path, device="cpu")


def test_an_attribute_of_no_function_is_refused(tmp_path: Path) -> None:
    damaged = node("Softmax", ["x"])
    damaged.attribute.add(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="axis")
    with pytest.raises(InputError, match=r"node 'bad' .*attribute 'axis' refers to 'axis' of a function"):
        load(model([damaged]))


def test_models_without_an_import_are_checked_as_the_newest() -> None:
    proto = model([node("Min", ["x", ""])])
    del proto.opset_import[:]
    with pytest.raises(InputError, match=r"node 'bad' .*is damaged"):
        load(proto)


@pytest.mark.parametrize(("op", "axis"), [("Softmax", 2), ("Softmax", -3), ("Flatten", 3), ("ArgMax", 2)])
def test_an_axis_that_its_input_lacks_is_refused(op: str, axis: int) -> None:
    with pytest.raises(InputError, match=rf"{op} \(value y\): axis {axis} is out of range for an input of 2 axes"):
        load(model([node(op, ["x"], axis=axis)]))


def test_axes_from_the_end_and_behind_the_last() -> None:
    assert load(model([node("Softmax", ["x"], axis=-2)])).graph.nodes
    assert load(model([node("Flatten", ["x"], axis=2)])).graph.nodes


@pytest.mark.parametrize("elem_type", [99, -1])
def test_unknown_types_of_elements_are_refused(elem_type: int, tmp_path: Path) -> None:
    proto = model([node("Relu", ["x"])])
    proto.graph.input[0].type.tensor_type.elem_type = elem_type
    with pytest.raises(InputError, match=f"input 'x' has an unknown element type {elem_type}"):
        load(proto)
    proto = model([helper.make_node("Gemm", ["x", "w"], ["y"])])
    proto.graph.initializer.add(name="w", dims=(4, 5), data_type=elem_type, raw_data=bytes(80))
    with pytest.raises(InputError, match=f"initializer 'w' has an unknown element type {elem_type}"):
        load(proto)
    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "s"], ["y"])]
    proto = model(nodes)
    proto.graph.initializer.add(name="w", dims=(4, 5), data_type=TensorProto.FLOAT, raw_data=bytes(80))
    proto.graph.initializer.add(name="s", dims=(2,), data_type=elem_type, raw_data=bytes(16))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    assert "the model is damaged" in (api.rewrite(tmp_path / "m.onnx", filler="xavier")[0].error or "")


def test_errors_of_ours_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffestat.graph.load._Loader.finish", lambda _: {}["bug"])
    with pytest.raises(KeyError, match="bug"):
        load(model([node("Relu", ["x"])]))


def nested(depth: int, calls: int) -> onnx.ModelProto:
    """Return a model of functions that call the one before several times."""
    functions = []
    for level in range(depth):
        names = ["a", *(f"t{call}" for call in range(calls - 1)), "b"]
        domain, op = ("own", f"f{level - 1}") if level else ("", "Neg")
        body = [helper.make_node(op, [a], [b], domain=domain) for a, b in itertools.pairwise(names)]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], body, opsets))
    return model([helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="own")], functions)


def test_functions_are_counted_before_they_replace_their_calls() -> None:
    assert len(load(nested(10, 2)).graph.nodes) == 1024
    started = time.monotonic()
    for depth, calls, count in ((30, 2, "1,073,741,824"), (90, 9, "more than 10^12")):
        with pytest.raises(InputError, match=f"the model has {count.replace('^', '.')} nodes; expected at most 50,000"):
            load(nested(depth, calls))
    assert time.monotonic() - started < 2


def test_functions_that_call_themselves_are_refused() -> None:
    proto = nested(2, 1)
    proto.functions[0].node[0].op_type, proto.functions[0].node[0].domain = "f1", "own"
    with pytest.raises(InputError, match=r"'f[01]' calls itself"):
        load(proto)


def a_loop(*nodes: onnx.NodeProto, inputs: str = "icv", outputs: str = "dw") -> onnx.ModelProto:
    """y = x after three trips; the body is damaged by what the arguments say."""
    kinds = {"i": (TensorProto.INT64, []), "c": (TensorProto.BOOL, []), "v": (TensorProto.FLOAT, [3, 4])}
    given = [helper.make_tensor_value_info(name, *kinds[name]) for name in inputs]
    body = helper.make_graph(list(nodes), "b", given, [onnx.ValueInfoProto(name=name) for name in outputs])
    three = helper.make_node("Constant", [], ["n"], value_int=3)
    return model([three, helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)])


GOES_ON, NEGATES = helper.make_node("Not", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["w"])


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (a_loop(GOES_ON, NEGATES, inputs="ic"), "Loop.* body 'b' has 2 inputs and 2 outputs, expected 3 and 2"),
        (a_loop(GOES_ON, NEGATES, outputs="d"), "Loop.* body 'b' has 3 inputs and 1 outputs, expected 3 and 2"),
        (model([helper.make_node("Strange", ["x"], [])]), "Strange.* it has no output"),
        (model([helper.make_node("Gelu", ["x"], ["y"])]), "Gelu.* its op is not in the model's opset"),
    ],
)
def test_nodes_that_the_runtime_would_refuse_are_named(proto: onnx.ModelProto, message: str) -> None:
    proto.opset_import[0].version = 18
    with pytest.raises(InputError, match=message):
        load(proto)


def test_a_loop_whose_end_cannot_be_worked_out_stays() -> None:
    """Its condition comes from an unknown op; its state is of an unknown type."""
    strange = helper.make_node("Strange", ["c"], ["d"])
    assert "Loop" in [node.op for node in load(a_loop(strange, NEGATES)).graph.nodes]
    proto = a_loop(helper.make_node("Identity", ["c"], ["d"]), NEGATES)
    proto.graph.node[1].attribute[0].g.input[2].type.tensor_type.elem_type = -1
    proto.graph.input[0].type.tensor_type.elem_type = 1
    load(proto)


def test_a_matrix_product_of_vectors_is_left_to_the_runtime() -> None:
    """It refuses it."""
    proto = model([helper.make_node("Gemm", ["s", "w"], ["y"], transB=1)])
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in (("s", ()), ("w", (512, 512)))
    )
    with pytest.raises(RunError, match="Gemm"):
        caffestat.gradient(proto)


def endless() -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(*value)
        for value in (("c", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, [3, 4]))
    ]
    outputs = [
        helper.make_tensor_value_info(*value)
        for value in (("d", TensorProto.BOOL, []), ("w", TensorProto.FLOAT, [3, 4]))
    ]
    nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["w"])]
    body = helper.make_graph(nodes, "b", [helper.make_tensor_value_info("i", TensorProto.INT64, []), *values], outputs)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Equal", ["m", "m"], ["true"]),
        helper.make_node("Loop", ["", "true", "x"], ["y"], body=body),
    ]
    return model(nodes)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_ends_an_endless_loop(tmp_path: Path, root: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(endless().SerializeToString())
    command = [sys.executable, "-c", CALL, str(tmp_path / "net.onnx")]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "running\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 130


CALL = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from caffestat.cli import main
from caffestat.engine import runtime

ask = runtime.interruptible

def told(run):
    print("running", flush=True)
    return ask(run)

import caffestat.engine.compiled as compiled
compiled.interruptible = told
main(["analyze", "--forward-only", "--device", "cpu", sys.argv[1]])
"""
