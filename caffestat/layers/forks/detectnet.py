"""DetectNet's Python layers: boxes out of maps of coverage, and how many of them are right. (NVIDIA/caffe)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from caffestat.lazy import np

from ..base import Shape, layer
from ..data import Count
from .staged import Computed

__all__ = ["ClusterDetections", "ClusterGroundtruth", "ScoreDetections", "mAP"]

MAX_BOXES = 50
OVERLAP = 0.7
RIGHT, WRONG, MISSED = 1, 2, 3


class _Clusters(Computed):
    """Bottoms: coverage [N, classes, H, W] and boxes [N, 4, H, W] by cell; a top [N, 50, 5] of boxes per class.

    param_str: width and height of the image, the cells' size, and more, with commas between them.
    """

    num_bottoms = (2, 2)
    num_tops: ClassVar[Count] = (1, None)
    kinds: ClassVar[tuple[type[int] | type[float], ...]] = (int, int, int)

    def settings(self) -> list[float]:
        """Return the numbers of param_str, the number of classes last. Raises NetError for other text."""
        words = self.proto.python_param.param_str.split(",")
        kinds = (*self.kinds, int)
        try:
            found = [kind(word) for kind, word in zip(kinds, words, strict=False)]
        except ValueError as error:
            raise self.error(f"expected numbers in param_str, found {','.join(words)!r}") from error
        if len(found) < len(self.kinds):
            raise self.error(f"expected {len(self.kinds)} numbers in param_str, found {len(found)}")
        return found if len(found) == len(kinds) else [*found, 1]

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        coverage, boxes = bottoms
        width, height, size, *_, classes = self.settings()
        if len(coverage) != 4 or coverage[1] != classes or self.top_count != classes:
            raise self.error(f"expected coverage (N, {classes}, H, W) and {classes} tops, found shape {coverage}")
        if boxes != (coverage[0], 4, *coverage[2:]) or size < 1 or min(width, height) < size:
            raise self.error(f"expected boxes {(coverage[0], 4, *coverage[2:])} and cells within the image: {boxes}")
        return ((coverage[0], MAX_BOXES, 5),) * self.top_count

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        shape, *_ = self.tops_at_setup([bottom.shape for bottom in bottoms])
        tops = np.zeros((self.top_count, *shape), np.float32)
        for index, item in np.ndindex(self.top_count, shape[0]):
            found = self.clustered(self.cells(bottoms[0][item, index], bottoms[1][item]))[:MAX_BOXES]
            for row, box in enumerate(found):
                tops[index, item, row, : len(box)] = np.asarray(box, np.float16)
        return list(tops)

    def cells(self, coverage: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Return the boxes [n, 4] of the cells that are covered, in pixels of the image."""
        width, height, size = self.settings()[:3]
        rows, columns = int(height / size), int(width / size)
        y, x = np.nonzero(self.covered(coverage[:rows, :columns]))
        shift = np.stack([x * (width / columns), y * (height / rows)])
        return (boxes[:, y, x] + np.concatenate([shift, shift])).T

    def covered(self, coverage: np.ndarray) -> np.ndarray:
        """Tell which cells have a box."""
        raise NotImplementedError

    def clustered(self, boxes: np.ndarray) -> Sequence[Sequence[float]]:
        """Return the rows of the top."""
        raise NotImplementedError


@layer("caffe.layers.detectnet.clustering.ClusterGroundtruth", dialect="nvidia")
class ClusterGroundtruth(_Clusters):
    """The boxes of cells whose coverage is positive, each once, in ascending order; 16 bits wide.

    More than 50 boxes of an image are cut; the reference stops there, and has no order.
    (NVIDIA/caffe, python/caffe/layers/detectnet/clustering.py)
    """

    def covered(self, coverage: np.ndarray) -> np.ndarray:
        return np.asarray(coverage > 0)

    def clustered(self, boxes: np.ndarray) -> Sequence[Sequence[float]]:
        return sorted(set(map(tuple, boxes.tolist())))


@layer("caffe.layers.detectnet.clustering.ClusterDetections", dialect="nvidia")
class ClusterDetections(_Clusters):
    """Mean boxes of groups of cells whose coverage reaches a threshold, with the logarithm of the group's size.

    param_str goes on with that threshold, the size that a group must exceed, its tolerance, and the least height.
    Groups within larger ones are left out, as in OpenCV's groupRectangles.
    (NVIDIA/caffe, python/caffe/layers/detectnet/clustering.py)
    """

    kinds = (int, int, int, float, int, float, int)

    def covered(self, coverage: np.ndarray) -> np.ndarray:
        return np.asarray(coverage >= self.settings()[3])

    def clustered(self, boxes: np.ndarray) -> Sequence[Sequence[float]]:
        least, tolerance, height = self.settings()[4:7]
        if not boxes.any():
            return []
        whole = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(int)
        groups = grouped(whole, int(least), tolerance)
        return [(x, y, x + w, y + h, math.log(count)) for (x, y, w, h), count in groups if h >= height]


