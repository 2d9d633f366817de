"""Neuron layers: one value in, one value out, element by element; most of them may work in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from caffestat.fill import Filler, Stream, bernoulli

from .base import Layer, Param, Shape, layer, to_filler
from .reread import BOTTOM, TOP, emit_pulled, emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["ELU", "Dropout", "PReLU", "ReLU", "Sigmoid", "TanH"]

TRAIN = 0


class Neuron(Layer):
    """y = f(x), of x's shape. (neuron_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)


@layer("ReLU")
class ReLU(Neuron):
    """y = max(x, 0) + negative_slope · min(x, 0); dx = dy · (1 if x > 0 else negative_slope). (relu_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        slope = self.proto.relu_param.negative_slope
        if not slope:
            return (emit_pulled(g, "Relu", bottoms[0], BOTTOM),)
        return (emit_pulled(g, "LeakyRelu", bottoms[0], BOTTOM, alpha=slope),)


@layer("PReLU")
class PReLU(Neuron):
    """y = max(x, 0) + a · min(x, 0), one slope a per channel or one for all; da = Σ dy · min(x, 0). (prelu_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.error(f"expected a bottom of 2 to 4 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        proto = self.proto.prelu_param
        written = proto.HasField("filler")
        filler = to_filler(proto.filler) if written else Filler(value=0.25)
        shape = () if proto.channel_shared else (bottoms[0][1],)
        return (Param("slope", shape, filler, written, fan_in=1, fan_out=1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        rank = len(g.shape(bottoms[0]))
        slope = params[0]
        if not self.proto.prelu_param.channel_shared:
            slope = g.reshape(slope, -1, *(1,) * (rank - 2))
        return (g.emit("PRelu", bottoms[0], slope),)


@layer("Sigmoid")
class Sigmoid(Neuron):
    """y = 1 / (1 + e⁻ˣ); dx = dy · y · (1 - y). (sigmoid_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Sigmoid", bottoms[0], TOP),)


@layer("TanH")
class TanH(Neuron):
    """y = tanh(x); dx = dy · (1 - y²). (tanh_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Tanh", bottoms[0], TOP),)


@layer("ELU")
class ELU(Neuron):
    """y = x if x > 0 else α(eˣ - 1); dx = dy · (1 if x > 0 else α + y). (elu_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        alpha = self.proto.elu_param.alpha

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            positive = tape.emit("Greater", bottom, tape.constant(0))
            slope = tape.emit("Add", top, tape.constant(alpha))
            return tape.emit("Where", positive, dy, tape.emit("Mul", dy, slope))

        return (emit_reread(g, bottoms[0], lambda x: g.emit("Elu", x, alpha=alpha), gradient),)


@layer("Dropout")
class Dropout(Neuron):
    """TRAIN: y = x · mask / (1 - dropout_ratio), each mask bit 1 with probability 1 - dropout_ratio; TEST: y = x.
    (dropout_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        ratio = self.proto.dropout_param.dropout_ratio
        if self.phase == TRAIN and not 0 <= ratio < 1:
            raise self.error(f"expected a dropout_ratio of at least 0 and below 1, found {ratio:g}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.phase != TRAIN:
            return (bottoms[0],)
        mask = g.input(f"{self.name}/mask", g.shape(bottoms[0]))
        return (g.emit("Mul", bottoms[0], mask),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if self.phase != TRAIN:
            return ()
        keep = 1.0 - float(np.float32(self.proto.dropout_param.dropout_ratio))
        bits = bernoulli(stream, int(np.prod(bottoms[0])), keep, np.float64)
        return ((bits * np.float32(1 / keep)).reshape(bottoms[0]),)
