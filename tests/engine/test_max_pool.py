"""The gradient of MAX pooling in the runtime's blocked layout gives the numbers of the plain form, ties included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.engine import Compiled
from caffestat.engine.runtime import channel_block
from caffestat.graph import Graph
from caffestat.graph.expand import expand

pytestmark = pytest.mark.skipif(not channel_block(), reason="the runtime has no blocked layout on this processor")

CASES = {
    # image, kernel, strides, begins, ends, ceil_mode
    "overlapping": ((3, 16, 9, 8), (3, 3), (1, 1), (1, 1), (1, 1), 0),
    "overlapping, stride 2": ((2, 16, 9, 8), (3, 3), (2, 2), (0, 0), (0, 0), 1),
    "padded, uneven": ((2, 32, 10, 7), (3, 4), (2, 3), (1, 2), (0, 3), 0),
    "tiles": ((2, 16, 6, 8), (2, 2), (2, 2), (0, 0), (0, 0), 0),
    "gaps": ((1, 16, 11, 9), (2, 1), (3, 2), (0, 0), (0, 0), 0),
    "unread": ((1, 48, 8, 9), (3, 2), (3, 2), (0, 0), (0, 0), 0),
    "the whole image": ((1, 16, 5, 6), (5, 6), (1, 1), (0, 0), (0, 0), 0),
    "blocks across images": ((16, 3, 5, 4), (2, 3), (1, 1), (0, 1), (0, 1), 0),
    "chunks": ((4, 32, 60, 84), (3, 2), (2, 1), (1, 0), (1, 1), 0),
}
PLAIN = {
    "odd channels": ((2, 5, 9, 8), (3, 3), (2, 2), (0, 0), (1, 1), 0),
    "one axis": ((2, 16, 9), (3,), (2,), (1,), (1,), 0),
}


def graph_of(shape: Any, kernel: Any, strides: Any, begins: Any, ends: Any, ceil_mode: int) -> Graph:
    g = Graph()
    x = g.input("x", shape)
    pads = [*begins, *ends]
    y = g.emit("MaxPool", x, kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil_mode)
    g.infer()
    dx = backward(g, {y: g.input("dy", g.shape(y))}, [x])[x]
    assert dx
    g.outputs = [dx]
    return g


def scans(g: Graph) -> int:
    return sum(node.op == "Scan" for node in expand(g, g.outputs, "cpu", channel_block()).nodes)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_masks_give_the_numbers_of_indices(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    g = graph_of(*case)
    random = np.random.default_rng(5)
    x = random.integers(-1, 3, g.shape("x")).astype(np.float32)  # few values: ties in almost every window
    feeds = {"x": x, "dy": random.standard_normal(g.shape("dy")).astype(np.float32)}
    (by_masks,) = Compiled(g).run(feeds).values()
    assert scans(g) == 1
    monkeypatch.setattr("caffestat.engine.compiled.channel_block", lambda: 0)
    (by_indices,) = Compiled(g).run(feeds).values()
    assert (by_indices != 0).sum() >= feeds["dy"].size / 10
    np.testing.assert_allclose(by_masks, by_indices, rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN.keys())
def test_other_images_take_indices(case: Any) -> None:
    assert scans(graph_of(*case)) == 0


def test_large_images_are_worked_on_in_parts() -> None:
    g = graph_of(*CASES["chunks"])
    (scan,) = (node for node in expand(g, g.outputs, "cpu", channel_block()).nodes if node.op == "Scan")
    assert [value.type.tensor_type.shape.dim[1].dim_value for value in scan.attributes["body"].input] == [64, 64]
