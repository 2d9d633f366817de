"""Layer types of forks for mobile and quantised nets."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.ops import Nonlinearity, activations

from ..base import Shape, layer
from ..convolution import Convolution
from ..neuron import Neuron
from ..reread import emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["ConvolutionDepthwise", "DepthwiseConv", "DepthwiseConvolution", "ReLU6"]


class _PerChannel(Convolution):
    """A Convolution with one group per channel of the bottom."""

    read_as = "Convolution with one group per channel"

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(deepcopy(proto), phase, place)

    def geometry(self, bottoms: Sequence[Shape]) -> Any:
        axis = self.canonical_axis(self.proto.convolution_param.axis, len(bottoms[0]))
        self.proto.convolution_param.group = bottoms[0][axis]
        return super().geometry(bottoms)


@layer("DepthwiseConvolution")
class DepthwiseConvolution(_PerChannel):
    """y = W * x + b, each channel by itself: Convolution with `group` the number of channels, whatever is written.

    (yonghenglh6/DepthwiseConvolution, depthwise_conv_layer.cpp)
    """


@layer("DepthwiseConv")
class DepthwiseConv(_PerChannel):
    """DepthwiseConvolution under a shorter name."""


@layer("ConvolutionDepthwise")
class ConvolutionDepthwise(_PerChannel):
    """DepthwiseConvolution with as many outputs as channels: num_output is not looked at.

    (BVLC/caffe pull request 5665, conv_dw_layer.cpp)
    """

    read_as = "Convolution with one group and one output per channel"

    def geometry(self, bottoms: Sequence[Shape]) -> Any:
        axis = self.canonical_axis(self.proto.convolution_param.axis, len(bottoms[0]))
        self.proto.convolution_param.num_output = bottoms[0][axis]
        return super().geometry(bottoms)


@layer("ReLU6")
class ReLU6(Neuron):
    """y = min(max(x, 0), 6); dx = dy where 0 < x < 6, else 0. (chuanqi305/ssd, relu6_layer.cpp)"""

    read_as = "Clip from 0 to 6"

    def nonlinearity(self) -> Nonlinearity:
        return activations.clip(0.0, 6.0)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        low, high = g.constant(0), g.constant(6)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            inside = tape.emit("And", tape.emit("Greater", bottom, low), tape.emit("Less", bottom, high))
            return str(tape.emit("Where", inside, dy, tape.constant(0)))

        return (emit_reread(g, bottoms[0], lambda x: g.emit("Clip", x, low, high), gradient),)
