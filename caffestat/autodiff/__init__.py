"""Reverse-mode differentiation of ONNX graphs: a table of rules keyed by op, and the walk that uses it."""

from .engine import Tape, backward, gradient_free, vjp

__all__ = ["Tape", "backward", "gradient_free", "vjp"]
