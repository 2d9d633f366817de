"""Columns of features at places, patches and triplets, of a fork that learns to colour images. (Zhan et al. 2018)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Shape, layer
from ..reread import without_gradient
from .flow import check_images
from .proposals import read_settings
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["GraphToTripletLayer", "RandomSamplingLayer", "SparseHypercolumnExtractor", "StripDecimals"]

INSIDE = np.float32(1.0001)  # how far before the last element a place may lie
SMALLER = "the random numbers and the form of the regions are not reproduced"


@layer("StripDecimals", dialect="mix-and-match")
class StripDecimals(Layer):
    """y = x without its decimals; no gradient. (XiaohangZhan/mix-and-match, strip_decimals_layer.cpp)"""

    keeps_shapes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda x: [g.cast(g.cast(x, np.int64), np.float32)])


@layer("SparseHypercolumnExtractor", dialect="mix-and-match")
class SparseHypercolumnExtractor(Layer):
    """y = activation_mult · each map at (place - offset) / scale, by bilinear interpolation, one map after the other.

    Bottoms: places [N, P, 2] of y and x, then maps [N, C, H, W]; top [N · P, channels of all]. Places are cut to the
    map, and get no gradient. (XiaohangZhan/mix-and-match, sparse_hypercolumn_extractor_layer.cu)
    """

    adds = segmentation_pb2.LayerParameter
    num_bottoms = (2, None)

    def settings(self, maps: int) -> list[tuple[float, float, float, float]]:
        """Return scale, the offsets down and across, and the factor, of each map."""
        p = self.added.sparse_hypercolumn_extractor_param
        factors = [*p.activation_mult, *[1.0] * (maps - len(p.activation_mult))]
        lists = (p.scale, p.offset_height, p.offset_width, factors)
        if any(len(values) != maps for values in lists) or any(scale <= 0 for scale in p.scale):
            raise self.error(f"expected a positive scale, offset_height and offset_width for each of {maps} maps")
        return list(zip(*lists, strict=True))

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom > 0

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom:
            return None
        size = np.array(bottoms[1][2:]) * self.added.sparse_hypercolumn_extractor_param.scale[0]
        return (random.uniform(0, 1, bottoms[0][:3]) * size).reshape(bottoms[0]).astype(np.float32)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        places, *maps = bottoms
        self.settings(len(maps))
        if len(places) < 3 or places[2] != 2 or math.prod(places[3:]) != 1:
            raise self.error(f"expected places (N, P, 2), found shape {places}")
        for shape in maps:
            if check_images(self, shape)[0] != places[0] or min(shape[2:]) < 2:
                raise self.error(f"expected maps of {places[0]} items and at least 2 x 2, found shape {shape}")
        return ((places[0] * places[1], sum(shape[1] for shape in maps)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        places = g.reshape(g.detach(bottoms[0]), *g.shape(bottoms[0])[:3])
        own = zip(bottoms[1:], self.settings(len(bottoms) - 1), strict=True)
        columns = [self.column(g, places, g.shape(bottoms[0])[:2], x, settings) for x, settings in own]
        return (g.emit("Concat", *columns, axis=1) if len(columns) > 1 else columns[0],)

    def column(self, g: Graph, places: str, count: Shape, x: str, settings: tuple[float, float, float, float]) -> str:
        """Emit a map [N · P, C] at the places."""
        (n, c, height, width), (scale, down, across, factor) = g.shape(x), settings
        moved = g.emit("Div", g.emit("Sub", places, g.constant([down, across])), g.constant(scale))
        most = np.array([height, width], np.float32) - INSIDE
        place = g.emit("Min", g.emit("Max", moved, g.constant(0)), g.constant(most))
        low = g.emit("Floor", place)
        ahead = g.declare(g.emit("Sub", place, low), (*count, 2))
        first = g.declare(g.cast(low, np.int64), (*count, 2))
        rows = g.declare(g.transpose(g.reshape(x, n, c, height * width), 0, 2, 1), (n, height * width, c))
        rows = g.reshape(rows, n * height * width, c)
        whole = None
        for row, column in np.ndindex(2, 2):
            step = g.emit("Add", first, g.constant([row, column], np.int64))
            at = g.emit("ReduceSum", g.emit("Mul", step, g.constant([width, 1], np.int64)), g.ints(2), keepdims=0)
            at = g.emit("Add", at, g.constant(np.arange(n)[:, None] * height * width, np.int64))
            part = g.emit("Mul", g.emit("Gather", rows, at, axis=0), self.weight(g, ahead, (row, column)))
            whole = part if whole is None else g.emit("Add", whole, part)
        assert whole is not None
        scaled = g.emit("Mul", whole, g.constant(factor)) if factor != 1 else whole
        return g.reshape(g.declare(scaled, (*count, c)), count[0] * count[1], c)

    @staticmethod
    def weight(g: Graph, ahead: str, corner: tuple[int, int]) -> str:
        """Emit the weight [N, P, 1] of a corner: of (0, 0) the product of 1 - ahead."""
        base, sign = 1 - np.array(corner), 2 * np.array(corner) - 1
        part = g.emit("Add", g.emit("Mul", ahead, g.constant(sign)), g.constant(base))
        return g.emit("ReduceProd", part, g.ints(2), keepdims=1)


@layer("sampling_layers.RandomSamplingLayer", dialect="mix-and-match")
class RandomSamplingLayer(Computed):
    """num patches of images, each around a place of one class of the labels, and the class of each [num, 1].

    Bottoms: images [N, C, H, W] and labels [N, 1, H, W]; patches [num, C, output_size, output_size]. Here a patch is a
    square of minsz to maxsz around any place. (XiaohangZhan/mix-and-match, resources/sampling_layers.py)
    """

    num_bottoms = (2, 2)
    num_tops = (2, 2)
    left_out = SMALLER

    def setting(self, name: str) -> int:
        """Return a whole number of param_str."""
        value = read_settings(self.proto.python_param.param_str).get(name)
        if not isinstance(value, int) or value < 1:
            raise self.error(f"expected a positive {name} in param_str, found {value}")
        return value

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        images, labels = (check_images(self, shape) for shape in bottoms)
        count, size = self.setting("num"), self.setting("output_size")
        if images[0] != labels[0] or images[2:] != labels[2:] or count % images[0]:
            raise self.error(f"expected images and labels of one size, and num a multiple of their number: {bottoms}")
        return ((count, images[1], size, size), (count, 1))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 21 if bottom == 1 else None  # as in PASCAL VOC

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (images, labels), (patches, classes) = bottoms, self.tops_at_setup([bottom.shape for bottom in bottoms])
        n, _, height, width = images.shape
        found, kinds = np.zeros(patches, np.float32), np.zeros(classes, np.float32)
        for index in range(len(found)):
            item = index // (len(found) // n)
            y, x = random.integers(height), random.integers(width)
            side = random.integers(self.setting("minsz"), self.setting("maxsz") + 1)
            steps = (np.arange(patches[2]) + 0.5) / patches[2] * side - side / 2
            rows, columns = (np.round(at + steps).astype(int) for at in (y, x))
            inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
            window = images[item][:, rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)]
            found[index], kinds[index] = window * inside, labels[item, 0, y, x]
        return found, kinds


@layer("sampling_layers.GraphToTripletLayer", dialect="mix-and-match")
class GraphToTripletLayer(Layer):
    """x in triplets: of each item itself, one of its class and one of another; 0 where there is none.

    Bottoms: x [N, …] and labels [N, …]. Partners are drawn among those that came before in a random order, and where
    there are none among all. (XiaohangZhan/mix-and-match, resources/sampling_layers.py)
    """

    num_bottoms = (2, 2)
    num_tops = (3, 3)
    decides = True
    decisive = slice(1, 2)
    left_out = "the random numbers are not reproduced"

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 21 if bottom == 1 else None

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, labels = bottoms
        if not x or labels[:1] != x[:1] or (len(labels) > 1 and max(labels[1:]) > 1):
            raise self.error(f"expected items and a label for each, found shapes {x} and {labels}")
        return (x,) * 3

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        labels = bottoms[0].ravel()
        partners = np.full((2, len(labels)), -1)
        seen: list[int] = []
        for item in random.permutation(len(labels)):
            partners[:, item] = self.drawn(labels, int(item), seen, random)
            seen.append(int(item))
        for item in np.flatnonzero((partners < 0).any(0)):
            late = self.drawn(labels, int(item), [other for other in seen if other != item], random)
            partners[:, item] = np.where(partners[:, item] < 0, late, partners[:, item])
        partners[0] = np.where(partners[0] < 0, np.arange(len(labels)), partners[0])
        return np.maximum(partners, 0).astype(np.int64), (partners[1] >= 0).astype(np.float32)

    @staticmethod
    def drawn(labels: np.ndarray, item: int, others: Sequence[int], random: np.random.Generator) -> list[int]:
        """Return one of the others of the item's class and one of another class, -1 for none."""
        alike = [other for other in others if labels[other] == labels[item]]
        unlike = [other for other in others if labels[other] != labels[item]]
        return [int(random.choice(pool)) if pool else -1 for pool in (alike, unlike)]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        index, is_there = self.input_decisions(g)
        shape = g.shape(bottoms[0])
        pairs = g.emit("Gather", bottoms[0], index, axis=0)
        g.declare(pairs, (2, *shape))
        alike, unlike = (
            g.reshape(g.declare(part, (1, *shape)), *shape)
            for part in g.emit_many("Split", pairs, g.ints(1, 1), count=2, axis=0)
        )
        there = g.reshape(is_there, -1, *(1,) * (len(shape) - 1))
        return g.emit("Identity", bottoms[0]), alike, g.emit("Mul", unlike, there)
