"""Layer types of forks that move elements to other places."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffestat.schema.forks import rearrange_pb2

from ..base import Layer, Shape, layer
from ..reread import emit_closed
from ..shape import Crop

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "CropCenter",
    "DYCrop",
    "Flip",
    "Gather",
    "MergeCrop",
    "Reorg",
    "Reverse",
    "SegmentPermute",
    "ShuffleChannel",
    "SwappedAxes",
    "Switch",
    "Transpose",
]

STACK = rearrange_pb2.MergeCropParameter.STACK


class _Moved(Layer):
    """A layer whose tops hold its bottom's elements."""

    adds = rearrange_pb2.LayerParameter
    passes_values = True

    def images(self, bottoms: Sequence[Shape]) -> Shape:
        """Return the bottom's shape. Raises NetError unless it is (N, C, H, W)."""
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        return bottoms[0]


@layer("DYCrop", dialect="cervix")
class DYCrop(Crop):
    """Computed as Crop, which has the same fields; its own source is not public.

    (dypromise/cervix_caffe_dingyang, prototxt files alone)
    """

    read_as = "Crop, which has the same fields; its own source is not public"
    adds = rearrange_pb2.LayerParameter

    def axis(self, shape: Shape) -> int:
        return self.canonical_axis(self.added.dycrop_param.axis, len(shape))

    def offsets(self, shape: Shape) -> list[int]:
        self.proto.crop_param.ClearField("offset")
        self.proto.crop_param.offset.extend(self.added.dycrop_param.offset)
        return super().offsets(shape)


