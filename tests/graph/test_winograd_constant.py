"""Convolutions by minimal filtering with constant filters give the numbers of the plain op."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from caffestat.autodiff import gradient
from caffestat.graph import Convolution, winograd_constant
from caffestat.ops import Window

from .models import model, normal, run

CASES: dict[str, tuple[int, int, int, tuple[int, int], dict[str, Any]]] = {  # channels, filters, group, kernel
    "3x3": (16, 32, 1, (3, 3), {"pads": [1, 1, 1, 1]}),
    "no pads": (32, 16, 1, (3, 3), {}),
    "uneven pads": (16, 48, 1, (3, 3), {"pads": [0, 2, 1, 0]}),
    "groups": (32, 64, 2, (3, 3), {"pads": [2, 1, 2, 1]}),
    "same": (48, 16, 1, (3, 3), {"auto_pad": "SAME_LOWER"}),
    "2x3": (16, 32, 1, (2, 3), {"pads": [1, 0, 0, 2]}),
    "1x3": (32, 16, 1, (1, 3), {"pads": [0, 1, 0, 1]}),
}


def choose(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Filter along so many axes wherever it is possible."""
    form = winograd_constant._Form
    monkeypatch.setattr(winograd_constant, "_best", lambda c: form(c, count) if count else None)


def convolved(channels: int, filters: int, group: int, kernel: tuple[int, int], **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=group, **attributes)
    arrays = {"w": normal(filters, channels // group, *kernel), "b": normal(filters, seed=4)}
    return model([node], {"x": (2, channels, 13, 11)}, ["y"], arrays)


def filtered(proto: onnx.ModelProto) -> int:
    """Return how many convolutions a model has that cut an image into tiles along its rows."""
    attributes = (attribute for node in proto.graph.node for attribute in node.attribute)
    return sum(found.name == "strides" and list(found.ints) == [1, 4] for found in attributes)


@pytest.mark.parametrize(
    ("case", "count"),
    [(case, count) for case in CASES.values() for count in (1, 2) if count == 1 or case[3][0] == 3],
    ids=str,
)
def test_it_gives_the_numbers_of_the_plain_op(case: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    *sizes, kernel, attributes = case
    proto = convolved(*sizes, kernel, **attributes)
    choose(monkeypatch, 0)
    plain = gradient(proto)
    out = run(proto, {"x": normal(2, sizes[0], 13, 11, seed=1)})["y"].shape
    feeds = {"x": normal(2, sizes[0], 13, 11, seed=1), "cotangent/y": normal(*out, seed=2)}
    expected = run(plain, feeds)
    choose(monkeypatch, count)
    ours = gradient(proto)
    assert (filtered(plain), filtered(ours)) == (0, 2 * 6**count)  # y and dx
    for name, array in run(ours, feeds).items():
        limit = 1e-6 if count == 1 else 3e-6
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=limit * np.abs(expected[name]).max())


@pytest.mark.parametrize(
    "other",
    [
        {"strides": [1, 2]},
        {"dilations": [1, 2]},
        {"channels": 8},
        {"filters": 24},
        {"kernel": (3, 5)},
        {"kernel": (3, 1)},
    ],
    ids=str,
)
def test_other_convolutions_stay(other: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, 1)
    settings: dict[str, Any] = {"channels": 16, "filters": 32, "group": 1, "kernel": (3, 3), **other}
    assert filtered(gradient(convolved(**settings), wrt="w")) == 0


def test_filters_that_change_from_run_to_run_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    choose(monkeypatch, 1)
    nodes = [helper.make_node("Relu", ["w"], ["v"]), helper.make_node("Conv", ["x", "v"], ["y"])]
    proto = model(nodes, {"x": (2, 16, 6, 7), "w": (32, 16, 3, 3)}, ["y"])
    assert filtered(gradient(proto)) == 0


@pytest.mark.parametrize(
    ("batch", "channels", "filters", "size", "count"),
    [
        (4, 64, 64, 56, 1),  # ResNet-18
        (4, 512, 512, 14, 2),
        (4, 256, 256, 14, 1),
        (4, 512, 512, 7, 1),
        (2, 128, 64, 64, 1),  # U-Net
        (2, 32, 32, 128, 0),
        (1, 16, 16, 5, 0),
    ],
)
def test_it_is_taken_where_it_was_measured_to_be_faster(
    batch: int, channels: int, filters: int, size: int, count: int
) -> None:
    ones = (1, 1)
    sliding = Window((size, size), (size, size), (3, 3), ones, ones, ones)
    found = winograd_constant._best(Convolution(sliding, batch, 1, channels, filters))
    assert (found.count if found else 0) == count
