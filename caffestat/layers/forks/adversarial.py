"""Layers of detectors that are trained to work in two domains. (Chen et al. 2018, Domain Adaptive Faster R-CNN)"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import metric_pb2, rcnn_pb2

from ..base import Layer, Shape, layer
from ..neuron import Neuron
from ..reread import emit_closed
from .passes import emit_count
from .proposals import RoIDataLayer
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "GradientScaler",
    "GradientSilent",
    "LabelMapResize",
    "LabelResize",
    "RoIDataDALayer",
    "ScheduledGradientScaler",
]


@layer("GradientScaler", dialect="da-rcnn")
class GradientScaler(Neuron):
    """y = x; dx = scale_factor · dy. (yuhuayc/da-faster-rcnn, gradient_scaler_layer.cpp)"""

    adds = rcnn_pb2.LayerParameter
    passes_values = True
    shares_memory = True

    def factor(self, g: Graph) -> str:
        """Emit what dy is multiplied by."""
        return g.constant(self.added.gradient_scaler_param.scale_factor)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        factor = self.factor(g)
        return (
            emit_closed(g, bottoms, lambda x: g.emit("Identity", x), lambda tape, dy: [tape.emit("Mul", dy, factor)]),
        )


@layer("GradientScaler", dialect="xlearn")
class ScheduledGradientScaler(GradientScaler):
    """y = x; dx = -c · dy, c = lower_bound + (upper_bound - lower_bound) (2 / (1 + exp(-alpha · p)) - 1).

    p is how many passes there were, divided by max_iter, 1 at most. (thuml/Xlearn, gradient_scaler_layer.cpp; Ganin and
    Lempitsky 2015)
    """

    adds = metric_pb2.XlearnLayerParameter

    def factor(self, g: Graph) -> str:
        p = self.added.gradient_scaler_param
        progress = g.emit("Min", g.emit("Div", emit_count(g, self.name), g.constant(p.max_iter)), g.constant(1))
        grown = g.emit("Exp", g.emit("Mul", progress, g.constant(-p.alpha)))
        part = g.emit("Div", g.constant(2 * (p.upper_bound - p.lower_bound)), g.emit("Add", grown, g.constant(1)))
        return g.declare(g.emit("Sub", g.constant(p.upper_bound - 2 * p.lower_bound), part), (1,))


@layer("GradientSilent", dialect="da-rcnn")
class GradientSilent(Layer):
    """y = x; dx = dy where the first value of bottom 1 is not 0, else 0. (yuhuayc/da-faster-rcnn,
    gradient_silent_layer.cu)
    """

    num_bottoms = (2, 2)
    passes_values = True
    shares_memory = True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return np.ones(bottoms[1], np.float32) if bottom else None

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        first = g.emit("Slice", g.reshape(bottoms[1], -1), g.ints(0), g.ints(1))
        passes = g.emit("Not", g.emit("Equal", first, g.constant(0)))

        def gradient(tape: Any, dy: str) -> Sequence[str | None]:
            return [tape.emit("Where", passes, dy, tape.constant(0)), None]

        return (emit_closed(g, bottoms, lambda x, flag: g.emit("Identity", x), gradient),)


@layer("utils.label_resize_layer.LabelResizeLayer", dialect="da-rcnn")
class LabelResize(Computed):
    """The label of an image for each of R regions [R, 1]. (yuhuayc/da-faster-rcnn, lib/utils/label_resize_layer.py)"""

    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not bottoms[0] or not bottoms[1] or max(bottoms[1][1:], default=1) != 1:
            raise self.error(f"expected regions (R, …) and labels (N, 1), found shapes {bottoms[0]} and {bottoms[1]}")
        return ((bottoms[0][0], 1),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        return (np.full((len(bottoms[0]), 1), bottoms[1].flat[0], np.float32),)


@layer("utils.resize_sslb.LabelResizeLayer", dialect="da-rcnn")
class LabelMapResize(Computed):
    """A map of labels [A, B] as large as features [N, C, H, W], by the nearest before: [1, 1, H, W].

    (yuhuayc/da-faster-rcnn, lib/utils/resize_sslb.py)
    """

    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4 or len(bottoms[1]) != 2:
            raise self.error(f"expected features (N, C, H, W) and labels (A, B), found {bottoms[0]} and {bottoms[1]}")
        return ((1, 1, *bottoms[0][2:]),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        sizes = zip(bottoms[0].shape[2:], bottoms[1].shape, strict=True)
        rows, columns = (np.arange(new) * old // new for new, old in sizes)
        return (bottoms[1][np.ix_(rows, columns)][None, None].astype(np.float32),)


@layer("roi_data_da_layer.layer.RoIDataDALayer", dialect="da-rcnn")
class RoIDataDALayer(RoIDataLayer):
    """RoIDataLayer of two domains: also whether detections learn [1, 1], and which domain it is [1, 1].

    (yuhuayc/da-faster-rcnn, lib/roi_data_da_layer/layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.top) == 5

    def written_shape(self, index: int) -> Shape | None:
        return ((1, 3, 600, 1000), (1, 3), (1, 5), (1, 1), (1, 1))[index]

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return np.full(shape, 4 - top, np.float32) if top > 2 else super().example(top, shape, random)
