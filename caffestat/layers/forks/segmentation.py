"""Layer types of forks for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Move, Shape, layer
from ..data import Count, Source
from ..loss import FLOAT, class_index
from ..reread import emit_closed, without_gradient
from ..shape import Sink
from .interpolation import Unpool

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "AutoCrop",
    "EltwiseAccuracy",
    "MatRead",
    "MatWrite",
    "Padding",
    "SegAccuracy",
    "Unpooling",
    "UnpoolingByMask",
    "UnpoolingToSize",
]

MAX, AVE, TILE = segmentation_pb2.UnpoolingParameter.UnpoolMethod.values()


class _PerPixel(Layer):
    """A layer that compares the scores of each pixel [N, C, H, W] with its label [N, 1, H, W]; no gradient passes."""

    adds = segmentation_pb2.LayerParameter
    num_bottoms = (2, 2)

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless scores and labels fit."""
        scores, labels = bottoms
        if len(scores) != 4 or labels != (scores[0], 1, *scores[2:]):
            raise self.error(
                f"expected scores (N, C, H, W) and labels (N, 1, H, W), found shapes {scores} and {labels}"
            )

    def ignored_labels(self) -> Sequence[int]:
        """Return the labels that count nowhere."""
        raise NotImplementedError

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][1] if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.isin(values, list(self.ignored_labels()))

    def counts(self, g: Graph, labels: str) -> str:
        """Emit 1 for each label that counts, else 0."""
        counts = g.constant(np.ones(g.shape(labels), np.float32))
        for ignored in self.ignored_labels():
            differs = g.emit("Not", g.emit("Equal", labels, g.constant(ignored)))
            counts = g.emit("Mul", counts, g.emit("Cast", differs, to=FLOAT))
        return counts


@layer("SegAccuracy", dialect="deeplab")
class SegAccuracy(_PerPixel):
    """y = [share of pixels that are right, mean share per class, mean intersection over union]: [1, 1, 1, 3].

    Of equal scores the later class counts. Classes that no label has count in the last mean only, as 1 where nothing
    is taken for them. (TheLegendAli/DeepLab-Context, seg_accuracy_layer.cpp and util/confusion_matrix.cpp)
    """

    def ignored_labels(self) -> Sequence[int]:
        return tuple(self.added.seg_accuracy_param.ignore_label)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((1, 1, 1, 3),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda scores, labels: (self.shares(g, scores, labels),))

    def shares(self, g: Graph, scores: str, labels: str) -> str:
        """Emit the three numbers."""
        classes = g.constant(np.arange(g.shape(scores)[1]).reshape(1, -1, 1, 1), np.int64)
        best = g.emit("ArgMax", scores, axis=1, keepdims=1, select_last_index=1)
        counts, one = self.counts(g, labels), g.constant(1)
        actual, found = (
            g.emit("Mul", g.emit("Cast", g.emit("Equal", index, classes), to=FLOAT), counts)
            for index in (class_index(g, labels, g.shape(scores)[1]), best)
        )
        right, row, column = (
            g.emit("ReduceSum", value, g.ints(0, 2, 3), keepdims=0)
            for value in (g.emit("Mul", actual, found), actual, found)
        )
        there = g.emit("Cast", g.emit("Greater", row, g.constant(0)), to=FLOAT)
        union = g.emit("Sub", g.emit("Add", row, column), right)
        empty = g.emit("Cast", g.emit("Equal", union, g.constant(0)), to=FLOAT)
        parts = [
            (g.emit("ReduceSum", right, keepdims=1), g.emit("ReduceSum", row, keepdims=1)),
            (self.sum_of(g, right, row), g.emit("ReduceSum", there, keepdims=1)),
            (
                g.emit("Add", self.sum_of(g, right, union), g.emit("ReduceSum", empty, keepdims=1)),
                g.constant([g.shape(scores)[1]]),
            ),
        ]
        shares = [g.emit("Div", part, g.emit("Max", whole, one)) for part, whole in parts]
        return g.emit("Reshape", g.emit("Concat", *shares, axis=0), g.ints(1, 1, 1, 3))

    def sum_of(self, g: Graph, part: str, whole: str) -> str:
        """Emit Σ part / whole over classes, 0 where the whole is 0."""
        return g.emit("ReduceSum", g.emit("Div", part, g.emit("Max", whole, g.constant(1))), keepdims=1)


