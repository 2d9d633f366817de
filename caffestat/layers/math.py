"""Layers that combine values: Eltwise over bottoms, Softmax and Reduction along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from caffestat.float32 import FLT_MAX
from caffestat.ops import Nonlinearity, activations

from .base import Layer, Shape, layer, of_four_axes, tell_axes
from .neuron import scaled
from .reread import emit_closed, emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["Eltwise", "Reduction", "Softmax", "emit_softmax"]

PROD, SUM, MAX = 0, 1, 2
_CLEARED = "Caffe clears the top before it reads the bottom of the same name"
ASUM, SUMSQ, MEAN = 2, 3, 4


@layer("Eltwise", by_sample=True)
class Eltwise(Layer):
    """y = Σ coeffᵢ·xᵢ, Π xᵢ or max xᵢ. (eltwise_layer.cpp)

    Of equal maxima the second of the first two bottoms gets the gradient, and the earlier one of any later pair.
    Without stable_prod_grad, dxᵢ = dy · y / xᵢ, which is not a number at xᵢ = 0. A product in place gives its first
    bottom the square of the slope, and the others their slopes times that. A sum or a maximum in place is that of the
    other bottoms: Caffe clears the top before it reads the first.
    """

    keeps_places = True
    num_bottoms = (2, None)
    fork_bottoms = (1, None)  # FlowNet's Caffe scales one bottom by its coeff
    keeps_shapes = True

    def multiplies(self) -> bool:
        return bool(self.proto.eltwise_param.operation == PROD)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        proto = self.proto.eltwise_param
        for index, shape in enumerate(bottoms):
            if of_four_axes(shape) != of_four_axes(bottoms[0]):
                raise self.error(
                    f"bottom {index} ({self.proto.bottom[index]!r}) has shape {shape}; "
                    f"expected that of bottom 0, {bottoms[0]}"
                )
        if len(proto.coeff) not in (0, len(bottoms)):
            raise self.error(f"expected one coeff per bottom ({len(bottoms)}), found {len(proto.coeff)}")
        if proto.coeff and proto.operation == PROD:
            raise self.error("coeff is for SUM only; remove it")
        if self.is_in_place() and len(bottoms) == 1:
            raise self.error(f"{_CLEARED}; give the top a name of its own")
        return (bottoms[0],)

    def oddity(self, bottoms: Sequence[Shape]) -> str:
        if not self.is_in_place() or self.multiplies():
            return ""
        return f"{_CLEARED}, which therefore does not count; give the top a name of its own"

    def departs(self, bottoms: Sequence[Shape]) -> str:
        same = len(set(map(of_four_axes, bottoms))) == 1
        return tell_axes(bottoms) if same and len(set(bottoms)) > 1 else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        bottoms = [bottoms[0], *(g.reshape(bottom, *g.shape(bottoms[0])) for bottom in bottoms[1:])]
        operation = {PROD: self.product, SUM: self.sum, MAX: self.maximum}[self.proto.eltwise_param.operation]
        return (operation(g, bottoms),)

    def sum(self, g: Graph, bottoms: Sequence[str]) -> str:
        """Emit Σ coeffᵢ·xᵢ."""
        coeffs = self.proto.eltwise_param.coeff or [1] * len(bottoms)

        def forward(*values: str) -> str:
            terms = [scaled(g, x, c) for x, c in zip(values, coeffs, strict=True)]
            return reduce(lambda a, b: g.emit("Add", a, b), terms[1:] if self.is_in_place() else terms)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            if tape.needs(bottoms[0]):
                dy = scaled(tape, dy, coeffs[0])  # Caffe writes it over dy first
            return [dy, *(scaled(tape, dy, c) for c in coeffs[1:])]

        return emit_closed(g, bottoms, forward, gradient) if self.is_in_place() else forward(*bottoms)

    def product(self, g: Graph, bottoms: Sequence[str]) -> str:
        """Emit Π xᵢ."""

        def forward(*factors: str) -> str:
            return reduce(lambda a, b: g.emit("Mul", a, b), factors)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            grads: list[str | None] = []
            for index, x in enumerate(bottoms):
                grad = tape.emit("Mul", self.slope(tape, bottoms, top, index), dy) if tape.needs(x) else None
                if grad and index == 0 and self.is_in_place():
                    slope = self.slope(tape, bottoms, top, index)
                    dy = grad = tape.emit("Mul", slope, slope)  # Caffe writes the slope over dy first
                grads.append(grad)
            return grads

        if self.proto.eltwise_param.stable_prod_grad and not self.is_in_place():
            return forward(*bottoms)
        top = emit_closed(g, bottoms, forward, gradient)
        return top

    def slope(self, tape: Tape, bottoms: Sequence[str], top: str, index: int) -> str:
        """Emit dy/dxᵢ of the product: that of the others, or y / xᵢ."""
        stored = [tape.stored(x) for x in bottoms]
        if not self.proto.eltwise_param.stable_prod_grad:
            return str(tape.emit("Div", tape.stored(top), stored[index]))
        return reduce(lambda a, b: tape.emit("Mul", a, b), stored[:index] + stored[index + 1 :])

    def maximum(self, g: Graph, bottoms: Sequence[str]) -> str:
        """Emit max xᵢ."""
        lowest = g.constant(-FLT_MAX)
        so_far = [lowest if self.is_in_place() else bottoms[0]]  # the maximum of the first 1, 2, … bottoms

        def forward(*values: str) -> str:
            for index, x in enumerate(values[1:], 1):
                newer = self.newer_wins(g, index, so_far[-1], x) if g.is_strict else None
                so_far.append(g.emit("Where", newer, x, so_far[-1]) if newer else g.emit("Max", so_far[-1], x))
            return so_far[-1]

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            grads: list[str] = []
            zero = tape.constant(0)
            if self.is_in_place() and tape.needs(bottoms[0]):
                return [tape.emit("Mul", dy, zero)] * len(bottoms)  # Caffe writes that of the first over dy
            for index in reversed(range(1, len(bottoms))):
                wins = self.newer_wins(tape, index, so_far[index - 1], bottoms[index])
                grads.insert(0, tape.emit("Where", wins, dy, zero))
                dy = tape.emit("Where", wins, zero, dy)
            return [dy, *grads]

        return emit_closed(g, bottoms, forward, gradient)

    def newer_wins(self, tape: Any, index: int, older: str, newer: str) -> str:
        """Emit where bottom `index` takes the gradient over: Caffe compares the first pair the other way."""
        if index == 1:
            return str(tape.emit("Not", tape.emit("Greater", older, newer)))
        return str(tape.emit("Greater", newer, older))


def emit_softmax(g: Graph, x: str, axis: int) -> str:
    """Emit e^x / Σ e^x along an axis, which is brought to the end first: the runtime is ten times slower on others."""
    shape = g.shape(x)
    outer, size, inner = math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])
    if inner == 1:
        y = g.emit("Softmax", g.reshape(x, outer, size), axis=1)
        return g.reshape(g.declare(y, (outer, size)), *shape)
    turned = g.transpose(g.reshape(x, outer, size, inner), 0, 2, 1)
    y = g.transpose(g.emit("Softmax", turned, axis=2), 0, 2, 1)
    return g.reshape(g.declare(y, (outer, size, inner)), *shape)


@layer("Softmax", by_sample=True)
class Softmax(Layer):
    """y = e^x / Σ e^x along `axis`; dx = y · (dy - Σ dy·y). (softmax_layer.cpp)"""

    ignores_propagate_down = True
    keeps_places = True
    keeps_shapes = True

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX

    def axis(self, shape: Shape) -> int:
        """Return the axis, counted from the front."""
        return self.canonical_axis(self.proto.softmax_param.axis, len(shape))

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        return super().is_by_sample(bottoms) and self.axis(bottoms[0]) > 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.axis(bottoms[0])
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        axis = self.axis(g.shape(bottoms[0]))

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            inner = tape.emit("ReduceSum", tape.emit("Mul", dy, top), tape.ints(axis), keepdims=1)
            return str(tape.emit("Mul", tape.emit("Sub", dy, inner), top))

        return (emit_reread(g, bottoms[0], lambda x: emit_softmax(g, x, axis), gradient),)


@layer("Reduction")
class Reduction(Layer):
    """y = coeff · Σ x, Σ |x|, Σ x² or the mean of x over `axis` and all axes behind it. (reduction_layer.cpp)"""

    def axis(self, shape: Shape) -> int:
        """Return the first axis that is reduced, counted from the front."""
        return self.canonical_axis(self.proto.reduction_param.axis, len(shape))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0][: self.axis(bottoms[0])],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto, shape = self.proto.reduction_param, g.shape(bottoms[0])
        rows = bottoms[0]
        if proto.operation == ASUM:
            rows = g.emit("Abs", rows)
        elif proto.operation == SUMSQ:
            rows = g.emit("Mul", rows, rows)
        axis = self.axis(shape)
        summed = g.emit("ReduceSum", rows, g.ints(-1), keepdims=0)
        if axis < len(shape) - 1:  # in two steps: less rounding than in one
            summed = g.emit("ReduceSum", summed, g.ints(*range(axis, len(shape) - 1)), keepdims=0)
        count = math.prod(shape[axis:]) if proto.operation == MEAN else 1
        return (summed if proto.coeff == count else g.emit("Mul", summed, g.constant(proto.coeff / count)),)
