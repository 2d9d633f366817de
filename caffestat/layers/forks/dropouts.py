"""Layers that let some values through only: by a guide, or by how hard they are; and the poses they are made for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Stream
from caffestat.fillers.distributions import uniform
from caffestat.fillers.gaussian import gaussian
from caffestat.lazy import np
from caffestat.schema.forks import dropouts_pb2

from ..base import TRAIN, Layer, Shape, layer
from ..loss import FLT_MIN, Loss
from ..reread import emit_closed, without_gradient
from .data import _Files

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["GuidedDropout", "LabelDropout", "PoseImageData", "RandomNoise", "SigmoidLoss"]


@layer("GuidedDropout", dialect="dgd")
class GuidedDropout(Layer):
    """y[n, c] = x[n, c] · m[n, c] · C / s[n], m and s of a guide [N, C]; only x gets a gradient.

    deterministic: m is whether the guide is above guidance_threshold, s how many are. stochastic: m is 1 with the
    likelihood sigmoid(sigmoid_scaler · guide), s the sum of these; TEST: y = x. Where s is 0, y is 0.
    (minhpvo/Caffe, guided_dropout_layer.cpp; Cysu/dgd_person_reid)
    """

    adds = dropouts_pb2.LayerParameter
    num_bottoms = (2, 2)
    passes_signal = True

    @property
    def is_random(self) -> bool:
        """Whether the mask is drawn."""
        kind = self.added.guided_dropout_param.type
        if kind not in ("deterministic", "stochastic"):
            raise self.error(f"expected type: 'deterministic' or 'stochastic' in guided_dropout_param, found {kind!r}")
        return bool(kind == "stochastic")

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, guide = bottoms
        if len(x) < 2 or guide[:2] != x[:2] or math.prod(guide[2:]) != 1:
            raise self.error(f"expected a guide of shape {x[:2]}, found bottoms of shapes {x} and {guide}")
        if self.is_random and self.is_in_place(1):
            raise self.error("cannot write over its guide; give the top another name")
        return (x,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.guided_dropout_param, g.shape(bottoms[0])
        if self.is_random and self.phase != TRAIN:
            return [g.emit("Identity", bottoms[0])]
        drawn = g.input(f"{self.name}/drawn", shape[:2]) if self.is_random else None

        def factors(guide: str) -> Sequence[str]:
            if drawn is None:
                passes = share = g.cast(g.emit("Greater", guide, g.constant(p.guidance_threshold)), np.float32)
            else:
                share = g.emit("Sigmoid", g.emit("Mul", guide, g.constant(p.sigmoid_scaler)))
                passes = g.cast(g.emit("LessOrEqual", drawn, share), np.float32)
            total = g.emit("ReduceSum", share, g.ints(1), keepdims=1)
            safe = g.emit("Where", g.emit("Greater", total, g.constant(0)), total, g.constant(1))
            scale = g.emit("Div", g.constant(shape[1]), safe)
            return [g.declare(g.emit("Mul", passes, scale), shape[:2])]

        (factor,) = without_gradient(g, [g.reshape(bottoms[1], *shape[:2])], factors)
        return [g.emit("Mul", bottoms[0], g.reshape(factor, *shape[:2], *(1,) * (len(shape) - 2)))]

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if not self.is_random or self.phase != TRAIN:
            return ()
        drawn = uniform(stream, math.prod(bottoms[0]), 0, 1)  # as many as x has values, however few are used
        return (drawn[: math.prod(bottoms[0][:2])].reshape(bottoms[0][:2]),)


@layer("RandomNoise", dialect="pulkitag")
class RandomNoise(Layer):
    """y = x + mu + sigma · n, n of a normal distribution; dx = dy, in both phases.

    adaptive_sigma: mu is 0, sigma adaptive_factor · |x|, or adaptive_factor · mean |x| where x is 0.
    (pulkitag/caffe, random_noise_layer.cpp)
    """

    adds = dropouts_pb2.LayerParameter
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.random_noise_param, g.shape(bottoms[0])
        drawn = g.input(f"{self.name}/noise", shape)

        def forward(x: str) -> str:
            if not p.adaptive_sigma:
                return g.emit("Add", x, g.emit("Add", g.emit("Mul", drawn, g.constant(p.sigma)), g.constant(p.mu)))
            size = g.emit("Abs", x)
            usual = g.emit("ReduceMean", size, keepdims=0)
            size = g.emit("Where", g.emit("Equal", size, g.constant(0)), usual, size)
            return g.emit("Add", x, g.emit("Mul", drawn, g.emit("Mul", size, g.constant(p.adaptive_factor))))

        return [emit_closed(g, [bottoms[0]], forward, lambda tape, dy: [dy])]

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        return (gaussian(stream, math.prod(bottoms[0]), 0, 1).reshape(bottoms[0]),)


@layer("LabelDropout", dialect="joint_pose")
class LabelDropout(Layer):
    """y = x where the label is 1 and at some places where it is 0, elsewhere the label; dx = dy where y = x.

    A map with P labels of 1 keeps K = drop_neg_ratio · P places of 0: hard_ratio · K out of those with the K largest
    |x|, rand_ratio · K out of the rest of these and the others; all, if there are no more than K. Which ones is drawn,
    by another generator than the reference's. (xiaolonw/caffe-3dnormal_joint_pose, label_dropout_layer.cpp)
    """

    adds = dropouts_pb2.LayerParameter
    num_bottoms = (2, 2)
    decides = True
    passes_signal = True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (x, labels) = self.added.label_drop_param, bottoms
        if math.prod(x) != math.prod(labels) or len(x) < 2:
            raise self.error(f"expected a label for each value, found shapes {x} and {labels}")
        if min(p.drop_neg_ratio, p.hard_ratio, p.rand_ratio) < 0 or p.hard_ratio + p.rand_ratio > 1:
            raise self.error("expected ratios of at least 0 in label_drop_param, hard_ratio + rand_ratio at most 1")
        return (x,)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random.integers(0, 2, bottoms[1]).astype(np.float32) if bottom else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        x = bottoms[0]
        maps = x.reshape(x.shape[0] * x.shape[1], -1)
        masks = [self.kept(*pair, random) for pair in zip(maps, bottoms[1].reshape(maps.shape), strict=True)]
        return (np.array(masks, bool).reshape(x.shape),)

    def kept(self, x: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return at which places of a map y is x."""
        p, mask = self.added.label_drop_param, labels == 1
        others = np.flatnonzero(labels == 0)
        others = others[np.argsort(abs(x[others]), kind="stable")]
        count = int(mask.sum() * np.float32(p.drop_neg_ratio))
        if count >= len(others):
            mask[others] = True
            return np.asarray(mask)
        hard, drawn = int(count * np.float32(p.hard_ratio)), int(count * np.float32(p.rand_ratio))
        hardest = random.permutation(others[len(others) - count :])
        rest = np.concatenate([others[: len(others) - count], hardest[hard : hard + drawn]])
        mask[hardest[:hard]] = True
        mask[random.permutation(rest)[:drawn]] = True
        return np.asarray(mask)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (mask,) = self.input_decisions(g)
        labels = g.reshape(bottoms[1], *g.shape(bottoms[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return [tape.emit("Where", mask, dy, tape.constant(0))]

        return [emit_closed(g, [bottoms[0]], lambda x: g.emit("Where", mask, x, labels), gradient)]


@layer("SigmoidLoss", dialect="joint_pose")
class SigmoidLoss(Loss):
    """y = -Σ log(p) / N, p = sigmoid(x) where the label is 1, else 1 - sigmoid(x); dx = (sigmoid(x) - [label = 1]) / N.

    (xiaolonw/caffe-3dnormal_joint_pose, sigmoid_loss_layer.cpp)
    """

    @property
    def ignores_dy(self) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"expected a label for each value, found shapes {bottoms[0]} and {bottoms[1]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        labels = g.cast(g.reshape(bottoms[1], *shape), np.int64)
        is_one = g.emit("Equal", labels, g.constant(1, np.int64))

        def forward(x: str) -> str:
            p = g.emit("Sigmoid", x)
            p = g.emit("Where", is_one, p, g.emit("Sub", g.constant(1), p))
            log = g.emit("Log", g.emit("Max", p, g.constant(FLT_MIN)))
            return g.emit("Div", g.emit("ReduceSum", log, keepdims=0), g.constant(-shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            one = tape.emit("Where", is_one, tape.constant(1), tape.constant(0))
            off = tape.emit("Sub", tape.emit("Sigmoid", bottoms[0]), one)
            return [tape.emit("Div", off, tape.constant(shape[0]))]

        return [emit_closed(g, [bottoms[0]], forward, gradient)]


@layer("PoseImageData", dialect="joint_pose")
class PoseImageData(_Files):
    """Images of people [N, 3, new_height, new_width], and maps [N, key_point_num, out_height, out_width] of joints.

    (xiaolonw/caffe-3dnormal_joint_pose, pose_image_data_layer.cpp)
    """

    adds = dropouts_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.pose_image_data_param

    def size(self) -> tuple[int, int] | None:
        return self.resized()

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        p = self.settings
        return (images[0], p.key_point_num, p.out_height, p.out_width)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return (random.uniform(0, 1, shape) < 0.05).astype(np.float32) if top else None
