"""Nets: read, upgraded, built as Caffe builds them, said in ONNX, measured.

Importing this package imports neither onnx nor onnxruntime; `measure` does when it is called.
"""

from .build import build, state_of
from .initial import copy_weights, draw_params, unfilled, with_assumed_filler
from .measure import Runner, draw_feeds, measure
from .measurement import Measurement, Norms
from .model import Blob, Net, NetParam, Node
from .prediction import Prediction, predict
from .rules import TEST, TRAIN, State
from .solver import first_iteration
from .source import NetSource, Solver, load, read_net, read_solver

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
    "first_iteration",
    "load",
    "measure",
    "predict",
    "read_net",
    "read_solver",
    "state_of",
    "unfilled",
    "with_assumed_filler",
]
