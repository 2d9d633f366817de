"""Layers that move elements and compute nothing: joining, cutting, reshaping, repeating, picking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from caffestat.fillers import Filler
from caffestat.lazy import np

from .base import Layer, Move, Param, Shape, layer, of_four_axes, tell_axes

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.graph import Graph

__all__ = [
    "BatchReindex",
    "Concat",
    "Crop",
    "Filter",
    "Flatten",
    "HDF5Output",
    "Parameter",
    "Reshape",
    "Silence",
    "Sink",
    "Slice",
    "Split",
    "Tile",
]

FLOAT, INT64, BOOL = 1, 7, 9  # onnx element types


@layer("Concat", by_sample=True)
class Concat(Layer):
    """y = the bottoms one after the other along `axis` (of old: concat_dim). (concat_layer.cpp)"""

    keeps_places = True
    num_bottoms = (1, None)
    passes_values = True

    @property
    def shares_memory(self) -> bool:
        return len(self.proto.bottom) == 1

    @property
    def shares_diff(self) -> bool:
        return self.shares_memory

    def axis(self, rank: int) -> int:
        """Return the axis, counted from the front."""
        proto = self.proto.concat_param
        if proto.HasField("axis") and proto.HasField("concat_dim"):
            raise self.error("concat_param states both axis and concat_dim; remove concat_dim")
        return self.canonical_axis(proto.concat_dim if proto.HasField("concat_dim") else proto.axis, rank)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shapes = self.aligned(bottoms)
        first = shapes[0]
        axis = self.axis(len(first))
        for index, shape in enumerate(shapes):
            if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
                raise self.error(
                    f"bottom {index} ({self.proto.bottom[index]!r}) has shape {bottoms[index]}; "
                    f"expected that of bottom 0, {bottoms[0]}, "
                    f"with another size on axis {axis} at most"
                )
        return ((*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :]),)

    def aligned(self, bottoms: Sequence[Shape]) -> Sequence[Shape]:
        """Return the shapes, where their numbers of axes differ those of forks whose blobs all have 4 axes."""
        return [of_four_axes(shape) for shape in bottoms] if len(set(map(len, bottoms))) > 1 else bottoms

    def departs(self, bottoms: Sequence[Shape]) -> str:
        shapes = self.aligned(bottoms)
        axis = self.axis(len(shapes[0]))
        fits = len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) == 1
        return tell_axes(bottoms) if fits and shapes is not bottoms else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if len(bottoms) == 1:
            return bottoms
        shapes = self.aligned([g.shape(bottom) for bottom in bottoms])
        aligned = [g.reshape(bottom, *shape) for bottom, shape in zip(bottoms, shapes, strict=True)]
        return (g.emit("Concat", *aligned, axis=self.axis(len(shapes[0]))),)


@layer("Slice", by_sample=True)
class Slice(Layer):
    """yᵢ = x from slice_point i - 1 to i along `axis` (of old: slice_dim); or equal parts. (slice_layer.cpp)"""

    keeps_places = True
    num_tops = (1, None)
    passes_values = True

    @property
    def shares_memory(self) -> bool:
        return self.top_count == 1

    @property
    def shares_diff(self) -> bool:
        return self.shares_memory

    def axis(self, rank: int) -> int:
        """Return the axis, counted from the front."""
        proto = self.proto.slice_param
        if proto.HasField("axis") and proto.HasField("slice_dim"):
            raise self.error("slice_param states both axis and slice_dim; remove slice_dim")
        return self.canonical_axis(proto.slice_dim if proto.HasField("slice_dim") else proto.axis, rank)

    def points(self, size: int, axis: int) -> list[int]:
        """Return the slice_point, times the user's batch where they are multiples of the file's own."""
        written = list(self.proto.slice_param.slice_point)
        batches = {batch for peer in self.peers for batch in peer.batches() if batch > 0}
        for batch in sorted(batches, reverse=True) if self.batch_override and axis == 0 else ():
            taken = [point // batch * (self.batch_override or batch) for point in written]
            if taken and not any(point % batch for point in written) and taken[-1] <= size:
                return taken
        return written

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        axis = self.axis(len(bottoms[0]))
        written, taken = list(self.proto.slice_param.slice_point), self.points(bottoms[0][axis], axis)
        return "" if taken == written else f"slice_point is written for another batch: {written} is taken as {taken}"

    def sizes(self, size: int, axis: int) -> list[int]:
        """Return each top's size along the axis, of which the bottom has `size`."""
        points = self.points(size, axis)
        if not points:
            if size % self.top_count:
                raise self.error(f"cannot cut axis of size {size} into {self.top_count} equal tops; state slice_point")
            return [size // self.top_count] * self.top_count
        if len(points) != self.top_count - 1:
            raise self.error(f"expected {self.top_count - 1} slice_point, one fewer than tops, found {len(points)}")
        if self.top_count > size:
            raise self.error(f"cannot cut axis of size {size} into {self.top_count} tops")
        sizes = [after - before for before, after in pairwise([0, *points, size])]
        if min(sizes[:-1], default=1) < 1 or sizes[-1] < 0:  # the last top may be empty
            raise self.error(f"expected slice_point rising within 1 to {size}, found {points}")
        return sizes

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (shape,) = bottoms
        axis = self.axis(len(shape))
        return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in self.sizes(shape[axis], axis))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.top_count == 1:
            return bottoms
        shape = g.shape(bottoms[0])
        axis = self.axis(len(shape))
        sizes = self.sizes(shape[axis], axis)
        return g.emit_many("Split", bottoms[0], g.ints(*sizes), count=len(sizes), axis=axis)


