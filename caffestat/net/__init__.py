"""Nets: read, upgraded, built as Caffe builds them, said in ONNX, measured.

Importing this package imports neither onnx nor onnxruntime; `measure` does when it is called. Nor does it
import what a static table does without, predictions, before somebody asks for them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .build import build, state_of
from .initial import copy_weights, draw_params, unfilled, with_assumed_filler
from .measure import Runner, draw_feeds, measure
from .measurement import Measurement, Norms
from .model import Blob, Net, NetParam, Node
from .rules import TEST, TRAIN, State
from .source import NetSource, Solver, load, read_net, read_solver

if TYPE_CHECKING:
    from .prediction import Prediction, predict

__all__ = [
    "TEST",
    "TRAIN",
    "Blob",
    "Measurement",
    "Net",
    "NetParam",
    "NetSource",
    "Node",
    "Norms",
    "Prediction",
    "Runner",
    "Solver",
    "State",
    "build",
    "copy_weights",
    "draw_feeds",
    "draw_params",
    "load",
    "measure",
    "predict",
    "read_net",
    "read_solver",
    "state_of",
    "unfilled",
    "with_assumed_filler",
]

_LATE = {"Prediction": "prediction", "predict": "prediction"}  # name: its module


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LATE[name]}", __package__), name)
