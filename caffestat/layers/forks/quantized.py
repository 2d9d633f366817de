"""Layer types of forks with few levels of activations or weights. (zhaoweicai/hwgq; Cai et al. 2017)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import mobile_pb2

from ..base import Shape, layer
from ..convolution import Convolution
from ..inner_product import InnerProduct
from ..neuron import Neuron
from ..reread import emit_closed, emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["BinaryConvolution", "BinaryInnerProduct", "Quant"]

FORWARD = ("hwgq", "sign", "hard_tanh", "relu")
BACKWARD = ("relu", "hard_tanh")


@layer("Quant", dialect="hwgq")
class Quant(Neuron):
    """y = q(x) with few levels: the nearest of `centers` where x > 0 (hwgq), the sign, x cut to ±1, or ReLU.

    Backward, whatever q is: dx = dy where x > 0 (times negative_slope elsewhere) and x <= clip_thr for "relu", where
    |x| <= clip_thr for "hard_tanh"; a clip_thr of 0 is none. (zhaoweicai/hwgq, quant_layer.cpp)
    """

    adds = mobile_pb2.LayerParameter

    def nonlinearity(self) -> Nonlinearity:
        forward = self.added.quant_param.forward_func
        return activations.TANH if forward in ("sign", "hard_tanh") else activations.RELU

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        proto = self.added.quant_param
        for name, value, known in (
            ("forward_func", proto.forward_func, FORWARD),
            ("backward_func", proto.backward_func, BACKWARD),
        ):
            if value not in known:
                raise self.error(f"unknown {name} {value!r}; expected one of {', '.join(known)}")
        if proto.forward_func == "hwgq" and (not proto.centers or min(proto.centers) <= 0):
            raise self.error(f"forward_func hwgq needs positive centers, found {list(proto.centers) or 'none'}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_reread(g, bottoms[0], lambda x: self.quantized(g, x), self.gradient, self.slope(g)),)

    def slope(self, g: Graph) -> Sequence[str]:
        """Return the op of which the gradient is the derivative, a negative_slope aside."""
        proto = self.added.quant_param
        most = proto.clip_thr if proto.clip_thr > 0 else float(np.finfo(np.float32).max)
        least = 0.0 if proto.backward_func == "relu" else -most
        return ("Clip", g.constant(least), g.constant(most))

    def quantized(self, g: Graph, x: str) -> str:
        """Emit q(x)."""
        proto, kind = self.added.quant_param, self.added.quant_param.forward_func
        if kind == "sign":
            return g.emit("Where", g.emit("GreaterOrEqual", x, g.constant(0)), g.constant(1), g.constant(-1))
        if kind == "hard_tanh":
            return g.emit("Clip", x, g.constant(-1), g.constant(1))
        if kind == "relu":
            return g.emit("LeakyRelu", x, alpha=proto.negative_slope)
        return self.nearest_center(g, x)

    def nearest_center(self, g: Graph, x: str) -> str:
        """Emit -negative_slope where x <= 0, else the center whose threshold x does not exceed: a sum of steps."""
        proto = self.added.quant_param
        centers = np.asarray(proto.centers, np.float32)
        levels = [np.float32(-proto.negative_slope), *centers]
        bounds = [np.float32(0), *(np.float32(0.5) * (centers[:-1] + centers[1:]))]
        y = g.constant(levels[0])
        for bound, level in zip(bounds, levels[1:], strict=True):
            y = g.emit("Where", g.emit("Greater", x, g.constant(bound)), g.constant(level), y)
        return y

    def gradient(self, tape: Tape, bottom: str, top: str, dy: str) -> str:
        """Emit dx from what is stored as the bottom."""
        proto, zero = self.added.quant_param, tape.constant(0)
        limit = tape.constant(proto.clip_thr if proto.clip_thr > 0 else np.finfo(np.float32).max)
        if proto.backward_func == "hard_tanh":
            return tape.emit("Where", tape.emit("LessOrEqual", tape.emit("Abs", bottom), limit), dy, zero)
        slope = tape.emit("Where", tape.emit("Greater", bottom, zero), dy, self.sloped(tape, dy))
        return tape.emit("Where", tape.emit("LessOrEqual", bottom, limit), slope, zero)

    def sloped(self, tape: Tape, dy: str) -> str:
        slope = self.added.quant_param.negative_slope
        return tape.emit("Mul", dy, tape.constant(slope)) if slope else tape.constant(0)


def _binarized(g: Graph, weight: str, uses_alpha: bool) -> str:
    """Emit ±1, or ±mean |w| of each output's weights, by the sign of w; the gradient is w's own."""
    rank = len(g.shape(weight))

    def forward(w: str) -> str:
        sign = g.emit("Where", g.emit("GreaterOrEqual", w, g.constant(0)), g.constant(1), g.constant(-1))
        if not uses_alpha:
            return sign
        return g.emit("Mul", sign, g.emit("ReduceMean", g.emit("Abs", w), g.ints(*range(1, rank)), keepdims=1))

    binary = emit_closed(g, (weight,), forward, lambda tape, dy: (dy,), ("Identity",))
    return g.declare(binary, g.shape(weight))


@layer("BinaryConvolution", dialect="hwgq")
class BinaryConvolution(Convolution):
    """Convolution with the signs of its weights, times mean |w| of each output's with use_alpha.

    The weights' gradient is that of the signs. (zhaoweicai/hwgq, binary_conv_layer.cpp)
    """

    adds = mobile_pb2.LayerParameter

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.added.binary_convolution_param
        weight = _binarized(g, params[0], proto.use_alpha) if proto.use_binarization else params[0]
        return super().lower(g, bottoms, (weight, *params[1:]))


@layer("BinaryInnerProduct", dialect="hwgq")
class BinaryInnerProduct(InnerProduct):
    """InnerProduct with the signs of its weights, times mean |w| of each output's with use_alpha.

    The weights' gradient is that of the signs; `transpose` is not looked at. (zhaoweicai/hwgq,
    binary_inner_product_layer.cpp)
    """

    adds = mobile_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.proto.inner_product_param.transpose:
            raise self.error("transpose has no effect here, and the weights would have another shape; remove it")
        return super().tops(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.added.binary_inner_product_param
        weight = _binarized(g, params[0], proto.use_alpha) if proto.use_binarization else params[0]
        return super().lower(g, bottoms, (weight, *params[1:]))
