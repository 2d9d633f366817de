"""Layers around region proposals: anchors at each place of a map, their targets, and what is left of their predictions.

The well-known Python layers of py-faster-rcnn are built in, with the settings of its fast_rcnn/config.py.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.lazy import np
from caffestat.schema.forks import rcnn_pb2

from ..base import TRAIN, Layer, Shape, layer
from ..data import Count, Python
from .boxes import overlaps, suppress
from .rois import random_boxes
from .staged import Computed

__all__ = [
    "AnchorTargetLayer",
    "FrcnnAnchorTarget",
    "FrcnnProposal",
    "FrcnnProposalTarget",
    "FrcnnRoiData",
    "Proposal",
    "ProposalLayer",
    "ProposalTargetLayer",
    "RoIDataLayer",
    "anchors",
    "from_deltas",
    "literal",
    "read_settings",
    "to_deltas",
]

Settings = dict[str, Any]
OF_FACES = "lib.layers.multi_layer_anchor_layer.MultiLayerAnchorLayer"  # its nets have another RoIDataLayer
ATTRIBUTES = "face_attrs"  # a top of a further one
Drop = Callable[[np.ndarray, int, int], np.ndarray]
"""What chooses, of the indices of anchors of one label, so many that do not count."""

FRCNN: Mapping[str, Sequence[float]] = {
    "scales": [600],
    "max_size": [1000],
    "im_size_align": [1],
    "batch_size": [128],
    "fg_fraction": [0.25],
    "fg_thresh": [0.5],
    "bg_thresh_hi": [0.5],
    "bg_thresh_lo": [0.1],
    "bbox_normalize_targets": [1],
    "bbox_inside_weights": [1, 1, 1, 1],
    "bbox_normalize_means": [0, 0, 0, 0],
    "bbox_normalize_stds": [0.1, 0.1, 0.2, 0.2],
    "rpn_positive_overlap": [0.7],
    "rpn_negative_overlap": [0.3],
    "rpn_clobber_positives": [0],
    "rpn_fg_fraction": [0.5],
    "rpn_batchsize": [256],
    "rpn_nms_thresh": [0.7],
    "rpn_pre_nms_top_n": [12000],
    "rpn_post_nms_top_n": [2000],
    "rpn_min_size": [16],
    "rpn_bbox_inside_weights": [1, 1, 1, 1],
    "rpn_positive_weight": [-1],
    "rpn_allowed_border": [0],
    "test_rpn_nms_thresh": [0.7],
    "test_rpn_pre_nms_top_n": [6000],
    "test_rpn_post_nms_top_n": [300],
    "test_rpn_min_size": [16],
    "feat_stride": [16],
    "anchors": [
        *(-84, -40, 100, 56, -176, -88, 192, 104, -360, -184, 376, 200),
        *(-56, -56, 72, 72, -120, -120, 136, 136, -248, -248, 264, 264),
        *(-36, -80, 52, 96, -80, -168, 96, 184, -168, -344, 184, 360),
    ],
    "n_classes": [21],
}
"""The numbers of makefile/frcnn's examples/FRCNN/config/default_config.json that its layers read."""


def anchors(base: int, ratios: Sequence[float], scales: Sequence[float], half_up: bool = False) -> np.ndarray:
    """Return the boxes [ratios · scales, 4] around a square of side `base` at the origin.

    half_up: round halves up, as C does, not to even. (rbgirshick/py-faster-rcnn, lib/rpn/generate_anchors.py)
    """

    def nearest(x: np.ndarray) -> np.ndarray:
        return np.floor(x + 0.5) if half_up else np.round(x)

    ratio = np.asarray(ratios, np.float64)
    width = nearest(np.sqrt(base * base / ratio))
    height = nearest(width * ratio)
    size = np.stack([width, height], 1)[:, None] * np.asarray(scales, np.float64)[:, None]
    half = (size.reshape(-1, 2) - 1) / 2
    center = (base - 1) / 2
    return np.concatenate([center - half, center + half], 1)


def at_places(boxes: np.ndarray, height: int, width: int, stride: int) -> np.ndarray:
    """Return the boxes at each place of a map, rows before columns before boxes: [H · W · boxes, 4]."""
    y, x = np.indices((height, width)) * stride
    shifts = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (boxes + shifts).reshape(-1, 4)


