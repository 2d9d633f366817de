"""Layers of segmentation-aware networks: distances of a place to those around it. (Harley et al. 2017)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Param, Shape, layer, read_param
from ..convolution import Convolution, Im2col
from ..loss import Loss, total
from ..reread import emit_closed, without_gradient
from .flow import check_images
from .rcnn import SmoothL1Loss

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["ChannelReduce", "ColumnConvolution", "DistLoss", "Im2dist", "Im2parity", "SmoothL1LossOfPlaces"]

FAR = float(np.finfo(np.float32).max) / 100


class _Neighbours(Im2col):
    """A value for each place under a window and each of the window's taps [N, taps, H', W']."""

    adds = segmentation_pb2.LayerParameter
    num_tops = (1, 1)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        check_images(self, bottoms[0])
        window = self.geometry(bottoms).window
        return ((bottoms[0][0], math.prod(window.kernel), *window.out),)

    def taps(self, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the lines and columns [taps, H', W'] that are read, 0 outside, and whether they are inside."""
        window = self.geometry([shape]).window
        axes = zip(window.out, window.kernel, window.strides, window.dilations, window.begins, strict=True)
        lines, columns = (
            np.arange(out) * stride - pad + np.arange(taps)[:, None] * gap for out, taps, stride, gap, pad in axes
        )
        count = math.prod(window.kernel)
        whole = (*window.kernel, *window.out)
        y = np.broadcast_to(lines[:, None, :, None], whole).reshape(count, *window.out)
        x = np.broadcast_to(columns[None, :, None, :], whole).reshape(count, *window.out)
        inside = (y >= 0) & (y < shape[2]) & (x >= 0) & (x < shape[3])
        return np.where(inside, y, 0), np.where(inside, x, 0), inside

    def center(self, shape: Shape) -> int:
        """Return which tap is the window's center."""
        kernel = self.geometry([shape]).window.kernel
        return kernel[0] // 2 * kernel[1] + kernel[1] // 2

    def read(self, g: Graph, x: str, places: np.ndarray) -> str:
        """Emit the values at places of the planes [N, C, …]."""
        n, c, h, w = g.shape(x)
        picked = g.emit("Gather", g.reshape(x, n, c, h * w), g.constant(places, np.int64), axis=2)
        return g.declare(picked, (n, c, *places.shape))


@layer("Im2dist", dialect="segaware")
class Im2dist(_Neighbours):
    """y = Σ over channels of d² / 2 or, L1, |d|, d = x at the window's center - x at a tap [N, taps, H', W'].

    0 for a tap outside, or 3.4e36 with remove_bounds, as for the center itself with remove_center; 0 for a window whose
    center is outside. dx is d · dy, of L1 ±dy and -dy at 0, for the center also where the tap is outside.
    (aharley/segaware, im2dist_layer.cpp and im2dist.cpp)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.im2dist_param, g.shape(bottoms[0])
        y, x, inside = self.taps(shape)
        at = self.center(shape)
        middle, heard = np.broadcast_to((y * shape[3] + x)[at], y.shape), np.broadcast_to(inside[at], y.shape)
        own = np.arange(len(y))[:, None, None] == at
        counts = heard & inside & ~own
        far = heard & ((own & p.remove_center) | (~inside & p.remove_bounds))
        one, other = self.read(g, bottoms[0], middle), self.read(g, bottoms[0], y * shape[3] + x)
        kept, learns = g.constant(counts), g.constant(heard & ~own)
        d = self.difference(g, one, other, kept, learns)
        if p.norm == p.L1:
            part = emit_closed(g, [d], lambda v: g.emit("Abs", v), lambda tape, dy: [self.signed(tape, dy, d)])
        else:
            part = emit_closed(
                g,
                [d],
                lambda v: g.emit("Mul", g.emit("Mul", v, v), g.constant(0.5)),
                lambda tape, dy: [tape.emit("Mul", dy, d)],
            )
        g.declare(part, g.shape(d))
        sums = g.emit("ReduceSum", part, g.ints(1), keepdims=0)
        return (g.emit("Where", g.constant(far, np.bool_), g.constant(FAR), sums) if far.any() else sums,)

    @staticmethod
    def signed(tape: Tape, dy: str, d: str) -> str:
        """Emit dy, negative where d is not above 0."""
        return tape.emit("Where", tape.emit("Greater", d, tape.constant(0)), dy, tape.emit("Neg", dy))

    @staticmethod
    def difference(g: Graph, one: str, other: str, kept: str, learns: str) -> str:
        """Emit one - other where it counts; the first has a gradient where it `learns`, the second where it counts."""
        shape = g.shape(one)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return [tape.emit("Mul", dy, learns), tape.emit("Neg", tape.emit("Mul", dy, kept))]

        def forward(a: str, b: str) -> str:
            return g.emit("Mul", g.emit("Sub", a, b), kept)

        return g.declare(emit_closed(g, [one, other], forward, gradient), shape)


@layer("Im2parity", dialect="segaware")
class Im2parity(_Neighbours):
    """1 where the label at a tap is that at the window's center, else 0; ignore_label where either is it.

    Of several channels the last counts; taps outside have label 0, and a window whose center is outside gives
    ignore_label. No gradient. (aharley/segaware, im2parity.cpp)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.im2parity_param, g.shape(bottoms[0])
        y, x, inside = self.taps(shape)
        at = self.center(shape)
        heard, ignored = g.constant(inside[at][None], np.bool_), g.constant(p.ignore_label)

        def forward(labels: str) -> Sequence[str]:
            last = g.emit("Slice", labels, g.ints(shape[1] - 1), g.ints(shape[1]), g.ints(1))
            whole = g.cast(g.cast(g.declare(last, (shape[0], 1, *shape[2:])), np.int64), np.float32)
            g.declare(whole, (shape[0], 1, *shape[2:]))
            here = self.read(g, whole, y * shape[3] + x)
            here = g.emit("Mul", here, g.constant(inside))
            middle = self.read(g, whole, (y * shape[3] + x)[at : at + 1])
            alike = g.cast(g.emit("Equal", here, middle), np.float32)
            if p.HasField("ignore_label"):
                for value in (here, middle):
                    alike = g.emit("Where", g.emit("Equal", value, ignored), ignored, alike)
            chosen = g.emit("Where", heard, alike, ignored)
            return [g.reshape(g.declare(chosen, (shape[0], 1, *y.shape)), shape[0], *y.shape)]

        return without_gradient(g, bottoms, forward)


@layer("DistLoss", dialect="segaware")
class DistLoss(Loss):
    """y = mean of max(0, d - alpha) where the parity is not 0, else of max(0, beta - d), and 0 for ignore_label.

    dx is that, negative where the parity is 0, over the count: whatever dy is. (aharley/segaware, dist_loss_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter
    ignores_dy = True

    def check(self, bottoms: Sequence[Shape]) -> None:
        p = self.added.dist_loss_param
        if not 0 < p.alpha < p.beta:
            raise self.error(f"expected 0 < alpha < beta in dist_loss_param, found {p.alpha:g} and {p.beta:g}")
        if bottoms[0] != bottoms[1] or len(bottoms[0]) != 4:
            raise self.error(f"expected two bottoms (N, taps, H, W) of one shape, found {bottoms[0]} and {bottoms[1]}")
        window = self.proto.convolution_param
        kernel = [window.kernel_h, window.kernel_w] if window.kernel_h else window.kernel_size
        if not 1 <= len(kernel) <= 2 or not all(kernel):
            raise self.error(f"expected a kernel_size in convolution_param, found {list(kernel)}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, count = self.added.dist_loss_param, math.prod(g.shape(bottoms[0]))
        made: dict[str, str] = {}

        def forward(d: str, parity: str) -> Sequence[str]:
            whole = g.cast(parity, np.int64)
            near = g.emit("Relu", g.emit("Sub", d, g.constant(p.alpha)))
            far = g.emit("Relu", g.emit("Sub", g.constant(p.beta), d))
            apart = g.emit("Equal", whole, g.constant(0, np.int64))
            margin, slope = g.emit("Where", apart, far, near), g.emit("Where", apart, g.emit("Neg", far), near)
            if p.HasField("ignore_label"):
                ignored = g.emit("Equal", whole, g.constant(p.ignore_label, np.int64))
                margin, slope = (g.emit("Where", ignored, g.constant(0), value) for value in (margin, slope))
            made["slope"] = g.emit("Div", slope, g.constant(count))
            return [g.emit("Div", total(g, margin), g.constant(count))]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            return [tape.emit("Identity", made["slope"]), None]

        return g.custom_vjp(bottoms, forward, backward)


@layer("ChannelReduce", dialect="segaware")
class ChannelReduce(Layer):
    """y = the sum or the largest of each of num_channels groups of channels that follow each other.

    dx of the largest goes to the first of equal ones. (aharley/segaware, channel_reduce_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        groups = self.added.channel_reduce_param.num_channels
        if not 0 < groups < c or c % groups:
            raise self.error(f"expected a num_channels below {c} that divides it, found {groups}")
        return ((n, groups, h, w),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.channel_reduce_param, g.shape(bottoms[0])
        n, groups, h, w = self.tops([shape])[0]
        x = g.reshape(bottoms[0], n, groups, shape[1] // groups, h, w)
        if p.operation == p.SUM:
            return (g.emit("ReduceSum", x, g.ints(2), keepdims=0),)
        best = g.emit("ArgMax", g.detach(x), axis=2, keepdims=1)
        g.declare(best, (n, groups, 1, h, w), np.int64)
        chosen = g.declare(g.emit("GatherElements", x, best, axis=2), (n, groups, 1, h, w))
        return (g.reshape(chosen, n, groups, h, w),)


@layer("Convolution", dialect="segaware")
class ColumnConvolution(Convolution):
    """Convolution; with bottom_is_im2col the bottom is what Im2col makes of an image, as large as the top.

    Bottom [N, C · taps, H, W]; weights [num_output, C / group, kernel…]. (aharley/segaware, base_conv_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter

    @property
    def reads_columns(self) -> bool:
        """Whether the bottom holds columns."""
        return bool(self.added.convolution_param.bottom_is_im2col)

    def inner(self, shape: Shape) -> tuple[int, Shape]:
        """Return the channels of the image, and the kernel. Raises NetError unless these fit the columns."""
        kernel = self._per_axis("kernel_size", "kernel", 2, None)
        channels, group = check_images(self, shape)[1], self.proto.convolution_param.group
        if not self.proto.convolution_param.num_output or not group:
            raise self.error("expected a positive num_output and group in convolution_param")
        if channels % (math.prod(kernel) * group) or self.proto.convolution_param.num_output % group:
            raise self.error(f"expected channels in multiples of {math.prod(kernel) * group}, found shape {shape}")
        return channels // math.prod(kernel), kernel

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        if not self.reads_columns:
            return super().params(bottoms)
        param, (channels, kernel) = self.proto.convolution_param, self.inner(bottoms[0])
        inner, taps = channels // param.group, math.prod(kernel)
        fans = inner * taps, param.num_output // param.group * taps
        weight = read_param("weight", (param.num_output, inner, *kernel), param, "weight_filler", *fans)
        bias = read_param("bias", (param.num_output,), param, "bias_filler", 1, 1)
        return (weight, bias) if param.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.reads_columns:
            return super().tops(bottoms)
        for shape in bottoms:
            self.inner(shape)
        return tuple((shape[0], self.proto.convolution_param.num_output, *shape[2:]) for shape in bottoms)

    def place_map(self, bottoms: Sequence[Shape]) -> Any:
        return None if self.reads_columns else super().place_map(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.reads_columns:
            return super().lower(g, bottoms, params)
        outputs, inner, *kernel = g.shape(params[0])
        weight = g.reshape(params[0], outputs, inner * math.prod(kernel), 1, 1)
        group = self.proto.convolution_param.group
        return [g.emit("Conv", bottom, weight, *params[1:], hint=self.name, group=group) for bottom in bottoms]


@layer("SmoothL1Loss", dialect="segaware")
class SmoothL1LossOfPlaces(SmoothL1Loss):
    """SmoothL1Loss of one or no weights, divided by N · H · W.

    (aharley/segaware and ShaoqingRen/caffe for Faster R-CNN in Matlab, smooth_L1_loss_layer.cu)
    """

    num_bottoms = (2, 3)
    num_tops = (1, 1)

    def divisor(self, shape: Shape) -> float:
        return shape[0] * math.prod(shape[2:])
