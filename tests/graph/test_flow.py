"""Who writes and who reads each value, and the walks along them."""

from __future__ import annotations

from caffestat.graph.flow import Flow, resolved
from caffestat.graph.graph import Node, flow_of

# x → a → b → c, a → d; step 4 reads d and b
STEPS = [("x", "a"), ("a", "b"), ("b", "c"), ("a", "d"), ("db", "e")]


def test_writers_and_readers() -> None:
    flow = Flow(STEPS)
    assert [flow.writer(value) for value in "xae"] == [None, 0, 4]
    assert list(flow.readers("a")) == [(1, 0), (3, 0)]
    assert list(flow.readers("e")) == []
    assert list(flow.users(1)) == [(2, 0), (4, 1)]
    assert list(flow.writers(4)) == [3, 1]
    assert list(flow.writers(0)) == []
    assert flow.source((4, 1)) == "b"


def test_readers_behind_steps_that_pass_a_value_come_in_order() -> None:
    flow = Flow(STEPS)
    assert flow.through("a", lambda step, position: False) == [(1, 0), (3, 0)]
    assert flow.through("a", lambda step, position: step in (1, 3)) == [(1, 0), (2, 0), (3, 0), (4, 0), (4, 1)]
    assert flow.through("b", lambda step, position: position == 1) == [(2, 0), (4, 1)]
    assert flow.through("y", lambda step, position: True) == []


def test_chains_and_origins_follow_first_inputs() -> None:
    flow = Flow(STEPS)
    assert list(flow.chain("e", lambda step: step != 1)) == ["e", "d", "a", "x"]
    assert list(flow.chain("c", lambda step: step != 1)) == ["c", "b"]
    assert flow.origins(lambda step: step != 1) == {"a": "x", "b": "b", "c": "b", "d": "x", "e": "x"}
    known = flow.origins(lambda step: True, lambda value: value != "x")
    assert known == {"a": "a", "b": "a", "c": "a", "d": "a", "e": "a"}


def test_steps_in_another_order_are_sorted_and_those_of_a_cycle_are_left_out() -> None:
    assert Flow(STEPS).order() == [0, 1, 2, 3, 4]
    assert Flow(STEPS[::-1]).order() == [4, 1, 3, 0, 2]
    assert Flow([("x", "a"), ("ac", "b"), ("b", "c"), ("b", "d"), ("a", "e")]).order() == [0, 4]


def test_a_name_that_is_written_again_is_another_value() -> None:
    steps = [("", "x"), ("x", "y"), ("y", "y"), ("yz", "z"), ("zy", "")]
    assert [reads for reads, _ in resolved(steps)] == [(), ((0, 0),), ((1, 0),), ((2, 0),), ((3, 0), (2, 0))]
    assert [writes for _, writes in resolved(steps)] == [[(0, 0)], [(1, 0)], [(2, 0)], [(3, 0)], []]


def test_outputs_that_a_node_leaves_out_are_not_read() -> None:
    nodes = [
        Node("MaxPool", ("x",), ("y", "")),
        Node("Clip", ("y", "", "high"), ("z",)),
        Node("If", ("z",), ("w",), captured=("y",)),
    ]
    flow = flow_of(nodes)
    assert list(flow.users(0)) == [(1, 0), (2, 1)]
    assert list(flow.writers(1)) == [0]
    assert flow.order() == [0, 1, 2]


def test_walks_over_long_chains_take_linear_time() -> None:
    flow = Flow([([str(step)], [str(step + 1)]) for step in range(20_000)])
    asked = []

    def passes(step: int, position: int = 0) -> bool:
        asked.append(step)
        return True

    assert flow.origins(passes)["20000"] == "0"
    assert len(flow.through("0", passes)) == len(flow.in_front([19_999])) + 1 == 20_000
    assert next(flow.until(0, lambda step: passes(step) and step == 19_999)) == (19_999, 0)
    assert len(asked) < 60_001
