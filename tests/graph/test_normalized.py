"""Normalizations that scale and shift in the same op, against numpy in float64."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest

from caffestat.engine import Compiled, Statistics
from caffestat.graph import Graph
from caffestat.graph.channels import channel_affine, channel_dot
from caffestat.graph.expand import expand

SHAPE = (3, 4, 30, 20)
EPSILON = 1e-3


def chain(
    scales_by: str = "scale", reads_before: bool = False, shape: tuple[int, ...] = SHAPE
) -> tuple[Graph, dict[str, str]]:
    """Return the graph of y, x normalized, and of z = scale · y + bias, Σ dy · y, and 2 · y + 3 per channel."""
    g = Graph()
    x, dy = (g.input(name, shape) for name in ("x", "dy"))
    scale, bias = (g.param(name, (4,)) for name in ("scale", "bias"))
    zeros, ones = (g.constant(np.full(4, value)) for value in (0, 1))
    scratch = [g.emit(op, bias) for op in ("Neg", "Abs")]
    settings = {"epsilon": EPSILON, "training_mode": 1, "momentum": 0.0}
    y, mean, variance = g.emit_many("BatchNormalization", x, ones, zeros, *scratch, count=3, hint="y", **settings)
    for name, known in ((y, shape), (mean, (4,)), (variance, (4,))):
        g.declare(name, known)
    by = scale if scales_by == "scale" else g.declare(g.emit("Neg", scale), (4,))
    before = [g.emit("Neg", y)] if reads_before else []
    values = {"z": channel_affine(g, y, by, bias, "z"), "y": y, "mean": mean, "variance": variance}
    values["r"] = g.declare(g.emit("Relu", values["z"]), shape)
    values["dot"] = channel_dot(g, dy, y)
    values["affine"] = channel_affine(g, y, g.constant(np.full(4, 2)), g.constant(np.full(4, 3)))
    g.outputs = [*values.values(), *before]
    return g, values


def passes(g: Graph, outputs: Collection[str]) -> list[int]:
    """Return of each BatchNormalization whether it is in training mode."""
    nodes = expand(g, list(outputs)).nodes
    return [node.get("training_mode", 0) for node in nodes if node.op == "BatchNormalization"]


@pytest.mark.parametrize("asked", [("z", "mean", "variance", "dot", "affine"), ("y", "z", "dot", "affine", "mean")])
@pytest.mark.parametrize("scales_by", ["scale", "another"])
def test_values(asked: tuple[str, ...], scales_by: str) -> None:
    random = np.random.default_rng(2)
    x = (random.standard_normal(SHAPE) * [[[[0.1]], [[1.0]], [[3.0]], [[0.5]]]] + 5).astype(np.float32)
    dy = random.standard_normal(SHAPE).astype(np.float32)
    scale, bias = random.standard_normal((2, 4)).astype(np.float32)
    g, values = chain(scales_by=scales_by)
    found = Compiled(g).run({"x": x, "dy": dy}, {"scale": scale, "bias": bias}, [values[name] for name in asked])
    exact, axes = x.astype(np.float64), (0, 2, 3)
    mean, variance = exact.mean(axes), exact.var(axes)
    y = (exact - mean[:, None, None]) / np.sqrt(variance + EPSILON)[:, None, None]
    by = scale if scales_by == "scale" else -scale
    expected = {"y": y, "mean": mean, "variance": variance, "z": by[:, None, None] * y + bias[:, None, None]}
    expected |= {"dot": (dy * y).sum(axes), "affine": 2 * y + 3}
    for name in asked:
        np.testing.assert_allclose(found[values[name]], expected[name], rtol=2e-5, atol=1e-3 if name == "dot" else 5e-5)


def test_what_only_an_affine_map_reads_is_not_computed() -> None:
    g, values = chain()
    assert passes(g, [values["z"], values["mean"], values["dot"]]) == [1]
    assert sorted(passes(g, [values["z"], values["affine"]])) == [0, 1]
    assert sorted(passes(g, [values["z"], values["y"]])) == [0, 1]


@pytest.mark.parametrize(("scales_by", "reads_before"), [("another", False), ("scale", True)])
def test_other_normalizations_stay(scales_by: str, reads_before: bool) -> None:
    """The scale is computed behind, or another node reads what is normalized."""
    g, values = chain(scales_by, reads_before)
    others = g.outputs[len(values) :]
    first = expand(g, [values["z"], *others]).nodes
    (node,) = (node for node in first if node.op == "BatchNormalization" and node.get("training_mode", 0))
    assert node.outputs[0] == values["y"]


# long rows; more elements than are summed up as |x| at once; rows too short for sums per channel
@pytest.mark.parametrize("shape", [(3, 4, 61, 40), (11, 4, 320, 300), (600, 4, 5, 3)])
@pytest.mark.parametrize(
    ("scale", "bias"),
    [
        ([0.5, 2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]),
        ([0.5, -2.0, 1.0, 3.0], [0.0, 0.0, 0.0, 0.0]),
        ([0.5, 2.0, 0.0, 3.0], [0.0, 0.0, 0.0, 0.0]),
        ([0.5, 2.0, 1.0, 3.0], [0.0, 0.0, 0.1, 0.0]),
        ([0.5, 2.0, 1.0, 3.0], [0.0, 0.1, -0.1, 0.0]),
    ],
)
@pytest.mark.parametrize(("constant", "asked"), [(True, "yz"), (False, "yz"), (True, "yzr"), (False, "rz")])
def test_means_of_what_is_normalized_and_scaled(
    shape: tuple[int, ...], scale: list[float], bias: list[float], constant: bool, asked: str
) -> None:
    g, values = chain(shape=shape)
    params = {"scale": np.array(scale, np.float32), "bias": np.array(bias, np.float32)}
    g.outputs = [values["z"]]
    statistics = Statistics(g)
    for name in asked:
        statistics.mean_abs(name, values[name])
    statistics.finish()
    x = np.random.default_rng(3).gamma(1, 1, shape).astype(np.float32)
    compiled = Compiled(g, constant=params if constant else None)
    found = statistics.read(compiled.run({"x": x}, {} if constant else params))
    y, axes = x.astype(np.float64), (0, 2, 3)
    y -= y.mean(axes, keepdims=True)
    y /= np.sqrt((y**2).mean(axes, keepdims=True) + EPSILON)
    z = y * np.reshape(scale, (4, 1, 1)) + np.reshape(bias, (4, 1, 1))
    exact = {"y": y, "z": z, "r": np.maximum(z, 0)}
    assert found == {name: pytest.approx(np.abs(exact[name]).mean(), rel=5e-6) for name in asked}


def test_what_is_rectified_has_the_mean_of_what_it_is_made_of() -> None:
    """Its sums per channel tell it, and no other node reads what was normalized."""
    g, values = chain(shape=(3, 4, 61, 40))
    statistics = Statistics(g)
    for name in "zr":
        statistics.mean_abs(name, values[name])
    statistics.finish()
    readers = [node.op for node in expand(g, [statistics.OUTPUT]).nodes if values["z"] in node.inputs]
    assert readers == ["Relu"]


def test_what_is_normalized_is_not_computed_for_its_mean() -> None:
    """Where the channels' sums of what scales it tell it; else a branch of an If computes it."""
    g, values = chain(shape=(3, 4, 61, 40))
    statistics = Statistics(g)
    statistics.mean_abs("y", values["y"])
    statistics.finish()
    assert passes(g, [values["z"], statistics.OUTPUT]) == [1]


