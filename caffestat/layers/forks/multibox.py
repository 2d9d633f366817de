"""Which priors SSD's loss looks at, and what they should say: the numpy half of MultiBoxLoss. (bbox_util.cpp)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from caffestat.float32 import rounded
from caffestat.lazy import np

from .boxes import areas, decode, encode, exactly, overlaps, suppress
from .sorting import descending

__all__ = ["HARD_EXAMPLE", "Matches", "match"]

BIPARTITE, PER_PREDICTION = range(2)
SOFTMAX, LOGISTIC = range(2)
NO_MINING, MAX_NEGATIVE, HARD_EXAMPLE = range(3)
FREE, IGNORED = -1, -2
LEAST_OVERLAP = 1e-6
LEAST_AREA = 1e-5  # of a box that ApplyNMS keeps
BEYOND_INT = 2**31

Error = Callable[[str], Exception]


@dataclass(frozen=True)
class Matches:
    """What each prior of each image is to learn.

    targets, loc_weights, scales  of locations [N, P, L, 4]: loss of (location - target) · scale, where the weight is 1
    labels, conf_weights          of scores: [N·P, 1] and [N·P, 1], or with LOGISTIC [N·P, classes] and [N·P, 1]
    matches                       how many priors are matched with a true box
    """

    targets: np.ndarray
    loc_weights: np.ndarray
    scales: np.ndarray
    labels: np.ndarray
    conf_weights: np.ndarray
    matches: int

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of them."""
        return self.targets, self.loc_weights, self.scales, self.labels, self.conf_weights

    @property
    def images(self) -> int:
        return len(self.targets)

    @property
    def priors(self) -> int:
        return int(self.targets.shape[1])


@dataclass(frozen=True)
class _Image:
    """One image: its true boxes [G, 8], its predictions, and the priors with their variances.

    RefineDet's first stage moves the priors and tells which may be objects; without it both are as they were.
    """

    truth: np.ndarray
    locations: np.ndarray  # [L, P, 4]
    scores: np.ndarray  # [P, classes]
    priors: np.ndarray
    variances: np.ndarray
    moved: np.ndarray  # [P, 4]
    may_be_object: np.ndarray  # [P]

    @property
    def boxes(self) -> np.ndarray:
        """The true boxes' corners [G, 4]."""
        return self.truth[:, 3:7]

    @property
    def classes(self) -> np.ndarray:
        """The true boxes' labels [G]."""
        return self.truth[:, 1].astype(int)

    def decoded(self, index: int, p: Any, base: np.ndarray | None = None) -> np.ndarray:
        """Return the boxes [P, 4] that the locations of a class describe, relative to the priors or other boxes."""
        variances = None if p.encode_variance_in_target else self.variances
        return decode(self.locations[index], self.priors if base is None else base, variances, p.code_type)


def match(bottoms: Sequence[np.ndarray], p: Any, error: Error, joins: bool = False) -> Matches:
    """Return what p, a MultiBoxLossParameter, makes of predictions, priors and true boxes.

    bottoms: [N, P·L·4], [N, P·classes], [1, 2, P·4] and [1, 1, G, 8]; of RefineDet's second stage also scores [N, P·2]
    and locations [N, P·4] of the first. `error` makes an exception of a message.
    joins: of two classes the second is that of all objects, as in RefineDet's first stage
    """
    loc, conf, prior, truth, *first = bottoms
    priors, variances = prior.reshape(2, -1, 4)
    n, count = len(loc), len(priors)
    locations = loc.reshape(n, count, -1, 4).transpose(0, 2, 1, 3)
    scores = conf.reshape(n, count, p.num_classes)
    truth = truth.reshape(-1, 8)
    if joins and p.num_classes == 2:
        truth = np.where((np.arange(8) == 1) & (truth >= 2), 1, truth)
    rows = _rows(truth, p, error)
    moved, may_be_object = _refined(first, n, priors, variances, p)
    images = [
        _Image(rows[rows[:, 0].astype(int) == i], *parts)
        for i, parts in enumerate(
            zip(locations, scores, [priors] * n, [variances] * n, moved, may_be_object, strict=True)
        )
    ]
    matched = [_matched(image, p) for image in images]
    chosen = [_mined(image, *found, p) for image, found in zip(images, matched, strict=True)]
    return _assembled(images, chosen, p)


