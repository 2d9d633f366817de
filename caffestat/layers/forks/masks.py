"""Mask R-CNN's Python layers: masks and keypoints as targets, and proposals over the levels of a pyramid."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from caffestat.lazy import np

from ..base import Shape, layer
from .proposals import (
    AnchorTargetLayer,
    ProposalLayer,
    ProposalTargetLayer,
    RoIDataLayer,
    anchors,
    random_truth,
)

__all__ = [
    "AnchorTargetLayerOfPyramids",
    "KeypointTargetLayer",
    "LevelledProposalLayer",
    "MaskTargetLayer",
    "PyramidMaskTargetLayer",
    "PyramidProposalLayer",
    "RoIDataOfKeypoints",
    "RoIDataOfMasks",
    "RoIDataOfMasksAndImages",
]

MASK, KEYPOINTS = 28, 17  # MASK_SIZE, KEYPOINTS_MASK_SIZE and KEYPOINTS_SIZE of lib/fast_rcnn/config.py
SIZE = (640, 1024)  # SCALES and MAX_SIZE
LEVELS = 4  # of the pyramid that regions are spread over: strides 4 to 32
CUBIC = -0.75  # the slope of OpenCV's cubic interpolation


# ---- data ------------------------------------------------------------------------------------------------------------


class _Data(RoIDataLayer):
    """RoIDataLayer with another top behind its true boxes."""

    further: ClassVar[tuple[Shape, ...]]

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return True

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the tops."""
        return ((1, 3, *SIZE), (1, 3), (1, 5), *self.further)

    def written_shape(self, index: int) -> Shape | None:
        return self.shapes()[index]


@layer(
    "roi_data_layer.layer_mask_only.RoIDataLayer",
    "roi_data_layer.layer_cityscape_mask_only.RoIDataLayer",
    dialect="mask-rcnn",
)
class RoIDataOfMasks(_Data):
    """An image, its size (height, width, scale), its true boxes and their masks of the image's size.

    Tops of the sizes of fast_rcnn/config.py; the reference's boxes are (1, 4) and its masks (1, 28, 28) until the first
    batch. (dengshuo/py-mask-rcnn, lib/roi_data_layer/layer_mask_only.py)
    """

    num_tops = (4, 4)
    further = ((1, *SIZE),)


@layer("roi_data_layer.layer_mask_only_debug.RoIDataLayer", dialect="mask-rcnn")
class RoIDataOfMasksAndImages(RoIDataOfMasks):
    """RoIDataLayer with masks, and the image once more as its second top.

    (dengshuo/py-mask-rcnn, lib/roi_data_layer/layer_mask_only_debug.py)
    """

    num_tops = (5, 5)

    def shapes(self) -> tuple[Shape, ...]:
        image, *rest = super().shapes()
        return (image, image, *rest)


@layer("roi_data_layer.layer_keypoints_only.RoIDataLayer", dialect="mask-rcnn")
class RoIDataOfKeypoints(_Data):
    """An image, its size, its true boxes, and x, y and visibility of 17 points of each.

    (dengshuo/py-mask-rcnn, lib/roi_data_layer/layer_keypoints_only.py)
    """

    num_tops = (4, 4)
    further = ((1, 3 * KEYPOINTS),)


# ---- anchors and proposals -------------------------------------------------------------------------------------------


@layer("fpn_rpn.anchor_target_layer.AnchorTargetLayer", dialect="mask-rcnn")
class AnchorTargetLayerOfPyramids(AnchorTargetLayer):
    """AnchorTargetLayer whose anchors start from a square of feat_stride.

    (dengshuo/py-mask-rcnn, lib/fpn_rpn/anchor_target_layer.py)
    """

    def anchors(self) -> np.ndarray:
        s = self.settings
        return anchors(self.stride(), s["ratios"], s["scales"])


