"""Layers of a codec for images: quantization, masked convolutions, and losses of rate and likeness. (limuhit/CCN)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.fillers import Filler, Stream
from caffestat.lazy import np
from caffestat.schema.forks import compression_pb2, data_pb2

from ..base import Layer, Param, Shape, layer
from ..convolution import Convolution
from ..loss import Loss, total
from ..neuron import Neuron, scaled, shifted
from ..reread import emit_closed, without_gradient
from .flow import check_images

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "ConstScale",
    "DecoderConv3",
    "DecoderExtract",
    "DecoderInput",
    "DecoderOutput",
    "DecoderQuant",
    "Dtow",
    "DynamicMaskData",
    "Enlarge",
    "EntropyGmmLoss",
    "LOTLoss",
    "MLQuant",
    "MTranspose",
    "MaskedConvolution",
    "MssimLoss",
    "SplitChannel",
    "Tiling",
]


# ---- order and scale -------------------------------------------------------------------------------------------------


@layer("ConstScale", dialect="ccn")
class ConstScale(Neuron):
    """y = scale · x + bias; dx = scale · dy. (limuhit/CCN, const_scale_layer.cpp)"""

    adds = compression_pb2.LayerParameter
    passes_signal = True

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p = self.added.const_scale_param
        return (shifted(g, scaled(g, bottoms[0], p.scale), p.bias),)


def zigzag(side: int) -> np.ndarray:
    """Return the place in a square, row · side + column, of each step along its diagonals."""
    steps = [(row, end - row) for end in range(2 * side - 1) for row in range(side) if 0 <= end - row < side]
    return np.array([row * side + column for row, column in steps])


@layer("Dtow", dialect="ccn")
class Dtow(Layer):
    """Depth to width: psize² channels that follow each other become a square of psize x psize places; or back.

    MDTOW and MWTOD go row by row, LDTOW and LWTOD along the diagonals of the square, ngroup channels at a time.
    (limuhit/CCN, dtow_layer.cpp)
    """

    adds = compression_pb2.LayerParameter
    passes_values = True

    @property
    def side(self) -> int:
        """How many places an axis of the square has."""
        return int(self.added.dtow_param.psize)

    @property
    def widens(self) -> bool:
        """Whether channels become places."""
        p = self.added.dtow_param
        return p.method in (p.MDTOW, p.LDTOW)

    @property
    def is_diagonal(self) -> bool:
        """Whether the square is filled along its diagonals."""
        p = self.added.dtow_param
        return p.method in (p.LDTOW, p.LWTOD)

    @property
    def group(self) -> int:
        """How many channels go together."""
        return int(self.added.dtow_param.ngroup) if self.is_diagonal else 1

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        side, group = self.side, self.group
        if not side or not group:
            raise self.error(f"expected a positive side and group of the squares, found {side} and {group}")
        if self.widens:
            if c % (side * side * group):
                raise self.error(f"expected a multiple of {side * side * group} channels, found shape {bottoms[0]}")
            return ((n, c // side**2, h * side, w * side),)
        if h % side or w % side or c % group:
            raise self.error(f"expected height and width in multiples of {side}, found shape {bottoms[0]}")
        return ((n, c * side**2, h // side, w // side),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, side, group = g.shape(bottoms[0]), self.side, self.group
        top = self.tops([shape])[0]
        n, (c, h, w) = shape[0], shape[1:] if self.widens else top[1:]
        outer = c // (side * side * group)
        order = zigzag(side) if self.is_diagonal else np.arange(side * side)
        if self.widens:
            x = self.ordered(g, g.reshape(bottoms[0], n, outer, side * side, group, h, w), np.argsort(order))
            x = g.reshape(g.declare(x, (n, outer, side * side, group, h, w)), n, outer, side, side, group, h, w)
            return (g.reshape(g.transpose(x, 0, 1, 4, 5, 2, 6, 3), *top),)
        x = g.transpose(g.reshape(bottoms[0], n, outer, group, h, side, w, side), 0, 1, 4, 6, 2, 3, 5)
        x = self.ordered(g, g.reshape(x, n, outer, side * side, group, h, w), order)
        return (g.reshape(g.declare(x, (n, outer, side * side, group, h, w)), *top),)

    def ordered(self, g: Graph, x: str, order: np.ndarray) -> str:
        """Emit x with axis 2 in another order."""
        return g.emit("Gather", x, g.ints(*order.tolist()), axis=2) if self.is_diagonal else x


@layer("Tiling", dialect="vpgnet")
class Tiling(Dtow):
    """tile_dim² channels that follow each other become a square of tile_dim x tile_dim places, row by row.

    (SeokjuLee/VPGNet, tiling_layer.cpp)
    """

    adds = data_pb2.VpgLayerParameter
    widens = True
    is_diagonal = False

    @property
    def side(self) -> int:
        return int(self.added.tiling_param.tile_dim)


@layer("Enlarge", dialect="maf")
class Enlarge(Dtow):
    """Squares of scale x scale places become scale² channels that follow each other, row by row.

    Rows and columns behind the last whole square are left out.
    (He-Zhenwei/MAF, enlarge_layer.cu)
    """

    adds = compression_pb2.EnlargeLayerParameter
    widens = False
    is_diagonal = False

    @property
    def side(self) -> int:
        return int(self.added.enlarge_param.scale)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        side = max(self.side, 1)
        return super().tops([(n, c, h // side * side, w // side * side)])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x, shape = bottoms[0], g.shape(bottoms[0])
        whole = [size // self.side * self.side for size in shape[2:]]
        if whole != list(shape[2:]):
            x = g.declare(g.emit("Slice", x, g.ints(0, 0), g.ints(*whole), g.ints(2, 3)), (*shape[:2], *whole))
        return super().lower(g, [x], params)


@layer("MTranspose", dialect="ccn")
class MTranspose(Layer):
    """Rows of `groups` channels of a place [N · C · H · W / groups, groups]; `inverse` goes back, without gradient.

    (limuhit/CCN, mtranspose_layer.cpp)
    """

    adds = compression_pb2.LayerParameter
    passes_values = True

    def image_shape(self, shape: Shape) -> Shape:
        """Return the shape of the blob that is an image."""
        p = self.added.mtranspose_param
        if not p.inverse:
            return check_images(self, shape)
        size = p.channel * p.height * p.width
        if not size or math.prod(shape) % size:
            raise self.error(f"expected images of channel · height · width = {size} numbers, found shape {shape}")
        return (math.prod(shape) // size, p.channel, p.height, p.width)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, image = self.added.mtranspose_param, self.image_shape(bottoms[0])
        if not p.groups or image[1] % p.groups:
            raise self.error(f"expected groups that divide {image[1]} channels, found {p.groups}")
        return (image if p.inverse else (math.prod(image) // p.groups, p.groups),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, p = g.shape(bottoms[0]), self.added.mtranspose_param
        (n, c, h, w), (top,) = self.image_shape(shape), self.tops([shape])
        if not p.inverse:
            x = g.reshape(bottoms[0], n, c // p.groups, p.groups, h * w)
            return (g.reshape(g.transpose(x, 0, 1, 3, 2), *top),)
        x = g.reshape(g.detach(bottoms[0]), n, c // p.groups, h * w, p.groups)
        return (g.reshape(g.transpose(x, 0, 1, 3, 2), *top),)


@layer("SplitChannel", dialect="ccn")
class SplitChannel(Layer):
    """The first memory_data_param.channels channels. (limuhit/CCN, split_channel_layer.cpp)"""

    passes_values = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, c, h, w = check_images(self, bottoms[0])
        first = self.proto.memory_data_param.channels
        if not 0 < first <= c:
            raise self.error(f"expected channels of 1 to {c} in memory_data_param, found {first}")
        return ((n, first, h, w),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        end = self.proto.memory_data_param.channels
        return (g.emit("Slice", bottoms[0], g.ints(0), g.ints(end), g.ints(1)),)


@layer("DynamicMaskData", dialect="ccn")
class DynamicMaskData(Layer):
    """1 in the first channels, 0 in the others; how many are the first is a param, which starts at all.

    (limuhit/CCN, dynamic_mask_data_layer.cpp)
    """

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        count = check_images(self, bottoms[0])[1]
        return (Param("channels", (1, 1, 1, 1), Filler(value=float(count)), False, 1, 1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (check_images(self, bottoms[0]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        places = g.constant(np.arange(shape[1]).reshape(-1, 1, 1))

        def forward() -> Sequence[str]:
            count = g.emit("Floor", g.emit("Add", params[0], g.constant(1e-6)))
            mask = g.emit("Cast", g.emit("Less", places, count), to=1)
            return [g.emit("Expand", mask, g.ints(*shape))]

        return without_gradient(g, [], forward)


# ---- quantization ----------------------------------------------------------------------------------------------------


@layer("MLQuant", dialect="ccn")
class MLQuant(Layer):
    """y = the nearest of `groups` levels of the channel; a second top is its number.

    Level j is w0 + e^w1 + … + e^wj of the weights [1, C, 1, groups]; at first the levels lie evenly from 0 to 1.
    dx is dy plus that of the second top. The weights' gradient is that of Σ (y - x)² / 2, whatever dy is. Two more
    params hold settings, the last the mean of (y - x)², and how often each level was taken, of which 0.999 is kept at
    every pass. Numbers as on the CPU: a GPU divides the second top's part of dx by the distance to the next level, and
    counts twice what lies below the first. (limuhit/CCN, ml_quant_layer.cpp)
    """

    adds = compression_pb2.LayerParameter
    num_tops = (1, 2)
    left_out = "every 200 passes the reference moves levels that no value took"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.mlquant_param
        if p.method != p.SINGLE:
            raise self.error("method NEIGHBOR is not supported; expected SINGLE")
        if p.groups < 2:
            raise self.error(f"expected groups of 2 or more in mlquant_param, found {p.groups}")
        return (check_images(self, bottoms[0]),) * self.top_count

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape, fixed = (1, bottoms[0][1], 1, self.added.mlquant_param.groups), Filler()
        return (
            Param("levels", shape, fixed, False, 1, 1),
            Param("settings", (5, 1, 1, 1), fixed, False, 1, 1),
            Param("counts", shape, fixed, False, 1, 1),
        )

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        step = np.float32(1 / params[0].shape[-1])
        levels = np.full(params[0].shape, np.log(step), np.float32)
        levels[..., 0] = step / 2
        settings = np.array([1, 0.999, 0, 200, 0], np.float32).reshape(5, 1, 1, 1)
        return [levels, settings, np.zeros(params[2].shape, np.float32)]

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return param == 0

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, c, h, w = g.shape(bottoms[0])
        count = self.added.mlquant_param.groups
        inner = (1, c, 1, 1, count)
        made: dict[str, str] = {}

        def forward(x: str, weights: str, settings: str, counts: str) -> Sequence[str]:
            first = g.constant(np.arange(count) == 0, np.bool_)
            steps = g.emit("Where", first, weights, g.emit("Exp", weights))
            levels = g.emit("CumSum", steps, g.constant(3, np.int64))
            halves = g.emit("Sub", levels, g.emit("Mul", steps, g.constant(0.5)))
            reached = g.emit(
                "LessOrEqual", g.reshape(g.declare(halves, (1, c, 1, count)), *inner), g.reshape(x, n, c, h, w, 1)
            )
            passes = g.emit("Where", first, g.constant(1), g.emit("Cast", reached, to=1))  # which steps add up to y
            own = g.reshape(g.declare(steps, (1, c, 1, count)), *inner)
            y = g.emit("ReduceSum", g.emit("Mul", passes, own), g.ints(-1), keepdims=0)
            taken = g.emit("Sub", g.emit("ReduceSum", passes, g.ints(-1), keepdims=0), g.constant(1))
            made.update(passes=passes, y=y, steps=steps, first=first)
            self.count(g, taken, params, settings, counts)
            self.measure(g, g.emit("Sub", y, x), params, settings)
            return [y, taken][: self.top_count]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            dx, further = dys[0], dys[1] if len(dys) > 1 else None
            if further:
                weight = tape.reshape(tape.emit("Slice", params[1], g.ints(0), g.ints(1), g.ints(0)), 1, 1, 1, 1)
                part = tape.emit("Mul", further, weight)
                dx = tape.emit("Add", dx, part) if dx else part
            error = tape.reshape(tape.declare(tape.emit("Sub", made["y"], bottoms[0]), (n, c, h, w)), n, c, h, w, 1)
            sums = tape.emit("ReduceSum", tape.emit("Mul", error, made["passes"]), tape.ints(0, 2, 3), keepdims=0)
            sums = tape.reshape(tape.declare(sums, (c, count)), 1, c, 1, count)
            chain = tape.emit("Where", made["first"], tape.constant(1), made["steps"])
            return [dx, tape.emit("Mul", sums, chain), None, None]

        return g.custom_vjp([bottoms[0], *params], forward, backward)

    def count(self, g: Graph, taken: str, params: Sequence[str], settings: str, counts: str) -> None:
        """Emit how often levels were taken."""
        shape = g.shape(params[2])
        numbers = g.constant(np.arange(shape[-1]))
        hits = g.emit("Cast", g.emit("Equal", g.emit("Unsqueeze", taken, g.ints(4)), numbers), to=1)
        hits = g.emit("ReduceSum", hits, g.ints(0, 2, 3), keepdims=0)
        old = g.emit("Mul", counts, g.emit("Slice", settings, g.ints(1), g.ints(2), g.ints(0)))
        g.updates[params[2]] = g.declare(
            g.emit("Add", old, g.reshape(g.declare(hits, (shape[1], shape[3])), *shape)), shape
        )

    def measure(self, g: Graph, error: str, params: Sequence[str], settings: str) -> None:
        """Emit the new number of passes and the mean squared error."""
        one = np.array([0, 0, 1, 0]).reshape(4, 1, 1, 1)
        numbers = g.emit("Add", g.emit("Slice", settings, g.ints(0), g.ints(4), g.ints(0)), g.constant(one))
        mean = g.emit("Unsqueeze", g.emit("ReduceMean", g.emit("Mul", error, error), keepdims=0), g.ints(0, 1, 2, 3))
        g.updates[params[1]] = g.declare(g.emit("Concat", numbers, mean, axis=0), (5, 1, 1, 1))


MASKS = {
    1: lambda y, x, inner, outer, k: (outer > inner) | (outer == inner) & ((y < k // 2) | (y == k // 2) & (x < k // 2)),
    2: lambda y, x, inner, outer, k: (
        (outer > inner) | (outer == inner) & ((y < k // 2) | (y == k // 2) & (x <= k // 2))
    ),
    3: lambda y, x, inner, outer, k: (
        (outer > inner) & (y <= k // 2) & (x <= k // 2)
        | (outer == inner) & ((y < k // 2) & (x <= k // 2) | (y == k // 2) & (x < k // 2))
    ),
    4: lambda y, x, inner, outer, k: (outer >= inner) & (y <= k // 2) & (x <= k // 2),
    5: lambda y, x, inner, outer, k: x + y + inner < outer + k - 1,
    6: lambda y, x, inner, outer, k: x + y + inner <= outer + k - 1,
}
"""By `constrain`: which weights at (y, x) of a square kernel, from a group of channels to one, count."""


@layer("Convolution", dialect="ccn")
class MaskedConvolution(Convolution):
    """Convolution with a square kernel that sees only what comes earlier, as `constrain` says; other weights become 0.

    Channels count as groups of group_in and group_out. The weights' gradient is not masked.
    (limuhit/CCN, conv_layer.cu)
    """

    adds = compression_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.convolution_param
        if p.constrain and p.constrain not in MASKS:
            raise self.error(f"expected a constrain of 0 to {max(MASKS)}, found {p.constrain}")
        if not p.group_in or not p.group_out:
            raise self.error("expected a positive group_in and group_out, found 0")
        return super().tops(bottoms)

    def mask(self, shape: Shape) -> np.ndarray:
        """Return which weights count."""
        p = self.added.convolution_param
        outer, inner, y, x = np.indices(shape)
        is_seen: np.ndarray = MASKS[p.constrain](y, x, inner // p.group_in, outer // p.group_out, shape[-1])
        return is_seen

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(params[0])
        if not self.added.convolution_param.constrain:
            return super().lower(g, bottoms, params)
        if len(shape) != 4 or shape[2] != shape[3]:
            raise self.error(f"constrain needs a square kernel, found weights of shape {shape}")
        mask = g.constant(self.mask(shape))
        weight = emit_closed(g, params[:1], lambda w: g.emit("Mul", w, mask), lambda tape, dy: (dy,), ("Identity",))
        g.updates[params[0]] = g.declare(weight, shape)
        return super().lower(g, bottoms, (weight, *params[1:]))


# ---- losses ----------------------------------------------------------------------------------------------------------


@layer("LOTLoss", dialect="ccn")
class LOTLoss(Loss):
    """Mean of |x| (below 0 times `slope`) or, L2, of x², weighed by bottom 1; PSNR: 10 log10(255² / that).

    dx is 1 or -slope, or x, over the count; for PSNR 10 / mse times that. With weights it is the weight over their sum
    of |w|, whatever the loss's weight is. (limuhit/CCN, lot_loss_layer.cu)
    """

    adds = compression_pb2.LayerParameter
    num_bottoms = (1, 2)

    @property
    def ignores_dy(self) -> bool:
        return len(self.proto.bottom) == 2

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) == 2 and math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"expected as many weights as numbers, found shapes {bottoms[0]} and {bottoms[1]}")
        return ((),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.lot_param, g.shape(bottoms[0])
        made: dict[str, str] = {}

        def forward(x: str, *weights: str) -> Sequence[str]:
            pull = x
            if p.method == p.L1:
                below = g.emit("Where", g.emit("Less", x, g.constant(0)), g.constant(-p.slope), g.constant(0))
                pull = g.emit("Where", g.emit("Greater", x, g.constant(0)), g.constant(1), below)
            base = g.constant(math.prod(shape))
            for weight in weights:
                weight = g.reshape(weight, *shape)
                pull = g.emit("Mul", pull, weight)
                base = total(g, g.emit("Abs", weight))
                base = g.emit("Where", g.emit("Equal", base, g.constant(0)), g.constant(1), base)
            loss = g.emit("Div", total(g, g.emit("Mul", pull, x)), base)
            made.update(pull=pull, base=base, mean=loss)
            if p.method == p.PSNR:
                ratio = g.emit("Div", g.constant(255.0 * 255.0), loss)
                loss = g.emit("Mul", g.emit("Log", ratio), g.constant(10 / math.log(10)))
            return [loss]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if len(bottoms) == 2:
                return [tape.emit("Div", made["pull"], made["base"]), None]
            if dys[0] is None:
                return [None]
            scale = tape.emit("Div", dys[0], made["base"])
            if p.method == p.PSNR:
                scale = tape.emit("Div", tape.emit("Mul", scale, tape.constant(10)), made["mean"])
            return [tape.emit("Mul", made["pull"], scale)]

        return g.custom_vjp(bottoms, forward, backward)


@layer("EntropyGmmLoss", dialect="ccn")
class EntropyGmmLoss(Loss):
    """y = mean of -log(1e-7 + Σ_k w_k (Φ((x + 1/2 - m_k) / d_k) - Φ((x - 1/2 - m_k) / d_k))): the bits of integers.

    Bottoms: weights w, deviations d (1e-5 at least), means m, each with a row of K numbers for each of the labels x.
    All get a gradient. (limuhit/CCN, entropy_gmm_loss_layer.cu)
    """

    num_bottoms = (4, 4)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        count, labels = math.prod(bottoms[0]), math.prod(bottoms[3])
        if any(math.prod(shape) != count for shape in bottoms[1:3]) or not labels or count % labels:
            raise self.error(
                f"expected three bottoms of one size, a row of them for each label, found shapes {bottoms}"
            )

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        labels = math.prod(g.shape(bottoms[3]))
        width = math.prod(g.shape(bottoms[0])) // labels
        weight, delta, mean = (g.reshape(bottom, labels, width) for bottom in bottoms[:3])
        x = g.reshape(bottoms[3], labels, 1)
        delta = emit_closed(
            g, (delta,), lambda d: g.emit("Max", d, g.constant(1e-5)), lambda tape, dy: (dy,), ("Identity",)
        )
        below, above = (self.below(g, x, shift, delta, mean) for shift in (-0.5, 0.5))
        p = g.emit("ReduceSum", g.emit("Mul", weight, g.emit("Sub", above, below)), g.ints(1), keepdims=0)
        logs = g.emit("Neg", g.emit("Log", g.emit("Add", p, g.constant(1e-7))))
        losses = emit_closed(g, (logs,), lambda v: g.emit("Abs", v), lambda tape, dy: (dy,), ("Identity",))
        return (g.emit("Div", total(g, losses), g.constant(labels)),)

    @staticmethod
    def below(g: Graph, x: str, shift: float, delta: str, mean: str) -> str:
        """Emit Φ((x + shift - mean) / delta)."""
        z = g.emit("Div", g.emit("Sub", g.emit("Add", x, g.constant(shift)), mean), delta)
        return g.emit("Mul", shifted(g, g.emit("Erf", scaled(g, z, math.sqrt(0.5))), 1.0), g.constant(0.5))


SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of each scale of MS-SSIM
WINDOW, DEVIATION = 11, 1.5
LEAST = 176


@layer("MssimLoss", dialect="ccn")
class MssimLoss(Loss):
    """MS-SSIM of images of 0 to 255: Π mean(cs_i)^γ_i over four scales, times mean(ssim)^γ of the fifth.

    0 where a mean is not positive. A Gaussian window of 11 x 11; each scale is the mean of 2 x 2 places of the one
    before. Bottom 1 gets no gradient; at an odd border that of a scale is a quarter of the next one's.
    (limuhit/CCN, mssim_loss_layer.cu; Wang et al. 2003)
    """

    def check(self, bottoms: Sequence[Shape]) -> None:
        check_images(self, bottoms[0])
        if bottoms[1] != bottoms[0] or min(bottoms[0][2:]) < LEAST:
            raise self.error(f"expected two images of one shape and at least {LEAST} x {LEAST}, found {bottoms}")

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        super().tops(bottoms)
        return ((),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x, y = bottoms[0], g.detach(bottoms[1])
        y = g.declare(y, g.shape(bottoms[1]))
        means = []
        for scale in range(len(SCALES)):
            if scale:
                x, y = halved(g, x), halved(g, y)
            lightness, likeness = self.compared(g, x, y)
            last = scale == len(SCALES) - 1
            means.append(g.emit("ReduceMean", g.emit("Mul", lightness, likeness) if last else likeness, keepdims=0))
        positive = [g.emit("Greater", mean, g.constant(0)) for mean in means]
        result, valid = g.constant(1), positive[0]
        for mean, is_positive, power in zip(means, positive, SCALES, strict=True):
            valid = g.emit("And", valid, is_positive)
            held = g.emit("Where", is_positive, mean, g.constant(1e-4))
            result = g.emit("Mul", result, g.emit("Pow", held, g.constant(power)))
        return (g.emit("Where", valid, result, g.constant(0)),)

    def compared(self, g: Graph, x: str, y: str) -> tuple[str, str]:
        """Emit likeness of the means, and of contrast and structure, of each window."""
        mx, my = blurred(g, x), blurred(g, y)
        xx, yy, xy = (blurred(g, product(g, a, b)) for a, b in ((x, x), (y, y), (x, y)))
        both, squares = g.emit("Mul", mx, my), g.emit("Add", g.emit("Mul", mx, mx), g.emit("Mul", my, my))
        light, dark = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        lightness = g.emit("Div", shifted(g, scaled(g, both, 2.0), light), shifted(g, squares, light))
        covariance = shifted(g, scaled(g, g.emit("Sub", xy, both), 2.0), dark)
        variances = shifted(g, g.emit("Sub", g.emit("Add", xx, yy), squares), dark)
        return lightness, g.emit("Div", covariance, variances)


def product(g: Graph, a: str, b: str) -> str:
    """Emit the product of two blobs of one shape."""
    return g.declare(g.emit("Mul", a, b), g.shape(a))


def blurred(g: Graph, x: str) -> str:
    """Emit each channel under a Gaussian window."""
    channels = g.shape(x)[1]
    line = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * DEVIATION**2))
    window = np.outer(line, line) / line.sum() ** 2
    return g.emit("Conv", x, g.constant(np.tile(window, (channels, 1, 1, 1))), group=channels)


def halved(g: Graph, x: str) -> str:
    """Emit the mean of 2 x 2 places; a last row or column counts twice, but not in the gradient."""
    n, c, h, w = g.shape(x)
    half = (n, c, (h + 1) // 2, (w + 1) // 2)

    def forward(x: str) -> str:
        padded = g.emit("Pad", x, g.ints(0, 0, 0, 0, 0, 0, h % 2, w % 2), mode="edge") if h % 2 or w % 2 else x
        return g.emit("AveragePool", padded, kernel_shape=[2, 2], strides=[2, 2])

    def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
        wide = tape.emit("Expand", tape.reshape(dy, *half[:3], 1, half[3], 1), tape.ints(*half[:3], 2, half[3], 2))
        wide = tape.reshape(tape.declare(wide, (*half[:3], 2, half[3], 2)), n, c, 2 * half[2], 2 * half[3])
        cut = tape.emit("Slice", wide, tape.ints(0, 0), tape.ints(h, w), tape.ints(2, 3))
        return (tape.emit("Mul", cut, tape.constant(0.25)),)

    return g.declare(emit_closed(g, (x,), forward, gradient), half)


# ---- decoding --------------------------------------------------------------------------------------------------------


class _Decoding(Layer):
    """A layer of the decoder: every pass computes the places of one diagonal more, and keeps those before."""

    adds = compression_pb2.LayerParameter

    def decoded(self, shape: Shape) -> Shape:
        """Return the top's shape."""
        raise NotImplementedError

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.why_uncomputed = "every pass decodes one diagonal of the image more"
        return (self.decoded(check_images(self, bottoms[0])),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        raise self.error(self.why_uncomputed)


@layer("DecoderInput", dialect="ccn")
class DecoderInput(_Decoding):
    """Images [N, nchannels, H, W] from codes [N, 1, H, W]; shapes alone. (limuhit/CCN, decoder_input_layer.cpp)"""

    def decoded(self, shape: Shape) -> Shape:
        if shape[1] != 1:
            raise self.error(f"expected a bottom of one channel, found shape {shape}")
        return (shape[0], self.added.decoder_param.nchannels, *shape[2:])


@layer("DecoderOutput", dialect="ccn")
class DecoderOutput(_Decoding):
    """Rows [N · H · W + 1, 1, 1, C / nchannels + 1] of probabilities; shapes alone.

    (limuhit/CCN, decoder_output_layer.cpp)
    """

    def decoded(self, shape: Shape) -> Shape:
        channels = self.added.decoder_param.nchannels
        if not channels:
            raise self.error("expected a positive nchannels in decoder_param, found 0")
        return (shape[0] * shape[2] * shape[3] + 1, 1, 1, shape[1] // channels + 1)


@layer("DecoderExtract", dialect="ccn")
class DecoderExtract(_Decoding):
    """One channel [N, 1, H, W]; shapes alone. (limuhit/CCN, decoder_extract_layer.cpp)"""

    def decoded(self, shape: Shape) -> Shape:
        return (shape[0], 1, *shape[2:])


@layer("DecoderConv3", dialect="ccn")
class DecoderConv3(_Decoding):
    """A masked convolution [N, num_output, H, W]; shapes alone. (limuhit/CCN, decoder_conv3_layer.cpp)"""

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        outputs, side = self.proto.convolution_param.num_output, self.side()
        taps = side * side
        weight = Param(
            "weight", (outputs, bottoms[0][1], side, side), Filler(), False, bottoms[0][1] * taps, outputs * taps
        )
        return (weight, Param("bias", (outputs,), Filler(), False, 1, 1))

    def side(self) -> int:
        """Return the size of the kernel."""
        sizes = self.proto.convolution_param.kernel_size
        if not sizes or not sizes[0]:
            raise self.error("expected a positive kernel_size in convolution_param, found none")
        return int(sizes[0])

    def decoded(self, shape: Shape) -> Shape:
        self.side()
        return (shape[0], self.proto.convolution_param.num_output, *shape[2:])


@layer("DecoderQuant", dialect="ccn")
class DecoderQuant(_Decoding):
    """Levels of numbers, of the bottom's shape; shapes alone. (limuhit/CCN, decoder_quant_layer.cpp)"""

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = (1, bottoms[0][1], 1, self.added.mlquant_param.groups)
        shapes = {"levels": shape, "settings": (5, 1, 1, 1), "counts": shape}
        return tuple(Param(role, shape, Filler(), False, 1, 1) for role, shape in shapes.items())

    def decoded(self, shape: Shape) -> Shape:
        return shape
