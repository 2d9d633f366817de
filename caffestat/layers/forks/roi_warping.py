"""Regions of interest whose rows get a gradient too. (Dai et al. 2016)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np

from ..base import layer
from ..reread import emit_closed
from .rois import _Sampled, bilinear, partly_learned, rounded

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["ROIWarping"]


class _Axis:
    """The points of each region [R] along one axis of the features.

    at         the points [R, count], cut to the features
    is_inside  whether a point lies at most half a place outside of them
    share      the part of the region that lies before it, if the region were a place larger
    """

    def __init__(self, start: np.ndarray, end: np.ndarray, count: int, size: int) -> None:
        self.start, self.end, self.count = start, end, count
        number = np.arange(count, dtype=np.float32)
        free = start[:, None] + number * (np.maximum(end - start, 0) / np.float32(count))[:, None]
        self.is_inside = (free >= -0.5) & (free <= size - 0.5)
        self.at = free.clip(0, size - 1)
        self.step = np.maximum(end - start + 1, 1) / np.float32(count)
        self.share = (self.at - start[:, None]) / self.step[:, None] / np.float32(count)
        self.beyond = self.at - np.floor(self.at)
        self.has_next = np.floor(self.at) + 1 <= size - 1

    def reaches(self, place: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Tell whether the reference lets a place [R, …] learn from the points of these numbers."""
        start, end, step = (part.reshape(-1, *(1,) * (place.ndim - 1)) for part in (self.start, self.end, self.step))
        near = place.astype(np.float32) - start
        first, last = np.floor((near - 1) / step - 1), np.ceil((near + 1) / step)
        in_region = (near >= 0) & (place <= end)
        return np.asarray(in_region & (number >= first.clip(0, self.count)) & (number < last.clip(0, self.count)))


@layer("ROIWarping", dialect="mnc")
class ROIWarping(_Sampled):
    """y = x at pooled_h · pooled_w points of a region, from its rounded corner on, by bilinear interpolation.

    Points more than half a place outside of x are 0. dx goes to places within the region, and only from points near
    them. The rows get the gradient of points that move with the corners, each by its share of the region; none of a
    point without a place behind it, nor of one outside of x, for which the reference reads memory before the plane.
    (daijifeng001/caffe-mnc, roi_warping_layer.cu)
    """

    @property
    def settings(self) -> Any:
        return self.added.roi_warping_param

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, (n, _, height, width) = self.regions(bottoms[0]), self.decided_shapes[0]
        scale, (rows, columns) = np.float32(self.settings.spatial_scale), self.pooled()
        x1, y1, x2, y2 = rounded(rois[:, 1:].astype(np.float32) * scale).T
        down, across = _Axis(y1, y2, rows, height), _Axis(x1, x2, columns, width)
        grid = (len(rois), rows, columns)
        y, x = np.broadcast_to(down.at[:, :, None], grid), np.broadcast_to(across.at[:, None], grid)
        item = np.broadcast_to(self.items(rois, n)[:, None, None], grid)
        index, weights = bilinear(y, x, item, height, width)
        is_inside = (down.is_inside[:, :, None] & across.is_inside[:, None])[..., None]
        line, column = np.divmod(index % (height * width), width)
        learns = down.reaches(line, np.arange(rows)[:, None, None])
        learns &= across.reaches(column, np.arange(columns)[:, None])
        slopes = scale * _slopes(down, across) * is_inside[..., None]
        return (
            index.reshape(-1, 4).astype(np.int64),
            (weights * is_inside).reshape(-1, 1, 4).astype(np.float32),
            learns.reshape(-1, 4, 1).astype(np.float32),
            slopes.reshape(-1, 4, 4).astype(np.float32),
        )

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, weights, learns, slopes = self.input_decisions(g)
        read = self.read(g, bottoms[0], index)
        y = self.as_maps(g, g.emit("MatMul", weights, partly_learned(g, read, learns)), bottoms)
        count, channels, rows, columns = g.shape(y)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            of_points = tape.reshape(tape.transpose(dy, 0, 2, 3, 1), count * rows * columns, channels, 1)
            moved = tape.emit("MatMul", slopes, tape.emit("MatMul", read, of_points))
            corners = tape.emit("ReduceSum", tape.reshape(moved, count, rows * columns, 4), tape.ints(1), keepdims=0)
            row = tape.emit("Pad", corners, tape.ints(0, 1, 0, 0))
            return [dy, tape.reshape(row, *tape.shape(bottoms[1]))]

        return [emit_closed(g, [y, bottoms[1]], lambda value, _: value, gradient)]


def _slopes(down: _Axis, across: _Axis) -> np.ndarray:
    """Return how a point's value changes with x1, y1, x2 and y2 [R, rows, columns, 4] for each of its places [4]."""
    grid = (len(down.at), down.count, across.count)
    low, left = np.broadcast_to(down.beyond[:, :, None], grid), np.broadcast_to(across.beyond[:, None], grid)
    along_x = np.stack([low - 1, 1 - low, -low, low], -1)
    along_y = np.stack([left - 1, -left, 1 - left, left], -1)
    share_y, share_x = down.share[:, :, None, None], across.share[:, None, :, None]
    slopes = np.stack([(1 - share_x) * along_x, (1 - share_y) * along_y, share_x * along_x, share_y * along_y], -2)
    has_next = down.has_next[:, :, None] & across.has_next[:, None]
    return np.asarray(slopes * has_next[..., None, None])
