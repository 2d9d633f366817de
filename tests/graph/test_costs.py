"""Multiply-adds and params of quantized ops, of subgraphs, and of weights in Constant nodes: right, or incomplete."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caffestat.graph.costs import macs
from caffestat.graph.load import Model, load

from .models import model, normal, value

node = helper.make_node
INT8, UINT8, BOOL, INT64 = TensorProto.INT8, TensorProto.UINT8, TensorProto.BOOL, TensorProto.INT64


def total(loaded: Model) -> int | None:
    loaded.graph.infer()
    costs = [macs(loaded.graph, one) for one in loaded.graph.nodes]
    return None if None in costs else sum(cost or 0 for cost in costs)


def integers(*shape: int, kind: Any = np.int8) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 100, shape).astype(kind)


SCALE, ZERO = np.array(0.1, np.float32), np.array(0, np.uint8)
QUANTIZED = [
    (node("ConvInteger", ["q", "w"], ["y"]), (2, 3, 5, 6), {"w": integers(4, 3, 3, 2)}, 2 * 4 * 15 * 18),
    (node("MatMulInteger", ["q", "w"], ["y"]), (2, 7, 5), {"w": integers(5, 4)}, 2 * 7 * 4 * 5),
    (
        node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
        (2, 3, 5, 6),
        {"w": integers(4, 3, 2, 3, kind=np.uint8), "s": SCALE, "z": ZERO},
        2 * 4 * 16 * 18,
    ),
    (
        node("QLinearMatMul", ["q", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
        (3, 5),
        {"w": integers(5, 4, kind=np.uint8), "s": SCALE, "z": ZERO},
        3 * 4 * 5,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("op", "shape", "arrays", "expected"), QUANTIZED, ids=lambda v: getattr(v, "op_type", ""))
def test_quantized_ops(op: Any, shape: tuple[int, ...], arrays: dict[str, np.ndarray], expected: int) -> None:
    loaded = load(model([op], [value("q", shape, UINT8)], ["y"], arrays))
    assert total(loaded) == expected
    assert {name: spec.shape for name, spec in loaded.graph.params.items()} == {"w": arrays["w"].shape}


def test_an_op_that_nobody_knows_leaves_the_count_incomplete() -> None:
    strange = node("Fancy", ["x"], ["y"], domain="my.ops")
    proto = model([strange], {"x": (2, 3)}, ["y"])
    proto.opset_import.append(helper.make_opsetid("my.ops", 1))
    assert total(load(proto)) is None


def branch(width: int | None) -> Any:
    made = [node("MatMul", ["x", "w"], ["o"])] if width else [node("Neg", ["x"], ["o"])]
    arrays = [numpy_helper.from_array(normal(4, width), "w")] if width else []
    return helper.make_graph(made, "b", [], [value("o", [3, width or 4])], arrays)


@pytest.mark.parametrize(("then", "other", "expected"), [(5, 5, 3 * 4 * 5), (5, None, None), (None, None, 0)])
def test_branches(then: int | None, other: int | None, expected: int | None) -> None:
    op = node("If", ["c"], ["y"], then_branch=branch(then), else_branch=branch(other))
    loaded = load(model([op], [value("c", [], BOOL), value("x", [3, 4])], ["y"]))
    assert total(loaded) == expected
    widths = [width for width in (then, other) if width]
    assert [spec.shape for spec in loaded.graph.params.values()] == [(4, width) for width in widths]


def scan_of(steps: int) -> Any:
    inner = [node("MatMul", ["h", "w"], ["p"]), node("Add", ["p", "x"], ["n"])]
    body = helper.make_graph(inner, "b", [value("h", [2, 3]), value("x", [2, 3])], [value("n", [2, 3])])
    op = node("Scan", ["h0", "xs"], ["y"], body=body, num_scan_inputs=1, scan_input_axes=[1])
    return model([op], {"h0": (2, 3), "xs": (2, steps, 3)}, ["y"], {"w": normal(3, 3)})


def test_the_body_of_a_scan_counts_once_per_step() -> None:
    assert total(load(scan_of(7))) == 7 * 2 * 3 * 3


@pytest.mark.parametrize("is_fixed", [True, False])
def test_loops(is_fixed: bool) -> None:
    inner = [node("MatMul", ["h", "w"], ["n"]), node("Identity", ["on"], ["still"])]
    given = [value("i", [], INT64), value("on", [], BOOL), value("h", [2, 3])]
    body = helper.make_graph(inner, "b", given, [value("still", [], BOOL), value("n", [2, 3])])
    inputs = [value("h0", [2, 3])] + ([] if is_fixed else [value("m", [], INT64)])
    arrays = {"w": normal(3, 3)} | ({"m": np.array(5)} if is_fixed else {})
    loaded = load(model([node("Loop", ["m", "", "h0"], ["y"], body=body)], inputs, ["y"], arrays))
    assert total(loaded) == (5 * 2 * 3 * 3 if is_fixed else None)


def constant(name: str, array: np.ndarray) -> Any:
    return node("Constant", [], [name], value=numpy_helper.from_array(array))


def test_normalizations_with_params_in_constant_nodes() -> None:
    names = ["s", "b", "m", "v"]
    made = [constant(name, normal(3, seed=index) ** 2) for index, name in enumerate(names)]
    loaded = load(model([*made, node("BatchNormalization", ["x", *names], ["y"])], {"x": (2, 3, 4)}, ["y"]))
    assert set(loaded.graph.params) == set(names)


def test_computed_constants_are_no_params() -> None:
    """Anchors: a grid that the model computes from constants, and adds to a product."""
    nodes = [
        constant("first", np.array(0, np.float32)),
        constant("last", np.array(4, np.float32)),
        constant("step", np.array(1, np.float32)),
        node("Range", ["first", "last", "step"], ["grid"]),
        node("MatMul", ["x", "w"], ["p"]),
        node("Add", ["p", "grid"], ["y"]),
    ]
    loaded = load(model(nodes, {"x": (2, 3)}, ["y"], {"w": normal(3, 4)}))
    assert set(loaded.graph.params) == {"w"}


def test_a_transposed_constant_is_still_a_weight() -> None:
    nodes = [constant("stored", normal(4, 3)), node("Transpose", ["stored"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    loaded = load(model(nodes, {"x": (2, 3)}, ["y"]))
    assert [spec.shape for spec in loaded.graph.params.values()] == [(3, 4)]


def test_of_a_branch_whose_condition_is_known_inside_of_a_body_only_that_counts() -> None:
    def branch(weight: str, name: str) -> onnx.GraphProto:
        return helper.make_graph([node("MatMul", ["h", weight], [name])], name, [], [value(name, None)])

    deep = helper.make_graph(
        [
            node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
            node("If", ["yes"], ["z"], then_branch=branch("w", "a"), else_branch=branch("v", "b")),
        ],
        "deep",
        [],
        [value("z", None)],
    )
    other = helper.make_graph([node("MatMul", ["h", "w"], ["o"])], "other", [], [value("o", None)])
    nodes = [
        node("Tanh", ["x"], ["h"]),
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Cast", ["top"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], ["y"], then_branch=deep, else_branch=other),
    ]
    arrays = {"w": normal(5, 7), "v": normal(5, 11)}
    graph = load(model(nodes, {"x": (3, 5)}, ["y"], arrays, opset=17)).graph
    assert macs(graph, graph.nodes[-1]) == 3 * 5 * 7
