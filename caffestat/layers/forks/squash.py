"""Sigmoid and softmax of arrays."""

from __future__ import annotations

from caffestat.lazy import np

__all__ = ["sigmoid", "softmax"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + e^-x)."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """Return e^x / Σ e^x along an axis."""
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))
