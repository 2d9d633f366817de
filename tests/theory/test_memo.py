"""What walks share: answers to equal questions, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.theory import Gradient, Memo, Source, Walk, advance, begin, memo, normal, propagate
from caffestat.theory.sources import constant, uniform


def layers(alphas: Sequence[float], factor: float = 3.0, pads: int = 1) -> Graph:
    """y = factor · (leaky(w₁ * x) + leaky(w₂ * x)), the weights of one shape."""
    g = Graph()
    x = g.input("x", (2, 3, 7, 5))
    sides = []
    for index, alpha in enumerate(alphas):
        w = g.param(f"w{index}", (4, 3, 3, 3))
        z = g.emit("Conv", x, w, hint=f"z{index}", pads=[pads] * 4, strides=[1, 1])
        sides.append(g.emit("LeakyRelu", z, hint=f"a{index}", alpha=alpha))
    g.emit("Mul", g.emit("Add", *sides, hint="sum"), g.constant(factor), hint="y")
    return g


def walk(g: Graph, shared: Memo | None = None, stop: Sequence[str] = ()) -> Walk:
    inputs = {name: uniform(-0.3, 0.3) for name in g.params} | {name: normal(0.2, 1.0) for name in g.inputs}
    return propagate(g, inputs, {"y": Gradient.of(Source(1.0))}, stop, shared)


def numbers(found: Walk) -> list[float]:
    """The moments of all that is computed, and of all gradients."""
    signals = [found.signal(value) for node in found.graph.nodes for value in node.outputs]
    moments = [one.moments for one in (*signals, *found.gradients.values()) if one]
    return [number for m in moments for number in (m.mean, m.second, m.mean_abs)]


def test_equal_graphs_share_all_that_is_worked_out() -> None:
    shared = Memo()
    one, two = (walk(layers([0.1, 0.2]), shared) for _ in range(2))
    values = [value for node in one.graph.nodes for value in node.outputs]
    assert all(two.signals[value] is one.signals[value] for value in (*values, "x", "w0", "w1"))
    assert all(two.gradients[value] is gradient for value, gradient in one.gradients.items())
    assert numbers(two) == numbers(walk(layers([0.1, 0.2])))


@pytest.mark.parametrize(
    "other",
    [
        layers([0.1, 0.3]),
        layers([0.1, 0.2], factor=2.0),
        layers([0.1, 0.2], pads=0),
        layers([0.2, 0.1]),
    ],
    ids=["attribute", "constant", "window", "order"],
)
def test_graphs_that_differ_say_the_same_with_and_without_it(other: Graph) -> None:
    shared = Memo()
    before = walk(layers([0.1, 0.2]), shared)
    assert numbers(walk(other, shared)) == numbers(walk(other))
    assert numbers(walk(layers([0.1, 0.2]), shared)) == numbers(before)


def test_a_common_beginning_is_shared() -> None:
    shared = Memo()
    one, two = walk(layers([0.1, 0.2]), shared), walk(layers([0.1, 0.3]), shared)
    assert two.signals["z1"] is one.signals["z1"]
    assert two.signals["a1"] is not one.signals["a1"]


def test_equal_params_are_variables_of_their_own() -> None:
    """E[(a + b)²] of independent a, b of one distribution is 2 E[a²] + 2 E[a]²; 4 E[a²] were they one."""
    found = walk(layers([1.0, 1.0]), Memo())
    a, total = found.signal("a0"), found.signal("sum")
    assert a is not None and total is not None
    assert total.second == pytest.approx(2 * a.second + 2 * a.mean**2, rel=1e-3)


def test_inputs_of_other_distributions_or_shapes_are_told_apart() -> None:
    def of(std: float, samples: int) -> float:
        g = Graph()
        x = g.input("x", (samples, 3, 4))
        g.emit("ReduceMean", x, g.ints(0), hint="y", keepdims=1)
        return propagate(g, {"x": normal(0.0, std**2)}, {}, memo=shared).signals["y"].second  # type: ignore[union-attr]

    shared = Memo()
    assert of(2.0, 5) == pytest.approx(4 / 5)
    assert of(1.0, 5) == pytest.approx(1 / 5)
    assert of(1.0, 2) == pytest.approx(1 / 2)


def test_gradients_that_nobody_wants_are_told_apart() -> None:
    shared = Memo()
    stopped = walk(layers([0.1, 0.2]), shared, stop=["x", "w0", "w1"])
    assert "x" not in stopped.gradients
    assert numbers(walk(layers([0.1, 0.2]), shared)) == numbers(walk(layers([0.1, 0.2])))


def test_a_cut_from_the_backward_pass_is_told_apart() -> None:
    def of(detaches: bool) -> bool:
        g = Graph()
        x = g.input("x", (3, 4))
        side = g.detach(x) if detaches else g.copy(x)
        g.emit("Relu", side, hint="y")
        return "x" in walk(g, shared).gradients

    shared = Memo()
    assert [of(False), of(True), of(False)] == [True, False, True]


def test_what_is_long_unused_is_forgotten_and_the_rest_stays_consistent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal and a function of it stay functions of one variable when other walks made the memo forget."""
    monkeypatch.setattr(memo, "_KEPT", 3)
    shared = Memo()
    kept = walk(layers([0.1, 0.2]), shared)
    for alpha in (0.4, 0.5, 0.6):
        assert walk(layers([0.1, alpha]), shared).signals["z0"] is kept.signals["z0"]
    assert walk(layers([0.1, 0.2]), shared).signals["a1"] is not kept.signals["a1"]
    assert numbers(walk(layers([0.1, 0.2]), shared)) == numbers(kept)


def test_arrays_too_large_to_compare_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(value: float) -> float:
        g = Graph()
        g.emit("Add", g.input("x", (1, 5)), g.constant(np.linspace(0.0, value, 5)), hint="y")
        return propagate(g, {"x": constant(0.0)}, {}, memo=shared).signals["y"].second  # type: ignore[union-attr]

    shared = Memo()
    monkeypatch.setattr(memo, "_LARGE", 8)
    assert of(4.0) == pytest.approx(6.0)
    assert of(8.0) == pytest.approx(24.0)


def test_an_input_that_is_given_anew_changes_what_follows() -> None:
    g = Graph()
    g.emit("Relu", g.input("x", (3, 4)), hint="y")
    found = begin(g, {"x": constant(2.0)})
    for value in (2.0, 5.0, 2.0):
        found.give("x", constant(value))
        advance(found, found.steps[0])
        assert found.signals["y"].mean == pytest.approx(value)  # type: ignore[union-attr]
