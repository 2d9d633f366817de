"""RRPN's Python layers: turned anchors, their targets and proposals. A turned box is center x, y, height, width, angle.

Angles are in degrees, from -45 to 135.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

from caffestat.lazy import np

from ..base import Shape, layer
from .proposals import (
    AnchorTargetLayer,
    Drop,
    ProposalLayer,
    ProposalTargetLayer,
    RoIDataLayer,
    by_place,
    thin,
)
from .rois import random_boxes

__all__ = [
    "TurnedAnchorTargetLayer",
    "TurnedProposalLayer",
    "TurnedProposalTargetLayer",
    "TurnedRoIDataLayer",
    "turned_overlaps",
]

RATIOS, ANGLES = (0.2, 0.5, 1.0), (-30.0, 0.0, 30.0, 60.0, 90.0, 120.0)
PADDING = 0.25  # IMG_PADDING of lib/fast_rcnn/config.py
MOST_ANGLE = 15  # R_POSITIVE_ANGLE_FILTER and R_NEGATIVE_ANGLE_FILTER
CHUNK = 1 << 16  # pairs of boxes whose overlaps are worked out at once


# ---- geometry --------------------------------------------------------------------------------------------------------


def corners(boxes: np.ndarray) -> np.ndarray:
    """Return the corners [N, 4, 2] of turned boxes, in order around them."""
    x, y, high, wide, angle = boxes.astype(np.float64).T
    radians = angle * np.pi / 180
    along = np.array([-0.5, -0.5, 0.5, 0.5]) * wide[:, None], np.array([-0.5, 0.5, 0.5, -0.5]) * high[:, None]
    cos, sin = np.cos(radians)[:, None], -np.sin(radians)[:, None]
    return np.stack([cos * along[0] - sin * along[1] + x[:, None], sin * along[0] + cos * along[1] + y[:, None]], -1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _inside(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Tell which points [P, K, 2] lie in boxes of corners [P, 4, 2]: [P, K]."""
    found = np.ones(points.shape[:2], bool)
    for side in (1, 3):
        edge = (boxes[:, side] - boxes[:, 0])[:, None]
        along = ((points - boxes[:, None, 0]) * edge).sum(-1)
        slack = 1e-9 * (edge**2).sum(-1)
        found &= (along >= -slack) & (along <= (edge**2).sum(-1) + slack)
    return found


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the areas that pairs of boxes of corners [P, 4, 2] share."""
    edge_a, edge_b = np.roll(a, -1, 1) - a, np.roll(b, -1, 1) - b
    start = b[:, None] - a[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        across = _cross(edge_a[:, :, None], edge_b[:, None])
        t, u = _cross(start, edge_b[:, None]) / across, _cross(start, edge_a[:, :, None]) / across
        meets = (abs(across) > 1e-12) & (t >= 0) & (t <= 1) & (u >= 0) & (u <= 1)
    met = a[:, :, None] + np.where(meets, t, 0)[..., None] * edge_a[:, :, None]
    points = np.concatenate([a, b, met.reshape(len(a), 16, 2)], 1)
    counts = np.concatenate([_inside(a, b), _inside(b, a), meets.reshape(len(a), 16)], 1)
    middle = (points * counts[..., None]).sum(1) / np.maximum(counts.sum(1), 1)[:, None]
    rays = np.where(counts[..., None], points - middle[:, None], 0)
    angle = np.where(counts, np.arctan2(rays[..., 1], rays[..., 0]), np.inf)
    order = np.argsort(angle, 1)
    rays = np.take_along_axis(rays, order[..., None], 1)
    first = rays[:, :1]
    rays = np.where(np.take_along_axis(counts, order, 1)[..., None], rays, first)  # what does not count closes the ring
    return abs(_cross(rays, np.roll(rays, -1, 1)).sum(1)) / 2


def _pair_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union of pairs of turned boxes [P, 5]."""
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    reach = np.hypot(a[:, 2], a[:, 3]) / 2 + np.hypot(b[:, 2], b[:, 3]) / 2
    near = np.flatnonzero(np.hypot(*(a[:, :2] - b[:, :2]).T) < reach)
    shared = np.zeros(len(a))
    for part in np.array_split(near, len(near) // CHUNK + 1):
        shared[part] = _shared(corners(a[part]), corners(b[part]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(shared / (area_a + area_b - shared))


def turned_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union [N, M] of turned boxes a [N, 5] and b [M, 5].

    Exact, where the reference takes corners up to a pixel outside of the other box for inside.
    """
    pairs = np.repeat(a, len(b), 0), np.tile(b, (len(a), 1))
    return _pair_overlaps(*(part.astype(np.float64) for part in pairs)).reshape(len(a), len(b))


def suppress(boxes: np.ndarray, order: np.ndarray, threshold: float) -> Iterator[int]:
    """Yield the indices of the boxes that non-maximum suppression keeps, the best first."""
    area = boxes[:, 2] * boxes[:, 3]
    while len(order):
        best, order = order[0], order[1:]
        yield int(best)
        # no box overlaps one by more than the ratio of their areas
        alike = np.minimum(area[order], area[best]) > threshold * np.maximum(area[order], area[best])
        at = order[alike]
        goes = np.zeros(len(order), bool)
        goes[alike] = _pair_overlaps(np.repeat(boxes[[best]], len(at), 0), boxes[at]) > threshold
        order = order[~goes]


def angles_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return how many degrees turned boxes a [N, 5] and b [M, 5] differ by, [N, M]."""
    found = abs(a[:, None, 4] - b[None, :, 4])
    return np.where(found > 150, abs(180 - found), found)


def anchors(scales: Sequence[float]) -> np.ndarray:
    """Return the turned boxes at the first place: ratios before scales before angles, [54, 5] by default."""
    width = np.round(np.sqrt(256 / np.array(RATIOS)))
    sizes = np.stack([width, np.round(width * RATIOS)], 1)[:, None] * np.asarray(scales, np.float64)[:, None]
    return np.array([[7, 7, high, wide, angle] for wide, high in sizes.reshape(-1, 2) for angle in ANGLES])


def to_deltas(boxes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return what moves turned boxes to targets [N, 5]: shifts, logarithms of width and height, radians."""
    wide, high = boxes[:, 3], boxes[:, 2]
    turn = targets[:, 4] - boxes[:, 4]
    turn = turn + 180.0 * ((targets[:, 4] <= -30) & (boxes[:, 4] >= 120))
    turn = turn - 180.0 * ((targets[:, 4] >= 120) & (boxes[:, 4] <= -30))
    moves = (targets[:, 0] - boxes[:, 0]) / wide, (targets[:, 1] - boxes[:, 1]) / high
    sizes = np.log(targets[:, 3] / wide), np.log(targets[:, 2] / high)
    return np.stack([*moves, *sizes, turn * np.pi / 180], 1)


def from_deltas(boxes: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Return the turned boxes moved by deltas, angles from -45 to 135."""
    x, y, high, wide, angle = boxes.T
    with np.errstate(over="ignore"):
        sizes = np.exp(deltas[:, 3]) * high, np.exp(deltas[:, 2]) * wide
    turned = deltas[:, 4] / np.pi * 180 + angle
    turned = turned + 180.0 * (turned < -45)
    turned = turned - 180.0 * (turned > 135)
    return np.stack([deltas[:, 0] * wide + x, deltas[:, 1] * high + y, *sizes, turned], 1)


def random_turned(count: int, height: float, width: float, classes: int, random: np.random.Generator) -> np.ndarray:
    """Return true boxes [count, 6] with angles and labels."""
    x1, y1, x2, y2 = random_boxes(count, height, width, random).T
    angle, label = random.uniform(-45, 135, count), random.integers(1, max(classes, 2), count)
    return np.stack([(x1 + x2) / 2, (y1 + y2) / 2, y2 - y1, x2 - x1, angle, label], 1).astype(np.float32)


# ---- layers ----------------------------------------------------------------------------------------------------------


@layer("rotation.rlayer.RoIDataLayer", dialect="rrpn")
class TurnedRoIDataLayer(RoIDataLayer):
    """An image, its size (height, width, scale) and its true boxes [G, 6], turned, with their labels.

    The reference's true boxes are (1, 5) until the first batch. (mjq11302010044/RRPN, lib/rotation/rlayer.py)
    """

    num_tops = (3, 3)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return True

    def written_shape(self, index: int) -> Shape | None:
        return ((1, 3, 600, 1000), (1, 3), (1, 6))[index]


class _OnTurned:
    """What the layers on turned anchors share."""

    proto: Any
    settings: Any
    stride: Any

    def anchors(self) -> np.ndarray:
        """Return the anchors at the map's first place."""
        return anchors(self.settings["scales"])

    def places(self, height: int, width: int) -> np.ndarray:
        """Return the anchors at each place of a map, [H · W · anchors, 5]."""
        y, x = np.indices((height, width)) * self.stride()
        shifts = np.stack([x, y, *np.zeros((3, height, width))], -1)
        return (self.anchors() + shifts.reshape(-1, 1, 5)).reshape(-1, 5)


@layer("rotation.rproposal_layer.ProposalLayer", dialect="rrpn")
class TurnedProposalLayer(_OnTurned, ProposalLayer):
    """The best turned boxes after suppression: rows [0, x, y, height, width, angle].

    Bottoms: scores [1, 2A, H, W], deltas [1, 5A, H, W], image [1, 3]; settings as ProposalLayer's.
    (mjq11302010044/RRPN, lib/rotation/rproposal_layer.py)
    """

    def check(self, bottoms: Sequence[Shape]) -> None:
        scores, deltas, count = bottoms[0], bottoms[1], len(self.anchors())
        if len(scores) != 4 or scores[:2] != (1, 2 * count) or deltas != (1, 5 * count, *scores[2:]):
            raise self.error(
                f"expected scores (1, {2 * count}, H, W) and deltas (1, {5 * count}, H, W) for {count} anchors, "
                f"found shapes {scores} and {deltas}"
            )

    def top_layout(self) -> tuple[Shape, ...]:
        return ((1, 6), (1, 1))[: self.top_count]

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 6), (1, 1, 1, 1, 1))[: self.top_count]

    def candidates(self, bottoms: Sequence[np.ndarray], image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, deltas = bottoms[:2]
        boxes = from_deltas(self.places(*scores.shape[2:]).astype(np.float32), by_place(deltas, 5))
        return boxes, by_place(scores[:, len(self.anchors()) :], 1)[:, 0]

    def best(self, boxes: np.ndarray, score: np.ndarray, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        before, after, threshold, least = self.limits()
        is_large = (boxes[:, 2:4] >= least * image[2]).all(1)
        if is_large.any():
            boxes, score = boxes[is_large], score[is_large]
        order = np.argsort(-score, kind="stable")[:before]
        kept = list(islice(suppress(boxes.astype(np.float64), order, threshold), after))
        return boxes[kept], score[kept]


@layer("rotation.anchor_target_layer.AnchorTargetLayer", dialect="rrpn")
class TurnedAnchorTargetLayer(_OnTurned, AnchorTargetLayer):
    """AnchorTargetLayer on turned anchors, with targets and weights [1, 5A, H, W].

    Anchors count whose corners lie within the image and a quarter of its size around, its height taken for its width
    and the other way round, as in the reference. The anchor that overlaps a true box most is an object only when their
    angles differ by 15 degrees at most. (mjq11302010044/RRPN, lib/rotation/anchor_target_layer.py)
    """

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        labels, *targets = super().tops_at_setup(bottoms)
        return (labels, *((1, shape[1] // 4 * 5, *shape[2:]) for shape in targets))

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 1:
            return super().stand_in(bottom, bottoms, random)
        height, width = (size * self.stride() for size in bottoms[0][2:4])
        return random_turned(bottoms[1][0], height, width, 2, random)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth, image = bottoms[1].reshape(-1, 6).astype(np.float64), bottoms[2].reshape(-1)
        height, width = bottoms[0].shape[2:]
        boxes = self.places(height, width)
        # the reference turns height and width the other way here than for overlaps
        at, (wide, high) = corners(boxes[:, [0, 1, 3, 2, 4]] * np.array([1, 1, 1, 1, -1])), image[:2]
        margin, most = PADDING * np.array([wide, high]), (1 + PADDING) * np.array([wide, high])
        inside = np.flatnonzero(((at > -margin) & (at < most)).all((1, 2)))
        label, nearest = self.labels(boxes[inside], truth, self.dropping(bottoms, inside, random))
        deltas = to_deltas(boxes[inside], truth[nearest]) if len(truth) else np.zeros((len(inside), 5))
        return self.maps(bottoms[0].shape, inside, label, deltas)

    def labels(self, boxes: np.ndarray, truth: np.ndarray, drop: Drop) -> tuple[np.ndarray, np.ndarray]:
        label = np.full(len(boxes), -1)
        if not len(truth) or not len(boxes):
            return label, np.zeros(len(boxes), int)
        table, turned = turned_overlaps(boxes, truth[:, :5]), angles_between(boxes, truth)
        most = table.max(1)
        count, objects, positive, negative = self.sampling()
        label[most < negative] = 0
        label[((table == table.max(0)) & (turned <= MOST_ANGLE)).any(1)] = 1
        label[most >= positive] = 1
        thin(label, 1, objects, drop)
        thin(label, 0, count - int((label == 1).sum()), drop)
        return label, table.argmax(1)


@layer("rotation.rproposal_target_layer.ProposalTargetLayer", dialect="rrpn")
class TurnedProposalTargetLayer(ProposalTargetLayer):
    """ProposalTargetLayer on turned boxes: regions [n, 6], labels [n], targets and weights [n, 5 · num_classes].

    An object overlaps its true box by 0.5 and differs by 15 degrees at most; what overlaps as much and differs by more
    is background. (mjq11302010044/RRPN, lib/rotation/rproposal_target_layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return True

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random_turned(bottoms[1][0], 600, 1000, self.class_count(), random) if bottom == 1 else None

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        width = 5 * self.class_count()
        return ((1, 6), (1, 1), *[(1, width)] * 3)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        truth = bottoms[1].reshape(-1, 6)
        rois = np.concatenate([bottoms[0].reshape(-1, 6), np.insert(truth[:, :5], 0, 0, 1)])
        table, turned = turned_overlaps(rois[:, 1:], truth[:, :5]), angles_between(rois[:, 1:], truth)
        nearest = table.argmax(1)
        most, turn = table.max(1), turned[np.arange(len(rois)), nearest]
        kept, count = self.sample_turned(most, turn, random)
        labels = truth[nearest[kept], 5]
        labels[count:] = 0
        found = to_deltas(rois[kept, 1:].astype(np.float64), truth[nearest[kept], :5])
        targets, weights = self.expanded(found, labels)
        return [top.astype(np.float32) for top in (rois[kept], labels, targets, weights, weights > 0)]

    def sample_turned(self, most: np.ndarray, turn: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, int]:
        """Return the indices that are kept, objects first, and how many objects there are."""
        _, _, least, high, low = self.sampling()
        overlaps = most >= least
        background = ((most < high) & (most >= low)) | (overlaps & (turn > MOST_ANGLE))
        return self.drawn(np.flatnonzero(overlaps & (turn <= MOST_ANGLE)), np.flatnonzero(background), random)
