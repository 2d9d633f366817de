"""Segments of images: which neighbouring places belong together, and where DetectNet's objects are."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.schema.forks import segments_pb2

from ..base import TEST, Layer, Shape, layer
from ..reread import emit_closed
from .evaluated import EvaluatedLoss
from .sorting import descending
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["Affinity", "ConnectedComponent", "DetectNetTransformation", "MalisLoss"]

LABEL_ROW = 16  # values of a true box of DetectNet
CELL_ROW = 8  # values of a cell before the coverages
SMALLEST = float(np.finfo(np.float32).eps)


@layer("Affinity", dialect="neural")
class Affinity(Layer):
    """How much neighbours belong together: y[0] = min(x[i, j], x[i + 1, j]), y[1] = min(x[i, j], x[i, j + 1]).

    x is the channel `offset` of a bottom's first item; top [1, 2, H, W], 0 in the last row and column. As the reference
    has it, dx[i, j] = dy[0] + dy[1] whichever is the smaller, and channel (offset + 1) % 2 gets its negative.
    (naibaf7/caffe, affinity_layer.cpp)
    """

    adds = segments_pb2.LayerParameter
    num_bottoms = (1, None)
    num_tops = (1, None)

    def offset(self, index: int) -> int:
        """Return the channel that is looked at in a bottom."""
        offsets = self.added.affinity_param.offset
        return int(offsets[index]) if index < len(offsets) else 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) != self.top_count:
            raise self.error(f"expected a top for each bottom, found {self.top_count} for {len(bottoms)}")
        for index, shape in enumerate(bottoms):
            if len(shape) != 4 or not all(shape) or not 0 <= self.offset(index) < shape[1]:
                raise self.error(f"expected a bottom (N, C, H, W) with channel {self.offset(index)}, found {shape}")
        return tuple((1, 2, *shape[2:]) for shape in bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [self.lower_one(g, x, self.offset(index)) for index, x in enumerate(bottoms)]

    @staticmethod
    def lower_one(g: Graph, x: str, offset: int) -> str:
        shape = g.shape(x)
        high, wide = shape[2] - 1, shape[3] - 1
        signs = np.zeros((*shape[:2], 1, 1))
        signs[0, (offset + 1) % 2 : (offset + 1) % 2 + 1] = -1
        signs[0, offset] = 1
        pads = g.ints(0, 0, 0, 0, 0, 0, 1, 1)

        def part(x: str, row: int, column: int) -> str:
            starts, ends = g.ints(0, offset, row, column), g.ints(1, offset + 1, row + high, column + wide)
            return g.emit("Slice", x, starts, ends, g.ints(0, 1, 2, 3))

        def forward(x: str) -> str:
            least = [g.emit("Min", part(x, 0, 0), part(x, *step)) for step in ((1, 0), (0, 1))]
            both = g.declare(g.emit("Concat", *least, axis=1), (1, 2, high, wide))
            return g.emit("Pad", both, pads)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            both = tape.emit("Slice", dy, tape.ints(0, 0), tape.ints(high, wide), tape.ints(2, 3))
            total = tape.emit("Pad", tape.emit("ReduceSum", both, tape.ints(1), keepdims=1), pads)
            return [tape.emit("Mul", total, tape.constant(signs))]

        return emit_closed(g, [x], forward, gradient)


@layer("ConnectedComponent", dialect="neural")
class ConnectedComponent(Computed):
    """Numbers of the segments of each map: neighbours of one label share one; 0 stays 0. No gradient.

    They count from the largest label + 1, in the order of the segments' first places; labels are read as signed bytes.
    (naibaf7/caffe, connected_component_layer.cpp)
    """

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        return (bottoms[0],)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        x = bottoms[0]
        maps = [_numbered(labels) for labels in x.astype(np.int64).reshape(-1, *x.shape[2:])]
        return (np.array(maps, np.float32).reshape(x.shape),)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Return the numbers of the segments of a map of labels."""
    following = max(int(labels.max(initial=0)), 0) + 1
    pixels = labels.astype(np.int8).astype(int)
    high, wide = pixels.shape
    numbers = np.zeros(pixels.shape, int)
    for row, column in zip(*np.nonzero(pixels), strict=True):
        if numbers[row, column]:
            continue
        label, stack = pixels[row, column], [(row, column)]
        numbers[row, column] = following
        while stack:
            y, x = stack.pop()
            for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= b < high and 0 <= a < wide and not numbers[b, a] and pixels[b, a] == label:
                    numbers[b, a] = following
                    stack.append((b, a))
        following += 1
    return numbers


