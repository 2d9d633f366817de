"""Layers of forks that read images at other places: moved by a flow, or by a transformation of the whole image."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import flow_pb2

from ..base import Layer, Shape, layer
from .flow import check_images
from .sampling import EDGE, emit_inside, emit_picked, emit_sampled

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["FlowWarp", "PWCWarp", "Warp", "Warping", "WarpingOfTwo"]

NOT_A_NUMBER = flow_pb2.FlowWarpParameter.NOT_A_NUMBER


class _Warped(Layer):
    """Bottoms: images [N, C, H, W] and a field [N, 2, H, W] of x and y for each place."""

    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, height, width = check_images(self, bottoms[0])
        if bottoms[1] != (n, 2, height, width):
            raise self.error(f"expected a field of shape {(n, 2, height, width)}, found {bottoms[1]}")
        return (bottoms[0],)

    def field(self, g: Graph, value: str) -> tuple[str, str]:
        """Emit y and x of the field [N, H, W]."""
        n, _, height, width = g.shape(value)
        y, x = (g.emit("Gather", value, g.constant(index, np.int64), axis=1) for index in (1, 0))
        return g.declare(y, (n, height, width)), g.declare(x, (n, height, width))

    def points(self, g: Graph, value: str) -> tuple[str, str]:
        """Emit where the field leads to from each place: y and x."""
        n, _, height, width = g.shape(value)
        grid = (np.arange(height)[:, None], np.arange(width)[None])
        y, x = (g.emit("Add", part, g.constant(at)) for part, at in zip(self.field(g, value), grid, strict=True))
        return g.declare(y, (n, height, width)), g.declare(x, (n, height, width))


@layer("Warp", dialect="pwcnet")
class PWCWarp(_Warped):
    """y = x at each place moved by the flow in bottom 1, by bilinear interpolation; 0 where that is outside.

    Gradients go to both bottoms; at a whole number the flow's is half of the difference of the elements on both sides,
    with no element beyond the image. (NVlabs/PWC-Net, Caffe/warping_code/warp_layer.cu)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and "Grid" not in types

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        image, flow = bottoms
        n, _, height, width = g.shape(image)
        y, x = self.points(g, g.detach(flow))
        inside = g.emit("And", emit_inside(g, y, height - 1, False), emit_inside(g, x, width - 1, False))
        shown = g.declare(g.emit("Unsqueeze", g.cast(inside, np.float32), g.ints(1)), (n, 1, height, width))
        read = g.emit("Mul", emit_sampled(g, image, y, x, EDGE), shown)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return None, None
            seen = tape.graph.transpose(tape.emit("Mul", dys[0], shown), 0, 2, 3, 1)
            slopes = [self.slope(tape.graph, image, (y, x), axis) for axis in (1, 0)]
            sums = [tape.emit("ReduceSum", tape.emit("Mul", seen, slope), tape.ints(3), keepdims=0) for slope in slopes]
            planes = [tape.emit("Unsqueeze", value, tape.ints(1)) for value in sums]
            return dys[0], tape.emit("Concat", *planes, axis=1)

        return g.custom_vjp((read, flow), lambda value, _: (g.emit("Identity", value),), backward)

    @staticmethod
    def slope(g: Graph, image: str, points: tuple[str, str], axis: int) -> str:
        """Emit how x changes along an axis at the points y, x: [N, H, W, C]."""
        low = [g.emit("Floor", point) for point in points]
        ahead = [g.emit("Sub", point, at) for point, at in zip(points, low, strict=True)]
        index, one = [g.cast(at, np.int64) for at in low], g.constant(1, np.int64)
        is_whole = g.emit("Equal", ahead[axis], g.constant(0))
        ends = g.emit("Add", index[axis], one), g.emit("Sub", index[axis], g.cast(is_whole, np.int64))
        share, other = g.emit("Where", is_whole, g.constant(0.5), g.constant(1)), 1 - axis
        parts = []
        for line, weight in (
            (index[other], g.emit("Sub", g.constant(1), ahead[other])),
            (g.emit("Add", index[other], one), ahead[other]),
        ):
            pairs = [(line, end) if axis else (end, line) for end in ends]
            rise = g.emit("Sub", *(emit_picked(g, image, *pair) for pair in pairs))
            parts.append(g.emit("Mul", rise, g.emit("Unsqueeze", g.emit("Mul", weight, share), g.ints(-1))))
        return g.emit("Add", *parts)


