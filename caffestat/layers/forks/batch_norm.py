"""Batch normalization of forks: BatchNorm and Scale in one layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Filler
from caffestat.graph import all_but_channels
from caffestat.graph.channels import batch_gradient
from caffestat.lazy import np
from caffestat.schema.forks import segmentation_pb2

from ..base import TEST, Param, Shape, layer, to_filler
from ..normalization import BatchNorm
from ..reread import without_gradient
from ..scale import emit_affine

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["BN", "ZXYBN", "ActionBN", "ActionBNData", "BNData", "CuDNNBatchNorm", "PspnetBN", "SegnetBN"]

LEAST_EPS = 1e-5  # CUDNN_BN_MIN_EPSILON


class _ScaledNorm(BatchNorm):
    """y = s · (x - mean) / √(variance + eps) + b per channel."""

    roles: ClassVar[tuple[str, str]] = ("scale_filler", "shift_filler")
    extra_axes: ClassVar[int] = 2  # of the params, behind [1, C]
    keeps_statistics: ClassVar[bool] = True
    has_four_axes: ClassVar[bool] = False  # the top has: [N, C, 1, 1] of a bottom [N, C]

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.bn_param

    @property
    def is_frozen(self) -> bool:
        """Whether all params stay as they are, and the running statistics count in TRAIN too."""
        return False

    @property
    def kept(self) -> float:
        """How much of the running statistics each pass keeps."""
        return float(self.settings.momentum)

    @property
    def eps(self) -> float:
        return float(self.settings.eps)

    @property
    def reads_statistics(self) -> bool:
        return self.is_frozen or self.phase == TEST

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = (1, bottoms[0][1], *(1,) * self.extra_axes)
        scale, bias = (
            Param(role, shape, self.filler(name), self.settings.HasField(name), 1, 1, self.is_frozen)
            for role, name in zip(("scale", "bias"), self.roles, strict=True)
        )
        if not self.keeps_statistics:
            return scale, bias
        mean = Param("mean", shape, Filler(), False, 1, 1, is_statistic=True)
        variance = Param("variance", shape, Filler(value=float(self.is_frozen)), False, 1, 1, is_statistic=True)
        return scale, bias, mean, variance

    def filler(self, name: str) -> Filler:
        """Return what fills a param: zeros where nothing is written."""
        return to_filler(getattr(self.settings, name)) if self.settings.HasField(name) else Filler()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.error(f"expected a bottom of 2 to 4 axes (N, C, H, W), found shape {bottoms[0]}")
        if getattr(self.settings, "rebn", False):
            raise self.error("the effect of bn_param.rebn is not known")
        shape = bottoms[0]
        return ((*shape, *(1,) * (4 - len(shape))) if self.has_four_axes else shape,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        channels = g.shape(bottoms[0])[1]
        scale, bias, *statistics = (g.reshape(param, channels) for param in params)
        if self.is_frozen:
            scale, bias = g.detach(scale), g.detach(bias)
        y = self.normalized(g, bottoms[0], params[2:], statistics)
        top = self.tops([g.shape(bottoms[0])])[0]
        affine = emit_affine(g, y, scale, bias, self.name)
        return [affine if top == g.shape(bottoms[0]) else g.reshape(affine, *top)]

    def normalized(self, g: Graph, x: str, params: Sequence[str], statistics: Sequence[str]) -> str:
        """Emit x, its mean taken off and divided by its deviation; `statistics` are the running ones as [C]."""
        if self.reads_statistics:
            return self.lower_stored(g, x, *statistics)
        return self.lower_batch(g, x, params)

    def running(self, g: Graph, mean: str, variance: str, count: int) -> tuple[str, str]:
        """Return what goes into the running statistics: mean and variance [C] of the batch."""
        return mean, variance

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        """Record the running statistics after the pass: kept · old + (1 - kept) · the batch's."""
        for param, new in zip(params, self.running(g, mean, variance, count), strict=False):
            self.record(g, param, new, self.kept)

    def record(self, g: Graph, param: str, new: str, kept: float) -> None:
        """Record one of the running statistics."""
        shape = g.shape(param)
        old = g.emit("Mul", param, g.constant(kept))
        added = g.emit("Mul", g.reshape(new, *shape), g.constant(1 - kept))
        g.updates[param] = g.declare(g.emit("Add", old, added, hint=f"{self.name}_statistics"), shape)


