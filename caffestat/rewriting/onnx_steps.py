"""What ONNX ops do to a signal on its way to a nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffestat.graph import Node
from caffestat.program.traits import activation_of, passes_signal
from caffestat.rewriting.follow import Step

__all__ = ["onnx_step"]


def onnx_step(node: Node, constants: Mapping[str, np.ndarray]) -> Step:
    """The step of a node; `constants` holds the values that no node makes, by name."""
    bottoms, tops = (tuple(filter(None, names)) for names in (node.inputs, node.outputs))
    return Step(bottoms, tops, passes_signal(node, constants), activation_of(node, constants))