def _centers(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes[:, :2] + size / 2, size


def to_deltas(boxes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return what moves boxes to targets, [N, 4]: shifts of the center in sizes, logarithms of the sizes' ratios."""
    (center, size), (wanted, wanted_size) = _centers(boxes), _centers(targets)
    return np.concatenate([(wanted - center) / size, np.log(wanted_size / size)], 1)


def from_deltas(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Return the boxes moved by deltas: the inverse of `to_deltas`, but that the lower right corner is one more."""
    center, size = _centers(boxes)
    moved = deltas[:, :2] * size + center
    with np.errstate(over="ignore"):
        half = np.exp(deltas[:, 2:]) * size / 2
    return np.concatenate([moved - half, moved + half], 1)


def clipped(boxes: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return the boxes within an image of (height, width)."""
    most = np.array([image[1], image[0], image[1], image[0]], boxes.dtype) - 1
    return np.maximum(np.minimum(boxes, most), 0)


def large(boxes: np.ndarray, least: float) -> np.ndarray:
    """Tell which boxes have at least that width and height."""
    return np.all(boxes[:, 2:] - boxes[:, :2] + 1 >= least, 1)


def by_place(values: np.ndarray, width: int) -> np.ndarray:
    """Return a map [1, A · width, H, W] as [H · W · A, width]."""
    return values[0].transpose(1, 2, 0).reshape(-1, width)


class _Regions(Layer):
    """A layer on the anchors of a map; `settings` has what configures it."""

    config: ClassVar[Settings] = {}

    @property
    def settings(self) -> Settings:
        """The settings by name: what is written, else the reference's defaults."""
        return {**self.config, **self.written_settings()}

    def written_settings(self) -> Settings:
        """Return the settings that the layer states itself: of a Python layer, those in its param_str."""
        return read_settings(self.proto.python_param.param_str)

    def stride(self) -> int:
        """Return how many of the image's pixels lie between two places of the map."""
        found = self.settings["feat_stride"]
        try:
            stride = int(found)
        except (TypeError, ValueError, OverflowError):
            stride = 0
        if stride < 1:
            raise self.error(f"expected 1 or more as feat_stride, found {found!r}")
        return stride

    def anchors(self) -> np.ndarray:
        """Return the anchors at the map's first place."""
        s = self.settings
        try:
            return anchors(s["base_size"], s["ratios"], s["scales"])
        except (TypeError, ValueError) as error:
            raise self.error(f"expected numbers as ratios and scales, found {s['ratios']} and {s['scales']}") from error

    def count_anchors(self, scores: Shape) -> int:
        """Return how many anchors each place has: where nothing states them, as many as there are pairs of scores.

        Whoever changes the defaults in Python code has other anchors, which are not known here.
        """
        known, found = len(self.anchors()), scores[1] // 2
        is_written = not self.proto.python_param.layer or not {"ratios", "scales"}.isdisjoint(self.written_settings())
        if is_written or scores[1] % 2 or found in (0, known) or found > _MOST_ANCHORS:
            return known
        self.why_uncomputed = (
            f"its bottom has scores of {found} anchors, the reference's code makes {known}; "
            "if they are the products of ratios and scales, state these in param_str"
        )
        return found

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        name = self.bottom_kinds()[bottom] if bottom < len(self.bottom_kinds()) else ""
        height, width = (size * self.stride() for size in bottoms[0][2:4])
        if name == "image":
            return image_rows(bottoms[bottom], height, width)
        if name == "boxes":
            return random_truth(bottoms[bottom][0], height, width, self.settings.get("num_classes", 2), random)
        return None

    def bottom_kinds(self) -> tuple[str, ...]:
        """Return what each bottom holds: "image" (height, width, scale), "boxes" (true ones), or "" for the rest."""
        return ()


def image_rows(shape: Shape, height: float, width: float) -> np.ndarray:
    """Return a row for each image: height, width, and 1 for scales and the rest."""
    rows = np.ones((shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, *shape), np.float32)
    rows[:, :1], rows[:, 1:2] = height, width
    return rows.reshape(shape)


def random_truth(count: int, height: float, width: float, classes: int, random: np.random.Generator) -> np.ndarray:
    """Return true boxes [count, 5] with labels."""
    labels = random.integers(1, max(classes, 2), (count, 1))
    return np.concatenate([random_boxes(count, height, width, random), labels], 1).astype(np.float32)


def literal(text: str) -> Any:
    """Return the value that Python writes like this. Raises ValueError for other text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, RecursionError, MemoryError) as error:  # the last two: nested deeply
        raise ValueError(str(error)) from error


def read_settings(text: str) -> Settings:
    """Return the settings of a param_str: YAML of one level, as such layers have it."""
    found: Settings = {}
    text = re.sub(r"!!\S+", "", text)  # the types that YAML can name
    for name, value in re.findall(r"['\"]?(\w+)['\"]?\s*:\s*(\[[^\]]*\]|\([^)]*\)|[^,\n}]+)", text):
        try:
            found[name] = literal(value.strip())
        except ValueError:
            words = {"true": True, "false": False}
            found[name] = words.get(value.strip().lower(), value.strip().strip("'\""))
    return found


_MOST_ANCHORS = 60  # at a place; a map of more channels than twice that holds no scores
_RPN: Settings = {"feat_stride": 16, "base_size": 16, "ratios": (0.5, 1, 2), "scales": (8, 16, 32)}


class _Proposals(Computed, _Regions):
    """Bottoms: scores [1, 2A, H, W], deltas [1, 4A, H, W], image [1, 3]; tops: rows [0, x1, y1, x2, y2], scores."""

    num_bottoms: ClassVar[Count] = (3, 3)
    num_tops: ClassVar[Count] = (1, 2)
    removes_small = True

    def bottom_kinds(self) -> tuple[str, ...]:
        return ("", "", "image")

    def limits(self) -> tuple[int, int, float, float]:
        """Return how many boxes go into suppression, how many leave it, its threshold, and the least size."""
        raise NotImplementedError

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless the bottoms fit the anchors."""
        scores, deltas = bottoms[0], bottoms[1]
        if scores[:1] != (1,) or len(scores) != 4:
            raise self.error(f"expected scores (1, 2 · anchors, H, W), of one image; found shape {scores}")
        count = self.count_anchors(scores)
        if scores[1] != 2 * count or deltas != (1, 4 * count, *scores[2:]):
            raise self.error(
                f"expected {2 * count} scores and {4 * count} deltas per place for {count} anchors, "
                f"found shapes {scores} and {deltas}"
            )

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        image = bottoms[self.bottom_kinds().index("image")].reshape(-1)
        boxes, score = self.best(*self.candidates(bottoms, image), image)
        rows = np.concatenate([np.zeros((len(boxes), 1)), boxes], 1)
        tops = rows.astype(np.float32), score.astype(np.float32)
        return [top.reshape(-1, *shape[1:]) for top, shape in zip(tops, self.top_layout(), strict=False)]

    def candidates(self, bottoms: Sequence[np.ndarray], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes that the maps describe, within the image, and their scores."""
        return self.moved(self.anchors(), bottoms[0], bottoms[1], self.stride(), image)

    @staticmethod
    def moved(
        base: np.ndarray, scores: np.ndarray, deltas: np.ndarray, stride: int, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the boxes of one map's anchors moved by its deltas, within the image, and their scores."""
        places = at_places(base, scores.shape[2], scores.shape[3], stride).astype(np.float32)
        boxes = clipped(from_deltas(places, by_place(deltas, 4)), image)
        return boxes, by_place(scores[:, len(base) :], 1)[:, 0]

    def best(self, boxes: np.ndarray, score: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what suppression leaves of boxes and scores, the best first."""
        before, after, threshold, least = self.limits()
        is_large = large(boxes, least * image[2] if image.size > 2 else least)
        if self.removes_small and is_large.any():
            boxes, score = boxes[is_large], score[is_large]
        elif not self.removes_small:
            score = score * is_large
        order = np.argsort(-score, kind="stable")[: before if before > 0 else None]
        left = order if threshold >= 1 else suppress(boxes, order, threshold, extra=1)
        kept = list(islice(left, after if after > 0 else None))
        return boxes[kept], score[kept]

    def top_layout(self) -> tuple[Shape, ...]:
        """Return the shapes of the tops for one box."""
        return ((1, 5), (1, 1))[: self.top_count]

    def summary(self, bottoms: Sequence[Shape]) -> str:
        assert self.decisions
        return f"proposes {len(self.decisions[0])} boxes for this batch"


@layer("rpn.proposal_layer.ProposalLayer", dialect="rcnn")
class ProposalLayer(_Proposals):
    """The best boxes that scores and deltas of anchors describe, after non-maximum suppression.

    param_str: feat_stride, scales; the rest is that of the phase in fast_rcnn/config.py: of 12000 boxes 2000 in TRAIN,
    of 6000 300 in TEST, threshold 0.7, least size 16. (rbgirshick/py-faster-rcnn, lib/rpn/proposal_layer.py)
    """

    config = _RPN

    def limits(self) -> tuple[int, int, float, float]:
        before, after = (12000, 2000) if self.phase == TRAIN else (6000, 300)
        return before, after, 0.7, 16

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 5), (1, 1, 1, 1))[: self.top_count]


@layer("Proposal", dialect="rcnn")
class Proposal(_Proposals):
    """ProposalLayer in C++, set by proposal_param; boxes that are too small get score 0.

    (luoyetx/mini-caffe, src/layers/proposal_layer.cpp)
    """

    adds = rcnn_pb2.LayerParameter
    removes_small = False

    def written_settings(self) -> Settings:
        p = self.added.proposal_param
        return {
            "feat_stride": p.feat_stride,
            "base_size": p.base_size,
            "ratios": tuple(p.ratio),
            "scales": tuple(p.scale),
        }

    def anchors(self) -> np.ndarray:
        s = self.settings
        return anchors(s["base_size"], s["ratios"], s["scales"], half_up=True)

    def limits(self) -> tuple[int, int, float, float]:
        p = self.added.proposal_param
        return p.pre_nms_topn, p.post_nms_topn, p.nms_thresh, p.min_size

    def top_layout(self) -> tuple[Shape, ...]:
        return ((1, 5), (1,))[: self.top_count]

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        count = bottoms[0][0] * self.added.proposal_param.post_nms_topn
        return ((count, 5), (count,))[: self.top_count]


class _OfFrcnn(_Regions):
    """A layer with the settings that the net's FrcnnRoiData names, else those of default_config.json."""

    adds = rcnn_pb2.LayerParameter
    config = _RPN

    def stated(self) -> Mapping[str, Sequence[float]]:
        """Return all settings by name, each a list of numbers."""
        named = next((peer.stated() for peer in self.peers if isinstance(peer, FrcnnRoiData)), {})
        return {**FRCNN, **named}

    def number(self, name: str) -> float:
        return self.stated()[name][0]

    def anchors(self) -> np.ndarray:
        numbers = self.stated()["anchors"]
        if not numbers or len(numbers) % 4:
            raise self.error(f"expected four numbers for each of the anchors in its settings, found {len(numbers)}")
        return np.array(numbers, np.float64).reshape(-1, 4)


@layer("FrcnnProposal", dialect="frcnn")
class FrcnnProposal(_OfFrcnn, _Proposals):
    """ProposalLayer in C++, with the settings that FrcnnRoiData names.

    (makefile/frcnn, src/caffe/FRCNN/frcnn_proposal_layer.cpp)
    """

    def written_settings(self) -> Settings:
        p = self.added.proposal_param
        return {"feat_stride": p.feat_stride if p.HasField("feat_stride") else int(self.number("feat_stride"))}

    def limits(self) -> tuple[int, int, float, float]:
        prefix = "" if self.phase == TRAIN else "test_"
        names = ("rpn_pre_nms_top_n", "rpn_post_nms_top_n", "rpn_nms_thresh", "rpn_min_size")
        before, after, overlap, least = (self.number(prefix + name) for name in names)
        return int(before), int(after), overlap, least

    def top_layout(self) -> tuple[Shape, ...]:
        return ((1, 5, 1, 1), (1, 1, 1, 1))[: self.top_count]

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return self.top_layout()


@layer("rpn.anchor_target_layer.AnchorTargetLayer", dialect="rcnn")
class AnchorTargetLayer(Computed, _Regions):
    """Which anchors are objects (1), background (0) or neither (-1), and how their deltas should be.

    Bottoms: a map [1, ·, H, W], true boxes [G, 5], image [1, 3], data; tops: labels [1, 1, A·H, W], and targets, inside
    and outside weights [1, 4A, H, W]. An anchor within the image is an object when it overlaps a true box by 0.7 or
    more than all others do, background below 0.3; 256 are drawn at random, from other numbers than the reference draws.
    (rbgirshick/py-faster-rcnn, lib/rpn/anchor_target_layer.py)
    """

    config: ClassVar[Settings] = {**_RPN, "allowed_border": 0}
    num_bottoms: ClassVar[Count] = (3, 4)
    num_tops: ClassVar[Count] = (4, 4)
    each_has_one: ClassVar[bool] = True  # each true box has an anchor, the one that overlaps it most

    def sampling(self) -> tuple[int, int, float, float]:
        """Return how many anchors and how many objects count at most, and the overlaps of objects and background."""
        return 256, 128, 0.7, 0.3

    def bottom_kinds(self) -> tuple[str, ...]:
        return ("", "boxes", "image")

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4 or bottoms[0][0] != 1:
            raise self.error(f"expected a map (1, C, H, W), of one image; found shape {bottoms[0]}")
        count, (height, width) = self.count_anchors(bottoms[0]), bottoms[0][2:]
        return ((1, 1, count * height, width), *[(1, 4 * count, height, width)] * 3)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth, image = bottoms[1].reshape(-1, bottoms[1].shape[-1])[:, :4], bottoms[2].reshape(-1)
        base, (height, width) = self.anchors(), bottoms[0].shape[2:]
        boxes = at_places(base, height, width, self.stride())
        inside = self.inside(boxes, image, self.settings["allowed_border"])
        drop = self.dropping(bottoms, inside, random)
        label, nearest = self.labels(boxes[inside], truth.astype(np.float64), drop)
        deltas = to_deltas(boxes[inside], truth[nearest]) if len(truth) else np.zeros((len(inside), 4))
        return self.maps(bottoms[0].shape, inside, label, deltas)

    def maps(self, scores: Shape, inside: np.ndarray, label: np.ndarray, deltas: np.ndarray) -> Sequence[np.ndarray]:
        """Return the tops from the labels and the deltas [n, values] of the anchors `inside`; others have none."""
        height, width = scores[2:]
        count = len(self.anchors()) * height * width
        targets = np.zeros((3, count, deltas.shape[1]))
        targets[0, inside] = deltas
        targets[1, inside[label == 1]] = 1
        targets[2, inside[label >= 0]] = 1 / max((label >= 0).sum(), 1)
        labels = np.full(count, -1.0)
        labels[inside] = label
        return target_maps(labels, targets, height, width)

    def inside(self, boxes: np.ndarray, image: np.ndarray, border: int) -> np.ndarray:
        """Return which anchors lie within the image and a border around it."""
        low, high = boxes[:, :2] >= -border, boxes[:, 2:] < image[1::-1] + border
        return np.flatnonzero(low.all(1) & high.all(1))

    def dropping(self, bottoms: Sequence[np.ndarray], inside: np.ndarray, random: np.random.Generator) -> Drop:
        """Return what chooses the anchors that do not count where there are too many: by default at random."""
        return lambda found, count, label: random.choice(found, count, replace=False)

    def labels(self, boxes: np.ndarray, truth: np.ndarray, drop: Drop) -> tuple[np.ndarray, np.ndarray]:
        """Return labels of anchors and the true box that each overlaps most."""
        label = np.full(len(boxes), -1)
        if not len(truth) or not len(boxes):
            return label, np.zeros(len(boxes), int)
        table = overlaps(boxes, truth, 1)
        most = table.max(1)
        count, objects, positive, negative = self.sampling()
        label[most < negative] = 0
        if self.each_has_one:
            label[(table == table.max(0)).any(1)] = 1
        label[most >= positive] = 1
        thin(label, 1, objects, drop)
        thin(label, 0, count - int((label == 1).sum()), drop)
        return label, table.argmax(1)


def target_maps(labels: np.ndarray, targets: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Return labels [places · A] as [1, 1, A · H, W], and targets [·, places · A, values] as [1, A · values, H, W]."""
    rows, *maps = (part.reshape(height, width, -1).transpose(2, 0, 1).astype(np.float32) for part in (labels, *targets))
    return [rows.reshape(1, 1, -1, width), *(part[None] for part in maps)]


def thin(labels: np.ndarray, value: int, most: int, drop: Drop) -> None:
    """Leave at most so many of a value; the others become -1."""
    found = np.flatnonzero(labels == value)
    if len(found) > most:
        labels[drop(found, len(found) - most, value)] = -1


@layer("FrcnnAnchorTarget", dialect="frcnn")
class FrcnnAnchorTarget(_OfFrcnn, AnchorTargetLayer):
    """AnchorTargetLayer in C++, without its last bottom and with the settings that FrcnnRoiData names.

    (makefile/frcnn, src/caffe/FRCNN/frcnn_anchor_target_layer.cpp)
    """

    num_bottoms = (3, 3)

    def written_settings(self) -> Settings:
        return {"feat_stride": int(self.number("feat_stride")), "allowed_border": self.number("rpn_allowed_border")}

    def sampling(self) -> tuple[int, int, float, float]:
        count = int(self.number("rpn_batchsize"))
        objects = int(np.float32(self.number("rpn_fg_fraction")) * np.float32(count))
        return count, objects, self.number("rpn_positive_overlap"), self.number("rpn_negative_overlap")

    @property
    def left_out(self) -> str:
        kept = ("rpn_clobber_positives", "rpn_bbox_inside_weights", "rpn_positive_weight")
        other = [name for name in kept if self.stated()[name] != FRCNN[name]]
        return f"{' and '.join(other)} of its settings: the value of default_config.json is used" if other else ""


@layer("rpn.proposal_target_layer.ProposalTargetLayer", dialect="rcnn")
class ProposalTargetLayer(Computed, _Regions):
    """128 of the proposals and true boxes, a quarter of them objects, with labels and deltas towards their true boxes.

    Bottoms: regions [R, 5] and true boxes [G, 5]; tops: regions [n, 5], labels [n], and targets, inside and outside
    weights [n, 4 · num_classes]. Drawn at random, from other numbers than the reference draws.
    (rbgirshick/py-faster-rcnn, lib/rpn/proposal_target_layer.py)
    """

    num_bottoms = (2, 2)
    num_tops = (5, 5)

    def sampling(self) -> tuple[int, int, float, float, float]:
        """Return how many regions and how many objects count at most, and the overlaps of objects and background."""
        return 128, 32, 0.5, 0.5, 0.1

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        classes = self.class_count()
        return random_truth(bottoms[1][0], 224, 224, classes, random) if bottom == 1 else None

    def class_count(self) -> int:
        """Return the number of classes, background included."""
        count = self.settings.get("num_classes")
        if not isinstance(count, int):
            raise self.error(f"expected num_classes in param_str, found {self.proto.python_param.param_str!r}")
        return count

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        width = 4 * self.class_count()
        return ((1, 5), (1, 1), *[(1, width)] * 3)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth = bottoms[1].reshape(-1, 5)
        rois = np.concatenate([bottoms[0].reshape(-1, 5), np.insert(truth[:, :4], 0, 0, 1)])
        rois, labels, nearest = self.sampled(rois, truth, random)
        targets, weights = self.expanded(self.deltas(rois[:, 1:], truth[nearest, :4]), labels)
        tops = rois, labels, targets, weights, weights > 0
        return [top.astype(np.float32) for top in tops]

    def sampled(
        self, rois: np.ndarray, truth: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the regions that are kept, their labels, and the true box that each overlaps most."""
        table = overlaps(rois[:, 1:].astype(np.float64), truth[:, :4].astype(np.float64), 1)
        most, nearest = table.max(1), table.argmax(1)
        kept, count = self.sample(most, random)
        labels = truth[nearest[kept], 4]
        labels[count:] = 0
        return rois[kept], labels, nearest[kept]

    def deltas(self, boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Return the deltas [n, 4] from boxes to true boxes."""
        return to_deltas(boxes, truth)

    def sample(self, most: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return the indices that are kept, objects first, and how many objects there are."""
        _, _, least, high, low = self.sampling()
        return self.drawn(np.flatnonzero(most >= least), np.flatnonzero((most < high) & (most >= low)), random)

    def drawn(self, objects: np.ndarray, background: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return indices drawn from both, objects first, and how many objects there are."""
        whole, most_objects, *_ = self.sampling()
        count = min(most_objects, len(objects))
        rest = min(whole - count, len(background))
        drawn = [random.choice(pool, size, replace=False) for pool, size in ((objects, count), (background, rest))]
        return np.concatenate(drawn), count

    def expanded(self, deltas: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return deltas [n, values] and weights as [n, values · classes], set at the label's place."""
        targets = np.zeros((len(labels), self.class_count(), deltas.shape[1]))
        weights = np.zeros_like(targets)
        at = np.flatnonzero(labels > 0)
        targets[at, labels[at].astype(int)], weights[at, labels[at].astype(int)] = deltas[at], 1
        return targets.reshape(len(labels), -1), weights.reshape(len(labels), -1)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        others = "PSROIPooling", "GradientScaler", "GradientSilent", "Enlarge"
        return super().fits(proto, types) and not any(name in types for name in others)


@layer("rpn.proposal_target_layer.ProposalTargetLayer", dialect="da")
class ProposalTargetLayerOf128(ProposalTargetLayer):
    """ProposalTargetLayer whose tops have 128 rows when a net is set up, so that Slice can cut them there.

    Taken where the net has GradientScaler, GradientSilent or Enlarge, without PSROIPooling.
    (yuhuayc/da-faster-rcnn, lib/rpn/proposal_target_layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        own = "GradientScaler", "GradientSilent", "Enlarge"
        has_own = any(name in types for name in own) and "PSROIPooling" not in types
        return has_own and super(ProposalTargetLayer, cls).fits(proto, types)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple((self.sampling()[0], *shape[1:]) for shape in super().tops_at_setup(bottoms))


@layer("rpn.proposal_target_layer.ProposalTargetLayer", dialect="rfcn")
class ProposalTargetLayerOf4Axes(ProposalTargetLayer):
    """ProposalTargetLayer with tops of 4 axes, the last two of size 1, as R-FCN has them.

    Taken where the net has PSROIPooling. (orpine/py-R-FCN, lib/rpn/proposal_target_layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return "PSROIPooling" in types and super(ProposalTargetLayer, cls).fits(proto, types)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple((*shape, 1, 1) for shape in super().tops_at_setup(bottoms))

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        return [top.reshape(len(top), -1, 1, 1) for top in super().decide(bottoms, random)]


@layer("FrcnnProposalTarget", dialect="frcnn")
class FrcnnProposalTarget(_OfFrcnn, ProposalTargetLayerOf4Axes):
    """ProposalTargetLayer in C++, with the settings that FrcnnRoiData names; deltas are normalized by them.

    Each `stage` of a cascade asks for 0.1 more overlap; from the first on, regions that overlap a true box by
    gt_iou_thr go. Where there are too few regions, background ones count several times. Tops have 4 axes.
    (makefile/frcnn, src/caffe/FRCNN/frcnn_proposal_target_layer.cpp)
    """

    def written_settings(self) -> Settings:
        return {"num_classes": int(self.number("n_classes"))}

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return True

    def sampling(self) -> tuple[int, int, float, float, float]:
        count = int(self.number("batch_size"))
        objects = int(np.float32(count) * np.float32(self.number("fg_fraction")))
        low, more = self.number("bg_thresh_lo"), 0.1 * self.added.proposal_target_param.stage
        return count, objects, self.number("fg_thresh") + more, self.number("bg_thresh_hi") + more, low

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p, rois = self.added.proposal_target_param, bottoms[0].reshape(-1, 5)
        if p.stage:
            table = overlaps(rois[:, 1:], bottoms[1].reshape(-1, 5)[:, :4], 1)
            rois = rois[table.max(1, initial=0) < np.float32(p.gt_iou_thr)]
        return super().decide([rois, bottoms[1]], random)

    def deltas(self, boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
        found = super().deltas(boxes, truth)
        if not self.number("bbox_normalize_targets"):
            return found
        return (found - self.stated()["bbox_normalize_means"]) / np.array(self.stated()["bbox_normalize_stds"])

    def expanded(self, deltas: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        targets, weights = super().expanded(deltas, labels)
        return targets, weights * np.tile(self.stated()["bbox_inside_weights"], self.class_count())

    def sample(self, most: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, int]:
        kept, count = super().sample(most, random)
        whole, *_, low = self.sampling()
        if not len(kept):
            pool = random.permutation(np.flatnonzero(most < low))
            filled = np.pad(pool, (0, max(whole - len(pool), 0))) if len(pool) else pool
            return filled[:whole], count
        pool = kept[count:] if len(kept) > count else np.flatnonzero(most < self.number("bg_thresh_hi"))
        more = np.resize(pool, whole - len(kept)) if len(pool) else pool
        return np.concatenate([kept, more]), count


@layer("roi_data_layer.layer.RoIDataLayer", dialect="rcnn")
class RoIDataLayer(Python):
    """An image, its size (height, width, scale) and its true boxes; or two images and regions with labels and targets.

    The second is told by "roi" in the name of the second top, or by more than three tops without "info" there; forks'
    further tops have no shape here.
    Tops of the sizes of fast_rcnn/config.py: images of 600 x 1000; the reference's true boxes are (1, 4) until the
    first batch, here (1, 5). Its database is not read. (rbgirshick/py-faster-rcnn, lib/roi_data_layer/layer.py)
    """

    REGIONS = 128

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.top) >= 3 and OF_FACES not in types and ATTRIBUTES not in proto.top

    def has_regions(self) -> bool:
        second = self.proto.top[1] if self.top_count > 1 else ""
        return "roi" in second or (self.top_count > 3 and "info" not in second)

    def written_shape(self, index: int) -> Shape | None:
        width = 4 * int(read_settings(self.proto.python_param.param_str).get("num_classes", 21))
        shapes: list[Shape] = [(1, 3, 600, 1000), (1, 3), (1, 5)]
        if self.has_regions():
            shapes = [(2, 3, 600, 1000), (self.REGIONS, 5), (self.REGIONS,), *[(self.REGIONS, width)] * 3]
        return dict(enumerate(shapes)).get(index)

    def alternatives(self) -> Iterable[tuple[Mapping[int, Shape], str]]:
        tops = self.tops([])
        if tops[0] and len(tops[0]) == 4:
            n, channels, *size = tops[0]
            whole = (n, channels, *(length // 32 * 32 for length in size))
            yield {0: whole}, "a multiple of 32, by SCALE_MULTIPLE_OF in the configuration (PVANet)"
        if self.has_regions() and self.top_count > 3 and tops[3]:
            targets = dict.fromkeys(range(3, self.top_count), (tops[3][0], 8))
            yield targets, "by AGNOSTIC: True in the configuration (R-FCN)"


@layer("FrcnnRoiData", dialect="frcnn")
class FrcnnRoiData(RoIDataLayer):
    """RoIDataLayer in C++; `config` names a JSON file of settings for it and the net's other layers.

    (makefile/frcnn, src/caffe/FRCNN/frcnn_roi_data_layer.cpp)
    """

    adds = rcnn_pb2.LayerParameter
    why_unread = "its images are not read"

    def stated(self) -> Mapping[str, Sequence[float]]:
        """Return the settings of the file by name, each a list of numbers; none without a file."""
        path = self.named_file(self.added.window_data_param.config)
        if path is None:
            return {}
        try:
            text = json.loads(read_regular(path), strict=False)  # the reference's files break lines within strings
            found = {name: _numbers(str(value)) for name, value in text.items()}
        except (OSError, InputError, ValueError, AttributeError, RecursionError) as error:
            raise self.error(f"cannot read the settings in {str(path)!r}: {error}") from error
        for name in FRCNN.keys() & found.keys():
            if len(found[name]) < len(FRCNN[name]) and name != "anchors":
                raise self.error(
                    f"expected {len(FRCNN[name])} finite numbers as {name} in {str(path)!r}, found {text[name]!r}"
                )
        return found

    @property
    def left_out(self) -> str:
        name = self.added.window_data_param.config
        is_missing = name and self.named_file(name) is None
        return f"file not found: {name!r}; the settings of default_config.json are used" if is_missing else ""

    def written_shape(self, index: int) -> Shape | None:
        s = {**FRCNN, **self.stated()}
        align = int(s["im_size_align"][0])
        if align < 1:
            raise self.error(f"expected 1 or more as im_size_align in its settings, found {align}")
        high, wide = (math.ceil(size / align) * align for size in (max(s["scales"]), s["max_size"][0]))
        return ((1, 3, high, wide), (1, 3), (1, 5))[index] if self.top_count == 3 else super().written_shape(index)

    def code(self) -> str:
        return "FrcnnRoiData"


def _numbers(text: str) -> Sequence[float]:
    """Return the numbers that a setting holds, [] for other text and for infinities."""
    try:
        numbers = [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
