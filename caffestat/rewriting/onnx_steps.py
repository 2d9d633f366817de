"""What ONNX ops do to a signal on its way to a nonlinearity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffestat.graph import Node
from caffestat.rewriting.follow import LINEAR, Follower, Step

__all__ = ["onnx_step"]

_PASSING = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Concat",
        "Dropout",
        "Flatten",
        "Identity",
        "MaxPool",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
_WITH_CONSTANT = frozenset(["Add", "Mul"])  # biases and scales: they pass a signal, but do not join two
_RECTIFIERS = frozenset(["Celu", "Clip", "Elu", "Gelu", "HardSwish", "Mish", "Relu", "Selu", "Softplus", "Swish"])
_BOUNDED = frozenset(["HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Softsign", "Tanh"])


def onnx_step(node: Node, constants: Mapping[str, np.ndarray]) -> Step:
    """The step of a node; `constants` holds the values that no node makes, by name."""
    is_joined = node.op in _WITH_CONSTANT and not any(name in constants for name in node.inputs)
    passes = node.op in _PASSING or (node.op in _WITH_CONSTANT and not is_joined)
    bottoms = tuple(name for name in node.inputs if name)
    return Step(bottoms, tuple(name for name in node.outputs if name), passes, _nonlinearity(node, constants))


def _nonlinearity(node: Node, constants: Mapping[str, np.ndarray]) -> Follower | None:
    if node.op == "LeakyRelu":
        return Follower(True, node.get("alpha", 0.01) ** 2)
    if node.op == "PRelu":
        slopes = constants.get(node.inputs[1])
        square = None if slopes is None or not slopes.size else np.mean(np.square(slopes, dtype=np.float64))
        return Follower(True, 0.0 if square is None else float(square))
    if node.op in _RECTIFIERS:
        return Follower(True)
    return LINEAR if node.op in _BOUNDED else None
