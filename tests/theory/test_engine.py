"""The walk over graphs that hold ops without a rule."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.graph import Graph
from caffestat.theory import Gradient, Source, Walk, engine, normal, propagate


def graph() -> Graph:
    """y = tanh(f(relu(x))) + tanh(x), f an op that nobody has heard of."""
    g = Graph()
    x = g.input("x", (3, 5))
    f = g.declare(g.emit("Frobnicate", g.emit("Relu", x, hint="r"), hint="f"), (3, 5))
    g.emit("Add", g.emit("Tanh", f, hint="t"), g.emit("Tanh", x, hint="beside"), hint="y")
    return g


def walk(g: Graph) -> Walk:
    return propagate(g, {"x": normal(0, 1)}, {"y": Gradient.of(Source(1.0))})


def test_a_gap_says_where_and_why() -> None:
    [gap] = walk(graph()).gaps
    assert (gap.node.op, gap.reason) == ("Frobnicate", "there is no moments rule for op Frobnicate")


def test_a_guard_that_is_known_takes_one_branch_whatever_the_other_is() -> None:
    """1 / factor where the factor is not 0, else 0: as statistics that nobody has stored yet are read."""
    g = Graph()
    factor = g.input("factor", (1,))
    inverse = g.emit("Reciprocal", factor)
    y = g.emit("Where", g.emit("Equal", factor, g.constant(0)), g.constant(0), inverse, hint="y")
    zero, two = (propagate(g, {"factor": normal(value, 0)}, {}) for value in (0.0, 2.0))
    assert zero.signal(inverse) is None
    for found, expected in ((zero, 0.0), (two, 0.5)):
        signal = found.signal(y)
        assert signal is not None
        assert signal.mean == pytest.approx(expected)


def test_rules_that_return_too_little_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine._FORWARD, "Frobnicate", lambda walk, node: [])
    [gap] = walk(graph()).gaps
    assert gap.reason == "the moments rule of op Frobnicate says nothing of its outputs"
    monkeypatch.setitem(engine._FORWARD, "Frobnicate", lambda walk, node: [normal(0, 1)])
    monkeypatch.setitem(engine._BACKWARD, "Frobnicate", lambda walk, node, dys: [])
    with pytest.raises(InputError, match="backward moments rule of op Frobnicate returns 0 gradients for 1 inputs"):
        walk(graph())


def test_a_gap_leaves_unknown_what_depends_on_it() -> None:
    found = walk(graph())
    assert [gap.node.op for gap in found.gaps] == [
        "Frobnicate"
    ]  # not the Tanh behind it, whose input is unknown already
    assert [found.knows(name) for name in ("r", "beside", "f", "t", "y")] == [True, True, False, False, False]
    assert found.gradient_moments("x") is None
    assert found.gradient_moments("nobody reads it") is not None


def test_an_op_of_another_domain_is_not_ours() -> None:
    g = Graph()
    g.domains["org.other"] = 1
    g.declare(g.emit("Relu", g.input("x", (3, 5)), domain="org.other", hint="y"), (3, 5))
    found = walk(g)
    assert not found.knows("y")
    assert [gap.node.domain for gap in found.gaps] == ["org.other"]


def test_values_of_unknown_shape_or_without_elements_are_gaps() -> None:
    g = Graph()
    g.emit("Relu", g.input("x", (0, 5)), hint="y")
    found = walk(g)
    assert not found.knows("y")
    assert len(found.gaps) == 1


def test_what_is_declared_unpredicted_is_a_gap_and_no_error() -> None:
    g = Graph()
    g.emit("CumSum", g.input("x", (3, 5)), g.constant(1, np.int64), hint="y")
    found = walk(g)
    assert not found.knows("y")
    assert [gap.node.op for gap in found.gaps] == ["CumSum"]
    assert [gap.reason for gap in found.gaps] == ["the values of op CumSum are not predicted"]


@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool"])
def test_windows_over_very_long_axes_are_gaps(op: str) -> None:
    """They are matrices of places: an hour of sound has more than any memory holds."""
    g = Graph()
    weights = [g.param("w", (2, 1, 9))] if op == "Conv" else []
    g.emit(op, g.input("x", (1, 1, 10_000_000)), *weights, kernel_shape=[9], hint="y")
    found = propagate(g, {"x": normal(0, 1), "w": normal(0, 1)}, {"y": Gradient.of(Source(1.0))})
    assert [gap.node.op for gap in found.gaps] == [op]
    assert [gap.reason for gap in found.gaps] == [f"the axes of op {op} are too long for sums over its windows"]
    assert found.gradient_moments("x") is None


def test_what_overflows_stays_at_what_a_run_can_hold() -> None:
    g = Graph()
    x = g.input("x", (2, 3))
    y = x
    for _ in range(60):
        y = g.emit("Mul", y, g.constant(1e6))
    walk = propagate(g, {x: normal(0.0, 1.0)}, {y: Gradient.of(Source(1.0))})
    signal, dx = walk.signal(y), walk.gradient(x)
    assert signal is not None
    assert signal.second == pytest.approx(float(np.finfo(np.float32).max) ** 2)
    assert dx is not None
    assert not dx.known


@np.errstate(invalid="ignore")
def test_no_number_is_unknown() -> None:
    g = Graph()
    x = g.input("x", (2, 3))
    y = g.emit("Relu", x)
    walk = propagate(g, {x: normal(0.0, math.inf)}, {})
    assert walk.signal(x) is None
    assert walk.signal(y) is None


def test_a_region_is_predicted_backward_by_the_op_of_which_its_gradient_is_the_derivative() -> None:
    def gradient_of(*slope: str) -> float:
        g = Graph()
        x = g.input("x", (64, 5))

        def levels(value: str) -> tuple[str, ...]:
            above = g.emit("Greater", value, g.constant(0.5))
            return (g.emit("Where", above, g.constant(1.0), g.constant(0.0)),)

        named = (slope[0], g.constant(0.0), g.constant(1.0)) if slope == ("Clip",) else slope
        (y,) = g.custom_vjp((x,), levels, lambda tape, dys: dys, slope=named)
        walk = propagate(g, {x: normal(0.0, 1.0)}, {y: Gradient.of(Source(1.0))})
        signal, dx = walk.signal(y), walk.gradient_moments(x)
        assert signal is not None and dx is not None
        assert signal.mean == pytest.approx(0.3085, abs=0.02)  # of the values, whatever the slope is
        return dx.second

    assert gradient_of() == 0
    assert gradient_of("Identity") == pytest.approx(1)
    assert gradient_of("Clip") == pytest.approx(0.3413, rel=0.03)


def test_indices_of_a_gather_are_known_without_a_distribution() -> None:
    g = Graph()
    indices = g.constant(np.arange(4), np.int64)
    y = g.emit("Gather", g.input("x", (5, 3)), indices, hint="y", axis=0)
    found = walk(g)
    assert found.knows(y, indices)
    assert indices not in found.signals
    assert not found.knows(g.constant(np.array([1.0, math.nan])))
