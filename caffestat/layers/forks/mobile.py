"""Layer types of forks for mobile and quantised nets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import Place
from caffestat.fillers import Filler, Stream, uniform
from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import mobile_pb2

from ..base import TRAIN, Layer, Param, Shape, layer, to_filler
from ..convolution import Convolution
from ..neuron import Neuron
from ..reread import BOTTOM, emit_pulled, emit_reread
from ..scale import emit_affine

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "Axpy",
    "ConvolutionDepthwise",
    "DepthwiseConv",
    "DepthwiseConvolution",
    "EltwiseAffine",
    "HSigmoid",
    "HSwish",
    "Insanity",
    "Maxout",
    "Mish",
    "ReLU6",
]


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


@layer("HSigmoid")
class HSigmoid(Neuron):
    """y = min(max(x + 3, 0), 6) / 6. (Howard et al. 2019, MobileNetV3)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.hard_sigmoid(1 / 6, 0.5)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "HardSigmoid", bottoms[0], BOTTOM, alpha=1 / 6, beta=0.5),)


@layer("HSwish")
class HSwish(Neuron):
    """y = x · min(max(x + 3, 0), 6) / 6. (Howard et al. 2019, MobileNetV3)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.HARD_SWISH

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "HardSwish", bottoms[0], BOTTOM),)


@layer("Cos", dialect="pose-drl")
class Cos(Neuron):
    """y = cos x; dx = -dy · sin x. (aleksispi/pose-drl, cos_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Cos", bottoms[0], BOTTOM),)


@layer("Mish")
class Mish(Neuron):
    """y = x · tanh(log(1 + eˣ)). (Misra 2019)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.MISH

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Mish", bottoms[0], BOTTOM),)


@layer("Insanity", dialect="happynear")
class Insanity(Neuron):
    """y = max(x, 0) + min(x, 0) / a with a drawn from U(lb, ub) for every element (TRAIN), or their mean slope (TEST).

    The mean slope is (ub - lb) / (log |ub| - log |lb|). (happynear/caffe-windows, insanity_layer.cpp; Xu et al. 2015)
    """

    adds = mobile_pb2.LayerParameter

    def nonlinearity(self) -> Nonlinearity:
        low, high = self.added.insanity_param.lb, self.added.insanity_param.ub
        return activations.leaky(1 / self.mean(), 1 / (low * high))

    def mean(self) -> float:
        """Return what negative values are divided by in TEST."""
        low, high = self.added.insanity_param.lb, self.added.insanity_param.ub
        return (high - low) / math.log(abs(high) / abs(low))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        low, high = self.added.insanity_param.lb, self.added.insanity_param.ub
        if not low < high or low * high == 0 or abs(low) == abs(high):
            raise self.error(f"expected bounds lb < ub, neither of them 0, found {low:g} and {high:g}")
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of at least 2 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.phase != TRAIN:
            return (g.emit("LeakyRelu", bottoms[0], alpha=1 / self.mean()),)
        divisors = g.input(f"{self.name}/divisors", g.shape(bottoms[0]))
        zero = g.constant(0)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            below = tape.emit("Div", dy, divisors)
            return tape.emit("Where", tape.emit("Greater", bottom, zero), dy, below)

        def forward(x: str) -> str:
            return g.emit("Add", g.emit("Max", x, zero), g.emit("Div", g.emit("Min", x, zero), divisors))

        return (emit_reread(g, bottoms[0], forward, gradient),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if self.phase != TRAIN:
            return ()
        low, high = self.added.insanity_param.lb, self.added.insanity_param.ub
        return (uniform(stream, math.prod(bottoms[0]), low, high).reshape(bottoms[0]),)


@layer("Axpy", dialect="senet")
class Axpy(Layer):
    """y = a · x + b for bottoms a [N, C] or [N, C, 1, 1], x and b [N, C, …]. (hujie-frank/SENet, axpy_layer.cpp)"""

    num_bottoms = (3, 3)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        a, x, b = bottoms
        if len(x) < 2 or x != b or a[:2] != x[:2] or math.prod(a) != math.prod(x[:2]):
            raise self.error(f"expected bottoms (N, C) and twice (N, C, …), found shapes {a}, {x} and {b}")
        return (x,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[1])
        column = g.reshape(bottoms[0], *shape[:2], *(1,) * (len(shape) - 2))
        return (g.emit("Add", g.emit("Mul", column, bottoms[1]), bottoms[2], hint=self.name),)


@layer("EltwiseAffine", dialect="happynear")
class EltwiseAffine(Neuron):
    """y = a · x + b, one a and one b for each channel [C], or one of both with channel_shared.

    (happynear/caffe-windows, eltwise_affine_layer.cpp)
    """

    adds = mobile_pb2.LayerParameter
    passes_signal = True
    filler_fields: ClassVar[Mapping[str, str]] = {
        "eltwise_affine_param.slope_filler": "scale",
        "eltwise_affine_param.bias_filler": "bias",
    }

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return True

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        p = self.added.eltwise_affine_param
        shape = () if p.channel_shared else bottoms[0][1:2]
        usual = (("scale", "slope_filler", 1.0001), ("bias", "bias_filler", 0.0001))
        fillers = [
            (role, to_filler(getattr(p, field)) if p.HasField(field) else Filler(value=value), p.HasField(field))
            for role, field, value in usual
        ]
        return tuple(Param(role, shape, filler, written, 1, 1) for role, filler, written in fillers)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of at least 2 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.added.eltwise_affine_param.channel_shared:
            return (emit_affine(g, bottoms[0], params[0], params[1], self.name),)
        return (g.emit("Add", g.emit("Mul", bottoms[0], params[0]), params[1], hint=self.name),)


@layer("Maxout", dialect="maxout")
class Maxout(Layer):
    """y = max of each group of chgroup_sz channels, [N, C, H, W] -> [N, C / chgroup_sz, H, W]; dx to the first largest.

    With minout the reference's y is -FLT_MAX, as nothing is below what it starts with: refused.
    (nyamnyam7/private-caffe, maxout_layer.cpp)
    """

    adds = mobile_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, shape = self.added.maxout_param, bottoms[0]
        if len(shape) != 4 or p.chgroup_sz < 1 or shape[1] % p.chgroup_sz or p.minout:
            raise self.error(f"expected chgroup_sz that divides the channels, and no minout, found a bottom of {shape}")
        return ((shape[0], shape[1] // p.chgroup_sz, *shape[2:]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, channels, height, width = g.shape(bottoms[0])
        size = self.added.maxout_param.chgroup_sz
        groups = g.reshape(bottoms[0], n, channels // size, size, height, width)
        index = g.emit("ArgMax", g.detach(groups), axis=2, keepdims=1)
        largest = g.declare(g.emit("GatherElements", groups, index, axis=2), (n, channels // size, 1, height, width))
        return (g.reshape(largest, n, channels // size, height, width),)
