"""Layer types of forks that scale, cut or disturb what they read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.fillers import Filler, Stream, bernoulli, uniform
from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import scaling_pb2

from ..base import TRAIN, Layer, Param, Shape, layer
from ..neuron import Neuron
from ..reread import TOP, emit_closed, emit_pulled, without_gradient
from .flow import check_images
from .interpolation import Resampled

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "GRN",
    "Accum",
    "ChannelDropout",
    "ChannelScale",
    "MaskPooling",
    "MaskResize",
    "Maximum",
    "Quantize",
    "Rescale",
    "ScaleFilter",
    "ScaleTanH",
    "Sparsify",
]

SMALLEST = np.finfo(np.float32).tiny


@layer("ScaleTanH", dialect="hashnet")
class ScaleTanH(Neuron):
    """y = tanh(s · x); dx = s · dy · (1 - y²), where s grows with the passes.

    s is init_scale · (1 + gamma · n)^power at every n-th shaping of the layer that is a multiple of step_size; it is
    shaped once at set-up and once before each pass. (thuml/HashNet, scale_tanh_layer.cpp; Cao et al. 2017)
    """

    adds = scaling_pb2.LayerParameter

    def nonlinearity(self) -> Nonlinearity:
        return activations.TANH

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.added.scale_tanh_param.step_size:
            raise self.error("expected a positive step_size in scale_tanh_param, found 0")
        return (bottoms[0],)

    def scale(self, g: Graph) -> str:
        """Emit s."""
        p = self.added.scale_tanh_param
        passes = g.state(f"{self.name}/passes", ())
        g.carry(passes, g.emit("Add", passes, g.constant(1)))
        shaped, step = g.emit("Add", passes, g.constant(2)), g.constant(p.step_size)
        last = g.emit("Mul", g.emit("Floor", g.emit("Div", shaped, step)), step)
        base = g.emit("Add", g.emit("Mul", last, g.constant(p.gamma)), g.constant(1))
        grown = g.emit("Mul", g.emit("Pow", base, g.constant(p.power)), g.constant(p.init_scale))
        return g.emit("Where", g.emit("Less", shaped, step), g.constant(p.init_scale), grown)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (scale,) = without_gradient(g, [], lambda: [self.scale(g)])
        scaled = g.declare(g.emit("Mul", bottoms[0], scale), g.shape(bottoms[0]))
        return (emit_pulled(g, "Tanh", scaled, TOP),)


@layer("GRN", dialect="openvino")
class GRN(Layer):
    """y = x / √(bias + Σ x²), the sum over the channels; with dummy_backward dx = dy.

    (openvinotoolkit/training_toolbox_caffe, grn_layer.cpp)
    """

    adds = scaling_pb2.LayerParameter
    keeps_places = True
    keeps_shapes = True
    normalizes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.added.grn_param.bias < 0 or not 2 <= len(bottoms[0]) <= 4:
            raise self.error(f"expected a bias of 0 or more and a bottom (N, C, H, W), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p = self.added.grn_param

        def forward(x: str) -> str:
            squares = g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(1), keepdims=1)
            return g.emit("Div", x, g.emit("Sqrt", g.emit("Add", squares, g.constant(p.bias))), hint=self.name)

        if p.dummy_backward:
            return [emit_closed(g, bottoms, forward, lambda tape, dy: [dy])]
        return [forward(bottoms[0])]


@layer("ScaleFilter", dialect="openvino")
class ScaleFilter(Neuron):
    """TRAIN: y = s · x, one s from U(min_scale, max_scale) for each plane; TEST: y = x. Bottom [N, C, H, W].

    (openvinotoolkit/training_toolbox_caffe, scale_filter_layer.cpp)
    """

    adds = scaling_pb2.LayerParameter
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.scale_filter_param
        if not 0 < p.min_scale < p.max_scale or len(bottoms[0]) != 4:
            raise self.error(f"expected 0 < min_scale < max_scale and a bottom (N, C, H, W), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.phase != TRAIN:
            return (bottoms[0],)
        scales = g.input(f"{self.name}/scales", (*g.shape(bottoms[0])[:2], 1, 1))
        return (g.emit("Mul", bottoms[0], scales),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if self.phase != TRAIN:
            return ()
        p, shape = self.added.scale_filter_param, bottoms[0][:2]
        return (uniform(stream, math.prod(shape), p.min_scale, p.max_scale).reshape(*shape, 1, 1),)


@layer("ChannelDropout", dialect="structured-pose")
class ChannelDropout(Neuron):
    """TRAIN: y = x · mask / (1 - dropout_ratio), one mask bit for each plane; TEST: y = x.

    (ZJUZQ/Net_caffe, StructuredFeaturePoseEstimation/caffe-multi: channel_dropout_layer.cpp)
    """

    passes_signal = True

    @property
    def keep(self) -> float:
        return 1.0 - float(np.float32(self.proto.dropout_param.dropout_ratio))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not 0 < self.keep < 1 or not 2 <= len(bottoms[0]) <= 4:
            raise self.error(f"expected a dropout_ratio between 0 and 1 and a bottom (N, C, …), found {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.phase != TRAIN:
            return (bottoms[0],)
        shape = g.shape(bottoms[0])
        return (g.emit("Mul", bottoms[0], g.input(f"{self.name}/mask", (*shape[:2], *(1,) * (len(shape) - 2)))),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if self.phase != TRAIN:
            return ()
        shape = bottoms[0]
        bits = bernoulli(stream, math.prod(shape[:2]), self.keep, np.float64) * np.float32(1 / self.keep)
        return (bits.astype(np.float32).reshape(*shape[:2], *(1,) * (len(shape) - 2)),)


@layer("Sparsify", dialect="scnn")
class Sparsify(Neuron):
    """y = sign(x) · max(|x| - thre, 0); dx = (dy + coef · sign(y)), with thre 0 where y = 0.

    (wenwei202/caffe, sparsify_layer.cpp)
    """

    adds = scaling_pb2.SparsifyLayerParameter
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.sparsify_param
        if p.thre < 0 or p.coef < 0:
            raise self.error(f"expected thre and coef of 0 or more, found {p.thre:g} and {p.coef:g}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p = self.added.sparsify_param

        def forward(x: str) -> str:
            less = g.emit("Relu", g.emit("Sub", g.emit("Abs", x), g.constant(p.thre)))
            return g.emit("Mul", g.emit("Sign", x), less) if p.thre else g.emit("Identity", x)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            sign = tape.emit("Sign", tape.stored(y))
            pull = tape.emit("Add", dy, tape.emit("Mul", sign, tape.constant(p.coef)))
            return [tape.emit("Mul", pull, tape.emit("Abs", sign)) if p.thre else pull]

        y = emit_closed(g, bottoms, forward, gradient)
        return [y]


@layer("ChannelScale", dialect="happynear")
class ChannelScale(Layer):
    """y = s · x, s [N, 1, …] at each place of x [N, C, …]: bottoms x and s.

    With global_scale one s for all, in the param [1] and top 1: in TRAIN it becomes the mean of |bottom 1| in the first
    pass, then 0.99 · s + 0.01 · that mean, between min_global_scale and max_global_scale; the gradient is still that of
    s = bottom 1, as in the reference. do_forward, do_backward_feature, do_backward_scale: false leave out a part.
    (happynear/caffe-windows, channel_scale_layer.cu)
    """

    adds = scaling_pb2.LayerParameter
    num_bottoms = (2, 2)
    num_tops = (1, 2)
    passes_signal = True

    def multiplies(self) -> bool:
        return True

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        if not self.added.channel_scale_param.global_scale:
            return ()
        return (Param("scale", (1,), Filler(value=-1.0), False, 1, 1, is_statistic=True),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, scales = bottoms
        if len(x) < 2 or x[:1] != scales[:1] or math.prod(x) // max(x[1], 1) != math.prod(scales):
            raise self.error(f"expected bottoms (N, C, …) and (N, 1, …), found shapes {x} and {scales}")
        if self.top_count == 2 and not self.added.channel_scale_param.global_scale:
            raise self.error("has two tops; the second is for global_scale: true")
        return (x, (1,))[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.channel_scale_param, g.shape(bottoms[0])
        known = self.known_scale(g, bottoms[1], params[0]) if params else ""

        def at_places(scales: str) -> str:
            return g.reshape(scales, shape[0], 1, *shape[2:])

        def forward(x: str, scales: str) -> str:
            if not p.do_forward:
                return g.emit("Identity", x)
            return g.emit("Mul", x, known or at_places(scales), hint=self.name)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            column = tape.reshape(tape.stored(bottoms[1]), shape[0], 1, *shape[2:])
            dx = tape.emit("Mul", dy, column) if p.do_backward_feature else dy
            if not p.do_backward_scale:
                return [dx, None]
            along = tape.emit("ReduceSum", tape.emit("Mul", dy, tape.stored(bottoms[0])), tape.ints(1), keepdims=1)
            return [dx, tape.reshape(tape.declare(along, (shape[0], 1, *shape[2:])), *tape.shape(bottoms[1]))]

        return [emit_closed(g, bottoms, forward, gradient), known][: self.top_count]

    def known_scale(self, g: Graph, scales: str, param: str) -> str:
        """Emit the one scale [1], and record it as the param after the pass."""
        if self.phase != TRAIN:
            return param
        p = self.added.channel_scale_param

        def forward(values: str, old: str) -> Sequence[str]:
            mean = g.reshape(g.emit("ReduceMean", g.emit("Abs", values), keepdims=0), 1)
            kept = g.emit("Add", g.emit("Mul", old, g.constant(0.99)), g.emit("Mul", mean, g.constant(0.01)))
            new = g.emit("Where", g.emit("Less", old, g.constant(0)), mean, kept)
            return [g.emit("Clip", new, g.constant(p.min_global_scale), g.constant(p.max_global_scale))]

        (new,) = without_gradient(g, [scales, param], forward)
        g.updates[param] = g.declare(new, (1,))
        return new


@layer("MaskPooling", dialect="sstd")
class MaskPooling(Layer):
    """y = x · m at each place: bottoms x [N, C, H, W] and m [N, 1, H, W]. (BestSonny/SSTD, mask_pooling_layer.cu)"""

    num_bottoms = (2, 2)

    def multiplies(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, mask = (check_images(self, shape) for shape in bottoms)
        if mask != (x[0], 1, *x[2:]):
            raise self.error(f"expected a mask of shape {(x[0], 1, *x[2:])}, found {mask}")
        return (x,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.emit("Mul", *bottoms, hint=self.name),)


@layer("MaskResize", dialect="sstd")
class MaskResize(Resampled):
    """Bilinear interpolation at y · H / H', x · W / W', of factor_height · H x factor_width · W or the written size.

    dx comes from the two places around each on either axis, as in the reference: not from all where it enlarges.
    (BestSonny/SSTD, mask_resize_layer.cu)
    """

    adds = scaling_pb2.MaskLayerParameter
    passes_signal = True

    def size(self, shape: Shape) -> tuple[int, int]:
        p = self.added.mask_resize_param
        if min(p.output_height, p.output_width) < 1:
            raise self.error("expected positive output_height and output_width in mask_resize_param")
        factors = np.float32(p.factor_height), np.float32(p.factor_width)
        written = p.output_height, p.output_width
        sides = zip(shape[2:], factors, written, strict=True)
        height, width = (int(np.float32(n) * factor) if factor > 0 else size for n, factor, size in sides)
        return height, width

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        sides = list(zip(shape[2:], self.size(shape), strict=True))
        matrices = [weights_of(old, new) for old, new in sides]
        pulls = [np.where(nearest(old, new), matrix, 0).T for (old, new), matrix in zip(sides, matrices, strict=True)]

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            rows = tape.emit("MatMul", tape.constant(pulls[0]), dy)
            return [tape.emit("MatMul", rows, tape.constant(np.ascontiguousarray(pulls[1].T)))]

        return [emit_closed(g, bottoms, lambda x: self.resampled(g, x, matrices), gradient)]


def weights_of(old: int, new: int) -> np.ndarray:
    """Return the weights [new, old] of neighbours at i · old / new: of the last one behind it, 0 behind old - 0.5."""
    place = np.arange(new) * np.float32(old / new)
    at = np.minimum(place, old - 1)
    low = at.astype(int)
    high = np.minimum(low + 1, old - 1)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (at - low))
    np.add.at(weights, (np.arange(new), high), at - low)
    weights[place > old - 0.5] = 0
    return weights


def nearest(old: int, new: int) -> np.ndarray:
    """Return which of the new places [new, old] lie beside each old one: the two around it."""
    first = np.floor(np.arange(old) * (new / old))
    place = np.arange(new)[:, None]
    return (place == first) | (place == first + 1)


@layer("Maximum", dialect="rtpose")
class Maximum(Layer):
    """Column, row and value of the first largest element of each map, [N, C, 1, 3]; no gradient.

    They are 0, 0 and 1.2e-38 where no element is above that.
    (CMU-Perceptual-Computing-Lab/caffe_rtpose, maximum_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((*check_images(self, bottoms[0])[:2], 1, 3),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, channels, height, width = g.shape(bottoms[0])

        def forward(x: str) -> Sequence[str]:
            flat = g.reshape(x, n, channels, height * width)
            value = g.emit("ReduceMax", flat, g.ints(2), keepdims=1)
            counts = g.emit("Greater", value, g.constant(SMALLEST))
            best = g.emit("Where", counts, g.emit("ArgMax", flat, axis=2, keepdims=1), g.constant(0, np.int64))
            row = g.emit("Div", best, g.constant(width, np.int64))
            column = g.emit("Sub", best, g.emit("Mul", row, g.constant(width, np.int64)))
            value = g.emit("Max", value, g.constant(SMALLEST))
            parts = g.emit("Concat", g.cast(column, np.float32), g.cast(row, np.float32), value, axis=2)
            return [g.reshape(g.declare(parts, (n, channels, 3)), n, channels, 1, 3)]

        return without_gradient(g, bottoms, forward)


@layer("Rescale", dialect="skeleton")
class Rescale(Layer):
    """y = 2x / rf - 1 where 1e-4 < |x| and x < rf, else 0; top 1 is 1 there, else 0. No gradient.

    (zeakey/DeepSkeleton, rescale_layer.cpp)
    """

    adds = scaling_pb2.RescaleLayerParameter
    num_tops = (1, 2)
    keeps_places = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        field = self.added.rescale_param.rf

        def forward(x: str) -> Sequence[str]:
            counts = g.emit("Greater", g.emit("Abs", x), g.constant(1e-4))
            counts = g.emit("And", counts, g.emit("Less", x, g.constant(field)))
            y = g.emit("Sub", g.emit("Mul", x, g.constant(2 / field)), g.constant(1))
            return [g.emit("Where", counts, y, g.constant(0)), g.cast(counts, np.float32)][: self.top_count]

        return without_gradient(g, bottoms, forward)


@layer("Quantize", dialect="skeleton")
class Quantize(Layer):
    """The class of a skeleton's scale: 1 from 1 on, 2 from 12, 3 from 36, 4 from 80, and 0 below 1 and from 200 on.

    No gradient. (zeakey/DeepSkeleton, quantize_layer.cpp)
    """

    keeps_places = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> Sequence[str]:
            above = [g.cast(g.emit("GreaterOrEqual", x, g.constant(edge)), np.float32) for edge in (1, 12, 36, 80)]
            below = g.cast(g.emit("Less", x, g.constant(200)), np.float32)
            return [g.emit("Mul", g.emit("Sum", *above), below)]

        return without_gradient(g, bottoms, forward)


@layer("Accum", dialect="flownet")
class Accum(Layer):
    """All bottoms [N, ·, ·, ·] enlarged to one size, corners on corners, and joined along the channels.

    The size is that of the last bottom with have_reference, which is not joined; else the largest of the bottoms or, if
    both sides are larger, top_height x top_width or the next multiple of size_divisible_by.
    (lmb-freiburg/flownet2, accum_layer.cu)
    """

    adds = scaling_pb2.LayerParameter
    num_bottoms = (1, None)

    def joined(self, bottoms: Sequence[Shape]) -> Sequence[Shape]:
        """Return the shapes of the bottoms that are joined."""
        return bottoms[:-1] if self.added.accum_param.have_reference else bottoms

    def size(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return height and width of the top."""
        p, last = self.added.accum_param, bottoms[-1]
        if p.have_reference:
            return last[2], last[3]
        largest = max(shape[2] for shape in bottoms), max(shape[3] for shape in bottoms)
        wanted = p.top_height, p.top_width
        if p.HasField("size_divisible_by") and p.size_divisible_by:
            wanted = tuple(math.ceil(side / p.size_divisible_by) * p.size_divisible_by for side in largest)
        return wanted if wanted[0] > largest[0] and wanted[1] > largest[1] else largest

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shapes = [check_images(self, shape) for shape in bottoms]
        joined = self.joined(shapes)
        if not joined or any(shape[0] != shapes[0][0] for shape in joined):
            raise self.error(f"expected bottoms of one batch, found {', '.join(map(str, shapes))}")
        return ((shapes[0][0], sum(shape[1] for shape in joined), *self.size(shapes)),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        height, width = self.size(shapes)
        parts = []
        for bottom, shape in zip(bottoms, self.joined(shapes), strict=False):
            rows, columns = corners_on_corners(shape[2], height), corners_on_corners(shape[3], width)
            high = g.emit("MatMul", g.constant(rows), bottom)
            parts.append(g.emit("MatMul", high, g.constant(np.ascontiguousarray(columns.T))))
        return (g.emit("Concat", *parts, axis=1, hint=self.name),)


def corners_on_corners(old: int, new: int) -> np.ndarray:
    """Return the weights [new, old] of bilinear interpolation at i / (new - 1) · (old - 1)."""
    at = np.arange(new) / max(new - 1, 1) * (old - 1)
    low = at.astype(int)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new), low), 1 - (at - low))
    np.add.at(weights, (np.arange(new), np.minimum(low + 1, old - 1)), at - low)
    return weights