@layer("EltwiseAccuracy", dialect="deconvnet")
class EltwiseAccuracy(_PerPixel):
    """y = share of the pixels whose label is among the top_k scores, of equal ones the later: [1, 1, 1, 1].

    (HyeonwooNoh/caffe, eltwise_accuracy_layer.cpp)
    """

    def ignored_labels(self) -> Sequence[int]:
        p = self.added.eltwise_accuracy_param
        return (p.ignore_label,) if p.HasField("ignore_label") else ()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        top_k = self.added.eltwise_accuracy_param.top_k
        if not 1 <= top_k <= bottoms[0][1]:
            raise self.error(f"expected top_k from 1 to {bottoms[0][1]}, the number of classes, found {top_k}")
        return ((1, 1, 1, 1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda scores, labels: (self.share(g, scores, labels),))

    def share(self, g: Graph, scores: str, labels: str) -> str:
        """Emit the top."""
        size = g.shape(scores)[1]
        classes = g.constant(np.arange(size).reshape(1, -1, 1, 1), np.int64)
        index, counts = class_index(g, labels, size), self.counts(g, labels)
        truth = g.emit("GatherElements", scores, index, axis=1)
        later = g.emit("And", g.emit("Equal", scores, truth), g.emit("Greater", classes, index))
        better = g.emit("Cast", g.emit("Or", g.emit("Greater", scores, truth), later), to=FLOAT)
        rank = g.emit("ReduceSum", better, g.ints(1), keepdims=1)
        top_k = g.constant(self.added.eltwise_accuracy_param.top_k)
        hits = g.emit("Mul", g.emit("Cast", g.emit("Less", rank, top_k), to=FLOAT), counts)
        sums = [g.emit("ReduceSum", value, keepdims=0) for value in (hits, counts)]
        return g.emit("Reshape", g.emit("Div", *sums), g.ints(1, 1, 1, 1))


@layer("MatWrite", dialect="deeplab")
class MatWrite(Sink):
    """No top: Caffe writes each bottom to a .mat file named by prefix and source, which is not done here.

    (TheLegendAli/DeepLab-Context, mat_write_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.added.mat_write_param.period < 1:
            raise self.error(
                f"expected a positive period in mat_write_param, found {self.added.mat_write_param.period}"
            )
        return ()


@layer("MatRead", dialect="deeplab")
class MatRead(Source):
    """Blobs [batch_size, C, H, W] that .mat files named by prefix and source hold.

    (TheLegendAli/DeepLab-Context, mat_read_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter
    num_tops: ClassVar[Count] = (1, None)
    data_kind = "mat"

    def shape_source(self) -> str:
        return f"in the .mat files {self.added.mat_read_param.prefix!r} names"


@layer("Padding", dialect="deeplab")
class Padding(Layer):
    """Zeros around images, pad_beg before and pad_end behind rows and columns; negative ones cut.

    (TheLegendAli/DeepLab-Context, padding_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter

    def ends(self) -> tuple[int, int]:
        """Return how much is added before and behind."""
        first, last = self.added.padding_param.pad_beg, self.added.padding_param.pad_end
        if first * last < 0:
            raise self.error(f"pad_beg and pad_end must not differ in sign, found {first} and {last}")
        return first, last

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        size = tuple(size + sum(self.ends()) for size in bottoms[0][2:])
        if min(size) < 1:
            raise self.error(f"padding and cropping leave no element of a bottom of shape {bottoms[0]}")
        return ((*bottoms[0][:2], *size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        first, last = self.ends()
        if max(first, last) > 0:
            return (g.emit("Pad", bottoms[0], g.ints(0, 0, first, first, 0, 0, last, last)),)
        ends = [size + last for size in g.shape(bottoms[0])[2:]]
        return (g.emit("Slice", bottoms[0], g.ints(-first, -first), g.ints(*ends), g.ints(2, 3)),)


@layer("AutoCrop", "CROP", dialect="autocrop")
class AutoCrop(Layer):
    """The part of bottom 0 that lies on bottom 1: [N, C, H, W] cut to the height and width of bottom 1.

    Where it begins follows from the kernels, strides and paddings between both and the blob that they come from.
    (yun-liu/rcf, auto_crop_layer.cpp)
    """

    num_bottoms = (2, 2)
    aligns = True
    passes_values = True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def starts(self) -> tuple[int, int]:
        """Return the first row and column."""
        if self.cut_before is None:
            raise self.error("its offset follows from the layers before it: expected a whole net, found one layer")
        return self.cut_before

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        return tuple((Fraction(1), Fraction(-start)) for start in self.starts())

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape, other = bottoms
        if len(shape) != 4 or len(other) != 4:
            raise self.error(f"expected two bottoms (N, C, H, W), found shapes {shape} and {other}")
        if any(start + size > whole for start, size, whole in zip(self.starts(), other[2:], shape[2:], strict=True)):
            raise self.error(f"cannot cut {other[2:]} at {self.starts()} out of a bottom of shape {shape}")
        return ((*shape[:2], *other[2:]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        starts, sizes = self.starts(), g.shape(bottoms[1])[2:]
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return (g.emit("Slice", bottoms[0], g.ints(*starts), g.ints(*ends), g.ints(2, 3)),)


class _Windows(Unpool):
    """Elements that stand for the windows of a pooling, which unpooling_param states."""

    def pair(self, name: str, stem: str) -> tuple[int, int] | None:
        """Return a setting that is given once for both, or for height and width; None when it is not given."""
        p, pair = self.added.unpooling_param, (f"{stem}_h", f"{stem}_w")
        given = [p.HasField(field) for field in pair]
        if any(given) and (not all(given) or p.HasField(name)):
            raise self.error(f"give {name}, or both {pair[0]} and {pair[1]}")
        if all(given):
            return getattr(p, pair[0]), getattr(p, pair[1])
        return (getattr(p, name),) * 2 if p.HasField(name) else None

    def window(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return kernel and stride."""
        kernel, stride = self.pair("kernel_size", "kernel"), self.pair("stride", "stride") or (1, 1)
        if not kernel or min(*kernel, *stride) < 1:
            raise self.error(f"expected a positive kernel and stride in unpooling_param, found {kernel} and {stride}")
        return kernel, stride


@layer("Unpooling", dialect="cedn")
class UnpoolingByMask(_Windows):
    """Each element of bottom 0 put where bottom 1, the mask of a MAX pooling, names.

    The size is stride · (H - 1) + kernel - 2 · pad. (ArcherFMY/caffe-sal-ensemble, unpooling_layer.cpp)
    """

    adds = segmentation_pb2.CednLayerParameter

    def size(self, shape: Shape) -> tuple[int, int]:
        if self.added.unpooling_param.unpool != MAX:
            raise self.error("expected unpool: MAX for two bottoms")
        kernel, stride = self.window()
        pads = self.pair("pad", "pad") or (0, 0)
        axes = zip(shape[2:], kernel, stride, pads, strict=True)
        high, wide = ((n - 1) * step + k - 2 * pad for n, k, step, pad in axes)
        return high, wide


@layer("Unpooling", dialect="fusenet")
class UnpoolingToSize(Unpool):
    """Each element of bottom 0 put where bottom 1, the mask of a MAX pooling, names.

    The size is output_h and output_w, else `scale` times that of the bottom. (tum-vision/fusenet, unpooling_layer.cpp)
    """

    adds = segmentation_pb2.FuseNetLayerParameter

    def size(self, shape: Shape) -> tuple[int, int]:
        p = self.added.unpooling_param
        is_sized = p.HasField("output_h") and p.HasField("output_w")
        high, wide = (p.output_h, p.output_w) if is_sized else (p.scale * shape[2], p.scale * shape[3])
        if min(high, wide) < 1:
            raise self.error("expected positive output_h and output_w, or scale, in unpooling_param")
        return high, wide


@layer("Unpooling", dialect="deconvnet")
class Unpooling(_Windows):
    """Each element of bottom 0 put where bottom 1 (the mask of a MAX pooling) names, or at the start of its window.

    AVE spreads it evenly over its window, TILE repeats it there, and the gradient of both is the mean over the window.
    The size is unpool_size (unpool_h, unpool_w), else the larger of stride · (H - 1) + kernel and stride · H + 1.
    (HyeonwooNoh/caffe, unpooling_layer.cpp)
    """

    adds = segmentation_pb2.LayerParameter
    num_bottoms = (1, 2)

    def size(self, shape: Shape) -> tuple[int, int]:
        if any(self.pair("pad", "pad") or ()):
            raise self.error("only a pad of 0 is allowed in unpooling_param")
        kernel, stride = self.window()
        axes = zip(shape[2:], kernel, stride, strict=True)
        high, wide = (max((n - 1) * step + k, n * step + 1) for n, k, step in axes)
        return self.pair("unpool_size", "unpool") or (high, wide)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shapes = super().tops([bottoms[0], bottoms[-1]])
        starts = [(n - 1) * step for n, step in zip(bottoms[0][2:], self.window()[1], strict=True)]
        if self.spreads(len(bottoms)) and any(a >= b for a, b in zip(starts, shapes[0][2:], strict=True)):
            raise self.error(f"windows start at {starts}, outside of a top of shape {shapes[0]}; use a larger one")
        return shapes

    def spreads(self, bottoms: int) -> bool:
        """Tell whether the place of an element alone says where it goes."""
        return bool(self.added.unpooling_param.unpool != MAX or bottoms == 1)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return None if self.spreads(len(bottoms)) else super().classes(bottom, bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.spreads(len(bottoms)):
            return super().lower(g, bottoms, params)
        shape, method = g.shape(bottoms[0]), self.added.unpooling_param.unpool
        axes = list(zip(shape[2:], *self.window(), self.size(shape), strict=True))
        there = [_spread(*axis, method) for axis in axes]
        back = [_spread(*axis, MAX if method == MAX else AVE).T for axis in axes]

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return (self.resampled(tape.graph, dy, back), *(None,) * (len(bottoms) - 1))

        return (emit_closed(g, bottoms, lambda x, *_: self.resampled(g, x, there), gradient),)


def _spread(length: int, kernel: int, stride: int, out: int, method: int) -> np.ndarray:
    """Return [out, length]: where each element goes along an axis, and with what weight."""
    starts, places = np.arange(length) * stride, np.arange(out)[:, None]
    if method == MAX:
        return (places == starts).astype(np.float32)
    inside = (places >= starts) & (places < starts + kernel)
    return (inside / inside.sum(0) if method == AVE else inside).astype(np.float32)
