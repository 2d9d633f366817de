"""Convolution whose weights differ from place to place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import blocks_pb2

from ..base import Layer, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Local"]


@layer("Local", dialect="happynear")
class Local(Layer):
    """y[m, p] = Σₖ w[m, k, p] · x[k, p] + b[m, p] at each place p of a window, k over its taps in all channels.

    Bottom [N, C, H, W], top [N, num_output, places…]. Params: weights [num_output, 1, C · kernel², places] and biases
    [1, 1, num_output, places]. (happynear/caffe-windows, local_layer.cpp)
    """

    adds = blocks_pb2.LayerParameter
    filler_fields: ClassVar[Mapping[str, str]] = {
        "local_param.weight_filler": "weight",
        "local_param.bias_filler": "bias",
    }

    def places(self, bottoms: Sequence[Shape]) -> Shape:
        """Return how many places the window has along height and width."""
        shape, p = bottoms[0], self.added.local_param
        if len(shape) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {shape}")
        if not (p.num_output and p.kernel_size and p.stride):
            raise self.error("expected a positive num_output, kernel_size and stride in local_param")
        if min(shape[2:]) < p.kernel_size:
            raise self.error(f"the kernel covers {p.kernel_size} elements, more than the bottom's {list(shape[2:])}")
        return tuple((size + 2 * p.pad - p.kernel_size) // p.stride + 1 for size in shape[2:])

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        p, places = self.added.local_param, prod(self.places(bottoms))
        taps = bottoms[0][1] * p.kernel_size**2
        feeds = max(round(p.num_output * (p.kernel_size / p.stride) ** 2), 1)
        weight = read_param("weight", (p.num_output, 1, taps, places), p, "weight_filler", taps, feeds)
        bias = read_param("bias", (1, 1, p.num_output, places), p, "bias_filler", 1, 1)
        return (weight, bias) if p.bias_term else (weight,)

    def mixes_channels(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        places = self.places(bottoms)
        return ((bottoms[0][0], self.added.local_param.num_output, *places),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return bottoms[0][0] * prod(self.params(bottoms)[0].shape)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        """Emit one product of a row of taps and a matrix of weights for each place."""
        p, shape = self.added.local_param, g.shape(bottoms[0])
        batch, channels, (high, wide) = shape[0], shape[1], self.places([shape])
        units = np.eye(p.kernel_size**2, dtype=np.float32).reshape(-1, 1, p.kernel_size, p.kernel_size)
        columns = g.emit(
            "Conv",
            bottoms[0],
            g.constant(np.tile(units, (channels, 1, 1, 1))),
            group=channels,
            kernel_shape=[p.kernel_size] * 2,
            strides=[p.stride] * 2,
            pads=[p.pad] * 4,
            dilations=[1, 1],
        )
        rows = g.transpose(g.reshape(columns, batch, channels * p.kernel_size**2, high * wide), 2, 0, 1)
        taps = g.shape(params[0])[2]
        weights = g.transpose(g.reshape(params[0], p.num_output, taps, high * wide), 2, 1, 0)
        y = g.transpose(g.emit("MatMul", rows, weights, hint=self.name), 1, 2, 0)
        if p.bias_term:
            y = g.emit("Add", y, g.reshape(params[1], 1, p.num_output, high * wide))
        return (g.reshape(g.declare(y, (batch, p.num_output, high * wide)), batch, p.num_output, high, wide),)
