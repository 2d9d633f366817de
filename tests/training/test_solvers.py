"""Solver rules bit for bit from given gradients, against a reference with exact fused multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from caffestat.engine.axpby import fuses
from caffestat.schema import SolverParameter
from caffestat.training.solvers import BLOCK, SOLVERS, Rule, Scratch, fma, rule_of, solver, solver_type
from caffestat.training.solvers import axpby as axpby_in_place

F = np.float32
ITERATIONS = 5


def exact_fma(a: float, x: float, y: float) -> np.float32:
    """Return a*x + y rounded once: through exact fractions, and to the nearest float32 with ties to even."""
    exact = Fraction(float(a)) * Fraction(float(x)) + Fraction(float(y))
    near = F(float(exact))
    around = [np.nextafter(near, F(-np.inf)), near, np.nextafter(near, F(np.inf))]
    return min(around, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def axpby(a, x, b, y):
    return exact_fma(a, x, F(b) * F(y))


def sgd(s, g, r, t):
    s["h"] = axpby(r, g, F(0.9), s["h"])
    return s["h"]


def nesterov(s, g, r, t):
    before = s["h"]
    s["h"] = axpby(r, g, F(0.9), s["h"])
    return axpby(F(1) + F(0.9), s["h"], -F(0.9), before)


def adagrad(s, g, r, t):
    s["h"] = F(g * g) + s["h"]
    return r * (g / (np.sqrt(s["h"]) + F(1e-3)))


def rmsprop(s, g, r, t):
    s["h"] = axpby(F(1) - F(0.95), F(g * g), F(0.95), s["h"])
    return r * (g / (np.sqrt(s["h"]) + F(1e-3)))


def adadelta(s, g, r, t):
    s["h"] = axpby(F(1) - F(0.9), F(g * g), F(0.9), s["h"])
    u = g * np.sqrt((F(1e-3) + s["h2"]) / (F(1e-3) + s["h"]))
    s["h2"] = axpby(F(1) - F(0.9), F(u * u), F(0.9), s["h2"])
    return r * u


def adam(s, g, r, t):
    s["h"] = axpby(F(1) - F(0.9), g, F(0.9), s["h"])
    s["h2"] = axpby(F(1) - F(0.99), F(g * g), F(0.99), s["h2"])
    c = F(math.sqrt(1 - float(F(0.99)) ** (t + 1)) / (1 - float(F(0.9)) ** (t + 1)))
    return F(r * c) * (s["h"] / (np.sqrt(s["h2"]) + F(1e-3)))


REFERENCES: dict[str, tuple[Callable, dict]] = {
    "SGD": (sgd, {"momentum": 0.9}),
    "Nesterov": (nesterov, {"momentum": 0.9}),
    "AdaGrad": (adagrad, {"delta": 1e-3}),
    "RMSProp": (rmsprop, {"delta": 1e-3, "rms_decay": 0.95}),
    "AdaDelta": (adadelta, {"momentum": 0.9, "delta": 1e-3}),
    "Adam": (adam, {"momentum": 0.9, "momentum2": 0.99, "delta": 1e-3}),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_rules_bit_for_bit(name: str) -> None:
    reference, fields = REFERENCES[name]
    rule = rule_of(SolverParameter(type=name, **fields))
    random = np.random.default_rng(3)
    size = 37
    history = [np.zeros(size, F) for _ in range(rule.histories)]
    states = [{"h": F(0), "h2": F(0)} for _ in range(size)]
    for t in range(ITERATIONS):
        g = (random.normal(size=size) * 10.0 ** random.integers(-6, 3, size)).astype(F)
        rate = F(0.013) * F(t + 1)
        expected = [reference(state, value, rate, t) for state, value in zip(states, g, strict=True)]
        rule.update(g, history, rule.factor(rate, t), Scratch())
        assert g.tolist() == expected
        for number, array in enumerate(history):
            assert array.tolist() == [state["h2" if number else "h"] for state in states]


def test_fused_multiply_add_rounds_once() -> None:
    random = np.random.default_rng(5)
    x, y = (random.normal(size=500).astype(F) for _ in range(2))
    a = F(0.337)
    expected = [exact_fma(a, *pair) for pair in zip(x, y, strict=True)]
    apart = (a * x + y) != expected
    fma(a, x, y, Scratch())
    assert y.tolist() == expected
    assert apart.any()  # a rounded product gives other bits


@pytest.mark.parametrize("fused", [False, True])
def test_the_factor_0_makes_no_nan(fused: bool) -> None:
    x, y = (np.full(1 << 14, value, F) for value in (np.nan, 2))
    axpby_in_place(F(0), x, F(0.5), y, Scratch(fused))
    assert (y == 1).all()
    axpby_in_place(F(0.5), y, F(0), x, Scratch(fused))
    assert (x == 0.5).all()


@pytest.mark.parametrize("name", SOLVERS)
def test_a_rate_of_0_updates_nothing(name: str) -> None:
    """Statistics of a BatchNorm that has diverged: with weight decay their gradient is NaN."""
    rule = rule_of(SolverParameter(type=name, **REFERENCES[name][1]))
    gradient, history = np.array([np.nan, 3], F), [np.zeros(2, F) for _ in range(rule.histories)]
    rule.update(gradient, history, rule.factor(F(0), 0), Scratch())
    assert gradient.tolist() == [0, 0]


@pytest.mark.parametrize("name", SOLVERS)
def test_large_blocks_get_the_same_bits(name: str) -> None:
    if not fuses():
        pytest.skip("the runtime's kernel does not fuse multiply and add on this processor")
    random, found = np.random.default_rng(8), []
    gradients = random.normal(size=(ITERATIONS, 1 << 14)).astype(F)
    for scratch in (Scratch(), Scratch(fused=True)):
        rule = rule_of(SolverParameter(type=name, **REFERENCES[name][1]))
        history = [np.zeros(gradients.shape[1], F) for _ in range(rule.histories)]
        updates = gradients.copy()
        for t, update in enumerate(updates):
            rule.update(update, history, rule.factor(F(0.013) * F(t + 1), t), scratch)
        found.append([updates, *history])
    for plain, fused in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, fused)


def test_blocks_are_no_larger_than_the_scratch() -> None:
    assert Scratch().wide(BLOCK).size == Scratch().narrow(BLOCK, 1).size == BLOCK


def test_adams_factor_with_a_momentum_beyond_all_numbers() -> None:
    rule = rule_of(SolverParameter(type="Adam", momentum=3e30, momentum2=1e30))
    assert math.isnan(rule.factor(F(0.5), 20))  # √(1 - inf) / (1 - inf)


def test_legacy_types_and_a_type_that_is_taken() -> None:
    names = [solver_type(SolverParameter(solver_type=number)) for number in range(6)]
    assert names == list(SOLVERS)[: len(names)]
    assert solver_type(SolverParameter()) == "SGD"
    with pytest.raises(ValueError, match="'SGD' is already registered by SGD"):
        solver("SGD")(SOLVERS["Adam"])


def test_a_class_that_is_no_complete_rule_is_refused() -> None:
    for cls in (type("Idle", (Rule,), {}), type("Other", (), {"update": print})):
        with pytest.raises(ValueError, match=f"class {cls.__name__} is no Rule with an update of its own"):
            solver("Own")(cls)
    assert "Own" not in SOLVERS
