"""Fully connected layers: from vectors, and from integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np

from .base import Layer, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Embed", "InnerProduct"]


@layer("InnerProduct", by_sample=True)
class InnerProduct(Layer):
    """y = x·Wᵀ + b, x flattened from `axis` to K numbers; with `transpose`, y = x·W + b.

    Bottom [leading axes…, the K numbers' axes…]; top [leading axes…, num_output]. Weights [num_output, K], or with
    `transpose` [K, num_output]. (inner_product_layer.cpp)
    """

    keeps_shapes = True
    filler_fields: ClassVar[Mapping[str, str]] = {
        "inner_product_param.weight_filler": "weight",
        "inner_product_param.bias_filler": "bias",
    }

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        param = self.proto.inner_product_param
        inputs, outputs = prod(bottoms[0][self._axis(bottoms[0]) :]), param.num_output
        shape = (inputs, outputs) if param.transpose else (outputs, inputs)
        weight = read_param("weight", shape, param, "weight_filler", inputs, outputs)
        bias = read_param("bias", (outputs,), param, "bias_filler", 1, 1)
        return (weight, bias) if param.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        outputs = self.proto.inner_product_param.num_output
        if outputs == 0:
            raise self.error("num_output must be positive; found 0 or none")
        self.refuse_in_place()  # Caffe clears the top before it reads the bottom
        return ((*bottoms[0][: self._axis(bottoms[0])], outputs),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis = self._axis(shape)
        x = g.reshape(bottoms[0], prod(shape[:axis]), prod(shape[axis:]))
        transposed = int(not self.proto.inner_product_param.transpose)
        y = self.multiply(g, "Gemm", x, *params, transB=transposed)
        outputs = self.proto.inner_product_param.num_output
        return [g.reshape(g.declare(y, (prod(shape[:axis]), outputs)), *self.tops([shape])[0])]

    def multiply(self, g: Graph, op: str, *inputs: str, **attributes: Any) -> str:
        """Emit the op that multiplies the bottom by the weights; forks round these."""
        return g.emit(op, *inputs, hint=self.name, **attributes)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return prod(self.tops(bottoms)[0]) * prod(bottoms[0][self._axis(bottoms[0]) :])

    def _axis(self, shape: Shape) -> int:
        axis: int = self.proto.inner_product_param.axis
        return self.canonical_axis(axis, len(shape))


@layer("Embed", by_sample=True)
class Embed(Layer):
    """y = W[x] + b: row x of the weights for each integer x in 0 … input_dim - 1.

    Bottom of any shape; top [bottom's axes…, num_output]. Weights [input_dim, num_output]. (embed_layer.cpp)
    """

    takes_indices = True
    filler_fields: ClassVar[Mapping[str, str]] = {
        "embed_param.weight_filler": "weight",
        "embed_param.bias_filler": "bias",
    }

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[0]

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        param = self.proto.embed_param
        weight = read_param("weight", (param.input_dim, param.num_output), param, "weight_filler", 1, param.num_output)
        bias = read_param("bias", (param.num_output,), param, "bias_filler", 1, 1)
        return (weight, bias) if param.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        param = self.proto.embed_param
        if param.num_output == 0 or param.input_dim == 0:
            raise self.error(
                f"num_output and input_dim must be positive; found {param.num_output} and {param.input_dim}"
            )
        return ((*bottoms[0], param.num_output),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        rows: int = self.proto.embed_param.input_dim
        return rows

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        last = g.constant(self.proto.embed_param.input_dim - 1)
        index = g.cast(g.emit("Clip", bottoms[0], g.constant(0), last), np.int64)
        rows = g.emit("Gather", params[0], index, axis=0, hint=self.name)
        return [g.emit("Add", rows, params[1], hint=self.name)] if len(params) > 1 else [rows]