def _refined(
    first: Sequence[np.ndarray], n: int, priors: np.ndarray, variances: np.ndarray, p: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return the priors of each image as the first stage moves them [N, P, 4], and which may be objects [N, P].

    (sfzhang15/RefineDet, bbox_util.cpp, CasRegFindMatches and MineHardExamples)
    """
    moved, may_be_object = np.broadcast_to(priors, (n, *priors.shape)), np.ones((n, len(priors)), bool)
    if first:
        may_be_object = first[0].reshape(n, -1, 2)[..., 1] >= np.float32(p.objectness_score)
    if len(first) > 1:
        used = None if p.encode_variance_in_target else variances
        moved = np.array([decode(shift, priors, used, p.code_type) for shift in first[1].reshape(n, -1, 4)])
    return moved, may_be_object


def _rows(truth: np.ndarray, p: Any, error: Error) -> np.ndarray:
    """Return the true boxes that count. (GetGroundTruth)"""
    rows = truth[truth[:, 0].astype(int) != -1]
    if (rows[:, 1].astype(int) == p.background_label_id).any():
        raise error(f"the true boxes hold the background's label, {p.background_label_id}")
    rows = rows if p.use_difficult_gt else rows[rows[:, 7] == 0]
    labels = rows[:, 1].astype(int)
    wrong = labels[(labels < 0) | (labels >= p.num_classes)]
    if wrong.size and not (p.map_object_to_agnostic and p.mining_type == NO_MINING):
        raise error(f"the true boxes hold label {wrong[0]}; expected 0 to {p.num_classes - 1}, as num_classes says")
    return rows


def _matched(image: _Image, p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the true box of each prior for each class of locations, and its overlap: [L, P] both. (FindMatches)"""
    count = len(image.locations)
    indices = np.full((count, len(image.priors)), FREE)
    most = np.zeros(indices.shape, np.float32)
    if not len(image.truth):
        return indices, most
    if p.use_prior_for_matching:
        index, overlap = _match(image.moved, image.boxes, p)
        for label in range(count):
            if p.share_location:
                indices[label], most[label] = index, overlap
            elif label != p.background_label_id:
                own = (index > FREE) & (image.classes[np.maximum(index, 0)] == label)
                indices[label], most[label] = np.where(own, index, FREE), overlap
        return indices, most
    for label in range(count):
        if p.share_location or label != p.background_label_id:
            of_label = np.arange(len(image.truth)) if p.share_location else np.flatnonzero(image.classes == label)
            index, most[label] = _match(image.decoded(label, p), image.boxes[of_label], p)
            indices[label] = np.where(index > FREE, of_label[np.maximum(index, 0)] if of_label.size else index, index)
    return indices, most


def _match(boxes: np.ndarray, truth: np.ndarray, p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return for each box the true one or FREE or IGNORED, and how much it overlaps. (MatchBBox)"""
    index, most = np.full(len(boxes), FREE), np.zeros(len(boxes), np.float32)
    if not len(truth):
        return index, most
    table = overlaps(boxes, truth)
    table[table <= LEAST_OVERLAP] = -1
    if p.ignore_cross_boundary_bbox:
        outside = ((boxes < 0) | (boxes > 1)).any(1)
        index[outside], table[outside] = IGNORED, -1
    most = np.maximum(table.max(1), 0)
    left = table.copy()
    for _ in range(len(truth)):  # the best pair first; each true box and each prior is taken once
        box, true = np.unravel_index(int(left.argmax()), left.shape)
        if left[box, true] < 0:
            break
        index[box], most[box] = true, left[box, true]
        left[box], left[:, true] = -1, -1
    if p.match_type == PER_PREDICTION:
        best = table.argmax(1)
        overlap = table[np.arange(len(boxes)), best]
        more = (index == FREE) & (overlap >= np.float32(p.overlap_threshold)) & (overlap > 0)
        index[more] = best[more]
    return index, most


def _mined(image: _Image, indices: np.ndarray, most: np.ndarray, p: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the matches that count [L, P], and the priors without one whose scores count [P]. (MineHardExamples)"""
    negatives = np.zeros(len(image.priors), bool)
    if p.mining_type == NO_MINING or not len(image.truth):
        return indices, negatives
    (index,), (overlap,) = indices, most
    loss = _score_losses(image, index, p)
    eligible = np.flatnonzero((index == FREE) & (overlap < np.float32(p.neg_overlap)) & image.may_be_object)
    wanted = rounded(int((index > FREE).sum()) * p.neg_pos_ratio)
    wanted = wanted if abs(wanted) < BEYOND_INT else -BEYOND_INT  # what C++ makes of larger ones, and of NaN
    count = max(min(int(wanted), eligible.size), 0)
    if p.mining_type == HARD_EXAMPLE:
        loss = loss + _location_losses(image, index, p)
        eligible = np.flatnonzero(image.may_be_object)
        count = min(p.sample_size, eligible.size)
    if p.HasField("nms_param") and p.nms_param.nms_threshold > 0:
        order = _suppressed(image, eligible[np.argsort(-loss[eligible], kind="stable")], p)
    else:
        order = eligible[descending(loss[eligible])]
    selected = np.isin(np.arange(len(index)), order[:count])
    negatives = selected & (index == FREE)
    if p.mining_type == HARD_EXAMPLE:
        index = np.where((index > FREE) & ~selected, FREE, index)
    return index[None], negatives


def _suppressed(image: _Image, order: np.ndarray, p: Any) -> np.ndarray:
    """Return what suppression leaves of the priors in this order. (ApplyNMS)"""
    boxes = image.priors if p.use_prior_for_nms else image.decoded(0, p)
    top_k = p.nms_param.top_k
    order = order[:top_k] if top_k > -1 else order
    order = order[areas(boxes[order]) >= np.float32(LEAST_AREA)]
    return np.array(list(suppress(boxes, order, p.nms_param.nms_threshold)), int)


def _labels(image: _Image, index: np.ndarray, p: Any) -> np.ndarray:
    """Return the class that each prior should have."""
    if not len(image.truth):
        return np.full(len(index), p.background_label_id)
    return np.where(index > FREE, image.classes[np.maximum(index, 0)], p.background_label_id)


def _score_losses(image: _Image, index: np.ndarray, p: Any) -> np.ndarray:
    """Return the loss of each prior's scores. (ComputeConfLoss)"""
    x, chosen = image.scores, _labels(image, index, p)
    if p.conf_loss_type == LOGISTIC:
        target = np.arange(p.num_classes) == chosen[:, None]
        own = exactly(np.log, 1 + exactly(np.exp, -abs(x))) - x * (target.astype(np.float32) - (x >= 0))
        return own.cumsum(1)[:, -1]
    powers = exactly(np.exp, x - x.max(1, keepdims=True))
    probability = powers[np.arange(len(x)), chosen] / powers.cumsum(1)[:, -1]
    return -exactly(np.log, np.maximum(probability, np.finfo(np.float32).tiny))


def _location_losses(image: _Image, index: np.ndarray, p: Any) -> np.ndarray:
    """Return the loss of each prior's location, 0 where it is not matched. (ComputeLocLoss)"""
    target, weight, scale = _location_targets(image, index, 0, p, image.priors)
    size = abs((image.locations[0] - target) * scale * weight)
    smooth = np.where(size < 1, 0.5 * size**2, size - 0.5)
    return (smooth if p.loc_loss_type else 0.5 * size**2).sum(1).astype(np.float32)


def _location_targets(image: _Image, index: np.ndarray, label: int, p: Any, base: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return targets, weights and scales [P, 4] of a class's locations, relative to `base`. (EncodeLocPrediction)"""
    target = np.zeros_like(base)
    weight, scale = np.zeros_like(target), np.ones_like(target)
    at = np.flatnonzero(index > FREE)
    if at.size:
        variances = None if p.encode_variance_in_target else image.variances[at]
        target[at] = encode(image.boxes[index[at]], base[at], variances, p.code_type)
        weight[at] = 1
        if p.bp_inside:
            box = base if p.use_prior_for_matching else image.decoded(label, p, base)
            weight[at] = (box[at] >= 0) & (box[at] <= 1)
        if p.encode_variance_in_target:
            scale[at] = 1 / image.variances[at]
    return target, weight, scale


def _assembled(images: list[_Image], chosen: list[tuple[np.ndarray, np.ndarray]], p: Any) -> Matches:
    parts = [
        [_location_targets(image, index, label, p, image.moved) for label, index in enumerate(indices)]
        for image, (indices, _) in zip(images, chosen, strict=True)
    ]
    targets, loc_weights, scales = (
        np.array([[each[i] for each in part] for part in parts]).transpose(0, 2, 1, 3) for i in range(3)
    )
    hits = np.array(
        [[_hits(image, index, p) for index in indices] for image, (indices, _) in zip(images, chosen, strict=True)]
    )
    labels = np.full((len(images), hits.shape[2]), p.background_label_id)
    for own in hits.swapaxes(0, 1):  # of several the last counts
        labels = np.where(own > FREE, own, labels)
    negatives = np.array([negative for _, negative in chosen])
    weights = (hits > FREE).any(1) | negatives if p.mining_type != NO_MINING else np.ones_like(negatives)
    rows = _targets(hits, labels, p) if p.conf_loss_type == LOGISTIC else labels.reshape(-1, 1).astype(np.int64)
    count = int(sum((indices > FREE).sum() for indices, _ in chosen))
    conf_weights = weights.reshape(-1, 1).astype(np.float32)
    return Matches(targets, loc_weights, scales, rows, conf_weights, count)


def _hits(image: _Image, index: np.ndarray, p: Any) -> np.ndarray:
    """Return the class that each prior is matched with; FREE for none."""
    if p.map_object_to_agnostic:
        return np.where(index > FREE, p.background_label_id + 1, FREE)
    return np.where(index > FREE, _labels(image, index, p), FREE)


def _targets(hits: np.ndarray, labels: np.ndarray, p: Any) -> np.ndarray:
    """Return the targets [N·P, classes] of a logistic loss. (EncodeConfPrediction)

    hits [N, L, P], of each class of locations; labels [N, P]
    """
    images, priors = labels.shape
    targets = np.full(images * priors * p.num_classes, float(p.background_label_id), np.float32)
    if p.mining_type == NO_MINING:  # the reference moves on by one value per prior, not by one row
        image, _, prior = np.nonzero(hits > FREE)
        targets[image * priors + prior * p.num_classes + hits[hits > FREE]] = 1
    else:
        row = np.arange(images * priors) * p.num_classes
        targets[row + labels.ravel()] = 1
    return targets.reshape(-1, p.num_classes)
