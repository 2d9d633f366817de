"""Conditional random fields as layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import Place
from caffestat.schema.forks import segmentation_pb2

from ..base import Layer, Shape, layer

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["MultiStageMeanfield"]

MOST_DETECTIONS = 2 * 100


@layer("MultiStageMeanfield", dialect="crfrnn")
class MultiStageMeanfield(Layer):
    """num_iterations steps of mean field inference in a dense CRF: scores, first scores, and an image, to scores.

    Bottoms [N, C, H, W] twice and [N, 3, H, W]; top as bottom 0, a second one [1, 1, 1, 200]. No value is
    computed: the filters are those of a permutohedral lattice, which a sum over all pairs of pixels does not equal, and
    the first values of its weights stand in files beside the program. (torrvision/caffe-tvg, multi_stage_meanfield.cpp)
    """

    adds = segmentation_pb2.CrfLayerParameter
    num_bottoms = (3, 3)
    num_tops = (1, 2)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.why_uncomputed = "its filters on a permutohedral lattice are not computed"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, first, image = bottoms
        if len(scores) != 4 or first != scores or image != (scores[0], 3, *scores[2:]):
            raise self.error(f"expected scores (N, C, H, W) twice and images (N, 3, H, W), found shapes {bottoms}")
        if self.added.multi_stage_meanfield_param.num_iterations < 2:
            raise self.error("expected num_iterations above 1 in multi_stage_meanfield_param")
        return (scores, (1, 1, 1, MOST_DETECTIONS))[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        raise self.error(self.why_uncomputed)
