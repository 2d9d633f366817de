"""Variance theory: what a graph will do to its signal and its gradient, without running it. Knows no Caffe."""

from .engine import Gap, Walk, backward_moments, has_rule, moments, propagate, unsupported
from .gains import Gain, Step, gains
from .signal import Gradient, Moments, Signal, Source, normal

__all__ = [
    "Gain",
    "Gap",
    "Gradient",
    "Moments",
    "Signal",
    "Source",
    "Step",
    "Walk",
    "backward_moments",
    "gains",
    "has_rule",
    "moments",
    "normal",
    "propagate",
    "unsupported",
]