def grouped(boxes: np.ndarray, least: int, tolerance: float) -> list[tuple[tuple[int, ...], int]]:
    """Return the mean boxes (x, y, width, height) of groups of more than `least` boxes that are alike, and their sizes.

    A group within a larger one is left out. (OpenCV, modules/objdetect/src/cascadedetect.cpp, groupRectangles)
    """
    if least <= 0:
        return [(tuple(int(value) for value in box), 1) for box in boxes]
    labels = _classes(boxes, tolerance)
    counts = np.bincount(labels)
    means = np.rint(np.stack([np.bincount(labels, column) for column in boxes.T], 1) / counts[:, None]).astype(int)
    kept = [index for index in range(len(counts)) if counts[index] > least]
    return [
        (tuple(int(value) for value in means[one]), int(counts[one]))
        for one in kept
        if not any(_holds(means, counts, one, other, tolerance) for other in kept if other != one)
    ]


def _classes(boxes: np.ndarray, tolerance: float) -> np.ndarray:
    """Return the group of each box: those that are alike, and what is alike to these; numbered as they come."""
    ends = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    smaller = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]).sum(-1)
    alike = (abs(ends[:, None] - ends[None]) <= (tolerance * smaller * 0.5)[..., None]).all(-1)
    labels = np.full(len(boxes), -1)
    for first in range(len(boxes)):
        if labels[first] >= 0:
            continue
        near, number = [first], labels.max() + 1
        while near:
            labels[near] = number
            near = list(np.flatnonzero(alike[near].any(0) & (labels < 0)))
    return labels


def _holds(means: np.ndarray, counts: np.ndarray, one: int, other: int, tolerance: float) -> bool:
    """Tell whether a group lies within another that counts more."""
    slack = np.rint(means[other, 2:] * tolerance)
    inside = (means[one, :2] >= means[other, :2] - slack).all()
    inside &= (means[one, :2] + means[one, 2:] <= means[other, :2] + means[other, 2:] + slack).all()
    return bool(inside and (counts[other] > max(3, counts[one]) or counts[one] < 3))


@layer("caffe.layers.detectnet.mean_ap.ScoreDetections", dialect="nvidia")
class ScoreDetections(Computed):
    """Boxes with 1 for those that overlap a true one by 0.7 or more, 2 for the others, then true ones missed with 3.

    Bottoms: true boxes and detections [N, 50, 5]; top [N, 50, 5]. (NVIDIA/caffe,
    python/caffe/layers/detectnet/mean_ap.py)
    """

    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        true, found = bottoms
        if len(true) != 3 or len(found) != 3 or true[0] != found[0] or min(true[2], found[2]) < 4:
            raise self.error(f"expected two lists of boxes (N, n, 5), found shapes {true} and {found}")
        return ((true[0], MAX_BOXES, 5),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (shape,) = self.tops_at_setup([bottom.shape for bottom in bottoms])
        top = np.zeros(shape, np.float32)
        for item in range(shape[0]):
            true, found = (rows[item, :, :4][rows[item, :, :4].any(1)] for rows in bottoms)
            seen, hit = np.zeros(len(true), bool), np.zeros(len(found), bool)
            for index, box in enumerate(true):
                free = np.flatnonzero(~hit & np.array([_overlap(other, box) >= OVERLAP for other in found], bool))
                if len(free):
                    seen[index] = hit[free[0]] = True
            rows = [(found[hit], RIGHT), (found[~hit], WRONG), (true[~seen], MISSED)]
            marked = np.concatenate([np.insert(boxes, 4, mark, 1) for boxes, mark in rows])[:MAX_BOXES]
            top[item, : len(marked)] = marked
        return (top,)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return the intersection of two boxes over their union."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = max(sides[0], 0) * max(sides[1], 0)
    if not common:
        return 0.0
    return float(common / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common))


@layer("caffe.layers.detectnet.mean_ap.mAP", dialect="nvidia")
class mAP(Computed):  # the name that the module has
    """Precision times recall over 100, precision and recall in percent of boxes that ScoreDetections marked, each [1].

    (NVIDIA/caffe, python/caffe/layers/detectnet/mean_ap.py)
    """

    num_tops = (3, 3)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 3 or bottoms[0][2] < 5:
            raise self.error(f"expected marked boxes (N, n, 5), found shape {bottoms[0]}")
        return ((1,),) * 3

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        right, wrong, missed = (int((bottoms[0][:, :, 4] == mark).sum()) for mark in (RIGHT, WRONG, MISSED))
        precision, recall = (100 * right / max(right + other, 1) for other in (wrong, missed))
        return [np.array([value], np.float32) for value in (precision * recall / 100, precision, recall)]
