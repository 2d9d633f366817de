"""Patches around the largest values of maps, and maps laid back where they come from. (zimenglan-sysu-512)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.schema.forks import pose_pb2

from ..base import Layer, Shape, layer
from .interpolation import Resampled

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["CropPatchFromMaxFeaturePosition", "ResizeWithMap"]

UNKNOWN_MAP = "the offset between its bottoms is not known before the net runs"


class _OnAnother(Layer):
    """Bottom 1 lies on bottom 0 as the net says; a top for each further bottom, all of bottom 0's size."""

    adds = pose_pb2.LayerParameter
    maps_bottoms = True
    num_bottoms = (3, None)
    num_tops = (1, None)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom > 1

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless the bottoms fit; note when their places do not."""
        first = bottoms[0]
        if len(bottoms) - 2 != self.top_count:
            raise self.error(f"expected a top for each bottom but the first two, found {self.top_count}")
        if any(len(shape) != 4 or shape[0] != first[0] for shape in bottoms):
            raise self.error(f"expected bottoms (N, C, H, W) of as many items, found shapes {list(bottoms)}")
        if any(shape[2:] != first[2:] for shape in bottoms[2:]):
            raise self.error(f"expected bottoms of height and width {first[2:]}, found shapes {list(bottoms[2:])}")
        self.why_uncomputed = "" if self.bottom_map else UNKNOWN_MAP

    def lies_at(self, axis: int, index: int) -> Fraction:
        """Return where a place of bottom 1 lies along an axis of bottom 0."""
        assert self.bottom_map
        factor, shift = self.bottom_map[axis]
        return factor * index + shift


@layer("CropPatchFromMaxFeaturePosition", dialect="pose")
class CropPatchFromMaxFeaturePosition(_OnAnother):
    """Patches [N, C · C₁, h, w] of bottoms 2 …, one around the largest value of each of the C₁ maps of bottom 1.

    h and w are crop_factor of bottom 0's; what lies outside is 0. match_channel, one for each top: map c cuts channel c
    only, top [N, C, h, w]. Where bottom 1 lies on bottom 0 follows from the layers between them.
    (zimenglan-sysu-512/pose_action_caffe, crop_patch_from_max_feature_position_layer.cpp)
    """

    decides = True
    decisive = slice(1, 2)

    def size(self, shape: Shape) -> tuple[int, int]:
        """Return height and width of the patches."""
        factor = np.float32(self.added.crop_patch_from_max_feature_position_param.crop_factor)
        high, wide = (max(1, math.floor(np.float32(length) * factor)) for length in shape[2:])
        return high, wide

    def matches(self, top: int) -> bool:
        """Tell whether a map cuts the channel of its own number only."""
        written = self.added.crop_patch_from_max_feature_position_param.match_channel
        return top < len(written) and written[top]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        maps, size = bottoms[1][1], self.size(bottoms[0])
        for top, shape in enumerate(bottoms[2:]):
            if self.matches(top) and shape[1] != maps:
                raise self.error(f"match_channel expects {maps} channels, found a bottom of shape {shape}")
        counts = [shape[1] * (1 if self.matches(top) else maps) for top, shape in enumerate(bottoms[2:])]
        return tuple((bottoms[0][0], count, *size) for count in counts)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return the place in bottom 0 of each element of a patch, [N, C₁, h · w]: one behind the last for none."""
        (maps,) = bottoms
        best = maps.reshape(*maps.shape[:2], -1).argmax(-1)
        image = self.decided_shapes[0][2:]
        parts = []
        for axis, (places, length, room) in enumerate(
            zip(np.divmod(best, maps.shape[3]), self.size(self.decided_shapes[0]), image, strict=True)
        ):
            starts = [math.floor(self.lies_at(axis, int(place)) - Fraction(length, 2)) for place in places.ravel()]
            within = np.array(starts).reshape(*best.shape, 1) + np.arange(length)
            parts.append(np.where((within >= 0) & (within < room), within, -1))
        rows, columns = parts[0][..., :, None], parts[1][..., None, :]
        found = np.where((rows < 0) | (columns < 0), math.prod(image), rows * image[1] + columns)
        return (found.reshape(*best.shape, -1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (places,) = self.input_decisions(g)
        shapes = self.tops([g.shape(bottom) for bottom in bottoms])
        return [
            self.lower_one(g, bottom, places, shape, self.matches(top))
            for top, (bottom, shape) in enumerate(zip(bottoms[2:], shapes, strict=True))
        ]

    @staticmethod
    def lower_one(g: Graph, x: str, places: str, top: Shape, matches: bool) -> str:
        batch, channels, *image = g.shape(x)
        maps, size = g.shape(places)[1:]
        flat = g.reshape(x, batch, channels, math.prod(image))
        padded = g.emit("Concat", flat, g.constant(np.zeros((batch, channels, 1))), axis=2)
        if not matches:  # every map cuts every channel
            padded = g.emit("Tile", g.declare(padded, (batch, channels, math.prod(image) + 1)), g.ints(1, maps, 1))
            places = g.emit("Expand", g.emit("Unsqueeze", places, g.ints(2)), g.ints(batch, maps, channels, size))
            places = g.reshape(g.declare(places, (batch, maps, channels, size)), batch, maps * channels, size)
        cut = g.emit("GatherElements", padded, places, axis=2)
        return g.reshape(g.declare(cut, (batch, top[1], size)), *top)


@layer("ResizeWithMap", dialect="pose")
class ResizeWithMap(_OnAnother, Resampled):
    """Bottoms 2 … as bottom 1 lies on bottom 0: bilinear interpolation there, 0 outside; tops of bottom 1's size.

    Where bottom 1 lies follows from the layers between them. Behind patches, whose places are known only while the net
    runs, it is not computed. (zimenglan-sysu-512/pose_action_caffe, resize_with_map_layer.cpp and util_img.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_bottoms = (3, None)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return tuple((*shape[:2], *bottoms[1][2:]) for shape in bottoms[2:])

    def matrix(self, axis: int, length: int, out: int) -> np.ndarray:
        """Return [out, length]: how much of each place of an axis an output gets."""
        weights = np.zeros((out, length), np.float32)
        for index in range(out):
            place = self.lies_at(axis, index)
            first = math.floor(place)
            for source, share in ((first, 1 - (place - first)), (first + 1, place - first)):
                if 0 <= source < length:
                    weights[index, source] = share
        return weights

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        old, new = g.shape(bottoms[0])[2:], g.shape(bottoms[1])[2:]
        matrices = [self.matrix(axis, *sizes) for axis, sizes in enumerate(zip(old, new, strict=True))]
        return [self.resampled(g, bottom, matrices) for bottom in bottoms[2:]]
