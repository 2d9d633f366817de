"""Layers and losses of forks that treat each place of a map by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import metric_pb2

from ..base import Layer, Shape, layer
from ..loss import FLT_MIN, Loss, class_index, total
from ..math import emit_softmax
from ..neuron import Neuron
from ..reread import BOTTOM, emit_closed, emit_pulled, without_gradient
from .flow import AbsLoss

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "AbsLossOfWarping",
    "AngleLoss",
    "MultiSoftmax",
    "MultiSoftmaxLoss",
    "ReLUPlus",
    "SpatialWta",
]

FAR = 10  # labels beyond it are of places that do not count
ROWS = 336  # what the reference divides the multi softmax loss by, its maps' places


class _PlaceLoss(Loss):
    """A loss of a map [N, C, H, W] and a bottom of labels, one for each place or as many as values."""

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def labels_of(self, shape: Shape) -> int:
        """Return how many labels there must be for a map of this shape."""
        raise NotImplementedError

    def check(self, bottoms: Sequence[Shape]) -> None:
        if not 2 <= len(bottoms[0]) <= 4 or not math.prod(bottoms[0]):
            raise self.error(f"expected a map (N, C, H, W), found shape {bottoms[0]}")
        if math.prod(bottoms[1]) != self.labels_of(bottoms[0]):
            raise self.error(f"expected {self.labels_of(bottoms[0])} labels, found shape {bottoms[1]}")

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((),) * len(super().tops(bottoms))


@layer("AbsLoss", dialect="warping")
class AbsLossOfWarping(AbsLoss):
    """y = Σ |a - b| / N; da = -db = dy / N where a > b, else -dy / N.

    (Ravi-Garg/Unsupervised_Depth_Estimation, abs_loss_layer.cpp)
    """


@layer("MultiSoftmax", dialect="3dnormal")
class MultiSoftmax(Layer):
    """y = e^x / Σ e^x over the channels of [N, C, H, W].

    (xiaolonw/caffe-3dnormal_joint_pose, multi_softmax_layer.cpp)
    """

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not 2 <= len(bottoms[0]) <= 4 or not math.prod(bottoms[0]):
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [emit_softmax(g, bottoms[0], 1)]


@layer("MultiSoftmaxLoss", dialect="3dnormal")
class MultiSoftmaxLoss(_PlaceLoss):
    """y = -Σ log(max(p[label], FLT_MIN)) / 336 N, p = softmax over the channels; dx = (p - [label]) · scale · dy / N.

    Bottoms x [N, C, H, W] and labels [N, H · W] from 1 on. `scale` stands in loss_param.
    (xiaolonw/caffe-3dnormal_joint_pose, multi_softmax_loss_layer.cpp)
    """

    adds = metric_pb2.LayerParameter

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX

    def labels_of(self, shape: Shape) -> int:
        return shape[0] * math.prod(shape[2:])

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][1] + 1 if bottom == 1 else None

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random.integers(1, bottoms[0][1] + 1, bottoms[1]) if bottom else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        made: dict[str, str] = {}

        def forward(x: str, labels: str) -> str:
            labels = g.emit("Sub", g.reshape(labels, shape[0], 1, *shape[2:]), g.constant(1))
            p, index = emit_softmax(g, x, 1), class_index(g, labels, shape[1])
            chosen = g.emit("GatherElements", p, index, axis=1)
            made.update(p=p, index=index, chosen=chosen)
            logs = g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN)))
            return g.emit("Div", total(g, logs), g.constant(-ROWS * shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            less = tape.emit("Sub", made["chosen"], tape.constant(1))
            error = tape.emit("ScatterElements", made["p"], made["index"], less, axis=1)
            scale = self.added.loss_param.scale / shape[0]
            return tape.emit("Mul", error, tape.emit("Mul", dy, tape.constant(scale))), None

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count


@layer("AngleLoss", dialect="3dnormal")
class AngleLoss(_PlaceLoss):
    """y = Σ arccos(x·t) / N over places whose first target lies within ±10; dx = -t · dy / ((√(1 - (x·t)²) + 1e-6) N).

    Bottoms x and t [N, C, H, W]. (xiaolonw/caffe-3dnormal_joint_pose, angle_loss_layer.cpp)
    """

    takes_targets = True

    def labels_of(self, shape: Shape) -> int:
        return math.prod(shape)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        made: dict[str, str] = {}

        def forward(x: str, t: str) -> str:
            t = g.reshape(t, *shape)
            first = g.emit("Slice", t, g.ints(0), g.ints(1), g.ints(1))
            counts = g.emit("LessOrEqual", g.emit("Abs", first), g.constant(FAR))
            cos = g.emit("ReduceSum", g.emit("Mul", x, t), g.ints(1), keepdims=1)
            made.update(t=t, counts=counts, cos=cos)
            angles = g.emit("Where", counts, g.emit("Acos", cos), g.constant(0))
            return g.emit("Div", total(g, angles), g.constant(shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            sine = tape.emit("Sqrt", tape.emit("Sub", tape.constant(1), tape.emit("Mul", made["cos"], made["cos"])))
            part = tape.emit("Div", dy, tape.constant(-shape[0]))
            pull = tape.emit("Div", part, tape.emit("Add", sine, tape.constant(1e-6)))
            return tape.emit("Mul", made["t"], tape.emit("Where", made["counts"], pull, tape.constant(0))), None

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count


@layer("ReLUPlus", dialect="feedback")
class ReLUPlus(Neuron):
    """y = max(x, 0); dx = dy where x > 0. The activations that a feedback would set are all 1.

    (liuxianming/caffe_feedback, reluplus_layer.cpp)
    """

    def nonlinearity(self) -> Nonlinearity:
        return activations.RELU

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Relu", bottoms[0], BOTTOM),)


@layer("SpatialWta", dialect="wta")
class SpatialWta(Layer):
    """y = x where |x| is the largest of a window of its channel, the first of equal ones; 0 elsewhere.

    Windows are kernel_size or, with global_wta, whole maps, `stride` apart; those that do not fit are left out. Top 1
    is 1 at the winners, 0 elsewhere. (t2mhanh/caffe_convLSTM_WTA, spatial_wta_layer.cpp; Makhzani, Frey 2015)
    """

    adds = metric_pb2.LayerParameter
    num_tops = (1, 2)

    def windows(self, shape: Shape) -> np.ndarray:
        """Return the places of each window, [windows, places], of maps [H, W]."""
        p = self.added.spatial_wta_param
        if p.global_wta:
            return np.arange(math.prod(shape[2:])).reshape(1, -1)
        kernel = (p.kernel_size,) * 2 if p.HasField("kernel_size") else (p.kernel_h, p.kernel_w)
        stride = (p.stride_h, p.stride_w) if p.HasField("stride_h") else (p.stride, p.stride)
        if not all(kernel) or not all(stride) or any(k > n for k, n in zip(kernel, shape[2:], strict=True)):
            raise self.error(f"expected a kernel_size that fits a map of {shape[2]} x {shape[3]}, or global_wta: true")
        rows, columns = (
            np.arange(0, n - k + 1, s).reshape(-1, 1) + np.arange(k)
            for n, k, s in zip(shape[2:], kernel, stride, strict=True)
        )
        places = rows[:, None, :, None] * shape[3] + columns[None, :, None, :]
        return places.reshape(len(rows) * len(columns), -1)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4 or not math.prod(bottoms[0]):
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        self.windows(bottoms[0])
        return (bottoms[0],) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        index, area = self.windows(shape), math.prod(shape[2:])

        def winners(x: str) -> Sequence[str]:
            sizes = g.emit("Gather", g.emit("Abs", g.reshape(x, *shape[:2], area)), g.constant(index, np.int64), axis=2)
            best = g.emit("ArgMax", sizes, axis=3, keepdims=1)
            places = g.emit("Expand", g.constant(index, np.int64), g.ints(*shape[:2], *index.shape))
            at = g.emit("Squeeze", g.emit("GatherElements", places, best, axis=3), g.ints(3))
            ones = g.constant(np.ones((*shape[:2], len(index))))
            mask = g.emit("ScatterElements", g.constant(np.zeros((*shape[:2], area))), at, ones, axis=2)
            return [g.reshape(g.declare(mask, (*shape[:2], area)), *shape)]

        (mask,) = without_gradient(g, bottoms, winners)
        return [g.emit("Mul", bottoms[0], mask), mask][: self.top_count]
