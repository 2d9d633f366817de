"""Layer types that run on FPGAs, with blobs (H, W, C, N). (dicecco1/fpga_caffe)

The FPGA computes with numbers of 6 bits of exponent and 5 of mantissa; here all is float32, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import fpga_pb2

from ..base import Layer, Param, Shape, layer
from ..convolution import Convolution
from ..inner_product import InnerProduct
from ..pooling import MAX, Pooling
from ..shape import Sink
from .flow import check_images

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["HWCN", "CPFPConversion", "OCLConvolution", "OCLInnerProduct", "OCLPooling", "Pad", "XCLProgram"]

TO_HWCN, TO_NCHW = (2, 3, 1, 0), (3, 2, 0, 1)
FORMAT = "numbers of 12 bits are not simulated: it computes in float32"


def moved(shape: Shape, order: Sequence[int]) -> Shape:
    """Return a shape with its axes in another order."""
    return tuple(shape[axis] for axis in order)


def emit_moved(g: Graph, x: str, order: Sequence[int]) -> str:
    """Emit a value with its axes in another order."""
    return g.declare(g.transpose(x, *order), moved(g.shape(x), order))


@layer("XCLProgram", dialect="fpga")
class XCLProgram(Sink):
    """No bottom, no top: the reference loads a program into the FPGA. (dicecco1/fpga_caffe, XCL_program_layer.cpp)"""

    adds = fpga_pb2.LayerParameter
    num_bottoms = (0, 0)


@layer("HWCN", dialect="fpga")
class HWCN(Layer):
    """[N, C, H, W] as [H, W, C, N], or back where convert_to is false; of two axes the transpose.

    (dicecco1/fpga_caffe, hwcn_layer.cpp)
    """

    adds = fpga_pb2.LayerParameter
    passes_values = True

    def order(self, shape: Shape) -> Sequence[int]:
        """Return the bottom's axis for each axis of the top."""
        if len(shape) == 2:
            return (1, 0)
        if len(shape) != 4:
            raise self.error(f"expected a bottom of 2 or 4 axes, found shape {shape}")
        return TO_HWCN if self.added.hwcn_param.convert_to else TO_NCHW

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (moved(bottoms[0], self.order(bottoms[0])),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_moved(g, bottoms[0], self.order(g.shape(bottoms[0]))),)


