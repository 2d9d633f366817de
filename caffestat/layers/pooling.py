"""Pooling over windows, and over pyramids of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.ops import Window

from .base import Layer, Move, Shape, layer

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["SPP", "Pooling", "emit_average", "emit_max", "pooling_window"]

MAX, AVE, STOCHASTIC = 0, 1, 2  # the same numbers in PoolingParameter and SPPParameter
FLOOR = 1


def pooling_window(
    size: Shape,
    kernel: Shape,
    strides: Shape,
    pads: Shape,
    floor: bool = False,
    dilations: Shape = (),
    drops: str = "any",
) -> Window:
    """Return how Caffe slides a pooling window over an image of `size`; every argument has a number per spatial axis.

    There are (size + 2 pad - extent) / stride + 1 places, rounded up unless `floor`. The last one is dropped when it
    would start in the padding. (pooling_layer.cpp)

    drops: of which axes it is: with padding on "any" axis of all, of each axis with padding of its "own", or of "none"
    """
    at = Window(size, size, kernel, strides, dilations or (1,) * len(size), pads)
    slack = [n + 2 * pad - span for n, pad, span in zip(size, pads, at.spans, strict=True)]
    out = [(n // stride if floor else -(-n // stride)) + 1 for n, stride in zip(slack, strides, strict=True)]
    beyond = [n + pad for n, pad in zip(size, pads, strict=True)]
    may = [{"any": any(pads), "own": pad > 0, "none": False}[drops] for pad in pads]
    late = [m and (n - 1) * s >= end for m, n, s, end in zip(may, out, strides, beyond, strict=True)]
    return replace(at, out=tuple(n - drop for n, drop in zip(out, late, strict=True)))


def _attributes(window: Window) -> dict[str, Any]:
    """Return the window in ONNX's terms; the end is padded so that the last window just fits."""
    found = {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.begins + window.ends}
    if set(window.dilations) != {1}:
        found["dilations"] = window.dilations
    return {name: list(values) for name, values in found.items()}


def emit_max(g: Graph, x: str, window: Window, mask: bool = False, hint: str = "") -> list[str]:
    """Emit the maximum of each window and, with `mask`, its index in the image's plane."""
    x = _above_lowest(g, x) if g.is_strict else g.copy(x)  # a copy: Caffe stores where the maxima are
    x, used = _padded(g, x, window)
    if not mask:
        return [g.emit("MaxPool", x, hint=hint, **_attributes(used))]
    y, index = g.emit_many("MaxPool", x, count=2, hint=hint, **_attributes(used))
    plane = g.constant(math.prod(used.size), np.int64)  # the runtime counts on over samples and channels
    index = g.emit("Mod", index, plane)
    if used is not window:
        axes = [np.arange(n) - begin for n, begin in zip(used.size, window.begins, strict=True)]
        flat = np.ravel_multi_index(np.meshgrid(*axes, indexing="ij"), window.size, mode="clip")
        index = g.emit("Gather", g.constant(flat.ravel(), np.int64), index)
    return [y, g.cast(index, np.float32)]


def _above_lowest(g: Graph, x: str) -> str:
    """Emit x with Caffe's first maximum, -FLT_MAX, where no x exceeds it: of -∞ and of what is not a number."""
    lowest = g.constant(float(np.finfo(np.float32).min))
    return g.declare(g.emit("Where", g.emit("Greater", x, lowest), x, lowest), g.shape(x))


def _padded(g: Graph, x: str, window: Window) -> tuple[str, Window]:
    """Return the image and the window, the image padded itself where the runtime's pooling cannot."""
    if not _is_wide(window):
        return x, window
    padded = g.emit("Pad", x, g.ints(0, 0, *window.begins, 0, 0, *window.ends), g.constant(-math.inf))
    g.declare(padded, (*g.shape(x)[:2], *window.padded))
    return padded, replace(window, size=window.padded, begins=(0,) * len(window.size))


def _is_wide(window: Window) -> bool:
    """Tell whether a padding is as wide as the kernel or wider, which the runtime's pooling refuses."""
    return any(max(ends) >= k for *ends, k in zip(window.begins, window.ends, window.kernel, strict=True))


