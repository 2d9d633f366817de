"""Variance theory: what a graph will do to its signal and its gradient, without running it. Knows no Caffe."""

from .engine import Walk, backward_moments, has_rule, moments, propagate, unpredicted
from .signal import Gradient, Moments, Signal, Source, normal

__all__ = [
    "Gradient",
    "Moments",
    "Signal",
    "Source",
    "Walk",
    "backward_moments",
    "has_rule",
    "moments",
    "normal",
    "propagate",
    "unpredicted",
]
