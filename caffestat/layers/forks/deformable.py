"""Convolution whose taps are moved by learned offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import Place
from caffestat.lazy import np
from caffestat.ops import Window
from caffestat.schema.forks import rcnn_pb2

from ..base import Shape, layer
from ..convolution import Convolution
from .rois import corners

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["DeformableConvolution"]


@layer("DeformableConvolution", dialect="rcnn")
class DeformableConvolution(Convolution):
    """y = W * x + b, each tap of the window moved by (dy, dx) of its place, x interpolated there, 0 outside of it.

    Bottoms x [N, C, H, W] and offsets [N, deformable_group · 2 · taps, H', W']; each deformable group of channels has
    offsets of its own. Gradients go to both. (unsky/Deformable-ConvNets-caffe, deformable_conv_layer.cpp)
    """

    adds = rcnn_pb2.LayerParameter
    num_bottoms = (2, 2)
    num_tops = (1, 1)
    filler_fields: ClassVar[Mapping[str, str]] = {
        f"{message}.{role}_filler": role
        for message in ("deformable_convolution_param", "convolution_param")
        for role in ("weight", "bias")
    }

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(deepcopy(proto), phase, place)

    @property
    def deformable_groups(self) -> int:
        """How many groups of channels have offsets of their own."""
        return int(self.added.deformable_convolution_param.deformable_group)

    def geometry(self, bottoms: Sequence[Shape]) -> Any:
        if self.added.HasField("deformable_convolution_param"):  # it has the numbers of Caffe's own message
            data = self.added.deformable_convolution_param.SerializePartialToString()
            self.proto.convolution_param.ParseFromString(data)
        return super().geometry(bottoms[:1])

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        at = self.geometry(bottoms)
        (top,) = super().tops(bottoms[:1])
        groups = self.deformable_groups
        wanted = (bottoms[0][0], groups * 2 * prod(at.window.kernel), *top[2:])
        if len(bottoms[0]) != 4 or groups < 1 or bottoms[0][1] % groups:
            raise self.error(f"expected a bottom (N, C, H, W), C divisible by {groups} groups, found {bottoms[0]}")
        if bottoms[1] != wanted:
            raise self.error(f"expected offsets of shape {wanted}, found {bottoms[1]}")
        return (top,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        (n, out, *places), taps = self.tops(shapes)[0], prod(self.geometry(shapes).window.kernel)
        channels, groups = shapes[0][1], self.deformable_groups
        rows = g.transpose(bottoms[0], 0, 2, 3, 1)
        split = [rows]
        if groups > 1:
            split = g.emit_many("Split", rows, g.ints(*[channels // groups] * groups), count=groups, axis=3)
        offsets = g.reshape(bottoms[1], n, groups, taps, 2, *places)
        columns = [
            self.columns(g, part, g.emit("Gather", offsets, g.constant(index, np.int64), axis=1), shapes)
            for index, part in enumerate(split)
        ]
        joined = columns[0] if groups == 1 else g.emit("Concat", *columns, axis=4)
        g.declare(joined, (n, taps, *places, channels))
        stacked = g.reshape(g.declare(g.transpose(joined, 0, 4, 1, 2, 3), (n, channels, taps, *places)), n, -1, *places)
        weight = g.reshape(params[0], out, -1, 1, 1)
        group = self.proto.convolution_param.group
        return (g.emit("Conv", stacked, weight, *params[1:], group=group, kernel_shape=[1, 1], hint=self.name),)

    def columns(self, g: Graph, x: str, offsets: str, shapes: Sequence[Shape]) -> str:
        """Emit x [N, H, W, C] at the moved taps: [N, taps, H', W', C]; offsets [N, taps, 2, H', W']."""
        n, _, height, width = shapes[0]
        window = self.geometry(shapes).window
        lines, inside = [], []
        for axis, most in enumerate((height, width)):
            moved = g.emit("Gather", offsets, g.constant(axis, np.int64), axis=2)
            place = g.emit("Add", moved, g.constant(_taps(window, axis)))
            inside += [g.emit("GreaterOrEqual", place, g.constant(0)), g.emit("Less", place, g.constant(most))]
            lines.append(g.emit("Clip", place, g.constant(0), g.constant(most - 1)))
        shown = g.cast(g.emit("And", g.emit("And", *inside[:2]), g.emit("And", *inside[2:])), np.float32)
        first = g.constant((np.arange(n) * height).reshape(-1, 1, 1, 1))
        rows, total = g.reshape(x, n * height * width, -1), None
        for index, weight in corners(g, lines[0], lines[1], first, (height, width), ahead=True):
            seen = g.emit("Unsqueeze", g.emit("Mul", weight, shown), g.ints(-1))
            part = g.emit("Mul", g.emit("Gather", rows, index, axis=0), seen)
            total = part if total is None else g.emit("Add", total, part)
        assert total is not None
        return total


def _taps(window: Window, axis: int) -> np.ndarray:
    """Return where the taps lie on an axis without offsets: [1, taps, H' or 1, W' or 1]."""
    start = np.arange(window.out[axis]) * window.strides[axis] - window.begins[axis]
    tap = np.indices(window.kernel)[axis].ravel() * window.dilations[axis]
    lies = tap[:, None] + start
    return lies[None, :, :, None] if axis == 0 else lies[None, :, None, :]
