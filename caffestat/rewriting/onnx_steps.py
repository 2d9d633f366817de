"""What ONNX ops do to a signal on its way to a nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffestat.graph import Node
from caffestat.ops import Call, Combines, Nonlinearity
from caffestat.rewriting.follow import Step

__all__ = ["onnx_step"]


def onnx_step(node: Node, constants: Mapping[str, np.ndarray]) -> Step:
    """The step of a node; `constants` holds the values that no node makes, by name."""
    bottoms = tuple(name for name in node.inputs if name)
    passes = node.info.passes_signal or _adds_constant(node, constants)
    return Step(bottoms, tuple(name for name in node.outputs if name), passes, _nonlinearity(node, constants))


def _adds_constant(node: Node, constants: Mapping[str, np.ndarray]) -> bool:
    """Whether the node is a bias or a scale: these pass a signal, and what joins two does not."""
    combines = node.info.combines
    any_side = combines in (Combines.SUM, Combines.PRODUCT)
    return combines is not None and any(name in constants for name in node.inputs[0 if any_side else 1 :])


def _nonlinearity(node: Node, constants: Mapping[str, np.ndarray]) -> Nonlinearity | None:
    rule = node.info.nonlinearity
    nothing = [None] * len(node.inputs)
    return (
        rule(Call(node.attributes, nothing, nothing, [constants.get(name) for name in node.inputs])) if rule else None
    )