@layer("Pad", dialect="fpga")
class Pad(Layer):
    """x with zeros behind it up to pad_to, or the next multiple of pad_val, elements along an axis; or without them.

    With pad: false the first pad_to elements stay, or as many as the axis before has. Bottom of 4 axes.
    (dicecco1/fpga_caffe, pad_layer.cpp)
    """

    adds = fpga_pb2.LayerParameter

    def length(self, shape: Shape) -> int:
        """Return how long the axis is in the top."""
        p, axis = self.added.pad_param, self.added.pad_param.axis
        if not p.pad:
            return p.pad_to or shape[axis - 1]
        return p.pad_to or math.ceil(shape[axis] / p.pad_val) * p.pad_val

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, shape = self.added.pad_param, bottoms[0]
        if len(shape) != 4 or p.axis > 3 or (p.pad and not (p.pad_to or p.pad_val)):
            raise self.error(f"expected a bottom of 4 axes, an axis from 0 to 3 and a positive pad_val, found {shape}")
        length = self.length(shape)
        if (length < shape[p.axis]) == p.pad and length != shape[p.axis]:
            raise self.error(f"cannot {'pad' if p.pad else 'crop'} axis {p.axis} of shape {shape} to {length} elements")
        return ((*shape[: p.axis], length, *shape[p.axis + 1 :]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, axis = g.shape(bottoms[0]), self.added.pad_param.axis
        length = self.length(shape)
        if length <= shape[axis]:
            return (g.emit("Slice", bottoms[0], g.ints(0), g.ints(length), g.ints(axis)),)
        ends = [0] * 8
        ends[4 + axis] = length - shape[axis]
        return (g.emit("Pad", bottoms[0], g.ints(*ends), g.constant(0)),)


@layer("CPFPConversion", "HalfConversion", dialect="fpga")
class CPFPConversion(Layer):
    """y = x: the reference changes to or from numbers of 12 bits, which are not simulated.

    (dicecco1/fpga_caffe, cpfp_conversion_layer.cpp)
    """

    adds = fpga_pb2.LayerParameter
    passes_values = True
    left_out = FORMAT

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.emit("Identity", bottoms[0]),)


class _Turned(Layer):
    """A layer of Caffe's whose bottom and top are (H, W, C, N), with a ReLU behind it where cr_param says so."""

    adds = fpga_pb2.LayerParameter
    left_out = FORMAT
    kind: ClassVar[type[Layer]]  # Caffe's own

    @property
    def plain(self) -> Layer:
        """The layer with axes in Caffe's order."""
        return self.kind(self.proto, self.phase, self.place)

    def turned(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shapes of the bottoms in Caffe's order."""
        return [moved(check_images(self, shape), TO_NCHW) for shape in bottoms]

    def back(self, top: Shape | None) -> Shape:
        """Return the shape of a top from that in Caffe's order."""
        return moved(top or (), TO_HWCN)

    def nonlinearity(self) -> Nonlinearity | None:
        return activations.RELU if self.added.cr_param.relu else None

    def mixes_channels(self) -> bool:
        return self.plain.mixes_channels()

    def rounding(self) -> str:
        return self.plain.rounding()

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return self.plain.params(self.turned(bottoms))

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return self.plain.macs(self.turned(bottoms))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return tuple(map(self.back, self.plain.tops(self.turned(bottoms))))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = self.turned([g.shape(bottoms[0])])
        (top,), x = self.plain.tops(shapes), self.emit_turned(g, bottoms[0])
        (y,) = self.plain.lower(g, [g.declare(x, shapes[0])], params)
        y = g.emit("Relu", y) if self.added.cr_param.relu else y
        return (self.emit_back(g, g.declare(y, top or ())),)

    def emit_turned(self, g: Graph, x: str) -> str:
        """Emit a bottom with axes in Caffe's order."""
        return emit_moved(g, x, TO_NCHW)

    def emit_back(self, g: Graph, y: str) -> str:
        """Emit a top from that with axes in Caffe's order."""
        return emit_moved(g, y, TO_HWCN)


@layer("OCLCRHWCN", dialect="fpga")
class OCLConvolution(_Turned):
    """Convolution, and max(0, ·) where cr_param.relu is 1. (dicecco1/fpga_caffe, ocl_cr_hwcn_layer.cpp)"""

    kind = Convolution
    filler_fields = Convolution.filler_fields


@layer("OCLPoolingHWCN", dialect="fpga")
class OCLPooling(_Turned):
    """MAX pooling over 2 x 2 or 3 x 3 elements in steps of 2; the FPGA knows no other.

    (dicecco1/fpga_caffe, ocl_pooling_hwcn_layer.cpp and crp_layer_hwcn_cpfp.cpp)
    """

    kind = Pooling
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        window = Pooling(self.proto, self.phase, self.place).window(self.turned(bottoms)[0][2:])
        is_known = window.kernel in ((2, 2), (3, 3)) and window.strides == (2, 2) and not any(window.begins)
        if self.proto.pooling_param.pool != MAX or not is_known:
            raise self.error("the FPGA pools MAX over 2 x 2 or 3 x 3 elements, in steps of 2 and without padding")
        return super().tops(bottoms)


@layer("OCLHWCNInnerProduct", dialect="fpga")
class OCLInnerProduct(_Turned):
    """y = W · x + b, x [K, N] or [H, W, C, N], y [num_output, N], and max(0, ·) where cr_param.relu is 1.

    (dicecco1/fpga_caffe, ocl_inner_product_hwcn_layer.cpp)
    """

    kind = InnerProduct
    filler_fields = InnerProduct.filler_fields

    def turned(self, bottoms: Sequence[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) not in (2, 4):
            raise self.error(f"expected a bottom (K, N) or (H, W, C, N), found shape {shape}")
        return [(shape[-1], math.prod(shape[:-1]))]

    def back(self, top: Shape | None) -> Shape:
        return moved(top or (), (1, 0))

    def emit_turned(self, g: Graph, x: str) -> str:
        ((batch, inner),) = self.turned([g.shape(x)])
        return g.transpose(g.reshape(x, inner, batch), 1, 0)

    def emit_back(self, g: Graph, y: str) -> str:
        return g.transpose(y, 1, 0)
