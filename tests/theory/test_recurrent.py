"""RNN, GRU and LSTM: their steps against the runtime's kernels, and predictions against Monte Carlo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.graph import Graph, Node
from caffestat.theory import propagate
from caffestat.theory.rules.recurrent import recurrent
from caffestat.theory.signal import normal

from .graphs import Case, measure, predict

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STATES = {"RNN": 1, "GRU": 1, "LSTM": 2}


def shapes(op: str, hidden: int, inputs: int, directions: int, bias: bool = True) -> list[tuple[int, ...]]:
    """Return those of W, R and B."""
    width = GATES[op] * hidden
    found = [(directions, width, inputs), (directions, width, hidden), (directions, 2 * width)]
    return found[: 2 + bias]


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("RNN", {"activations": ["Relu"]}),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
    ("LSTM", {"direction": "bidirectional", "activations": ["HardSigmoid", "Softsign", "Tanh"] * 2}),
]


@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize(("op", "settings"), SETTINGS)
def test_the_steps_compute_what_the_op_does(op: str, settings: dict[str, Any], initial: bool) -> None:
    steps, batch, inputs, hidden = 4, 3, 5, 6
    directions = 2 if settings.get("direction") == "bidirectional" else 1
    random = np.random.default_rng(1)
    g = Graph()
    names = [g.input("x", (steps, batch, inputs))]
    names += [g.input("w", shape) for shape in shapes(op, hidden, inputs, directions)]
    if initial:
        names += ["", *(g.input("state", (directions, batch, hidden)) for _ in range(STATES[op]))]
    outputs = g.emit_many(op, *names, count=1 + STATES[op], hidden_size=hidden, **settings)
    g.infer()
    g.outputs = outputs
    feeds = {name: random.normal(0, 0.5, spec.shape).astype(np.float32) for name, spec in g.inputs.items()}
    expected = Compiled(g).run(feeds)
    plain = g.fork()
    plain.nodes = list(recurrent(plain, g.nodes[0]))
    assert len(plain.nodes) > steps
    found = Compiled(plain).run(feeds)
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
        assert plain.shape(name) == expected[name].shape


@pytest.mark.parametrize(("op", "settings"), SETTINGS)
def test_predictions(op: str, settings: dict[str, Any]) -> None:
    """Weights count as drawn anew in every step."""
    directions = 2 if settings.get("direction") == "bidirectional" else 1

    def build(g: Graph, x: str, params: Any) -> str:
        return g.emit_many(op, x, *params, count=1 + STATES[op], hidden_size=24, **settings)[0]

    case = Case((6, 16, 18), build, tuple(shapes(op, 24, 18, directions, bias=op != "LSTM")), w_std=0.2)
    for found, expected in zip(predict(case), measure(case, draws=20), strict=True):
        assert found is not None
        assert found.mean_abs == pytest.approx(expected.mean_abs, rel=0.1)
        assert found.second == pytest.approx(expected.second, rel=0.2)


@pytest.mark.parametrize("what", ["long", "peepholes"])
def test_what_is_not_predicted_is_named(what: str) -> None:
    g, steps = Graph(), 33 if what == "long" else 5
    names = [g.input("x", (steps, 2, 3)), *(g.param("w", shape) for shape in shapes("LSTM", 4, 3, 1))]
    if what == "peepholes":
        names += ["", "", "", g.param("p", (1, 12))]
    g.nodes.append(Node("LSTM", tuple(names), ("y", "h"), {"hidden_size": 4}))
    walk = propagate(g, {name: normal(0, 1) for name in (*g.inputs, *g.params)}, {})
    assert [gap.reason for gap in walk.gaps] == ["op LSTM is not predicted with these settings"]
