"""A block of DenseNet as one layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Filler, Stream, fill
from caffestat.lazy import np
from caffestat.schema.forks import blocks_pb2

from ..base import TEST, Param, Shape, layer, to_filler
from ..normalization import BatchNorm
from ..scale import emit_affine

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["DenseBlock"]

KERNEL = 3
QUAD = 4  # channels between the two convolutions of a bottleneck, in growth rates


@layer("DenseBlock", dialect="ocr")
class DenseBlock(BatchNorm):
    """numTransition times x := [x, W * relu(BN(x))], W 3 x 3 with growthRate outputs; use_BC puts a 1 x 1 before it.

    Bottom [N, C, H, W], top [N, C + numTransition · growthRate, H, W]. Params, for each transition: all W, then all
    scales, biases, running means and variances [1, C, 1, 1], with use_BC the same of the bottleneck, and one counter.
    As its GPU code: eps 1e-5, running statistics moving_average_fraction · the batch's (unbiased) + the rest · old; its
    CPU code keeps others. Dropout in TRAIN draws from cuDNN, and gives no values here.
    (senlinuc/caffe_ocr, DenseBlock_layer.cpp and .cu)
    """

    adds = blocks_pb2.LayerParameter
    passes_signal = False
    normalizes = False
    keeps_places = False
    eps = 1e-5

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.denseblock_param

    @property
    def reads_statistics(self) -> bool:
        return self.phase == TEST

    def widths(self, channels: int) -> list[int]:
        """Return how many channels go into each transition."""
        return [channels + index * self.settings.growthRate for index in range(self.settings.numTransition)]

    def groups(self, channels: int) -> Iterator[tuple[str, list[Shape]]]:
        """Yield the role of each group of params and their shapes, one for each transition."""
        growth, widths = self.settings.growthRate, self.widths(channels)
        bottleneck, statistics = growth * QUAD, ("scale", "bias", "mean", "variance")
        inner = [bottleneck] * len(widths) if self.settings.use_BC else widths
        yield "weight", [(growth, width, KERNEL, KERNEL) for width in inner]
        for role in statistics:
            yield role, [(1, width, 1, 1) for width in widths]
        if self.settings.use_BC:
            yield "weight", [(bottleneck, width, 1, 1) for width in widths]
            for role in statistics:
                yield role, [(1, bottleneck, 1, 1)] * len(widths)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        made = [self.param(role, shape) for role, shapes in self.groups(bottoms[0][1]) for shape in shapes]
        return (*made, Param("factor", (1,), Filler(), False, 1, 1, is_statistic=True))

    def param(self, role: str, shape: Shape) -> Param:
        """Return a param of this role."""
        if role in ("mean", "variance"):
            return Param(role, shape, Filler(value=float(role == "variance")), False, 1, 1, is_statistic=True)
        field = {"weight": "Filter_Filler", "scale": "BN_Scaler_Filler", "bias": "BN_Bias_Filler"}[role]
        written, taps = self.settings.HasField(field), prod(shape[2:])
        filler = to_filler(getattr(self.settings, field)) if written else Filler()
        fans = (shape[1] * taps, shape[0] * taps) if role == "weight" else (1, 1)
        return Param(role, shape, filler, written, *fans)

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        """Draw transition by transition: 3 x 3, 1 x 1, scales and biases, each group's in its turn."""
        count, groups = self.settings.numTransition, len(params) // max(self.settings.numTransition, 1)
        order = (0, 5, 1, 6, 2, 7, 3, 8, 4, 9) if self.settings.use_BC else range(groups)
        values = [np.zeros((1,), np.float32)] * len(params)
        for index in [group * count + step for step in range(count) for group in order]:
            values[index] = fill(stream, params[index].filler, params[index].shape)
        return values

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape, p = bottoms[0], self.settings
        if len(shape) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {shape}")
        if p.numTransition < 1 or p.growthRate < 1:
            raise self.error("expected a positive numTransition and growthRate in denseblock_param")
        sizes = (p.pad_h, p.pad_w, p.conv_verticalStride, p.conv_horizentalStride, p.filter_H, p.filter_W)
        if sizes != (1, 1, 1, 1, KERNEL, KERNEL):
            raise self.error(f"expected a pad of 1, a stride of 1 and a kernel of 3, found {sizes}")
        if p.use_dropout and p.dropout_amount and self.phase != TEST:
            self.why_uncomputed = "its dropout draws random numbers of cuDNN"
        return ((shape[0], shape[1] + p.numTransition * p.growthRate, *shape[2:]),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        weights = sum(prod(param.shape) for param in self.params(bottoms) if param.role == "weight")
        return bottoms[0][0] * prod(bottoms[0][2:]) * weights

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        count, x = self.settings.numTransition, bottoms[0]
        batch, channels, *size = g.shape(x)
        for step in range(count):
            weight, *norm = params[step : 5 * count : count]
            y = self.activated(g, x, norm)
            if self.settings.use_BC:
                inner, *norm = params[5 * count + step : 10 * count : count]
                y = self.activated(g, self.convolved(g, y, inner), norm)
            y = self.convolved(g, y, weight)
            channels += self.settings.growthRate
            x = g.declare(g.emit("Concat", x, y, axis=1), (batch, channels, *size))
        return (x,)

    def activated(self, g: Graph, x: str, params: Sequence[str]) -> str:
        """Emit relu(BN(x)); params: scale, bias, running mean and variance."""
        channels = g.shape(x)[1]
        scale, bias, mean, variance = (g.reshape(param, channels) for param in params)
        is_test = self.reads_statistics
        y = self.lower_stored(g, x, mean, variance) if is_test else self.lower_batch(g, x, params[2:])
        return g.declare(g.emit("Relu", emit_affine(g, y, scale, bias, self.name)), g.shape(x))

    def convolved(self, g: Graph, x: str, weight: str) -> str:
        """Emit a convolution that keeps the size."""
        (batch, _, *size), (outputs, _, kernel, _) = g.shape(x), g.shape(weight)
        window: dict[str, Any] = {
            "kernel_shape": [kernel] * 2,
            "pads": [kernel // 2] * 4,
            "strides": [1, 1],
            "dilations": [1, 1],
        }
        return g.declare(g.emit("Conv", x, weight, hint=self.name, group=1, **window), (batch, outputs, *size))

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        """Record the running statistics after the pass."""
        part = self.settings.moving_average_fraction
        unbiased = g.emit("Mul", variance, g.constant(count / (count - 1) if count > 1 else 1))
        for param, new in zip(params, (mean, unbiased), strict=True):
            shape = g.shape(param)
            old = g.emit("Mul", param, g.constant(1 - part))
            added = g.emit("Mul", g.reshape(new, *shape), g.constant(part))
            g.updates[param] = g.declare(g.emit("Add", old, added, hint=f"{self.name}_statistics"), shape)