@dataclass(frozen=True)
class _Grid:
    """The places of a map [depth, height, width] and the steps [edges, 3] to the neighbours."""

    shape: Shape
    steps: np.ndarray

    def edges(self) -> Iterator[tuple[int, int, int]]:
        """Yield, for each edge within the map, its index among all, and the places that it joins."""
        strides = np.array([self.shape[1] * self.shape[2], self.shape[2], 1])
        size = math.prod(self.shape)
        places = np.indices(self.shape).reshape(3, -1).T
        for kind, step in enumerate(self.steps):
            ends = places + step
            within = ((ends >= 0) & (ends < self.shape)).all(1)
            starts = np.flatnonzero(within)
            yield from zip(kind * size + starts, starts, ends[within] @ strides, strict=True)


@layer("MalisLoss", dialect="neural")
class MalisLoss(EvaluatedLoss):
    """y = mean over items of half the losses of pairs of places that belong apart and together, over the pairs.

    Bottoms: affinities of neighbours [N, edges, (D,) H, W], the true ones, components [N, 1 or 2, …], 0 for none, and
    the steps to the neighbours [edges, 3]; without these, one along each of the last axes. A pair is joined by the
    smallest affinity of the best path; its loss is a², or (1 - a)² for places of one component, where a is no more than
    the true affinity in the one case and no less in the other. dx is half the sum of a and -(1 - a) over the pairs of
    an edge, over all pairs, whatever dy is; equal edges come as std::sort leaves them. As in the reference, only the
    last item has a gradient. Top 1 is bottom 0. (naibaf7/caffe, malis_loss_layer.cpp)
    """

    num_bottoms = (3, 4)
    num_tops = (1, 2)

    @property
    def ignores_dy(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, truth, components = bottoms[:3]
        if len(x) < 3 or not all(x) or truth != x:
            raise self.error(f"expected affinities (N, edges, …) and the true ones, found shapes {x} and {truth}")
        if components[:1] != x[:1] or components[1:2] not in ((1,), (2,)) or components[2:] != x[2:]:
            raise self.error(f"expected components ({x[0]}, 1 or 2, {str(x[2:])[1:-1]}), found shape {components}")
        if len(bottoms) > 3 and math.prod(bottoms[3]) < 3 * x[1]:
            raise self.error(f"expected {x[1]} steps of 3 values, found shape {bottoms[3]}")
        if len(bottoms) == 3 and x[1] > 3:
            raise self.error(f"expected the steps to {x[1]} neighbours as bottom 3")
        return ((), x)[: self.top_count]

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom == 2:
            return random.integers(0, 3, bottoms[2]).astype(np.float32)
        return self.default_steps(bottoms[0][1]).astype(np.float32).reshape(bottoms[3]) if bottom == 3 else None

    @staticmethod
    def default_steps(edges: int) -> np.ndarray:
        """Return a step along each of the last axes."""
        return np.resize(np.eye(3, dtype=int)[max(3 - edges, 0) :], (edges, 3))

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        x, truth, components = bottoms[:3]
        steps = bottoms[3].ravel()[: 3 * x.shape[1]] if len(bottoms) > 3 else self.default_steps(x.shape[1])
        inner = (1,) * (5 - x.ndim) + x.shape[2:]
        edges = np.array(list(_Grid(inner, steps.reshape(-1, 3).astype(int)).edges()), int).reshape(-1, 3)
        loss, slope = 0.0, np.zeros(x.shape)
        for item in range(len(x)):
            apart = _malis(np.maximum(x[item], truth[item]), components[item, 0], edges, together=False)
            joined = _malis(np.minimum(x[item], truth[item]), components[item, -1], edges, together=True)
            loss += (apart[0] + joined[0]) / 2
            slope[:] = 0
            slope[item] = -(apart[1] + joined[1]) / 2
        return [loss / len(x), x], slope


def _malis(weights: np.ndarray, components: np.ndarray, edges: np.ndarray, together: bool) -> tuple[float, np.ndarray]:
    """Return the loss of one kind of pairs, and what each edge is pulled by, of the weights' shape.

    (Turaga et al. 2009, Maximin affinity learning of image segmentation)
    """
    flat, labels = weights.ravel().astype(float), components.ravel().astype(np.int64)
    counts = Counter(labels[labels != 0].tolist())
    total = sum(counts.values())
    same = sum(count * (count - 1) // 2 for count in counts.values())
    pairs = same if together else total * (total - 1) // 2 - same
    pull, loss = np.zeros(flat.shape), 0.0
    if pairs > 0:
        for edge, joined in _joined(flat, labels, edges, together):
            off = 1 - flat[edge] if together else -flat[edge]
            loss += off * off * joined
            pull[edge] = off * joined / pairs
        loss /= pairs
    return loss, pull.reshape(weights.shape)


def _joined(weights: np.ndarray, labels: np.ndarray, edges: np.ndarray, together: bool) -> Iterator[tuple[int, int]]:
    """Yield the edges of the maximum spanning tree, and how many pairs of one or of two labels each joins."""
    parents = list(range(len(labels)))
    inside = [Counter({label: 1} if label else {}) for label in labels.tolist()]

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    order = descending(weights[edges[:, 0]])
    for edge, start, end in edges[order].tolist():
        a, b = root(start), root(end)
        if a == b:
            continue
        a, b = (b, a) if len(inside[a]) < len(inside[b]) else (a, b)
        alike = sum(count * inside[a][label] for label, count in inside[b].items())
        joined = alike if together else inside[a].total() * inside[b].total() - alike
        if joined:
            yield edge, joined
        parents[b] = a
        inside[a].update(inside[b])
        inside[b] = Counter()


def _cubic(offset: np.ndarray) -> np.ndarray:
    """Return OpenCV's four weights [K, 4] of the neighbours of places that lie at an offset behind the second."""
    a, t = -0.75, np.stack([offset + 1, offset, 1 - offset], 1)
    outer = ((a * t[:, 0] - 5 * a) * t[:, 0] + 8 * a) * t[:, 0] - 4 * a
    inner = ((a + 2) * t[:, 1:] - (a + 3)) * t[:, 1:] ** 2 + 1
    return np.concatenate([outer[:, None], inner, 1 - outer[:, None] - inner.sum(1, keepdims=True)], 1)


def _resized(images: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Return images with one axis of another size, by cubic interpolation as OpenCV's."""
    old = images.shape[axis]
    places = (np.arange(size) + 0.5) * (old / size) - 0.5
    first = np.floor(places).astype(int)
    taps = np.clip(first[:, None] + np.arange(-1, 3), 0, old - 1)
    rows = np.moveaxis(images, axis, 0)[taps]
    weights = _cubic(places - first).reshape(size, 4, *(1,) * (images.ndim - 1))
    return np.moveaxis((rows * weights).sum(1), 0, axis)


@layer("DetectNetTransformation", dialect="nvidia")
class DetectNetTransformation(Computed):
    """Images [N, 3, image_size_y, image_size_x] less the mean, and a grid that says where objects are; no gradient.

    TEST: images are resized; TRAIN: cut or filled up around their middle, without the random changes of color, size and
    place. Labels [N, 1, rows, 16]: the number of boxes and 16, then x, y, width, height, angle, class, … of each. Grid
    [N, 8 + classes, H / stride, W / stride]: whether there is an object, the distances to its corners, 1 / width,
    1 / height, its norm, and the coverage of each class. (NVIDIA/caffe, detectnet_transform_layer.cpp)
    """

    adds = segments_pb2.LayerParameter
    num_bottoms = (2, 2)
    num_tops = (2, 2)
    reads_pixels = True

    @property
    def left_out(self) -> str:
        p = self.added.detectnet_augmentation_param
        chances = (p.crop_prob, p.scale_prob, p.flip_prob, p.rotation_prob, p.hue_rotation_prob, p.desaturation_prob)
        return "its random augmentation is left out" if self.phase != TEST and any(chances) else ""

    @property
    def classes_of(self) -> dict[int, int]:
        """The coverage of each class."""
        p = self.added.detectnet_groundtruth_param
        return {mapping.src: mapping.dst for mapping in p.object_class} or {1: 0}

    def grid(self) -> tuple[int, int]:
        """Return height and width of the grid."""
        p = self.added.detectnet_groundtruth_param
        if not (p.stride and p.image_size_x and p.image_size_y):
            raise self.error("expected a positive stride and image_size in detectnet_groundtruth_param")
        high, wide = (round(size / p.stride) for size in (p.image_size_y, p.image_size_x))
        return high, wide

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        images, labels = bottoms
        if len(images) != 4 or images[1] != 3 or len(labels) != 4 or labels[0] != images[0] or labels[3] != LABEL_ROW:
            raise self.error(f"expected images (N, 3, H, W) and labels (N, 1, rows, {LABEL_ROW}), found {bottoms}")
        if self.proto.transform_param.mean_file:
            self.why_uncomputed = "its mean file is not read"
        p = self.added.detectnet_groundtruth_param
        coverages = max(self.classes_of.values()) + 1
        return (
            (images[0], 3, p.image_size_y, p.image_size_x),
            (images[0], CELL_ROW + coverages, *self.grid()),
        )

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        labels = np.zeros(bottoms[1], np.float32)
        labels[:, :, 0, :2] = (min(labels.shape[2] - 1, 2), LABEL_ROW)
        size = np.array(bottoms[0][:1:-1])
        labels[:, :, 1:3, :2] = random.uniform(0, 0.5, labels[:, :, 1:3, :2].shape) * size
        labels[:, :, 1:3, 2:4] = random.uniform(0.1, 0.5, labels[:, :, 1:3, :2].shape) * size
        labels[:, :, 1:3, 5] = next(iter(self.classes_of))
        return labels

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.added.detectnet_groundtruth_param
        size = np.array([p.image_size_x, p.image_size_y])
        old = np.array(bottoms[0].shape[:1:-1])
        means = list(self.proto.transform_param.mean_value)
        mean = np.array(means if len(means) in (1, 3) else [0.0], np.float32).reshape(-1, 1, 1)
        images = bottoms[0] - mean
        if self.phase == TEST:
            scale, offset = size / old, np.zeros(2, int)
            images = _resized(_resized(images, size[1], 2), size[0], 3) if (old != size).any() else images
        else:
            scale, offset = np.ones(2), _rounded((old - size) / 2)
        grids = [self.covered(self.boxes(item, scale, offset)) for item in bottoms[1][:, 0]]
        return _cut(images, offset, size).astype(np.float32), np.array(grids, np.float32)

    def boxes(self, labels: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield class and box [x1, y1, x2, y2] of an image's objects that count."""
        p, count = self.added.detectnet_groundtruth_param, int(labels[0, 0])
        if not 0 <= count < len(labels):
            raise self.error(f"expected at most {len(labels) - 1} boxes in an image, found {count}")
        for row in labels[1 : count + 1].astype(float):
            low = row[:2] * scale - offset
            box = np.concatenate([low, low + row[2:4] * scale])
            if p.crop_bboxes:
                box = np.clip(box, 0, [p.image_size_x, p.image_size_y] * 2)
            if int(row[5]) in self.classes_of and (box[2:] - box[:2]).clip(0).prod() >= SMALLEST:
                yield self.classes_of[int(row[5])], box

    def covered(self, boxes: Iterator[tuple[int, np.ndarray]]) -> np.ndarray:
        """Return the grid that an image's boxes make; later ones lie over earlier ones."""
        p, (high, wide) = self.added.detectnet_groundtruth_param, self.grid()
        grid = np.zeros((CELL_ROW + max(self.classes_of.values()) + 1, high, wide))
        for coverage, box in boxes:
            region = self.region(box)
            norm = max(p.stride**2 / (region[2:] - region[:2]).prod(), 0 if p.obj_norm else 1)
            low = np.maximum(np.floor(region[:2] / p.stride), 0).astype(int)
            end = np.minimum(np.ceil(region[2:] / p.stride), [wide, high]).astype(int)
            for x, y in itertools.product(range(low[0], end[0]), range(low[1], end[1])):
                cell = np.array([x, y, x + 1, y + 1]) * p.stride
                shared = (np.minimum(cell[2:], region[2:]) - np.maximum(cell[:2], region[:2])).clip(0).prod()
                if shared / p.stride**2 > SMALLEST:
                    sides = box - np.tile(cell[:2], 2)
                    grid[:, y, x] = [1, *sides, *(1 / (box[2:] - box[:2])), norm, *(0,) * (len(grid) - CELL_ROW)]
                    grid[CELL_ROW + coverage, y, x] = 1
        return grid

    def region(self, box: np.ndarray) -> np.ndarray:
        """Return the inner part of a box, whose cells are covered."""
        p, size = self.added.detectnet_groundtruth_param, box[2:] - box[:2]
        inner = size * p.scale_cvg
        if p.gridbox_type == segments_pb2.DetectNetGroundTruthParameter.GRIDBOX_MIN:
            inner = np.minimum(size, np.maximum(p.min_cvg_len, inner))
        else:
            inner = np.minimum(p.max_cvg_len, inner)
        center = (box[:2] + box[2:]) / 2
        return np.concatenate([center - inner / 2, center + inner / 2])


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return values rounded as C does: halves away from zero."""
    return (np.sign(values) * np.floor(abs(values) + 0.5)).astype(int)


def _cut(images: np.ndarray, offset: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return what of images [N, C, H, W] lies in a window of width and height `size`; 0 outside of them."""
    out = np.zeros((*images.shape[:2], size[1], size[0]), images.dtype)
    spans = [
        (max(start, 0), min(start + length, room), -start)
        for start, length, room in zip(offset[::-1], size[::-1], images.shape[2:], strict=True)
    ]
    rows, columns = (slice(first, last) for first, last, _ in spans)
    to_rows, to_columns = (slice(first + shift, last + shift) for first, last, shift in spans)
    if all(first < last for first, last, _ in spans):
        out[:, :, to_rows, to_columns] = images[:, :, rows, columns]
    return out
