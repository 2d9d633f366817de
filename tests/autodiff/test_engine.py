"""The reverse walk: what flows where, in which order, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import Tape, backward, engine, gradient_free, vjp
from caffestat.autodiff import rules as _registered  # noqa: F401
from caffestat.errors import GradientError
from caffestat.graph import Graph, Node
from caffestat.graph.late import _DEFINITIONS, Definition

from .check import evaluator
from .support import run

X = np.array([[1.0, -2.0, 3.0], [0.5, 4.0, -1.0]], np.float32)


def start() -> tuple[Graph, str]:
    graph = Graph()
    return graph, graph.input("x", X.shape)


def ones(graph: Graph, *shape: int) -> str:
    return graph.constant(np.ones(shape or X.shape))


def value(graph: Graph, name: str | None) -> np.ndarray:
    assert name is not None
    graph.outputs = [graph.emit("Identity", name)]
    return evaluator(graph)([X] * len(graph.inputs))[0]


def gradient(graph: Graph, y: str, x: str) -> np.ndarray:
    return value(graph, backward(graph, {y: ones(graph)}, [x])[x])


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(engine, "_RULES", dict(engine._RULES))
    monkeypatch.setattr(engine, "_FREE", set(engine._FREE))
    yield


def test_a_value_used_several_times_gets_the_sum() -> None:
    graph, x = start()
    shared = graph.emit("Mul", x, x)  # twice by one node
    y = graph.emit("Sum", graph.emit("Neg", shared), graph.emit("Mul", shared, x), shared)
    np.testing.assert_allclose(gradient(graph, y, x), 3 * X**2)


def test_stretches_of_one_value_are_joined() -> None:
    """Columns 0 and 2 by Gather, columns 1 and 2 by Slice: the first and the second stand beside each other."""
    graph, x = start()
    first, last = (graph.emit("Gather", x, graph.constant(i, np.int64), axis=1) for i in (0, 2))
    both = graph.emit("Slice", x, graph.ints(1), graph.ints(3), graph.ints(1))
    values = {first: [1.0, 2.0], last: [3.0, 4.0], both: [[5.0, 6.0], [7.0, 8.0]]}
    begin = len(graph.nodes)
    dx = backward(graph, {name: graph.constant(dy) for name, dy in values.items()}, [x])[x]
    ops = [node.op for node in graph.nodes[begin:]]
    assert (ops.count("Concat"), ops.count("Pad"), ops.count("Sum")) == (1, 1, 1)
    np.testing.assert_allclose(value(graph, dx), [[1, 5, 6 + 3], [2, 7, 8 + 4]])


def test_gaps_between_stretches_are_zero() -> None:
    graph, x = start()
    parts = [graph.emit("Slice", x, graph.ints(i), graph.ints(i + 1), graph.ints(1)) for i in (2, 0)]
    dx = backward(graph, {part: graph.constant([[i + 1.0], [i + 3.0]]) for i, part in enumerate(parts)}, [x])[x]
    np.testing.assert_allclose(value(graph, dx), [[2, 0, 1], [4, 0, 3]])


def test_one_sum_adds_all_contributions() -> None:
    graph, x = start()
    y = graph.emit("Sum", *(graph.emit("Neg", x) for _ in range(5)))
    before = len(graph.nodes)
    dx = backward(graph, {y: ones(graph)}, [x])[x]
    sums = [node for node in graph.nodes[before:] if node.op == "Sum"]
    assert [(node.outputs[0], len(node.inputs)) for node in sums] == [(dx, 5)]


def test_a_late_contribution_counts_though_the_value_was_also_used_early() -> None:
    graph, x = start()
    a = graph.emit("Neg", x)
    b = graph.emit("Mul", a, a)
    y = graph.emit("Add", graph.emit("Mul", b, a), a)  # a³ + a
    np.testing.assert_allclose(gradient(graph, y, x), -(3 * X**2 + 1))


def test_several_seeds_and_values_in_between() -> None:
    graph, x = start()
    a = graph.emit("Mul", x, x)
    b = graph.emit("Neg", a)
    grads = backward(graph, {a: ones(graph), b: graph.constant(np.full(X.shape, 3.0))}, [x, a, b])
    assert [value(graph, grads[name]).tolist() for name in (a, b)] == [[[-2] * 3] * 2, [[3] * 3] * 2]
    np.testing.assert_allclose(value(graph, grads[x]), -4 * X)


def test_the_gradient_of_a_gradient() -> None:
    graph, x = start()
    y = graph.emit("Mul", graph.emit("Mul", x, x), x)
    dx = backward(graph, {y: ones(graph)}, [x])[x]
    assert dx is not None
    np.testing.assert_allclose(gradient(graph, dx, x), 6 * X)


def test_none_where_no_path_leads() -> None:
    graph, x = start()
    unused = graph.input("unused", X.shape)
    aside = graph.emit("Neg", x)
    step = graph.emit("Sign", unused)
    y = graph.emit("Add", x, step)
    grads = backward(graph, {y: ones(graph)}, [x, unused, aside])
    assert grads[x] is not None
    assert grads[unused] is None
    assert grads[aside] is None


def test_nothing_is_emitted_for_what_nobody_asked() -> None:
    graph, x = start()
    w = graph.param("w", X.shape)
    y = graph.emit("Mul", graph.emit("Exp", x), w)
    before = len(graph.nodes)
    backward(graph, {y: ones(graph)}, [w])
    assert [node.op for node in graph.nodes[before:]] == ["Mul"]


def test_detach_stops_the_gradient() -> None:
    graph, x = start()
    y = graph.emit("Mul", x, graph.detach(graph.emit("Mul", x, x)))
    np.testing.assert_allclose(gradient(graph, y, x), X**2)


def test_the_gradient_of_a_detached_value_itself() -> None:
    graph, x = start()
    held = graph.detach(x)
    grads = backward(graph, {graph.emit("Mul", held, held): ones(graph)}, [x, held])
    assert grads[x] is None
    np.testing.assert_allclose(value(graph, grads[held]), 2 * X)


@pytest.mark.parametrize(
    ("used", "expected"), [([0], [1, 0, 0]), ([1], [0, 2, 2]), ([0, 1], [1, 2, 2]), ([1, 1], [0, 4, 4])]
)
def test_any_of_several_outputs(used: Sequence[int], expected: Sequence[float]) -> None:
    graph, x = start()
    parts = graph.emit_many("Split", x, graph.ints(1, 2), count=2, axis=1)
    seeds = [graph.emit("Mul", parts[i], graph.constant(i + 1)) for i in used]
    y = graph.emit("Concat", *seeds, axis=1)
    graph.infer()
    grads = backward(graph, {y: ones(graph, *graph.shape(y))}, [x])
    assert value(graph, grads[x]).tolist() == [list(expected)] * 2


def test_an_op_without_a_rule_is_named() -> None:
    graph, x = start()
    y = graph.emit("Unique", graph.emit("MatMul", x, graph.emit("Transpose", x, perm=[1, 0])))
    with pytest.raises(GradientError, match=r"no gradient rule for op Unique \(value Unique\)"):
        backward(graph, {y: ones(graph, 1)}, [x])


def test_an_op_without_a_rule_beside_the_path_does_not_matter() -> None:
    graph, x = start()
    square = graph.emit("MatMul", x, graph.emit("Transpose", x, perm=[1, 0]))
    graph.emit("Unique", square)
    assert backward(graph, {square: ones(graph, 2, 2)}, [x])[x] is not None


def test_an_absent_input_or_output_is_not_a_value() -> None:
    graph, x = start()
    graph.nodes.append(Node("Dropout", (x,), ("dropped", "")))
    y = graph.emit("Clip", "dropped", "", graph.constant(2.0))
    np.testing.assert_array_equal(gradient(graph, y, x), X <= 2)


def test_a_second_rule_for_an_op_is_refused(registry: None) -> None:
    with pytest.raises(ValueError, match="'Mul' already has a gradient rule"):
        vjp("Mul")(lambda tape, node, dy: [])
    with pytest.raises(ValueError, match="'Sign' already has a gradient rule"):
        vjp("Sign")(lambda tape, node, dy: [])
    with pytest.raises(ValueError, match="'Mul' is already declared"):
        gradient_free("Mul")
    with pytest.raises(ValueError, match="'Sign' is already declared"):
        gradient_free("Sign")


def test_a_rule_from_outside_is_the_one_that_is_refused() -> None:
    """It may be registered before the package's own rules are needed."""
    code = (
        "from caffestat.autodiff import vjp\n"
        "try:\n    vjp('Relu')(print)\nexcept ValueError as error:\n    print(error)\n"
        "from caffestat.theory import backward_moments, moments\n"
        "for register in moments, backward_moments:\n"
        "    try:\n        register('Relu')(print)\n    except ValueError as error:\n        print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "op 'Relu' already has a gradient rule",
        *["op 'Relu' already has a moments rule"] * 2,
    ]


