"""Convolutions in the runtime's blocked layout give the numbers of Conv, whether filters are fed or constant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from caffestat.engine import CPU, Compiled
from caffestat.engine.runtime import channel_block
from caffestat.graph import Graph, Node, blocked
from caffestat.graph.blocked import NCHWC
from caffestat.graph.expand import expand

from .convolutions import Case, build

pytestmark = pytest.mark.skipif(not channel_block(), reason="the runtime has no blocked layout on this processor")

BLOCK = 16  # a multiple of the channels per block of every processor
CASES: dict[str, Case] = {
    # batch, channels, filters, group, kernel, attributes
    "3x3": (3, BLOCK, 2 * BLOCK, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
    "uneven": (2, 2 * BLOCK, BLOCK, 1, (2, 5), {"pads": [1, 0, 0, 3]}),
    "groups": (2, 4 * BLOCK, 6 * BLOCK, 2, (3, 2), {"pads": [0, 1, 2, 1]}),
    "dilated": (2, BLOCK, 3 * BLOCK, 1, (3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 1]}),
    "stride": (2, BLOCK, BLOCK, 1, (3, 4), {"pads": [1, 1, 1, 2], "strides": [2, 3]}),
    "stride, padded": (2, BLOCK, 2 * BLOCK, 1, (3, 5), {"pads": [2, 3, 2, 2], "strides": [2, 2]}),
    "stride, groups": (2, 2 * BLOCK, 4 * BLOCK, 2, (4, 3), {"pads": [1, 1, 0, 1], "strides": [3, 1]}),
    "stride, tiles": (2, BLOCK, BLOCK, 1, (2, 3), {"strides": [2, 3]}),
    "1x1": (2, 2 * BLOCK, 3 * BLOCK, 1, (1, 1), {}),
    "1x1, odd channels": (2, 6, 10, 1, (1, 1), {}),
    "first": (2, 3, BLOCK, 1, (7, 7), {"pads": [3, 2, 1, 3], "strides": [2, 1]}),
    "first, 3x3": (3, 2, BLOCK, 1, (3, 3), {"pads": [1, 2, 0, 1]}),
    "first, whole blocks of images": (2 * BLOCK, 2, BLOCK, 1, (3, 2), {"pads": [1, 0, 1, 1], "strides": [2, 3]}),
    "depthwise": (3, 2 * BLOCK, 2 * BLOCK, 2 * BLOCK, (3, 2), {"pads": [1, 1, 1, 0]}),
    "depthwise stride": (2, BLOCK, BLOCK, BLOCK, (3, 3), {"pads": [1, 0, 1, 1], "strides": [2, 3]}),
    "depthwise dilated": (2, BLOCK, BLOCK, BLOCK, (2, 3), {"pads": [2, 3, 0, 3], "dilations": [2, 3]}),
    "depthwise odd channels": (8, 6, 6, 6, (3, 2), {"pads": [0, 1, 1, 1]}),
    "odd channels": (2, 6, 5, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
}


def blocked_ops(g: Graph, fed: Mapping[str, Any]) -> int:
    """Return how many convolutions run in the blocked layout."""
    nodes = expand(g, g.outputs, "cpu", channel_block(), fed.keys()).nodes
    return sum(node.domain == NCHWC and node.op == "Conv" for node in nodes)


def nodes_of_dx(g: Graph, fed: Mapping[str, Any]) -> list[Node]:
    return expand(g, g.outputs[1:2], "cpu", channel_block(), fed.keys()).nodes


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fed_filters_give_the_numbers_of_the_plain_ops(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    g, feeds, params = build(case)
    ours = Compiled(g).run(feeds, params)
    monkeypatch.setattr("caffestat.engine.compiled.channel_block", lambda: 0)
    plain = Compiled(g, CPU, params).run(feeds)
    for name in g.outputs:
        np.testing.assert_allclose(ours[name], plain[name], rtol=0, atol=2e-6 * np.abs(plain[name]).max())


@pytest.mark.parametrize(
    ("name", "fed", "constant"),
    [
        ("3x3", 2, 0),
        ("stride", 1 + 2 * 3 + 1, 0),  # six phases of dx, of which the last row and column are cut off
        ("stride, groups", 1 + 3 + 1, 0),
        ("stride, padded", 1, 0),  # the first dy of a phase reaches no element
        ("stride, tiles", 1, 0),
        ("1x1", 1, 0),
        ("first", 2, 1),
        ("first, 3x3", 1, 1),
        ("depthwise", 3, 1),
        ("depthwise stride", 1 + 2 * 3 + 1 + 1, 2 * 3 + 1 + 1),
        ("depthwise odd channels", 1, 1),
        ("odd channels", 0, 0),
    ],
)
def test_which_convolutions_are_blocked(name: str, fed: int, constant: int) -> None:
    """Of y, dx and dw: the runtime lays constant filters out; dw of few channels and depthwise phases always are."""
    g, _, params = build(CASES[name])
    assert blocked_ops(g, params) == fed
    assert blocked_ops(g, {}) == constant


def test_1x1_filters_that_change_are_not_turned_around() -> None:
    g, _, params = build(CASES["1x1, odd channels"])
    turned = [any(node.op == "Transpose" for node in nodes_of_dx(g, fed)) for fed in ({}, params)]
    assert turned == [True, False]


def test_an_exported_model_has_no_blocked_ops() -> None:
    g, _, params = build(CASES["depthwise"])
    assert {node.domain for node in g.to_onnx(params).graph.node} <= {"", "com.microsoft"}


def test_filters_made_of_fed_params_are_blocked_too() -> None:
    g = Graph()
    x, w = g.input("x", (1, BLOCK, 5, 6)), g.param("w", (BLOCK, BLOCK, 3, 3))
    doubled = g.declare(g.emit("Add", w, w), g.shape(w))
    g.outputs = [g.emit("Conv", x, doubled)]
    assert blocked_ops(g, {"w": None}) == 1


def test_float64_and_empty_images_keep_the_plain_op() -> None:
    for shape, dtype in (((2, BLOCK, 5, 6), np.float64), ((0, BLOCK, 5, 6), np.float32)):
        g = Graph()
        x, w = g.input("x", shape, dtype), g.param("w", (BLOCK, BLOCK, 3, 3), dtype)
        g.outputs = [g.emit("Conv", x, w)]
        assert blocked_ops(g, {"w": None}) == 0


@pytest.mark.parametrize(
    ("filters", "group", "attributes"),
    [
        ((BLOCK, 2 * BLOCK, 4, 3), 1, {"strides": [2, 2], "pads": [1, 0, 1, 2], "output_padding": [1, 0]}),
        ((2 * BLOCK, 1, 4, 4), 2 * BLOCK, {"strides": [2, 3], "pads": [1, 1, 1, 0]}),
    ],
    ids=["dense", "depthwise"],
)
@pytest.mark.parametrize("is_strict", [False, True])
def test_transposed_convolutions_give_the_numbers_of_the_plain_op(
    filters: tuple[int, ...], group: int, attributes: dict[str, Any], is_strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = Graph()
    g.is_strict = is_strict
    x, w = g.input("x", (3, filters[0], 5, 7)), g.param("w", filters)
    b = g.param("b", (filters[1] * group,))
    g.outputs = [g.emit("ConvTranspose", x, w, b, group=group, **attributes)]
    g.infer()
    random = np.random.default_rng(3)
    arrays = {name: random.standard_normal(g.shape(name)).astype(np.float32) for name in (x, w, b)}
    params = {name: arrays[name] for name in (w, b)}
    assert (blocked_ops(g, params) > 0) == (not is_strict)
    (ours,) = Compiled(g).run({x: arrays[x]}, params).values()
    monkeypatch.setattr("caffestat.engine.compiled.channel_block", lambda: 0)
    (plain,) = Compiled(g).run({x: arrays[x]}, params).values()
    np.testing.assert_allclose(ours, plain, rtol=0, atol=2e-6 * np.abs(plain).max())


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 8, 6), (1, 2, 4, 2, 6), (2, 3, 32)])
def test_an_affine_map_is_added(shape: tuple[int, ...], is_kept: bool) -> None:
    """The sum may be written over the value that is added, unless another node reads this later."""
    g = Graph()
    g.block = channel_block()
    random = np.random.default_rng(3)
    value, x = (random.standard_normal(shape).astype(np.float32) for _ in range(2))
    scale, bias = random.standard_normal((2, shape[1])).astype(np.float32)
    names = [g.input(name, array.shape) for name, array in zip("vxsb", (value, x, scale, bias), strict=True)]
    doubled = g.declare(g.emit("Add", names[0], names[0]), shape)
    assert blocked.fits_rows(g, names[1])
    result = blocked.affine(g, *names[1:], doubled)
    g.outputs = [g.emit("Neg", result), *([g.emit("Abs", doubled)] if is_kept else [])]
    found = Compiled(g).run(dict(zip(names, (value, x, scale, bias), strict=True)))
    column = (-1, *(1,) * (len(shape) - 2))
    expected = -(2 * value.astype(np.float64) + scale.reshape(column) * x + bias.reshape(column))
    np.testing.assert_allclose(found[g.outputs[0]], expected, rtol=1e-5, atol=1e-5)
    for name in g.outputs[1:]:
        np.testing.assert_array_equal(found[name], np.abs(2 * value))


def test_rows_that_do_not_fill_blocks_have_no_blocked_form() -> None:
    g = Graph()
    assert not blocked.fits_rows(g, g.input("x", (2, 3, 4, 8)))  # without a blocked layout
    g.block = 16
    assert not blocked.fits_rows(g, g.input("odd", (2, 3, 5, 5)))
    assert not blocked.fits_rows(g, g.input("rows", (2, 16)))
    assert not blocked.fits_rows(g, g.input("wide", (2, 3, 4, 8), np.float64))
    assert blocked.fits_rows(g, g.input("even", (2, 3, 4, 8)))