def test_given_statistics_are_not_written_over() -> None:
    random = np.random.default_rng(3)
    g = Graph()
    x, scale, bias = g.input("x", SHAPE), g.input("scale", (4,)), g.input("bias", (4,))
    same = g.constant(np.full(4, 0.5))  # for both statistics
    settings = {"training_mode": 1, "momentum": 0.75}
    outputs = g.emit_many("BatchNormalization", x, scale, bias, same, same, count=3, **settings)
    y = g.declare(outputs[0], SHAPE)
    more = g.emit_many("BatchNormalization", y, scale, bias, same, g.input("given", (4,)), count=3, **settings)
    g.outputs = [g.emit("Neg", value) for value in (*outputs[1:], *more[1:])]
    feeds = {name: random.uniform(0.5, 2, spec.shape).astype(np.float32) for name, spec in g.inputs.items()}
    given, compiled = feeds["given"].copy(), Compiled(g)
    first, second = ([compiled.run(feeds)[name] for name in g.outputs] for _ in range(2))
    exact = feeds["x"].astype(np.float64)
    mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3))
    ratio = feeds["scale"] ** 2 * variance / (variance + 1e-5)
    expected = [0.375 + 0.25 * mean, 0.375 + 0.25 * variance, 0.375 + 0.25 * feeds["bias"], 0.75 * given + 0.25 * ratio]
    np.testing.assert_allclose(first, np.negative(expected), rtol=1e-5)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(feeds["given"], given)
