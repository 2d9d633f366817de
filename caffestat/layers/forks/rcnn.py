"""Layer types of R-CNN and its kin, the detectors that work on regions of interest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.schema.forks import rcnn_pb2

from ..base import Shape, layer
from ..loss import Loss, total

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["SmoothL1Loss"]


@layer("SmoothL1Loss", dialect="rcnn")
class SmoothL1Loss(Loss):
    """y = Σ w_out · f(d) / N, d = w_in · (x₀ - x₁), f(d) = (σd)² / 2 below |d| = 1 / σ², above |d| - ½ / σ².

    Bottoms: x₀, x₁, then w_in and w_out, or w_in alone as SSD has it. dx₀ = -dx₁ = w_in · w_out · f'(d) / N; with three
    bottoms the factor w_in is missing, as in the reference. (rbgirshick/caffe-fast-rcnn, smooth_L1_loss_layer.cu)
    """

    adds = rcnn_pb2.LayerParameter
    num_bottoms = (2, 4)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        for index, shape in enumerate(bottoms[1:], 1):
            if math.prod(shape) != math.prod(bottoms[0]):
                raise self.error(f"bottom {index} has shape {shape}; expected as many values as in {bottoms[0]}")

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        shape, sigma2 = shapes[0], self.added.smooth_l1_loss_param.sigma**2
        made: dict[str, str] = {}

        def forward(a: str, b: str, *weights: str) -> Sequence[str]:
            weights = tuple(g.reshape(weight, *shape) for weight in weights)
            d = g.emit("Sub", a, g.reshape(b, *shape))
            for inside in weights[:1]:
                d = g.emit("Mul", d, inside)
            loss, slope = _smooth_l1(g, d, sigma2)
            for outside in weights[1:]:
                loss, slope = g.emit("Mul", loss, outside), g.emit("Mul", g.emit("Mul", slope, weights[0]), outside)
            made["slope"] = slope
            return [g.emit("Div", total(g, loss), g.constant(shape[0]))] * self.top_count

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            dx = tape.emit("Mul", made["slope"], tape.emit("Div", dys[0], tape.constant(shape[0])))
            return dx, tape.reshape(tape.emit("Neg", dx), *shapes[1]), *[None] * (len(bottoms) - 2)

        return g.custom_vjp(bottoms, forward, backward)


def _smooth_l1(g: Graph, d: str, sigma2: float) -> tuple[str, str]:
    """Emit f(d) and f'(d) of smooth L1."""
    size = g.emit("Abs", d)
    near = g.emit("Less", size, g.constant(1 / sigma2))
    square = g.emit("Mul", g.emit("Mul", d, d), g.constant(sigma2 / 2))
    loss = g.emit("Where", near, square, g.emit("Sub", size, g.constant(0.5 / sigma2)))
    return loss, g.emit("Clip", g.emit("Mul", d, g.constant(sigma2)), g.constant(-1), g.constant(1))
