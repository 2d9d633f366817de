"""Layer types of Cascade R-CNN and MS-CNN. (zhaoweicai/cascade-rcnn)"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from caffestat.float32 import rounded
from caffestat.lazy import np
from caffestat.schema.forks import cascade_pb2

from ..base import TRAIN, Layer, Shape, layer
from .boxes import overlaps, suppress
from .rois import random_boxes
from .staged import Computed

__all__ = ["BboxAccuracy", "BoxGroupOutput", "DecodeBBox", "ProposalTarget", "Regression"]

IGNORED_OVERLAP = 0.975  # a region that overlaps its true box more is that box


class Regression(Layer):
    """A layer that reads the deltas of boxes, whose means and deviations bbox_reg_param states."""

    adds = cascade_pb2.LayerParameter

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and deviation of the four deltas."""
        p = self.added.bbox_reg_param
        if not p.bbox_mean or not p.bbox_std:
            return np.zeros(4, np.float32), np.ones(4, np.float32)
        if len(p.bbox_mean) != 4 or len(p.bbox_std) != 4 or min(p.bbox_std) <= 0:
            raise self.error("expected four values of bbox_mean and four positive ones of bbox_std in bbox_reg_param")
        return np.array(p.bbox_mean, np.float32), np.array(p.bbox_std, np.float32)

    def decoded(self, deltas: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes [R, 4] that deltas relative to boxes describe. (bbox_util.cpp, DecodeBBoxesWithPrior)"""
        mean, deviation = self.statistics()
        deltas = deltas * deviation + mean
        size = boxes[:, 2:] - boxes[:, :2] + 1
        center = deltas[:, :2] * size + (boxes[:, :2] + boxes[:, 2:]) / 2
        with np.errstate(over="ignore"):
            half = (np.exp(deltas[:, 2:]) * size - 1) / 2
        return np.concatenate([center - half, center + half], 1)


@layer("DecodeBBox", dialect="cascade")
class DecodeBBox(Computed, Regression):
    """The regions moved by the deltas of class 1: [R, 8, …] and [R, 5] give [n, 5].

    In TRAIN those that end before they begin are left out and, with true boxes as third bottom, which only TRAIN has,
    those that overlap theirs by gt_iou_thr. (zhaoweicai/cascade-rcnn, decode_bbox_layer.cpp)
    """

    num_bottoms = (2, 3)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        deltas, rois = bottoms[:2]
        if deltas[1:2] != (8,) or rois[1:2] != (5,) or deltas[0] != rois[0]:
            raise self.error(f"expected deltas (R, 8) and regions (R, 5), found shapes {deltas} and {rois}")
        if len(bottoms) == 3 and self.phase != TRAIN:
            raise self.error("the true boxes, its third bottom, stand in phase TRAIN only; remove them")
        self.statistics()
        return (rois,)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        deltas, rois = (bottom.reshape(len(bottom), -1) for bottom in bottoms[:2])
        boxes = self.decoded(deltas[:, 4:8], rois[:, 1:])
        kept: Any = np.ones(len(boxes), bool)
        if self.phase == TRAIN:
            kept = (boxes[:, 2:] >= boxes[:, :2]).all(1)
            if len(bottoms) == 3:
                least = np.float32(self.added.decode_bbox_param.gt_iou_thr)
                kept &= bottoms[2].reshape(len(boxes), -1)[:, -1] < least
        if not kept.any():
            raise self.error("no box is left after filtering; the reference fails here too")
        rows = np.concatenate([rois[:, :1], boxes], 1)[kept].astype(np.float32)
        return (rows.reshape(-1, 5, 1, 1),)


@layer("BboxAccuracy", dialect="cascade")
class BboxAccuracy(Computed, Regression):
    """Mean overlap of moved regions with their true boxes and, as second top, of the regions themselves; -1 for none.

    Bottoms: deltas [R, 4 · classes], regions [R, 5], true boxes [R, 6] of label, box and overlap.
    (zhaoweicai/cascade-rcnn, bbox_accuracy_layer.cpp)
    """

    num_bottoms = (3, 3)
    num_tops = (1, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len({shape[:1] for shape in bottoms}) > 1:
            raise self.error(f"expected bottoms of one first axis, found shapes {bottoms}")
        self.statistics()
        return ((1, 1, 1, 1),) * self.top_count

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        deltas, rois, truth = (bottom.reshape(len(bottom), -1) for bottom in bottoms)
        at = np.flatnonzero((truth[:, 0] > 0) & (truth[:, -1] <= np.float32(IGNORED_OVERLAP)))
        label = truth[at, 0].astype(int)
        label = label if self.added.bbox_reg_param.cls_aware else np.minimum(label, 1)
        own = deltas[at[:, None], label[:, None] * 4 + np.arange(4)]
        means = [_mean_overlap(boxes, truth[at, 1:5]) for boxes in (self.decoded(own, rois[at, 1:]), rois[at, 1:])]
        return [np.full((1, 1, 1, 1), mean, np.float32) for mean in means[: self.top_count]]


def _mean_overlap(boxes: np.ndarray, truth: np.ndarray) -> float:
    return float(np.diagonal(overlaps(boxes, truth, 1)).mean()) if len(boxes) else -1.0


@layer("BoxGroupOutput", dialect="cascade")
class BoxGroupOutput(Computed, Regression):
    """Proposals [n, 5] (and with scores [n, 6]) out of maps of probabilities and deltas, after suppression.

    Bottoms in pairs: probabilities [N · fields, classes, H, W] and deltas [N · fields, 4, H, W], one field of
    box_group_param after the other. One box (1, 1, 10, 10) where none is left.
    (zhaoweicai/cascade-rcnn, box_group_output_layer.cpp)
    """

    num_bottoms = (2, None)
    num_tops = (1, 2)

    @property
    def settings(self) -> Any:
        return self.added.box_group_output_param

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        groups = self.settings.box_group_param
        if len(bottoms) != 2 * len(groups):
            raise self.error(f"expected two bottoms per box_group_param ({len(groups)}), found {len(bottoms)}")
        for group, score, deltas in zip(groups, bottoms[::2], bottoms[1::2], strict=True):
            count = len(group.field_w)
            if len(group.field_h) != count or not count or score[0] % count or deltas != (score[0], 4, *score[2:]):
                raise self.error(
                    f"expected probabilities (N · {count}, classes, H, W) and deltas (N · {count}, 4, H, W), "
                    f"found shapes {score} and {deltas}"
                )
        return ((1, 5, 1, 1), (1, 6, 1, 1))[: self.top_count]

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        items = len(bottoms[0]) // len(self.settings.box_group_param[0].field_w)
        rows = []
        for item in range(items):
            boxes, scores = self.kept(*self.candidates(bottoms, item))
            rows += [(item, *box, score) for box, score in zip(boxes, scores, strict=True)]
        found = np.array(rows or [(0, 1, 1, 10, 10, 0)], np.float32)
        with_scores = found if rows else np.zeros((1, 6), np.float32)
        return [part[:, :, None, None] for part in (found[:, :5], with_scores)[: self.top_count]]

    def candidates(self, bottoms: Sequence[np.ndarray], item: int) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes and scores of an image that are likely and large enough."""
        p, parts = self.settings, []
        for group, probabilities, deltas in zip(p.box_group_param, bottoms[::2], bottoms[1::2], strict=True):
            count = len(group.field_w)
            for index in range(count):
                place = item * count + index
                boxes = self.placed(deltas[place], group, index)
                score = 1 - probabilities[place, 0].ravel()
                size = np.array(probabilities.shape[:1:-1]) * group.stride
                boxes = np.concatenate([np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], size)], 1)
                large = (boxes[:, 2:] - boxes[:, :2] + 1 >= p.min_size).all(1)
                kept = large & (score >= np.float32(p.fg_thr))
                parts.append((boxes[kept], score[kept]))
        boxes, scores = (np.concatenate(each) for each in zip(*parts, strict=True))
        return boxes.astype(np.float32), scores

    def placed(self, deltas: np.ndarray, group: Any, index: int) -> np.ndarray:
        """Return the boxes of a field's map, bounded. (bbox_util.cpp, DecodeGroupBBoxes)"""
        p, (mean, deviation) = self.settings, self.statistics()
        bounded = deltas.reshape(4, -1).T * deviation + mean
        shift, growth = 1 / p.field_xyr, math.log(p.field_whr)
        bounded = np.clip(bounded, [-shift, -shift, -growth, -growth], [shift, shift, growth, growth])
        field = np.array([group.field_w[index], group.field_h[index]])
        y, x = np.indices(deltas.shape[1:]).reshape(2, -1)
        center = bounded[:, :2] * field + (np.stack([x, y], 1) + 0.5) * group.stride
        size = field * np.exp(bounded[:, 2:])
        return np.concatenate([center - size / 2, center + size / 2 - 1], 1)

    def kept(self, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what suppression leaves."""
        p = self.settings
        order = np.argsort(-scores, kind="stable")[: p.max_nms_num or None]
        left = list(suppress(boxes, order, p.iou_thr, extra=1))[: p.max_post_nms_num or None]
        return boxes[left], scores[left]


@layer("ProposalTarget", dialect="cascade")
class ProposalTarget(Computed, Regression):
    """Some of the regions, objects first, with labels, deltas towards their true boxes, weights, and those boxes.

    Bottoms: regions [R, 5], true boxes [G, 7 or 8] of item, box, label, ignored; tops: [n, 5], [n, 1], three of
    [n, 4 · classes], [n, 6], and weights [n, 1]. Drawn at random, from other numbers than the reference draws.
    (zhaoweicai/cascade-rcnn, proposal_target_layer.cpp)
    """

    num_bottoms = (2, 2)
    num_tops = (6, 7)

    @property
    def settings(self) -> Any:
        return self.added.proposal_target_param

    @property
    def width(self) -> int:
        """How many deltas a region has."""
        return 4 * int(self.settings.cls_num) if self.added.bbox_reg_param.cls_aware else 8

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        p, shape = self.settings, bottoms[bottom]
        if bottom == 0:
            return None
        truth = np.zeros((shape[0], math.prod(shape[1:])), np.float32)
        truth[:, 1:5] = random_boxes(len(truth), p.img_height or 224, p.img_width or 224, random)
        truth[:, 5] = random.integers(1, max(p.cls_num, 2), len(truth))
        return truth

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if bottoms[0][1:2] != (5,) or math.prod(bottoms[1][1:]) < 7:
            raise self.error(f"expected regions (R, 5) and true boxes (G, 7 or 8), found {bottoms[0]} and {bottoms[1]}")
        self.statistics()
        self.check_settings()
        count = self.settings.batch_size if self.settings.batch_size > 0 else max(bottoms[0][0], 1)
        widths = (5, 1, self.width, self.width, self.width, 6, 1)
        return tuple((count, width, 1, 1) for width in widths[: self.top_count])

    def check_settings(self) -> None:
        """Raise NetError for what the reference refuses, at set-up or with the first batch."""
        p = self.settings
        if p.batch_size < 1 and p.batch_size != -1:
            raise self.error(f"batch_size is {p.batch_size}; expected at least 1, or -1 for all regions")
        if p.fg_thr < p.bg_thr_hg:
            raise self.error(f"fg_thr, {p.fg_thr:g}, is below bg_thr_hg, {p.bg_thr_hg:g}; expected at least as much")

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, truth = (bottom.reshape(len(bottom), -1) for bottom in bottoms)
        truth = truth[truth[:, 0] >= 0]
        if self.settings.append_gtbox:
            rois = np.concatenate([rois, truth[:, :5]])
        most, nearest = self.matched(rois, truth)
        kept, count = self.sampled(most, nearest, truth, random)
        label = np.zeros(len(kept), int)
        label[:count] = truth[nearest[kept[:count]], 5]
        tops = self.targets(rois[kept], most[kept], truth, nearest[kept], label)
        return [np.asarray(top, np.float32).reshape(len(kept), -1, 1, 1) for top in tops][: self.top_count]

    def matched(self, rois: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how much each region overlaps a true box of its image, and which; 0 and -1 for none."""
        if not len(truth):
            return np.zeros(len(rois), np.float32), np.full(len(rois), -1)
        table = np.where(rois[:, :1] == truth[:, 0], overlaps(rois[:, 1:5], truth[:, 1:5], 1), -1)
        most = table.max(1)
        return np.maximum(most, 0), np.where(most < 0, -1, table.argmax(1))

    def sampled(
        self, most: np.ndarray, nearest: np.ndarray, truth: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, int]:
        """Return the indices of the regions that are kept, objects first, and how many objects there are."""
        p = self.settings
        is_object = most >= np.float32(p.fg_thr)
        is_background = ~is_object & (most >= np.float32(p.bg_thr_lw)) & (most < np.float32(p.bg_thr_hg))
        others = np.flatnonzero(~is_object & ~is_background)
        ignored = np.zeros(len(most), bool)
        ignored[is_object] = truth[nearest[is_object], 6] != 0
        objects, background = np.flatnonzero(is_object & ~ignored), np.flatnonzero(is_background)
        size = p.batch_size if p.batch_size > 0 else len(objects) + len(background)
        wanted = math.floor(rounded(p.fg_fraction * size) + 0.5) if p.batch_size > 0 else len(objects)
        objects = _drawn(objects, wanted, random)
        rest = size - len(objects)
        if p.pickup_discard and len(background) < rest:
            background = np.concatenate([background, others[: rest - len(background)]])
        kept = np.concatenate([objects, _drawn(background, rest, random)])
        if not len(kept):
            raise self.error("no region is an object or background; the reference draws a random one")
        return kept, len(objects)

    def targets(
        self, rois: np.ndarray, most: np.ndarray, truth: np.ndarray, nearest: np.ndarray, label: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Yield the tops for the regions that are kept."""
        at, p = np.flatnonzero(label > 0), self.settings
        boxes = truth[nearest[at], 1:5] if len(at) else np.zeros((0, 4))
        targets, weights = np.zeros((len(rois), self.width // 4, 4)), np.zeros((len(rois), self.width // 4, 4))
        place = label[at] if self.added.bbox_reg_param.cls_aware else np.minimum(label[at], 1)
        targets[at, place] = self.encoded(rois[at, 1:5], boxes)
        counted = (most[at] >= np.float32(p.bbox_thr_lw)) & (most[at] <= np.float32(p.bbox_thr_hg))
        weights[at, place] = counted[:, None]
        matched = np.zeros((len(rois), 6))
        matched[at] = np.concatenate([label[at, None], boxes, most[at, None]], 1)
        yield from (rois[:, :5], label, targets, weights, weights, matched, self.sample_weights(label, most))

    def encoded(self, boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return the normalized deltas from boxes to true ones."""
        mean, deviation = self.statistics()
        size, wanted = (box[:, 2:] - box[:, :2] + 1 for box in (boxes, truth))
        shift = ((truth[:, :2] + wanted / 2) - (boxes[:, :2] + size / 2)) / size
        return (np.concatenate([shift, np.log(wanted / size)], 1) - mean) / deviation

    def sample_weights(self, label: np.ndarray, most: np.ndarray) -> np.ndarray:
        """Return a weight per region, so that objects count as fg_fraction of all."""
        p, is_object = self.settings, label > 0
        weights = np.where(is_object & p.iou_weighted, most, 1.0)
        whole = weights[is_object].sum()
        if whole:
            weights[is_object] *= p.fg_fraction * len(label) / whole
            weights[~is_object] *= (1 - p.fg_fraction) * len(label) / max(weights[~is_object].sum(), 1e-30)
        return weights


def _drawn(indices: np.ndarray, most: int, random: np.random.Generator) -> np.ndarray:
    """Return at most so many of the indices, drawn at random when there are more."""
    return random.choice(indices, most, replace=False) if len(indices) > most else indices
