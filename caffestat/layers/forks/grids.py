"""Layers that pool features over grids, and that pick regions for them, of several forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.schema.forks import rcnn_pb2

from ..base import Layer, Shape, layer
from ..data import Python
from .flow import check_images
from .rois import PSROIPooling, bilinear, bins

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["GRIDPooling", "PSROIAlign", "PlainZFDataLayer"]


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
        (top,) = self.tops([g.shape(bottom) for bottom in bottoms])
        count, channels, rows, columns = top
        picked = g.declare(g.emit("Gather", self.rows(g, bottoms[0]), index, axis=0), (*g.shape(index), channels))
        fixed = g.emit("Mul", g.detach(picked), g.emit("Sub", g.constant(1), learns))
        sums = g.emit(
            "MatMul",
            g.reshape(weights, count * rows * columns, 1, -1),
            g.emit("Add", g.emit("Mul", picked, learns), fixed),
        )
        tiles = g.reshape(g.declare(sums, (count * rows * columns, 1, channels)), count, rows, columns, channels)
        return (g.transpose(tiles, 0, 3, 1, 2),)


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

    num_tops = (1, 2)  # type: ignore[assignment]  # other Python layers may have any number

    def written_shape(self, index: int) -> Shape | None:
        return ((2, 3, 600, 735), (2, 40))[index]
