"""Python layers of Caffe's own examples and of single projects, by module and class."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np

from ..base import Layer, Shape, layer
from ..data import Python
from ..reread import without_gradient
from .proposals import ATTRIBUTES, RoIDataLayer, read_settings
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "AggregateLayer",
    "NormalizeLayer",
    "OrdinalDecodeLayer",
    "PascalMultilabelData",
    "RoIDataOfAttributes",
    "RoISelectLayer",
    "SegFlowData",
]


@layer("pascal_multilabel_datalayers.PascalMultilabelDataLayerSync", dialect="pycaffe")
class PascalMultilabelData(Python):
    """Images [batch_size, 3, im_shape] and whether each of 20 classes is on them.

    (BVLC/caffe, examples/pycaffe/layers/pascal_multilabel_datalayers.py)
    """

    num_tops = (2, 2)

    def written_shape(self, index: int) -> Shape | None:
        s = read_settings(self.proto.python_param.param_str)
        batch, size = s.get("batch_size"), s.get("im_shape")
        if not isinstance(batch, int) or not isinstance(size, (list, tuple)) or len(size) < 2:
            return None
        return (batch, 20) if index else (batch, 3, *size[:2])


@layer("SegFlow_davis_fgbg_data_layer.SegFlowDAVISFgBgDataLayer", dialect="segflow")
class SegFlowData(Python):
    """Two frames [1, 3, 480, 854], which pixels are object, and their weights.

    (JingchunCheng/SegFlow, python_layers/SegFlow_davis_fgbg_data_layer.py)
    """

    num_tops = (4, 4)

    def written_shape(self, index: int) -> Shape | None:
        return (1, 3, 480, 854) if index < 2 else (1, 480, 854)


@layer("roi_data_layer.layer.RoIDataLayer", dialect="faces")
class RoIDataOfAttributes(RoIDataLayer):
    """An image, its size, its true boxes and 40 attributes; or two with regions, these shuffled, their labels, targets.

    Attributes are the top "face_attrs". (JiajianZeng/caffe-face-attributes, lib/roi_data_layer/layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.top) >= 4 and ATTRIBUTES in proto.top

    def written_shape(self, index: int) -> Shape | None:
        names, regions = list(self.proto.top), self.REGIONS
        at = names.index(ATTRIBUTES)
        images = 1 if at == 3 else 2
        width = 4 * int(read_settings(self.proto.python_param.param_str).get("num_classes", 21))
        first = ((1, 3), (1, 5)) if at == 3 else ((regions, 5), (regions, 5), (regions,))
        shapes = ((images, 3, 600, 1000), *first, (images, 40), *[(regions, width)] * 3)
        return shapes[index] if index < len(shapes) else None


@layer("rpn.roi_select_layer.RoISelectLayer", dialect="faces")
class RoISelectLayer(Computed):
    """For each class but the first the region that has it with the highest score; without one the likeliest for it.

    Bottoms: regions [R, 5] and scores [R, classes]; top [num_class - 1, 5].
    (JiajianZeng/caffe-face-attributes, lib/rpn/roi_select_layer.py)
    """

    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        count = read_settings(self.proto.python_param.param_str).get("num_class")
        if not isinstance(count, int) or count < 2:
            raise self.error(f"expected num_class in param_str, found {self.proto.python_param.param_str!r}")
        scores = bottoms[1]
        if len(scores) < 2 or not scores[0] or scores[1] < count:
            raise self.error(f"expected scores of {count} classes for each region, found shape {scores}")
        return ((count - 1, 5),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, scores = bottoms[0].reshape(-1, 5), bottoms[1].reshape(len(bottoms[1]), -1)
        ((count, _),) = self.tops_at_setup([rois.shape, scores.shape])
        label = scores.argmax(1)
        own = [np.where(label == k, scores.max(1), -math.inf) for k in range(1, count + 1)]
        chosen = [mine if (label == k).any() else scores[:, k] for k, mine in enumerate(own, 1)]
        return (rois[[int(values.argmax()) for values in chosen]].astype(np.float32),)


@layer("custom_layers.NormalizeLayer", dialect="retrieval")
class NormalizeLayer(Layer):
    """y = x / (√(Σ x²) + 1e-8), Σ along axis 1; the reference has no backward pass.

    (figitaki/deep-retrieval, custom_layers.py)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of 2 axes or more, found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> Sequence[str]:
            squares = g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(1), keepdims=1)
            return [g.emit("Div", x, g.emit("Add", g.emit("Sqrt", squares), g.constant(1e-8)))]

        return without_gradient(g, bottoms, forward)


@layer("custom_layers.AggregateLayer", dialect="retrieval")
class AggregateLayer(Layer):
    """y = Σ x along axis 0, which keeps a size of 1; the reference has no backward pass.

    (figitaki/deep-retrieval, custom_layers.py)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not bottoms[0]:
            raise self.error("expected a bottom with a first axis, found a scalar")
        return ((1, *bottoms[0][1:]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(g, bottoms, lambda x: [g.emit("ReduceSum", x, g.ints(0), keepdims=1)])


@layer("ordinal_decode_layer.OrdinalDecodeLayer", dialect="dorn")
class OrdinalDecodeLayer(Layer):
    """y [N, 1, H, W]: in how many pairs of channels the second is the larger one.

    (hufu6371/DORN, caffe/pylayer/ordinal_decode_layer.py)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 4:
            raise self.error(f"expected a bottom (N, C, H, W), found shape {bottoms[0]}")
        return ((bottoms[0][0], 1, *bottoms[0][2:]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        pairs = g.shape(bottoms[0])[1] // 2

        def forward(x: str) -> Sequence[str]:
            first, second = (
                g.emit("Slice", x, g.ints(start), g.ints(2 * pairs), g.ints(1), g.ints(2)) for start in (0, 1)
            )
            return [g.emit("ReduceSum", g.cast(g.emit("Greater", second, first), np.float32), g.ints(1), keepdims=1)]

        return without_gradient(g, bottoms, forward)
