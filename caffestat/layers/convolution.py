"""Convolution, its transpose, and the columns that Caffe multiplies in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np
from caffestat.ops import Window

from .base import Layer, Move, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Convolution", "Deconvolution", "Im2col"]


@dataclass(frozen=True)
class _Geometry:
    """A bottom's shape as the layer sees it: `outer` samples of channels x spatial axes, under a window."""

    outer: Shape
    channels: int
    spatial: Shape
    window: Window


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
        kernel = self._per_axis("kernel_size", "kernel", len(spatial), None)
        strides = self._per_axis("stride", "stride", len(spatial), 1)
        pads = self._per_axis("pad", "pad", len(spatial), 0)
        dilations = self._per_axis("dilation", "", len(spatial), 1)
        window = self.slide(Window(spatial, spatial, kernel, strides, dilations, pads))
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

    def slide(self, window: Window) -> Window:
        """Return the window with the places that it stops at: (size + 2 pad - extent) / stride + 1, cut to an integer.

        So a kernel that is larger by less than the stride stops once, and reads zeros behind the padding.
        """
        padded = tuple(size + 2 * pad for size, pad in zip(window.size, window.begins, strict=True))
        if any(span - size >= s for span, size, s in zip(window.spans, padded, window.strides, strict=True)):
            raise self.error(
                f"the kernel covers {list(window.spans)} elements, more than the padded bottom's {list(padded)}; "
                "use a smaller kernel, less dilation, or more padding"
            )
        out = (max(n - span, 0) // s + 1 for n, span, s in zip(padded, window.spans, window.strides, strict=True))
        return replace(window, out=tuple(out))


def _attributes(window: Window) -> dict[str, Any]:
    """Return the window in ONNX's terms, with the padding on both sides that Caffe has, or more where it reads more."""
    lists = {"kernel_shape": window.kernel, "strides": window.strides, "dilations": window.dilations}
    ends = (max(both, tail) for both, tail in zip(window.begins, window.tails, strict=True))
    return {name: list(values) for name, values in lists.items()} | {"pads": [*window.begins, *ends]}


class _Filters(_Sliding):
    """What convolution and its transpose share: groups and params."""

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
        if {*at.window.kernel, *at.window.strides} <= {1} and not any(at.window.begins):
            self.refuse_in_place()  # Caffe reads the bottom itself, not a copy, and clears the top before
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
        window = at.window if at.spatial else Window((1,), (1,), (1,), (1,), (1,), (0,))
        shape = (prod(at.outer), at.channels, *(at.spatial or (1,)))
        weight = g.reshape(params[0], *g.shape(params[0])[:2], *window.kernel)
        attributes: dict[str, Any] = {"group": self.proto.convolution_param.group, **_attributes(window)}
        values = [self.multiply(g, op, g.reshape(b, *shape), weight, *params[1:], **attributes) for b in bottoms]
        top = self.tops([g.shape(bottom) for bottom in bottoms])[0] or ()
        plain = (prod(at.outer), top[len(at.outer)], *(top[len(at.outer) + 1 :] or (1,)))
        return [g.reshape(g.declare(value, plain), *top) for value in values]

    def multiply(self, g: Graph, op: str, *inputs: str, **attributes: Any) -> str:
        """Emit the op that multiplies a bottom by the weights; forks round these."""
        return g.emit(op, *inputs, hint=self.name, **attributes)


@layer("Convolution", by_sample=True)
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
        return ((*at.outer, self.proto.convolution_param.num_output, *at.window.out),) * len(bottoms)

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        return self.geometry(bottoms).window.moves()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.emit("Conv", g, bottoms, params)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        weight = self.params(bottoms)[0]
        return sum(prod(top) for top in self.tops(bottoms)) * prod(weight.shape[1:])


@layer("Deconvolution", by_sample=True)
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
        fan_in = round(at.channels // param.group * taps / prod(at.window.strides))
        return self.filters(at.channels, inner, at, max(fan_in, 1), inner * taps)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        at = self.geometry(bottoms)
        return ((*at.outer, self.proto.convolution_param.num_output, *at.window.size),) * len(bottoms)

    def slide(self, window: Window) -> Window:
        """Return the window from an image as large as the top to one of the bottom's size."""
        spatial = tuple(n - 2 * pad for n, pad in zip(window.needed, window.begins, strict=True))
        if any(size <= 0 for size in spatial):
            raise self.error(
                f"pad {list(window.begins)} cuts the whole top away, leaving {list(spatial)}; use less padding"
            )
        return replace(window, size=spatial)

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        move = self.geometry(bottoms).window.moves()
        return tuple((1 / factor, -shift / factor) for factor, shift in move) if move else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.emit("ConvTranspose", g, bottoms, params)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        weight = self.params(bottoms)[0]
        return sum(prod(bottom) for bottom in bottoms) * prod(weight.shape[1:])


@layer("Im2col", by_sample=True)
class Im2col(_Sliding):
    """y[c·K + k] = x[c] at tap k of each place of the window, K taps.

    Bottom [N, C, spatial…] (C at `axis`); top [N, C·K, places…]. (im2col_layer.cpp)
    """

    ignores_propagate_down = True
    own_fields = ("convolution_param.bottom_is_im2col",)  # segaware's, for the layers behind it

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()  # Caffe clears the bottom's diff, the top's, before it reads it
        at = self.geometry(bottoms)
        if not at.spatial:
            raise self.error(f"needs a spatial axis after axis {len(at.outer)}; found a bottom of shape {bottoms[0]}")
        return ((*at.outer, at.channels * prod(at.window.kernel), *at.window.out),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        """Emit a convolution of each channel with one unit kernel per tap: it copies."""
        at = self.geometry([g.shape(bottoms[0])])
        taps = prod(at.window.kernel)
        units = np.tile(np.eye(taps, dtype=np.float32), (at.channels, 1)).reshape(-1, 1, *at.window.kernel)
        x = g.reshape(bottoms[0], prod(at.outer), at.channels, *at.spatial)
        columns = g.emit("Conv", x, g.constant(units), group=at.channels, hint=self.name, **_attributes(at.window))
        return [g.reshape(columns, *self.tops([g.shape(bottoms[0])])[0])]
