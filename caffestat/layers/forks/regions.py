"""Further layers for regions of interest: of videos, by one sample each, by their size, and of MaskYolo."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import regions_pb2

from ..base import Shape, layer, type_name
from ..data import Python
from .boxes import areas
from .rcnn import SmoothL1Loss
from .rois import _Picking, _Regions, _Sampled, bins, random_regions, rounded
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["OfVideos", "ROIAlignment", "ROIPoolingOfVideos", "RoIDataOfVideos", "ScaleRoute", "SmoothL1LossOfVideos"]

SIDE = 7  # R-C3D's regions are all of 7 x 7 elements


@layer("ROIAlignment", dialect="maskyolo")
class ROIAlignment(_Sampled):
    """y = x in the middle of each of pooled_h · pooled_w bins of a region, by bilinear interpolation.

    A bin's edges are cut to the features before its middle is taken. Of the four elements around a middle, only those
    in the region or up to 1 beside it have a gradient.
    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/roi_alignment_layer.cu)
    """

    adds = regions_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.roi_alignment_param

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, near, far = self.input_decisions(g)
        return (g.emit("Add", self.sums(g, bottoms, index, near), g.detach(self.sums(g, bottoms, index, far))),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, features = self.regions(bottoms[0]), self.decided_shapes[0]
        index, weights = self.places(rois, features)
        y, x = np.divmod(index % (features[2] * features[3]), features[3])
        widened = self.corners(rois) + np.array([-1, -1, 1, 1], np.float32)
        x1, y1, x2, y2 = widened.T[..., None, None]
        y, x = (place.reshape(len(rois), -1, 4) for place in (y, x))
        is_near = ((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).reshape(weights.shape)
        return index.astype(np.int64), *(np.where(kept, weights, 0).astype(np.float32) for kept in (is_near, ~is_near))

    def corners(self, rois: np.ndarray) -> np.ndarray:
        """Return x1, y1, x2, y2 of each region on the features."""
        return rois[:, 1:] * np.float32(self.settings.spatial_scale)

    def places(self, rois: np.ndarray, features: Shape) -> tuple[np.ndarray, np.ndarray]:
        n, _, height, width = features
        corners = self.corners(rois)
        rows, columns = self.pooled()
        y = self.middles(corners[:, 1], corners[:, 3], rows, height)
        x = self.middles(corners[:, 0], corners[:, 2], columns, width)
        y, x = np.broadcast_arrays(y[:, :, None], x[:, None, :])
        top, left = np.floor(y), np.floor(x)
        lines, across = (top, np.ceil(y)), (left, np.ceil(x))
        down, right = y - top, x - left
        first = self.items(rois, n)[:, None, None] * height
        index = [(first + line) * width + column for line in lines for column in across]
        weights = [a * b for a in (1 - down, down) for b in (1 - right, right)]
        count = len(rois) * rows * columns
        return np.stack(index, -1).reshape(count, 4), np.stack(weights, -1).reshape(count, 4)

    def middles(self, first: np.ndarray, last: np.ndarray, count: int, most: int) -> np.ndarray:
        """Return the middles [R, count] of bins of equal size on an axis."""
        step = (np.maximum(last - first + 1, 1) / np.float32(count))[:, None]
        edges = (np.arange(count + 1, dtype=np.float32) * step + first[:, None]).clip(0, most - 1)
        return (edges[:, :-1] + edges[:, 1:]) / np.float32(2)


@layer("SmoothL1Loss", dialect="r-c3d")
class SmoothL1LossOfVideos(SmoothL1Loss):
    """SmoothL1Loss of bottoms of any number of axes: two, or four with both weights.

    (VisionLearningGroup/R-C3D, caffe3d/src/caffe/layers/smooth_L1_loss_layer.cu)
    """

    num_tops = (1, 1)

    def check(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) == 3:
            raise self.error("expected both inside and outside weights, or neither; found one")
        if wrong := [shape for shape in bottoms if shape != bottoms[0]]:
            raise self.error(f"expected bottoms of one shape, found {bottoms[0]} and {wrong[0]}")


@layer("ROIPooling", dialect="r-c3d")
class ROIPoolingOfVideos(_Picking, _Regions):
    """y = max of x over pooled_l · pooled_h · pooled_w bins of a span [item, start, end] of a video [N, C, L, H, W].

    In space a region is always of the first 7 x 7 elements; an empty bin is 0. dx goes to the first largest element.
    (VisionLearningGroup/R-C3D, caffe3d/src/caffe/layers/roi_pooling_layer.cu)
    """

    adds = regions_pb2.LayerParameter

    def sizes(self) -> Shape:
        """Return the number of bins on each axis."""
        return self.settings.pooled_l, self.settings.pooled_h, self.settings.pooled_w

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, spans = bottoms
        if len(x) != 5 or spans[1:2] != (3,) or any(size != 1 for size in spans[2:]) or min(x) < 1:
            raise self.error(f"expected features (N, C, L, H, W) and spans (R, 3), found shapes {x} and {spans}")
        if min(self.sizes()) < 1:
            raise self.error(f"expected a positive size of the top, found {self.sizes()}")
        return ((spans[0], x[1], *self.sizes()),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 1:
            return None
        spans = np.zeros((bottoms[1][0], 3), np.float32)
        spans[:, 0] = random.integers(0, bottoms[0][0], len(spans))
        length = bottoms[0][2] / self.settings.temporal_scale
        spans[:, 1:] = np.sort(random.uniform(0, length - 1, (len(spans), 2)), axis=1)
        return spans.reshape(bottoms[1])

    def picked(self, bottoms: Sequence[np.ndarray]) -> np.ndarray:
        x, spans = bottoms[0], bottoms[1].reshape(-1, 3)
        n, channels, *sizes = x.shape
        start, end = rounded(spans[:, 1:] * np.float32(self.settings.temporal_scale)).T
        zeros, side = np.zeros_like(start), np.full_like(start, SIDE)
        firsts, lengths = (start, zeros, zeros), (np.maximum(end - start + 1, 1), side, side)
        edges = [bins(*axis) for axis in zip(firsts, lengths, self.sizes(), sizes, strict=True)]
        index = np.full((len(spans), channels, *self.sizes()), -1, np.int64)
        plane = np.arange(channels) * int(np.prod(sizes))
        for r, item in enumerate(self.items(spans, n)):
            for places in np.ndindex(*self.sizes()):
                ends = [(low[r, at], high[r, at]) for (low, high), at in zip(edges, places, strict=True)]
                parts: tuple[Any, ...] = (slice(None), *(slice(*pair) for pair in ends))
                window = x[item][parts]
                if window.size:
                    found = np.unravel_index(window.reshape(channels, -1).argmax(1), window.shape[1:])
                    inside = np.ravel_multi_index([at + pair[0] for at, pair in zip(found, ends, strict=True)], sizes)
                    target: tuple[Any, ...] = (slice(None), *places)
                    index[r][target] = item * x[0].size + plane + inside
        return index


@layer(
    "rpn.anchor_target_layer.AnchorTargetLayer",
    "rpn.proposal_layer.ProposalLayer",
    "rpn.proposal_target_layer.ProposalTargetLayer",
    dialect="r-c3d",
)
class OfVideos(Python):
    """What R-C3D's Python code makes of videos and spans: taken as data of given shapes.

    It has fewer bottoms, and its data layer fewer tops, than the code of this name for images has.
    (VisionLearningGroup/R-C3D, lib/rpn and lib/roi_data_layer)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        ends = {
            "RoIDataLayer": (0, 2),
            "AnchorTargetLayer": (3, 4),
            "ProposalLayer": (2, 1),
            "ProposalTargetLayer": (2, 5),
        }
        return (len(proto.bottom), len(proto.top)) == ends.get(type_name(proto).rpartition(".")[2])