@layer("Warp", dialect="liteflownet")
class Warp(_Warped):
    """y = x at the coordinates of bottom 1, by bilinear interpolation; elements outside of the image are 0.

    Gradients go to both bottoms. A net with Grid, which makes the coordinates of places, has this kind.
    (twhui/LiteFlowNet, warp_layer.cu)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_sampled(g, bottoms[0], *self.field(g, bottoms[1])),)


@layer("FlowWarp", dialect="flownet")
class FlowWarp(_Warped):
    """y = x at each place moved by the flow in bottom 1, by bilinear interpolation; else 0 or no number (fill_value).

    Places up to the image's size count, those behind the last element as that one. Gradients go to both bottoms.
    (lmb-freiburg/flownet2, flow_warp_layer.cpp)
    """

    adds = flow_pb2.LayerParameter

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        image, flow = bottoms
        n, _, height, width = g.shape(image)
        y, x = self.points(g, flow)
        inside = g.emit("And", emit_inside(g, y, height, True), emit_inside(g, x, width, True))
        places = (g.emit("Where", inside, place, g.constant(0)) for place in (y, x))  # a flow of NaN has no gradient
        y, x = (g.declare(place, (n, height, width)) for place in places)
        shown = g.declare(g.emit("Unsqueeze", inside, g.ints(1)), (n, 1, height, width), bool)
        fill = np.nan if self.added.flow_warp_param.fill_value == NOT_A_NUMBER else 0
        return (g.emit("Where", shown, emit_sampled(g, image, y, x, EDGE), g.constant(fill)),)


@layer("Warping", dialect="mpi")
class Warping(_Warped):
    """y = x at each place moved by the flow in bottom 1, by bilinear interpolation; outside are the nearest elements.

    Gradients go to both bottoms. (lxx1991/caffe_mpi, warping_layer.cu)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_sampled(g, bottoms[0], *self.points(g, bottoms[1]), EDGE),)


@layer("Warping", dialect="depth")
class WarpingOfTwo(Layer):
    """y = x at each place moved by bottom 1 across and bottom 2 down, by bilinear interpolation.

    0 where one of the four elements is outside. The gradient of the movement is that of the top's own image: dy times
    half of the difference of the elements on both sides, 0 at the border; the images get none.
    (Ravi-Garg/Unsupervised_Depth_Estimation, warping_layer.cu)
    """

    num_bottoms = (3, 3)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom > 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, height, width = check_images(self, bottoms[0])
        for shape in bottoms[1:]:
            if shape != (n, 1, height, width):
                raise self.error(f"expected movements of shape {(n, 1, height, width)}, found {shape}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, _, height, width = g.shape(bottoms[0])
        grid = (np.arange(width), np.arange(height)[:, None])

        def forward(image: str, *moves: str) -> Sequence[str]:
            x, y = (
                g.declare(g.emit("Add", g.reshape(move, n, height, width), g.constant(at)), (n, height, width))
                for move, at in zip(moves, grid, strict=True)
            )
            inside = g.emit("And", emit_inside(g, y, height - 1, True), emit_inside(g, x, width - 1, True))
            shown = g.emit("Unsqueeze", inside, g.ints(1))
            return (g.emit("Where", shown, emit_sampled(g, image, y, x), g.constant(0)),)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return None, None, None
            y = tape.stored(made[0])
            return None, *(_central(tape, y, dys[0], axis, (height, width)[axis - 2]) for axis in (3, 2))

        made = g.custom_vjp(bottoms, forward, backward)
        return made


def _central(tape: Tape, y: str, dy: str, axis: int, size: int) -> str:
    """Emit Σ_c dy · half of the difference of the neighbours along an axis, 0 at the ends."""
    if size < 3:
        zero = tape.emit("Mul", dy, tape.constant(0))
        return str(tape.emit("ReduceSum", zero, tape.ints(1), keepdims=1))
    later, sooner = (
        tape.emit("Slice", y, tape.ints(start), tape.ints(end), tape.ints(axis)) for start, end in ((2, size), (0, -2))
    )
    rise = tape.emit("Mul", tape.emit("Sub", later, sooner), tape.constant(0.5))
    inner = tape.emit("Slice", dy, tape.ints(1), tape.ints(-1), tape.ints(axis))
    product = tape.emit("ReduceSum", tape.emit("Mul", inner, rise), tape.ints(1), keepdims=1)
    ends = [int(at == axis) for at in range(4)] * 2
    return str(tape.emit("Pad", product, tape.ints(*ends), tape.constant(0)))
