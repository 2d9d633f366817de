"""A product or a sum along some axes, with a learned blob or with a second bottom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.graph.channels import channel_affine, channel_column, channel_dot, channel_scale, channel_sum

from .base import Layer, Param, Shape, layer, read_param

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["Bias", "Scale", "emit_affine"]


class _Operand(Layer):
    """What both share: which axes of the bottom the other operand covers."""

    keeps_places = True
    num_bottoms = (1, 2)
    passes_signal = True
    keeps_shapes = True
    field: str

    @property
    def param(self) -> Any:
        return getattr(self.proto, self.field)

    def covered(self, bottoms: Sequence[Shape]) -> tuple[int, Shape]:
        """Return the first covered axis and the operand's shape: the second bottom's, else from axis and num_axes."""
        shape = bottoms[0]
        if len(bottoms) > 1 and not bottoms[1]:
            return 0, ()
        axis = self.canonical_axis(self.param.axis, len(shape))
        count = len(bottoms[1]) if len(bottoms) > 1 else self.param.num_axes
        if count < -1 or axis + count > len(shape):
            raise self.error(f"{count} axes from axis {axis} on do not fit a bottom of shape {shape}")
        covered = shape[axis:] if count == -1 else shape[axis : axis + count]
        if len(bottoms) > 1 and bottoms[1] != covered:
            raise self.error(
                f"the second bottom must have shape {covered}, that of the first from axis {axis} on; "
                f"found {bottoms[1]}"
            )
        return axis, covered

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.covered(bottoms)
        return (bottoms[0],)

    def view(self, g: Graph, bottoms: Sequence[str], operands: Sequence[str]) -> tuple[str, list[str]]:
        """Return the bottom as [outer, D, inner…] and the operands as [D]."""
        shape = g.shape(bottoms[0])
        x = g.copy(bottoms[0]) if self.is_in_place() else bottoms[0]  # Caffe keeps a copy
        axis, covered = self.covered([g.shape(bottom) for bottom in bottoms])
        flat = [g.reshape(operand, prod(covered)) for operand in operands]
        if axis == 1 and len(covered) == 1:
            return x, flat
        view = (prod(shape[:axis]), prod(covered), prod(shape[axis + len(covered) :]))
        return g.reshape(x, *view), flat


@layer("Scale", by_sample=True)
class Scale(_Operand):
    """y = s · x, with bias_term y = s · x + b; s and b repeat over the axes that they do not cover.

    Bottom and top of any shape; s is the second bottom, else a param, of the bottom's shape from `axis` on, num_axes
    long (-1: to the end). s starts at 1 where no filler is written. (scale_layer.cpp)
    """

    field = "scale_param"
    filler_fields: ClassVar[Mapping[str, str]] = {"scale_param.filler": "scale", "scale_param.bias_filler": "bias"}

    def multiplies(self) -> bool:
        return len(self.proto.bottom) > 1

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        _, shape = self.covered(bottoms)
        params = []
        if len(bottoms) == 1:
            params.append(read_param("scale", shape, self.param, "filler", 1, 1))
        if self.param.bias_term:
            params.append(read_param("bias", shape, self.param, "bias_filler", 1, 1))
        return tuple(params)

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        if param > 0 or len(bottoms) > 1:
            return False
        axis, covered = self.covered(bottoms)
        has_one_row = prod(bottoms[0][:axis]) == 1 and prod(covered) > 1
        return has_one_row or prod(covered) == prod(bottoms[0])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x, operands = self.view(g, bottoms, [*bottoms[1:], *params])
        if g.is_strict:
            y = _emit_strict(g, x, *operands)
        elif len(operands) > 1:
            y = emit_affine(g, x, operands[0], operands[1], self.name)
        else:
            y = g.emit("Mul", x, channel_column(g, operands[0], len(g.shape(x))), hint=self.name)
        return [g.reshape(g.declare(y, g.shape(x)), *g.shape(bottoms[0]))]


def _emit_strict(g: Graph, x: str, scale: str, bias: str = "") -> str:
    """Emit scale · x + bias where Caffe scales by its BLAS: 0 where the scale is 0 or not a number, whatever x is."""

    def times(g: Graph, value: str, by: str) -> str:
        column, zero = channel_column(g, by, len(g.shape(x))), g.constant(0)
        counts = g.emit("Greater", g.emit("Abs", column), zero)
        return g.declare(g.emit("Where", counts, g.emit("Mul", value, column), zero), g.shape(x))

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        dy, graph = dys[0], tape.graph
        assert dy is not None
        dx = times(graph, dy, tape.stored(scale)) if tape.needs(x) else None
        return [dx, channel_dot(graph, dy, tape.stored(x)) if tape.needs(scale) else None]

    (y,) = g.custom_vjp([x, scale], lambda value, by: [times(g, value, by)], backward)
    return g.emit("Add", y, channel_column(g, bias, len(g.shape(x)))) if bias else y


def emit_affine(g: Graph, x: str, scale: str, bias: str, hint: str) -> str:
    """Emit scale · x + bias per channel with its gradients in as few passes over x and dy as there can be."""

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        dy, graph = dys[0], tape.graph
        assert dy is not None
        dx = channel_scale(graph, dy, tape.stored(scale)) if tape.needs(x) else None
        dscale = channel_dot(graph, dy, tape.stored(x)) if tape.needs(scale) else None
        return [dx, dscale, channel_sum(graph, dy) if tape.needs(bias) else None]

    (y,) = g.custom_vjp([x, scale, bias], lambda value, by, plus: [channel_affine(g, value, by, plus, hint)], backward)
    return y


@layer("Bias", by_sample=True)
class Bias(_Operand):
    """y = x + b; b repeats over the axes that it does not cover.

    Bottom and top of any shape; b is the second bottom, else a param, of the bottom's shape from `axis` on, num_axes
    long (-1: to the end). (bias_layer.cpp)
    """

    field = "bias_param"
    filler_fields: ClassVar[Mapping[str, str]] = {"bias_param.filler": "bias"}

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        _, shape = self.covered(bottoms)
        return () if len(bottoms) > 1 else (read_param("bias", shape, self.param, "filler", 1, 1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x, (bias,) = self.view(g, bottoms, [*bottoms[1:], *params])
        y = g.emit("Add", x, channel_column(g, bias, len(g.shape(x))), hint=self.name)
        return [g.reshape(g.declare(y, g.shape(x)), *g.shape(bottoms[0]))]