@layer("roi_data_layer.layer.RoIDataLayer", dialect="r-c3d")
class RoIDataOfVideos(OfVideos):
    """A clip of the sizes of tdcnn/config.py, 512 frames of 112 x 112, and its true spans. Its database is not read.

    (VisionLearningGroup/R-C3D, lib/roi_data_layer/layer.py)
    """

    def written_shape(self, index: int) -> Shape | None:
        return ((1, 3, 512, 112, 112), (1, 3))[index]


@layer("ScaleRoute", dialect="cascade")
class ScaleRoute(Computed):
    """The regions [R, 5] of a scale (√ of the area) from low_scale to high_scale, and their rows of other bottoms.

    Without any the one whose scale is nearest to √(low_scale · high_scale), by its logarithm. No gradient.
    (zhaoweicai/cascade-rcnn, scale_route_layer.cpp)
    """

    adds = regions_pb2.LayerParameter
    num_bottoms = (1, None)
    num_tops = (1, None)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        full = [(*shape, 1, 1, 1)[: max(4, len(shape))] for shape in bottoms]
        if len(bottoms) != self.top_count or any(len(shape) > 4 or not shape for shape in bottoms):
            raise self.error(f"expected as many tops as bottoms, of up to 4 axes, found {self.top_count} and {bottoms}")
        if full[0][1] != 5 or any(shape[0] != full[0][0] for shape in full) or not full[0][0]:
            raise self.error(f"expected regions (R, 5) and R rows of others, found shapes {list(bottoms)}")
        self.middle()
        return tuple((1, *shape[1:]) for shape in full)

    def middle(self) -> tuple[float, float, float]:
        """Return the least and largest scale, and the one that is looked for without any between them."""
        p = self.added.scale_route_param
        low, high = p.low_scale if p.HasField("low_scale") else 0, p.high_scale if p.HasField("high_scale") else np.inf
        middle = (low * high) ** 0.5 if low and np.isfinite(high) else low or (high if np.isfinite(high) else 256)
        if not 0 <= low <= high or not middle > 0:
            raise self.error(f"expected scales above 0 and low_scale <= high_scale, found {low:g} and {high:g}")
        return low, high, middle

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        side = 4 * self.middle()[2]
        return random_regions(bottoms[0], 1, side, side, random) if bottom == 0 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        low, high, middle = self.middle()
        scales = np.sqrt(areas(bottoms[0].reshape(-1, 5)[:, 1:], 1))
        chosen = np.flatnonzero((scales >= np.float32(low)) & (scales < np.float32(high)))
        if not chosen.size:
            with np.errstate(divide="ignore"):
                chosen = abs(np.log2(scales / np.float32(middle))).argmin(keepdims=True)
        shapes = [(*rows.shape, 1, 1, 1)[:4] for rows in bottoms]
        return [rows.reshape(shape)[chosen] for rows, shape in zip(bottoms, shapes, strict=True)]
