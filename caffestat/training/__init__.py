"""Training as `caffe train` does it: solvers, learning-rate policies, the loop, snapshots, and events.

Importing this package imports neither onnx nor onnxruntime, nor the loop, which comes when it is asked for.
"""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

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

__getattr__ = lazily(__name__, {"loop": ["NONE", "SNAPSHOT", "STOP", "Training"]})
