"""Layers of forks that transform whole images: affine maps, and another size by cubic interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.lazy import np
from caffestat.schema.forks import geometry_pb2

from ..base import Layer, Shape, layer
from ..loss import Loss, total
from ..reread import without_gradient
from .flow import check_images
from .sampling import emit_sampled

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["ImResize", "LocLoss", "PowerFile", "STLoss", "SpatialTransformer"]

THETAS = [f"theta_{row}_{column}" for row in (1, 2) for column in (1, 2, 3)]


@layer("SpatialTransformer", dialect="stn")
class SpatialTransformer(Layer):
    """y = x at the places θ · (v, u, 1) of each place (v, u), by bilinear interpolation; outside of the image x is 0.

    v and u go down and across from -1, in steps of 2 / size; θ is bottom 1 [N, 6], less those that the file fixes.
    Gradients go to θ, and to x unless to_compute_dU is false. (daerduoCarey/SpatialTransformerLayer, st_layer.cu)
    """

    adds = geometry_pb2.LayerParameter
    num_bottoms = (2, 2)

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.st_param

    def fixed(self) -> list[float | None]:
        """Return the θ that the file gives, row by row; None for one of bottom 1."""
        p = self.settings
        return [getattr(p, name) if p.HasField(name) else None for name in THETAS]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, count = self.settings, self.fixed().count(None)
        n, channels, height, width = check_images(self, bottoms[0])
        if p.transform_type != "affine" or p.sampler_type != "bilinear":
            raise self.error("expected transform_type affine and sampler_type bilinear")
        if bottoms[1][:1] != (n,) or math.prod(bottoms[1][1:]) != count:
            raise self.error(f"expected {count} values of θ for each of {n} items, found shape {bottoms[1]}")
        size = (p.output_H if p.HasField("output_H") else height, p.output_W if p.HasField("output_W") else width)
        if min(size) < 1:
            raise self.error(f"expected a positive output_H and output_W, found {size}")
        return ((n, channels, *size),)

    def theta(self, g: Graph, given: str, n: int) -> str:
        """Emit all of θ [N, 2, 3]."""
        fixed = self.fixed()
        if None not in fixed:
            return g.constant(np.broadcast_to(np.array(fixed, np.float32).reshape(1, 2, 3), (n, 2, 3)))
        rows = g.reshape(given, n, fixed.count(None))
        if fixed.count(None) == len(fixed):
            return g.reshape(rows, n, 2, 3)
        parts, index = [], 0
        for value in fixed:
            if value is None:
                parts.append(g.emit("Slice", rows, g.ints(index), g.ints(index + 1), g.ints(1)))
                index += 1
            else:
                parts.append(g.constant(np.full((n, 1), value)))
        return g.reshape(g.declare(g.emit("Concat", *parts, axis=1), (n, 6)), n, 2, 3)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, _, height, width = g.shape(bottoms[0])
        rows, columns = self.tops([g.shape(bottom) for bottom in bottoms])[0][2:]
        grid = g.constant(_grid(rows, columns))
        places = g.emit("MatMul", self.theta(g, bottoms[1], n), grid)  # [N, 2, places]
        points = []
        for axis, size in enumerate((height, width)):
            place = g.emit("Gather", places, g.constant(axis, np.int64), axis=1)
            moved = g.emit("Mul", g.emit("Add", place, g.constant(1)), g.constant(size / 2))
            points.append(g.reshape(g.declare(moved, (n, rows * columns)), n, rows, columns))
        image = bottoms[0] if self.settings.to_compute_dU else g.detach(bottoms[0])
        return (emit_sampled(g, image, points[0], points[1]),)


@layer("PowerFile", dialect="stn")
class PowerFile(Layer):
    """y = x + the values of a text file, one for each value of an item; missing ones are 0.

    (daerduoCarey/SpatialTransformerLayer, power_file_layer.cu)
    """

    adds = geometry_pb2.LayerParameter
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    @property
    def left_out(self) -> str:
        path = self.added.power_file_param.shift_file
        return f"cannot read shift_file {path!r}: zeros are added, as the reference does" if not self.values() else ""

    def values(self) -> list[float]:
        """Return the numbers in the file, its path taken from the working directory, else from the net's folder."""
        path = self.added.power_file_param.shift_file
        try:
            return [float(word) for word in read_regular(self.named_file(path) or path).split()]
        except (OSError, ValueError, InputError):
            return []

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        values = np.zeros(math.prod(shape[1:]), np.float32)
        read = self.values()[: len(values)]
        values[: len(read)] = read
        return (g.emit("Add", bottoms[0], g.constant(values.reshape(1, *shape[1:])), hint=self.name),)


class _Outside(Loss):
    """A loss of how far values lie outside of a range: half of the mean square of the distance."""

    adds = geometry_pb2.LayerParameter
    num_bottoms = (1, 1)

    def mean_square(self, g: Graph, x: str, limit: float, count: int) -> str:
        """Emit Σ max(|x| - limit, 0)² / 2 count."""
        far = g.emit("Relu", g.emit("Sub", g.emit("Abs", x), g.constant(limit)))
        return g.emit("Div", total(g, g.emit("Mul", far, far)), g.constant(2 * count))


