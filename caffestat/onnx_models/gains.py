"""The nodes with weights of a model, and what each does to signal and gradient."""

from __future__ import annotations

from collections.abc import Iterator

from caffestat import theory
from caffestat.theory import Gain, Step

from .layout import Layout
from .predict import Prediction

__all__ = ["gains"]


def gains(layout: Layout, prediction: Prediction) -> list[Gain]:
    """Return one Gain per node with weights, `node` its index in `model.nodes`; see `theory.gains`.

    The gradient of a value that several nodes read is the sum of what flows back from them.
    """
    weights = {index: name for index in range(len(layout.model.nodes)) for name in _weight(layout, index)}
    known = {index: name for index, name in weights.items() if name in prediction.values}
    return theory.gains([_step(layout, prediction, known, index) for index in known])


def _weight(layout: Layout, index: int) -> list[str]:
    """Return the first weight of a node, if it has one."""
    return [name for name in layout.params(index) if layout.role(name) == "weight"][:1]


def _step(layout: Layout, prediction: Prediction, weights: dict[int, str], index: int) -> Step:
    node, use = layout.model.nodes[index], layout.uses[weights[index]]
    readers = dict(_next(layout, weights, index))
    read = next(iter(readers.values()), "")
    return Step(
        index,
        node.name,
        (use.fan_in, use.fan_out),
        prediction.values[weights[index]],
        prediction.values.get(node.outputs[0]),
        prediction.values.get(read),
        tuple(readers),
        prediction.gradients.get(node.outputs[0]),
        prediction.gradients.get(read),
        bool(prediction.gradients.keys() & {weights[index], *layout.bottoms(node)}),
    )


def _next(layout: Layout, weights: dict[int, str], index: int) -> Iterator[tuple[int, str]]:
    """Yield the next nodes with weights, and the value at which each is reached, through nodes without."""
    waiting = list(layout.model.nodes[index].outputs)
    seen = set(waiting)
    for value in waiting:
        for reader in layout.readers.get(value, ()):
            place = layout.node_of[reader]
            if place in weights:
                yield place, value
            else:
                new = [name for name in layout.nodes[reader].outputs if name and name not in seen]
                waiting.extend(new)
                seen.update(new)
