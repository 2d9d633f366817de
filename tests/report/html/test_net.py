"""Which boxes a drawing has: in-place layers folded, Splits hidden, blocks that are no part of a loop."""

from __future__ import annotations

from pathlib import Path

import caffestat
from caffestat.report.html.net import drawing

from ...graph.models import model, normal
from ..reports import tiny_report


def names(text: str) -> tuple[list[list[str]], list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """Return the layers of each box, the arrows and the blocks, by names."""
    report = tiny_report(measured=False, text=text)
    found = drawing(report)
    boxes = [[report.layers[row].name for row in box.rows] for box in found.boxes]
    edges = [(found.boxes[a].name, found.boxes[b].name) for a, b in found.edges]
    return boxes, edges, [(block.name, [found.boxes[box].name for box in block.boxes]) for block in found.blocks]


def power(name: str, bottom: str, top: str | None = None) -> str:
    return f'layer {{ name: "{name}" type: "Power" bottom: "{bottom}" top: "{top or name}" }}\n'


DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 3 dim: 5 } } }\n'


def test_in_place_layers_are_folded_and_splits_hidden() -> None:
    text = DATA + power("a", "data") + power("r", "a", "a") + power("s", "a", "a") + power("b", "a") + power("c", "a")
    boxes, edges, _ = names(text)
    assert boxes == [["data"], ["a", "r", "s"], ["b"], ["c"]]
    assert edges == [("data", "a"), ("a", "b"), ("a", "c")]


def test_layers_that_share_a_names_beginning_are_a_block() -> None:
    layers = (power(f"b{n}/{p}", "data" if (n, p) == (1, "x") else last(n, p)) for n in (1, 2) for p in "xyz")
    text = DATA + "".join(layers)
    _, _, blocks = names(text)
    assert blocks == [("b1", ["b1/x", "b1/y", "b1/z"]), ("b2", ["b2/x", "b2/y", "b2/z"])]


def last(n: int, part: str) -> str:
    """Return the layer in front of a layer of a chain b1/x b1/y b1/z b2/x …."""
    return f"b{n}/{chr(ord(part) - 1)}" if part != "x" else f"b{n - 1}/z"


def test_a_block_that_a_path_leaves_and_enters_again_is_none() -> None:
    outside = power("b1/x", "data") + power("other", "b1/x") + power("b1/y", "other") + power("b1/z", "b1/y")
    assert names(DATA + outside + power("end", "b1/z"))[2] == []


def test_two_blocks_that_read_each_other_are_not_both_closed() -> None:
    """Each is convex on its own, but closed both they would be a loop."""
    text = DATA + power("a1/x", "data") + power("b1/x", "a1/x") + power("b1/y", "data") + power("a1/y", "b1/y")
    text += power("a1/z", "a1/x") + power("b1/z", "data")
    assert len(names(text)[2]) == 1


def test_nodes_that_hand_on_stored_values_are_left_out(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes, {"x": [3, 5]}, ["y"], {"w": normal(2, 5)}).SerializeToString())
    found = drawing(caffestat.analyze(path, static=True))
    assert [(box.name, len(box.rows)) for box in found.boxes] == [("x", 0), ("MatMul_0", 1)]
    assert found.edges == ((0, 1),)
