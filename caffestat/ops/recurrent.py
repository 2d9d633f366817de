"""What RNN, GRU and LSTM have in common. (ONNX operators)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["GATES", "INITIAL", "LENGTHS", "PEEPHOLE", "Activation", "activations_of"]

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}  # in one array each of weights and biases
LENGTHS, INITIAL, PEEPHOLE = 4, 5, 7  # positions of inputs

_DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}
_SETTINGS = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
_BY_NAME = {name.lower(): name for name in _SETTINGS}

Activation = tuple[str, Mapping[str, Any]]
"""The op, and what it is given of its alpha and its beta."""


def activations_of(op: str, attributes: Mapping[str, Any], direction: int) -> list[Activation]:
    """Return the activations of the gates, of the candidate, and of an LSTM's output; "" where one has no op.

    Case does not matter. Those that have an alpha or a beta take the next one of the list, over all directions.
    """
    default = _DEFAULTS[op]
    names = [_BY_NAME.get(name.lower(), "") for name in attributes.get("activations") or default * 2]
    given = {setting: iter(attributes.get(f"activation_{setting}", ())) for setting in ("alpha", "beta")}
    found: list[Activation] = []
    for name in names:
        values = ((setting, next(given[setting], None)) for setting in _SETTINGS.get(name, ()))
        found.append((name, {setting: value for setting, value in values if value is not None}))
    mine = found[direction * len(default) :][: len(default)]
    return mine + [("", {})] * (len(default) - len(mine))
