"""Variance theory: what a graph will do to its signal and its gradient, without running it. Knows no Caffe."""

from .engine import (
    Gap,
    Walk,
    advance,
    backward_moments,
    begin,
    has_rule,
    moments,
    propagate,
    propagate_back,
    unsupported,
)
from .gains import Gain, Step, gains
from .memo import Memo
from .signal import Gradient, Moments, Signal, Source, normal

__all__ = [
    "Gain",
    "Gap",
    "Gradient",
    "Memo",
    "Moments",
    "Signal",
    "Source",
    "Step",
    "Walk",
    "advance",
    "backward_moments",
    "begin",
    "gains",
    "has_rule",
    "moments",
    "normal",
    "propagate",
    "propagate_back",
    "unsupported",
]
