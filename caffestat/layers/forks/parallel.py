"""Layers whose batch forks spread over processes, and that pool over the samples that come back."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from caffestat.schema.forks import blocks_pb2

from ..base import Layer, Shape, layer
from ..convolution import Convolution
from ..inner_product import InnerProduct
from ..neuron import PReLU
from ..pooling import MAX, STOCHASTIC, emit_average, emit_max, pooling_window

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["ConvolutionData", "InnerProductAll", "InnerProductData", "PReLUData", "PoolingNum"]


@layer("ConvolutionData", dialect="action")
class ConvolutionData(Convolution):
    """Convolution, its batch spread over processes; here there is one. (Lyp100208/Caffe_action, conv_data_layer.cpp)"""


@layer("InnerProductAll", dialect="action")
class InnerProductAll(InnerProduct):
    """InnerProduct of the samples of all processes; here there is one.

    (Lyp100208/Caffe_action, inner_product_all_layer.cpp and .cu)
    """


@layer("InnerProductData", dialect="action")
class InnerProductData(InnerProduct):
    """InnerProduct, its batch spread over processes; here there is one.

    (Lyp100208/Caffe_action, inner_product_data_layer.cpp)
    """


@layer("PReLUData", dialect="action")
class PReLUData(PReLU):
    """PReLU, its batch spread over processes; here there is one. (Lyp100208/Caffe_action, prelu_data_layer.cpp)"""


@layer("PoolingNum", dialect="action")
class PoolingNum(Layer):
    """y[p, c] = max or mean of channel c over all places of kernel_size samples in a row: [N / kernel_size, C, 1, 1].

    STOCHASTIC gives no values. (Lyp100208/Caffe_action, pooling_num_layer.cpp and .cu)
    """

    adds = blocks_pb2.LayerParameter
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape, size = bottoms[0], self.added.pooling_num_param.kernel_size
        if not 2 <= len(shape) <= 4 or not size or shape[0] % size:
            raise self.error(f"expected samples (N, C, …) that kernel_size divides, found {size} and shape {shape}")
        if self.added.pooling_num_param.pool == STOCHASTIC:
            self.why_uncomputed = "its stochastic pooling draws random numbers of a GPU"
        return ((shape[0] // size, shape[1], 1, 1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (samples, channels, *places), p = g.shape(bottoms[0]), self.added.pooling_num_param
        groups, length = samples // p.kernel_size, p.kernel_size * prod(places)
        parts = g.transpose(g.reshape(bottoms[0], groups, p.kernel_size, channels, prod(places)), 0, 2, 1, 3)
        row = g.reshape(parts, groups, channels, 1, length)
        window = pooling_window((1, length), (1, length), (1, 1), (0, 0))
        is_max = p.pool == MAX
        y = emit_max(g, row, window, hint=self.name)[0] if is_max else emit_average(g, row, window, self.name)
        return (g.declare(y, (groups, channels, 1, 1)),)