@layer("fpn_rpn.fpn_proposal_layer.ProposalLayer", dialect="mask-rcnn")
class PyramidProposalLayer(ProposalLayer):
    """The best boxes of several maps together, as ProposalLayer finds those of one.

    Bottoms: image [1, 3], deltas of each level, scores of each level, strides 4, 8, …; feat_stride names those that
    count. Anchors start from a square of the stride, at stride 32 with scales 8 and 16.
    (dengshuo/py-mask-rcnn, lib/fpn_rpn/fpn_proposal_layer.py)
    """

    num_bottoms = (3, None)
    coarse_scales: ClassVar[Sequence[int] | None] = (8, 16)

    def bottom_kinds(self) -> tuple[str, ...]:
        return ("image",)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return np.array([[*SIZE, 1]], np.float32).reshape(bottoms[0]) if bottom == 0 and bottoms[0] == (1, 3) else None

    def strides(self) -> list[int]:
        """Return the strides of the levels that count."""
        found = re.search(r"feat_stride['\"]?\s*:\s*['\"]?\[?([\d, ]+)", self.proto.python_param.param_str)
        strides = [int(word) for word in (found[1] if found else "").split(",") if word.strip()]
        known = [4 << level for level in range((len(self.proto.bottom) - 1) // 2)]
        if not strides or not set(strides) <= set(known):
            raise self.error(f"expected feat_stride of {known}, one for each pair of maps, found {strides}")
        return strides

    def anchors_of(self, stride: int) -> np.ndarray:
        """Return the anchors at the first place of a level."""
        s = self.settings
        scales = self.coarse_scales if stride == 32 and self.coarse_scales else s["scales"]
        return anchors(stride, s["ratios"], scales)

    def maps(self, bottoms: Sequence[Any], stride: int) -> tuple[Any, Any]:
        """Return scores and deltas of a level, of all bottoms or their shapes."""
        levels = (len(bottoms) - 1) // 2
        at = (stride // 4).bit_length()
        return bottoms[at + levels], bottoms[at]

    def check(self, bottoms: Sequence[Shape]) -> None:
        for stride in self.strides():
            scores, deltas = self.maps(bottoms, stride)
            count = len(self.anchors_of(stride))
            if len(scores) != 4 or scores[:2] != (1, 2 * count) or deltas != (1, 4 * count, *scores[2:]):
                raise self.error(
                    f"expected scores (1, {2 * count}, H, W) and deltas (1, {4 * count}, H, W) at stride {stride}, "
                    f"found shapes {scores} and {deltas}"
                )

    def candidates(self, bottoms: Sequence[np.ndarray], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [self.moved(self.anchors_of(s), *self.maps(bottoms, s), s, image) for s in self.strides()]
        boxes, scores = zip(*found, strict=True)
        return np.concatenate(boxes), np.concatenate(scores)


@layer("fpn_rpn.fpn_proposal_layer_test.ProposalLayer", dialect="mask-rcnn")
class LevelledProposalLayer(PyramidProposalLayer):
    """The best boxes of several maps: tops for each of four levels by their sizes, then all in the order of the levels.

    Rows [0, x1, y1, x2, y2]. (dengshuo/py-mask-rcnn, lib/fpn_rpn/fpn_proposal_layer_test.py)
    """

    num_tops = (LEVELS + 1, LEVELS + 1)
    coarse_scales = None

    def top_layout(self) -> tuple[Shape, ...]:
        return ((1, 5),)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 5),) * (LEVELS + 1)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (rows,) = super().decide(bottoms, random)
        levels = by_level(rows, float(np.prod(bottoms[0].reshape(-1)[:2])))
        tops = filled([rows[index] for index in levels])
        return [*tops, np.concatenate(tops)]


def by_level(rows: np.ndarray, area: float) -> list[np.ndarray]:
    """Return the indices of the regions of each level: 224 pixels of a square image of 224 pixels are the third's.

    A region of √(w · h) belongs to 4 + log2(√(w · h) · √area / 224), rounded and within 2 to 5.
    """
    width, height = rows[:, 3] - rows[:, 1], rows[:, 4] - rows[:, 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.round(np.log2(np.sqrt(width * height) * np.sqrt(area) / 224))
    level = np.clip(np.nan_to_num(4 + level, nan=2, neginf=2, posinf=5), 2, 1 + LEVELS)
    return [np.flatnonzero(level == 2 + index) for index in range(LEVELS)]


def filled(levels: list[np.ndarray]) -> list[np.ndarray]:
    """Return the regions of the levels with one for each that has none, from the nearest that has several.

    Those between move up by one, so that the order of all stays.
    """
    levels = list(levels)
    for empty in range(len(levels)):
        if len(levels[empty]):
            continue
        near = [empty + step * reach for reach in range(1, len(levels)) for step in (-1, 1)]
        source = next((at for at in near if 0 <= at < len(levels) and len(levels[at]) > 1), None)
        if source is not None:
            _move(levels, empty, source)
    return levels


def _move(levels: list[np.ndarray], empty: int, source: int) -> None:
    """Give the empty level and those on the way one region each, from the source's near end."""
    step = 1 if source > empty else -1
    way = range(empty, source, step)
    rows = np.concatenate([levels[at][::step] for at in range(empty, source + step, step)])
    for place, at in enumerate(way):
        levels[at] = rows[place : place + 1]
    levels[source] = rows[len(way) :][::step]


# ---- targets ---------------------------------------------------------------------------------------------------------


@layer(
    "rpn.proposal_target_layer_mask_only.ProposalTargetLayer",
    "rpn.proposal_target_layer_mask_only_debug.ProposalTargetLayer",
    dialect="mask-rcnn",
)
class MaskTargetLayer(ProposalTargetLayer):
    """ProposalTargetLayer with the masks of the regions as a further top [n, num_classes - 1, 28, 28].

    Bottoms: regions, true boxes, masks of the image's size [G, H, W]. A region's mask is that of its true box, cut out
    and resized by OpenCV's cubic interpolation, at its label's channel; all else is -1, which no loss counts.
    (dengshuo/py-mask-rcnn, lib/rpn/proposal_target_layer_mask_only.py)
    """

    num_bottoms = (3, 5)
    num_tops = (6, 6)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return True

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[2]) != 3:
            raise self.error(f"expected masks of 3 axes (boxes, height, width), found shape {bottoms[2]}")
        return (*super().tops_at_setup(bottoms), (1, self.class_count() - 1, MASK, MASK))

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom == 2:
            return (random.random(bottoms[2]) < 0.5).astype(np.float32)
        return random_truth(bottoms[1][0], *SIZE, self.class_count(), random) if bottom == 1 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth = bottoms[1].reshape(-1, 5)
        rois = np.concatenate([bottoms[0].reshape(-1, 5), np.insert(truth[:, :4], 0, 0, 1)])
        rois, labels, nearest = self.sampled(rois, truth, random)
        order, regions = self.ordered(rois, bottoms)
        rois, labels, nearest = rois[order], labels[order], nearest[order]
        targets, weights = self.expanded(self.deltas(rois[:, 1:], truth[nearest, :4]), labels)
        found = self.found(rois, labels, truth[nearest, :4], bottoms[2][nearest])
        tops = *regions, labels, targets, weights, weights > 0, *found
        return [top.astype(np.float32) for top in tops]

    def ordered(self, rois: np.ndarray, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the order of the rows of all tops but the first ones, and these: the regions."""
        return np.arange(len(rois)), [rois]

    def found(self, rois: np.ndarray, labels: np.ndarray, boxes: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
        """Return the further tops, of regions, their labels, their true boxes and what is known of these."""
        made = np.full((len(rois), self.class_count() - 1, MASK, MASK), -1.0)
        for row, (roi, label, box, mask) in enumerate(zip(rois, labels, boxes, truth, strict=True)):
            whole, (x1, y1, x2, y2) = box.astype(int), np.round(roi[1:]).astype(int)
            part = mask[y1:y2, x1:x2]
            if label > 0 and (whole[2:] > whole[:2]).all() and (box >= 0).all() and part.size:
                made[row, int(label) - 1] = np.round(resized(part, MASK))
        return [made]


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Return a map of side x side, as cv2.resize with INTER_CUBIC makes it of floats."""
    rows, columns = (_cubic(size, side) for size in image.shape)
    return rows @ image @ columns.T


def _cubic(size: int, side: int) -> np.ndarray:
    """Return the weights [side, size] of cubic interpolation along an axis; the outermost values go on outside."""
    at = (np.arange(side) + 0.5) * size / side - 0.5
    whole = np.floor(at).astype(int)
    weights = np.zeros((side, size))
    for step in range(-1, 3):
        distance = np.abs(at - whole - step)
        near = (CUBIC + 2) * distance**3 - (CUBIC + 3) * distance**2 + 1
        far = CUBIC * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        np.add.at(weights, (np.arange(side), np.clip(whole + step, 0, size - 1)), np.where(distance <= 1, near, far))
    return weights


@layer("rpn.proposal_target_layer_keypoints_only.ProposalTargetLayer", dialect="mask-rcnn")
class KeypointTargetLayer(MaskTargetLayer):
    """ProposalTargetLayer with empty masks, all -1, and the places of 17 points in each person [n, 17].

    A person has label 1; a place is y · 28 + x of a grid of 28 x 28 over the region, -1 for points that cannot be seen
    or lie outside. Bottoms: regions, true boxes, points [G, 51].
    (dengshuo/py-mask-rcnn, lib/rpn/proposal_target_layer_keypoints_only.py)
    """

    num_bottoms = (3, 3)
    num_tops = (7, 7)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[2]) != 2 or bottoms[2][1] != 3 * KEYPOINTS:
            raise self.error(f"expected points (boxes, {3 * KEYPOINTS}), found shape {bottoms[2]}")
        tops = ProposalTargetLayer.tops_at_setup(self, bottoms)
        return (*tops, (1, self.class_count() - 1, MASK, MASK), (1, KEYPOINTS))

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 2:
            return super().stand_in(bottom, bottoms, random)
        x, y = (random.uniform(0, size, (bottoms[2][0], KEYPOINTS)) for size in SIZE[::-1])
        return np.stack([x, y, np.ones_like(x)], -1).reshape(bottoms[2]).astype(np.float32)

    def found(self, rois: np.ndarray, labels: np.ndarray, boxes: np.ndarray, truth: np.ndarray) -> list[np.ndarray]:
        points = truth.reshape(len(rois), KEYPOINTS, 3)
        low, high = rois[:, None, 1:3], rois[:, None, 3:]
        inside = (points[..., :2] > low) & (points[..., :2] < high)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.where(inside, (points[..., :2] - low) / (high - low), 0)
        cell = np.minimum(np.round(MASK * share), MASK - 1)
        counts = inside.all(-1) & (points[..., 2] > 0.01) & (labels[:, None] == 1)
        places = np.where(counts, cell[..., 1] * MASK + cell[..., 0], -1)
        return [np.full((len(rois), self.class_count() - 1, MASK, MASK), -1.0), places]


@layer(
    "fpn_rpn.fpn_proposal_target_layer_mask_only.ProposalTargetLayer",
    "fpn_rpn.fpn_proposal_target_layer_mask_only_debug.ProposalTargetLayer",
    dialect="mask-rcnn",
)
class PyramidMaskTargetLayer(MaskTargetLayer):
    """MaskTargetLayer with the regions of each of four levels as tops; the other tops are in the order of the levels.

    Bottoms: regions, true boxes, masks, and the data [N, C, H, W], whose N · C is taken for the area of the image, as
    in the reference. (dengshuo/py-mask-rcnn, lib/fpn_rpn/fpn_proposal_target_layer_mask_only.py)
    """

    num_bottoms = (4, 5)
    num_tops = (LEVELS + 5, LEVELS + 5)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        _, _, *targets, masks = super().tops_at_setup(bottoms)
        return (*[(1, 5)] * LEVELS, (4, 1), *[(4, *shape[1:]) for shape in (*targets, masks)])

    def ordered(self, rois: np.ndarray, bottoms: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        levels = by_level(rois, float(np.prod(bottoms[3].shape[:2])))
        return np.concatenate(levels), filled([rois[index] for index in levels])
