"""Convolutions by Winograd's filtering give the numbers of the plain ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from caffestat.autodiff import gradient
from caffestat.engine import CPU, Compiled
from caffestat.engine.runtime import channel_block
from caffestat.graph import Graph, Node
from caffestat.graph.expand import expand
from caffestat.graph.late import for_provider
from caffestat.graph.nodes import subgraphs
from caffestat.graph.winograd import PLACES, POINTS, Tiles, transforms
from caffestat.ops import Window

from ..graph.models import model, normal, run
from .convolutions import Case, build

runs = pytest.mark.skipif(not channel_block(), reason="the runtime has no blocked layout on this processor")

CASES: dict[str, Case] = {
    "3x3": (2, 5, 7, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
    "no pads": (3, 4, 6, 1, (3, 3), {}),
    "uneven pads": (2, 3, 5, 1, (3, 3), {"pads": [0, 2, 1, 0]}),
    "groups": (2, 6, 9, 3, (3, 3), {"pads": [2, 1, 2, 1]}),
    "same": (1, 4, 2, 1, (3, 3), {"auto_pad": "SAME_UPPER"}),
    "5x5": (2, 3, 4, 1, (5, 5), {"pads": [2, 2, 2, 2]}),
    "5x5 groups": (3, 4, 6, 2, (5, 5), {"pads": [0, 1, 4, 3]}),
}

FORMS = {"by axes": 8, "by convolution": 0}


def choose(monkeypatch: pytest.MonkeyPatch, always: bool) -> None:
    """Compute all convolutions that have tiles by them, or none."""
    for rule in ("pays", "pays_for_filters"):
        monkeypatch.setattr(Tiles, rule, lambda *_: always)


def tiled(g: Graph) -> int:
    """Return how many images are cut into tiles: by a convolution, or by two products with constants."""
    return sum(_cuts(g, node) for node in g.nodes) + sum(map(_cuts_inside, g.nodes))


def _cuts_inside(node: Node) -> bool:
    """Tell whether the branch for images without places of zeros cuts them: one more product leads back to places."""
    if "else_branch" not in node.attributes:
        return False
    ops = [(inner.op_type, inner.attribute) for inner in node.attributes["else_branch"].node]
    strides = [list(a.ints) for op, found in ops if op == "Conv" for a in found if a.name == "strides"]
    return [PLACES] * 2 in strides or [op for op, _ in ops].count("MatMul") > 1


def _cuts(g: Graph, node: Node) -> bool:
    if node.op == "MatMul":  # the second one, of rows
        rows = g.specs.get(node.inputs[1])
        return node.inputs[0] in g.constants and rows is not None and len(rows.shape) == 3
    return node.op == "Conv" and node.get("strides") == [PLACES] * 2


@pytest.mark.parametrize("taps", POINTS)
def test_the_transforms_filter_exactly(taps: int) -> None:
    a, g, b = transforms(taps)
    random = np.random.default_rng(3)
    x, w = random.normal(size=PLACES + taps - 1), random.normal(size=taps)
    np.testing.assert_allclose(a @ ((g @ w) * (b @ x)), np.correlate(x, w, "valid"), rtol=1e-12)


@runs
@pytest.mark.parametrize("few", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("many", [1, 1000], ids=["images one by one", "all images"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_tiles_give_the_numbers_of_the_plain_ops(
    case: Case, many: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    g, feeds, params = build(case)
    choose(monkeypatch, False)
    plain = Compiled(g, CPU, params).run(feeds)
    choose(monkeypatch, True)
    monkeypatch.setattr("caffestat.graph.winograd._MANY_TILES", many)
    monkeypatch.setattr(Tiles, "slices", lambda self, g: self.batch if many == 1 else 1)
    monkeypatch.setattr("caffestat.graph.winograd._FEW_ALONG_AXIS", few)
    for constant in ({}, params):
        ours = Compiled(g, CPU, constant).run(feeds, {} if constant else params)
        for name in g.outputs:
            limit = 3e-6 if case[4] == (3, 3) else 2e-5
            np.testing.assert_allclose(ours[name], plain[name], rtol=0, atol=limit * np.abs(plain[name]).max())
    expanded = expand(g, g.outputs)
    scans = sum("Scan" in of_bodies(node) for node in expanded.nodes)
    assert scans == (2 if many == 1 and case[0] > 1 else 0)  # of y and dx
    assert scans or tiled(expanded) >= 3


def of_bodies(node: Node) -> set[str]:
    """Return the ops of a node and of its bodies."""
    return {node.op, *(inner.op_type for body in subgraphs(node) for inner in body.node)}


@pytest.mark.parametrize(
    ("batch", "channels", "filters", "size", "slices"),
    [
        (8, 64, 192, 56, 8),  # GoogLeNet, conv2: image by image
        (6, 32, 32, 40, 1),
        (12, 96, 96, 40, 3),  # 100 tiles an image
        (8, 128, 128, 28, 1),  # few tiles an image, and fast as a whole
        (7, 64, 64, 56, 7),
    ],
)
def test_the_caches_hold_the_tiles_of_a_slice(batch: int, channels: int, filters: int, size: int, slices: int) -> None:
    sliding = Window((size, size), (size, size), (3, 3), (1, 1), (1, 1), (1, 1))
    tiles = Tiles(sliding, batch, 1, channels, filters)
    assert tiles.slices(Graph()) == slices
    kept = Graph()
    kept.is_kept = True
    assert tiles.slices(kept) == 1


def test_graphs_for_infinities_have_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    g, *_ = build(CASES["3x3"])
    g.is_strict = True
    assert tiled(expand(g, g.outputs)) == 0


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_where_filters_see_only_zeros_the_result_is_zero(
    groups: int, changing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Caffe: there ReLU passes no gradient, where rounding would make half of it pass."""
    choose(monkeypatch, True)
    g = Graph()
    x, w = g.input("x", (2, 6, 13, 11)), g.param("w", (4, 6 // groups, 3, 3))
    g.outputs = [g.declare(g.emit("Conv", x, w, pads=[1, 1, 1, 1], group=groups), (2, 4, 13, 11))]
    image, filters = normal(2, 6, 13, 11), normal(4, 6 // groups, 3, 3)
    image[1, 3:, 5:9, 4:8] = 0
    if groups == 1:
        image[1, :, 5:9, 4:8] = 0
    params = {"w": filters}
    (found,) = Compiled(g, CPU, None if changing else params).run({"x": image}, params if changing else {}).values()
    dark = found[1, :, 6:8, 5:7] if groups == 1 else found[1, 2:, 6:8, 5:7]
    assert not dark.any()
    assert np.count_nonzero(found) == found.size - dark.size
    (tiled_,) = Compiled(g, CPU, params).run({"x": image + np.float32(0.5)}).values()
    choose(monkeypatch, False)
    (plain,) = Compiled(g, CPU, params).run({"x": image + np.float32(0.5)}).values()
    np.testing.assert_allclose(tiled_, plain, rtol=0, atol=3e-6 * np.abs(plain).max())


@pytest.mark.parametrize(
    "attributes", [{"strides": [1, 2]}, {"dilations": [2, 1]}, {"pads": [3, 0, 0, 0]}], ids=lambda a: next(iter(a))
)
def test_other_convolutions_have_no_tiles(attributes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    g, *_ = build((2, 4, 6, 1, (3, 3), attributes))
    assert tiled(expand(g, g.outputs)) == 0


@pytest.mark.parametrize("few", FORMS.values(), ids=FORMS.keys())
def test_an_image_that_changes_is_cut_once_for_each_window(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    monkeypatch.setattr("caffestat.graph.winograd._FEW_ALONG_AXIS", few)
    g = Graph()
    slope = g.param("slope", (1,))
    x = g.declare(g.emit("Mul", g.input("data", (2, 5, 9, 8)), slope), (2, 5, 9, 8))
    for filters, pads in ((3, [1, 1, 1, 1]), (4, [1, 1, 1, 1]), (3, [2, 0, 0, 2])):
        w = g.param(f"w{len(g.outputs)}", (filters, 5, 3, 3))
        y = g.emit("Conv", x, w, pads=pads)
        g.outputs.append(g.declare(y, (2, filters, 9, 8)))
    assert tiled(expand(g, g.outputs)) == 3
    changing = expand(g, g.outputs, fed=[slope])
    assert tiled(changing) == 2
    assert changing.specs.keys() >= set(changing.spread.values())  # unknown shapes may not cross between parts


def test_models_that_leave_keep_their_convolutions_and_cuda_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, True)
    g, *_ = build(CASES["3x3"])
    assert tiled(expand(g, g.outputs)) == 4  # of y, dx, and two of dw
    assert tiled(expand(g, g.outputs, "cuda")) == 0
    assert tiled(for_provider(g)) == 3
    assert g.nodes[0] in for_provider(g).nodes


@pytest.mark.parametrize(
    ("batch", "channels", "filters", "group", "taps", "size", "pays", "for_filters"),
    [
        (4, 256, 512, 1, 3, 28, True, True),  # VGG-16, conv4_1
        (4, 64, 64, 1, 3, 224, False, True),
        (16, 384, 256, 2, 3, 13, True, True),  # AlexNet, conv5, in four slices
        (4, 384, 256, 2, 3, 12, True, True),
        (16, 192, 128, 2, 3, 13, False, True),  # a third of the tiles is not needed
        (16, 96, 256, 2, 5, 27, False, True),
        (8, 512, 512, 1, 3, 7, False, True),  # ResNet-50, res5: few tiles for such large filters
        (4, 512, 512, 1, 3, 7, False, False),  # too few tiles
        (2, 256, 256, 1, 3, 16, True, True),  # U-Net
        (8, 64, 64, 1, 3, 28, True, True),
        (8, 64, 64, 1, 3, 56, True, True),  # ResNet-50, res2, image by image
        (1, 8, 8, 1, 3, 28, False, False),
    ],
)
def test_tiles_are_taken_where_they_were_measured_to_be_faster(
    batch: int, channels: int, filters: int, group: int, taps: int, size: int, pays: bool, for_filters: bool
) -> None:
    ones = (1, 1)
    sliding = Window((size, size), (size, size), (taps, taps), ones, ones, (taps // 2, taps // 2))
    tiles = Tiles(sliding, batch, group, channels, filters)
    assert (tiles.pays(Graph()), tiles.pays_for_filters()) == (pays, for_filters)


def test_gradient_models_take_it_for_their_own_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])]
    proto = model(nodes, {"x": (2, 3, 9, 10)}, ["y"], {"w": normal(5, 3, 3, 3), "b": normal(5)})
    feeds = {"x": normal(2, 3, 9, 10, seed=1), "cotangent/y": normal(2, 5, 9, 10, seed=2)}
    plain = run(gradient(proto), feeds)
    choose(monkeypatch, True)
    fast = gradient(proto)
    assert [node.op_type for node in fast.graph.node].count("Gather") == 2  # of y and dx
    for name, array in run(fast, feeds).items():
        np.testing.assert_allclose(array, plain[name], rtol=0, atol=3e-6 * np.abs(plain[name]).max())