@layer("LocLoss", dialect="stn")
class LocLoss(_Outside):
    """y = Σ max(|x| - threshold, 0)² / 2 count. (daerduoCarey/SpatialTransformerLayer, loc_loss_layer.cu)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.added.loc_loss_param.threshold > 0 or not math.prod(bottoms[0]):
            raise self.error(f"expected a threshold above 0 and a bottom of values, found shape {bottoms[0]}")
        return ((),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        count = math.prod(g.shape(bottoms[0]))
        flat = g.reshape(bottoms[0], count)
        return (self.mean_square(g, flat, self.added.loc_loss_param.threshold, count),)


@layer("STLoss", dialect="stn")
class STLoss(_Outside):
    """y = Σ max(|θ · (v, u, 1)| - 1, 0)² / 2 count over the places that θ [N, 6] leads to, outside of the image.

    (daerduoCarey/SpatialTransformerLayer, st_loss_layer.cu)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.st_loss_param
        if len(bottoms[0]) < 2 or math.prod(bottoms[0][1:]) != 6 or min(p.output_H, p.output_W) < 1:
            raise self.error(f"expected θ (N, 6), output_H and output_W, found a bottom of shape {bottoms[0]}")
        return ((),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, n = self.added.st_loss_param, g.shape(bottoms[0])[0]
        theta = g.reshape(bottoms[0], n, 2, 3)
        places = g.emit("MatMul", theta, g.constant(_grid(p.output_H, p.output_W)))
        return (self.mean_square(g, places, 1, n * p.output_H * p.output_W),)


def _grid(rows: int, columns: int) -> np.ndarray:
    """Return v, u and 1 of each place [3, rows · columns], from -1 on in steps of 2 / size."""
    v, u = np.indices((rows, columns), np.float32)
    return np.stack([v / rows * 2 - 1, u / columns * 2 - 1, np.ones_like(v)]).reshape(3, -1)


@layer("ImResize", dialect="rtpose")
class ImResize(Layer):
    """y = mean over the items of x in another size, by cubic interpolation of each item's inner part: [1, C, H', W'].

    Item n is cut by (1 - start_scale + n · scale_gap) / 2 of its size on each side; the size is factor times the
    bottom's, or as written. No gradient.
    (CMU-Perceptual-Computing-Lab/caffe_rtpose, src/caffe/cpm/layers/imresize_layer.cu)
    """

    adds = geometry_pb2.LayerParameter

    def size(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of the top."""
        p = self.added.imresize_param
        if p.factor:
            return int(np.float32(shape[2]) * np.float32(p.factor)), int(np.float32(shape[3]) * np.float32(p.factor))
        return p.target_spatial_height, p.target_spatial_width

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = check_images(self, bottoms[0])
        size = self.size(shape)
        if min(size) < 1:
            raise self.error(f"expected a positive height and width of the top, found {size}")
        for axis in (2, 3):
            if not all(0 <= 2 * self.cut(shape[axis], item) < shape[axis] for item in range(shape[0])):
                raise self.error(f"start_scale and scale_gap leave no element of a bottom of shape {shape}")
        return ((1, shape[1], *size),)

    def cut(self, length: int, item: int) -> int:
        """Return how many elements of an item are cut off on each side of an axis."""
        p = self.added.imresize_param
        share = np.float32(1) - np.float32(p.start_scale) + np.float32(item) * np.float32(p.scale_gap)
        return math.floor(np.float32(length // 2) * share)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        high, wide = (
            np.stack([_cubic(length, self.cut(length, item), out) for item in range(shape[0])])[:, None]
            for length, out in zip(shape[2:], self.size(shape), strict=True)
        )

        def forward(x: str) -> Sequence[str]:
            rows = g.emit("MatMul", g.constant(high), x)
            images = g.emit("MatMul", rows, g.constant(np.ascontiguousarray(wide.swapaxes(2, 3))))
            return (g.emit("ReduceMean", images, g.ints(0), keepdims=1),)

        return without_gradient(g, bottoms, forward)


def _cubic(length: int, cut: int, out: int) -> np.ndarray:
    """Return the weights [out, length] of the four elements around each of `out` places of the inner part."""
    inner = length - 2 * cut
    ratio = np.float32(inner) / np.float32(out)
    offset = np.float32(out) / np.float32(inner) / np.float32(2) - np.float32(0.5)
    at = (np.arange(out, dtype=np.float32) - offset) * ratio
    second = np.maximum(np.trunc(at + 1e-5).astype(int), 0)
    third = np.minimum(second + 1, inner - 1)
    taps = np.maximum(second - 1, 0), second, third, np.minimum(third + 1, inner - 1)
    d = at - second
    weights = (
        -0.5 * d**3 + d**2 - 0.5 * d,
        1.5 * d**3 - 2.5 * d**2 + 1,
        -1.5 * d**3 + 2 * d**2 + 0.5 * d,
        0.5 * d**3 - 0.5 * d**2,
    )
    matrix = np.zeros((out, length))
    for tap, weight in zip(taps, weights, strict=True):
        np.add.at(matrix, (np.arange(out), tap + cut), weight)
    return matrix.astype(np.float32)
