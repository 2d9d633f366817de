"""FlowNet's layers that make images larger or smaller, and those that cut and change them at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Filler
from caffestat.lazy import np
from caffestat.schema.forks import flow_pb2

from ..base import TRAIN, Layer, Param, Shape, layer
from ..reread import without_gradient
from .flow import check_images
from .rois import rounded

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["DataAugmentation", "Downsample", "FlowAugmentation", "GenerateAugmentationParameters", "Resample"]

NEAREST, LINEAR, CUBIC, _ = flow_pb2.ResampleParameter.ResampleType.values()
NEUTRAL = np.array([field.default_value for field in flow_pb2.AugmentationCoeff.DESCRIPTOR.fields], np.float32)
"""The coefficients of a transformation that changes nothing."""


def emit_matrices(g: Graph, x: str, high: np.ndarray, wide: np.ndarray) -> str:
    """Emit A · x · Bᵀ for every image; A is [H', H], B [W', W]."""
    rows = g.emit("MatMul", g.constant(high), x)
    return g.emit("MatMul", rows, g.constant(np.ascontiguousarray(wide.T)))


class _Sized(Layer):
    """A layer from images to images of another size: that of bottom 1, or as written. No gradient."""

    adds = flow_pb2.LayerParameter
    num_bottoms = (1, 2)

    def written_size(self) -> tuple[int, int]:
        """Return height and width as the file has them."""
        raise NotImplementedError

    def size(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return height and width of the top."""
        if len(bottoms) == 1:
            return self.written_size()
        height, width = check_images(self, bottoms[1])[2:]
        return height, width

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        check_images(self, bottoms[0])
        size = self.size(bottoms)
        if min(size) < 1:
            raise self.error(f"expected a positive height and width of the top, found {size}")
        return ((*bottoms[0][:2], *size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        return without_gradient(g, bottoms, lambda x, *_: (self.resized(g, x, shapes[0][2:], self.size(shapes)),))

    def resized(self, g: Graph, x: str, old: Shape, new: tuple[int, int]) -> str:
        """Emit x in another size."""
        raise NotImplementedError


@layer("Downsample", dialect="flownet")
class Downsample(_Sized):
    """y = weighted mean of the elements around each place, corners on corners: 1 - distance / scale, on both axes.

    Elements that are not a number count as missing; where they weigh more than half of the others, y is no number.
    (lmb-freiburg/flownet2, downsample_layer.cu)
    """

    def written_size(self) -> tuple[int, int]:
        return self.added.downsample_param.top_height, self.added.downsample_param.top_width

    def resized(self, g: Graph, x: str, old: Shape, new: tuple[int, int]) -> str:
        if old == new:
            return g.emit("Identity", x)
        matrices = [_hats(length, out) for length, out in zip(old, new, strict=True)]
        missing = g.emit("IsNaN", x)
        valid = emit_matrices(g, g.cast(g.emit("Not", missing), np.float32), *matrices)
        lost = emit_matrices(g, g.cast(missing, np.float32), *matrices)
        mean = g.emit("Div", emit_matrices(g, g.emit("Where", missing, g.constant(0), x), *matrices), valid)
        is_lost = g.emit("Greater", g.emit("Div", lost, valid), g.constant(0.5))
        return g.emit("Where", is_lost, g.constant(np.nan), mean)


def _hats(length: int, out: int) -> np.ndarray:
    """Return the weights [out, length] of the elements around each of `out` places, which are not normalized."""
    if out == 1:  # the reference divides by 0: y is no number
        return np.zeros((out, length), np.float32)
    scale = np.float32(length - 1) / np.float32(out - 1)
    at = np.arange(out, dtype=np.float32) / np.float32(out - 1) * np.float32(length - 1)
    element = np.arange(length, dtype=np.float32)
    near = abs(element - rounded(at)[:, None]) <= math.ceil(scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.maximum(np.float32(0), 1 - abs(element - at[:, None]) / scale)
    return np.where(near, np.nan_to_num(weights), 0).astype(np.float32)


@layer("Resample", dialect="flownet")
class Resample(_Sized):
    """y = nearest element, or mean with linear or cubic weights, which are `antialias`ed where an image gets smaller.

    The reference shifts each axis by half of the other's scale: with two different scales images are displaced.
    (lmb-freiburg/flownet2, resample_layer.cu)
    """

    def written_size(self) -> tuple[int, int]:
        return self.added.resample_param.height, self.added.resample_param.width

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.added.resample_param.type not in (NEAREST, LINEAR, CUBIC):
            raise self.error("expected type NEAREST, LINEAR or CUBIC, found AREA")
        tops = super().tops(bottoms)
        if self.added.resample_param.type == NEAREST:
            self.matrices(bottoms[0][2:], tops[0][2:])
        return tops

    def resized(self, g: Graph, x: str, old: Shape, new: tuple[int, int]) -> str:
        return emit_matrices(g, x, *self.matrices(old, new))

    def matrices(self, old: Shape, new: Shape) -> list[np.ndarray]:
        """Return the weights of both axes."""
        scales = [np.float32(length) / np.float32(out) for length, out in zip(old, new, strict=True)]
        p, makes_smaller = self.added.resample_param, bool(max(scales) > 1)
        found = []
        for axis, (length, out) in enumerate(zip(old, new, strict=True)):
            at = np.arange(out, dtype=np.float32) * scales[axis] + scales[1 - axis] / np.float32(2) - np.float32(0.5)
            if p.type == NEAREST:
                found.append(self.nearest(at, length))
            else:
                found.append(_filtered(at, length, scales[axis], p.type, makes_smaller and p.antialias))
        return found

    def nearest(self, at: np.ndarray, length: int) -> np.ndarray:
        index = rounded(at).astype(int)
        if index.min() < 0 or index.max() >= length:
            raise self.error(
                "type NEAREST with two different scales reads elements outside of the images; choose LINEAR"
            )
        return np.eye(length, dtype=np.float32)[index]


def _filtered(at: np.ndarray, length: int, scale: np.float32, kind: int, antialias: bool) -> np.ndarray:
    """Return the weights [out, length] of the elements around each place; 0 where there is none."""
    factor = np.float32(1) / (scale if antialias else np.float32(1))
    width = 4 if kind == CUBIC else 2
    reach = 2 if scale < 1 else math.ceil(np.float32(width) / factor)
    element = np.arange(length, dtype=np.float32)
    near = abs(element - rounded(at)[:, None]) <= reach
    weights = np.where(near, (_cubic if kind == CUBIC else _triangle)(factor * (at[:, None] - element)), 0)
    sums = weights.sum(1, keepdims=True)
    return np.divide(weights, sums, out=np.zeros_like(weights), where=sums != 0).astype(np.float32)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - abs(x), 0)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = abs(x)
    inner, outer = x * x * (1.5 * x - 2.5) + 1, x * (x * (-0.5 * x + 2.5) - 4) + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


# ---- augmentation ----------------------------------------------------------------------------------------------------


class _Augmented(Layer):
    """A layer whose reference draws transformations, which are left out: it does what it does when none is drawn."""

    adds = flow_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.augmentation_param

    @property
    def left_out(self) -> str:
        applies = self.phase == TRAIN or self.settings.augment_during_test
        kinds = [field.name for field, _ in self.settings.ListFields() if field.message_type] if applies else []
        return f"what it draws ({', '.join(kinds)}) is not reproduced: no random change is made" if kinds else ""

    def cut_size(self) -> tuple[int, int] | None:
        p = self.settings
        return (p.crop_height, p.crop_width) if p.HasField("crop_width") and p.HasField("crop_height") else None

    def crop(self, shape: Shape) -> tuple[int, int]:
        """Return height and width after the cut."""
        if not (size := self.cut_size()):
            return shape[2], shape[3]
        if not (1 <= size[0] <= shape[2] and 1 <= size[1] <= shape[3]):
            raise self.error(f"crop_height {size[0]} x crop_width {size[1]} does not fit into {shape}")
        return size


@layer("DataAugmentation", dialect="flownet")
class DataAugmentation(_Augmented):
    """The centre of the images, less a mean, and the coefficients of each image's transformation [N, 42, 1, 1].

    With recompute_mean the mean is that of the batches so far, up to this number, per pixel or, without mean_per_pixel,
    per channel: params hold the number, the mean [1, C, H, W] and its channels' [1, C, 1, 1]. Otherwise three values of
    `mean` are subtracted without mean_per_pixel. (lmb-freiburg/flownet2, data_augmentation_layer.cu)
    """

    num_bottoms = (1, 2)
    num_tops = (1, 2)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        channels = bottoms[0][1]
        shapes: list[Shape] = [(1, 1, 1, 1)]
        if self.settings.recompute_mean:
            shapes += [(1, channels, *self.crop(bottoms[0])), (1, channels, 1, 1)]
        names = ("count", "mean", "channel_mean")
        return tuple(
            Param(name, shape, Filler(), False, 1, 1, is_statistic=True)
            for name, shape in zip(names, shapes, strict=False)
        )

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, channels, _, _ = check_images(self, bottoms[0])
        coefficients = bottoms[1] if len(bottoms) > 1 else (n, len(NEUTRAL), 1, 1)
        return ((n, channels, *self.crop(bottoms[0])), coefficients)[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, shapes = g.shape(bottoms[0]), [g.shape(bottom) for bottom in bottoms]
        tops = self.tops(shapes)

        def forward(x: str, *others: str) -> Sequence[str]:
            cut = g.declare(self.cut(g, x, shape), tops[0])
            mean = self.mean(g, cut, params)
            images = g.emit("Sub", cut, mean) if mean else cut
            given = others[0] if others else g.constant(self.coefficients(shape[0]))
            return [images, given][: self.top_count]

        return without_gradient(g, bottoms, forward)

    def coefficients(self, n: int) -> np.ndarray:
        """Return the coefficients of images that are cut alone; zeros where they are not even cut."""
        one = NEUTRAL if self.cut_size() else np.zeros_like(NEUTRAL)
        return np.broadcast_to(one.reshape(1, -1, 1, 1), (n, len(NEUTRAL), 1, 1))

    def cut(self, g: Graph, x: str, shape: Shape) -> str:
        """Emit the centre, by the reference's interpolation: it stays 0.05 away from the last element."""
        if not self.cut_size():
            return g.emit("Identity", x)
        return emit_matrices(g, x, *(_centre(n, m) for n, m in zip(shape[2:], self.crop(shape), strict=True)))

    def mean(self, g: Graph, x: str, params: Sequence[str]) -> str:
        """Emit what is subtracted, "" for nothing, and record the params after the pass."""
        p = self.settings
        count = g.emit("Add", params[0], g.constant(1))
        g.updates[params[0]] = g.declare(count, (1, 1, 1, 1))
        if not p.recompute_mean:
            uses = len(p.mean) == 3 and not p.mean_per_pixel
            return g.constant(np.asarray(p.mean, np.float32).reshape(1, 3, 1, 1)) if uses else ""
        counts = g.emit("LessOrEqual", count, g.constant(p.recompute_mean))
        sums = g.emit("Mul", params[1], g.emit("Sub", count, g.constant(1)))
        batch = g.emit("ReduceMean", x, g.ints(0), keepdims=1)
        mean = g.emit("Where", counts, g.emit("Div", g.emit("Add", sums, batch), count), params[1])
        of_channel = g.emit("ReduceMean", mean, g.ints(2, 3), keepdims=1)
        channel = g.emit("Where", counts, of_channel, params[2])
        for param, value in zip(params[1:], (mean, channel), strict=True):
            g.updates[param] = g.declare(value, g.shape(param))
        return mean if p.mean_per_pixel else channel


def _centre(length: int, out: int) -> np.ndarray:
    """Return the weights [out, length] of linear interpolation in the middle part of an axis."""
    start = np.float32(0.5) * np.float32(length) - np.float32(0.5) * np.float32(out)
    at = (np.arange(out, dtype=np.float32) + start).clip(0, max(np.float32(length) - np.float32(1.05), np.float32(0)))
    low = np.floor(at).astype(int)
    matrix, rows = np.zeros((out, length), np.float32), np.arange(out)
    matrix[rows, low] = 1 - (at - low)
    matrix[rows, np.minimum(low + 1, length - 1)] += at - low
    return matrix


@layer("GenerateAugmentationParameters", dialect="flownet")
class GenerateAugmentationParameters(_Augmented):
    """The coefficients of a transformation for each item [N, 42, 1, 1]: those of bottom 0, or neutral ones.

    They are neutral where bottom 0 holds images, and with mode "regenerate". Bottoms: coefficients or images, or
    coefficients, images, and cut images. (lmb-freiburg/flownet2, generate_augmentation_parameters_layer.cu)
    """

    num_bottoms = (1, 3)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) == 2:
            raise self.error("expected one bottom or three, found two")
        if len(bottoms) == 1 and not self.cut_size():
            raise self.error("expected crop_width and crop_height in augmentation_param, or three bottoms")
        n = check_images(self, bottoms[0])[0]
        if not self.regenerates(bottoms) and bottoms[0][1:] != (len(NEUTRAL), 1, 1):
            raise self.error(f"expected coefficients (N, {len(NEUTRAL)}, 1, 1), found a bottom of shape {bottoms[0]}")
        return ((n, len(NEUTRAL), 1, 1),)

    def regenerates(self, bottoms: Sequence[Shape]) -> bool:
        """Tell whether bottom 0 is not looked at."""
        holds_images = len(bottoms) == 1 and max(bottoms[0][2:]) > 1
        return holds_images or self.settings.mode not in ("add", "replace")

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        neutral = np.broadcast_to(NEUTRAL.reshape(1, -1, 1, 1), self.tops(shapes)[0])
        is_new = self.regenerates(shapes)
        return without_gradient(g, bottoms, lambda x, *_: (g.constant(neutral) if is_new else x,))


@layer("FlowAugmentation", dialect="flownet")
class FlowAugmentation(_Augmented):
    """The centre of a flow [N, 2, H, W]; bottoms 1 and 2 hold the coefficients of both images' transformations.

    Coefficients are taken as neutral. (lmb-freiburg/flownet2, flow_augmentation_layer.cu)
    """

    num_bottoms = (3, 3)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, channels, _, _ = check_images(self, bottoms[0])
        if channels != 2 or not (self.settings.crop_width and self.settings.crop_height):
            raise self.error(f"expected a flow (N, 2, H, W), and crop_width and crop_height, found {bottoms[0]}")
        return ((n, channels, *self.crop(bottoms[0])),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        size = self.crop(shape)
        starts = [(whole - part + 1) // 2 for whole, part in zip(shape[2:], size, strict=True)]
        ends = [start + part for start, part in zip(starts, size, strict=True)]

        def forward(flow: str, *_: str) -> Sequence[str]:
            return (g.emit("Slice", flow, g.ints(*starts), g.ints(*ends), g.ints(2, 3)),)

        return without_gradient(g, bottoms, forward)
