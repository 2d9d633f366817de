"""Convolutions by minimal filtering along rows give the numbers of the plain ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.engine import CPU, Compiled
from caffestat.engine.runtime import channel_block
from caffestat.graph import Convolution, Graph
from caffestat.graph.check import all_nodes
from caffestat.graph.expand import expand
from caffestat.graph.nodes import subgraphs
from caffestat.graph.winograd_rows import Rows, rows
from caffestat.ops import Window

from ..graph.models import normal
from .convolutions import Case, build

pytestmark = pytest.mark.skipif(not channel_block(), reason="the runtime has no blocked layout on this processor")

CASES: dict[str, Case] = {
    "3x3": (2, 16, 32, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
    "5x5 groups": (3, 32, 64, 2, (5, 5), {"pads": [1, 2, 4, 3]}),
    "no pads": (2, 48, 16, 1, (5, 5), {}),
    "2x3": (1, 16, 48, 1, (2, 3), {"pads": [1, 0, 0, 2]}),
    "1x5": (2, 32, 16, 1, (1, 5), {"auto_pad": "SAME_UPPER"}),
}


def choose(monkeypatch: pytest.MonkeyPatch, always: bool) -> None:
    """Compute all convolutions that have such rows by them, or none."""
    monkeypatch.setattr(Rows, "cost", lambda self: 0.0 if always else 9.0)


def filtered(g: Graph) -> int:
    """Return how many convolutions are computed this way: their last product transposes both operands."""
    return sum(_is_last(node.op, node.attributes) or any(map(_is_last_of, subgraphs(node))) for node in g.nodes)


def _is_last(op: str, attributes: dict[str, Any]) -> bool:
    return op == "FusedMatMul" and {"transA", "transB"} <= attributes.keys()


def _is_last_of(body: Any) -> bool:
    return any(_is_last(node.op_type, {a.name: a for a in node.attribute}) for node in all_nodes(body.node))


def expanded(g: Graph) -> Graph:
    return expand(g, g.outputs, block=channel_block(), fed=list(g.params))


@pytest.mark.parametrize("cached", [1, 1 << 20], ids=["images one by one", "all images"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_give_the_numbers_of_the_plain_ops(case: Case, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffestat.graph.winograd_rows._CACHED", cached)
    g, feeds, params = build(case)
    choose(monkeypatch, False)
    plain = Compiled(g, CPU, params).run(feeds)
    assert filtered(expanded(g)) == 0
    choose(monkeypatch, True)
    for constant in ({}, params):
        ours = Compiled(g, CPU, constant).run(feeds, {} if constant else params)
        for name in g.outputs:
            np.testing.assert_allclose(ours[name], plain[name], rtol=0, atol=3e-6 * np.abs(plain[name]).max())
    assert filtered(expanded(g)) == 2  # y and dx


def test_where_filters_see_only_zeros_the_result_is_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    g = Graph()
    x, w = g.input("x", (2, 32, 9, 12)), g.param("w", (32, 16, 5, 5))
    g.outputs = [g.declare(g.emit("Conv", x, w, pads=[2, 2, 2, 2], group=2), (2, 32, 9, 12))]
    image = normal(2, 32, 9, 12)
    image[1, 16:, 2:8, 3:9] = 0
    (found,) = Compiled(g, CPU, {"w": normal(32, 16, 5, 5)}).run({"x": image}).values()
    dark = found[1, 16:, 4:6, 5:7]
    assert not dark.any()
    assert np.count_nonzero(found) == found.size - dark.size


@pytest.mark.parametrize(
    "other",
    [
        {"channels": 24},
        {"filters": 40},
        {"group": 2},
        {"kernel": (3, 4)},
        {"kernel": (3, 1)},
        {"strides": [1, 2]},
        {"dilations": [2, 1]},
        {"pads": [0, 3, 0, 0]},
    ],
    ids=str,
)
def test_other_convolutions_have_no_rows(other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    settings: dict[str, Any] = {"channels": 16, "filters": 32, "group": 1, "kernel": (3, 3)} | other
    g, *_ = build((2, *(settings.pop(name) for name in ("channels", "filters", "group", "kernel")), settings))
    assert filtered(expanded(g)) == 0


def test_graphs_without_blocks_and_for_infinities_have_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    g, *_ = build(CASES["3x3"])
    assert filtered(expand(g, g.outputs, fed=list(g.params))) == 0
    assert filtered(expand(g, g.outputs, "cuda", fed=list(g.params))) == 0
    g.is_strict = True
    assert filtered(expanded(g)) == 0


@pytest.mark.parametrize(
    ("batch", "channels", "filters", "group", "taps", "size", "is_taken"),
    [
        (16, 96, 256, 2, 5, 27, True),  # AlexNet, conv2
        (16, 256, 384, 1, 3, 13, False),  # conv3: tiles
        (16, 384, 384, 2, 3, 13, True),
        (8, 32, 96, 1, 5, 28, True),  # GoogLeNet, inception_3b
        (8, 16, 32, 1, 5, 28, False),  # too few channels
        (1, 64, 64, 1, 3, 224, True),  # VGG-16, conv1_2, image by image
        (8, 512, 512, 1, 3, 7, False),  # ResNet-50, res5: the filters would be folded for longer
        (8, 256, 256, 1, 3, 14, False),  # tiles
    ],
)
def test_rows_are_taken_where_they_were_measured_to_be_faster(
    batch: int, channels: int, filters: int, group: int, taps: int, size: int, is_taken: bool
) -> None:
    ones, begins = (1, 1), (taps // 2, taps // 2)
    sliding = Window((size, size), (size, size), (taps, taps), ones, ones, begins)
    g = Graph()
    g.block = 16
    x = g.input("x", (batch, channels, size, size))
    assert (rows(g, Convolution(sliding, batch, group, channels, filters), x) is not None) is is_taken
