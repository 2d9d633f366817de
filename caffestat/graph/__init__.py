"""One ONNX graph under construction: nodes, constants, and which shape each value has. Knows nothing of Caffe."""

from .convolution import Convolution, convolution_of
from .expand import expand
from .graph import CONTRIB, OPSET, Graph, Node, Region, Spec, all_but_channels
from .late import late

__all__ = [
    "CONTRIB",
    "OPSET",
    "Convolution",
    "Graph",
    "Node",
    "Region",
    "Spec",
    "all_but_channels",
    "convolution_of",
    "expand",
    "late",
]