def emit_average(g: Graph, x: str, window: Window, hint: str = "") -> str:
    """Emit the sum over each window divided by the taps in its part of the padded image."""
    used = _clip(window)
    is_wide = _is_wide(used)
    if is_wide:  # the runtime would merge a Pad into an AveragePool
        channels = g.shape(x)[1]
        ones = g.constant(np.ones((channels, 1, *used.kernel)))
        y = g.emit("Conv", x, ones, group=channels, hint=hint, **_attributes(used))
    else:  # without count_include_pad: with uneven padding, onnxruntime before 1.26 does not count all of it
        y = g.emit("AveragePool", x, hint=hint, **_attributes(used))
    factor: np.ndarray = np.ones(())
    for axis, size in enumerate(window.size):
        counted = 1 if is_wide else used.taps_below(axis, size) - used.taps_below(axis, 0)
        divisors = window.taps_below(axis, size + window.begins[axis])
        factor = factor[..., None] * (counted / divisors)
    return y if np.all(factor == 1) else g.emit("Mul", y, g.constant(factor), hint=hint)


def _clip(window: Window) -> Window:
    """Return the same windows, a kernel that overhangs the only place cut back to the image."""
    fields = (window.kernel, window.size, window.out, window.begins, window.dilations)
    axes = zip(*fields, strict=True)
    cut = tuple(min(k, (size - 1) // d + 1) if out == 1 and not pad else k for k, size, out, pad, d in axes)
    return replace(window, kernel=cut)


class _Pool(Layer):
    """What pooling and its pyramid share: checks, and the choice of method."""

    passes_signal = True

    def image(self, bottoms: Sequence[Shape]) -> Shape:
        """Return (H, W) of a bottom of four axes."""
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom of 4 axes (N, C, H, W), found shape {bottoms[0]}")
        return bottoms[0][2:]

    def slide(self, size: Shape, kernel: Shape, strides: Shape, pads: Shape, **settings: Any) -> Window:
        """Return `pooling_window`. Raises NetError for windows that hold nothing: there Caffe gives noise or aborts."""
        given = f"kernel {list(kernel)}, stride {list(strides)}, pad {list(pads)}"
        if min(*kernel, *strides) == 0:
            raise self.error(f"kernel and stride must be positive; found {given}")
        if any(pad >= k for pad, k in zip(pads, kernel, strict=True)):
            raise self.error(f"pad must be smaller than the kernel, or a window holds padding only; found {given}")
        window = pooling_window(size, kernel, strides, pads, **settings)
        for n, stride, length, pad in zip(window.out, strides, size, pads, strict=True):
            if n <= 0:
                raise self.error(
                    f"the kernel does not fit into the padded bottom: {given} on {list(size)}; use a smaller kernel"
                )
            if (n - 1) * stride >= length + pad:
                raise self.error(
                    f"the last window lies wholly outside the bottom: {given} on {list(size)}; "
                    "use a stride no larger than the kernel, or round_mode: FLOOR"
                )
        return window

    def emit(self, g: Graph, x: str, method: int, window: Window, mask: bool = False) -> list[str]:
        """Emit one pooling. Raises NetError for stochastic pooling."""
        if method == STOCHASTIC:
            raise self.error(
                "stochastic pooling runs on GPUs only, on the CPU Caffe aborts; use pool: MAX or pool: AVE"
            )
        average = [emit_average(g, x, window, self.name)] if method == AVE else None
        values = average or emit_max(g, x, window, mask, self.name)
        return [g.declare(value, (*g.shape(x)[:2], *window.out)) for value in values]


@layer("Pooling", by_sample=True)
class Pooling(_Pool):
    """y = max over the window, or sum over it / its part of the padded image (AVE); a second top of MAX tells where.

    Bottom [N, C, H, W]; tops [N, C, places…], the second holding h·W + w of the first maximum in scan order.
    (pooling_layer.cpp)
    """

    num_tops = (1, 2)

    @property
    def settings(self) -> Any:
        """What the file says of the method and the window."""
        return self.proto.pooling_param

    def rounding(self) -> str:
        return "down" if self.proto.pooling_param.round_mode == FLOOR else "up"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        window = self.window(self.image(bottoms))
        self.refuse_in_place()  # Caffe clears the top before it reads the bottom
        if self.top_count > 1 and self.settings.pool != MAX:
            raise self.error("only pool: MAX has a second top, the mask; remove it")
        if self.settings.pool == STOCHASTIC and any(window.begins):
            raise self.error(f"only pool: MAX and pool: AVE have padding; found pad {list(window.begins)}")
        return ((*bottoms[0][:2], *window.out),) * self.top_count

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        return self.window(self.image(bottoms)).moves()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        window = self.window(g.shape(bottoms[0])[2:])
        return self.emit(g, bottoms[0], self.settings.pool, window, self.top_count > 1)

    def dilation(self, axes: int) -> Shape:
        """Return how far apart the taps of a window lie on each spatial axis; () for neighbours."""
        return ()

    def window(self, size: Shape) -> Window:
        """Return the window as the file describes it, for an image of (H, W)."""
        param = self.settings
        stride, pad = self._pair("stride", 1), self._pair("pad", 0)
        if not param.global_pooling:
            floor, apart = self.proto.pooling_param.round_mode == FLOOR, self.dilation(len(size))
            return self.slide(size, self._kernel(), stride, pad, floor=floor, dilations=apart)
        if any(param.HasField(field) for field in ("kernel_size", "kernel_h", "kernel_w")):
            raise self.error(
                "global_pooling takes the whole plane as its kernel; remove kernel_size, kernel_h and kernel_w"
            )
        if pad != (0, 0) or stride != (1, 1):
            raise self.error(
                f"global_pooling has no padding and stride 1; found pad {list(pad)}, stride {list(stride)}"
            )
        return self.slide(size, size, stride, pad)

    def _kernel(self) -> Shape:
        param = self.settings
        pair = param.HasField("kernel_h") and param.HasField("kernel_w")
        if param.HasField("kernel_size") == pair:
            raise self.error("give kernel_size, or both kernel_h and kernel_w, or global_pooling")
        return (param.kernel_h, param.kernel_w) if pair else (param.kernel_size,) * 2

    def _pair(self, name: str, default: int) -> Shape:
        param = self.settings
        fields = (f"{name}_h", f"{name}_w")
        given = [param.HasField(field) for field in fields]
        if any(given) and (not all(given) or param.HasField(name)):
            raise self.error(f"give {name}, or both {fields[0]} and {fields[1]}")
        if all(given):
            return tuple(getattr(param, field) for field in fields)
        return (getattr(param, name) if param.HasField(name) else default,) * 2


@layer("SPP", by_sample=True)
class SPP(_Pool):
    """Pooling over 1, 2 x 2, 4 x 4, … bins of the whole plane, flattened and joined.

    Bottom [N, C, H, W]; top [N, C · (number of all bins)], or [N, C, 1, 1] when pyramid_height is 1. (spp_layer.cpp)
    """

    foreign_bottoms = (2, 2)
    foreign_tops = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        size = self.image(bottoms)
        if self.proto.spp_param.pyramid_height == 0:
            raise self.error("pyramid_height must be positive; found 0 or none")
        levels = [window.out for window in self.windows(size)]
        if len(levels) == 1:
            return ((*bottoms[0][:2], *levels[0]),)
        return ((bottoms[0][0], bottoms[0][1] * sum(math.prod(level) for level in levels)),)

    def windows(self, size: Shape) -> Iterator[Window]:
        """Yield each level's window: as many bins as fit, the remainder padded on both sides, rounded up."""
        for bins in (2**level for level in range(self.proto.spp_param.pyramid_height)):
            kernel = tuple(-(-n // bins) for n in size)
            pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True))
            yield self.slide(size, kernel, kernel, pad)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        pooled = [self.emit(g, bottoms[0], self.proto.spp_param.pool, window)[0] for window in self.windows(shape[2:])]
        if len(pooled) == 1:
            return pooled
        flat = [g.reshape(value, shape[0], math.prod(g.shape(value)[1:])) for value in pooled]
        return [g.emit("Concat", *flat, axis=1, hint=self.name)]
