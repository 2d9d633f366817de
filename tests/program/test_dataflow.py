"""Who writes and who reads each value, and the walk to the next layers of a kind."""

from __future__ import annotations

from caffestat import net as nets
from caffestat.analysis import gains, predict
from caffestat.net.source import net_source
from caffestat.ops import LINEAR, Nonlinearity
from caffestat.program import Dataflow, NamedStep, Program, from_net
from caffestat.prototext import parse

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }\n'
CONV = (
    'layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" '
    'convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "msra" } } }\n'
)
UNARY = 'layer { name: "%s" type: "%s" bottom: "%s" top: "%s" }\n'
SUM = 'layer { name: "%s" type: "Eltwise" bottom: "%s" bottom: "%s" top: "%s" }\n'


def build(text: str) -> Program:
    return from_net(nets.build(net_source(parse(text.encode(), "net.prototxt"))))


def row(program: Program, name: str) -> int:
    return next(row.index for row in program.rows if row.name == name)


def test_a_value_that_is_overwritten_in_place_has_one_reader_per_writer() -> None:
    text = INPUT + CONV % ("c", "x", "y") + UNARY % ("r", "ReLU", "y", "y") + UNARY % ("t", "TanH", "y", "z")
    program = build(text)
    flow, (_, c, r, t) = program.flow, range(4)
    assert list(flow.users(c)) == [(r, 0)]
    assert list(flow.users(r)) == [(t, 0)]
    assert flow.source((t, 0)) == (r, 0)
    assert list(flow.users(t)) == []
    assert sorted(program.ids.values()) == [0, 1, 2, 3]


def test_layers_behind_a_fork_are_found_once_and_with_their_bottom() -> None:
    program = build(
        INPUT
        + CONV % ("c", "x", "y")
        + UNARY % ("a", "ReLU", "y", "a")
        + SUM % ("s", "y", "a", "s")
        + CONV % ("d", "s", "d")
        + UNARY % ("b", "TanH", "y", "b")
        + SUM % ("e", "b", "d", "e")
    )
    flow, rows, c = program.flow, program.rows, row(program, "c")
    found = [(rows[index].name, bottom) for index, bottom in flow.until(c, lambda i: bool(program.weight(rows[i])))]
    assert found == [("d", 0)]
    ends = [(rows[index].name, bottom) for index, bottom in flow.until(c, lambda i: rows[i].name in "se")]
    assert sorted(ends) == [("e", 0), ("s", 1)]


def test_gains_reach_over_many_diamonds() -> None:
    diamond = UNARY % ("a%d", "Sigmoid", "y%d", "a%d") + SUM % ("s%d", "y%d", "a%d", "y%d")
    text = "".join(diamond % (i, i, i, i, i, i, i + 1) for i in range(60))
    program = build(INPUT + CONV % ("c", "x", "y0") + text + CONV % ("d", "y60", "z"))
    first, second = gains(program, predict(program))
    assert (first.layer, second.layer) == ("c", "d")
    assert second.product == second.forward * first.product


def test_activations_are_found_behind_thousands_of_diamonds_in_linear_time() -> None:
    steps = [NamedStep(["x"], ["y0"])]
    for index in range(3000):
        steps.append(NamedStep([f"y{index}"], [f"a{index}"], passes=True))
        steps.append(NamedStep([f"y{index}", f"a{index}"], [f"y{index + 1}"], passes=True))
    steps.append(NamedStep(["y3000"], ["z"], activation=Nonlinearity(True, 0.25)))
    flow = Dataflow.of_names(steps)
    assert flow.activation(0) == 6001
    assert flow.nonlinearity(0).slope_square == 0.25
    assert list(flow.until(0, lambda index: index > 6000)) == [(6001, 0)]
    assert flow.nonlinearity(6001) == LINEAR


def test_rows_in_front_and_behind() -> None:
    names = [("", "x"), ("x", "a"), ("x", "b"), ("a", "a"), ("ab", "s"), ("b", "t"), ("", "u")]
    flow = Dataflow.of_names([NamedStep(list(bottoms), [top]) for bottoms, top in names])
    assert flow.in_front([4]) == {0, 1, 2, 3}
    assert flow.behind([2]) == {4, 5}
    assert flow.behind([6]) == set()
    assert flow.before(4, lambda row: row in (0, 1)) == {0, 1}
    assert flow.before(4, lambda row: row in (0, 1, 2)) == {1, 2}
