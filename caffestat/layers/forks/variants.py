"""Caffe's own layer types as forks extended them: more bottoms, or fields that Caffe lacks."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np

from ..accuracy import Accuracy
from ..base import TEST, Param, Shape, default_filler, layer
from ..inner_product import Embed
from ..loss import FLOAT, EuclideanLoss, SoftmaxWithLoss, weigh
from ..neuron import Dropout
from ..normalization import BatchNorm
from ..pooling import MAX, Pooling, emit_average
from ..scale import emit_affine

if TYPE_CHECKING:
    from caffestat.graph import Graph
    from caffestat.ops import Window

__all__ = [
    "BatchNormScale",
    "ClassWeightedSoftmaxWithLoss",
    "ExclusivePooling",
    "FixedSoftmaxWithLoss",
    "LearnedBatchNorm",
    "OverhangingPooling",
    "RegionEmbed",
    "ScaledBatchNorm",
    "TestedDropout",
    "UnscaledDropout",
    "WeightedAccuracy",
    "WeightedEuclideanLoss",
    "WeightedSoftmaxWithLoss",
]


# ---- losses ----------------------------------------------------------------------------------------------------------


@layer("SoftmaxWithLoss", dialect="segnet")
class ClassWeightedSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss, with weight_by_label_freqs each label's loss times the class_weighting of its class.

    The normalizer counts labels, not their weights. (alexgkendall/caffe-segnet, softmax_loss_layer.cpp)
    """

    own_fields = ("loss_param.class_weighting", "loss_param.weight_by_label_freqs")
    whole = ""

    def class_weights(self) -> list[float]:
        """Return the weight of each class; [] where all are 1."""
        weighs = self.own("loss_param.weight_by_label_freqs", bool)[-1:] == [True]
        return self.own("loss_param.class_weighting", float) if weighs else []

    def check(self, bottoms: Sequence[Shape]) -> None:
        super().check(bottoms)
        found, classes = len(self.class_weights()), bottoms[0][self.axis(bottoms[0])]
        if found not in (0, classes):
            raise self.error(f"expected a class_weighting for each of {classes} classes, found {found}")

    def weights(self, g: Graph, labels: str, classes: int, others: Sequence[str]) -> tuple[str | None, str | None]:
        valid = self.valid(g, labels)
        by_class = self.class_weights()
        if not by_class:
            return valid, valid
        index = g.cast(g.emit("Clip", labels, g.constant(0), g.constant(classes - 1)), np.int64)
        return weigh(g, g.emit("Gather", g.constant(by_class), index, axis=0), valid), valid

    def uninformed_loss(self, bottoms: Sequence[Shape]) -> float | None:
        return None if self.class_weights() else super().uninformed_loss(bottoms)


@layer("SoftmaxWithLoss", dialect="happynear")
class WeightedSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss with a weight for each label as third bottom; the valid count is the sum of the weights.

    (happynear/caffe-windows, softmax_loss_layer.cpp)
    """

    num_bottoms = (3, 3)
    whole = ""

    def check(self, bottoms: Sequence[Shape]) -> None:
        super().check(bottoms)
        if math.prod(bottoms[2]) != math.prod(bottoms[1]):
            raise self.error(f"expected a weight for each of {math.prod(bottoms[1])} labels, found shape {bottoms[2]}")

    def weights(self, g: Graph, labels: str, classes: int, others: Sequence[str]) -> tuple[str | None, str | None]:
        weights = weigh(g, g.reshape(others[0], *g.shape(labels)), self.valid(g, labels))
        return weights, weights

    def uninformed_loss(self, bottoms: Sequence[Shape]) -> float | None:
        return None


@layer("SoftmaxWithLoss", dialect="intel")
class FixedSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss, with normalization: PRE_FIXED divided by pre_fixed_normalizer.

    (intel/caffe, softmax_loss_layer.cpp)
    """

    own_fields = ("loss_param.pre_fixed_normalizer",)
    own_values: ClassVar[Mapping[str, tuple[str, ...]]] = {"normalization": ("PRE_FIXED",)}

    def is_fixed(self) -> bool:
        """Tell whether the normalizer is the one that the file gives."""
        written = self.written("loss_param.normalization")
        return any(getattr(value, "text", "") == "PRE_FIXED" for value in written)

    def normalizer(self, g: Graph, valid: str | None, outer: int, inner: int) -> str:
        return g.constant(self.most(outer, inner)) if self.is_fixed() else super().normalizer(g, valid, outer, inner)

    def most(self, outer: int, inner: int) -> float:
        fixed = self.own("loss_param.pre_fixed_normalizer", float)
        return max(fixed[-1], 1.0) if self.is_fixed() else super().most(outer, inner)


