"""Layers that are several of Caffe's in a row: convolutions, products and LRN with what follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema import caffe_pb2
from caffestat.schema.forks import blocks_pb2

from ..base import Layer, Move, Param, Shape, layer
from ..convolution import Convolution
from ..inner_product import InnerProduct
from ..math import Eltwise
from ..neuron import ReLU
from ..normalization import LRN
from ..pooling import MAX, Pooling
from ..reread import emit_closed
from ..shape import Concat

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "MKLLRN",
    "ConvolutionReLU",
    "ConvolutionReLUPool",
    "ConvolutionReLUPoolLRN",
    "FusedConvolution",
    "FusedLRN",
    "InnerProductReLUDropout",
    "MKLConcat",
    "MKLConvolution",
    "MKLEltwise",
    "MKLPooling",
    "MKLReLU",
    "ReLUPooling",
]


class _Chain(Layer):
    """Layers of which each reads the top of the one before; all find their parameters in this one's message."""

    parts: ClassVar[tuple[type[Layer], ...]] = ()

    def chain(self) -> list[Layer]:
        """Return the layers."""
        made = [part(self.proto, self.phase, self.place) for part in self.parts]
        for part in made:
            part.text = self.text
        return made

    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shape that each layer reads, and that of the top."""
        found = [bottoms[0]]
        for part in self.chain():
            (top,) = part.tops(found[-1:])
            assert top is not None  # none of the parts is data
            found.append(top)
        return found

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return self.chain()[0].params(bottoms)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (self.shapes(bottoms)[-1],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = self.shapes([g.shape(bottoms[0])])
        values, own = list(bottoms), list(params)
        for part, shape in zip(self.chain(), shapes[1:], strict=True):
            values = [g.declare(part.lower(g, values, own)[0], shape)]
            own = []
        return values

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        steps = zip(self.chain(), self.shapes(bottoms), strict=False)
        return [feed for part, shape in steps for feed in part.draw_feeds(stream, [shape])]

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return self.chain()[0].macs(bottoms)

    def mixes_channels(self) -> bool:
        return self.chain()[0].mixes_channels()


class _Rectified(_Chain):
    """Chains with a plain ReLU and MAX pooling, whose references have no backward pass."""

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.proto.relu_param.negative_slope:
            raise self.error("expected a negative_slope of 0 in relu_param: the reference takes no other")
        if Pooling in self.parts and self.proto.pooling_param.pool != MAX:
            raise self.error("expected pool: MAX in pooling_param: the reference pools in no other way")
        if LRN in self.parts and self.proto.lrn_param.norm_region != caffe_pb2.LRNParameter.ACROSS_CHANNELS:
            raise self.error("expected norm_region: ACROSS_CHANNELS in lrn_param: the reference has no other")
        return super().tops(bottoms)


class _Convolutions(_Rectified):
    filler_fields: ClassVar[Mapping[str, str]] = Convolution.filler_fields


@layer("ConvolutionReLU", dialect="skimcaffe")
class ConvolutionReLU(_Convolutions):
    """ReLU of a Convolution; the reference has no backward pass.

    (ChanganVR/ConstraintAwareCompression, conv_relu_layer.cpp)
    """

    parts = (Convolution, ReLU)


@layer("ConvolutionReLUPool", dialect="skimcaffe")
class ConvolutionReLUPool(_Convolutions):
    """Pooling of the ReLU of a Convolution; the reference has no backward pass.

    (ChanganVR/ConstraintAwareCompression, conv_relu_pool_layer.cpp)
    """

    parts = (Convolution, ReLU, Pooling)


@layer("ConvolutionReLUPoolLRN", dialect="skimcaffe")
class ConvolutionReLUPoolLRN(_Convolutions):
    """LRN of the Pooling of the ReLU of a Convolution; the reference has no backward pass.

    (ChanganVR/ConstraintAwareCompression, conv_relu_pool_lrn_layer.cpp)
    """

    parts = (Convolution, ReLU, Pooling, LRN)


@layer("ReLUPooling", dialect="skimcaffe")
class ReLUPooling(_Rectified):
    """Pooling of the ReLU; the reference has no backward pass.

    (ChanganVR/ConstraintAwareCompression, relu_pooling_layer.cpp)
    """

    parts = (ReLU, Pooling)


@layer("InnerProductReLUDropout", dialect="skimcaffe")
class InnerProductReLUDropout(InnerProduct):
    """ReLU of an InnerProduct. In spite of its name nothing is dropped, and the gradient is that without the ReLU.

    (ChanganVR/ConstraintAwareCompression, inner_product_relu_dropout_layer.cpp)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        slope = self.proto.relu_param.negative_slope
        (y,) = super().lower(g, bottoms, params)
        return [emit_closed(g, [y], lambda x: g.emit("LeakyRelu", x, alpha=slope), lambda tape, dy: [dy])]


