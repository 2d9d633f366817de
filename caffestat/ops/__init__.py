"""Facts about ONNX ops, one `OpInfo` each: what an op does to its input, for everything that asks.

Knows neither graphs nor Caffe: the rules see attributes, shapes and constants. Importing the package fills the table.
"""

from . import activations, table  # noqa: F401  registers the ops
from .activations import LINEAR, Nonlinearity
from .info import (
    CONTRIB,
    Bodies,
    Call,
    Combines,
    Elements,
    OpInfo,
    Role,
    Sign,
    UnknownShapeError,
    op_info,
    ops,
    register,
)
from .window import Window, window

__all__ = [
    "CONTRIB",
    "LINEAR",
    "Bodies",
    "Call",
    "Combines",
    "Elements",
    "Nonlinearity",
    "OpInfo",
    "Role",
    "Sign",
    "UnknownShapeError",
    "Window",
    "activations",
    "op_info",
    "ops",
    "register",
    "window",
]
