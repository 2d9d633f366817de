"""Random numbers, and yes or no by a probability. (ONNX operators)"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, moments, unsupported
from ..quadrature import NODES, WEIGHTS, Array, cdf
from ..signal import Signal
from .linear import known

unsupported("Multinomial")


@moments("RandomNormal", "RandomNormalLike")
def random_normal(walk: Walk, node: Node) -> Sequence[Signal]:
    """N(mean, scale²), each element by itself."""
    return [Signal(node.get("mean", 0.0) + node.get("scale", 1.0) * NODES)]


@moments("RandomUniform", "RandomUniformLike")
def random_uniform(walk: Walk, node: Node) -> Sequence[Signal]:
    """U(low, high), each element by itself."""
    low, high = node.get("low", 0.0), node.get("high", 1.0)
    shape = cdf(NODES) - 0.5
    shape /= np.sqrt(12 * (shape**2 @ WEIGHTS))
    return [Signal((low + high) / 2 + (high - low) * shape)]


@moments("Bernoulli")
def bernoulli(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """1 with the probability x, else 0."""
    return [_rarely(known(walk.signal(node.inputs[0])).mean)]


def _rarely(share: float) -> Signal | None:
    """Return 1 for a share of the elements and 0 for the others; the node at the edge counts in part."""
    if not 0 <= share <= 1:
        return None
    above: Array = np.cumsum(WEIGHTS[::-1])[::-1] - WEIGHTS  # the weight of the nodes above each
    return Signal(np.clip((share - above) / WEIGHTS, 0.0, 1.0))
