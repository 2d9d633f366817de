"""Ristretto's layers, with inputs, params and outputs of few levels. (pmgysel/caffe; Gysel et al. 2016)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema.forks import ristretto_pb2

from ..base import TRAIN, Layer, Shape, layer
from ..convolution import Convolution, Deconvolution
from ..inner_product import InnerProduct
from ..normalization import LRN
from ..reread import emit_closed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["ConvolutionRistretto", "DeconvolutionRistretto", "FcRistretto", "LRNRistretto"]

MINIFLOAT = ristretto_pb2.QuantizationParameter.MINIFLOAT
POWERS = ristretto_pb2.QuantizationParameter.INTEGER_POWER_OF_2_WEIGHTS
STOCHASTIC = ristretto_pb2.QuantizationParameter.STOCHASTIC
LEAST = -126  # exponent of the smallest float32 that is normal


class _Small(Layer):
    """A layer that computes with floats of few bits."""

    adds = ristretto_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.quantization_param

    def small(self, g: Graph, x: str, noise: str | None = None) -> str:
        """Emit x as floats of mant_bits and exp_bits: ±(1 + m / 2^mant) · 2^e; what is too small is 0."""
        p = self.settings
        parts, bias = 2.0**p.mant_bits, 2 ** (p.exp_bits - 1) - 1
        exponent, mantissa = split(g, x)
        kept = rounded(g, g.emit("Mul", mantissa, g.constant(parts)), noise)
        magnitude = g.emit(
            "Mul", g.emit("Add", g.emit("Mul", kept, g.constant(1 / parts)), g.constant(1)), two_to(g, exponent)
        )
        highest = 2**p.exp_bits - 1 - bias
        if highest < 128:  # a float32 may be larger
            most = g.constant((2 - 1 / parts) * 2.0**highest)
            magnitude = g.emit("Where", g.emit("Greater", exponent, g.constant(highest)), most, magnitude)
        is_small = g.emit("Less", exponent, g.constant(max(-bias, LEAST)))
        return g.emit("Mul", g.emit("Sign", x), g.emit("Where", is_small, g.constant(0), magnitude))


class _Trimmed(_Small):
    """A layer whose params are rounded, and in TEST its bottoms and tops; gradients pass as if nothing was.

    Fixed point: multiples of 2^-fl of bw bits, with sign. Powers of 2: ±2^e for weights, biases as they are, bottoms
    and tops of fixed point. MINIFLOAT: floats of mant_bits and exp_bits. In TRAIN the params are rounded up or down at
    random, with STOCHASTIC all values in TEST. Numbers as on a GPU: halves to even; the reference's CPU code rounds
    halves away from 0 and leaves what follows the first 0 of a blob as it is with MINIFLOAT.
    """

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.random = np.random.default_rng(1)

    @property
    def is_random(self) -> bool:
        """Whether rounding draws random numbers: of params in TRAIN, of all values in TEST with STOCHASTIC."""
        return bool(self.phase == TRAIN or self.settings.rounding_scheme == STOCHASTIC)

    @property
    def left_out(self) -> str:
        return "its stochastic rounding is not reproduced" if self.is_random else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, tests = self.settings, self.phase != TRAIN
        if tests:
            bottoms = [self.blob(g, x, p.bw_layer_in, p.fl_layer_in, f"in{i}") for i, x in enumerate(bottoms)]
        tops = super().lower(g, bottoms, [self.param(g, param, index) for index, param in enumerate(params)])
        return (
            [self.blob(g, y, p.bw_layer_out, p.fl_layer_out, f"out{i}") for i, y in enumerate(tops)] if tests else tops
        )

    def noise(self, g: Graph, x: str, name: str) -> str | None:
        """Declare random numbers for each element of x where rounding draws them."""
        return g.input(f"{self.name}/rounding_{name}", g.shape(x)) if self.is_random else None

    def blob(self, g: Graph, x: str, bits: int, fraction: int, name: str) -> str:
        """Emit a bottom or a top as it counts in TEST."""
        noise = self.noise(g, x, name)
        if self.settings.precision == MINIFLOAT:
            return self.through(g, x, lambda value: self.small(g, value, noise))
        return self.fixed(g, x, bits, fraction, noise)

    def param(self, g: Graph, param: str, index: int) -> str:
        """Emit a param as it counts."""
        p = self.settings
        if p.precision == POWERS and index:
            return param
        noise = self.noise(g, param, f"param{index}")
        if p.precision == POWERS:
            return self.power(g, param, noise)
        if p.precision == MINIFLOAT:
            return self.through(g, param, lambda value: self.small(g, value, noise))
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
        if not self.is_random:
            return ()
        shapes = [param.shape for param in self.params(bottoms)][: 1 if self.settings.precision == POWERS else None]
        if self.phase != TRAIN:
            shapes = [*bottoms, *shapes, *(shape for shape in self.tops(bottoms) if shape is not None)]
        return [self.random.random(shape, np.float32) for shape in shapes]


def two_to(g: Graph, exponent: str) -> str:
    """Emit 2 ^ exponent."""
    return g.emit("Pow", g.constant(2), exponent)


def split(g: Graph, x: str) -> tuple[str, str]:
    """Emit exponent e and mantissa m of |x| = (1 + m) · 2^e, 0 <= m < 1; e is under LEAST for 0 and subnormal x."""
    size = g.emit("Max", g.emit("Abs", x), g.constant(2.0 ** (LEAST - 1)))
    guess = g.emit("Floor", g.emit("Mul", g.emit("Log", size), g.constant(1 / math.log(2))))
    guess = g.emit("Clip", guess, g.constant(LEAST), g.constant(127))
    ratio = g.emit("Div", size, two_to(g, guess))  # the logarithm may round across a whole number
    over = g.cast(g.emit("GreaterOrEqual", ratio, g.constant(2)), np.float32)
    under = g.cast(g.emit("Less", ratio, g.constant(1)), np.float32)
    exponent = g.emit("Sub", g.emit("Add", guess, over), under)
    scaled = g.emit(
        "Mul", ratio, g.emit("Sub", g.emit("Add", g.constant(1), under), g.emit("Mul", over, g.constant(0.5)))
    )
    return exponent, g.emit("Sub", scaled, g.constant(1))


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


@layer("LRNRistretto", dialect="ristretto")
class LRNRistretto(_Small, LRN):
    """LRN across channels on floats of mant_bits and exp_bits, which each step of the sums is rounded to.

    Its gradient is LRN's with these sums and this top.
    (pmgysel/caffe, src/caffe/ristretto/layers/lrn_ristretto_layer.cu)
    """

    decides = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.settings.precision != MINIFLOAT:
            raise self.error("expected precision MINIFLOAT in quantization_param, the only one for LRN")
        if self.proto.lrn_param.norm_region:
            raise self.error("expected norm_region ACROSS_CHANNELS, the only one for LRNRistretto")
        return tuple(shape for shape in LRN.tops(self, bottoms) if shape is not None)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        return (self.scales(bottoms[0].astype(np.float32)),)

    def scales(self, x: np.ndarray) -> np.ndarray:
        """Return k + α/n · Σ x², the sum a running one along the channels; each step is rounded."""
        p, q = self.proto.lrn_param, self.settings

        def small(value: np.ndarray) -> np.ndarray:
            return small_floats(value, q.mant_bits, q.exp_bits)

        squares = small(small(x) ** 2)
        channels, size, behind = x.shape[1], p.local_size, p.local_size // 2
        share, sums, scales = np.float32(p.alpha / size), np.zeros_like(squares[:, 0]), np.empty_like(squares)
        for head in range(channels + behind):
            if head < channels:
                sums = small(sums + squares[:, head])
            if head >= max(size, behind):
                sums = small(sums - squares[:, head - size])
            if head >= behind:
                scales[:, head - behind] = small(np.float32(p.k) + small(sums * share))
        return scales

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, (x,), (scales,) = self.proto.lrn_param, bottoms, self.input_decisions(g)

        def forward(value: str) -> str:
            power = self.small(g, g.emit("Pow", scales, g.constant(-p.beta)))
            return self.small(g, g.emit("Mul", self.small(g, value), power))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            bottom, top = tape.stored(x), tape.stored(y)
            ratio = tape.emit("Div", tape.emit("Mul", dy, top), scales)
            along = tape.emit("Mul", bottom, self.window_sums(tape.graph, ratio, tape.shape(x)))
            straight = tape.emit("Mul", dy, tape.emit("Pow", scales, tape.constant(-p.beta)))
            return [
                tape.emit("Sub", straight, tape.emit("Mul", along, tape.constant(2 * p.beta * p.alpha / p.local_size)))
            ]

        y = emit_closed(g, (x,), forward, gradient)
        return [y]


def small_floats(x: np.ndarray, mantissa_bits: int, exponent_bits: int) -> np.ndarray:
    """Return x as floats of few bits, rounded to the nearest; see `_Trimmed.small`."""
    parts, bias = 2.0**mantissa_bits, 2 ** (exponent_bits - 1) - 1
    half, exponent = np.frexp(np.abs(x.astype(np.float64)))
    exponent, mantissa = exponent - 1, 2 * half - 1
    magnitude = np.ldexp(1 + np.rint(mantissa * parts) / parts, exponent)
    highest = 2**exponent_bits - 1 - bias
    magnitude = np.where(exponent > highest, np.ldexp(2 - 1 / parts, highest), magnitude)
    is_small = (exponent < max(-bias, LEAST)) | (x == 0)
    return np.where(is_small, 0, np.sign(x) * magnitude).astype(np.float32)
