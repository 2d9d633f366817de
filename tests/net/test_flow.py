"""Who writes and who reads each value, and the walk to the next layers of a kind."""

from __future__ import annotations

from caffestat import net as nets
from caffestat.net.flow import Flow
from caffestat.net.gains import gains
from caffestat.net.source import net_source
from caffestat.prototext import parse

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }\n'
CONV = (
    'layer { name: "%s" type: "Convolution" bottom: "%s" top: "%s" '
    'convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: "msra" } } }\n'
)
UNARY = 'layer { name: "%s" type: "%s" bottom: "%s" top: "%s" }\n'
SUM = 'layer { name: "%s" type: "Eltwise" bottom: "%s" bottom: "%s" top: "%s" }\n'


def build(text: str) -> nets.Net:
    return nets.build(net_source(parse(text.encode(), "net.prototxt")))


def named(net: nets.Net, name: str) -> nets.Node:
    return next(node for node in net.nodes if node.name == name)


def test_a_value_that_is_overwritten_in_place_has_one_reader_per_writer() -> None:
    net = build(INPUT + CONV % ("c", "x", "y") + UNARY % ("r", "ReLU", "y", "y") + UNARY % ("t", "TanH", "y", "z"))
    flow, (_, c, r, t) = Flow(net), net.nodes
    assert [reader.name for reader, _ in flow.next(c)] == ["r"]
    assert [reader.name for reader, _ in flow.next(r)] == ["t"]
    assert flow.sources[t.index, 0] == (r.index, 0)
    assert list(flow.next(t)) == []


def test_layers_behind_a_fork_are_found_once_and_with_their_bottom() -> None:
    net = build(
        INPUT
        + CONV % ("c", "x", "y")
        + UNARY % ("a", "ReLU", "y", "a")
        + SUM % ("s", "y", "a", "s")
        + CONV % ("d", "s", "d")
        + UNARY % ("b", "TanH", "y", "b")
        + SUM % ("e", "b", "d", "e")
    )
    flow = Flow(net)
    found = [(node.name, bottom) for node, bottom in flow.until(named(net, "c"), flow.has_weights)]
    assert found == [("d", 0)]
    ends = [(node.name, bottom) for node, bottom in flow.until(named(net, "c"), lambda node: node.name in "se")]
    assert sorted(ends) == [("e", 0), ("s", 1)]


def test_gains_reach_over_many_diamonds() -> None:
    diamond = UNARY % ("a%d", "Sigmoid", "y%d", "a%d") + SUM % ("s%d", "y%d", "a%d", "y%d")
    text = "".join(diamond % (i, i, i, i, i, i, i + 1) for i in range(60))
    net = build(INPUT + CONV % ("c", "x", "y0") + text + CONV % ("d", "y60", "z"))
    first, second = gains(net, nets.predict(net))
    assert (first.layer, second.layer) == ("c", "d")
    assert second.product == second.forward * first.product