@layer("Split", by_sample=True)
class Split(Layer):
    """yᵢ = x for every top; dx = Σ dyᵢ. Caffe puts one behind each blob with several readers. (split_layer.cpp)"""

    keeps_places = True
    num_tops = (1, None)
    passes_values = True
    copies = True
    shares_memory = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return tuple(bottoms) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [g.emit("Identity", bottoms[0]) for _ in range(self.top_count)]


class Reshaping(Layer):
    """y = x in another shape, which must not be computed in place."""

    passes_values = True
    shares_memory = True

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.reshape(bottoms[0], *self.tops([g.shape(bottoms[0])])[0] or ()),)


@layer("Flatten", by_sample=True)
class Flatten(Reshaping):
    """y = x with the axes `axis` to `end_axis` made one. (flatten_layer.cpp)"""

    ignores_propagate_down = True
    replaces_diff = slice(1)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        (shape,) = bottoms
        first = self.canonical_axis(self.proto.flatten_param.axis, len(shape))
        end = self.canonical_axis(self.proto.flatten_param.end_axis, len(shape)) + 1
        if first > end:
            raise self.error(f"expected end_axis not before axis, found axis {first} and end_axis {end - 1}")
        return ((*shape[:first], math.prod(shape[first:end]), *shape[end:]),)


