"""Boxes [x1, y1, x2, y2] in numpy: overlaps, suppression, and offsets relative to other boxes, all in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from caffestat.lazy import np

__all__ = ["CORNER", "areas", "decode", "encode", "exactly", "overlaps", "suppress"]

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3
"""How SSD describes a box relative to another: PriorBoxParameter.CodeType."""


def exactly(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return a function's values correctly rounded, as the C library's are: ties and thresholds depend on it."""
    return np.asarray(function(x.astype(np.float64)), np.float32)


def areas(boxes: np.ndarray, extra: float = 0) -> np.ndarray:
    """Return the areas of boxes [..., 4], 0 for those of negative width or height.

    extra: added to width and height, 1 where coordinates are those of pixels.
    """
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    full = (width + np.float32(extra)) * (height + np.float32(extra))
    return np.where((width < 0) | (height < 0), np.float32(0), full)


def overlaps(a: np.ndarray, b: np.ndarray, extra: float = 0) -> np.ndarray:
    """Return intersection over union [N, M] of boxes a [N, 4] and b [M, 4]; 0 where they do not meet.

    extra: as in `areas`.
    """
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    size = high - low + np.float32(extra)
    meet = (size > 0).all(-1)
    shared = np.where(meet, size[..., 0] * size[..., 1], np.float32(0))
    union = areas(a, extra)[:, None] + areas(b, extra)[None, :] - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(meet, shared / union, np.float32(0))


def suppress(
    boxes: np.ndarray, order: Sequence[int] | np.ndarray, threshold: float, extra: float = 0, eta: float = 1
) -> Iterator[int]:
    """Yield the indices of the boxes that non-maximum suppression keeps, from `order`, the best first.

    A box goes when it overlaps a kept one by more than the threshold, which `eta` lowers with each kept one, down to
    0.5. (weiliu89/caffe, bbox_util.cpp ApplyNMSFast)
    """
    if eta >= 1:
        yield from _suppress_at_once(boxes, np.asarray(order, int), np.float32(threshold), extra)
        return
    kept: list[int] = []
    limit = np.float32(threshold)
    for index in order:
        if kept and overlaps(boxes[index : index + 1], boxes[kept], extra).max() > limit:
            continue
        kept.append(int(index))
        if eta < 1 and limit > 0.5:
            limit = limit * np.float32(eta)
        yield int(index)


def _suppress_at_once(boxes: np.ndarray, order: np.ndarray, limit: np.float32, extra: float) -> Iterator[int]:
    """Do what `suppress` does with one threshold: each box that is kept takes all those away that overlap it."""
    left = np.ascontiguousarray(boxes[order].T)
    size = areas(boxes[order], extra)
    while len(order):
        yield int(order[0])
        wide, high = (
            np.minimum(left[axis + 2, 1:], left[axis + 2, 0])
            - np.maximum(left[axis, 1:], left[axis, 0])
            + np.float32(extra)
            for axis in range(2)
        )
        shared = np.where((wide > 0) & (high > 0), wide * high, np.float32(0))
        with np.errstate(invalid="ignore", divide="ignore"):
            goes = (shared > 0) & (shared / (size[1:] + size[0] - shared) > limit)
        stays = np.flatnonzero(~goes) + 1
        order, left, size = order[stays], left[:, stays], size[stays]


def _centers(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centers and sizes [..., 2]."""
    return (boxes[..., :2] + boxes[..., 2:]) / np.float32(2), boxes[..., 2:] - boxes[..., :2]


def encode(boxes: np.ndarray, priors: np.ndarray, variances: np.ndarray | None, code: int) -> np.ndarray:
    """Return the offsets that describe boxes relative to priors, all [N, 4], divided by the variances if given.

    (weiliu89/caffe, bbox_util.cpp EncodeBBox)
    """
    if code == CENTER_SIZE:
        (center, size), (prior, prior_size) = _centers(boxes), _centers(priors)
        with np.errstate(divide="ignore", invalid="ignore"):
            offsets = np.concatenate([(center - prior) / prior_size, exactly(np.log, size / prior_size)], -1)
    else:
        offsets = boxes - priors
        if code == CORNER_SIZE:
            offsets = offsets / np.tile(_centers(priors)[1], 2)
    return offsets if variances is None else offsets / variances


def decode(offsets: np.ndarray, priors: np.ndarray, variances: np.ndarray | None, code: int) -> np.ndarray:
    """Return the boxes [N, 4] that offsets describe relative to priors; the inverse of `encode`.

    (weiliu89/caffe, bbox_util.cpp DecodeBBox)
    """
    if variances is not None:
        offsets = offsets * variances
    prior, size = _centers(priors)
    if code == CENTER_SIZE:
        center = offsets[..., :2] * size + prior
        with np.errstate(over="ignore"):
            half = exactly(np.exp, offsets[..., 2:]) * size / np.float32(2)
        return np.concatenate([center - half, center + half], -1)
    return priors + (offsets * np.tile(size, 2) if code == CORNER_SIZE else offsets)
