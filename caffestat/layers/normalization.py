"""Normalizations: over neighbouring channels or places, over the batch, over each plane."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffestat.fillers import Filler
from caffestat.graph.channels import batch_gradient, channel_affine, channel_column
from caffestat.graph.normalized import normalize_batch
from caffestat.lazy import np

from .base import TEST, Layer, Param, Shape, layer
from .pooling import emit_average, pooling_window
from .reread import TOP, emit_closed, emit_pulled

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["LRN", "MVN", "BatchNorm"]

ACROSS_CHANNELS = 0


@layer("LRN", by_sample=True)
class LRN(Layer):
    """y = x / (k + α/n Σ x²)^β, the sum over n = local_size channels around; dx = dy · s^-β - 2αβ/n · x · Σ dy · y / s.

    WITHIN_CHANNEL: y = x · (1 + α · mean x²)^-β, the mean over local_size² places around by Caffe's average pooling;
    k is not used. Bottom and top [N, C, H, W]. (lrn_layer.cpp)

    Across channels and in place Caffe writes s^-β over x before it multiplies the two, and over dy likewise: y = s^-2β.
    """

    keeps_places = True
    keeps_shapes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        size = self.proto.lrn_param.local_size
        if size % 2 == 0:
            raise self.error(f"local_size must be odd; found {size}")
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom of 4 axes (N, C, H, W), found shape {bottoms[0]}")
        return (bottoms[0],)

    @property
    def ignores_dy(self) -> bool:
        return self.is_in_place() and self.proto.lrn_param.norm_region == ACROSS_CHANNELS

    @property
    def ignores_propagate_down(self) -> bool:
        return bool(self.proto.lrn_param.norm_region == ACROSS_CHANNELS)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        param = self.proto.lrn_param
        if param.norm_region != ACROSS_CHANNELS:
            return [self.lower_within(g, bottoms[0])]
        if self.is_in_place():
            return [self.lower_in_place(g, bottoms[0])]
        # Caffe's backward pass reads the top, which an in-place layer may have written over
        attributes = {"alpha": param.alpha, "beta": param.beta, "bias": param.k, "size": param.local_size}
        return [emit_pulled(g, "LRN", bottoms[0], TOP, **attributes)]

    def lower_in_place(self, g: Graph, x: str) -> str:
        param = self.proto.lrn_param
        share = param.alpha / param.local_size
        sums: list[str] = []

        def forward(value: str) -> str:
            squares = self.window_sums(g, g.emit("Mul", value, value), g.shape(x))
            sums.append(g.emit("Add", g.emit("Mul", squares, g.constant(share)), g.constant(param.k)))
            return g.emit("Pow", sums[0], g.constant(-2 * param.beta), hint=self.name)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            slope = tape.emit("Pow", sums[0], tape.constant(-2 * param.beta))
            top = tape.stored(y)
            ratio = tape.emit("Div", tape.emit("Mul", slope, top), sums[0])
            along = tape.emit("Mul", top, self.window_sums(tape.graph, ratio, tape.shape(x)))
            return [tape.emit("Sub", slope, tape.emit("Mul", along, tape.constant(2 * param.beta * share)))]

        y = emit_closed(g, (x,), forward, gradient)
        return y

    def window_sums(self, g: Graph, value: str, shape: Shape) -> str:
        """Emit the sum over the channels around each."""
        channels = np.arange(shape[1])
        band = np.abs(channels[:, None] - channels) <= self.proto.lrn_param.local_size // 2
        sums = g.emit("MatMul", g.constant(band), g.reshape(value, *shape[:2], prod(shape[2:])))
        return g.reshape(sums, *shape)

    def lower_within(self, g: Graph, x: str) -> str:
        param = self.proto.lrn_param
        size, pad = param.local_size, (param.local_size - 1) // 2
        window = pooling_window(g.shape(x)[2:], (size, size), (1, 1), (pad, pad))
        mean = emit_average(g, g.emit("Mul", x, x), window)
        base = g.emit("Add", g.emit("Mul", mean, g.constant(param.alpha)), g.constant(1))
        return g.emit("Mul", x, g.emit("Pow", base, g.constant(-param.beta)), hint=self.name)


@layer("BatchNorm", by_sample=True)
class BatchNorm(Layer):
    """y = (x - mean) / √(variance + eps) per channel; dx = (dy - mean(dy) - y · mean(dy · y)) / √(variance + eps).

    The statistics are the batch's, or with use_global_stats (the default in TEST) the stored ones, and then
    dx = dy / √(variance + eps). Params, changed by each forward pass on batch statistics: running mean [C], running
    variance [C], and the factor [1] that both are to be divided by. Bottom and top [N, C, …]. (batch_norm_layer.cpp)
    """

    ignores_propagate_down = True
    keeps_places = True
    passes_signal = True
    normalizes = True
    keeps_shapes = True

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        return super().is_by_sample(bottoms) and self.reads_statistics

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        channels = bottoms[0][1]
        shapes = {"mean": (channels,), "variance": (channels,), "factor": (1,)}
        return tuple(Param(role, shape, Filler(), False, 1, 1, is_statistic=True) for role, shape in shapes.items())

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of at least 2 axes (N, C, …), found shape {bottoms[0]}")
        if any(spec.lr_mult != 0 for spec in self.proto.param[:3]):
            raise self.error("its params are statistics, not learned: set lr_mult: 0 in every `param`, or remove them")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.reads_statistics:
            return [self.lower_batch(g, bottoms[0], params)]
        mean, variance, factor = params
        inverse = g.emit("Where", g.emit("Equal", factor, g.constant(0)), g.constant(0), g.emit("Reciprocal", factor))
        mean, variance = (g.declare(g.emit("Mul", p, inverse), g.shape(p)) for p in (mean, variance))
        return [self.lower_stored(g, bottoms[0], mean, variance)]

    @property
    def reads_statistics(self) -> bool:
        param = self.proto.batch_norm_param
        return param.use_global_stats if param.HasField("use_global_stats") else self.phase == TEST

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return float(self.proto.batch_norm_param.eps)

    def inverse_deviation(self, g: Graph, variance: str) -> str:
        """Emit 1 / √(variance + eps): [C]."""
        root = g.emit("Sqrt", g.emit("Add", variance, g.constant(self.eps)))
        return g.declare(g.emit("Reciprocal", root), g.shape(variance))

    def lower_stored(self, g: Graph, x: str, mean: str, variance: str) -> str:
        """Emit (x - mean) / √(variance + eps) with given statistics [C]."""
        slope = self.inverse_deviation(g, variance)
        shift = g.emit("Neg", g.emit("Mul", mean, slope))

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            return [self.stored_gradient(tape, dys[0], y, slope)]

        (y,) = g.custom_vjp([x], lambda value: [channel_affine(g, value, slope, shift, self.name)], backward)
        return y

    def stored_gradient(self, tape: Tape, dy: str, y: str, slope: str) -> str:
        """Emit dx of y = slope · (x - mean), whose statistics are given."""
        return tape.emit("Mul", dy, channel_column(tape.graph, slope, len(tape.shape(y))))

    def lower_batch(self, g: Graph, x: str, params: Sequence[str]) -> str:
        """Emit (x - mean) / √(variance + eps) with the batch's statistics, and record what they make of `params`."""
        shape = g.shape(x)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            return [batch_gradient(tape.graph, dys[0], y, self.inverse_deviation(tape.graph, variance))]

        y, mean, variance = g.custom_vjp([x], lambda value: self.emit_batch(g, value), backward)
        self.update(g, params, mean, variance, prod(shape) // shape[1])
        return y

    def emit_batch(self, g: Graph, x: str) -> Sequence[str]:
        """Emit (y, mean, variance) of the batch."""
        zeros, ones = (g.constant(np.full(g.shape(x)[1], value)) for value in (0, 1))
        return normalize_batch(g, x, ones, zeros, self.eps, self.name)

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        """Record the params after the pass: moving_average_fraction times the old, plus mean, unbiased variance, 1."""
        keep = g.constant(self.proto.batch_norm_param.moving_average_fraction)
        unbiased = g.emit("Mul", variance, g.constant(count / (count - 1) if count > 1 else 1))
        for param, new in zip(params, (mean, unbiased, g.constant([1])), strict=True):
            value = g.emit("Add", g.emit("Mul", param, keep), new, hint=f"{self.name}_statistics")
            g.updates[param] = g.declare(value, g.shape(param))


@layer("MVN", by_sample=True)
class MVN(Layer):
    """y = (x - mean) / (deviation + eps) of each plane, or of each sample with across_channels; or y = x - mean.

    dx = (dy - mean(dy) - y · mean(dy · y)) / (deviation + eps), or dy - mean(dy): Caffe takes eps for zero here.
    Bottom of up to 4 axes, top [N, C, H, W], absent axes 1. (mvn_layer.cpp)
    """

    ignores_propagate_down = True
    keeps_places = True
    passes_signal = True
    normalizes = True
    keeps_shapes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) > 4:
            raise self.error(f"expected a bottom of at most 4 axes (N, C, H, W), found shape {bottoms[0]}")
        return ((*bottoms[0], *(1,) * (4 - len(bottoms[0]))),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x = g.reshape(bottoms[0], *self.tops([g.shape(bottoms[0])])[0])
        axes = g.ints(1, 2, 3) if self.proto.mvn_param.across_channels else g.ints(2, 3)

        def center(graph: Graph, value: str) -> str:
            return graph.emit("Sub", value, graph.emit("ReduceMean", value, axes, keepdims=1))

        if not self.proto.mvn_param.normalize_variance:
            return [center(g, x)]

        def forward(value: str) -> Sequence[str]:
            centered = center(g, value)
            variance = g.emit("ReduceMean", g.emit("Mul", centered, centered), axes, keepdims=1)
            spread = g.emit("Add", g.emit("Sqrt", variance), g.constant(self.proto.mvn_param.eps))
            return g.emit("Div", centered, spread, hint=self.name), spread

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            dy, graph = dys[0], tape.graph
            assert dy is not None
            top = tape.stored(y)  # an in-place layer may have written over it
            if self.is_in_place():
                return [self.in_place_gradient(graph, top, dy, spread, axes)]
            along = graph.emit("ReduceMean", graph.emit("Mul", dy, top), axes, keepdims=1)
            rest = graph.emit("Sub", center(graph, dy), graph.emit("Mul", top, along))
            return [graph.emit("Div", rest, spread)]

        y, spread = g.custom_vjp([x], forward, backward)
        return [y]

    def in_place_gradient(self, g: Graph, y: str, dy: str, spread: str, axes: str) -> str:
        """Emit -2 · mean(dy · y) · (y + Σ y) / (deviation + eps): Caffe writes over dy while it still reads it."""
        along = g.emit("ReduceMean", g.emit("Mul", dy, y), axes, keepdims=1)
        total = g.emit("Add", y, g.emit("ReduceSum", y, axes, keepdims=1))
        return g.emit("Div", g.emit("Mul", g.emit("Mul", along, total), g.constant(-2)), spread)
