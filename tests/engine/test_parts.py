"""Long graphs, cut into parts: they compute what the whole does, and let go of what is no longer read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.engine import CPU, Compiled, Statistics, compiled, parts
from caffestat.graph import Graph
from caffestat.graph.expand import expand
from caffestat.graph.order import in_order

X = np.random.default_rng(2).standard_normal((2, 3), np.float32)

SHORT = 50  # nodes


def chain(length: int) -> tuple[Graph, Statistics, list[str]]:
    """w · tanh(w · tanh(… x)), its gradients, and the mean |x| of every value."""
    g = Graph()
    y, w = g.input("x", X.shape), g.param("w", (3,))
    values = []
    for _ in range(length):
        y = g.declare(g.emit("Mul", g.declare(g.emit("Tanh", y), X.shape), w), X.shape)
        values.append(y)
    found = backward(g, {y: g.constant(np.ones(X.shape))}, [*values, w])
    g.infer()
    statistics = Statistics(g)
    for name in (*values, *(grad for grad in found.values() if grad)):
        statistics.mean_abs(name, name)
    g.outputs = [y, found[w] or ""]
    statistics.finish()
    return g, statistics, values


def shares_memory(given: Any) -> bool:
    """Tell whether a session's settings, the last of what `_open` is given, let it share memory with others."""
    try:
        return bool(given[-1].get_session_config_entry("session.use_env_allocators") == "1")
    except RuntimeError:  # never set
        return False


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiled._LONG, "cpu", SHORT)
    monkeypatch.setitem(compiled._DEEP_NODES, "cpu", SHORT)
    monkeypatch.setattr(parts, "_SIZES", {2_000: 40})


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("constant", [True, False])
def test_parts_compute_what_the_whole_does(constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    g, statistics, values = chain(30)
    opened = []
    before = compiled._open
    monkeypatch.setattr(compiled, "_open", lambda *given: opened.append(given) or before(*given))
    params = {"w": np.float32([1.1, -0.9, 1.3])}
    found = Compiled(g, CPU, params if constant else None).run({"x": X}, params)
    assert len(opened) > 4
    assert all(shares_memory(given) for given in opened)
    monkeypatch.setitem(compiled._LONG, "cpu", 10_000)
    expected = Compiled(g, CPU, params if constant else None).run({"x": X}, params)
    assert not shares_memory(opened[-1])
    for name in g.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-7)
    assert len(statistics.read(found)) == 2 * len(values) + 1


@pytest.mark.usefixtures("short")
def test_what_is_asked_for_crosses_parts_and_may_stay_on_the_device() -> None:
    g, _, values = chain(30)
    params = {"w": np.float32([1, 2, 3])}
    found = Compiled(g).run({"x": X}, params, [values[2], values[-1]], keep=[values[2]])
    np.testing.assert_allclose(found[values[2]].numpy(), Compiled(g).run({"x": X}, params, values[2:3])[values[2]])
    assert isinstance(found[values[-1]], np.ndarray)


@pytest.mark.usefixtures("short")
def test_no_activation_waits_for_the_statistics_at_the_end() -> None:
    g, _, values = chain(30)
    last = parts.cut(in_order(expand(g, g.outputs)), SHORT)[-1]
    assert not set(values[:20]) & set(last.inputs)


@pytest.mark.usefixtures("short")
def test_values_of_unknown_shape_cross_no_cut() -> None:
    g = Graph()
    y = g.input("x", X.shape)
    for number in range(90):
        y = g.emit("Tanh", y)
        if number in (5, 60):
            g.declare(y, X.shape)
    g.outputs = [y]
    assert [len(part.nodes) for part in parts.cut(g, SHORT)] == [61, 29]
    same = [y, "x", g.constant([7])]  # what no node computes, too
    found = Compiled(g).run({"x": X}, outputs=same)
    assert list(found) == same
    np.testing.assert_array_equal(found["x"], X)
    assert found[y].shape == X.shape


def test_short_graphs_stay_whole() -> None:
    g, _, _ = chain(10)
    assert parts.cut(g, 100) == [g]


@pytest.mark.usefixtures("short")
def test_no_value_crosses_in_two_shapes_or_under_two_names() -> None:
    g = Graph()
    y = x = g.input("x", X.shape)
    twice = g.reshape(g.copy(x), 3, 2)
    for _ in range(60):
        y = g.declare(g.emit("Tanh", y), X.shape)
    flat, copied = g.reshape(y, 6), g.copy(y)
    for _ in range(60):
        y = g.declare(g.emit("Tanh", y), X.shape)
    g.outputs = [g.emit("Sum", y, copied), g.reshape(flat, 1, 6), g.reshape(flat, 2, 3), twice, g.copy(flat)]
    g.infer()
    cut = parts.cut(in_order(expand(g, g.outputs)), SHORT)
    assert len(cut) > 3
    assert all(len(part.inputs) <= 2 for part in cut)
    deep = [X]
    for _ in range(120):
        deep.append(np.tanh(deep[-1]))
    found = [Compiled(g).run({"x": X})[name] for name in g.outputs]
    wanted = [deep[120] + deep[60], deep[60].reshape(1, 6), deep[60], X.reshape(3, 2), deep[60].reshape(6)]
    for ours, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, right, rtol=2e-5)


@pytest.mark.usefixtures("short")
def test_long_graphs_are_cut_into_larger_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    g = Graph()
    y = g.input("x", X.shape)
    for _ in range(170):
        y = g.declare(g.emit("Tanh", y), X.shape)
    g.outputs = [y]
    monkeypatch.setattr(parts, "_SIZES", {160: 30, 170: 40})
    monkeypatch.setattr(parts, "_LARGEST", 100)
    assert [len(part.nodes) for part in parts.cut(g, SHORT)] == [40, 40, 40, 40, 10]
    monkeypatch.setattr(parts, "_SIZES", {160: 30, 169: 40})
    assert [len(part.nodes) for part in parts.cut(g, SHORT)] == [100, 70]