@layer("EuclideanLoss", dialect="happynear")
class WeightedEuclideanLoss(EuclideanLoss):
    """y = Σ (w · (x₀ - x₁))² / 2N, w the third bottom; dx₀ = -dx₁ = w · (x₀ - x₁) · dy / N, without a second w.

    (happynear/caffe-windows, euclidean_loss_layer.cpp)
    """

    num_bottoms = (3, 3)

    def check(self, bottoms: Sequence[Shape]) -> None:
        super().check(bottoms)
        if math.prod(bottoms[2]) != math.prod(bottoms[0]):
            raise self.error(f"expected a weight for each value of bottom 0, {bottoms[0]}, found shape {bottoms[2]}")


@layer("Accuracy", dialect="happynear")
class WeightedAccuracy(Accuracy):
    """Accuracy; labels whose weight, the third bottom, is 0 count nowhere, and with min_is_better low scores win.

    (happynear/caffe-windows, accuracy_layer.cpp)
    """

    num_bottoms = (2, 3)
    own_fields = ("accuracy_param.min_is_better",)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        for shape in bottoms[2:]:
            if math.prod(shape) != math.prod(bottoms[1]):
                raise self.error(f"expected a weight for each of {math.prod(bottoms[1])} labels, found shape {shape}")
        return super().tops(bottoms)

    def shares(self, g: Graph, scores: str, labels: str, *others: str) -> Sequence[str]:
        if self.own("accuracy_param.min_is_better", bool)[-1:] == [True]:
            scores = g.declare(g.emit("Neg", scores), g.shape(scores))
        return super().shares(g, scores, labels, *others)

    def counts(self, g: Graph, labels: str, *others: str) -> str:
        counts = super().counts(g, labels)
        for weights in others:
            is_zero = g.emit("Equal", g.reshape(weights, *g.shape(labels)), g.constant(0))
            counts = g.emit("Mul", counts, g.emit("Cast", g.emit("Not", is_zero), to=FLOAT))
        return counts


# ---- layers ----------------------------------------------------------------------------------------------------------


@layer("Dropout", dialect="segnet")
class TestedDropout(Dropout):
    """Dropout, with sample_weights_test in TEST too. (alexgkendall/caffe-segnet, dropout_layer.cpp)"""

    own_fields = ("dropout_param.sample_weights_test",)

    @property
    def drops(self) -> bool:
        return super().drops or self.own("dropout_param.sample_weights_test", bool)[-1:] == [True]


@layer("Dropout", dialect="rcnn")
class UnscaledDropout(Dropout):
    """Dropout, with scale_train: false y = x · mask in TRAIN and y = x · (1 - dropout_ratio) in TEST.

    (daijifeng001/caffe-rfcn, dropout_layer.cpp)
    """

    own_fields = ("dropout_param.scale_train",)

    @property
    def scales_test(self) -> bool:
        """Whether TEST scales, in place of TRAIN."""
        return self.own("dropout_param.scale_train", bool)[-1:] == [False]

    @property
    def factor(self) -> float:
        return 1.0 if self.scales_test else super().factor

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.drops or not self.scales_test:
            return super().lower(g, bottoms, params)
        return (g.emit("Mul", bottoms[0], g.constant(self.keep)),)


