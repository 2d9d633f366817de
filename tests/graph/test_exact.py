"""Convolutions of gradient models that minimal filtering leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from caffestat.autodiff import gradient
from caffestat.graph import Graph
from caffestat.graph.exact import exact_convolutions
from caffestat.graph.fold import fold_normalizations
from caffestat.graph.winograd import Tiles

from .models import model, normal, run


def exact(g: Graph, arrays: dict[str, np.ndarray]) -> list[bool]:
    """Tell for each convolution of a graph whether it stays as it is."""
    found = exact_convolutions(g, arrays)
    return [node.outputs[0] in found for node in g.nodes if node.op == "Conv"]


def convolve(g: Graph, x: str, **params: tuple[int, ...]) -> str:
    return g.emit("Conv", x, *(g.param(name, shape) for name, shape in params.items()), pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    ("bias", "stays"), [(None, True), ([0.5, -0.1], False), ([0.5, 0], True), ([1e-6, 1], True), ([-2e-5, 3], False)]
)
def test_a_convolution_without_a_bias_far_from_zero_stays(bias: list[float] | None, stays: bool) -> None:
    g = Graph()
    params: dict[str, tuple[int, ...]] = {"w": (2, 3, 3, 3)} | ({} if bias is None else {"b": (2,)})
    g.outputs = [g.emit("Relu", convolve(g, g.input("x", (1, 3, 6, 5)), **params))]
    assert exact(g, {"w": normal(2, 3, 3, 3), "b": np.array(bias or 0, np.float32)}) == [stays]


@pytest.mark.parametrize(("shift", "stays"), [(0.5, False), (0.0, True)])
def test_the_bias_that_a_normalization_makes_is_worked_out(shift: float, stays: bool) -> None:
    g = Graph()
    y = convolve(g, g.input("x", (1, 3, 6, 5)), w=(2, 3, 3, 3))
    statistics = [g.param(name, (2,)) for name in ("scale", "shift", "mean", "variance")]
    g.outputs = [g.emit("BatchNormalization", y, *statistics)]
    assert fold_normalizations(g, ()) == 1
    arrays = {"w": normal(2, 3, 3, 3), "scale": np.array([1, 2], np.float32), "mean": np.zeros(2, np.float32)}
    arrays |= {"shift": np.array([shift, 1], np.float32), "variance": np.array([1, 3], np.float32)}
    assert exact(g, arrays) == [stays]
    assert exact(g, {name: array for name, array in arrays.items() if name != "mean"}) == [True]


def test_what_a_pooling_by_max_reads_stays() -> None:
    g = Graph()
    first = g.emit("Relu", convolve(g, g.input("x", (1, 2, 8, 8)), v=(2, 2, 3, 3), a=(2,)))
    pooled = g.emit("MaxPool", first, kernel_shape=[2, 2], strides=[2, 2])
    second = g.emit("Relu", convolve(g, pooled, w=(2, 2, 3, 3), b=(2,)))
    g.outputs = [g.emit("AveragePool", second, kernel_shape=[2, 2])]
    ones = np.ones(2, np.float32)
    assert exact(g, {"v": normal(2, 2, 3, 3), "w": normal(2, 2, 3, 3), "a": ones, "b": ones}) == [True, False]


def test_a_black_background_passes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without minimal filtering: a ReLU of zeros passes none."""
    pads: dict[str, Any] = {"pads": [1] * 4}
    nodes = [helper.make_node("Conv", ["x", "v"], ["c"], **pads), helper.make_node("Relu", ["c"], ["r"])]
    nodes += [helper.make_node("Conv", ["r", "w", "b"], ["d"], **pads), helper.make_node("Relu", ["d"], ["y"])]
    arrays = {"v": normal(6, 4, 3, 3), "w": normal(5, 6, 3, 3, seed=4), "b": normal(5)}
    proto = model(nodes, {"x": (1, 4, 13, 11)}, ["y"], arrays)
    x = normal(1, 4, 13, 11, seed=1)
    x[:, :, 2:11, 3:9] = 0
    feeds = {"x": x, "cotangent/y": normal(1, 5, 13, 11, seed=2)}
    monkeypatch.setattr(Tiles, "pays", lambda *_: True)
    made = gradient(proto, wrt=["c"])
    assert not run(made, feeds)["grad/c"][:, :, 4:9, 5:7].any()
    assert [node.op_type for node in made.graph.node].count("Gather") == 2  # of the second one: y and dx
