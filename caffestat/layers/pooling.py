"""Pooling over windows, and over pyramids of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Layer, Move, Shape, layer

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["SPP", "Pooling", "PoolingWindow"]

MAX, AVE, STOCHASTIC = 0, 1, 2  # the same numbers in PoolingParameter and SPPParameter
FLOOR = 1


@dataclass(frozen=True)
class PoolingWindow:
    """How Caffe slides a pooling window over an image of `size`: one number per spatial axis in each field.

    drops: of which axes the last window is dropped when it would start in the padding: with padding on "any" axis on
           all of them, on each axis with padding of its "own", or on "none"
    """

    size: Shape
    kernel: Shape
    stride: Shape
    pad: Shape
    floor: bool = False
    drops: str = "any"

    @property
    def places(self) -> Shape:
        """How many windows there are: (size + 2 pad - kernel) / stride + 1, rounded up unless `floor`.

        The last window is dropped when it would start in the padding, where `drops` says so.
        """
        return tuple(self._places(axis) for axis in range(len(self.size)))

    def _places(self, axis: int) -> int:
        size, stride, pad = self.size[axis], self.stride[axis], self.pad[axis]
        slack = size + 2 * pad - self.kernel[axis]
        places = (slack // stride if self.floor else -(-slack // stride)) + 1
        drops = {"any": any(self.pad), "own": pad > 0, "none": False}[self.drops]
        return places - (drops and (places - 1) * stride >= size + pad)

    def attributes(self) -> dict[str, Any]:
        """Return the window in ONNX's terms; the end is padded so that the last window just fits."""
        axes = zip(self.places, self.size, self.kernel, self.stride, self.pad, strict=True)
        ends = [max((n - 1) * stride + kernel - pad - size, 0) for n, size, kernel, stride, pad in axes]
        return {"kernel_shape": list(self.kernel), "strides": list(self.stride), "pads": [*self.pad, *ends]}

    def divisors(self, axis: int) -> np.ndarray:
        """Return the length Caffe divides each window by: the part of it that lies in the padded image."""
        starts = np.arange(self.places[axis]) * self.stride[axis] - self.pad[axis]
        return np.minimum(starts + self.kernel[axis], self.size[axis] + self.pad[axis]) - starts

    def inside(self, axis: int) -> np.ndarray:
        """Return the length of each window's part that lies in the image."""
        starts = np.arange(self.places[axis]) * self.stride[axis] - self.pad[axis]
        return np.minimum(starts + self.kernel[axis], self.size[axis]) - np.maximum(starts, 0)

    def emit_max(self, g: Graph, x: str, mask: bool = False, hint: str = "") -> list[str]:
        """Emit the maximum of each window and, with `mask`, its index in the image's plane."""
        x = g.copy(x)  # Caffe stores where the maxima are
        if not mask:
            return [g.emit("MaxPool", x, hint=hint, **self.attributes())]
        y, index = g.emit_many("MaxPool", x, count=2, hint=hint, **self.attributes())
        plane = g.constant(math.prod(self.size), np.int64)  # the runtime counts on over samples and channels
        return [y, g.cast(g.emit("Mod", index, plane), np.float32)]

    def emit_average(self, g: Graph, x: str, hint: str = "") -> str:
        """Emit the sum over each window divided by its part of the padded image."""
        clipped = self._clip()
        # count_include_pad is not used: with uneven padding, onnxruntime before 1.26 does not count all of it
        y = g.emit("AveragePool", x, hint=hint, **clipped.attributes())
        factor: np.ndarray = np.ones(())
        for axis in range(len(self.size)):
            factor = np.multiply.outer(factor, clipped.inside(axis) / clipped.divisors(axis))
        return y if np.all(factor == 1) else g.emit("Mul", y, g.constant(factor), hint=hint)

    def _clip(self) -> PoolingWindow:
        """Return the same windows, a kernel that overhangs the only place cut back to the image."""
        axes = zip(self.kernel, self.size, self.places, self.pad, strict=True)
        kernel = tuple(min(k, size) if places == 1 and not pad else k for k, size, places, pad in axes)
        return replace(self, kernel=kernel)


class _Pool(Layer):
    """What pooling and its pyramid share: checks, and the choice of method."""

    passes_signal = True

    def image(self, bottoms: Sequence[Shape]) -> Shape:
        """Return (H, W) of a bottom of four axes."""
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom of 4 axes (N, C, H, W), found shape {bottoms[0]}")
        return bottoms[0][2:]

    def places(self, window: PoolingWindow) -> Shape:
        """Return the top's size. Raises NetError for windows that hold nothing: there Caffe gives noise or aborts."""
        given = f"kernel {list(window.kernel)}, stride {list(window.stride)}, pad {list(window.pad)}"
        if min(*window.kernel, *window.stride) == 0:
            raise self.error(f"kernel and stride must be positive; found {given}")
        if any(pad >= kernel for pad, kernel in zip(window.pad, window.kernel, strict=True)):
            raise self.error(f"pad must be smaller than the kernel, or a window holds padding only; found {given}")
        for n, stride, size, pad in zip(window.places, window.stride, window.size, window.pad, strict=True):
            if n <= 0:
                raise self.error(
                    f"the kernel does not fit into the padded bottom: {given} on {list(window.size)}; "
                    "use a smaller kernel"
                )
            if (n - 1) * stride >= size + pad:
                raise self.error(
                    f"the last window lies wholly outside the bottom: {given} on {list(window.size)}; "
                    "use a stride no larger than the kernel, or round_mode: FLOOR"
                )
        return window.places

    def emit(self, g: Graph, x: str, method: int, window: PoolingWindow, mask: bool = False) -> list[str]:
        """Emit one pooling. Raises NetError for stochastic pooling."""
        if method == STOCHASTIC:
            raise self.error(
                "stochastic pooling runs on GPUs only, on the CPU Caffe aborts; use pool: MAX or pool: AVE"
            )
        if method == AVE:
            return [self.emit_declared(g, window.emit_average(g, x, self.name), x, window)]
        return [self.emit_declared(g, value, x, window) for value in window.emit_max(g, x, mask, self.name)]

    def emit_declared(self, g: Graph, value: str, x: str, window: PoolingWindow) -> str:
        return g.declare(value, (*g.shape(x)[:2], *window.places))


