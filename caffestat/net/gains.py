"""The layers with weights of a net, and what each does to signal and gradient."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat import theory
from caffestat.theory import Gain, Moments, Step

from .model import Net, Node
from .prediction import Prediction

__all__ = ["Gain", "gains"]


def gains(net: Net, prediction: Prediction) -> list[Gain]:
    """Return one Gain per layer with weights that is predicted, in net order; see `theory.gains`."""
    steps = ((node, weight) for node, weight in _weighted(net) if (node.index, weight) in prediction.params)
    return theory.gains([_step(net, prediction, node, weight) for node, weight in steps])


def _weighted(net: Net) -> Iterator[tuple[Node, int]]:
    """Yield each node with weights, and which of its params are the first of them."""
    for node in net.nodes:
        weights = [index for index, number in enumerate(node.params) if net.params[number].param.role == "weight"]
        if weights:
            yield node, weights[0]


def _step(net: Net, prediction: Prediction, node: Node, weight: int) -> Step:
    param = net.params[node.params[weight]].param
    readers = tuple(dict.fromkeys(_next_weights(net, node)))  # bottoms: (node, index)
    before = _top_before(net, readers[0]) if readers else None
    return Step(
        node.index,
        node.name,
        (param.fan_in, param.fan_out),
        prediction.params[node.index, weight],
        prediction.tops.get((node.index, 0)),
        prediction.tops.get(before) if before else None,
        tuple(reader for reader, _ in readers),
        _first_diff(net, prediction, node),
        prediction.bottom_diffs.get(readers[0]) if readers else None,
        (node.index, 0) in prediction.bottom_diffs or (node.index, 0) in prediction.param_diffs,
    )


def _readers(net: Net, node: Node) -> Iterator[tuple[Node, int]]:
    """Yield who reads a node's tops next: for a blob that is overwritten in place, the first one to do so."""
    for top in node.tops:
        for reader in net.nodes[node.index + 1 :]:
            if top in reader.bottoms:
                yield reader, reader.bottoms.index(top)
                break


def _next_weights(net: Net, node: Node) -> Iterator[tuple[int, int]]:
    """Yield the bottoms of the next layers with weights, through layers without."""
    for reader, bottom in _readers(net, node):
        if any(net.params[number].param.role == "weight" for number in reader.params):
            yield reader.index, bottom
        else:
            yield from _next_weights(net, reader)


def _top_before(net: Net, bottom: tuple[int, int]) -> tuple[int, int] | None:
    """Return the (node, top) that a bottom reads."""
    node, index = bottom
    blob = net.nodes[node].bottoms[index]
    writers = [n for n in net.nodes[:node] if blob in n.tops]
    return (writers[-1].index, writers[-1].tops.index(blob)) if writers else None


def _first_diff(net: Net, prediction: Prediction, node: Node) -> Moments | None:
    """Return the gradient of a node's top: that of the bottom of whoever reads it."""
    for reader, bottom in _readers(net, node):
        return prediction.bottom_diffs.get((reader.index, bottom))
    return None
