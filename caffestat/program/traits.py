"""What nodes of a model do to a signal on its way to a nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping

from caffestat.graph import Node
from caffestat.lazy import np
from caffestat.ops import Call, Combines, Nonlinearity

__all__ = ["activation_of", "passes_signal"]


def passes_signal(node: Node, constants: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a node keeps the sign and the rough shape of its input's distribution.

    constants: the values that no node makes, by name. A bias and a scale pass a signal; what joins two does not
    """
    combines = node.info.combines
    any_side = combines in (Combines.SUM, Combines.PRODUCT)
    has_constant = any(name in constants for name in node.inputs[0 if any_side else 1 :])
    return node.info.passes_signal or (combines is not None and has_constant)


def activation_of(node: Node, constants: Mapping[str, np.ndarray]) -> Nonlinearity | None:
    """Return the nonlinearity that a node is, None for any other."""
    rule = node.info.nonlinearity
    nothing = [None] * len(node.inputs)
    values = [constants.get(name) for name in node.inputs]
    return rule(Call(node.attributes, nothing, nothing, values)) if rule else None
