"""Layer types of forks for optical flow: FlowNet 2, LiteFlowNet, PWC-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import flow_pb2

from ..base import Layer, Shape, layer
from ..data import Source
from ..loss import Loss, total
from ..neuron import Neuron
from ..reread import emit_closed, emit_reread, without_gradient
from ..shape import Sink

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "AbsLoss",
    "ChannelNorm",
    "Correlation",
    "Correlation1D",
    "ExpMax",
    "Grid",
    "ImgReader",
    "L1Loss",
    "L1LossOfDetectNet",
    "Mean",
    "NegReLU",
    "NegSquare",
    "Writer",
]

SUBTRACT = flow_pb2.CorrelationParameter.SUBTRACT
ADD = flow_pb2.MeanParameter.ADD


def check_images(layer: Layer, shape: Shape) -> Shape:
    """Return the shape of a bottom. Raises NetError unless it is (N, C, H, W)."""
    if len(shape) != 4 or min(shape) < 1:
        raise layer.error(f"expected a bottom (N, C, H, W), found shape {shape}")
    return shape


# ---- correlation -----------------------------------------------------------------------------------------------------


@layer("Correlation", dialect="flownet")
class Correlation(Layer):
    """y[d] = mean over channels and a window of a(p) · b(p + d), for displacements d of up to max_displacement.

    The displacements are multiples of stride_2 on both axes, rows first; p moves by stride_1 over the padded bottoms.
    SUBTRACT takes |a(p) - b(p + d)|; as in the reference its slope for a is the sign of a - b at p + d, for b at p.
    Gradients go to both bottoms, as in the GPU code, the only one.
    (lmb-freiburg/flownet2, correlation_layer.cu)
    """

    adds = flow_pb2.LayerParameter
    num_bottoms = (2, 2)
    moves_down = True  # displacements are two-dimensional

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.correlation_param

    def shifts(self) -> list[int]:
        """Return the displacements along the width."""
        radius = self.settings.max_displacement // self.settings.stride_2
        return [step * self.settings.stride_2 for step in range(-radius, radius + 1)]

    def margins(self) -> tuple[int, int]:
        """Return how far displacements reach on both axes."""
        most = int(self.settings.max_displacement)
        return most * self.moves_down, most

    def padding(self) -> tuple[int, int]:
        return int(self.settings.pad) * self.moves_down, int(self.settings.pad)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.settings
        check_images(self, bottoms[0])
        if bottoms[0] != bottoms[1]:
            raise self.error(f"expected two bottoms of one shape, found {bottoms[0]} and {bottoms[1]}")
        if p.kernel_size % 2 == 0 or not p.HasField("max_displacement") or min(p.stride_1, p.stride_2) < 1:
            raise self.error("expected an odd kernel_size, max_displacement and strides of at least 1")
        pairs = zip(bottoms[0][2:], self.margins(), self.padding(), strict=True)
        inner = [size + 2 * pad - 2 * margin - p.kernel_size + 1 for size, margin, pad in pairs]
        if min(inner) < 1:
            raise self.error(f"displacements and window do not fit into bottoms of shape {bottoms[0]}")
        rows, columns = (math.ceil(size / p.stride_1) for size in inner)
        channels = len(self.shifts()) ** (2 if self.moves_down else 1)
        return ((bottoms[0][0], channels, rows, columns),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (n, _, height, width), (high, wide) = g.shape(bottoms[0]), self.padding()
        shape = (n, g.shape(bottoms[0])[1], height + 2 * high, width + 2 * wide)
        a, b = bottoms
        if wide:
            pads = g.ints(0, 0, high, wide, 0, 0, high, wide)
            a, b = (g.declare(g.emit("Pad", bottom, pads, g.constant(0)), shape) for bottom in bottoms)
        maps = self.differences(g, a, b) if self.settings.correlation_type == SUBTRACT else self.products(g, a, b)
        stacked = maps[0] if len(maps) == 1 else g.emit("Concat", *maps, axis=1)
        (top,) = self.tops([g.shape(bottom) for bottom in bottoms])
        return (g.declare(self.averaged(g, stacked), top),)

    def spans(self, shape: Shape) -> list[int]:
        """Return how many places of the first bottom each axis has, window included."""
        return [size - 2 * margin for size, margin in zip(shape[2:], self.margins(), strict=True)]

    def part(self, g: Graph, x: str, starts: Sequence[int], spans: Sequence[int]) -> str:
        """Emit a part of padded images, every stride_1-th element where no window follows."""
        step = self.settings.stride_1 if self.settings.kernel_size == 1 else 1
        ends = [start + span for start, span in zip(starts, spans, strict=True)]
        return g.emit("Slice", x, g.ints(*starts), g.ints(*ends), g.ints(2, 3), g.ints(step, step))

    def down(self) -> list[int]:
        """Return the displacements along the height."""
        return self.shifts() if self.moves_down else [0]

    def products(self, g: Graph, a: str, b: str) -> list[str]:
        """Emit for each displacement along the height the means over channels [N, shifts, ·, ·].

        All products of two rows come from one matrix product; those of the displacements are picked out of it.
        """
        n, channels, _, width = g.shape(a)
        (rows, columns), (top, left) = self.spans(g.shape(a)), self.margins()
        step = self.settings.stride_1 if self.settings.kernel_size == 1 else 1
        count, places = math.ceil(rows / step), np.arange(0, columns, step)
        first = g.transpose(self.part(g, a, (top, left), (rows, columns)), 0, 2, 3, 1)
        first = g.emit("Mul", first, g.constant(1 / channels))
        index = np.arange(len(places)) * width + left + places + np.array(self.shifts())[:, None]
        maps = []
        for shift in self.down():
            second = g.emit("Slice", b, g.ints(top + shift), g.ints(top + shift + rows), g.ints(2), g.ints(step))
            every = g.emit("MatMul", first, g.transpose(second, 0, 2, 1, 3))
            g.declare(every, (n, count, len(places), width))
            picked = g.emit("Gather", g.reshape(every, n, count, -1), g.constant(index, np.int64), axis=2)
            maps.append(g.transpose(g.declare(picked, (n, count, *index.shape)), 0, 2, 1, 3))
        return maps

    def differences(self, g: Graph, a: str, b: str) -> list[str]:
        """Emit for each displacement the mean |a - b| over channels."""
        spans, (top, left) = self.spans(g.shape(a)), self.margins()
        (signs,) = without_gradient(g, [a, b], lambda a, b: (_signs(g, a, b),))
        g.declare(signs, g.shape(a))
        first, here = (self.part(g, x, (top, left), spans) for x in (a, signs))
        maps = []
        for down in self.down():
            for across in self.shifts():
                second, there = (self.part(g, x, (top + down, left + across), spans) for x in (b, signs))
                maps.append(_difference(g, g.shape(a)[1], first, second, here, there))
        return maps

    def averaged(self, g: Graph, maps: str) -> str:
        """Emit the means over the window."""
        size, stride = self.settings.kernel_size, self.settings.stride_1
        if size == 1:
            return maps
        return g.emit("AveragePool", maps, kernel_shape=[size, size], strides=[stride, stride], hint=self.name)


def _signs(g: Graph, a: str, b: str) -> str:
    """Emit 1 where a >= b, else -1."""
    return g.emit("Where", g.emit("GreaterOrEqual", a, b), g.constant(1), g.constant(-1))


def _difference(g: Graph, channels: int, a: str, b: str, here: str, there: str) -> str:
    """Emit the mean |a - b| over channels. here, there: the signs of both bottoms' difference where a and b lie."""

    def forward(a: str, b: str) -> str:
        return g.emit("ReduceMean", g.emit("Abs", g.emit("Sub", a, b)), g.ints(1), keepdims=1)

    def gradient(tape: Tape, dy: str) -> Sequence[str]:
        each = tape.emit("Div", dy, tape.constant(channels))
        return tape.emit("Mul", each, there), tape.emit("Neg", tape.emit("Mul", each, here))

    return emit_closed(g, (a, b), forward, gradient)


