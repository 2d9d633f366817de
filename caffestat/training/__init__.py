"""Training as `caffe train` does it: solvers, learning-rate policies, the loop, snapshots, and what happens on the way.

Importing this package imports neither onnx nor onnxruntime, nor the loop, which comes when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import events
from .policies import POLICIES, Schedule
from .solvers import SOLVERS, solver_type
from .validation import doubts, faults, snapshot_prefix, validate

if TYPE_CHECKING:
    from .loop import NONE, SNAPSHOT, STOP, Training

__all__ = [
    "NONE",
    "POLICIES",
    "SNAPSHOT",
    "SOLVERS",
    "STOP",
    "Schedule",
    "Training",
    "doubts",
    "events",
    "faults",
    "snapshot_prefix",
    "solver_type",
    "validate",
]

_LATE = ("NONE", "SNAPSHOT", "STOP", "Training")


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".loop", __package__), name)
