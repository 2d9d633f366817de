"""What RNN, GRU and LSTM have in common. (ONNX operators)"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["GATES", "INITIAL", "LENGTHS", "PEEPHOLE", "activations_of"]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}  # in one array each of weights and biases
LENGTHS, INITIAL, PEEPHOLE = 4, 5, 7  # positions of inputs

_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_ACTIVATIONS = ("Elu", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu")
_BY_NAME = {name.lower(): name for name in _ACTIVATIONS}


def activations_of(op: str, written: Sequence[str] | None, direction: int) -> list[str]:
    """Return the ops of the gates, of the candidate, and of an LSTM's output; "" where one is missing or has no op.

    written: the attribute `activations`, of which case does not matter; None for the op's own
    """
    default = _DEFAULTS[op]
    count = len(default)
    names = (written or default * 2)[direction * count :][:count]
    return [_BY_NAME.get(name.lower(), "") for name in names] + [""] * (count - len(names))