@layer("Reshape", by_sample=True)
class Reshape(Reshaping):
    """y = x with `num_axes` axes from `axis` on replaced by `shape`: 0 copies the bottom's axis, -1 is what remains.
    (reshape_layer.cpp)"""

    ignores_propagate_down = True
    shares_diff = True

    def replaced(self, rank: int) -> tuple[int, int]:
        """Return the first axis that is replaced and the one after the last."""
        proto = self.proto.reshape_param
        first = proto.axis if proto.axis >= 0 else rank + proto.axis + 1
        end = rank if proto.num_axes == -1 else first + proto.num_axes
        if not 0 <= first <= rank or proto.num_axes < -1 or end > rank:
            raise self.error(
                f"axis {proto.axis} with num_axes {proto.num_axes} is out of range for a bottom of {rank} axes"
            )
        return first, end

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        (shape,) = bottoms
        first, end = self.replaced(len(shape))
        dims = self.dims(shape, first)
        top = [*shape[:first], *dims, *shape[end:]]
        if dims.count(-1) > 1:
            raise self.error(f"shape may hold one -1, found {dims.count(-1)}")
        if -1 in dims:
            top[first + dims.index(-1)] = self.rest(math.prod(shape), top)
        if math.prod(top) != math.prod(shape) or min(top, default=0) < 0:
            raise self.error(
                f"shape makes {tuple(top)} of {math.prod(shape)} values in bottom shape {shape}; the counts must agree"
            )
        return (tuple(top),)

    def dims(self, shape: Shape, first: int) -> list[int]:
        """Return what the axes from `first` on are replaced by; -1 stays."""
        dims = list(self.proto.reshape_param.shape.dim)
        for index in (i for i, dim in enumerate(dims) if dim == 0):
            if first + index >= len(shape):
                raise self.error(
                    f"shape has a 0 at position {index}, but the bottom, of shape {shape}, has no axis {first + index}"
                )
            dims[index] = shape[first + index]
        return self.of_batch(dims, shape, first) if self.batch_override else dims

    def of_batch(self, dims: list[int], shape: Shape, first: int) -> list[int]:
        """Return the sizes for the batch that the user gives where they are written for the file's own."""
        assert self.batch_override
        written = self.proto.reshape_param.shape.dim
        batches = {batch for peer in self.peers for batch in peer.batches() if batch > 0}
        if -1 in dims and first == 0 and written[0] in batches and shape[0] == self.batch_override:
            return [shape[0], *dims[1:]]
        _, end = self.replaced(len(shape))
        ratio = Fraction(math.prod(shape[first:end]), max(math.prod(dims), 1))
        if ratio == 1 or ratio not in {Fraction(self.batch_override, batch) for batch in batches}:
            return dims
        axis = next((axis for axis, size in enumerate(written) if size * ratio == self.batch_override), None)
        return _scaled(dims, written, ratio) if axis is None else [*dims[:axis], self.batch_override, *dims[axis + 1 :]]

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        first, _ = self.replaced(len(bottoms[0]))
        written, dims = self.proto.reshape_param.shape.dim, self.dims(bottoms[0], first)
        changed = [f"{old} is taken as {new}" for old, new in zip(written, dims, strict=True) if old not in (0, new)]
        return f"shape is written for another batch: {', '.join(changed)}" if changed else ""

    def rest(self, count: int, top: Sequence[int]) -> int:
        """Return what the -1 in `top` stands for."""
        known = -math.prod(top)
        if known <= 0 or count % known:
            raise self.error(f"the bottom's {count} values cannot be divided among the other axes of {tuple(top)}")
        return count // known


def _scaled(sizes: list[int], written: Sequence[int], ratio: Fraction) -> list[int]:
    """Return sizes whose product is `ratio` times as large; the first that are written, not copied, change."""
    scaled = list(sizes)
    for axis, size in enumerate(sizes):
        if written[axis] and size % ratio.denominator == 0:
            scaled[axis] = int(size * ratio)
            return scaled
        if written[axis] and ratio.numerator == 1:
            part = math.gcd(size, ratio.denominator)
            scaled[axis], ratio = size // part, ratio * part
    return sizes


class Sink(Layer):
    """No top: what it does with its bottoms changes no value; dx = 0."""

    num_bottoms: ClassVar[tuple[int, int | None]] = (1, None)
    num_tops = (0, 0)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return ()


@layer("Silence", by_sample=True)
class Silence(Sink):
    """No top; dx = 0. Keeps blobs that nobody reads from becoming outputs. (silence_layer.cpp)"""

    foreign_tops = (1, None)


