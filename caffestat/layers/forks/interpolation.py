"""Layer types of forks that make images larger or smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.float32 import rounded
from caffestat.lazy import np
from caffestat.schema.forks import rearrange_pb2

from ..base import Layer, Shape, layer

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Interp", "Resize", "Unpool", "Upsample"]


class Resampled(Layer):
    """A layer from images [N, C, H, W] to images of another size."""

    adds = rearrange_pb2.LayerParameter

    def size(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of the top."""
        raise NotImplementedError

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        size = self.size(bottoms[0])
        if min(size) < 1:
            raise self.error(f"makes images of {size} out of a bottom of shape {bottoms[0]}")
        return ((*bottoms[0][:2], *size),)

    def resampled(self, g: Graph, x: str, matrices: Sequence[np.ndarray]) -> str:
        """Emit Y = A · x · Bᵀ for every image; A is [out height, height], B [out width, width]."""
        high, wide = matrices
        rows = g.emit("MatMul", g.constant(high), x)
        return g.emit("MatMul", rows, g.constant(np.ascontiguousarray(wide.T)), hint=self.name)


@layer("Interp", dialect="deeplab")
class Interp(Resampled):
    """Bilinear interpolation with the corners of both images on each other, after a crop by -pad_beg and -pad_end.

    The size is (H - 1) / shrink + 1, H + (H - 1) · (zoom - 1), both one after the other, or height and width.
    (hszhao/PSPNet, interp_layer.cpp and util/interp.cpp)
    """

    def cropped(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of what is read."""
        proto = self.added.interp_param
        if max(proto.pad_beg, proto.pad_end) > 0:
            raise self.error("pad_beg and pad_end must not be positive: Interp crops, it does not pad")
        high, wide = (size + proto.pad_beg + proto.pad_end for size in shape[2:])
        if min(high, wide) < 1:
            raise self.error(f"the crop leaves no element of a bottom of shape {shape}")
        return high, wide

    def size(self, shape: Shape) -> tuple[int, int]:
        high, wide = (self.length(length) for length in self.cropped(shape))
        proto = self.added.interp_param
        return high if high is not None else proto.height, wide if wide is not None else proto.width

    def length(self, length: int) -> int | None:
        """Return the length that shrink_factor and zoom_factor give; None where height and width say it."""
        proto = self.added.interp_param
        shrinks, zooms = proto.HasField("shrink_factor"), proto.HasField("zoom_factor")
        if (shrinks and proto.shrink_factor < 1) or (zooms and proto.zoom_factor < 1):
            raise self.error("shrink_factor and zoom_factor must be at least 1")
        if proto.HasField("height") and proto.HasField("width") and shrinks == zooms:
            return None
        if not (shrinks or zooms):
            raise self.error("expected height and width, shrink_factor or zoom_factor in interp_param, found none")
        length = (length - 1) // proto.shrink_factor + 1 if shrinks else length
        return length + (length - 1) * (proto.zoom_factor - 1) if zooms else length

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, start = g.shape(bottoms[0]), -self.added.interp_param.pad_beg
        cropped = self.cropped(shape)
        pairs = zip(shape[2:], cropped, self.size(shape), strict=True)
        return (self.resampled(g, bottoms[0], [_aligned(n, start, m, out) for n, m, out in pairs]),)


def _aligned(length: int, start: int, used: int, out: int) -> np.ndarray:
    """Return [out, length]: `out` points from the first to the last of `used` elements from `start` on."""
    ratio = np.float32((used - 1) / (out - 1)) if out > 1 else np.float32(0)
    at = ratio * np.arange(out, dtype=np.float32)
    return _linear(at, length, start, used)


def _linear(at: np.ndarray, length: int, start: int, used: int) -> np.ndarray:
    """Return the weights of linear interpolation; beyond the last of the used elements there is nothing."""
    low = np.minimum(at.astype(int), used - 1)
    weight = at - low
    matrix = np.zeros((len(at), length), np.float32)
    rows = np.arange(len(at))
    matrix[rows, start + low] = 1 - weight
    inside = low + 1 < used
    matrix[rows[inside], start + low[inside] + 1] += weight[inside]
    return matrix


@layer("Resize", dialect="happynear")
class Resize(Resampled):
    """Bilinear interpolation at y · H / height, x · W / width; neighbours beyond the last row or column count as 0.

    The size is height and width, or out_height_scale and out_width_scale times the bottom's with is_pyramid_test.
    (happynear/caffe-windows, resize_layer.cpp and util_img.cpp)
    """

    def size(self, shape: Shape) -> tuple[int, int]:
        proto = self.added.resize_param
        names = ("out_height_scale", "out_width_scale") if proto.is_pyramid_test else ("height", "width")
        for name in names:
            if not proto.HasField(name):
                raise self.error(f"expected {names[0]} and {names[1]} in resize_param; {name} is missing")
        if proto.is_pyramid_test:
            return self.times(shape, proto.out_height_scale, proto.out_width_scale)
        return proto.height, proto.width

    def times(self, shape: Shape, high: float, wide: float) -> tuple[int, int]:
        """Return height and width of images [N, C, H, W] times two scales: float32 products, rounded down."""
        return int(rounded(shape[2] * high)), int(rounded(shape[3] * wide))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        pairs = zip(shape[2:], self.size(shape), strict=True)
        return (self.resampled(g, bottoms[0], [_scaled(length, out) for length, out in pairs]),)


def _scaled(length: int, out: int) -> np.ndarray:
    at = np.arange(out, dtype=np.float32) * np.float32(length / np.float32(out))
    return _linear(at, length, 0, length)


@layer("Upsample", dialect="yolo")
class Upsample(Resampled):
    """Each element repeated scale · scale times. (eric612/MobileNet-YOLO, upsample_layer.cpp)"""

    def size(self, shape: Shape) -> tuple[int, int]:
        scale = self.added.upsample_param.scale if self.added.upsample_param.HasField("scale") else 1
        return shape[2] * scale, shape[3] * scale

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        batch, channels, high, wide = g.shape(bottoms[0])
        out_high, out_wide = self.size((batch, channels, high, wide))
        spaced = g.emit("Reshape", bottoms[0], g.ints(batch, channels, high, 1, wide, 1))
        wanted = g.ints(batch, channels, high, out_high // high, wide, out_wide // wide)
        return (g.emit("Reshape", g.emit("Expand", spaced, wanted), g.ints(batch, channels, out_high, out_wide)),)


@layer("Upsample", dialect="segnet")
class Unpool(Resampled):
    """Each element of bottom 0 at the place in its channel that bottom 1 (the mask of a MAX pooling) names, else 0.

    Of elements with one place the last counts forward, and each gets that place's gradient. The size is upsample_h and
    upsample_w, or scale (scale_h, scale_w) times the bottom's, one less with pad_out_h or pad_out_w.
    (alexgkendall/caffe-segnet, upsample_layer.cpp)
    """

    num_bottoms = (2, 2)

    def size(self, shape: Shape) -> tuple[int, int]:
        proto = self.added.upsample_param
        if proto.HasField("upsample_h") and proto.HasField("upsample_w"):
            return proto.upsample_h, proto.upsample_w
        high, wide = (proto.scale_h, proto.scale_w) if proto.HasField("scale_h") else (proto.scale, proto.scale)
        if min(high, wide) < 2 or (proto.pad_out_h and high != 2) or (proto.pad_out_w and wide != 2):
            raise self.error("expected a scale of at least 2, and of 2 where pad_out_h or pad_out_w is set")
        return shape[2] * high - proto.pad_out_h, shape[3] * wide - proto.pad_out_w

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if bottoms[0] != bottoms[1]:
            raise self.error(f"expected a mask of the bottom's shape {bottoms[0]}, found {bottoms[1]}")
        return super().tops(bottoms[:1])

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        size = self.size(bottoms[0])
        return size[0] * size[1] if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        batch, channels, high, wide = shape = g.shape(bottoms[0])
        size = self.size(shape)
        values = g.reshape(bottoms[0], batch, channels, high * wide)
        places = g.reshape(g.cast(g.detach(bottoms[1]), np.int64), batch, channels, high * wide)
        zeros = g.emit("Expand", g.constant(0), g.ints(batch, channels, size[0] * size[1]))
        spread = g.emit("ScatterElements", zeros, places, values, axis=2)
        return (g.reshape(spread, batch, channels, *size),)
