"""Layer types for the steganalysis of JPEG images. (GuanshuoXu/caffe_deep_learning_for_steganalysis)"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffestat.fillers import Filler
from caffestat.lazy import np
from caffestat.schema.forks import geometry_pb2

from ..base import TRAIN, Layer, Param, Shape, layer
from ..data import Source
from ..neuron import Neuron, ReLU
from ..normalization import BatchNorm
from ..reread import without_gradient
from ..scale import emit_affine
from .flow import check_images

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["BNConv", "BdctToSpatial", "JpegCoefficients", "QuantTruncAbs", "ReLURecover"]

STANDARD = """
    16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
"""The steps of the luminance of JPEG at quality 50. (ITU-T T.81, table K.1)"""


def steps(quality: float) -> np.ndarray:
    """Return the quantization steps [64] of a quality of 50 or more, as libjpeg scales them."""
    scaled = np.floor((np.array(STANDARD.split(), int) * (200 - 2 * quality) + 50) / 100)
    return np.maximum(scaled, 1).astype(np.float32)


def _cosines() -> np.ndarray:
    """Return the orthonormal DCT-II [frequency, place] of eight values."""
    u = np.arange(8)
    basis = np.cos((2 * u + 1) * u[:, None] * np.pi / 16) / 2
    return np.asarray(np.where(u[:, None] == 0, np.sqrt(1 / 8), basis))


