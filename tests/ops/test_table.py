"""The facts about ops: complete, in agreement with each other, and true of what the runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import defs, helper

from caffestat.ops import Call, Combines, Elements, OpInfo, Role, Sign, op_info, ops, register

from ..graph.models import model, normal, run

OPSET = 22


def onnx_ops() -> list[str]:
    schemas = defs.get_all_schemas_with_history()
    names = {schema.name for schema in schemas if not schema.domain and schema.since_version <= OPSET}
    return sorted(name for name in names if not defs.get_schema(name, OPSET).deprecated)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < OPSET, reason="this onnx does not know opset 22")
def test_every_op_of_onnx_is_described() -> None:
    assert set(onnx_ops()) <= set(ops())


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < OPSET, reason="this onnx does not know opset 22")
@pytest.mark.parametrize("name", onnx_ops())
def test_the_number_of_inputs_is_the_schema_s(name: str) -> None:
    info, schema = op_info(name), defs.get_schema(name, OPSET)
    is_variadic = any(formal.option == defs.OpSchema.FormalParameterOption.Variadic for formal in schema.inputs)
    assert len(info.inputs) <= len(schema.inputs)
    assert not info.is_variadic or is_variadic
    if info.elements is Elements.EACH and info.combines:
        assert info.joins


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < OPSET, reason="this onnx does not know opset 22")
@pytest.mark.parametrize("name", onnx_ops())
def test_an_input_of_integers_alone_carries_no_signal(name: str) -> None:
    schema = defs.get_schema(name, OPSET)
    for position, formal in enumerate(schema.inputs):
        if formal.types == {"tensor(int64)"} or formal.type_str == "Tind":
            assert op_info(name).role(position) is not Role.DATA, formal.name


def test_an_unknown_op_claims_nothing() -> None:
    info = op_info("Relu", "somebody.else")
    assert not info.is_known
    assert (info.elements, info.sign, info.nonlinearity, info.passes_signal) == (Elements.MIXED, Sign.ANY, None, False)
    assert op_info("Relu", "com.microsoft").is_known


def test_registering_twice_or_incompletely_is_an_error() -> None:
    with pytest.raises(ValueError, match="'Relu' is registered already"):
        register(op_info("Relu"))
    with pytest.raises(ValueError, match="multiply-adds"):
        OpInfo("Product", Elements.MIXED, (Role.DATA, Role.WEIGHT), is_product=True)
    with pytest.raises(ValueError, match="is not an index"):
        OpInfo("Pick", Elements.PICKED, (Role.DATA, Role.SETTING), limits={1: lambda call: 3})
    with pytest.raises(TypeError):
        OpInfo("Nothing")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("op", "moves", "passes_weight", "passes_signal"),
    [
        ("Transpose", True, True, True),
        ("Slice", True, True, True),
        ("Cast", True, True, True),
        ("DequantizeLinear", True, True, True),
        ("Concat", True, False, True),
        ("Gather", True, False, True),
        ("MaxPool", False, False, True),
        ("GlobalAveragePool", False, False, True),
        ("BatchNormalization", False, False, True),
        ("Dropout", False, False, True),
        ("Add", False, False, False),
        ("Abs", False, False, False),
        ("Tanh", False, False, False),
        ("Conv", False, False, False),
        ("LpPool", False, False, False),
    ],
)
def test_what_passes(op: str, moves: bool, passes_weight: bool, passes_signal: bool) -> None:
    info = op_info(op)
    assert (info.moves, info.passes_weight, info.passes_signal) == (moves, passes_weight, passes_signal)


def test_arithmetic() -> None:
    found = {op: op_info(op).combines for op in ops() if op_info(op).combines}
    assert found == {
        "Add": Combines.SUM,
        "Div": Combines.QUOTIENT,
        "Mean": Combines.SUM,
        "Mul": Combines.PRODUCT,
        "Sub": Combines.DIFFERENCE,
        "Sum": Combines.SUM,
    }


def test_limits_of_indices() -> None:
    def limit(op: str, position: int, call: Call) -> int:
        return op_info(op).limits[position](call)

    assert limit("Gather", 1, Call({"axis": 1}, [(5, 7, 3), (2,)], [None])) == 7
    assert limit("RoiAlign", 2, Call({}, [(5, 7, 9, 8), (3, 4), (3,)], [None])) == 5
    assert limit("GatherND", 1, Call({"batch_dims": 1}, [(2, 7, 3, 9), (2, 4, 2)], [None])) == 3
    assert limit("SoftmaxCrossEntropyLoss", 1, Call({}, [(5, 7), (5,)], [None])) == 7
    assert limit("OneHot", 0, Call({}, [(5,), (), (2,)], [None], [None, np.array(11), None])) == 11
    assert limit("OneHot", 0, Call({}, [(5,), (), (2,)], [None])) == 1


@pytest.mark.parametrize(
    ("a", "b", "flags"),
    [
        ((2, 5, 3), (2, 3, 7), {}),
        ((2, 3, 5), (2, 7, 3), {"transA": 1, "transB": 1}),
        ((5, 2, 3), (2, 3, 7), {"transBatchA": 1}),
        ((5, 4, 2, 3), (7, 4, 2, 3), {"transB": 1, "transBatchA": 1, "transBatchB": 1}),
    ],
    ids=str,
)
def test_the_runtime_s_product_has_the_declared_shape(
    a: tuple[int, ...], b: tuple[int, ...], flags: dict[str, int]
) -> None:
    info = op_info("FusedMatMul", "com.microsoft")
    assert info.output_shape is not None
    node = helper.make_node("FusedMatMul", ["a", "b"], ["y"], domain="com.microsoft", **flags)
    proto = model([node], {"a": a, "b": b}, ["y"])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    found = run(proto, {"a": normal(*a), "b": normal(*b)})["y"]
    assert info.output_shape(Call(flags, [a, b], [None])) == found.shape
