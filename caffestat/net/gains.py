"""How much each layer with weights strengthens or weakens signal and gradient, and what that makes over depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from caffestat.theory import Moments

from .model import Net, Node
from .prediction import Prediction

__all__ = ["Gain", "gains"]


@dataclass(frozen=True)
class Gain:
    """What a layer with weights does to second moments, from its bottom to that of the next one.

    fan_in, fan_out  n and m: what one output sums over, what one input feeds
    variance         of the weights, around 0
    kept             the share of the second moment that what follows (nonlinearity, pooling) leaves of the top
    forward          n·Var(w)·kept
    product          of `forward` over this layer and all before it on the way from the data
    kept_backward    the share that what follows leaves of the gradient on its way back to the top
    backward         m·Var(w)·kept_backward; None where no gradient is predicted
    product_backward of `backward` over this layer and all after it, to where the loss begins
    """

    node: int
    layer: str
    fan_in: int
    fan_out: int
    variance: float
    kept: float
    forward: float
    product: float
    kept_backward: float | None
    backward: float | None
    product_backward: float | None


@dataclass(frozen=True)
class _Step:
    node: Node
    readers: tuple[tuple[int, int], ...]  # the bottoms (node, index) at which the next layers with weights read
    weight: int  # index of the param

    @property
    def next(self) -> tuple[int, int] | None:
        """The first of the readers."""
        return self.readers[0] if self.readers else None


def gains(net: Net, prediction: Prediction) -> list[Gain]:
    """Return one Gain per layer with weights that is predicted, in net order.

    Where the net branches, a layer's way onward is the first one that leads to weights, and its product is that of the
    strongest of the layers before it (forward) or after it (backward).
    """
    steps = [step for step in _steps(net) if (step.node.index, step.weight) in prediction.params]
    forward = {step.node.index: _forward(net, prediction, step) for step in steps}
    backward = {step.node.index: _backward(net, prediction, step) for step in steps}
    products, products_backward = _products(steps, forward), _products_backward(steps, backward)
    return [
        Gain(
            step.node.index,
            step.node.name,
            *_fans(net, step),
            prediction.params[step.node.index, step.weight].second,
            forward[step.node.index][0],
            forward[step.node.index][1],
            products[step.node.index],
            *backward[step.node.index],
            products_backward[step.node.index],
        )
        for step in steps
    ]


def _steps(net: Net) -> Iterator[_Step]:
    for node in net.nodes:
        weights = [index for index, number in enumerate(node.params) if net.params[number].param.role == "weight"]
        if weights:
            yield _Step(node, tuple(dict.fromkeys(_next_weights(net, node))), weights[0])


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


def _fans(net: Net, step: _Step) -> tuple[int, int]:
    param = net.params[step.node.params[step.weight]].param
    return param.fan_in, param.fan_out


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _top_before(net: Net, bottom: tuple[int, int]) -> tuple[int, int] | None:
    """Return the (node, top) that a bottom reads."""
    node, index = bottom
    blob = net.nodes[node].bottoms[index]
    writers = [n for n in net.nodes[:node] if blob in n.tops]
    return (writers[-1].index, writers[-1].tops.index(blob)) if writers else None


def _forward(net: Net, prediction: Prediction, step: _Step) -> tuple[float, float]:
    """Return (kept, n·Var(w)·kept)."""
    own = prediction.tops.get((step.node.index, 0))
    key = _top_before(net, step.next) if step.next else None
    read = prediction.tops.get(key) if key else None
    kept = _ratio(read.second, own.second) if own and read else 1.0
    return kept, _fans(net, step)[0] * prediction.params[step.node.index, step.weight].second * kept


def _backward(net: Net, prediction: Prediction, step: _Step) -> tuple[float | None, float | None]:
    """Return (kept, m·Var(w)·kept) of the gradient."""
    if (step.node.index, 0) not in prediction.bottom_diffs and (step.node.index, 0) not in prediction.param_diffs:
        return None, None
    arriving, leaving = _first_diff(net, prediction, step.node), None
    if step.next:
        leaving = prediction.bottom_diffs.get(step.next)
    kept = _ratio(arriving.second, leaving.second) if arriving and leaving else 1.0
    return kept, _fans(net, step)[1] * prediction.params[step.node.index, step.weight].second * kept


def _first_diff(net: Net, prediction: Prediction, node: Node) -> Moments | None:
    """Return the gradient of a node's top: that of the bottom of whoever reads it."""
    for reader, bottom in _readers(net, node):
        return prediction.bottom_diffs.get((reader.index, bottom))
    return None


def _products(steps: list[_Step], forward: dict[int, tuple[float, float]]) -> dict[int, float]:
    products: dict[int, float] = {}
    for step in steps:
        before = [products[s.node.index] for s in steps if any(r == step.node.index for r, _ in s.readers)]
        products[step.node.index] = forward[step.node.index][1] * max(before, default=1.0)
    return products


def _products_backward(
    steps: list[_Step], backward: dict[int, tuple[float | None, float | None]]
) -> dict[int, float | None]:
    products: dict[int, float | None] = {}
    for step in reversed(steps):
        gain = backward[step.node.index][1]
        after = [product for product in (products.get(reader) for reader, _ in step.readers) if product is not None]
        products[step.node.index] = None if gain is None else gain * max(after, default=1.0)
    return products