@layer("Correlation1D", dialect="flownet")
class Correlation1D(Correlation):
    """Correlation with displacements along the width alone: all, or to one side as single_direction says.

    (lmb-freiburg/flownet2, correlation_layer1d.cu)
    """

    moves_down = False

    def shifts(self) -> list[int]:
        p = self.settings
        if not p.single_direction:
            return super().shifts()
        count = p.max_displacement // p.stride_2 + 1
        first = -count if p.single_direction == -1 else 0
        return [step * p.stride_2 for step in range(first, first + count)]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        top = super().tops(bottoms)
        if self.margins()[1] + self.shifts()[0] < 0:
            raise self.error("single_direction: -1 reads elements in front of the padded bottom; choose stride_2 so "
                             "that max_displacement is no multiple of it, or single_direction 0 or 1")  # fmt: skip
        return top


# ---- losses and norms ------------------------------------------------------------------------------------------------


@layer("L1Loss", dialect="nvidia")
class L1LossOfDetectNet(Loss):
    """y = Σ |a - b| / N; no gradient where a = b. (NVIDIA/caffe, l1_loss_layer.cpp)"""

    takes_targets = True

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_counts(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        size = g.emit("Abs", g.emit("Sub", bottoms[0], g.reshape(bottoms[1], *shape)))
        return [g.emit("Div", total(g, size), g.constant(shape[0]))]


@layer("L1Loss", dialect="flownet")
class L1Loss(Loss):
    """y = Σ |d| / N for d = a - b, or a alone; with l2_per_location Σ (Σ_c d² + epsilon)^power / N.

    Elements that are not a number count as 0 and get no gradient, and those below the plateau likewise; N is the batch,
    or with normalize_by_num_entries the number of elements that are numbers, per channel. At d = 0 the gradient is that
    of d < 0. (lmb-freiburg/flownet2, l1loss_layer.cu; twhui/LiteFlowNet: power)
    """

    adds = flow_pb2.LayerParameter
    num_bottoms = (1, 2)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        check_images(self, bottoms[0])
        if any(shape != bottoms[0] for shape in bottoms):
            raise self.error(f"expected two bottoms of one shape, found {bottoms[0]} and {bottoms[1]}")
        return ((),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, channels = g.shape(bottoms[0])[:2]
        p, made = self.added.l1_loss_param, dict[str, str]()

        def forward(a: str, *others: str) -> str:
            d = g.emit("Sub", a, others[0]) if others else a
            valid = g.emit("Not", g.emit("IsNaN", d))
            made["count"] = g.constant(n)
            if p.normalize_by_num_entries:
                made["count"] = g.emit("Div", total(g, g.cast(valid, np.float32)), g.constant(channels))
            if p.l2_per_location:
                losses = self.euclidean(g, d, valid, channels, made)
            else:
                losses = self.absolute(g, d, valid, made)
            return g.emit("Div", total(g, losses), made["count"])

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            da = tape.emit("Mul", made["slope"], tape.emit("Div", dy, made["count"]))
            return [da, tape.emit("Neg", da)][: len(bottoms)]

        return (emit_closed(g, bottoms, forward, gradient),)

    def absolute(self, g: Graph, d: str, valid: str, made: dict[str, str]) -> str:
        """Emit |d| of what counts, and its slope."""
        plateau = self.added.l1_loss_param.plateau
        if plateau > 0:
            low = g.emit("Less", g.emit("Abs", d), g.constant(plateau))
            valid = g.emit("And", valid, g.emit("Not", low))
        sign = g.emit("Where", g.emit("Greater", d, g.constant(0)), g.constant(1), g.constant(-1))
        made["slope"] = g.emit("Mul", sign, g.cast(valid, np.float32))
        return g.emit("Abs", g.emit("Where", valid, d, g.constant(0)))

    def euclidean(self, g: Graph, d: str, valid: str, channels: int, made: dict[str, str]) -> str:
        """Emit (Σ_c d² + epsilon)^power, and its slope."""
        p = self.added.l1_loss_param
        kept = g.emit("Where", valid, d, g.constant(0))
        square = g.emit("Mul", kept, kept)
        prescales = p.l2_prescale_by_channels
        square = g.emit("ReduceMean" if prescales else "ReduceSum", square, g.ints(1), keepdims=1)
        counts = None
        if p.plateau > 0:
            limit = np.float32(p.plateau) * np.float32(p.plateau)
            counts = g.emit("GreaterOrEqual", square, g.constant(limit))
            square = g.emit("Where", counts, square, g.constant(0))
        inner = g.emit("Add", square, g.constant(p.epsilon))
        losses = g.emit("Pow", inner, g.constant(p.power))
        slope = g.emit("Mul", g.emit("Div", losses, inner), g.constant(2 * p.power))
        if counts:
            slope = g.emit("Where", counts, slope, g.constant(0))
        made["slope"] = g.emit("Mul", kept, slope)
        if prescales:
            made["slope"] = g.emit("Div", made["slope"], g.constant(channels))
        return losses


@layer("AbsLoss", dialect="depth")
class AbsLoss(Loss):
    """y = Σ |a - b| / N; da = -db = dy / N where a > b, else -dy / N.

    (panzhenfu/caffe_Unsupervised_Depth_Estimation, abs_loss_layer.cpp)
    """

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_counts(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, other = g.shape(bottoms[0]), g.shape(bottoms[1])
        made: dict[str, str] = {}

        def forward(a: str, b: str) -> str:
            d = g.emit("Sub", a, g.reshape(b, *shape))
            made["sign"] = g.emit("Where", g.emit("Greater", d, g.constant(0)), g.constant(1), g.constant(-1))
            return g.emit("Div", total(g, g.emit("Abs", d)), g.constant(shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            da = tape.emit("Mul", made["sign"], tape.emit("Div", dy, tape.constant(shape[0])))
            return da, tape.reshape(tape.emit("Neg", da), *other)

        return (emit_closed(g, bottoms, forward, gradient),)


@layer("ChannelNorm", dialect="flownet")
class ChannelNorm(Layer):
    """y = √(Σ_c x²), [N, C, H, W] -> [N, 1, H, W]; dx = dy · x / (y + 1e-9).

    (lmb-freiburg/flownet2, channel_norm_layer.cpp)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, height, width = check_images(self, bottoms[0])
        return ((n, 1, height, width),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> str:
            return g.emit("Sqrt", g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(1), keepdims=1))

        def gradient(tape: Tape, x: str, y: str, dy: str) -> str:
            return str(tape.emit("Mul", tape.emit("Div", dy, tape.emit("Add", y, tape.constant(1e-9))), x))

        return (emit_reread(g, bottoms[0], forward, gradient),)


# ---- element by element ----------------------------------------------------------------------------------------------


@layer("NegReLU", dialect="flownet")
class NegReLU(Neuron):
    """y = min(x, 0) + negative_slope · max(x, 0); dx = dy · (1 if x < 0 else negative_slope).

    (lmb-freiburg/flownet2, neg_relu_layer.cpp)
    """

    def nonlinearity(self) -> Nonlinearity:
        slope = self.proto.relu_param.negative_slope
        return activations.rectifier(lambda x: 1.0 if x < 0 else slope, slope**2)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        zero, slope = g.constant(0), g.constant(self.proto.relu_param.negative_slope)

        def forward(x: str) -> str:
            return g.emit("Add", g.emit("Min", x, zero), g.emit("Mul", slope, g.emit("Max", x, zero)))

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            return str(tape.emit("Where", tape.emit("Less", bottom, zero), dy, tape.emit("Mul", dy, slope)))

        return (emit_reread(g, bottoms[0], forward, gradient),)


@layer("NegSquare", dialect="flownet")
class NegSquare(Neuron):
    """y = -x². No gradient: the reference multiplies the old diff, which is 0, by dy.

    (twhui/LiteFlowNet, negsquare_layer.cu)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda x: (g.emit("Neg", g.emit("Mul", x, x)),))


@layer("ExpMax", dialect="flownet")
class ExpMax(Neuron):
    """y = base^(shift + scale · (x - m)), m the largest of the channels at each place of the first item, 0 in others.

    base -1 stands for e; dx = dy · y · scale · log base. The reference looks for the largest in one item alone.
    (twhui/LiteFlowNet, expmax_layer.cu)
    """

    adds = flow_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.expmax_param
        if p.base != -1 and p.base <= 0:
            raise self.error(f"expected a base above 0, or -1 for e, found {p.base:g}")
        return (check_images(self, bottoms[0]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, n = self.added.expmax_param, g.shape(bottoms[0])[0]
        log_base = 1.0 if p.base == -1 else math.log(p.base)
        is_first = g.constant((np.arange(n) == 0).reshape(-1, 1, 1, 1))

        def forward(x: str) -> str:
            largest = g.emit("Mul", g.emit("ReduceMax", x, g.ints(1), keepdims=1), is_first)
            inner = g.emit("Mul", g.emit("Sub", x, largest), g.constant(log_base * p.scale))
            return g.emit("Mul", g.emit("Exp", inner), g.constant(math.exp(log_base * p.shift)))

        def gradient(tape: Tape, x: str, y: str, dy: str) -> str:
            return str(tape.emit("Mul", tape.emit("Mul", dy, y), tape.constant(log_base * p.scale)))

        return (emit_reread(g, bottoms[0], forward, gradient),)


@layer("Grid", dialect="flownet")
class Grid(Layer):
    """y = x and y of each place of the bottom's images, [N, 2, H, W]. (twhui/LiteFlowNet, grid_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, height, width = check_images(self, bottoms[0])
        return ((n, 2, height, width),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, _, height, width = g.shape(bottoms[0])
        grid = g.constant(np.indices((height, width))[::-1][None])
        return without_gradient(g, bottoms, lambda _: (g.emit("Expand", grid, g.ints(n, 2, height, width)),))


@layer("Mean", dialect="flownet")
class Mean(Layer):
    """y = output_scale · (input_scale · x ± mean_scale · m), m one value per channel, in turn; no gradient.

    (lmb-freiburg/flownet2, mean_layer.cpp)
    """

    adds = flow_pb2.LayerParameter
    num_bottoms = (1, None)
    num_tops = (1, None)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, values = self.added.mean_param, self.added.mean_param.value
        if len(bottoms) != self.top_count:
            raise self.error(f"expected as many tops as bottoms, found {self.top_count} and {len(bottoms)}")
        if p.HasField("file") or not values:
            raise self.error("expected values in mean_param; means from a file are not read")
        for shape in bottoms:
            if check_images(self, shape)[1] % len(values):
                raise self.error(f"expected channels that {len(values)} values divide, found a bottom of shape {shape}")
        return tuple(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [without_gradient(g, (bottom,), lambda x: (self.moved(g, x),))[0] for bottom in bottoms]

    def moved(self, g: Graph, x: str) -> str:
        p = self.added.mean_param
        sign = 1 if p.operation == ADD else -1
        means = np.resize(np.asarray(p.value, np.float32), g.shape(x)[1]) * np.float32(sign * p.mean_scale)
        scaled = g.emit("Mul", x, g.constant(p.input_scale))
        return g.emit("Mul", g.emit("Add", scaled, g.constant(means.reshape(-1, 1, 1))), g.constant(p.output_scale))


# ---- files -----------------------------------------------------------------------------------------------------------


@layer("ImgReader", dialect="flownet")
class ImgReader(Source):
    """One image file, num times. (lmb-freiburg/flownet2, imgreader_layer.cpp)"""

    adds = flow_pb2.LayerParameter
    num_tops = (1, 1)
    reads_pixels = True

    def written_shape(self, index: int) -> Shape | None:
        transform = self.proto.transform_param
        crop, channels = transform.crop_size, 1 if transform.force_gray else 3
        return (self.added.reader_param.num, channels, crop, crop) if crop else None

    def shape_source(self) -> str:
        return f"in the image {self.added.reader_param.file!r}"


@layer("FLOWriter", "ImgWriter", "PFMWriter", "FloatWriter", dialect="flownet")
class Writer(Sink):
    """No top: the reference writes its bottoms to files, this does not. (lmb-freiburg/flownet2, flowriter_layer.cpp)"""

    adds = flow_pb2.LayerParameter