@layer("Pooling")
class Pooling(_Pool):
    """y = max over the window, or sum over it / its part of the padded image (AVE); a second top of MAX tells where.

    Bottom [N, C, H, W]; tops [N, C, places…], the second holding h·W + w of the first maximum in scan order.
    (pooling_layer.cpp)
    """

    foreign_fields: ClassVar[tuple[str, ...]] = (
        "pooling_param.dilation",
        "pooling_param.kernel_d",
        "pooling_param.stride_d",
        "pooling_param.pad_d",
        "pooling_param.kernel_depth",
        "pooling_param.temporal_stride",
        "pooling_param.temporal_pad",
    )
    num_tops = (1, 2)

    def rounding(self) -> str:
        return "down" if self.proto.pooling_param.round_mode == FLOOR else "up"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        window = self.window(self.image(bottoms))
        if self.top_count > 1 and self.proto.pooling_param.pool != MAX:
            raise self.error("only pool: MAX has a second top, the mask; remove it")
        return ((*bottoms[0][:2], *self.places(window)),) * self.top_count

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        window = self.window(self.image(bottoms))
        axes = list(zip(window.kernel, window.stride, window.pad, strict=True))
        return tuple((Fraction(1, s), -(Fraction(k - 1, 2) - p) / s) for k, s, p in axes) if len(axes) == 2 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        window = self.window(g.shape(bottoms[0])[2:])
        return self.emit(g, bottoms[0], self.proto.pooling_param.pool, window, self.top_count > 1)

    def window(self, size: Shape) -> PoolingWindow:
        """Return the window as the file describes it, for an image of (H, W)."""
        param = self.proto.pooling_param
        stride, pad = self._pair("stride", 1), self._pair("pad", 0)
        if not param.global_pooling:
            return PoolingWindow(size, self._kernel(), stride, pad, param.round_mode == FLOOR)
        if any(param.HasField(field) for field in ("kernel_size", "kernel_h", "kernel_w")):
            raise self.error(
                "global_pooling takes the whole plane as its kernel; remove kernel_size, kernel_h and kernel_w"
            )
        if pad != (0, 0) or stride != (1, 1):
            raise self.error(
                f"global_pooling has no padding and stride 1; found pad {list(pad)}, stride {list(stride)}"
            )
        return PoolingWindow(size, size, stride, pad)

    def _kernel(self) -> Shape:
        param = self.proto.pooling_param
        pair = param.HasField("kernel_h") and param.HasField("kernel_w")
        if param.HasField("kernel_size") == pair:
            raise self.error("give kernel_size, or both kernel_h and kernel_w, or global_pooling")
        return (param.kernel_h, param.kernel_w) if pair else (param.kernel_size,) * 2

    def _pair(self, name: str, default: int) -> Shape:
        param = self.proto.pooling_param
        fields = (f"{name}_h", f"{name}_w")
        given = [param.HasField(field) for field in fields]
        if any(given) and (not all(given) or param.HasField(name)):
            raise self.error(f"give {name}, or both {fields[0]} and {fields[1]}")
        if all(given):
            return tuple(getattr(param, field) for field in fields)
        return (getattr(param, name) if param.HasField(name) else default,) * 2


@layer("SPP")
class SPP(_Pool):
    """Pooling over 1, 2 x 2, 4 x 4, … bins of the whole plane, flattened and joined.

    Bottom [N, C, H, W]; top [N, C · (number of all bins)], or [N, C, 1, 1] when pyramid_height is 1. (spp_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        size = self.image(bottoms)
        if self.proto.spp_param.pyramid_height == 0:
            raise self.error("pyramid_height must be positive; found 0 or none")
        levels = [self.places(window) for window in self.windows(size)]
        if len(levels) == 1:
            return ((*bottoms[0][:2], *levels[0]),)
        return ((bottoms[0][0], bottoms[0][1] * sum(math.prod(level) for level in levels)),)

    def windows(self, size: Shape) -> Iterator[PoolingWindow]:
        """Yield each level's window: as many bins as fit, the remainder padded on both sides, rounded up."""
        for bins in (2**level for level in range(self.proto.spp_param.pyramid_height)):
            kernel = tuple(-(-n // bins) for n in size)
            pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True))
            yield PoolingWindow(size, kernel, kernel, pad)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        pooled = [self.emit(g, bottoms[0], self.proto.spp_param.pool, window)[0] for window in self.windows(shape[2:])]
        if len(pooled) == 1:
            return pooled
        flat = [g.reshape(value, shape[0], math.prod(g.shape(value)[1:])) for value in pooled]
        return [g.emit("Concat", *flat, axis=1, hint=self.name)]
