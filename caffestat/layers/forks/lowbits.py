"""Layers whose weights are rounded to few levels at every pass, of Stochastic-Quantization and ADaPTION."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.fillers import Stream
from caffestat.graph import Node
from caffestat.lazy import np
from caffestat.schema.forks import lowbits_pb2

from ..base import Layer, Param, Shape, layer
from ..convolution import Convolution
from ..inner_product import InnerProduct
from ..neuron import Neuron
from ..reread import emit_closed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "LPAct",
    "LPConvolution",
    "LPInnerProduct",
    "StochasticBinaryConvolution",
    "StochasticBinaryInnerProduct",
    "TernaryConvolution",
    "TernaryInnerProduct",
]


# ---- Stochastic-Quantization (Dong et al. 2017) ----------------------------------------------------------------------


class _Stochastic(Layer):
    """A layer whose weights have few levels; with `sq` and a `ratio` below 100 the rest of the outputs keeps its own.

    Which do is drawn by their errors Σ |w - q| / Σ |w|. The bottom's gradient is that of the rounded weights, the
    weights' passes through the rounding.
    """

    adds = lowbits_pb2.LayerParameter

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.random = np.random.default_rng(1)

    @property
    def settings(self) -> Any:
        """What the fork adds to the layer's own parameters."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        """How many outputs the layer has."""
        raise NotImplementedError

    @property
    def kept(self) -> int:
        """How many outputs keep their weights."""
        p = self.settings
        if not p.sq or p.ratio >= 100:
            return 0
        return int((np.float32(1) - np.float32(p.ratio) / np.float32(100)) * np.float32(self.outputs))

    @property
    def left_out(self) -> str:
        return "the outputs that keep their weights are drawn with other random numbers" if self.kept else ""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.settings.ratio < 0:
            raise self.error(f"expected a ratio of 0 to 100 percent, found {self.settings.ratio:g}")
        return tuple(shape for shape in super().tops(bottoms) if shape is not None)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(params[0])
        rows = (self.outputs, math.prod(shape) // self.outputs)
        noise = g.input(f"{self.name}/noise", (rows[0], 1)) if self.kept else None

        def forward(weight: str) -> str:
            w = g.declare(g.reshape(weight, *rows), rows)
            used = g.declare(self.rounded(g, w), rows)
            if noise:
                used = g.declare(g.emit("Where", self.keeps(g, w, used, noise), w, used), rows)
            return g.reshape(used, *shape)

        weight = emit_closed(g, params[:1], forward, lambda tape, dy: (dy,), ("Identity",))
        return super().lower(g, bottoms, (g.declare(weight, shape), *params[1:]))

    def rounded(self, g: Graph, w: str) -> str:
        """Emit the levels of weights [outputs, taps]."""
        raise NotImplementedError

    def keeps(self, g: Graph, w: str, used: str, noise: str) -> str:
        """Emit which outputs keep their weights: the first `kept` of a draw by error without putting back.

        These are the outputs of the largest error / e, e exponential. (Efraimidis and Spirakis 2006)
        """
        error, size = (sums(g, g.emit("Abs", value)) for value in (g.emit("Sub", w, used), w))
        share = g.emit("Where", g.emit("Greater", size, g.constant(0)), g.emit("Div", error, size), g.constant(0))
        key = g.emit("Div", share, noise)
        best, _ = g.emit_many("TopK", key, g.ints(self.kept), count=2, axis=0)
        least = g.emit("ReduceMin", best, keepdims=0)
        return g.emit("And", g.emit("GreaterOrEqual", key, least), g.emit("Greater", key, g.constant(0)))

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        return (self.random.exponential(size=(self.outputs, 1)).astype(np.float32),) if self.kept else ()


def sums(g: Graph, rows: str) -> str:
    """Emit the sum of each row [R, 1]."""
    return g.emit("ReduceSum", rows, g.ints(1), keepdims=1)


class _Binary(_Stochastic):
    """±mean |w| of each output's weights, by the sign of w."""

    def rounded(self, g: Graph, w: str) -> str:
        sign = g.emit("Where", g.emit("GreaterOrEqual", w, g.constant(0)), g.constant(1), g.constant(-1))
        return g.emit("Mul", sign, g.emit("ReduceMean", g.emit("Abs", w), g.ints(1), keepdims=1))


class _Ternary(_Stochastic):
    """0 where |w| <= δ = 0.7 mean |w - mean w|, else ±mean |w| of those weights of the output, by the sign of w."""

    def rounded(self, g: Graph, w: str) -> str:
        centered = g.emit("Sub", w, g.emit("ReduceMean", w, keepdims=1))
        delta = g.emit("Mul", g.emit("ReduceMean", g.emit("Abs", centered), keepdims=1), g.constant(0.7))
        size = g.emit("Abs", w)
        large = g.emit("Cast", g.emit("Greater", size, delta), to=1)
        count, total = sums(g, large), sums(g, g.emit("Mul", size, large))
        alpha = g.emit("Div", total, g.emit("Max", count, g.constant(1)))
        return g.emit("Mul", g.emit("Mul", g.emit("Sign", w), large), alpha)


class _StochasticConvolution(_Stochastic, Convolution):
    @property
    def settings(self) -> Any:
        return self.added.convolution_param

    @property
    def outputs(self) -> int:
        return int(self.proto.convolution_param.num_output)


class _StochasticInnerProduct(_Stochastic, InnerProduct):
    """With `transpose`, too, the weights are taken as num_output runs of memory."""

    @property
    def settings(self) -> Any:
        return self.added.inner_product_param

    @property
    def outputs(self) -> int:
        return int(self.proto.inner_product_param.num_output)


@layer("BinaryConvolution", dialect="sq")
class StochasticBinaryConvolution(_Binary, _StochasticConvolution):
    """Convolution with the weights ±mean |w| of each output, by the sign of w; with `sq`, of ratio percent of them.

    (dongyp13/Stochastic-Quantization, conv_layer_binary.cu)
    """


@layer("BinaryInnerProduct", dialect="sq")
class StochasticBinaryInnerProduct(_Binary, _StochasticInnerProduct):
    """InnerProduct with the weights ±mean |w| of each output, by the sign of w; with `sq`, of ratio percent of them.

    (dongyp13/Stochastic-Quantization, inner_product_layer_binary.cu)
    """


@layer("TernaryConvolution", dialect="sq")
class TernaryConvolution(_Ternary, _StochasticConvolution):
    """Convolution with weights 0 where |w| <= δ = 0.7 mean |w - mean w|, else ±α by the sign of w.

    α is the mean |w| of the other weights of the output. With `sq` only ratio percent of the outputs have them.
    (dongyp13/Stochastic-Quantization, conv_layer_ternary.cu)
    """


@layer("TernaryInnerProduct", dialect="sq")
class TernaryInnerProduct(_Ternary, _StochasticInnerProduct):
    """InnerProduct with weights 0 where |w| <= δ = 0.7 mean |w - mean w|, else ±α by the sign of w.

    α is the mean |w| of the other weights of the output. With `sq` only ratio percent of the outputs have them.
    (dongyp13/Stochastic-Quantization, inner_product_layer_ternary.cu)
    """


# ---- ADaPTION (Milde et al. 2017) ------------------------------------------------------------------------------------


class _LowPrecision(Layer):
    """What ADaPTION's layers share: numbers of bd bits before the point, with sign, and ad behind it."""

    adds = lowbits_pb2.LowPrecisionLayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.lpfp_param

    def check_bits(self) -> None:
        """Raise NetError for numbers that 32 bits do not hold."""
        p = self.settings
        if not 1 <= p.bd <= 31 or p.ad > 30:
            raise self.error(f"expected bd from 1 to 31 and ad up to 30 in lpfp_param, found {p.bd} and {p.ad}")

    def fixed(self, g: Graph, x: str) -> str:
        """Emit x as a multiple of 2^-ad, at most 2^(bd - 1) - 2^-ad: the nearest, halves away from 0.

        With STOCHASTIC the one below: on the CPU the reference's random number is a quotient of integers, 0. Its GPU
        code draws, with DETERMINISTIC too, since a break is missing.
        """
        p = self.settings
        step = 2.0**-p.ad
        most = float(np.float32(2.0 ** (p.bd - 1) - step))
        scaled = g.emit("Mul", x, g.constant(1 / step))
        whole = g.emit("Floor", scaled) if p.rounding_scheme == p.STOCHASTIC else nearest(g, scaled)
        return g.emit("Clip", g.emit("Mul", whole, g.constant(step)), g.constant(-most), g.constant(most))


def nearest(g: Graph, x: str) -> str:
    """Emit the nearest whole numbers, halves away from 0."""
    size = g.emit("Abs", x)
    below = g.emit("Floor", size)
    is_up = g.emit("GreaterOrEqual", g.emit("Sub", size, below), g.constant(0.5))
    return g.emit("Mul", g.emit("Sign", x), g.emit("Add", below, g.emit("Cast", is_up, to=1)))


@layer("LPAct", dialect="adaption")
class LPAct(_LowPrecision, Neuron):
    """y = x as a number of bd and ad bits; dx = dy. (NeuromorphicProcessorProject/ADaPTION, lp_act_layer.cpp)"""

    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_bits()
        return super().tops(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_closed(g, bottoms, lambda x: self.fixed(g, x), lambda tape, dy: (dy,), ("Identity",)),)


class _Multiplying(_LowPrecision):
    """A layer that multiplies by rounded weights; its gradients are those of the weights as they are.

    Params: weights, their rounded copy and, with a bias, it and its copy, each copy drawn by the same filler first.
    With round_bias the bias is rounded too.
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_bits()
        return tuple(shape for shape in super().tops(bottoms) if shape is not None)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return tuple(param for param in super().params(bottoms) for _ in range(2))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        self.rounded_params = params[1::2]
        return super().lower(g, bottoms, params[::2])

    def multiply(self, g: Graph, op: str, *inputs: str, **attributes: Any) -> str:
        """Emit the product with the rounded params, whose gradient is that with the params as they are."""

        def forward(x: str, weight: str, *biases: str) -> str:
            used = [self.copied(g, weight, 0)]
            used += [self.copied(g, bias, 1) if self.settings.round_bias else bias for bias in biases]
            return g.emit(op, x, *used, hint=self.name, **attributes)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return tape.pull(Node(op, inputs, (y,), attributes), dy)

        y = emit_closed(g, inputs, forward, gradient)
        return y

    def copied(self, g: Graph, param: str, index: int) -> str:
        """Emit a param rounded, which becomes its copy."""
        shape, copy = g.shape(param), self.rounded_params[index]
        used = g.declare(self.fixed(g, param), shape)
        g.updates[copy] = g.declare(g.copy(g.reshape(used, *g.shape(copy))), g.shape(copy))
        return used


@layer("LPConvolution", dialect="adaption")
class LPConvolution(_Multiplying, Convolution):
    """Convolution with weights of bd and ad bits. (NeuromorphicProcessorProject/ADaPTION, lp_conv_layer.cpp)"""


@layer("LPInnerProduct", dialect="adaption")
class LPInnerProduct(_Multiplying, InnerProduct):
    """InnerProduct with weights of bd and ad bits.

    (NeuromorphicProcessorProject/ADaPTION, lp_inner_product_layer.cpp)
    """