@layer("BN", dialect="tsn")
class BN(_ScaledNorm):
    """y = s · (x - mean) / √(variance + eps) + b per channel: BatchNorm and Scale with bias in one.

    Bottom [N, C, H, W]. Params [1, C]: s (slope_filler), b (bias_filler), running mean and variance. Statistics are
    the batch's in TRAIN, unless `frozen`, which also keeps s and b as they are. Without it the gradient takes them for
    the batch's in TEST too, as in the reference. (yjxiong/caffe, bn_layer.cpp)
    """

    adds = segmentation_pb2.TsnLayerParameter
    roles = ("slope_filler", "bias_filler")
    extra_axes = 0
    filler_fields: ClassVar[Mapping[str, str]] = {"bn_param.slope_filler": "scale", "bn_param.bias_filler": "bias"}

    @property
    def is_frozen(self) -> bool:
        return bool(self.settings.frozen)

    def stored_gradient(self, tape: Tape, dy: str, y: str, slope: str) -> str:
        if self.is_frozen:
            return super().stored_gradient(tape, dy, y, slope)
        return batch_gradient(tape.graph, dy, y, slope)


@layer("BN", dialect="deeplab")
class PspnetBN(BN):
    """BN of yjxiong/caffe with params [1, C, 1, 1], the shape that files of weights have.

    Taken where the net has Interp. (hszhao/PSPNet, bn_layer.cpp)
    """

    extra_axes = 2

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return "Interp" in types and super().fits(proto, types)


@layer("ZXYBN", dialect="cervix")
class ZXYBN(BN):
    """Computed as BN of yjxiong/caffe, which has the same fields; its own source is not public.

    (dypromise/cervix_caffe_dingyang, prototxt files alone)
    """

    read_as = "BN of yjxiong/caffe, which has the same fields; its own source is not public"
    filler_fields: ClassVar[Mapping[str, str]] = {
        "zxybn_param.slope_filler": "scale",
        "zxybn_param.bias_filler": "bias",
    }

    @property
    def settings(self) -> Any:
        return self.added.zxybn_param