@layer("CropCenter", dialect="waifu2x")
class CropCenter(_Moved):
    """y = x without the crop_size first and last places of each axis. (lltcggie/caffe, crop_center_layer.cpp)"""

    def cuts(self, shape: Shape) -> list[int]:
        """Return how much each axis loses at both ends."""
        cuts = list(self.added.crop_center_param.crop_size)
        if len(cuts) != len(shape) or any(2 * cut >= size for cut, size in zip(cuts, shape, strict=True)):
            raise self.error(f"expected a crop_size for each axis, below half of it, of {shape}; found {cuts}")
        return cuts

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (tuple(size - 2 * cut for size, cut in zip(bottoms[0], self.cuts(bottoms[0]), strict=True)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        cuts = self.cuts(shape)
        ends = [size - cut for size, cut in zip(shape, cuts, strict=True)]
        return (g.emit("Slice", bottoms[0], g.ints(*cuts), g.ints(*ends)),)


@layer("Transpose", dialect="ocr")
class Transpose(_Moved):
    """y = x with axis dim[i] of x as axis i; all axes are named. Never in place.

    (senlinuc/caffe_ocr, transpose_layer.cpp)
    """

    def order(self, rank: int) -> tuple[int, ...]:
        """Return the bottom's axis for each axis of the top."""
        dims = tuple(self.added.transpose_param.dim)
        if sorted(dims) != list(range(rank)):
            raise self.error(f"expected each of the axes 0 to {rank - 1} once as dim, found {list(dims)}")
        return dims

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return (tuple(bottoms[0][axis] for axis in self.order(len(bottoms[0]))),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.transpose(bottoms[0], *self.order(len(g.shape(bottoms[0])))),)


@layer("Transpose", dialect="action")
class SwappedAxes(Transpose):
    """y = x with two axes, dim[0] and dim[1], in each other's place. (Lyp100208/Caffe_action, transpose_layer.cpp)"""

    def order(self, rank: int) -> tuple[int, ...]:
        dims, axes = list(self.added.transpose_param.dim), list(range(rank))
        if len(dims) != 2 or dims[0] == dims[1] or not set(dims) <= set(axes):
            raise self.error(f"expected two of the axes 0 to {rank - 1} as dim, found {dims}")
        axes[dims[0]], axes[dims[1]] = axes[dims[1]], axes[dims[0]]
        return tuple(axes)


@layer("Permute", dialect="action")
class SegmentPermute(Layer):
    """[N · T, …], or what stands before `axis`, as [T, N, K]: T = num_seg segments of each of N clips, K numbers each.

    (Lyp100208/Caffe_action, permute_layer.cpp and .cu)
    """

    adds = rearrange_pb2.SegmentLayerParameter
    passes_values = True

    def sizes(self, shape: Shape) -> Shape:
        """Return N, T and K."""
        p = self.added.permute_param
        axis = self.canonical_axis(p.axis, len(shape))
        rows = prod(shape[:axis])
        if not p.num_seg or rows % p.num_seg:
            raise self.error(f"expected a num_seg that divides the {rows} rows before axis {axis}, found {p.num_seg}")
        return rows // p.num_seg, p.num_seg, prod(shape[axis:])

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        clips, segments, size = self.sizes(bottoms[0])
        return ((segments, clips, size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        sizes = self.sizes(g.shape(bottoms[0]))
        return (g.transpose(g.reshape(bottoms[0], *sizes), 1, 0, 2),)


def _reversed(g: Graph, x: str, axes: Sequence[int]) -> str:
    """Emit x backwards along some axes."""
    if not axes:
        return g.emit("Identity", x)
    ones = [-1] * len(axes)
    return g.emit("Slice", x, g.ints(*ones), g.ints(*[-(2**31)] * len(axes)), g.ints(*axes), g.ints(*ones))


@layer("Reverse", dialect="ocr")
class Reverse(_Moved):
    """y[n] = x[N - 1 - n] along an axis, which is not counted from the end. Never in place.

    (senlinuc/caffe_ocr, reverse_layer.cpp; Xiangyu-CAS/CTPN.caffe)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        axis = self.added.reverse_param.axis
        if axis < 0:
            raise self.error(f"its axis is not counted from the end; expected 0 to {len(bottoms[0]) - 1}, found {axis}")
        self.canonical_axis(axis, len(bottoms[0]))
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (_reversed(g, bottoms[0], [self.added.reverse_param.axis]),)


@layer("Flip", dialect="happynear")
class Flip(_Moved):
    """Images mirrored left to right (flip_width), upside down (flip_height), or both. Bottom [N, C, H, W].

    (happynear/caffe-windows, flip_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (self.images(bottoms),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.added.flip_param
        axes = [axis for axis, flips in ((2, proto.flip_height), (3, proto.flip_width)) if flips]
        return (_reversed(g, bottoms[0], axes),)


@layer("Gather", dialect="mpi")
class Gather(Layer):
    """What all processes computed; in one process the tops are the bottoms. (lxx1991/caffe_mpi, gather_layer.cpp)"""

    num_bottoms = (1, None)
    num_tops = (1, None)
    passes_values = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) != self.top_count:
            raise self.error(f"expected as many tops as bottoms, found {self.top_count} and {len(bottoms)}")
        return tuple(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [g.emit("Identity", bottom) for bottom in bottoms]


@layer("Switch", dialect="ccn")
class Switch(Layer):
    """y = the bottom that the program around the net selects: the first, until it does.

    The other bottoms have no gradient. (limuhit/CCN, caffe/code+gan/switch_layer.cpp)
    """

    num_bottoms = (2, None)
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.emit("Identity", bottoms[0], hint=self.name),)


@layer("ShuffleChannel", dialect="shufflenet")
class ShuffleChannel(_Moved):
    """Channels of `group` groups dealt out in turn: [group, C / group] becomes [C / group, group].

    (farmingyard/ShuffleNet, shuffle_channel_layer.cpp; Zhang et al. 2018)
    """

    def split(self, shape: Shape) -> tuple[int, int]:
        """Return the number of groups and the channels in each."""
        group = self.added.shuffle_channel_param.group
        if len(shape) < 2 or not group or shape[1] % group:
            raise self.error(f"expected channels in {group} equal groups, found a bottom of shape {shape}")
        return group, shape[1] // group

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.split(bottoms[0])
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        grouped = g.emit("Reshape", bottoms[0], g.ints(shape[0], *self.split(shape), -1))
        return (g.emit("Reshape", g.transpose(grouped, 0, 2, 1, 3), g.ints(*shape)),)


@layer("Reorg", dialect="yolo")
class Reorg(_Moved):
    """[N, C, H, W] -> [N, C·s², H / s, W / s] in darknet's order; with reverse [N, C / s², H·s, W·s]. s is the stride.

    The memory of x counts as [N, C / s², H·s, W·s] first; places of equal offset in their s·s block are then collected.
    The gradient goes back the same way: the reference's CPU code reads another blob by mistake.
    Never in place. (gklz1982/caffe-yolov2, reorg_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        batch, channels, high, wide = self.images(bottoms)
        proto = self.added.reorg_param
        if not proto.stride:
            raise self.error("reorg_param needs a stride of at least 1")
        s = proto.stride
        if channels % (s * s) or (not proto.reverse and (high % s or wide % s)):
            raise self.error(f"a stride of {s} needs channels that {s * s} divides, found a bottom of {bottoms[0]}")
        if proto.reverse:
            return ((batch, channels // (s * s), high * s, wide * s),)
        return ((batch, channels * s * s, high // s, wide // s),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.added.reorg_param
        (batch, channels, high, wide), s = g.shape(bottoms[0]), proto.stride
        deep = channels // (s * s)
        if proto.reverse:
            blocks = g.emit("Reshape", bottoms[0], g.ints(batch, s, s, deep, high, wide))
            moved = g.transpose(blocks, 0, 3, 4, 1, 5, 2)
        else:
            blocks = g.emit("Reshape", bottoms[0], g.ints(batch, deep, high, s, wide, s))
            moved = g.transpose(blocks, 0, 3, 5, 1, 2, 4)
        (top,) = self.tops([g.shape(bottoms[0])])
        return (g.emit("Reshape", moved, g.ints(*top)),)


@layer("MergeCrop", dialect="greentea")
class MergeCrop(Layer):
    """Bottom 0 and the centre of bottom 1, cut to its size: stacked along the channels, or added.

    `forward` and `backward` say which of the two count in each pass: both, and the first. Bottoms [N, C, …]. Where they
    have different numbers of channels, the reference's indices mix these up: here they follow each other.
    (naibaf7/caffe, mergecrop_layer.cpp and .cu)
    """

    adds = rearrange_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        a, b = bottoms
        stacks = self.added.mergecrop_param.operation == STACK
        fits = len(a) == len(b) >= 2 and a[0] == b[0] and (stacks or a[1] == b[1])
        if not fits or any(m > n for m, n in zip(a[2:], b[2:], strict=True)):
            raise self.error(f"expected a second bottom at least as large as the first {a}, found shape {b}")
        return ((a[0], a[1] + b[1] if stacks else a[1], *a[2:]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        a, b = (g.shape(bottom) for bottom in bottoms)
        starts = [(n - m) // 2 for m, n in zip(a[2:], b[2:], strict=True)]
        ends = [start + size for start, size in zip(starts, a[2:], strict=True)]
        axes = g.ints(*range(2, len(a)))
        cut = g.emit("Slice", bottoms[1], g.ints(*starts), g.ints(*ends), axes) if starts else bottoms[1]
        parts = [self.part(g, index, value) for index, value in enumerate((bottoms[0], cut))]
        if self.added.mergecrop_param.operation == STACK:
            return (g.emit("Concat", *parts, axis=1, hint=self.name),)
        return (g.emit("Add", *parts, hint=self.name),)

    def part(self, g: Graph, index: int, value: str) -> str:
        """Return what a bottom gives: zeros where `forward` is off, no gradient where `backward` is."""
        proto, usual = self.added.mergecrop_param, (True, False)
        counts = [*proto.forward, *(True, True)[len(proto.forward) :]][index]
        if not [*proto.backward, *usual[len(proto.backward) :]][index]:
            value = g.detach(value)
        if counts:
            return value
        return emit_closed(g, [value], lambda x: g.emit("Mul", x, g.constant(0)), lambda tape, dy: [dy])
