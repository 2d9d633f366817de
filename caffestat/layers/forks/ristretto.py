"""Ristretto's layers, with inputs, params and outputs of few levels. (pmgysel/caffe; Gysel et al. 2016)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema.forks import ristretto_pb2

from ..base import Layer, Shape, layer
from ..convolution import Convolution, Deconvolution
from ..inner_product import InnerProduct
from ..reread import emit_closed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["ConvolutionRistretto", "DeconvolutionRistretto", "FcRistretto"]

TRAIN = 0
MINIFLOAT = ristretto_pb2.QuantizationParameter.MINIFLOAT
POWERS = ristretto_pb2.QuantizationParameter.INTEGER_POWER_OF_2_WEIGHTS
STOCHASTIC = ristretto_pb2.QuantizationParameter.STOCHASTIC


class _Trimmed(Layer):
    """A layer whose params are rounded, and in TEST its bottoms and tops; gradients pass as if nothing was.

    Fixed point: multiples of 2^-fl of bw bits, with sign. Powers of 2: ±2^e for weights, biases as they are. In TRAIN
    the params are rounded up or down at random.
    """

    adds = ristretto_pb2.LayerParameter

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.random = np.random.default_rng(1)

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.quantization_param

    @property
    def left_out(self) -> str:
        return "how params are rounded at random is not reproduced" if self.phase == TRAIN else ""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.settings.precision == MINIFLOAT:
            raise self.error("precision MINIFLOAT is not supported; expected DYNAMIC_FIXED_POINT or powers of 2")
        if self.phase != TRAIN and self.settings.rounding_scheme == STOCHASTIC:
            raise self.error("rounding_scheme STOCHASTIC is not supported in TEST; expected NEAREST")
        return tuple(shape for shape in super().tops(bottoms) if shape is not None)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, tests = self.settings, self.phase != TRAIN
        if tests:
            bottoms = [self.fixed(g, bottom, p.bw_layer_in, p.fl_layer_in) for bottom in bottoms]
        tops = super().lower(g, bottoms, [self.param(g, param, index) for index, param in enumerate(params)])
        return [self.fixed(g, top, p.bw_layer_out, p.fl_layer_out) for top in tops] if tests else tops

    def param(self, g: Graph, param: str, index: int) -> str:
        """Emit a param as it counts."""
        p = self.settings
        if p.precision == POWERS and index:
            return param
        noise = g.input(f"{self.name}/rounding{index}", g.shape(param)) if self.phase == TRAIN else None
        if p.precision == POWERS:
            return self.power(g, param, noise)
        return self.fixed(g, param, p.bw_params, p.fl_params, noise)

    def fixed(self, g: Graph, x: str, bits: int, fraction: int, noise: str | None = None) -> str:
        """Emit x as multiples of a step, rounded to the nearest (halves to even), or down after noise is added."""
        step, most = 2.0**-fraction, 2.0 ** (bits - 1)

        def forward(value: str) -> str:
            cut = g.emit("Clip", value, g.constant(-most * step), g.constant((most - 1) * step))
            return g.emit("Mul", rounded(g, g.emit("Mul", cut, g.constant(1 / step)), noise), g.constant(step))

        return self.through(g, x, forward)

    def power(self, g: Graph, x: str, noise: str | None) -> str:
        """Emit x as powers of 2."""
        p = self.settings

        def forward(value: str) -> str:
            logarithm = g.emit("Mul", g.emit("Log", g.emit("Abs", value)), g.constant(1 / math.log(2)))
            exponent = g.emit("Clip", rounded(g, logarithm, noise), g.constant(p.exp_min), g.constant(p.exp_max))
            sign = g.emit("Where", g.emit("GreaterOrEqual", value, g.constant(0)), g.constant(1), g.constant(-1))
            return g.emit("Mul", sign, g.emit("Pow", g.constant(2), exponent))

        return self.through(g, x, forward)

    @staticmethod
    def through(g: Graph, x: str, forward: Any) -> str:
        """Emit what `forward` makes of x; the gradient is that of x itself."""
        y = emit_closed(g, (x,), forward, lambda tape, dy: (dy,), ("Identity",))
        return g.declare(y, g.shape(x)) if x in g.specs else y

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if self.phase != TRAIN:
            return ()
        shapes = [param.shape for param in self.params(bottoms)][: 1 if self.settings.precision == POWERS else None]
        return [self.random.random(shape, np.float32) for shape in shapes]


def rounded(g: Graph, x: str, noise: str | None) -> str:
    """Emit the nearest whole numbers, halves to even, or those below x and noise."""
    return g.emit("Floor", g.emit("Add", x, noise)) if noise else g.emit("Round", x)


@layer("ConvolutionRistretto", dialect="ristretto")
class ConvolutionRistretto(_Trimmed, Convolution):
    """Convolution with rounded weights and biases.

    (pmgysel/caffe, src/caffe/ristretto/layers/conv_ristretto_layer.cpp)
    """


@layer("DeconvolutionRistretto", dialect="ristretto")
class DeconvolutionRistretto(_Trimmed, Deconvolution):
    """Deconvolution with rounded weights and biases.

    (pmgysel/caffe, src/caffe/ristretto/layers/base_ristretto_layer.cu)
    """


@layer("FcRistretto", dialect="ristretto")
class FcRistretto(_Trimmed, InnerProduct):
    """InnerProduct with rounded weights and biases.

    (pmgysel/caffe, src/caffe/ristretto/layers/base_ristretto_layer.cu)
    """
