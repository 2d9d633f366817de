"""Inner products of reinforcement learning, whose weights get noise that is learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from caffestat.fillers import Constant, Filler, Normal, Stream, Uniform, density, uniform
from caffestat.lazy import np
from caffestat.schema.forks import blocks_pb2

from ..base import TRAIN, Param, Shape, layer
from ..inner_product import InnerProduct
from ..reread import emit_closed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["NoisyInnerProduct"]


@layer("InnerProduct", dialect="mycaffe")
class NoisyInnerProduct(InnerProduct):
    """y = x·(W + S ∘ E)ᵀ + b + s ∘ e, E and e uniform in [-1, 1): with enable_noise in TRAIN; else as Caffe's.

    The fillers are scaled by 1 / √K; S begins at sigma_init / √K, s at sigma_init / √num_output. dx = dy·W, without the
    noise. The top gets axes of size 1 up to min_top_axes. The noise, which the reference draws once and when the
    application asks for it, is drawn for each pass. Not computed: enable_noise with transpose.
    (MyCaffe/MyCaffe, InnerProductLayer.cs; Fortunato et al. 2018)
    """

    adds = blocks_pb2.NoisyLayerParameter

    @property
    def has_noise(self) -> bool:
        """Whether there are params for the size of the noise."""
        return bool(self.added.inner_product_param.enable_noise)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        params = super().params(bottoms)
        if not self.has_noise:
            return params
        inputs = params[0].shape[1]
        sizes = (self._noise(param, param.shape[-1]) for param in params)
        return (*(replace(param, filler=_scaled(param, inputs**-0.5)) for param in params), *sizes)

    def _noise(self, param: Param, values: int) -> Param:
        value = self.added.inner_product_param.sigma_init / math.sqrt(values)
        return Param("scale", param.shape, Filler(value=value), False, param.fan_in, param.fan_out)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.has_noise and self.proto.inner_product_param.transpose:
            raise self.error("enable_noise is not computed together with transpose; remove one")
        (top,) = super().tops(bottoms)
        return (top + (1,) * (self.added.inner_product_param.min_top_axes - len(top)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.has_noise:
            return super().lower(g, bottoms, params)
        count = len(params) // 2
        used = list(params[:count])
        if self.phase == TRAIN:
            used = [self._noisy(g, value, size) for value, size in zip(used, params[count:], strict=True)]
        shape, top = g.shape(bottoms[0]), self.tops([g.shape(bottoms[0])])[0]
        inputs = g.shape(params[0])[1]
        x = g.reshape(bottoms[0], math.prod(shape) // inputs, inputs)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            sums = [tape.emit("ReduceSum", dy, tape.ints(0), keepdims=0)] * (count - 1)
            return [tape.emit("MatMul", dy, params[0]), tape.emit("Gemm", dy, x, transA=1), *sums]

        y = emit_closed(g, [x, *used], lambda *values: g.emit("Gemm", *values, transB=1, hint=self.name), gradient)
        return [g.reshape(y, *top)]

    def _noisy(self, g: Graph, value: str, size: str) -> str:
        noise = g.input(f"{self.name}/noise{len(g.shape(value))}", g.shape(value))
        return g.declare(g.emit("Add", value, g.emit("Mul", size, noise)), g.shape(value))

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if not self.has_noise or self.phase != TRAIN:
            return ()
        params = super().params(bottoms)
        return [uniform(stream, math.prod(p.shape), -1, 1).reshape(p.shape) for p in params]


def _scaled(param: Param, factor: float) -> Filler:
    """Return a filler that draws what a param's does, times a factor."""
    drawn = density(param.filler, param.shape)
    match drawn:
        case Constant():
            return Filler(value=drawn.mean * factor)
        case Uniform():
            return Filler("uniform", min=drawn.low * factor, max=drawn.high * factor)
        case Normal() if drawn.kept == 1:
            return Filler("gaussian", mean=drawn.center * factor, std=drawn.std * factor)
    return param.filler