# ---- Caffe's layers with a fuse_type -------------------------------------------------------------------------------


@layer("Convolution", dialect="greentea")
class FusedConvolution(Convolution):
    """y = f(W * x + b): f is by fuse_type a ReLU, or a ReLU of the sum with bottom 1; else f(x) = x.

    The slope of the ReLU is that of its own relu_param. FUSED_CONV_MAX_POOLING_RELU is computed as UNFUSED. The
    reference has no backward pass where it fuses. (naibaf7/caffe, conv_layer_spatial.cpp)
    """

    adds = blocks_pb2.FusedLayerParameter

    @property
    def adds_bottom(self) -> bool:
        """Whether bottom 1 is added to what the convolution makes of bottom 0."""
        p = self.added.convolution_param
        return bool(p.fuse_type == blocks_pb2.FusedConvolutionParameter.FUSED_CONV_ELTWISE_RELU)

    @property
    def is_rectified(self) -> bool:
        """Whether a ReLU follows."""
        kinds = blocks_pb2.FusedConvolutionParameter
        return self.adds_bottom or self.added.convolution_param.fuse_type == kinds.FUSED_CONV_RELU

    def convolved(self, bottoms: Sequence[Any]) -> Sequence[Any]:
        """Return the bottoms that are convolved."""
        return bottoms[:1] if self.adds_bottom else bottoms

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return super().params(self.convolved(bottoms))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        tops = super().tops(self.convolved(bottoms))
        if self.adds_bottom and len(self.proto.bottom) != 2:
            raise self.error(f"adds bottom 1 by its fuse_type: expected 2 bottoms, found {len(self.proto.bottom)}")
        if bottoms[1:] and self.adds_bottom and bottoms[1] != tops[0]:
            raise self.error(f"expected a bottom 1 of shape {tops[0]} to add, found {bottoms[1]}")
        return tops

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        values = super().lower(g, self.convolved(bottoms), params)
        if self.adds_bottom:
            values = [g.emit("Add", values[0], bottoms[1])]
        slope = self.added.convolution_param.relu_param.negative_slope
        return [g.emit("LeakyRelu", value, alpha=slope) for value in values] if self.is_rectified else values

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return super().macs(self.convolved(bottoms))

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        return super().place_map(self.convolved(bottoms))


@layer("LRN", dialect="greentea")
class FusedLRN(_Chain):
    """LRN; with fuse_type FUSED_POOL_MAX, the Pooling of it by the pooling_param inside of lrn_param.

    The reference has no backward pass where it fuses. (naibaf7/caffe, lrn_layer_intel.cu)
    """

    adds = blocks_pb2.FusedLayerParameter

    def chain(self) -> list[Layer]:
        own = self.added.lrn_param
        normalized = LRN(self.proto, self.phase, self.place)
        if own.fuse_type != blocks_pb2.FusedLRNParameter.FUSED_POOL_MAX:
            return [normalized]
        pooling = caffe_pb2.LayerParameter(name=self.name, bottom=["x"], top=["y"], pooling_param=own.pooling_param)
        return [normalized, Pooling(pooling, self.phase, self.place)]


# ---- Caffe's layers as a library of Intel's computes them ------------------------------------------------------------


@layer("MKLConvolution", dialect="skimcaffe")
class MKLConvolution(Convolution):
    """Convolution by MKL. (ChanganVR/ConstraintAwareCompression, mkl_convolution_layer.cpp)"""


@layer("MKLReLU", dialect="skimcaffe")
class MKLReLU(ReLU):
    """ReLU by MKL. (ChanganVR/ConstraintAwareCompression, mkl_relu_layer.cpp)"""


@layer("MKLPooling", dialect="skimcaffe")
class MKLPooling(Pooling):
    """Pooling by MKL. (ChanganVR/ConstraintAwareCompression, mkl_pooling_layer.cpp)"""


@layer("MKLLRN", dialect="skimcaffe")
class MKLLRN(LRN):
    """LRN by MKL. (ChanganVR/ConstraintAwareCompression, mkl_lrn_layer.cpp)"""


@layer("MKLConcat", dialect="skimcaffe")
class MKLConcat(Concat):
    """Concat by MKL. (ChanganVR/ConstraintAwareCompression, mkl_concat_layer.cpp)"""


@layer("MKLEltwise", dialect="skimcaffe")
class MKLEltwise(Eltwise):
    """Eltwise by MKL. (ChanganVR/ConstraintAwareCompression, mkl_eltwise_layer.cpp)"""
