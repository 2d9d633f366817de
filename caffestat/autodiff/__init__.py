"""Reverse-mode differentiation of ONNX graphs: a table of rules keyed by op, and the walk that uses it."""

from .engine import Stop, Tape, backward, differentiable, gradient_free, vjp
from .gradient import COTANGENT, cotangents, gradient, hessian_product, jvp
from .rounding import rounding, rounding_words

__all__ = [
    "COTANGENT",
    "Stop",
    "Tape",
    "backward",
    "cotangents",
    "differentiable",
    "gradient",
    "gradient_free",
    "hessian_product",
    "jvp",
    "rounding",
    "rounding_words",
    "vjp",
]
