"""Nets: read, upgraded, and built as Caffe builds them. Importing this package imports neither onnx nor onnxruntime."""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

from .build import build, state_of
from .initial import draw_params, unfilled, with_assumed_filler
from .model import Blob, Net, NetParam, Node
from .rules import TEST, TRAIN, State
from .source import NetSource, Solver, load, read_net, read_solver

if TYPE_CHECKING:
    from .weights import copy_weights

__all__ = [
    "TEST",
    "TRAIN",
    "Blob",
    "Net",
    "NetParam",
    "NetSource",
    "Node",
    "Solver",
    "State",
    "build",
    "copy_weights",
    "draw_params",
    "load",
    "read_net",
    "read_solver",
    "state_of",
    "unfilled",
    "with_assumed_filler",
]

__getattr__ = lazily(__name__, {"weights": ["copy_weights"]})
