"""Layers that pool features over regions of interest: rows [item, x1, y1, x2, y2] in pixels of the image.

Which places of the features count is worked out in numpy from the rows; the graph gathers them, and the gradient goes
back there. Rows get none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import cascade_pb2, rcnn_pb2

from ..base import Layer, Shape, layer

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["DeformablePSROIPooling", "PSROIPooling", "ROIAlign", "ROIAlignGrid", "ROIAlignOfPoints", "ROIPooling"]


def rounded(x: np.ndarray) -> np.ndarray:
    """Return the nearest integers as C's round gives them: halves away from 0."""
    return np.trunc(x + np.copysign(np.float32(0.5), x))


class _Picking(Layer):
    """A layer each of whose top's elements is one of its first bottom's, or 0."""

    decides = True

    def picked(self, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        """Return, in the top's shape, the places of elements in bottom 0 made flat; -1 for 0."""
        raise NotImplementedError

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        index = self.picked(bottoms)
        return np.maximum(index, 0), (index >= 0).astype(np.float32)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, is_filled = self.input_decisions(g)
        return (g.emit("Mul", g.emit("Gather", g.reshape(bottoms[0], -1), index, axis=0), is_filled),)


class _Regions(Layer):
    """Bottoms: features [N, C, H, W] and regions [R, 5]; top [R, channels, pooled_h, pooled_w]."""

    num_bottoms = (2, 2)
    decides = True
    adds = rcnn_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.roi_pooling_param

    def pooled(self) -> tuple[int, int]:
        """Return height and width of the top."""
        return self.settings.pooled_h, self.settings.pooled_w

    def channels(self, bottoms: Sequence[Shape]) -> int:
        """Return the top's channels."""
        return bottoms[0][1]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, rois = bottoms[:2]
        if len(x) != 4 or len(rois) < 2 or math.prod(rois[1:]) not in ((4, 5) if self.is_forks else (5,)):
            raise self.error(f"expected features (N, C, H, W) and regions (R, 5), found shapes {x} and {rois}")
        if min(self.pooled()) < 1:
            raise self.error(f"expected a positive size of the top, found {self.pooled()}")
        return ((rois[0], self.channels(bottoms), *self.pooled()),)

    def departs(self, bottoms: Sequence[Shape]) -> str:
        is_short = len(bottoms[1]) > 1 and math.prod(bottoms[1][1:]) == 4
        return "regions have 4 numbers where Caffe's code reads 5; assumed to be boxes of image 0" if is_short else ""

    def regions(self, rois: np.ndarray) -> np.ndarray:
        """Return regions as rows of item and box, [R, 5]."""
        rows = rois.reshape(len(rois), -1)
        return rows if rows.shape[1] == 5 else np.insert(rows, 0, 0, 1)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 1:
            return None
        n, _, height, width = bottoms[0]
        scale = self.settings.spatial_scale
        return random_regions(bottoms[1], n, height / scale, width / scale, random)

    def items(self, rois: np.ndarray, n: int) -> np.ndarray:
        """Return the item of each region. Raises NetError when the batch has no such."""
        items = rois[:, 0].astype(int)
        if items.size and not 0 <= items.min() <= items.max() < n:
            raise self.error(f"expected regions of items 0 to {n - 1}, found item {items.min()} or {items.max()}")
        return items


def random_regions(shape: Shape, items: int, height: float, width: float, random: np.random.Generator) -> np.ndarray:
    """Return plausible regions of that shape: boxes of a tenth to a half of the image's size."""
    rois = np.zeros((shape[0], 5), np.float32)
    rois[:, 0] = random.integers(0, items, len(rois))
    rois[:, 1:] = random_boxes(len(rois), height, width, random)
    return rois[:, 5 - math.prod(shape[1:]) :].reshape(shape)


def random_boxes(count: int, height: float, width: float, random: np.random.Generator) -> np.ndarray:
    """Return boxes [count, 4] of a tenth to a half of the image's size."""
    image = np.array([width, height])
    size = random.uniform(0.1, 0.5, (count, 2)) * image
    corner = random.uniform(0, 1, (count, 2)) * (image - size)
    return np.concatenate([corner, corner + size - 1], 1).astype(np.float32)


def bins(start: np.ndarray, size: np.ndarray, count: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first and last (exclusive) place [R, count] of bins of equal size from `start` on, cut to 0 to most."""
    step = (size / np.float32(count))[:, None]
    number = np.arange(count, dtype=np.float32)
    first, last = np.floor(number * step), np.ceil((number + 1) * step)
    low, high = (np.nan_to_num(edge + start[:, None]).clip(0, most).astype(int) for edge in (first, last))
    return low, high


@layer("ROIPooling", dialect="rcnn")
class ROIPooling(_Picking, _Regions):
    """y = max of x over each of pooled_h · pooled_w bins of a region, whose corners are rounded to the features.

    dx goes to the first largest element; an empty bin is 0. pad_ratio of its size is added to each side of a region
    (zhaoweicai's forks). (rbgirshick/caffe-fast-rcnn, roi_pooling_layer.cpp)
    """

    def corners(self, rois: np.ndarray) -> np.ndarray:
        """Return the regions' corners [R, 4] on the features."""
        return rounded(padded(rois, self.settings.pad_ratio) * np.float32(self.settings.spatial_scale))

    def picked(self, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        x, rois = bottoms[0], self.regions(bottoms[1])
        n, channels, height, width = x.shape
        (x1, y1, x2, y2), (rows, columns) = self.corners(rois).T, self.pooled()
        tall, wide = (np.maximum(last - first + 1, 1) for first, last in ((y1, y2), (x1, x2)))
        top, bottom = bins(y1, tall, rows, height)
        left, right = bins(x1, wide, columns, width)
        index = np.full((len(rois), channels, rows, columns), -1, np.int64)
        plane = np.arange(channels) * (height * width)
        for r, item in enumerate(self.items(rois, n)):
            for row, column in np.ndindex(rows, columns):
                window = x[item, :, top[r, row] : bottom[r, row], left[r, column] : right[r, column]]
                if window.size:
                    y, z = np.divmod(window.reshape(channels, -1).argmax(1), window.shape[2])
                    place = (y + top[r, row]) * width + z + left[r, column]
                    index[r, :, row, column] = item * channels * height * width + plane + place
        return index


def padded(rois: np.ndarray, ratio: float) -> np.ndarray:
    """Return the regions' boxes [R, 4] with a margin of a share of their size."""
    size = (rois[:, 3:5] - rois[:, 1:3] + 1) * np.float32(ratio)
    return np.concatenate([rois[:, 1:3] - size, rois[:, 3:5] + size], 1)


class _Sampled(_Regions):
    """Pooling that is a weighted sum of features at places that the regions alone decide.

    `decide` returns places [R · bins, K] in the rows that `rows` makes of the features, and their weights.
    """

    decisive = slice(1, 2)

    def rows(self, g: Graph, x: str) -> str:
        """Emit the features as [places, channels]."""
        n, channels, height, width = g.shape(x)
        return g.reshape(g.declare(g.transpose(x, 0, 2, 3, 1), (n, height, width, channels)), -1, channels)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (self.sums(g, bottoms, *self.input_decisions(g)),)

    def sums(self, g: Graph, bottoms: Sequence[str], index: str, weights: str) -> str:
        """Emit the top: features at the places, times their weights."""
        read = self.read(g, bottoms[0], index)
        return self.as_maps(g, g.emit("MatMul", g.reshape(weights, g.shape(index)[0], 1, -1), read), bottoms)

    def read(self, g: Graph, x: str, index: str) -> str:
        """Emit the features at the places [R · bins, K], with their channels as last axis."""
        shape = *g.shape(index), self.channels([g.shape(x)])
        return g.declare(g.emit("Gather", self.rows(g, x), index, axis=0), shape)

    def as_maps(self, g: Graph, bins: str, bottoms: Sequence[str]) -> str:
        """Emit the top of what its bins hold, [R · bins, 1, C] or [R · bins, C]."""
        (top,) = self.tops([g.shape(bottom) for bottom in bottoms])
        count, channels, rows, columns = top
        return g.declare(g.transpose(g.reshape(bins, count, rows, columns, channels), 0, 3, 1, 2), top)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (rois,) = bottoms
        index, weights = self.places(self.regions(rois), self.decided_shapes[0])
        return index.astype(np.int64), weights.astype(np.float32)

    def places(self, rois: np.ndarray, features: Shape) -> tuple[np.ndarray, np.ndarray]:
        """Return the places [R · bins, K] and their weights."""
        raise NotImplementedError


def partly_learned(g: Graph, x: str, learns: str) -> str:
    """Emit x, through which a gradient goes where `learns` is 1, not 0."""
    fixed = g.emit("Mul", g.detach(x), g.emit("Sub", g.constant(1), learns))
    return g.emit("Add", g.emit("Mul", x, learns), fixed)


def bilinear(y: np.ndarray, x: np.ndarray, item: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the four places around each point and their weights, [..., 4]; points are cut to the features."""
    y, x = y.clip(0, height - 1), x.clip(0, width - 1)
    top, left = np.floor(y), np.floor(x)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = y - top, x - left
    index = [(item * height + row) * width + column for row in (top, bottom) for column in (left, right)]
    weights = [a * b for a in (1 - down, down) for b in (1 - across, across)]
    return np.stack(index, -1).astype(np.int64), np.stack(weights, -1)


@layer("ROIAlign", dialect="cascade")
class ROIAlignGrid(_Sampled):
    """y = x at the corners of pooled_h · pooled_w bins of a region, by bilinear interpolation; 0 outside of x.

    Top [R, C, pooled_h + 1, pooled_w + 1]. (zhaoweicai/cascade-rcnn, roi_align_layer.cu)
    """

    adds = cascade_pb2.LayerParameter

    def pooled(self) -> tuple[int, int]:
        return self.settings.pooled_h + 1, self.settings.pooled_w + 1

    def places(self, rois: np.ndarray, features: Shape) -> tuple[np.ndarray, np.ndarray]:
        n, _, height, width = features
        scale, half = np.float32(self.settings.spatial_scale), np.float32(0.5)
        x1, y1, x2, y2 = (padded(rois, self.settings.pad_ratio) * scale - half).T
        rows, columns = self.pooled()
        y = y1[:, None] + np.arange(rows, dtype=np.float32) * ((y2 - y1) / np.float32(rows - 1))[:, None]
        x = x1[:, None] + np.arange(columns, dtype=np.float32) * ((x2 - x1) / np.float32(columns - 1))[:, None]
        y, x = np.broadcast_arrays(y[:, :, None], x[:, None, :])
        inside = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
        inside &= ((x2 > x1) & (y2 > y1))[:, None, None]
        index, weights = bilinear(y, x, self.items(rois, n)[:, None, None], height, width)
        return index.reshape(-1, 4), (weights * inside[..., None]).reshape(-1, 4)


@layer("ROIAlign", dialect="mask-rcnn")
class ROIAlignOfPoints(_Sampled):
    """y = the largest of x at 4 points of each of pooled_h · pooled_w bins of a region, or x at its centre.

    is_multi_interpolate: the 4 points, at quarters of the bin. bi_type: 0 bilinear, 1 cubic of slope -1; the bilinear
    weights are 0 on the last line and column. dx goes to the first of the largest points.
    (dengshuo/py-mask-rcnn, caffe-fast-rcnn/src/caffe/layers/roi_align_layer.cu)
    """

    adds = rcnn_pb2.MaskRcnnLayerParameter

    def points(self) -> list[tuple[float, float]]:
        """Return where x is read within a bin, (y, x) in sizes of it."""
        at = (0.25, 0.75) if self.settings.is_multi_interpolate else (0.5,)
        return [(y, x) for y in at for x in at]

    def places(self, rois: np.ndarray, features: Shape) -> tuple[np.ndarray, np.ndarray]:
        n, _, height, width = features
        y, x = (self.centers(rois, side, size) for side, size in ((1, height), (0, width)))
        y, x = np.broadcast_arrays(y[:, :, None], x[:, None])
        around = _cubic_points if self.settings.bi_type == 1 else _linear_points
        (rows, down), (columns, across) = around(y, height), around(x, width)
        item = self.items(rois, n).reshape(-1, 1, 1, 1, 1, 1) * height * width
        index = item + rows[..., :, None] * width + columns[..., None, :]
        weights = down[..., :, None] * across[..., None, :]
        whole = math.prod(index.shape[:4])
        return index.reshape(whole, -1), weights.reshape(whole, -1)

    def centers(self, rois: np.ndarray, side: int, size: int) -> np.ndarray:
        """Return the places [R, bins, points] of the points along an axis (x: 0, y: 1) of that size."""
        scale, one = np.float32(self.settings.spatial_scale), np.float32(1)
        boxes = padded(rois, self.settings.pad_ratio) * scale
        whole = np.floor(np.float32(size) / scale + np.float32(0.5))
        low, high = np.maximum(boxes[:, side], 0), np.minimum(boxes[:, side + 2], whole - 1)
        count = self.pooled()[1 - side]
        step = np.maximum(high - low + one, one) / np.float32(count)
        within = np.array([point[1 - side] for point in self.points()], np.float32)
        at = (np.arange(count, dtype=np.float32)[:, None] + within) * step[:, None, None]
        return (at + low[:, None, None]).clip(0, size - 1)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, weights = self.input_decisions(g)
        ((count, channels, rows, columns),) = self.tops([g.shape(bottom) for bottom in bottoms])
        points = len(self.points())
        whole, each = count * rows * columns, g.shape(index)[1]
        picked = g.declare(g.emit("Gather", self.rows(g, bottoms[0]), index, axis=0), (whole * points, each, channels))
        sums = g.declare(g.emit("MatMul", g.reshape(weights, -1, 1, each), picked), (whole * points, 1, channels))
        values = g.reshape(sums, whole, points, channels)
        first = g.emit("ArgMax", values, axis=1, keepdims=1)
        is_first = g.cast(g.emit("Equal", first, g.constant(np.arange(points).reshape(1, -1, 1), np.int64)), np.float32)
        largest = g.emit("ReduceSum", g.emit("Mul", values, is_first), g.ints(1), keepdims=0)
        bins = g.reshape(g.declare(largest, (whole, channels)), count, rows, columns, channels)
        return (g.transpose(bins, 0, 3, 1, 2),)


def _linear_points(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two places around each and their weights, both 0 on the last place."""
    first = np.floor(at)
    last = np.minimum(first + 1, size - 1)
    return np.stack([first, last], -1).astype(np.int64), np.stack([last - at, at - first], -1)


def _cubic_points(at: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the four places around each, within the size, and their weights."""
    steps = np.arange(-1, 3)
    first = np.floor(at)[..., None]
    distance = np.abs(at[..., None] - first - steps)
    near = 1 - 2 * distance**2 + distance**3
    far = 4 - 8 * distance + 5 * distance**2 - distance**3
    places = (first + steps).clip(0, size - 1).astype(np.int64)
    return places, np.where(distance < 1, near, np.where(distance < 2, far, 0))


@layer("ROIAlign", dialect="maskrcnn")
class ROIAlign(_Sampled):
    """y = the largest of four sums over the first four elements in each of pooled_h · pooled_w bins of a region.

    The sums weigh elements by their distance to four points of the region, in halves of its size: not by those of the
    bin as in the paper (He et al. 2017). Elements one line or column behind the features count too: those that follow
    in memory, 0 behind the last. Gradients go to elements within the region.
    (jasjeetIM/Mask-RCNN, external/caffe/src/caffe/layers/roi_align_layer.cu)
    """

    POINTS = ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))  # x, y

    @property
    def settings(self) -> Any:
        return self.added.roi_align_param

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, (n, _, height, width) = self.regions(bottoms[0]), self.decided_shapes[0]
        x1, y1, x2, y2 = (rois[:, 1:] * np.float32(self.settings.spatial_scale)).T
        rows, columns = self.pooled()
        high, wide = self.ranges(y1, y2, rows, height), self.ranges(x1, x2, columns, width)
        (top, tall, no_height), (left, broad, no_width) = (
            (part[:, :, None] for part in high),
            (part[:, None] for part in wide),
        )
        k = np.arange(4)
        line, column = (
            np.broadcast_to(part, (len(rois), rows, columns, 4))
            for part in (
                top[..., None] + k // np.maximum(broad, 1)[..., None],
                left[..., None] + k % np.maximum(broad, 1)[..., None],
            )
        )
        is_there = k < (tall * broad)[..., None]
        weights = self.weights(line, column, (x1, y1, x2, y2)) * is_there[..., None, :]
        y, x = np.divmod(line * width + column, width)  # where the element really stands
        first, last = np.ceil([x1, y1])[..., None, None, None], np.floor([x2, y2])[..., None, None, None]
        learns = is_there & (y < height) & (x >= first[0]) & (x <= last[0]) & (y >= first[1]) & (y <= last[1])
        place = self.items(rois, n)[:, None, None, None] * self.length(height, width) + line * width + column
        least = np.where(no_height | no_width, 0, np.finfo(np.float32).min)
        count = len(rois) * rows * columns
        return (
            np.where(is_there, place, 0).reshape(count, 4).astype(np.int64),
            weights.reshape(count, 4, 4).astype(np.float32),
            learns.reshape(count, 4, 1).astype(np.float32),
            np.broadcast_to(least, (len(rois), rows, columns)).reshape(count, 1).astype(np.float32),
        )

    @staticmethod
    def length(height: int, width: int) -> int:
        """Return how many elements of a plane and behind it may be read."""
        return height * width + width + 1

    def ranges(self, start: np.ndarray, end: np.ndarray, count: int, most: int) -> tuple[np.ndarray, ...]:
        """Return the first element of each bin on an axis, how many it has, and whether it is empty: [R, count]."""
        step = (np.maximum(end - start + 1, 1) / np.float32(count))[:, None]
        edges = (np.arange(count + 1, dtype=np.float32) * step + start[:, None]).clip(0, most)
        first = np.ceil(edges[:, :-1])
        number = np.floor(edges[:, 1:]) - first + 1
        return first.astype(int), np.maximum(number, 0).astype(int), edges[:, 1:] <= edges[:, :-1]

    def weights(self, line: np.ndarray, column: np.ndarray, corners: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weights [R, rows, columns, points, elements] of elements at each of the points."""
        x1, y1, x2, y2 = (corner[:, None, None, None] for corner in corners)
        factors = []
        for at, low, high, axis in ((column, x1, x2, 0), (line, y1, y2, 1)):
            with np.errstate(divide="ignore", invalid="ignore"):
                relative = np.nan_to_num((2 * (at - low) / (high - low) - 1).clip(-1, 1), nan=-1)
            point = np.array(self.POINTS)[:, axis, None]
            factors.append(np.maximum(0, 1 - abs(point - relative[..., None, :])))
        return np.asarray(factors[0] * factors[1])

    def rows(self, g: Graph, x: str) -> str:
        """Emit the features, and behind each plane what follows in memory, as [places, channels]."""
        n, channels, height, width = g.shape(x)
        planes, more = g.reshape(x, n * channels, height * width), width + 1
        ends = g.emit("Slice", planes, g.ints(1, 0), g.ints(n * channels, more), g.ints(0, 1))
        missing = more - min(more, height * width)
        behind = g.emit("Pad", ends, g.ints(0, 0, 1, missing), g.constant(0))
        length = self.length(height, width)
        whole = g.declare(g.emit("Concat", planes, behind, axis=1), (n * channels, length))
        return g.reshape(
            g.declare(g.transpose(g.reshape(whole, n, channels, length), 0, 2, 1), (n, length, channels)), -1, channels
        )

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, weights, learns, least = self.input_decisions(g)
        sums = g.emit("MatMul", weights, partly_learned(g, self.read(g, bottoms[0], index), learns))
        largest = g.emit("Max", g.emit("ReduceMax", sums, g.ints(1), keepdims=0), least)
        return (self.as_maps(g, largest, bottoms),)


class _PositionSensitive(_Regions):
    """Pooling in which each bin reads channels of its own: channel (d · group + row) · group + column for output d."""

    @property
    def settings(self) -> Any:
        return self.added.psroi_pooling_param

    def pooled(self) -> tuple[int, int]:
        return (self.settings.group_size,) * 2

    def channels(self, bottoms: Sequence[Shape]) -> int:
        p, channels = self.settings, bottoms[0][1]
        if p.output_dim < 1 or channels != p.output_dim * p.group_size**2:
            expected = f"output_dim · group_size² = {p.output_dim * p.group_size**2}"
            raise self.error(f"expected {expected} channels, found {channels}")
        return int(p.output_dim)

    def rows(self, g: Graph, x: str) -> str:
        """Emit the features as [item · group² · H · W, output_dim]."""
        n, _, height, width = g.shape(x)
        out, group = self.settings.output_dim, self.settings.group_size
        split = g.reshape(x, n, out, group * group, height * width)
        return g.reshape(g.declare(g.transpose(split, 0, 2, 3, 1), (n, group**2, height * width, out)), -1, out)


@layer("PSROIPooling", dialect="rcnn")
class PSROIPooling(_PositionSensitive, _Sampled):
    """y = mean of x over each of group_size² bins of a region, each of output_dim channels of its own.

    (daijifeng001/caffe-rfcn, psroi_pooling_layer.cu)
    """

    def places(self, rois: np.ndarray, features: Shape) -> tuple[np.ndarray, np.ndarray]:
        n, _, height, width = features
        group, scale = self.settings.group_size, np.float32(self.settings.spatial_scale)
        start, end = rounded(rois[:, 1:3]) * scale, (rounded(rois[:, 3:5]) + 1) * scale
        size = np.maximum(end - start, np.float32(0.1))
        left, right = self.edges(start[:, 0], size[:, 0], group, width)
        top, bottom = self.edges(start[:, 1], size[:, 1], group, height)
        tall, wide = int((bottom - top).max(initial=1)), int((right - left).max(initial=1))
        shape = (len(rois), group, group, tall, wide)
        y = top[:, :, None, None, None] + np.arange(tall)[:, None]
        x = left[:, None, :, None, None] + np.arange(wide)
        counts = (y < bottom[:, :, None, None, None]) & (x < right[:, None, :, None, None])
        area = np.maximum((bottom - top)[:, :, None] * (right - left)[:, None, :], 1)
        item = self.items(rois, n)[:, None, None, None, None] * group**2
        channel = item + (np.arange(group)[:, None] * group + np.arange(group))[:, :, None, None]
        index = (channel * height + y.clip(0, height - 1)) * width + x.clip(0, width - 1)
        weights = counts / area[..., None, None]
        count = len(rois) * group**2
        return np.broadcast_to(index, shape).reshape(count, -1), np.broadcast_to(weights, shape).reshape(count, -1)

    def edges(self, start: np.ndarray, size: np.ndarray, count: int, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Return first and last (exclusive) place [R, count] of the bins on an axis; bins may overlap by one."""
        step = (size / np.float32(count))[:, None]
        number = np.arange(count, dtype=np.float32)
        first, last = np.floor(number * step + start[:, None]), np.ceil((number + 1) * step + start[:, None])
        return first.clip(0, most).astype(int), last.clip(0, most).astype(int)


@layer("DeformablePSROIPooling", dialect="rcnn")
class DeformablePSROIPooling(_PositionSensitive):
    """y = mean of x at sample_per_part² points of each bin, shifted by trans_std · t · size, by bilinear interpolation.

    t is bottom 2 [R, 2 · classes, part_size, part_size], unless no_trans; gradients go to x and t.
    (makefile/frcnn, deformable_psroi_pooling_layer.cu)
    """

    num_bottoms = (2, 3)
    decides = False

    @property
    def settings(self) -> Any:
        return self.added.deformable_psroi_pooling_param

    def pooled(self) -> tuple[int, int]:
        return (self.settings.pooled_size or self.settings.group_size,) * 2

    @property
    def parts(self) -> int:
        """How many parts a region has on each axis."""
        return int(self.settings.part_size or self.pooled()[0])

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        tops = super().tops(bottoms)
        if len(bottoms) == 3 and not self.settings.no_trans:
            shape, parts = bottoms[2], self.parts
            classes = shape[1] // 2 if len(shape) == 4 else 0
            if shape != (bottoms[1][0], 2 * classes, parts, parts) or self.settings.output_dim % max(classes, 1):
                raise self.error(f"expected shifts of shape (R, 2 · classes, {parts}, {parts}), found {shape}")
        return tops

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shifts = self.shifts(g, bottoms)
        rows, out = self.rows(g, bottoms[0]), self.settings.output_dim
        if len(shifts) == 1:
            return (self.sampled(g, bottoms, rows, shifts[0], out),)
        parts = g.emit_many("Split", rows, g.ints(*[out // len(shifts)] * len(shifts)), count=len(shifts), axis=1)
        of_class = [
            self.sampled(g, bottoms, part, shift, out // len(shifts)) for part, shift in zip(parts, shifts, strict=True)
        ]
        return (g.emit("Concat", *of_class, axis=1),)

    def shifts(self, g: Graph, bottoms: Sequence[str]) -> list[str | None]:
        """Emit the shifts of each class's bins, [R, 2, pooled, pooled] in sizes of the region; None for none."""
        if len(bottoms) < 3 or self.settings.no_trans:
            return [None]
        count, channels, _, _ = g.shape(bottoms[2])
        (pooled, _), parts = self.pooled(), self.parts
        of_bin = g.ints(*(int(np.floor(np.float32(bin) / pooled * parts)) for bin in range(pooled)))
        scaled = g.emit("Mul", bottoms[2], g.constant(self.settings.trans_std))
        picked = g.emit("Gather", g.emit("Gather", scaled, of_bin, axis=2), of_bin, axis=3)
        g.declare(picked, (count, channels, pooled, pooled))
        if channels == 2:
            return [picked]
        return list(g.emit_many("Split", picked, g.ints(*[2] * (channels // 2)), count=channels // 2, axis=1))

    def sampled(self, g: Graph, bottoms: Sequence[str], rows: str, shift: str | None, out: int) -> str:
        """Emit the pooled values of some of the outputs; `rows` has their features."""
        count, (pooled, _) = g.shape(bottoms[1])[0], self.pooled()
        height, width = g.shape(bottoms[0])[2:]
        y, x = (self.points(g, bottoms[1], axis, shift) for axis in (1, 0))  # [R, pooled, pooled, samples²]
        lies = [self.between(g, place, -0.5, size - 0.5) for place, size in ((y, height), (x, width))]
        inside = g.cast(g.emit("And", *lies), np.float32)
        y, x = (g.emit("Clip", place, g.constant(0), g.constant(size - 1)) for place, size in ((y, height), (x, width)))
        row = self.first_row(g, bottoms[1], height)  # [R, pooled, pooled, 1]
        total = None
        for index, weight in corners(g, y, x, row, (height, width)):
            picked = g.emit("Gather", rows, index, axis=0)  # [R, pooled, pooled, samples², out]
            part = g.emit("Mul", picked, g.emit("Unsqueeze", g.emit("Mul", weight, inside), g.ints(-1)))
            total = part if total is None else g.emit("Add", total, part)
        assert total is not None
        number = g.emit("Max", g.emit("ReduceSum", inside, g.ints(3), keepdims=1), g.constant(1))
        mean = g.emit("Div", g.emit("ReduceSum", total, g.ints(3), keepdims=0), number)
        top = g.transpose(g.declare(mean, (count, pooled, pooled, out)), 0, 3, 1, 2)
        return g.declare(top, (count, out, pooled, pooled))

    @staticmethod
    def between(g: Graph, value: str, low: float, high: float) -> str:
        """Emit whether low ≤ value ≤ high."""
        ends = (g.emit("GreaterOrEqual", value, g.constant(low)), g.emit("LessOrEqual", value, g.constant(high)))
        return g.emit("And", *ends)

    def points(self, g: Graph, rois: str, axis: int, shift: str | None) -> str:
        """Emit where the samples lie on an axis (0: across, 1: down)."""
        p, (pooled, _), samples = self.settings, self.pooled(), self.settings.sample_per_part
        regions = g.detach(g.reshape(rois, -1, 5))
        edges = [g.emit("Slice", regions, g.ints(i + axis), g.ints(i + axis + 1), g.ints(1)) for i in (1, 3)]
        whole = [_rounded(g, edge) for edge in edges]
        start = g.emit("Mul", whole[0], g.constant(p.spatial_scale))
        end = g.emit("Mul", g.emit("Add", whole[1], g.constant(1)), g.constant(p.spatial_scale))
        size = g.emit("Max", g.emit("Sub", end, start), g.constant(0.1))
        steps = np.arange(pooled)[:, None, None] / pooled, np.arange(samples) / (samples * pooled)
        inner = steps[1][:, None] if axis else steps[1][None, :]
        offset = (steps[0] + np.broadcast_to(inner, (samples, samples))).reshape(pooled, -1)
        offset = offset[None, :, None] if axis else offset[None, None]
        first = g.emit("Sub", g.reshape(start, -1, 1, 1, 1), g.constant(0.5))
        moved = g.constant(offset)
        if shift:
            of_axis = g.emit("Slice", shift, g.ints(axis), g.ints(axis + 1), g.ints(1))
            moved = g.emit("Add", moved, g.emit("Unsqueeze", g.emit("Squeeze", of_axis, g.ints(1)), g.ints(-1)))
        place = g.emit("Add", first, g.emit("Mul", moved, g.reshape(size, -1, 1, 1, 1)))
        shape = (g.shape(rois)[0], pooled, pooled, samples**2)
        return g.declare(g.emit("Expand", place, g.ints(*shape)), shape)

    def first_row(self, g: Graph, rois: str, height: int) -> str:
        """Emit the line of the features at which those of each bin begin: [R, pooled, pooled, 1]."""
        group, (pooled, _) = self.settings.group_size, self.pooled()
        item = g.emit("Slice", g.detach(g.reshape(rois, -1, 5)), g.ints(0), g.ints(1), g.ints(1))
        of_bin = (np.arange(pooled) * group // pooled).clip(0, group - 1)
        part = g.constant((of_bin[:, None] * group + of_bin)[None, :, :, None])
        whole = g.emit("Add", g.emit("Mul", g.reshape(item, -1, 1, 1, 1), g.constant(group**2)), part)
        return g.emit("Mul", whole, g.constant(height))


def _rounded(g: Graph, x: str) -> str:
    """Emit C's round: halves away from 0."""
    return g.emit("Mul", g.emit("Sign", x), g.emit("Floor", g.emit("Add", g.emit("Abs", x), g.constant(0.5))))


def corners(g: Graph, y: str, x: str, row: str, size: tuple[int, int], ahead: bool = False) -> list[tuple[str, str]]:
    """Emit index and weight of the four places around each point of lines of a width; `row` is the first line.

    y and x lie within the size (height, width). ahead: at a whole number the slope is that towards the next place.
    """
    found = []
    low = [g.emit("Floor", g.detach(place)) for place in (y, x)]
    if ahead:
        next_ = [
            g.emit("Min", g.emit("Add", at, g.constant(1)), g.constant(most - 1))
            for at, most in zip(low, size, strict=True)
        ]
    else:
        next_ = [g.emit("Ceil", g.detach(place)) for place in (y, x)]
    down, across = (g.emit("Sub", place, at) for place, at in zip((y, x), low, strict=True))
    one = g.constant(1)
    for line, a in ((low[0], g.emit("Sub", one, down)), (next_[0], down)):
        for column, b in ((low[1], g.emit("Sub", one, across)), (next_[1], across)):
            place = g.emit("Add", g.emit("Mul", g.emit("Add", row, line), g.constant(size[1])), column)
            found.append((g.cast(place, np.int64), g.emit("Mul", a, b)))
    return found