@pytest.mark.parametrize(("provider", "factor"), [("cpu", -1), ("cuda", 5)])
def test_a_gradient_that_is_a_late_op_is_chosen_by_the_provider(
    registry: None, provider: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    factors = {"cpu": -1, "cuda": 5}
    turn: Definition = lambda g, node, by: [g.emit("Mul", node.inputs[0], g.constant(factors[by]))]  # noqa: E731
    monkeypatch.setitem(_DEFINITIONS, "Turn", turn)
    engine._RULES["Neg"] = lambda tape, node, dy: [tape.emit_late("Turn", dy, shape=X.shape, like=dy)]
    graph, x = start()
    graph.outputs = [backward(graph, {graph.emit("Neg", x): ones(graph)}, [x])[x] or ""]
    (dx,) = run(graph, {"x": X}, provider=provider)
    np.testing.assert_array_equal(dx, np.full(X.shape, factor))


def test_a_rule_must_answer_for_every_input(registry: None) -> None:
    vjp("Unique")(lambda tape, node, dy: [])
    graph, x = start()
    y = graph.emit("Unique", x)
    graph.declare(y, ())
    with pytest.raises(GradientError, match="gradient rule of op Unique returns 0 values for 1 inputs"):
        backward(graph, {y: graph.constant(1.0)}, [x])


def times(factor: float) -> Any:
    """Return a gradient that multiplies by a factor, whatever the region computes."""
    return lambda tape, dys: [tape.emit("Mul", dys[0], tape.scalar(factor, like=dys[0]))]


def test_a_region_has_its_own_gradient() -> None:
    graph, x = start()
    before = graph.emit("Mul", x, graph.constant(2.0))
    (y,) = graph.custom_vjp([before], lambda v: [graph.emit("Exp", graph.emit("Sign", v))], times(10))
    np.testing.assert_allclose(gradient(graph, graph.emit("Neg", y), x), np.full(X.shape, -20))


def test_the_outer_one_of_nested_regions_counts() -> None:
    graph, x = start()

    def forward(v: str) -> list[str]:
        (inner,) = graph.custom_vjp([v], lambda u: [graph.emit("Neg", u)], times(100))
        return [graph.emit("Exp", inner)]

    (y,) = graph.custom_vjp([x], forward, times(10))
    np.testing.assert_allclose(gradient(graph, y, x), np.full(X.shape, 10))


def test_the_outer_one_of_two_regions_of_the_same_nodes_counts() -> None:
    graph, x = start()

    def forward(v: str) -> Sequence[str]:
        return graph.custom_vjp([v], lambda u: [graph.emit("Neg", u)], times(100))

    (y,) = graph.custom_vjp([x], forward, times(10))
    np.testing.assert_allclose(gradient(graph, y, x), np.full(X.shape, 10))


def test_a_region_of_several_inputs_and_outputs() -> None:
    graph, x = start()
    seen: list[tuple[str | None, ...]] = []

    def swap(tape: Tape, dys: tuple[str | None, ...]) -> Sequence[str | None]:
        seen.append(dys)
        return dys[::-1]

    a, b = graph.emit("Neg", x), graph.emit("Exp", x)
    outputs = graph.custom_vjp([a, b], lambda *v: [graph.emit("Abs", u) for u in v], swap)
    dy = ones(graph)
    grads = backward(graph, {outputs[1]: dy}, [a, b])
    assert seen == [(None, dy)]
    assert grads == {a: dy, b: None}


def test_a_region_nobody_needs_is_not_asked() -> None:
    def never(tape: Tape, dys: tuple[str | None, ...]) -> Sequence[str | None]:
        raise AssertionError("asked")

    graph, x = start()
    other = graph.input("other", X.shape)
    (aside,) = graph.custom_vjp([x], lambda v: [graph.emit("Neg", v)], never)  # leads to no seed
    (fixed,) = graph.custom_vjp([other], lambda v: [graph.emit("Neg", v)], never)  # comes from nothing asked for
    y = graph.emit("Add", x, fixed)
    np.testing.assert_array_equal(gradient(graph, y, x), np.ones(X.shape))
    assert aside


def test_a_region_that_passes_its_input_through() -> None:
    graph, x = start()
    (y,) = graph.custom_vjp([x], lambda v: [v], times(10))
    np.testing.assert_array_equal(gradient(graph, graph.emit("Add", y, x), x), np.full(X.shape, 11))


def test_a_value_hidden_in_a_region_is_refused() -> None:
    graph, x = start()
    hidden: list[str] = []

    def forward(v: str) -> list[str]:
        hidden.append(graph.emit("Neg", v))
        return [graph.emit("Exp", hidden[0])]

    (y,) = graph.custom_vjp([x], forward, times(10))
    z = graph.emit("Add", y, hidden[0])
    with pytest.raises(GradientError, match="value Neg has no gradient of its own"):
        backward(graph, {z: ones(graph)}, [x])
    assert backward(graph, {y: ones(graph)}, [x])[x] is not None


def test_asking_for_a_value_hidden_in_a_region_is_refused() -> None:
    graph, x = start()
    (y,) = graph.custom_vjp([x], lambda v: [graph.emit("Exp", graph.emit("Neg", v))], times(10))
    with pytest.raises(GradientError, match="value Neg has no gradient of its own"):
        backward(graph, {y: ones(graph)}, ["Neg"])


def test_zeros_like_and_scalar_take_the_type_of_a_value() -> None:
    graph = Graph()
    x = graph.input("x", (2, 3), np.float64)
    tape = Tape(graph, {x}, set())
    assert graph.specs[tape.zeros_like(x)] == graph.specs[x]
    assert graph.specs[tape.scalar(2, like=x)].dtype == np.float64


class Counting(dict[str, list[str]]):
    """Counts look-ups, to tell a linear walk from a quadratic one."""

    lookups = 0

    def get(self, key: str, default: Any = None) -> Any:
        Counting.lookups += 1
        return super().get(key, default)


def chain(length: int, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return how many nodes the backward half of a chain has, and how many look-ups it took."""
    graph, x = start()
    y = x
    for _ in range(length):
        y = graph.emit("Neg", y)
    Counting.lookups = 0
    monkeypatch.setattr(engine, "defaultdict", lambda factory: Counting())
    monkeypatch.setattr(Counting, "__missing__", lambda self, key: self.setdefault(key, []), raising=False)
    backward(graph, {y: ones(graph)}, [x])
    return len(graph.nodes) - length, Counting.lookups


def test_a_deep_chain_takes_linear_work_and_no_recursion(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = chain(600, monkeypatch), chain(6000, monkeypatch)
    assert short[0] == 600
    assert long[0] == 6000
    assert long[1] < 10.5 * short[1]
