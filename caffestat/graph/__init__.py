"""One ONNX graph under construction: nodes, constants, and which shape each value has. Knows nothing of Caffe."""

from typing import TYPE_CHECKING

from caffestat.lazy import lazily

from .axes import all_but_channels
from .late import early, late

if TYPE_CHECKING:
    from .convolution import Convolution, convolution_of
    from .graph import CONTRIB, OPSET, Graph, Node, Region, Spec

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
    "early",
    "late",
]

__getattr__ = lazily(
    __name__,
    {
        "convolution": ["Convolution", "convolution_of"],
        "graph": ["CONTRIB", "OPSET", "Graph", "Node", "Region", "Spec"],
    },
)
