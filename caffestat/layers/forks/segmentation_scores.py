"""How well maps of classes agree with the true ones."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.lazy import np
from caffestat.schema.forks import metric_pb2

from ..base import Shape, layer
from .staged import Computed

__all__ = ["SegmentationEvaluate", "resize_linear"]

COEFFICIENT = 2048  # shares of pixels are in these parts


@layer("SegmentationEvaluate", dialect="yolo")
class SegmentationEvaluate(Computed):
    """y[c] = places where both maps are above `threshold` / places where one is, of the first image; top [1, 1, 1, C].

    Bottoms: a map [N, C, H, W] of values from 0 to 1 and the true one [N, C, h, w]. Where their sizes differ, the first
    is cut to bytes and resized as OpenCV's INTER_LINEAR does: the reference hands INTER_AREA over as a factor, which
    does not count. y is -1 then for a class that the true map lacks, and 0 in maps of one size.
    (eric612/MobileNet-YOLO, segmentation_evaluate_layer.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.added.segmentation_evaluate_param.HasField("num_classes"):
            raise self.error("expected num_classes in segmentation_evaluate_param")
        if any(len(shape) != 4 or not all(shape) for shape in bottoms) or bottoms[0][1] != bottoms[1][1]:
            raise self.error(f"expected maps (N, C, H, W) of as many classes, found shapes {list(bottoms)}")
        return ((1, 1, 1, bottoms[1][1]),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random.integers(0, 2, bottoms[1]).astype(np.float32) if bottom else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        limit = np.float32(self.added.segmentation_evaluate_param.threshold)
        maps, truth = (bottom[0].astype(np.float32) for bottom in bottoms)
        true, is_resized = truth > limit, maps.shape != truth.shape
        if is_resized:
            levels = (maps * np.float32(255)).astype(np.int64).astype(np.uint8)
            found = np.stack([resize_linear(level, *truth.shape[1:]) for level in levels]) > int(
                limit * np.float32(255)
            )
        else:
            found = maps > limit
        shared, either = (both.sum((1, 2)) for both in (true & found, true | found))
        scores = shared / np.maximum(either, 1)
        if is_resized:
            scores[~true.any((1, 2))] = -1
        return (scores.astype(np.float32).reshape(1, 1, 1, -1),)


def resize_linear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return bytes [H, W] in another size, as OpenCV's INTER_LINEAR: interpolated in fixed-point numbers."""
    if image.shape == (2 * height, 2 * width):
        return ((image.reshape(height, 2, width, 2).astype(int).sum((1, 3)) + 2) >> 2).astype(np.uint8)
    at, after, first, second = _shares(image.shape[1], width)
    wide = image.astype(np.int64)
    across = (wide[:, at] * first + wide[:, after] * second) >> 4
    at, after, first, second = _shares(image.shape[0], height)
    upper, lower = (across[at] * first[:, None]) >> 16, (across[after] * second[:, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _shares(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for each new pixel the two old ones around it, and the share of each."""
    place = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    before = np.floor(place).astype(int)
    share = place - before.astype(np.float32)
    first, second = (np.rint(part * np.float32(COEFFICIENT)).astype(np.int64) for part in (1 - share, share))
    return np.clip(before, 0, old - 1), np.clip(before + 1, 0, old - 1), first, second
