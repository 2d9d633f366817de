"""The layers with weights of a net, and what each does to signal and gradient."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat import theory
from caffestat.theory import Gain, Step

from .flow import Flow
from .model import Net, Node
from .prediction import Prediction

__all__ = ["Gain", "gains"]


def gains(net: Net, prediction: Prediction) -> list[Gain]:
    """Return one Gain per layer with weights that is predicted, in net order; see `theory.gains`."""
    flow = Flow(net)
    steps = ((node, weight) for node, weight in _weighted(net) if (node.index, weight) in prediction.params)
    return theory.gains([_step(flow, prediction, node, weight) for node, weight in steps])


def _weighted(net: Net) -> Iterator[tuple[Node, int]]:
    """Yield each node with weights, and which of its params are the first of them."""
    for node in net.nodes:
        weights = [index for index, number in enumerate(node.params) if net.params[number].param.role == "weight"]
        if weights:
            yield node, weights[0]


def _step(flow: Flow, prediction: Prediction, node: Node, weight: int) -> Step:
    net = flow.net
    param = net.params[node.params[weight]].param
    readers = [(reader.index, bottom) for reader, bottom in flow.until(node, flow.has_weights)]
    first = next(flow.next(node), None)
    return Step(
        node.index,
        node.name,
        (param.fan_in, param.fan_out),
        prediction.params[node.index, weight],
        prediction.tops.get((node.index, 0)),
        prediction.tops.get(flow.sources[readers[0]]) if readers else None,
        tuple(reader for reader, _ in readers),
        prediction.bottom_diffs.get((first[0].index, first[1])) if first else None,
        prediction.bottom_diffs.get(readers[0]) if readers else None,
        (node.index, 0) in prediction.bottom_diffs or (node.index, 0) in prediction.param_diffs,
    )
