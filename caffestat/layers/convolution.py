"""Convolution, its transpose, and the columns that Caffe multiplies in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Layer, Move, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Convolution", "Deconvolution", "Im2col"]


@dataclass(frozen=True)
class _Window:
    """How the kernel slides: one number per spatial axis in each field."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    @property
    def extent(self) -> Shape:
        """Input elements from the kernel's first tap to its last, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def move(self) -> Move | None:
        """Return where the places of an image go when the window slides over it."""
        axes = list(zip(self.extent, self.stride, self.pad, strict=True))
        return tuple((Fraction(1, s), -(Fraction(e - 1, 2) - p) / s) for e, s, p in axes) if len(axes) == 2 else None

    def attributes(self) -> dict[str, Any]:
        """Return the window in ONNX's terms."""
        lists = {"kernel_shape": self.kernel, "strides": self.stride, "dilations": self.dilation}
        return {name: list(values) for name, values in lists.items()} | {"pads": [*self.pad, *self.pad]}


@dataclass(frozen=True)
class _Geometry:
    """A bottom's shape as the layer sees it: `outer` samples of channels x spatial axes, under a window."""

    outer: Shape
    channels: int
    spatial: Shape
    window: _Window


class _Sliding(Layer):
    """What the layers with a `convolution_param` share: the channel axis and the window."""

    def rounding(self) -> str:
        return "down"

    def geometry(self, bottoms: Sequence[Shape]) -> _Geometry:
        """Return the first bottom's geometry. Raises NetError when another bottom differs or the window is wrong."""
        shape = bottoms[0]
        for index, other in enumerate(bottoms):
            if other != shape:
                raise self.error(
                    f"bottoms share the weights and need one shape: bottom 0 has {shape}, bottom {index} has {other}"
                )
        axis = self.canonical_axis(self.proto.convolution_param.axis, len(shape))
        spatial = shape[axis + 1 :]
        window = _Window(
            self._per_axis("kernel_size", "kernel", len(spatial), None),
            self._per_axis("stride", "stride", len(spatial), 1),
            self._per_axis("pad", "pad", len(spatial), 0),
            self._per_axis("dilation", "", len(spatial), 1),
        )
        return _Geometry(shape[:axis], shape[axis], spatial, window)

    def _per_axis(self, name: str, stem: str, axes: int, default: int | None) -> Shape:
        """Return a field of the window, one value per spatial axis, however the file spells it."""
        param = self.proto.convolution_param
        given = tuple(getattr(param, name))
        pair = (f"{stem}_h", f"{stem}_w")
        if stem and any(param.HasField(field) for field in pair):
            if axes != 2 or given:
                reason = f"{name} is given as well" if given else f"the bottom has {axes}"
                raise self.error(f"{pair[0]} and {pair[1]} stand for {name} when there are two spatial axes; {reason}")
            given = tuple(getattr(param, field) for field in pair)
        elif len(given) not in (1, axes) and (given or default is None):
            raise self.error(f"{name} is given once, or once per spatial axis ({axes}); found {len(given)} values")
        values = given if len(given) == axes else (given or (default or 0,)) * axes
        if name != "pad" and any(value == 0 for value in values):
            raise self.error(f"{name} must be positive on every spatial axis; found {list(values)}")
        return values

    def slide(self, at: _Geometry) -> Shape:
        """Return how many places the window stops at: (size + 2 pad - extent) / stride + 1, rounded down."""
        window = at.window
        padded = tuple(size + 2 * pad for size, pad in zip(at.spatial, window.pad, strict=True))
        if any(extent > size for extent, size in zip(window.extent, padded, strict=True)):
            raise self.error(
                f"the kernel covers {list(window.extent)} elements, more than the padded bottom's {list(padded)}; "
                "use a smaller kernel, less dilation, or more padding"
            )
        return tuple((n - e) // s + 1 for n, e, s in zip(padded, window.extent, window.stride, strict=True))


class _Filters(_Sliding):
    """What convolution and its transpose share: groups and params."""

    foreign_fields: ClassVar[tuple[str, ...]] = (
        "convolution_param.kernel_d",
        "convolution_param.stride_d",
        "convolution_param.pad_d",
        "convolution_param.dilation_d",
        "convolution_param.kernel_depth",
        "convolution_param.temporal_stride",
        "convolution_param.temporal_pad",
    )
    num_bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    num_tops: ClassVar[tuple[int, int | None]] = (1, None)
    filler_fields: ClassVar[Mapping[str, str]] = {
        "convolution_param.weight_filler": "weight",
        "convolution_param.bias_filler": "bias",
    }

    def geometry(self, bottoms: Sequence[Shape]) -> _Geometry:
        at = super().geometry(bottoms)
        param = self.proto.convolution_param
        if self.top_count != len(bottoms):
            raise self.error(f"needs as many tops as bottoms ({len(bottoms)}); found {self.top_count}")
        if param.num_output == 0:
            raise self.error("num_output must be positive; found 0 or none")
        if param.group == 0 or at.channels % param.group or param.num_output % param.group:
            raise self.error(
                f"group must divide the bottom's channels and num_output; found group {param.group}, "
                f"{at.channels} channels, num_output {param.num_output}"
            )
        return at

    def mixes_channels(self) -> bool:
        param = self.proto.convolution_param
        return bool(param.group != param.num_output)

    def filters(self, leading: int, inner: int, at: _Geometry, fan_in: int, fan_out: int) -> tuple[Param, ...]:
        """Return the weights, `leading` x `inner` x kernel, and the bias."""
        param = self.proto.convolution_param
        weight = read_param("weight", (leading, inner, *at.window.kernel), param, "weight_filler", fan_in, fan_out)
        bias = read_param("bias", (param.num_output,), param, "bias_filler", 1, 1)
        return (weight, bias) if param.bias_term else (weight,)

    def emit(self, op: str, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        """Emit one node per bottom, between reshapes where the runtime wants another number of axes."""
        at = self.geometry([g.shape(bottom) for bottom in bottoms])
        window = at.window if at.spatial else _Window((1,), (1,), (0,), (1,))
        shape = (prod(at.outer), at.channels, *(at.spatial or (1,)))
        weight = g.reshape(params[0], *g.shape(params[0])[:2], *window.kernel)
        attributes: dict[str, Any] = {"group": self.proto.convolution_param.group, **window.attributes()}
        values = [g.emit(op, g.reshape(b, *shape), weight, *params[1:], hint=self.name, **attributes) for b in bottoms]
        top = self.tops([g.shape(bottom) for bottom in bottoms])[0] or ()
        plain = (prod(at.outer), top[len(at.outer)], *(top[len(at.outer) + 1 :] or (1,)))
        return [g.reshape(g.declare(value, plain), *top) for value in values]


@layer("Convolution")
class Convolution(_Filters):
    """y = W * x + b: each output channel sums W over its group's channels and the window.

    Bottoms [N, C, spatial…] (C at `axis`), all with the same weights; tops [N, num_output, places…]. Weights
    [num_output, C / group, kernel…]. (conv_layer.cpp, base_conv_layer.cpp)
    """

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        at = self.geometry(bottoms)
        param = self.proto.convolution_param
        taps, inner = prod(at.window.kernel), at.channels // param.group
        return self.filters(param.num_output, inner, at, inner * taps, param.num_output // param.group * taps)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        at = self.geometry(bottoms)
        return ((*at.outer, self.proto.convolution_param.num_output, *self.slide(at)),) * len(bottoms)

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        return self.geometry(bottoms).window.move()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.emit("Conv", g, bottoms, params)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        weight = self.params(bottoms)[0]
        return sum(prod(top) for top in self.tops(bottoms)) * prod(weight.shape[1:])


@layer("Deconvolution")
class Deconvolution(_Filters):
    """y = Wᵀ * x + b, the gradient of a convolution used forward: each input places its kernel, weighted, on the top.

    Bottoms [N, C, spatial…] (C at `axis`); tops [N, num_output, stride (size - 1) + extent - 2 pad…]. Weights
    [C, num_output / group, kernel…]. (deconv_layer.cpp, base_conv_layer.cpp)
    """

    upsamples = True

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        at = self.geometry(bottoms)
        param = self.proto.convolution_param
        taps, inner = prod(at.window.kernel), param.num_output // param.group
        # the kernels of neighbouring inputs overlap on a stride-th of the taps per axis, on average
        fan_in = round(at.channels // param.group * taps / prod(at.window.stride))
        return self.filters(at.channels, inner, at, max(fan_in, 1), inner * taps)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        at = self.geometry(bottoms)
        window = at.window
        placed = zip(at.spatial, window.stride, window.extent, window.pad, strict=True)
        spatial = tuple(stride * (size - 1) + extent - 2 * pad for size, stride, extent, pad in placed)
        if any(size <= 0 for size in spatial):
            raise self.error(
                f"pad {list(window.pad)} cuts the whole top away, leaving {list(spatial)}; use less padding"
            )
        return ((*at.outer, self.proto.convolution_param.num_output, *spatial),) * len(bottoms)

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        move = self.geometry(bottoms).window.move()
        return tuple((1 / factor, -shift / factor) for factor, shift in move) if move else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.emit("ConvTranspose", g, bottoms, params)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        weight = self.params(bottoms)[0]
        return sum(prod(bottom) for bottom in bottoms) * prod(weight.shape[1:])


@layer("Im2col")
class Im2col(_Sliding):
    """y[c·K + k] = x[c] at tap k of each place of the window, K taps.

    Bottom [N, C, spatial…] (C at `axis`); top [N, C·K, places…]. (im2col_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        at = self.geometry(bottoms)
        if not at.spatial:
            raise self.error(f"needs a spatial axis after axis {len(at.outer)}; found a bottom of shape {bottoms[0]}")
        return ((*at.outer, at.channels * prod(at.window.kernel), *self.slide(at)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        """Emit a convolution of each channel with one unit kernel per tap: it copies."""
        at = self.geometry([g.shape(bottoms[0])])
        taps = prod(at.window.kernel)
        units = np.tile(np.eye(taps, dtype=np.float32), (at.channels, 1)).reshape(-1, 1, *at.window.kernel)
        x = g.reshape(bottoms[0], prod(at.outer), at.channels, *at.spatial)
        columns = g.emit("Conv", x, g.constant(units), group=at.channels, hint=self.name, **at.window.attributes())
        return [g.reshape(columns, *self.tops([g.shape(bottoms[0])])[0])]
