"""Layers that pool features over grids, and that pick regions for them, of several forks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import rcnn_pb2

from ..base import Layer, Shape, layer
from ..data import Python
from .flow import check_images
from .proposals import image_rows
from .rois import PSROIPooling, _Picking, bilinear, bins, partly_learned, random_boxes, rounded

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["GRIDPooling", "PSROIAlign", "PlainZFDataLayer", "RotateCornersPooling", "RotateROIPooling"]


@layer("PSROIAlign", dialect="psroialign")
class PSROIAlign(PSROIPooling):
    """y = mean of x at sample_num² points of each of group_size² bins of a region, each bin of channels of its own.

    Points divide a bin evenly, from its start cut to the features on, and are read by bilinear interpolation; those
    behind its end, which is cut too, count as 0. Gradients go to places within the bin alone.
    (afantideng/R-FCN-PSROIAlign, psroi_align_layer.cu)
    """

    @property
    def settings(self) -> Any:
        return self.added.psroi_align_param

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, (n, _, height, width) = self.regions(bottoms[0]), self.decided_shapes[0]
        group, scale = self.settings.group_size, np.float32(self.settings.spatial_scale)
        ends = [(rois[:, low] * scale, (rois[:, high] + 1) * scale) for low, high in ((2, 4), (1, 3))]
        y, x = (self.points(*pair, size) for pair, size in zip(ends, (height, width), strict=True))
        counts = self.grid(y[1], x[1]).all(-1, keepdims=True)
        item = self.items(rois, n)[:, None, None, None, None] * group**2
        channel = item + (np.arange(group)[:, None] * group + np.arange(group))[:, :, None, None]
        places = self.grid(y[0], x[0])
        index, weights = bilinear(places[..., 0], places[..., 1], channel, height, width)
        line, column = index // width % height, index % width
        learns = self.within(line, y[2], y[3], 0) & self.within(column, x[2], x[3], 1)
        shape = (len(rois) * group**2, -1)
        weights = weights * counts / self.settings.sample_num**2
        return (
            index.reshape(shape),
            weights.reshape(shape).astype(np.float32),
            learns.reshape(*shape, 1).astype(np.float32),
        )

    def points(self, start: np.ndarray, end: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
        """Return, of an axis, points [R, group, samples], whether they count, and the bins' first and last place."""
        p = self.settings
        step = (np.maximum(end - start, np.float32(0.1)) / np.float32(p.group_size))[:, None]
        edges = np.arange(p.group_size + 1, dtype=np.float32) * step + start[:, None]
        first, last = edges[:, :-1].clip(0, size - 1), edges[:, 1:].clip(0, size - 1)
        number = np.arange(1, p.sample_num + 1, dtype=np.float32)
        points = first[..., None] + number * (step / np.float32(p.sample_num + 1))[..., None]
        low, high = np.floor(edges[:, :-1]).clip(0, size), np.ceil(edges[:, 1:]).clip(0, size)
        return points, (points < last[..., None]) & (last > first)[..., None], low, high

    @staticmethod
    def grid(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the pairs [R, group, group, samples, samples, 2] of what stands on two axes."""
        return np.stack(np.broadcast_arrays(y[:, :, None, :, None], x[:, None, :, None, :]), -1)

    @staticmethod
    def within(place: np.ndarray, low: np.ndarray, high: np.ndarray, axis: int) -> np.ndarray:
        """Tell which places lie from low to high of their bin on an axis (0: down, 1: across)."""
        low, high = (edge[:, :, None] if axis == 0 else edge[:, None] for edge in (low, high))
        is_within: np.ndarray = (place >= low[..., None, None, None]) & (place < high[..., None, None, None])
        return is_within

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, weights, learns = self.input_decisions(g)
        read = partly_learned(g, self.read(g, bottoms[0], index), learns)
        sums = g.emit("MatMul", g.reshape(weights, g.shape(index)[0], 1, -1), read)
        return (self.as_maps(g, sums, bottoms),)


@layer("GRIDPooling", dialect="face-attributes")
class GRIDPooling(Layer):
    """y = max of x over each of pooled_h · pooled_w bins, from the floor of their start to the ceiling of their end.

    dx goes to the first largest element. (JiajianZeng/caffe-face-attributes, grid_pooling_layer.cu)
    """

    adds = rcnn_pb2.LayerParameter

    def size(self) -> tuple[int, int]:
        """Return height and width of the top."""
        p = self.added.grid_pooling_param
        if not p.pooled_h or not p.pooled_w:
            raise self.error(f"expected a positive pooled_h and pooled_w, found {p.pooled_h} and {p.pooled_w}")
        return p.pooled_h, p.pooled_w

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((*check_images(self, bottoms[0])[:2], *self.size()),)

    def windows(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """Return the places [bins, K] of each bin on a plane, its first one again at the end, and which are its own."""
        edges = [
            bins(np.zeros(1, np.float32), np.array([length], np.float32), count, length)
            for length, count in zip(shape[2:], self.size(), strict=True)
        ]
        lists = [
            [y * shape[3] + x for y in range(top, bottom) for x in range(left, right)]
            for top, bottom in zip(*(edge[0] for edge in edges[0]), strict=True)
            for left, right in zip(*(edge[0] for edge in edges[1]), strict=True)
        ]
        most = max(map(len, lists))
        places = [row + row[:1] * (most - len(row)) for row in lists]
        return np.array(places), np.array([len(row) for row in lists])[:, None] > np.arange(most)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        places, is_real = self.windows(shape)
        n, c, (rows, columns) = *shape[:2], self.size()
        planes = g.reshape(bottoms[0], n * c, shape[2] * shape[3])
        picked = g.emit("Gather", g.detach(planes), g.constant(places, np.int64), axis=1)
        low = g.emit("Where", g.constant(is_real, np.bool_), picked, g.constant(np.finfo(np.float32).min))
        best = g.emit("ArgMax", low, axis=2, keepdims=1)
        wide = g.constant(np.broadcast_to(places, (n * c, *places.shape)), np.int64)
        index = g.reshape(g.declare(g.emit("GatherElements", wide, best, axis=2), (n * c, len(places), 1)), n * c, -1)
        y = g.declare(g.emit("GatherElements", planes, index, axis=1), (n * c, len(places)))
        return (g.reshape(y, n, c, rows, columns),)


@layer("plain_zf_data_layer.layer.PlainZFDataLayer", dialect="face-attributes")
class PlainZFDataLayer(Python):
    """Two images of 600 x 735, the sizes of fast_rcnn/config.py, and 40 attributes of each.

    Its database is not read. (JiajianZeng/caffe-face-attributes, lib/plain_zf_data_layer/layer.py)
    """

    num_tops = (1, 2)

    def written_shape(self, index: int) -> Shape | None:
        return ((2, 3, 600, 735), (2, 40))[index]


class _Turned(_Picking):
    """y = max of x and 0 over each of pooled_h · pooled_w bins of a turned region; dx goes to the largest element.

    Bottoms: features [N, C, H, W], regions [R, 6], and more.
    """

    adds = rcnn_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.rotate_pooling_param

    def region(self, boxes: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Return regions without their item [R, 5], of corners [R, 4] and angles in degrees [R]."""
        return np.concatenate([boxes, angle[:, None]], 1)

    def places(self, roi: np.ndarray, at: tuple[int, int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the lines and columns of features of that size that a bin of a region covers."""
        raise NotImplementedError

    def seen(self, bottoms: Sequence[np.ndarray]) -> Sequence[int]:
        """Return height and width of the part of the features that counts."""
        return bottoms[0].shape[2:]

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom == 0:
            return None
        n, _, height, width = bottoms[0]
        high, wide = (size / self.settings.spatial_scale for size in (height, width))
        if bottom == 2:
            return image_rows(bottoms[2], high, wide)
        boxes = random_boxes(bottoms[1][0], high, wide, random)
        rows = self.region(boxes, random.uniform(-45, 135, len(boxes)))
        return np.insert(rows, 0, random.integers(0, n, len(rows)), 1).astype(np.float32).reshape(bottoms[1])

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, rois = self.settings, bottoms[1]
        if len(rois) < 2 or math.prod(rois[1:]) != 6 or any(math.prod(shape) < 2 for shape in bottoms[2:]):
            raise self.error(f"expected regions (R, 6) and images (1, 3), found shapes {bottoms[1:]}")
        if not p.pooled_h or not p.pooled_w:
            raise self.error(f"expected a positive pooled_h and pooled_w, found {p.pooled_h} and {p.pooled_w}")
        return ((rois[0], check_images(self, bottoms[0])[1], p.pooled_h, p.pooled_w),)

    def picked(self, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        p, x, rois = self.settings, bottoms[0], bottoms[1].reshape(len(bottoms[1]), 6)
        n, channels, height, width = x.shape
        size = self.seen(bottoms)
        index = np.full((len(rois), channels, p.pooled_h, p.pooled_w), -1, np.int64)
        for r, (item, *roi) in enumerate(rois):
            if not 0 <= item < n:
                raise self.error(f"expected regions of items 0 to {n - 1}, found item {item:g}")
            planes = (int(item) * channels + np.arange(channels)) * height * width
            for row, column in np.ndindex(p.pooled_h, p.pooled_w):
                y, z = self.places(np.array(roi), (row, column), size)
                if len(y):
                    values = x[int(item)][:, y, z]
                    best = values.argmax(1)
                    index[r, :, row, column] = np.where(values.max(1) > 0, planes + y[best] * width + z[best], -1)
        return index


@layer("RotateROIPooling", dialect="rrpn")
class RotateROIPooling(_Turned):
    """y = max of x and 0 over each of pooled_h · pooled_w bins of a turned region; dx goes to the largest element.

    Bottoms: features [N, C, H, W], regions [R, 6] of item, center x and y, height, width and angle in degrees, and the
    image [1, 3], whose size cuts the bins. (mjq11302010044/RRPN, rotate_roi_pooling_layer.cu)
    """

    num_bottoms = (3, 3)

    def region(self, boxes: np.ndarray, angle: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = boxes.T
        return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, y2 - y1, x2 - x1, angle], 1)

    def seen(self, bottoms: Sequence[np.ndarray]) -> Sequence[int]:
        scale = np.float32(self.settings.spatial_scale)
        sizes = zip(bottoms[2].flat, bottoms[0].shape[2:], strict=False)
        return [min(int(length * scale), most) for length, most in sizes]

    def places(self, roi: np.ndarray, at: tuple[int, int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        p = self.settings
        scale = np.float32(p.spatial_scale)
        return turned_bin(roi * np.array([scale, scale, scale, scale, 1]), at, (p.pooled_h, p.pooled_w), size)


@layer("RotateROIPooling", dialect="crpn")
class RotateCornersPooling(_Turned):
    """y = max of x and 0 over each of pooled_h · pooled_w bins of a box, turned about its center.

    Regions [R, 6] of item, corners and angle in degrees; a bin's places are turned and rounded. dx goes to the largest
    element. (xhzdeng/crpn, rotate_roi_pooling_layer.cu)
    """

    adds = rcnn_pb2.CrpnLayerParameter
    num_bottoms = (2, 2)

    @property
    def settings(self) -> Any:
        return self.added.rotate_roi_pooling_param

    def places(self, roi: np.ndarray, at: tuple[int, int], size: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        p = self.settings
        corners = rounded(roi[:4].astype(np.float32) * np.float32(p.spatial_scale)).astype(int)
        first, sides = corners[:2], np.maximum(corners[2:] - corners[:2] + 1, 1)
        middle = np.trunc(first + sides * 0.5).astype(int)
        counts = np.array([p.pooled_w, p.pooled_h])
        place = np.array(at[::-1], np.float32)
        step = sides.astype(np.float32) / counts.astype(np.float32)
        low, high = np.floor(place * step).astype(int) + first, np.ceil((place + 1) * step).astype(int) + first
        y, x = np.mgrid[low[1] : high[1], low[0] : high[0]] - middle[::-1, None, None]
        cosine, sine = math.cos(roi[4] / 180 * math.pi), math.sin(roi[4] / 180 * math.pi)
        column = rounded(x * cosine + y * sine).astype(int) + middle[0]
        line = rounded(y * cosine - x * sine).astype(int) + middle[1]
        inside = (line >= 0) & (line < size[0]) & (column >= 0) & (column < size[1])
        return line[inside], column[inside]


def turned_bin(
    box: np.ndarray, at: tuple[int, int], pooled: tuple[int, int], size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lines and columns of an image of that size that lie within a bin of a turned box.

    box: center x and y, height, width and angle, on the features
    """
    x, y, high, wide, angle = box
    cosine, sine = math.cos(angle / 180 * math.pi), math.sin(angle / 180 * math.pi)
    across = np.array([cosine, -sine]) * wide / pooled[1]  # a bin's sides, as steps of x and y
    down = np.array([sine, cosine]) * high / pooled[0]
    first = np.array([x, y]) + across * (at[1] - pooled[1] / 2) + down * (at[0] - pooled[0] / 2)
    corners = rounded(first + np.array([[0, 0], across, down, across + down]))
    low = np.maximum(corners.min(0), 0).astype(int)
    high_end = np.minimum(corners.max(0), np.array(size[::-1]) - 1).astype(int)
    line, column = np.mgrid[low[1] : high_end[1] + 1, low[0] : high_end[0] + 1]
    away = np.stack([column.ravel(), line.ravel()], 1) - first
    inside = np.ones(len(away), bool)
    for side in (across, down):
        inside &= (away @ side >= 0) & (away @ side < side @ side)
    return line.ravel()[inside], column.ravel()[inside]
