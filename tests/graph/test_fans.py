"""The fans of weights in every layout that ops know."""

from __future__ import annotations

import pytest

from caffestat.graph import Node
from caffestat.graph.fans import Use, find_uses
from caffestat.ops import op_info, ops


def use_of(node: Node, shape: tuple[int, ...]) -> Use:
    return find_uses([node], {"w": shape}, {"w"})["w"]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "shape", "fans"),
    [
        ("Conv", ("x", "w"), {}, (16, 6, 5, 3), (90, 240)),
        ("Conv", ("x", "w"), {"group": 2}, (16, 6, 5, 3), (90, 120)),
        ("Conv", ("x", "w"), {}, (16, 6, 5), (30, 80)),
        ("ConvTranspose", ("x", "w"), {}, (16, 6, 5, 3), (240, 90)),
        ("ConvTranspose", ("x", "w"), {"group": 4, "strides": [2, 3]}, (16, 6, 6, 3), (12, 108)),
        ("ConvTranspose", ("x", "w"), {"strides": [9, 9]}, (1, 6, 3, 3), (1, 54)),
        ("Gemm", ("x", "w", "b"), {}, (7, 4), (7, 4)),
        ("Gemm", ("x", "w"), {"transB": 1}, (4, 7), (7, 4)),
        ("Gemm", ("w", "x"), {}, (4, 7), (7, 4)),
        ("Gemm", ("w", "x"), {"transA": 1}, (7, 4), (7, 4)),
        ("MatMul", ("x", "w"), {}, (7, 4), (7, 4)),
        ("MatMul", ("w", "x"), {}, (4, 7), (7, 4)),
        ("MatMul", ("x", "w"), {}, (3, 7, 4), (7, 4)),
        ("FusedMatMul", ("x", "w"), {"transB": 1}, (4, 7), (7, 4)),
        ("Gather", ("w", "x"), {}, (1000, 64), (1, 64)),
        ("LSTM", ("x", "w", "r", "b"), {}, (2, 40, 7), (7, 10)),
    ],
)
def test_fans(
    op: str, inputs: tuple[str, ...], attributes: dict[str, object], shape: tuple[int, ...], fans: tuple[int, int]
) -> None:
    use = use_of(Node(op, inputs, ("y",), attributes), shape)
    assert (use.role, use.fan_in, use.fan_out) == ("weight", *fans)


def test_looks_through_changes_of_shape() -> None:
    nodes = [
        Node("Reshape", ("w", "shape"), ("w2",)),
        Node("Transpose", ("w2",), ("w3",), {"perm": [3, 2, 0, 1]}),
        Node("Identity", ("w3",), ("w4",)),
        Node("Conv", ("x", "w4"), ("y",)),
    ]
    shapes = {"w": (135, 16), "w2": (3, 5, 9, 16), "w3": (16, 9, 3, 5), "w4": (16, 9, 3, 5)}
    assert find_uses(nodes, shapes, {"w"}) == {"w": Use(3, "weight", 135, 240)}


def test_the_first_use_counts_and_unknown_shapes_do_not() -> None:
    nodes = [
        Node("Relu", ("v",), ("r",)),
        Node("Transpose", ("v",), ("unknown",)),
        Node("MatMul", ("x", "unknown"), ("a",)),
        Node("MatMul", ("x", "v"), ("b",)),
        Node("MatMul", ("v", "x"), ("c",)),
    ]
    assert find_uses(nodes, {"v": (7, 4)}, {"v"}) == {"v": Use(3, "weight", 7, 4)}


def test_biases_are_known_by_what_they_are_added_to() -> None:
    nodes = [
        Node("Conv", ("x", "w", "b"), ("c",)),
        Node("MatMul", ("c", "v"), ("m",)),
        Node("Add", ("b2", "m"), ("s",)),
        Node("Relu", ("s",), ("r",)),
        Node("Add", ("r", "shift"), ("y",)),
        Node("Gemm", ("y", "g", "b3"), ("z",)),
    ]
    shapes = {"w": (16, 6, 5, 3), "v": (7, 4), "g": (4, 2), "b": (16,), "b2": (4,), "b3": (2,), "shift": (4,)}
    uses = find_uses(nodes, shapes, set(shapes))
    assert {name: use.role for name, use in uses.items()} == {
        "w": "weight",
        "b": "bias",
        "v": "weight",
        "b2": "bias",
        "g": "weight",
        "b3": "bias",
    }


def test_what_is_added_to_a_product_of_two_signals_is_no_bias() -> None:
    nodes = [
        Node("MatMul", ("x", "w"), ("q",)),
        Node("MatMul", ("q", "k"), ("scores",)),
        Node("Add", ("scores", "mask"), ("y",)),
    ]
    shapes = {"w": (7, 4), "k": (4, 5), "mask": (5,)}
    assert set(find_uses(nodes, shapes, {"w", "mask"})) == {"w"}


def test_ops_with_rules() -> None:
    assert tuple(op for op in ops() if op_info(op).fans) == (
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "FusedMatMul",
        "GRU",
        "Gather",
        "GatherBlockQuantized",
        "Gemm",
        "LSTM",
        "MatMul",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MoE",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
        "QMoE",
        "RNN",
    )