@layer("HDF5Output")
class HDF5Output(Sink):
    """No top: training writes the two bottoms to `file_name`, as data sets `data` and `label` of 4 axes.
    (hdf5_output_layer.cpp)"""

    num_bottoms = (2, 2)

    @property
    def output_file(self) -> str:
        return str(self.proto.hdf5_output_param.file_name)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.output_file:
            raise self.error("expected a file_name in hdf5_output_param")
        if bottoms[0][:1] != bottoms[1][:1]:
            raise self.error(f"expected two bottoms of the same first axis, found shapes {bottoms[0]} and {bottoms[1]}")
        if max(map(len, bottoms)) > 4:
            raise self.error(f"expected bottoms of at most 4 axes, found shapes {bottoms[0]} and {bottoms[1]}")
        return ()


@layer("Crop", by_sample=True)
class Crop(Layer):
    """y = x from `offset` on, cut to bottom 1's size on `axis` and all axes behind it; bottom 1 gets no gradient.
    (crop_layer.cpp)"""

    num_bottoms = (2, 2)
    foreign_bottoms = (1, 1)
    passes_values = True

    def axis(self, shape: Shape) -> int:
        """Return the first axis that is cut, counted from the front."""
        return self.canonical_axis(self.proto.crop_param.axis, len(shape))

    def offsets(self, shape: Shape) -> list[int]:
        """Return where to start on each axis that is cut."""
        offsets, count = list(self.proto.crop_param.offset) or [0], len(shape) - self.axis(shape)
        if len(offsets) not in (1, count):
            raise self.error(
                f"expected one offset, or one for each of the {count} axes that are cut, found {len(offsets)}"
            )
        return offsets * count if len(offsets) == 1 else offsets

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        shape = bottoms[0]
        starts = ([0] * self.axis(shape) + self.offsets(shape))[2:]
        return tuple((Fraction(1), Fraction(-start)) for start in starts) if len(shape) == 4 else None

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()  # Caffe clears the bottom's diff, the top's, before it reads it
        shape, reference = bottoms
        axis, offsets = self.axis(shape), self.offsets(shape)
        sizes = reference[axis : len(shape)]
        fits = [offset + size <= whole for offset, size, whole in zip(offsets, sizes, shape[axis:], strict=False)]
        if len(sizes) < len(offsets) or not all(fits):
            raise self.error(f"cannot cut {sizes} at offset {offsets} out of axes {axis} and on of shape {shape}")
        return ((*shape[:axis], *sizes),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis, starts = self.axis(shape), self.offsets(shape)
        sizes = self.tops([shape, g.shape(bottoms[1])])[0][axis:]
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return (g.emit("Slice", bottoms[0], g.ints(*starts), g.ints(*ends), g.ints(*range(axis, len(shape)))),)


@layer("Tile", by_sample=True)
class Tile(Layer):
    """y = `tiles` copies of x one after the other along `axis`. (tile_layer.cpp)"""

    passes_values = True

    def axis(self, shape: Shape) -> int:
        """Return the axis, counted from the front."""
        return self.canonical_axis(self.proto.tile_param.axis, len(shape))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (shape,) = bottoms
        axis, tiles = self.axis(shape), self.proto.tile_param.tiles
        if tiles < 1:
            raise self.error(f"expected tiles of at least 1, found {tiles}")
        return ((*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        repeats = [1] * len(shape)
        repeats[self.axis(shape)] = self.proto.tile_param.tiles
        return (g.emit("Tile", bottoms[0], g.ints(*repeats)),)


@layer("BatchReindex")
class BatchReindex(Layer):
    """yᵢ = the item of bottom 0 at index bottom 1 [i], cut to an integer; dx adds up over equal indices.
    (batch_reindex_layer.cpp)"""

    num_bottoms = (2, 2)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[1]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()  # Caffe clears the bottom's diff, the top's, before it reads it
        shape, indices = bottoms
        if len(indices) != 1:
            raise self.error(f"expected indices of one axis, found shape {indices}")
        return ((*indices, *shape[1:]),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][0] if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        last = g.constant(g.shape(bottoms[0])[0] - 1)
        index = g.emit("Cast", g.emit("Clip", bottoms[1], g.constant(0), last), to=INT64)
        return (g.emit("Gather", bottoms[0], index, axis=0),)


@layer("Filter")
class Filter(Layer):
    """yᵢ = the items of bottom i at which the last bottom, the selector, is not 0. (filter_layer.cpp)

    The tops have as many items as are selected, which only the data tells. Until it is known, and when none is
    selected, they keep the whole batch, the selected items first and zeros behind them.
    """

    num_bottoms = (2, None)
    num_tops = (1, None)
    passes_values = True
    decides = True
    decisive = slice(-1, None)
    lowers_undecided = True

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[-1]

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # any value but 0 selects

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        (selector,) = bottoms
        return (np.flatnonzero(selector),)

    @property
    def selected(self) -> int:
        """How many items pass; 0 as long as that is not known, and when none does."""
        return self.decisions[0].size if self.decisions else 0

    def summary(self, bottoms: Sequence[Shape]) -> str:
        which = f"{self.selected or 'none'} of the {bottoms[0][0]} items"
        follows = "those" if self.selected else "as many zeros"
        return f"selects {which} of this batch; the layers after it run on {follows}"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        *items, selector = bottoms
        if self.top_count != len(items):
            raise self.error(f"expected {len(items)} tops, one per bottom before the selector, found {self.top_count}")
        if not selector or any(size != 1 for size in selector[1:]):
            raise self.error(f"expected a selector of shape (N,) or (N, 1, …), found {selector}")
        for index, shape in enumerate(items):
            if shape[:1] != selector[:1]:
                raise self.error(
                    f"bottom {index} has shape {shape}; expected the first axis of the selector, of shape {selector}"
                )
        return tuple((self.selected or shape[0], *shape[1:]) for shape in items)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == len(bottoms) - 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        *items, selector = bottoms
        if self.selected:
            (order,) = self.input_decisions(g)
            return [g.emit("Gather", item, order, axis=0) for item in items]
        count = g.shape(selector)[0]
        chosen = g.emit("Cast", g.emit("Cast", g.reshape(selector, count), to=BOOL), to=FLOAT)
        # TopK keeps the order of equal values
        kept, order = g.emit_many("TopK", chosen, g.ints(count), count=2, axis=0)
        kept = g.detach(kept)
        return [self.pick(g, item, g.declare(kept, (count,)), order) for item in items]

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        return super().draw_feeds(stream, bottoms) if self.selected else ()

    def pick(self, g: Graph, item: str, kept: str, order: str) -> str:
        """Emit the item in the given order, zero where it is not kept."""
        ones = [1] * (len(g.shape(item)) - 1)
        return g.emit("Mul", g.emit("Gather", item, order, axis=0), g.reshape(kept, *g.shape(kept), *ones))


@layer("Parameter")
class Parameter(Layer):
    """y = a learnable blob of the given shape, which Caffe leaves at zero. (parameter_layer.hpp)

    A layer that works on y in place changes the blob. Forks fill it: NormFace by blob_filler, OpenVINO's by filler.
    """

    num_bottoms = (0, 0)
    own_fields = ("parameter_param.blob_filler", "parameter_param.filler")

    lends_param = True
    shares_diff = True

    def shape(self) -> Shape:
        """Return the blob's shape."""
        return tuple(self.proto.parameter_param.shape.dim)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        written = [self.own_filler(f"parameter_param.{name}") for name in ("blob_filler", "filler")]
        filler = next((found for found in written if found), None)
        return (Param("value", self.shape(), filler or Filler(), filler is not None, fan_in=1, fan_out=1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if min(self.shape(), default=1) < 1:
            raise self.error(f"expected a shape of positive sizes, found {self.shape()}")
        return (self.shape(),)

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return True

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.emit("Identity", params[0]),)