@layer("Pooling", dialect="exclusive")
class ExclusivePooling(Pooling):
    """Pooling; pool: AVE_EXC_PAD is the mean of those elements of a window that are not padding."""

    own_fields = ("pooling_param.pool",)
    own_values: ClassVar[Mapping[str, tuple[str, ...]]] = {"pool": ("AVE_EXC_PAD",)}
    read_as = "pool: AVE over the elements that are not padding, after its name; its source is not known"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.top_count > 1:
            raise self.error("only pool: MAX has a second top, the mask; remove it")
        return super().tops(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        size = g.shape(bottoms[0])[2:]
        window = self.window(size)
        mean = emit_average(g, bottoms[0], window)
        share = emit_average(g, g.constant(np.ones((1, 1, *size))), window)
        return (g.emit("Div", mean, share, hint=self.name),)


@layer("Pooling", dialect="darknet")
class OverhangingPooling(Pooling):
    """Pooling with one place more along each axis where kernel minus stride is odd: kernel 2, stride 1 keeps a size.

    Of nets with Upsample, one that keeps a size is taken for this; others only by --dialect.
    (ChenYingpeng/darknet2caffe, caffe_layers/pooling_layer.cpp)
    """

    @classmethod
    def claims(cls, proto: Any, types: Collection[str]) -> bool:
        p = proto.pooling_param
        return (p.pool, p.kernel_size, p.stride, p.pad) == (MAX, 2, 1, 0) and "Upsample" in types

    def slide(self, size: Shape, kernel: Shape, strides: Shape, pads: Shape, **settings: Any) -> Window:
        window = super().slide(size, kernel, strides, pads, **settings)
        if (kernel[0] - strides[0]) % 2 == 0:
            return window
        axes = list(zip(window.out, strides, size, pads, strict=True))
        out = tuple(n + (not any(pads) or n * step < length + pad) for n, step, length, pad in axes)
        if any((n - 1) * step - pad >= length for n, (_, step, length, pad) in zip(out, axes, strict=True)):
            raise self.error(f"the last window is empty: kernel {list(kernel)}, stride {list(strides)} on {size}")
        return replace(window, out=out)


@layer("Embed", dialect="bottom-up")
class RegionEmbed(Embed):
    """Embed whose top gets its axis in place of a last axis of size 1: [R, 1] gives [R, num_output].

    Taken for this in nets with ROIPooling. (peteanderson80/bottom-up-attention, embed_layer.cpp)
    """

    @classmethod
    def claims(cls, proto: Any, types: Collection[str]) -> bool:
        return "ROIPooling" in types

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (top,) = super().tops(bottoms)
        return ((*top[:-2], top[-1]),) if bottoms[0][-1:] == (1,) else (top,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (rows,) = g.shape(bottoms[0]), super().lower(g, bottoms, params)
        whole = g.declare(rows, (*shape, self.proto.embed_param.num_output))
        return [g.reshape(whole, *self.tops([shape])[0])]


@layer("BatchNorm", dialect="nvidia")
class ScaledBatchNorm(BatchNorm):
    """BatchNorm, with scale_bias or a scale_filler or bias_filler followed by a learned scale and bias per channel.

    Params: mean, variance, a factor of 1 that is not used, scale, bias. The stored statistics count in TEST alone; they
    are copied from the batch in the first two passes, then averaged, the variance biased and with eps.
    (NVIDIA/caffe, batch_norm_layer.cpp)
    """

    own_fields = tuple(f"batch_norm_param.{name}" for name in ("scale_bias", "scale_filler", "bias_filler"))
    filler_fields: ClassVar[Mapping[str, str]] = {
        "batch_norm_param.scale_filler": "scale",
        "batch_norm_param.bias_filler": "bias",
    }

    @property
    def eps(self) -> float:
        return max(super().eps, 1e-5)

    @property
    def reads_statistics(self) -> bool:
        return self.phase == TEST

    def scale_and_bias(self, shape: Shape) -> list[Param]:
        """Return the params that are learned."""
        fillers = {role: self.own_filler(field) for field, role in self.filler_fields.items()}
        if not any(fillers.values()) and self.own("batch_norm_param.scale_bias", bool)[-1:] != [True]:
            return []
        return [
            Param(role, shape, filler or default_filler(role), filler is not None, 1, 1)
            for role, filler in fillers.items()
        ]

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        mean, variance, factor = super().params(bottoms)
        ones = Param(factor.role, factor.shape, default_filler("scale"), False, 1, 1, is_statistic=True)
        return mean, variance, ones, *self.scale_and_bias(mean.shape)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of at least 2 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (x,), (mean, variance) = bottoms, params[:2]
        y = self.lower_stored(g, x, mean, variance) if self.reads_statistics else self.lower_batch(g, x, params)
        return [emit_affine(g, y, params[3], params[4], self.name)] if params[3:] else [y]

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        proto = self.proto.batch_norm_param
        keep = proto.moving_average_fraction if proto.HasField("moving_average_fraction") else 0.999
        passes = g.state(f"{self.name}/passes", ())
        is_early = g.emit("Less", passes, g.constant(2))
        for param, new in zip(params, (mean, g.emit("Add", variance, g.constant(self.eps))), strict=False):
            kept = g.emit("Mul", param, g.constant(keep))
            averaged = g.emit("Add", kept, g.emit("Mul", new, g.constant(1 - keep)))
            value = g.emit("Where", is_early, new, averaged, hint=f"{self.name}_statistics")
            g.updates[param] = g.declare(value, g.shape(param))
        g.carry(passes, g.emit("Add", passes, g.constant(1)))


@layer("BatchNorm", dialect="intel")
class LearnedBatchNorm(BatchNorm):
    """BatchNorm, followed by a learned scale (filler, else 1) and bias (bias_filler, else 0) per channel.

    use_weight_bias: false leaves both out, bias_term: false the bias. Params: BatchNorm's three, scale, bias.
    (intel/caffe, mkldnn_batch_norm_layer.cpp)
    """

    own_fields = tuple(f"batch_norm_param.{name}" for name in ("use_weight_bias", "bias_term", "filler", "bias_filler"))
    filler_fields: ClassVar[Mapping[str, str]] = {
        "batch_norm_param.filler": "scale",
        "batch_norm_param.bias_filler": "bias",
    }

    def learned(self, shape: Shape) -> Sequence[Param]:
        """Return the params that are learned, of this shape each."""
        if self.own("batch_norm_param.use_weight_bias", bool)[-1:] == [False]:
            return []
        has_bias = self.own("batch_norm_param.bias_term", bool)[-1:] != [False]
        fillers = [(role, self.own_filler(field)) for field, role in self.filler_fields.items()][: 1 + has_bias]
        return [
            Param(role, shape, filler or default_filler(role), filler is not None, 1, 1) for role, filler in fillers
        ]

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return (*super().params(bottoms), *self.learned(bottoms[0][1:2]))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (y,) = super().lower(g, bottoms, params[:3])
        if not params[3:]:
            return [y]
        bias = params[4] if params[4:] else g.constant(np.zeros(g.shape(params[3])))
        return [emit_affine(g, y, params[3], bias, self.name)]


@layer("BatchNormScale", dialect="caffe-train")
class BatchNormScale(LearnedBatchNorm):
    """BatchNorm, followed by a learned scale, 1 at first, and bias, 0 at first, per channel.

    (yuqj1991/caffe_train, batch_norm_scale_layer.cpp)
    """

    own_fields = ()
    filler_fields: ClassVar[Mapping[str, str]] = {}

    def learned(self, shape: Shape) -> Sequence[Param]:
        return [Param(role, shape, default_filler(role), False, 1, 1) for role in ("scale", "bias")]