@layer("BN", dialect="segnet")
class SegnetBN(_ScaledNorm):
    """y = s · (x - mean) / √(variance + 1e-9) + b per channel, statistics always the batch's. Bottom [N, C, H, W].

    Top [N, C, H, W]. Params [1, C, 1, 1]: s (scale_filler) and b (shift_filler). bn_mode INFERENCE is s · x + b. Tops
    1 and 2 hold mean and variance of the batch. (alexgkendall/caffe-segnet, bn_layer.cpp)
    """

    adds = segmentation_pb2.SegnetLayerParameter
    num_tops = (1, 3)
    keeps_statistics = False
    has_four_axes = True
    eps = 1e-9
    reads_statistics = False
    filler_fields: ClassVar[Mapping[str, str]] = {"bn_param.scale_filler": "scale", "bn_param.shift_filler": "bias"}

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and len(proto.param) <= 2

    @property
    def infers(self) -> bool:
        """Whether nothing is normalized."""
        return bool(self.settings.bn_mode)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.infers and self.top_count > 1:
            raise self.error("bn_mode: INFERENCE gives neither mean nor variance; remove these tops")
        (top,) = super().tops(bottoms)
        statistics = (1, top[1], 1, 1)
        return (top, statistics, statistics)[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (y,) = super().lower(g, bottoms, params)
        if self.top_count == 1:
            return [y]
        shape = g.shape(bottoms[0])
        x, axes = g.detach(bottoms[0]), g.ints(*all_but_channels(len(shape)))
        mean = g.emit("ReduceMean", x, axes, keepdims=1)
        centered = g.emit("Sub", x, mean)
        variance = g.emit("ReduceMean", g.emit("Mul", centered, centered), axes, keepdims=1)
        return [y, *(g.reshape(value, 1, shape[1], 1, 1) for value in (mean, variance))][: self.top_count]

    def normalized(self, g: Graph, x: str, params: Sequence[str], statistics: Sequence[str]) -> str:
        return x if self.infers else self.lower_batch(g, x, ())


class _Moving(_ScaledNorm):
    """Statistics are the running ones in TEST with moving_average only; the gradient is that of the batch's anyway."""

    @property
    def reads_statistics(self) -> bool:
        return bool(self.phase == TEST and self.settings.moving_average)

    def stored_gradient(self, tape: Tape, dy: str, y: str, slope: str) -> str:
        return batch_gradient(tape.graph, dy, y, slope)

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        if self.phase != TEST:
            super().update(g, params, mean, variance, count)


@layer("BN", dialect="action")
class ActionBN(_Moving):
    """y = s · (x - mean) / √(variance + var_eps) + b per channel. Bottom [N, C, H, W], top [N, C, H, W].

    Params [1, C, 1, 1]: s (scale_filler), b (shift_filler), running mean and variance: (1 - decay) · old + decay · the
    batch's, as on the CPU; see BNData for that of a GPU. In TEST they count only with moving_average.
    (Lyp100208/Caffe_action, bn_layer.cpp)
    """

    adds = segmentation_pb2.ActionLayerParameter
    has_four_axes = True
    filler_fields: ClassVar[Mapping[str, str]] = {"bn_param.scale_filler": "scale", "bn_param.shift_filler": "bias"}

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and len(proto.param) not in (1, 2)

    @property
    def eps(self) -> float:
        return float(self.settings.var_eps)

    @property
    def kept(self) -> float:
        return 1 - float(self.settings.decay)


@layer("BNData", dialect="action")
class ActionBNData(ActionBN):
    """BN, its batch spread over processes; here there is one. The running variance counts N / (N - 1) times decay.

    It has code for GPUs only. (Lyp100208/Caffe_action, bn_data_layer.cu)
    """

    samples = 0  # of the batch

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        self.samples = g.shape(bottoms[0])[0]
        return super().lower(g, bottoms, params)

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        if self.phase == TEST:
            return
        with np.errstate(divide="ignore"):
            share = np.float32(self.samples * self.settings.decay) / np.float32(self.samples - 1)
        self.record(g, params[0], mean, self.kept)
        self.record(g, params[1], variance, float(1 - share))


@layer("BNData", dialect="tsn")
class BNData(_Moving):
    """BN, its batch spread over processes; here there is one. Bottom [N, C, H, W], params [1, C, 1, 1] as those of BN.

    The running variance counts m / (m - 1) times 1 - momentum, m = N · H · W; momentum is 0.95 where none is written.
    With lr_mult: 0 of s there are neither gradients nor updates, and in TRAIN with moving_average the statistics are
    the running ones. (lxx1991/caffe_mpi, bn_data_layer.cu)
    """

    adds = segmentation_pb2.TsnLayerParameter
    roles = ("slope_filler", "bias_filler")
    filler_fields = BN.filler_fields

    @property
    def kept(self) -> float:
        return float(self.settings.momentum) if self.settings.HasField("momentum") else 0.95

    @property
    def learns(self) -> bool:
        """Whether s does."""
        return not self.proto.param or self.proto.param[0].lr_mult != 0

    @property
    def reads_statistics(self) -> bool:
        return bool(self.phase == TEST or (self.settings.moving_average and not self.learns))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.learns:
            return super().lower(g, bottoms, params)
        return without_gradient(g, [*bottoms, *params], lambda x, *held: super(BNData, self).lower(g, [x], held))

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        if self.phase == TEST or not self.learns:
            return
        self.record(g, params[0], mean, self.kept)
        self.record(g, params[1], variance, 1 - (1 - self.kept) * (count / (count - 1) if count > 1 else 1))


@layer("CuDNNBatchNorm", dialect="senet")
class CuDNNBatchNorm(_ScaledNorm):
    """y = s · (x - mean) / √(variance + eps) + b per channel; eps is 1e-5 at least. Bottom [N, C, H, W].

    Params [1, C, 1, 1]: s (scale_filler), b (bias_filler), running mean and variance, the latter unbiased. Statistics
    are the batch's in TRAIN, unless `frozen`, which also keeps s and b as they are.
    (hujie-frank/GENet, cudnn_batch_norm_layer.cpp and .cu)
    """

    adds = segmentation_pb2.LayerParameter
    roles = ("scale_filler", "bias_filler")
    filler_fields: ClassVar[Mapping[str, str]] = {
        "cudnn_batch_norm_param.scale_filler": "scale",
        "cudnn_batch_norm_param.bias_filler": "bias",
    }

    @property
    def settings(self) -> Any:
        return self.added.cudnn_batch_norm_param

    @property
    def is_frozen(self) -> bool:
        return bool(self.settings.frozen)

    @property
    def eps(self) -> float:
        return max(super().eps, LEAST_EPS)

    def running(self, g: Graph, mean: str, variance: str, count: int) -> tuple[str, str]:
        return mean, g.emit("Mul", variance, g.constant(count / (count - 1) if count > 1 else 1))
