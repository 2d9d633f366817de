"""What is measured and predicted of programs, of Caffe nets and ONNX models alike.

Importing this package imports neither onnx nor onnxruntime nor the theory: what needs them is imported when it is asked
for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .measurement import Measurement, Norms

if TYPE_CHECKING:
    from .layer_gains import Gain, gains
    from .prediction import Prediction, predict
    from .runner import Runner, Step, draw_feeds, measure

__all__ = [
    "Gain",
    "Measurement",
    "Norms",
    "Prediction",
    "Runner",
    "Step",
    "draw_feeds",
    "gains",
    "measure",
    "predict",
]

_LATE = {  # name: its module
    **dict.fromkeys(["Runner", "Step", "draw_feeds", "measure"], "runner"),
    **dict.fromkeys(["Prediction", "predict"], "prediction"),
    **dict.fromkeys(["Gain", "gains"], "layer_gains"),
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATE[name]}", __package__), name)