@layer("ImageDataSteganalysisJpegDct", dialect="steganalysis")
class JpegCoefficients(Source):
    """Quantized DCT coefficients of images and of their twins with a message, in turn, and which is which.

    (GuanshuoXu/caffe_deep_learning_for_steganalysis, image_data_steganalysis_jpeg_dct_layer.cpp)
    """

    adds = geometry_pb2.LayerParameter
    num_tops = (2, 2)

    def written_shape(self, index: int) -> Shape | None:
        return (self.added.image_data_steganalysis_jpeg_dct_param.batch_size,) if index else None

    def top_shape(self, index: int, name: str) -> Shape | None:
        images = self.shape_overrides.get(self.proto.top[0])
        return images[:1] if index and images else super().top_shape(index, name)

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        _, height, width = size
        return super().usual_shape(index, (64, height // 8, width // 8))

    def batch_size(self) -> int:
        """Return the batch size that the file states."""
        return int(self.added.image_data_steganalysis_jpeg_dct_param.batch_size)

    def shape_source(self) -> str:
        return f"in the images that {self.added.image_data_steganalysis_jpeg_dct_param.source!r} lists"

    def example(self, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return (np.arange(shape[0]) % 2).astype(np.float32) if index else None


@layer("BdctToSpatial", dialect="steganalysis")
class BdctToSpatial(Layer):
    """The image [N, 1, 8H, 8W] of quantized DCT coefficients [N, 64, H, W], a block of 8 x 8 at each place.

    No gradient; quality is 75 or 95. (GuanshuoXu/caffe_deep_learning_for_steganalysis, bdct_to_spatial_layer.cu)
    """

    adds = geometry_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, channels, height, width = check_images(self, bottoms[0])
        if self.added.bdct_to_spatial_param.quality not in (75, 95) or channels != 64:
            raise self.error(f"expected quality 75 or 95 and a bottom (N, 64, H, W), found shape {bottoms[0]}")
        return ((n, 1, 8 * height, 8 * width),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, _, height, width = g.shape(bottoms[0])
        basis, quantum = _cosines(), steps(self.added.bdct_to_spatial_param.quality)
        # an inverse DCT of both axes: [64 coefficients, 64 places]
        matrix = np.kron(basis, basis) * quantum[:, None]

        def forward(x: str) -> Sequence[str]:
            last = g.declare(g.transpose(x, 0, 2, 3, 1), (n, height, width, 64))
            blocks = g.declare(g.emit("MatMul", last, g.constant(matrix)), (n, height, width, 64))
            turned = g.transpose(g.reshape(blocks, n, height, width, 8, 8), 0, 1, 3, 2, 4)
            return (g.reshape(turned, n, 1, 8 * height, 8 * width),)

        return without_gradient(g, bottoms, forward)


@layer("QuantTruncAbs", dialect="steganalysis")
class QuantTruncAbs(Neuron):
    """y = x rounded (halves away from 0), cut to ±threshold, or its size, in this order, as process names them.

    No gradient; in place. (GuanshuoXu/caffe_deep_learning_for_steganalysis, quant_trunc_abs_layer.cu)
    """

    adds = geometry_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not self.is_in_place():
            raise self.error("works only in place; give the top the bottom's name")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p = self.added.quant_trunc_abs_param
        process = type(p).ProcessMethod.Name(p.process)

        def forward(x: str) -> Sequence[str]:
            size = g.emit("Abs", x)
            if "QUANT" in process:
                size = g.emit("Floor", g.emit("Add", size, g.constant(0.5)))
            if "TRUNC" in process:
                size = g.emit("Min", size, g.constant(p.threshold))
            return (size if process.endswith("ABS") else g.emit("Mul", g.emit("Sign", x), size),)

        return without_gradient(g, bottoms, forward)


@layer("ReLURecover", dialect="steganalysis")
class ReLURecover(ReLU):
    """ReLU; in place, its backward pass puts the bottom's values back.

    (GuanshuoXu/caffe_deep_learning_for_steganalysis, relu_recover_layer.cu)
    """


@layer("BNConv", dialect="steganalysis")
class BNConv(BatchNorm):
    """y = s · (x - mean) / √(variance + 1e-10) + b per channel; params s, b, running mean and variance [1, C, 1, 1].

    The statistics are the batch's in TRAIN, unless `fix`; running = decay · the batch's + (1 - decay) · old. dx is that
    of the batch's statistics, whatever counts forward.
    (GuanshuoXu/caffe_deep_learning_for_steganalysis, bn_conv_layer.cu)
    """

    adds = geometry_pb2.LayerParameter

    @property
    def eps(self) -> float:
        return 1e-10

    @property
    def reads_statistics(self) -> bool:
        return self.phase != TRAIN or bool(self.added.bn_conv_param.fix)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = (1, bottoms[0][1], 1, 1)
        learned = [
            Param(role, shape, Filler(value=value), False, 1, 1) for role, value in (("scale", 1.0), ("bias", 0.0))
        ]
        stored = [Param(role, shape, Filler(), False, 1, 1, is_statistic=True) for role in ("mean", "variance")]
        return (*learned, *stored)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (check_images(self, bottoms[0]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        channels = g.shape(bottoms[0])[1]
        scale, bias, mean, variance = (g.reshape(param, channels) for param in params)
        if self.reads_statistics:
            y = self.lower_stored(g, bottoms[0], mean, variance)
        else:
            y = self.lower_batch(g, bottoms[0], params[2:])
        return [emit_affine(g, y, scale, bias, self.name)]

    def lower_stored(self, g: Graph, x: str, mean: str, variance: str) -> str:
        shape = g.shape(x)
        count = prod(shape) // shape[1]
        column = (1, shape[1], 1, 1)
        slope = g.reshape(self.inverse_deviation(g, variance), *column)

        def forward(value: str) -> Sequence[str]:
            return (g.emit("Mul", g.emit("Sub", value, g.reshape(mean, *column)), slope),)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            dy = dys[0]
            assert dy is not None
            axes, share = tape.ints(0, 2, 3), tape.constant(1 / count)
            along = tape.emit("Mul", tape.emit("ReduceSum", tape.emit("Mul", dy, y), axes, keepdims=1), share)
            even = tape.emit("Mul", tape.emit("ReduceSum", dy, axes, keepdims=1), share)
            rest = tape.emit("Sub", tape.emit("Sub", dy, even), tape.emit("Mul", y, along))
            return [tape.emit("Mul", rest, slope)]

        (y,) = g.custom_vjp([x], forward, backward)
        return g.declare(y, shape)

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        """Record the running statistics after the pass."""
        decay = self.added.bn_conv_param.decay
        for param, new in zip(params, (mean, variance), strict=True):
            shape = g.shape(param)
            kept = g.emit("Mul", param, g.constant(1 - decay))
            added = g.emit("Mul", g.reshape(new, *shape), g.constant(decay))
            g.updates[param] = g.declare(g.emit("Add", kept, added, hint=f"{self.name}_statistics"), shape)
